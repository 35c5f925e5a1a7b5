"""A pickle reader that knows plain data and numpy arrays, and nothing else.

A pickle is a program: whatever function it names is called. This reader resolves the few names that arrays need and
refuses every other before anything is called.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from emphasis.datasets.errors import DamagedFileError, UnsafeFileError
from emphasis.errors import EmphasisValueError


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for `_codecs.encode`, which newer pickles of protocol 2 use to write bytes, always as latin1."""
    if encoding not in ("latin1", "latin-1"):
        raise EmphasisValueError(f"bytes are encoded as {encoding!r}, not latin1")
    return text.encode("latin1")


_reconstruct: Any = np.zeros(0).__reduce__()[0]
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}
"""Everything a pickle may name, and what it gets."""


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise UnsafeFileError(f"it names {module}.{name}, which could run code") from None


def loads(content: bytes, source: str) -> Any:
    """Return the object that a pickle of plain data and numpy arrays holds; Python 2's strings become str.

    Args:
        content: The pickle.
        source: What it is called in errors.

    Raises:
        UnsafeFileError: It names anything but `ALLOWED`; nothing was run.
        DamagedFileError: It is cut off or no pickle.
    """
    try:
        return _Restricted(io.BytesIO(content), encoding="latin1").load()
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{source} is refused: {error}; get it from its official source") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise DamagedFileError(f"{source} is cut off or no pickle ({error}); get it again") from error
