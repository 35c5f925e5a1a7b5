"""Reading archives (tar, npz) that may be damaged or hostile, without writing anything to disk; and checksums."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.errors import DamagedFileError, UnsafeFileError

_BLOCK = 1 << 20  # bytes

Digest = tuple[str, str]
"""Algorithm as hashlib calls it, and the hexadecimal digest: ("md5", "c58f...")."""


def file_digest(path: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def check_digest(path: Path, digest: Digest) -> None:
    """Raise DamagedFileError unless `path` has the `digest`."""
    algorithm, wanted = digest
    found = file_digest(path, algorithm)
    if found != wanted:
        raise DamagedFileError(
            f"{path} is damaged: its {algorithm} is {found}, not {wanted}; delete it and get it again"
        )


def read_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files in a tar archive, compressed or not, whose name is `wanted`.

    Every member is looked at, wanted or not: one bad name condemns the archive.

    Raises:
        UnsafeFileError: A member is a link or device, or its name is absolute or climbs out with "..".
        DamagedFileError: The archive is cut off or no archive.
    """
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                _check_member(path, member)
                if member.isfile() and wanted(member.name):
                    file = archive.extractfile(member)
                    assert file is not None  # of a regular file it never is
                    yield member.name, file.read()
            # The archive ends before the compressed stream does, and only its very end holds the checksum.
            while archive.fileobj is not None and archive.fileobj.read(_BLOCK):
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise DamagedFileError(f"{path} is cut off or no tar archive ({error}); get it again") from error


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a numpy archive by name; arrays of Python objects are refused, as they could run code.

    Raises:
        DamagedFileError: The archive is cut off or none, or holds objects.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (AttributeError, OSError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedFileError(f"{path} is damaged ({error}); get it again") from error


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    name = member.name.replace("\\", "/")
    if name.startswith("/") or ".." in PurePosixPath(name).parts or name[1:2] == ":":
        problem = "whose name leads out of the archive's folder"
    elif not (member.isfile() or member.isdir()):
        problem = "which is a link or device"
    else:
        return
    raise UnsafeFileError(f"{path} is refused: it has a member {member.name!r}, {problem}")
