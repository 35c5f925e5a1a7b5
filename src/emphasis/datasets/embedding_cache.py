"""Cache on disk of the vectors of texts, by the digests of the encoder and of the text."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from emphasis.errors import EmphasisOSError
from emphasis.files import cache_dir

_AT_ONCE = 500  # keys per query
_PATIENCE = 60.0  # seconds to wait for another process that is writing


class EmbeddingCache:
    """Vectors of an encoder in an SQLite database in the user's cache folder.

    A damaged cache is deleted, and if no cache can be written, nothing is cached.
    """

    def __init__(self, encoder: str) -> None:
        self._database: sqlite3.Connection | None = None
        self._encoder = encoder

    def __enter__(self) -> EmbeddingCache:
        with suppress(OSError, EmphasisOSError, sqlite3.OperationalError):
            path = cache_dir() / "embeddings" / f"{self._encoder[:32]}.sqlite"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open(str(path))
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # not a database, or damaged
                self.close()
                path.unlink(missing_ok=True)
                self._open(str(path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def get(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the cached vectors of texts."""
        vectors: dict[str, NDArray[np.float32]] = {}
        if self._database is None:
            return vectors
        by_key = {_key(text): text for text in texts}
        keys = list(by_key)
        with suppress(sqlite3.DatabaseError):
            for start in range(0, len(keys), _AT_ONCE):
                part = keys[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                rows = self._database.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part)
                vectors.update({by_key[key]: np.frombuffer(vector, "<f4") for key, vector in rows})
        return vectors

    def put(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add the vectors of texts to the cache."""
        if self._database is not None:
            rows = [(_key(text), vector.astype("<f4").tobytes()) for text, vector in zip(texts, vectors, strict=True)]
            with suppress(sqlite3.DatabaseError), self._database:
                self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)

    def _open(self, path: str) -> None:
        self._database = sqlite3.connect(path, timeout=_PATIENCE)
        with self._database:
            self._database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
