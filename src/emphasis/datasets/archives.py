"""Checksums, and readers of archives (tar, npz) that may be damaged or hostile, which write nothing to disk."""

from __future__ import annotations

import hashlib
import math
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.errors import DamagedFileError, UnsafeFileError
from emphasis.errors import EmphasisValueError
from emphasis.texts import one_line

_BLOCK = 1 << 20  # bytes
LARGEST = 4 << 30
"""Bytes that the wanted part of an archive may hold when it is unpacked; no data set here has a tenth of it."""

Digest = tuple[str, str]
"""Algorithm as hashlib calls it, and the hexadecimal digest: ("md5", "c58f...")."""


def file_digest(path: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def check_digest(path: Path, digest: Digest) -> None:
    """Check that a file has a digest; raise DamagedFileError otherwise."""
    algorithm, wanted = digest
    actual = file_digest(path, algorithm)
    if actual != wanted:
        raise DamagedFileError(
            f"{path} is damaged: its {algorithm} is {actual}, not {wanted}; delete it and get it again"
        )


def read_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files in a tar archive, compressed or not, the names of which are `wanted`.

    All members are checked; one bad name is an error.

    Raises:
        UnsafeFileError: A member is a link or device, or its name is absolute or climbs out with "..", or the wanted
            ones are too large.
        DamagedFileError: The archive is truncated or not an archive.
    """
    left = LARGEST
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                _check_member(path, member)
                if member.isfile() and wanted(member.name):
                    left -= member.size
                    if left < 0:
                        raise UnsafeFileError(f"{path} is refused: it unpacks to more than {LARGEST:,} bytes")
                    file = archive.extractfile(member)
                    assert file is not None  # of a regular file it never is
                    yield member.name, file.read()
            # The archive ends before the compressed stream does, and only its very end holds the checksum.
            while archive.fileobj is not None and archive.fileobj.read(_BLOCK):
                pass
    except (UnsafeFileError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # decompressors and the reader of headers can fail in any way
        raise DamagedFileError(f"{path} is cut off or no tar archive ({one_line(error)}); get it again") from error


def read_npz(path: Path, most: int = LARGEST) -> dict[str, NDArray[Any]]:
    """Return the arrays of a numpy archive by name; arrays of Python objects, which could run code, are errors.

    Raises:
        DamagedFileError: The archive is damaged, or contains objects or more than `most` bytes.
        OSError: The archive cannot be opened.
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if sum(member.file_size for member in members) > most:
                    raise EmphasisValueError(f"it unpacks to more than {most:,} bytes")
                return {member.filename.removesuffix(".npy"): _read_npy(archive, member) for member in members}
        except Exception as error:  # a damaged archive can fail in any way
            raise DamagedFileError(f"{path} is damaged ({one_line(error)}); get it again") from error


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Return an array of numbers, booleans or texts; its size is checked before memory is allocated."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise EmphasisValueError(f"{member.filename} is of version {version} of numpy's format")
        shape, fortran, dtype = _HEADERS[version](file)
        if dtype.kind not in "biufcSU":
            raise EmphasisValueError(f"{member.filename} is of type {dtype}, not of numbers or texts")
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise EmphasisValueError(f"{member.filename} of shape {shape} has not as many bytes")
        content = bytearray()
        while block := file.read(_BLOCK):
            content += block
        return np.ndarray(shape, dtype, content, order="F" if fortran else "C")


_HEADERS: dict[Any, Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    name = member.name.replace("\\", "/")
    if name.startswith("/") or ".." in PurePosixPath(name).parts or name[1:2] == ":":
        problem = "whose name leads out of the archive's folder"
    elif not (member.isfile() or member.isdir()):
        problem = "which is a link or device"
    else:
        return
    raise UnsafeFileError(f"{path} is refused: it has a member {member.name!r}, {problem}")
