"""Columns of free text as the vectors of a pretrained encoder, standardized by training rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.table_texts import Remembered, TextFunction, is_empty, note_of_empty, texts_of
from emphasis.datasets.text_encoder import TextEncoder
from emphasis.errors import EmphasisValueError


@dataclass(frozen=True, eq=False)
class EmbeddingLearner:
    """Learns `EmbeddingColumn`s.

    Attributes:
        encoder: Text encoder.
        embed: Function that encodes each text once.
    """

    encoder: TextEncoder
    embed: TextFunction

    @property
    def digest(self) -> str:
        """The digest of the encoder."""
        return self.encoder.digest

    def describe(self) -> str:
        """Return a description of the encoding, for the report of the table."""
        return f"learned from as text, by the encoder {self.encoder.name}"

    def fit(self, column: Any, name: str) -> EmbeddingColumn:
        """Fit the encoding to the rows of a pandas column."""
        texts = texts_of(column, name)
        vectors = np.asarray(self.embed(texts), dtype=np.float64)
        deviation = vectors.std(axis=0)
        return EmbeddingColumn(
            name,
            self.encoder.name,
            self.encoder.digest,
            vectors.mean(axis=0).astype(np.float32),
            np.where(deviation > 1e-6, deviation, 1.0).astype(np.float32),
            not all(text.strip() for text in texts),
            self.embed,
        )


@dataclass(frozen=True, eq=False)
class EmbeddingColumn:
    """A column of text, encoded as the standardized vector (D,) of an encoder.

    Attributes:
        name: Name of the column.
        encoder: Name or folder of the encoder.
        digest: Digest of its files.
        mean: (D,) means of the training rows.
        deviation: (D,) standard deviations of the training rows; 1 where they are 0.
        empty: Whether a further column marks empty texts with a 1.
        embed: Function that returns the vectors of texts.
    """

    kind: ClassVar[str] = "embedding"
    name: str
    encoder: str
    digest: str
    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    empty: bool
    embed: TextFunction

    @property
    def feature_names(self) -> list[str]:
        """Names of the encoded columns."""
        names = [f"{self.name}: dimension {index + 1}" for index in range(len(self.mean))]
        return [*names, f"{self.name} is empty"] if self.empty else names

    def encode(self, column: Any) -> NDArray[np.float64]:
        """Return the encoded rows, (rows, D or D + 1)."""
        texts = texts_of(column, self.name)
        vectors = np.zeros((0, len(self.mean)), np.float32) if not texts else self.embed(texts)
        if vectors.shape[1] != len(self.mean):
            raise EmphasisValueError(
                f"the encoder {self.encoder} returns {vectors.shape[1]} numbers for a text, where {len(self.mean)} are "
                "expected"
            )
        standardized = (vectors - self.mean) / np.asarray(self.deviation, np.float64)
        return np.hstack([standardized, is_empty(texts)]) if self.empty else standardized

    def note(self, column: Any) -> str:
        """Return a note about further rows; "" if there is none."""
        return note_of_empty(column, self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return the part of the state that is saved as JSON."""
        names = ("kind", "name", "encoder", "digest", "empty")
        return {name: getattr(self, name) for name in names}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the state."""
        return {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> EmbeddingColumn:
        """Return the column saved with `to_dict` and `arrays`; raise KeyError or ValueError if the state is invalid."""
        mean, deviation = arrays["mean"], arrays["deviation"]
        valid = mean.dtype == deviation.dtype == np.float32 and mean.ndim == 1 and mean.shape == deviation.shape
        valid = valid and bool((deviation > 0.0).all()) and isinstance(values["empty"], bool)
        if not valid or not all(isinstance(values[name], str) and values[name] for name in ("encoder", "digest")):
            raise EmphasisValueError(f"column {values['name']!r} has an invalid description")
        encoder, digest = values["encoder"], values["digest"]
        return cls(values["name"], encoder, digest, mean, deviation, values["empty"], TextEncoder(encoder, digest))


def embedding_learner(encoder: TextEncoder) -> EmbeddingLearner:
    """Return the learner that uses the vectors of an encoder."""
    return EmbeddingLearner(encoder, Remembered(encoder, np.concatenate))
