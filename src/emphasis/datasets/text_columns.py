"""How columns of free text become numbers: which way is asked for, and the columns of a saved encoder."""

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
    """What was asked for about the columns of text.

    Attributes:
        encoder: Folder or name of a pretrained encoder; "" for TF-IDF.
        download: Whether the encoder may be downloaded.
    """

    encoder: str = ""
    download: bool = False


def text_learner(options: TextOptions, progress: Progress = lambda *_: None) -> TextLearner:
    """Return what learns from columns of text.

    Raises:
        DataNotFoundError, DamagedFileError: There is no such encoder.
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
    """Return the column of text of `to_dict` and `arrays`; KeyError or ValueError if there is none.

    Args:
        values: The part of its state that JSON holds.
        arrays: The rest.
        encoder: Where the pretrained encoder is now; "" for where it was.
    """
    if isinstance(values["name"], str):
        if values["kind"] == NgramColumn.kind:
            return NgramColumn.from_dict(values, arrays)
        if values["kind"] == EmbeddingColumn.kind:
            return EmbeddingColumn.from_dict({**values, "encoder": encoder or values["encoder"]}, arrays)
    raise EmphasisValueError(f"column {values['name']!r} is described as no encoder describes it")
