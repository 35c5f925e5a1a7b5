"""MNIST: scans of handwritten digits of 28 x 28 pixels.

Source: Y. LeCun, C. Cortes and C. Burges, The MNIST Database of Handwritten Digits. Read from the four official files,
as they are or compressed, or from the compact `mnist.bin.xz`: all images, then all labels, the training part first.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.download import Progress, RemoteFile
from emphasis.datasets.download import download as fetch
from emphasis.datasets.errors import DamagedFileError
from emphasis.datasets.root import find, not_found
from emphasis.datasets.split import Split
from emphasis.errors import EmphasisValueError

_SIDE = 28
_TRAIN = 60_000
_LARGEST = 1 << 26  # bytes of all images and labels
_COMPACT = "mnist.bin.xz"
_FOLDERS = ("", "MNIST/raw/", "mnist/")
_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"

#: Official file: md5 of its content, md5 of the compressed file.
FILES = {
    "train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    "train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", "d53e105ee54ea40749a09fcbcd1e9432"),
    "t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", "9fb629c4189551a2d022fa330f9573f3"),
    "t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", "ec29112dd5afa0611ce80d1b7f02629c"),
}


def load_mnist(root: Path, progress: Progress, *, download: bool = False) -> Split:
    """Return MNIST: 60,000 training and 10,000 test images (N, 1, 28, 28) of 10 classes.

    Args:
        root: The data folder, with the files in it or in a folder `MNIST/raw`, as torchvision stores them.
        progress: Called as `progress(task, done, total)` during a download.
        download: Whether to download the official files (12 MB) if neither form is in `root`.

    Raises:
        DataError: The data is absent or damaged.
    """
    paths = {name: _official(root, name) for name in FILES}
    if not all(paths.values()) and (compact := root / _COMPACT).exists():
        parts = _read_compact(compact)
    else:
        for name, (_, md5) in FILES.items():
            if paths[name] is None:
                if not download:
                    raise not_found(
                        "MNIST",
                        root,
                        [_COMPACT, *(f"{lacking}.gz" for lacking in FILES if not paths[lacking])],
                        download=True,
                    )
                paths[name] = fetch(RemoteFile(f"{_MIRROR}{name}.gz", f"{name}.gz", ("md5", md5)), root, progress)
        parts = [read_idx(path, FILES[name][0]) for name, path in paths.items() if path]
    images, labels = ([part for part in parts if part.ndim == ndim] for ndim in (3, 1))
    train, test = images[0][:, None], images[1][:, None]
    return Split(
        train,
        labels[0].astype(np.int64),
        test,
        labels[1].astype(np.int64),
        10,
        tuple(str(digit) for digit in range(10)),
    )


def _official(root: Path, name: str) -> Path | None:
    dotted = name.replace("-idx", ".idx")  # as some programs name it
    return find(root, [f"{folder}{file}" for folder in _FOLDERS for file in (name, f"{name}.gz", dotted)])


def _read_compact(path: Path) -> list[NDArray[Any]]:
    try:
        with lzma.open(path) as file:
            content = np.frombuffer(file.read(_LARGEST + 1), np.uint8)
        if content.size > _LARGEST:
            raise EmphasisValueError(f"it unpacks to more than {_LARGEST:,} bytes")
        count, rest = divmod(content.size, _SIDE**2 + 1)
        if rest or count <= _TRAIN:
            raise EmphasisValueError(f"{content.size} bytes")
    except (OSError, lzma.LZMAError, EOFError, ValueError) as error:
        raise DamagedFileError(f"{path} is damaged ({error}); get it again") from error
    images, labels = content[:-count].reshape(count, _SIDE, _SIDE).copy(), content[-count:]
    return [images[:_TRAIN], labels[:_TRAIN], images[_TRAIN:], labels[_TRAIN:]]


def read_idx(path: Path, md5: str) -> NDArray[Any]:
    """Return the array of an idx file after checking the md5 of its content."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_LARGEST + 1)  # a longer file has another md5 anyway
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DamagedFileError(f"{path} is cut off or damaged ({error}); get it again") from error
    if (actual := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
        raise DamagedFileError(f"{path} is damaged: the md5 of its content is {actual}, not {md5}; get it again")
    return parse_idx(content, path)


def parse_idx(content: bytes, path: Path) -> NDArray[Any]:
    """Return the array of an idx file's content: two zero bytes, 8 (uint8), number of axes, their lengths, the values.

    Raises:
        DamagedFileError: It is not an idx file, or has another length than its header says.
    """
    try:
        axes = content[3]
        shape = np.frombuffer(content, ">u4", axes, 4).tolist()
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
        if content[:3] != b"\0\0\x08" or math.prod(shape) != values.size:
            raise EmphasisValueError(f"shape {shape} and {values.size} bytes")
        return values.reshape(shape).copy()
    except (IndexError, ValueError) as error:
        raise DamagedFileError(f"{path} is not an idx file of bytes ({error}); get it again") from error
