"""Options for the encoding of columns of free text, and loading of saved columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from emphasis.datasets.table_embeddings import EmbeddingColumn, embedding_learner
from emphasis.datasets.table_texts import NgramColumn, NgramLearner, TextColumn, TextLearner
from emphasis.datasets.text_encoder import TextEncoder
from emphasis.errors import EmphasisValueError

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TextOptions:
    """Options for columns of text.

    Attributes:
        encoder: Folder or name of a pretrained encoder; "" for TF-IDF.
        download: Whether the encoder may be downloaded.
    """

    encoder: str = ""
    download: bool = False


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
    return embedding_learner(encoder)


def text_column_from_dict(
    values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], encoder: str = ""
) -> TextColumn:
    """Return a saved column of text; raise KeyError or ValueError if the state is invalid.

    Args:
        values: State from `to_dict`.
        arrays: State from `arrays`.
        encoder: Present folder of the pretrained encoder; "" if it is unchanged.
    """
    if isinstance(values["name"], str):
        if values["kind"] == NgramColumn.kind:
            return NgramColumn.from_dict(values, arrays)
        if values["kind"] == EmbeddingColumn.kind:
            return EmbeddingColumn.from_dict({**values, "encoder": encoder or values["encoder"]}, arrays)
    raise EmphasisValueError(f"column {values['name']!r} has an invalid description")
