"""Options for the encoding of columns of free text, and loading of saved columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from emphasis.datasets.table_embeddings import EmbeddingColumn, embedding_learner
from emphasis.datasets.table_texts import NgramColumn, NgramLearner, TextColumn, TextLearner
from emphasis.datasets.table_tokens import TokenColumn, token_learner
from emphasis.datasets.text_encoder import TextEncoder
from emphasis.errors import EmphasisValueError

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TextOptions:
    """Options for columns of text.

    Attributes:
        encoder: Folder or name of a pretrained encoder; "" for TF-IDF.
        download: Whether the encoder may be downloaded.
        max_tokens: Largest number of tokens of a text if the encoder is to be trained, and a text is encoded as its
            tokens; 0 for the encoder's vectors.
    """

    encoder: str = ""
    download: bool = False
    max_tokens: int = 0


def text_learner(options: TextOptions, progress: Progress = lambda *_: None) -> TextLearner:
    """Return the learner of columns of text.

    Raises:
        DataNotFoundError, DamagedFileError: The encoder does not exist, or cannot be read.
    """
    if not options.encoder:
        return NgramLearner()
    folder = Path(options.encoder).expanduser()
    name = str(folder.resolve()) if folder.is_dir() else options.encoder
    encoder = TextEncoder(name, download=options.download, progress=progress)
    encoder.locate()
    if options.max_tokens:
        return token_learner(encoder, options.max_tokens)
    return embedding_learner(encoder)


def text_column_from_dict(
    values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], encoder: str = ""
) -> TextColumn:
    """Return a saved column of text; raise KeyError or ValueError if the state is invalid.

    Args:
        values: State from `to_dict`.
        arrays: State from `arrays`.
        encoder: Present folder of the pretrained encoder; "" if it is unchanged. Needed for tokens.
    """
    if isinstance(values["name"], str):
        if values["kind"] == NgramColumn.kind:
            return NgramColumn.from_dict(values, arrays)
        if values["kind"] == EmbeddingColumn.kind:
            return EmbeddingColumn.from_dict({**values, "encoder": encoder or values["encoder"]}, arrays)
        if values["kind"] == TokenColumn.kind:
            return TokenColumn.from_dict(values, encoder)
    raise EmphasisValueError(f"column {values['name']!r} has an invalid description")
