"""Pickles as Python 2 and the numpy of its time wrote them, which the official CIFAR files are."""

from __future__ import annotations

import io
import pickle
import struct
from typing import ClassVar


class Python2Pickler(pickle._Pickler):
    """Writes str and bytes as Python 2 wrote its strings, and arrays as the numpy of then."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
