"""Encoding of columns of free text as TF-IDF of words and of parts of words, reduced by a truncated SVD.

The n-grams of each text are counted once for all folds of a cross-validation. The choice of n-grams, their weights and
the SVD are fitted on training rows.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.table_features import text_of
from emphasis.datasets.table_report import TableError, argument, counted
from emphasis.errors import EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.texts import encodable

HASHES = 2**20
"""Number of hashes of words, and of parts of words. The n-grams of a text are identified by their hashes."""
MOST = 20_000
"""Largest number of n-grams of each kind; those in the most training rows are used."""
COMPONENTS = 200
"""Largest number of features of a column; at most one per `ROWS_A_COMPONENT` training rows."""
ROWS_A_COMPONENT = 8
_FEWEST_COMPONENTS = 10
_FEWEST_ROWS = 2  # that contain an n-gram, unless no n-gram is in as many

TextFunction = Callable[[Sequence[str]], Any]  # n texts -> a matrix of n rows, sparse or not


class TextColumn(Protocol):
    """The encoding of a column of text, fitted on training rows."""

    @property
    def name(self) -> str:
        """Name of the column."""

    @property
    def feature_names(self) -> list[str]:
        """Names of the encoded columns."""

    def encode(self, column: Any) -> NDArray[Any]:
        """Return one row of numbers for each text."""

    def note(self, column: Any) -> str:
        """Return a note about further rows; "" if there is none."""

    def to_dict(self) -> dict[str, Any]:
        """Return the part of the state that is saved as JSON."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the state."""


class TextLearner(Protocol):
    """Fits the encoding of columns of text."""

    @property
    def digest(self) -> str:
        """The digest of a pretrained encoder; "" if there is none."""

    def describe(self) -> str:
        """Return a description of the encoding, for the report of the table."""

    def fit(self, column: Any, name: str) -> TextColumn:
        """Fit the encoding to the rows of a pandas column."""


def texts_of(column: Any, name: str) -> list[str]:
    """Return the texts of a pandas column, "" where one is missing.

    Raises:
        TableError: The column holds lists, bytes or other nested values.
    """
    values = column.astype(object).where(column.notna(), "").tolist()
    if any(isinstance(value, bytes) or (hasattr(value, "__len__") and not isinstance(value, str)) for value in values):
        raise TableError(
            [f"the column {name!r} holds lists, bytes or other nested values; leave it out with {argument('drop')}"]
        )
    return [value if isinstance(value, str) else text_of(value) for value in values]


def normalized(text: str) -> str:
    """Return a text in the Unicode form NFKC and in lower case."""
    return encodable(unicodedata.normalize("NFKC", text).casefold())


def count_ngrams(texts: Sequence[str]) -> Any:
    """Return the counts of n-grams in each text: one or two words, and 2 to 4 characters within a word.

    Returns:
        A sparse matrix (n, 2 * HASHES) with columns for the hashes of words, then of characters.
    """
    try:
        from scipy import sparse
        from sklearn.feature_extraction.text import HashingVectorizer
    except ModuleNotFoundError as error:
        raise missing_extra("a column of text", "fit", error) from None

    if not texts:
        return sparse.csr_matrix((0, 2 * HASHES), dtype=np.float32)
    settings = {"n_features": HASHES, "alternate_sign": False, "norm": None, "dtype": np.float32}
    words = HashingVectorizer(ngram_range=(1, 2), preprocessor=normalized, **settings)
    characters = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 4), preprocessor=normalized, **settings)
    return sparse.hstack([words.transform(texts), characters.transform(texts)], format="csr")


class Remembered:
    """A cached function from n texts to a matrix of n rows, which is computed once for each text.

    Args:
        function: Function to cache.
        stack: Function that stacks matrices vertically.
    """

    def __init__(self, function: TextFunction, stack: Callable[[Sequence[Any]], Any]) -> None:
        self._function, self._stack = function, stack
        self._positions: dict[str, int] = {}
        self._rows: Any = None

    def __call__(self, texts: Sequence[str]) -> Any:
        """Return the result of the function for n >= 1 texts."""
        if new := [text for text in dict.fromkeys(texts) if text not in self._positions]:
            rows = self._function(new)
            self._rows = rows if self._rows is None else self._stack([self._rows, rows])
            self._positions.update(zip(new, range(len(self._positions), len(self._positions) + len(new)), strict=True))
        return self._rows[[self._positions[text] for text in texts]]


def remembered_counts() -> Remembered:
    """Return a cached `count_ngrams`."""
    return Remembered(count_ngrams, _below)


