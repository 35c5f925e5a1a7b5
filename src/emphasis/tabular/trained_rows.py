"""Hashes of training rows, to recognize rows whose accuracy says little about new rows."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.errors import DamagedFileError
from emphasis.files import replacing

FILE = "rows.npy"
_CHUNK = 4096


def row_hashes(features: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return a hash of each row of encoded features, shape (N,).

    It is a sum of products with odd multipliers, modulo 2**64, which are the same on every machine.
    """
    bits = (features + np.float32(0.0)).view(np.uint32)  # one pattern of bits for 0.0 and -0.0
    multipliers = _splitmix(np.arange(1, bits.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)
    hashes = np.empty(len(bits), dtype=np.uint64)
    for start in range(0, len(bits), _CHUNK):
        part = _splitmix(bits[start : start + _CHUNK].astype(np.uint64))
        hashes[start : start + _CHUNK] = (part * multipliers).sum(axis=1, dtype=np.uint64)
    return hashes


def write_hashes(folder: Path, features: NDArray[np.float32]) -> str:
    """Write the hashes of training rows into `folder`, and return the digest of the file."""
    content = io.BytesIO()
    np.save(content, np.unique(row_hashes(features)), allow_pickle=False)
    with replacing(folder / FILE) as partial:
        partial.write_bytes(content.getvalue())
    return hashlib.sha256(content.getvalue()).hexdigest()


def read_hashes(folder: Path, digest: Any) -> NDArray[np.uint64]:
    """Return the hashes that `write_hashes` has written.

    Raises:
        DamagedFileError: The file does not have this digest.
    """
    path = folder / FILE
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedFileError(f"{path} is missing, incomplete or changed; fit again with --force")
    hashes: NDArray[np.uint64] = np.load(io.BytesIO(content), allow_pickle=False)
    return hashes


def _splitmix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the mixing function of splitmix64 of each value."""
    z = values * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
