"""A column of free text as the numbers of its tokens, for an encoder that is trained further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.table_texts import Remembered, TextFunction, note_of_empty, texts_of
from emphasis.datasets.text_encoder import TextEncoder, load_tokenizer
from emphasis.errors import EmphasisValueError
from emphasis.texts import encodable

NO_TOKEN = -1.0
"""What follows the tokens of a text that is shorter than others."""
_TEXTS_AT_ONCE = 4096


@dataclass(frozen=True)
class TokenLearner:
    """Makes `TokenColumn`s; there is nothing to learn, as the tokenizer comes with the encoder.

    Attributes:
        encoder: The encoder.
        length: Largest number of tokens of a text, L.
        tokenize: Function from n texts to their tokens (n, L), which tokenizes each text once.
    """

    encoder: TextEncoder
    length: int
    tokenize: TextFunction

    @property
    def digest(self) -> str:
        """The digest of the encoder."""
        return self.encoder.digest

    def describe(self) -> str:
        """Return a description of the encoding, for the report of the table."""
        return f"the encoder {self.encoder.name} is trained on it, on at most {self.length} tokens of each text"

    def fit(self, column: Any, name: str) -> TokenColumn:
        """Return the encoding of a pandas column."""
        texts_of(column, name)  # raises for lists and bytes
        return TokenColumn(name, self.length, self.tokenize)


@dataclass(frozen=True, eq=False)
class TokenColumn:
    """A column of text, encoded as the numbers of at most L tokens, followed by `NO_TOKEN`.

    Numbers of tokens are below 2**24, so they are exact in float32.

    Attributes:
        name: Name of the column.
        length: L.
        tokenize: Function that returns the tokens of texts.
    """

    kind: ClassVar[str] = "tokens"
    name: str
    length: int
    tokenize: TextFunction

    @property
    def feature_names(self) -> list[str]:
        """Names of the encoded columns."""
        return [f"{self.name}: token {index + 1}" for index in range(self.length)]

    def encode(self, column: Any) -> NDArray[np.float32]:
        """Return the encoded rows, (rows, L)."""
        texts = texts_of(column, self.name)
        return self.tokenize(texts) if texts else np.zeros((0, self.length), np.float32)

    def note(self, column: Any) -> str:
        """Return a note about further rows; "" if there is none."""
        return note_of_empty(column, self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return the part of the state that is saved as JSON."""
        return {"kind": self.kind, "name": self.name, "length": self.length}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the state: none."""
        return {}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], encoder: str) -> TokenColumn:
        """Return the column saved with `to_dict`; raise KeyError or ValueError if the state is invalid.

        Args:
            values: State from `to_dict`.
            encoder: Folder of the encoder.
        """
        length = values["length"]
        if isinstance(length, bool) or not isinstance(length, int) or length < 1 or not encoder:
            raise EmphasisValueError(f"column {values['name']!r} has an invalid description")
        return cls(values["name"], length, _Tokenizer(TextEncoder(encoder), length))


def token_learner(encoder: TextEncoder, max_tokens: int) -> TokenLearner:
    """Return the learner for an encoder, of at most `max_tokens` tokens of each text, and at most the encoder's.

    Raises:
        DamagedFileError: The tokenizer cannot be read.
    """
    length = min(load_tokenizer(encoder.folder)[1], max_tokens)
    return TokenLearner(encoder, length, Remembered(_Tokenizer(encoder, length), np.concatenate))


class _Tokenizer:
    """Function from n texts to their tokens (n, L), followed by `NO_TOKEN`; the tokenizer is loaded on first use."""

    def __init__(self, encoder: TextEncoder, length: int) -> None:
        self._encoder, self._length = encoder, length
        self._tokenizer: Any = None

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the tokens of texts."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._encoder.folder)[0]
        rows = np.full((len(texts), self._length), NO_TOKEN, np.float32)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            part = [encodable(text) for text in texts[start : start + _TEXTS_AT_ONCE]]
            tokenized = self._tokenizer(part, truncation=True, max_length=self._length)["input_ids"]
            for row, tokens in enumerate(tokenized, start):
                # Tokenizers without marks of beginning and end have no token for an empty text; networks need one.
                rows[row, : len(tokens) or 1] = tokens or self._tokenizer.pad_token_id or 0
        return rows
