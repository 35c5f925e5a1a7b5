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
        encoder: The encoder.
        embed: The encoder, which encodes each text once.
    """

    encoder: TextEncoder
    embed: TextFunction

    @property
    def digest(self) -> str:
        """The digest of the encoder."""
        return self.encoder.digest

    def describe(self) -> str:
        """Return how, for the list of what was done to the table."""
        return f"learned from as text, by the encoder {self.encoder.name}"

    def fit(self, column: Any, name: str) -> EmbeddingColumn:
        """Return what is learned from the rows of a pandas column."""
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
    """A column of text: the D numbers of an encoder's vector, standardized.

    Attributes:
        name: The column's.
        encoder: The name or folder of the encoder.
        digest: The digest of its files.
        mean: (D,).
        deviation: (D,), 1 where the training rows have none.
        empty: Whether a further column has a 1 where the text is empty.
        embed: Returns the vectors of texts.
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
        """The names of the columns made of it."""
        names = [f"{self.name}: dimension {place + 1}" for place in range(len(self.mean))]
        return [*names, f"{self.name} is empty"] if self.empty else names

    def encode(self, column: Any) -> NDArray[np.float64]:
        """Return (rows, D or D + 1)."""
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
        """Return what should be said of further rows; "" if nothing."""
        return note_of_empty(column, self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return the part of the state that JSON holds."""
        names = ("kind", "name", "encoder", "digest", "empty")
        return {name: getattr(self, name) for name in names}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the rest of the state."""
        return {"mean": self.mean, "deviation": self.deviation}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> EmbeddingColumn:
        """Return the column of `to_dict` and `arrays`; KeyError or ValueError if there is none."""
        mean, deviation = arrays["mean"], arrays["deviation"]
        right = mean.dtype == deviation.dtype == np.float32 and mean.ndim == 1 and mean.shape == deviation.shape
        right = right and bool((deviation > 0.0).all()) and isinstance(values["empty"], bool)
        if not right or not all(isinstance(values[name], str) and values[name] for name in ("encoder", "digest")):
            raise EmphasisValueError(f"column {values['name']!r} is described as no encoder describes it")
        encoder, digest = values["encoder"], values["digest"]
        return cls(values["name"], encoder, digest, mean, deviation, values["empty"], TextEncoder(encoder, digest))


def embedding_learner(encoder: TextEncoder) -> EmbeddingLearner:
    """Return what learns from the vectors of an encoder."""
    return EmbeddingLearner(encoder, Remembered(encoder, np.concatenate))