@dataclass(frozen=True)
class NgramLearner:
    """Fits `NgramColumn`s.

    Attributes:
        count: Function that counts the n-grams of texts.
    """

    count: TextFunction = field(default_factory=remembered_counts)

    digest: ClassVar[str] = ""

    def describe(self) -> str:
        """Return a description of the encoding, for the report of the table."""
        return "learned from as text, by its words and parts of words"

    def fit(self, column: Any, name: str) -> NgramColumn:
        """Fit the encoding to the rows of a pandas column."""
        from sklearn.utils.extmath import randomized_svd

        texts = texts_of(column, name)
        counts = self.count(texts)
        hashes, idf = _weights(counts)
        known = NgramColumn(name, hashes, idf, np.zeros((len(hashes), 0), np.float32), True, self.count)
        weighted = known.tfidf(counts)
        by_rows = max(len(texts) // ROWS_A_COMPONENT, _FEWEST_COMPONENTS)
        size = min(COMPONENTS, by_rows, *weighted.shape)
        if size:
            # Like TruncatedSVD, which also divides by the variance, which is 0 if all texts are equal.
            rows_of_components = randomized_svd(weighted, size, n_iter=2, random_state=0)[2]
            components = np.ascontiguousarray(rows_of_components.T, dtype=np.float32)
        else:
            components = np.zeros((len(hashes), 0), np.float32)
        empty = not size or not all(text.strip() for text in texts)
        return NgramColumn(name, hashes, idf, components, empty, self.count)


def _weights(counts: Any) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the hashes of the most frequent n-grams of training rows, and the inverse document frequency of each."""
    rows = np.bincount(counts.indices, minlength=2 * HASHES)
    frequent_hashes = []
    for start in (0, HASHES):
        part = rows[start : start + HASHES]
        frequent = np.flatnonzero(part >= min(_FEWEST_ROWS, part.max(initial=0) or 1))
        frequent_hashes.append(start + np.sort(frequent[np.argsort(-part[frequent], kind="stable")[:MOST]]))
    hashes = np.concatenate(frequent_hashes)
    idf = np.log((1 + counts.shape[0]) / (1 + rows[hashes])) + 1.0
    return hashes.astype(np.int32), idf.astype(np.float32)


@dataclass(frozen=True, eq=False)
class NgramColumn:
    """A column of text: TF-IDF of V n-grams, projected on K components, as a vector of length sqrt(K).

    A text without any known n-gram is a vector of zeros.

    Attributes:
        name: Name of the column.
        hashes: (V,) hashes of the n-grams.
        idf: (V,) inverse document frequency of each n-gram.
        components: (V, K) components of the SVD.
        empty: Whether a further column marks empty texts with a 1.
        count: Function that counts the n-grams of texts.
    """

    kind: ClassVar[str] = "n-grams"
    name: str
    hashes: NDArray[np.int32]
    idf: NDArray[np.float32]
    components: NDArray[np.float32]
    empty: bool
    count: TextFunction = count_ngrams

    @property
    def feature_names(self) -> list[str]:
        """Names of the encoded columns."""
        names = [f"{self.name}: component {index + 1}" for index in range(self.components.shape[1])]
        return [*names, f"{self.name} is empty"] if self.empty else names

    def tfidf(self, counts: Any) -> Any:
        """Return the weighted n-grams, with words and characters each normalized to length 1."""
        from sklearn.preprocessing import normalize

        words = int(np.searchsorted(self.hashes, HASHES))
        blocks = []
        for part in (slice(0, words), slice(words, len(self.hashes))):
            if part.stop > part.start:
                known = counts[:, self.hashes[part]]
                known.data = (1.0 + np.log(known.data)) * self.idf[part][known.indices]
                blocks.append(normalize(known, copy=False))
        return _beside(blocks, counts.shape[0])

    def encode(self, column: Any) -> NDArray[np.float64]:
        """Return the encoded rows, (rows, K or K + 1)."""
        texts = texts_of(column, self.name)
        vectors = np.asarray(self.tfidf(self.count(texts)) @ self.components, dtype=np.float64)
        lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
        vectors *= np.sqrt(vectors.shape[1]) / np.where(lengths > 0.0, lengths, 1.0)
        return np.hstack([vectors, is_empty(texts)]) if self.empty else vectors

    def note(self, column: Any) -> str:
        """Return a note about further rows; "" if there is none."""
        return note_of_empty(column, self.name)

    def to_dict(self) -> dict[str, Any]:
        """Return the part of the state that is saved as JSON."""
        return {"kind": self.kind, "name": self.name, "empty": self.empty}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the state."""
        return {"hashes": self.hashes, "idf": self.idf, "components": self.components}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> NgramColumn:
        """Return the column saved with `to_dict` and `arrays`; raise KeyError or ValueError if the state is invalid."""
        hashes, idf, components = (arrays[name] for name in ("hashes", "idf", "components"))
        valid = hashes.dtype == np.int32 and idf.dtype == components.dtype == np.float32
        valid = valid and hashes.shape == idf.shape and components.shape[:1] == hashes.shape and components.ndim == 2
        valid = valid and bool((np.diff(hashes) > 0).all()) and hashes.min(initial=0) >= 0
        if not valid or hashes.max(initial=0) >= 2 * HASHES or not isinstance(values["empty"], bool):
            raise EmphasisValueError(f"column {values['name']!r} has an invalid description")
        return cls(values["name"], hashes, idf, components, values["empty"])


def identities(column: Any, name: str) -> NDArray[np.float64]:
    """Return (rows, 4) whole numbers below 2**24, exact in float32, that identify equal texts."""
    digests = b"".join(hashlib.sha256(encodable(text).encode()).digest()[:12] for text in texts_of(column, name))
    parts = np.frombuffer(digests, dtype=np.uint8).reshape(-1, 4, 3)
    numbers: NDArray[np.float64] = parts @ np.array([65536.0, 256.0, 1.0])
    return numbers


def note_of_empty(column: Any, name: str) -> str:
    """Return a note if a column of text is empty in further rows; "" otherwise."""
    if len(column) and column.isna().all():
        return f"the column {name!r} is empty in all {counted(len(column), 'row')} of this table"
    return ""


def _below(blocks: Sequence[Any]) -> Any:
    from scipy import sparse

    return sparse.vstack(blocks, format="csr")


def _beside(blocks: Sequence[Any], rows: int) -> Any:
    from scipy import sparse

    return sparse.hstack(blocks, format="csr") if blocks else sparse.csr_matrix((rows, 0), dtype=np.float32)


def is_empty(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return 1 where a text is empty, (n, 1)."""
    return np.array([not text.strip() for text in texts], dtype=np.float64)[:, None]
