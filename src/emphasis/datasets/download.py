"""Downloads that are resumed, and checked before they are used."""

from __future__ import annotations

import contextlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emphasis.datasets.archives import Digest, check_digest
from emphasis.datasets.errors import DamagedFileError, DownloadError
from emphasis.extras import missing_extra

_BLOCK = 1 << 18  # bytes
_TIMEOUT = 30.0  # seconds without a byte
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)

Progress = Callable[[str, int, int], None]
"""Function (task, done, total) that shows progress; a total of 0 means that it is unknown."""


def silent(_task: str, _done: int, _total: int) -> None:
    """Show nothing; this is the default `Progress`."""


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded.

    Attributes:
        url: Address of the file.
        name: Name of the file on disk.
        digest: Algorithm, "md5" or "sha256", and hexadecimal digest, which is checked.
        size: Size in bytes, or None if it is unknown.
    """

    url: str
    name: str
    digest: Digest
    size: int | None = None


def download(
    file: RemoteFile, folder: Path, progress: Progress = silent, attempts: int = 6, first_wait: float = 1.0
) -> Path:
    """Return the path of `file` in `folder`, after downloading it if it does not exist; its digest is checked.

    A partial download is stored as `NAME.part` and continued by the next attempt or call. Several processes can
    download the same file; they wait for each other.

    Args:
        file: The file.
        folder: Folder for the file, which is created if it does not exist.
        progress: Called as `progress(task, done, total)` with numbers of bytes.
        attempts: Largest number of connections.
        first_wait: Seconds before the second attempt; each further wait is twice as long.

    Raises:
        DamagedFileError: The file has another digest or size. If it was downloaded, it has been deleted.
        DownloadError: The server refuses, or all attempts were interrupted; a partial download is kept.
    """
    target, part = folder / file.name, folder / f"{file.name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext() if target.exists() else _locked(folder):
        if target.exists():
            check_digest(target, file.digest)
            return target
        for attempt in range(attempts):
            if attempt:
                time.sleep(first_wait * 2 ** (attempt - 1))
            try:
                _continue(file, part, progress)
                break
            except (OSError, http.client.HTTPException) as error:
                final = isinstance(error, urllib.error.HTTPError) and error.code not in _TRY_AGAIN
                if final or attempt == attempts - 1 or isinstance(error, PermissionError):
                    kept = f"{part} is kept and will be continued" if part.exists() else "nothing was kept"
                    raise DownloadError(
                        f"{file.url} could not be downloaded after {attempt + 1} attempts ({error}); {kept}; "
                        f"try again, or put the file into {str(folder)!r} yourself"
                    ) from error
        try:
            check_digest(part, file.digest)
        except DamagedFileError as error:
            part.unlink()
            raise DamagedFileError(f"{file.url} was downloaded but not as expected: {error} (done: deleted)") from None
        part.replace(target)
    return target


def _continue(file: RemoteFile, part: Path, progress: Progress) -> None:
    """Download the rest of `part`; raise OSError or HTTPException if the connection is interrupted."""
    have = part.stat().st_size if part.exists() else 0
    if file.size is not None and have >= file.size:
        if have == file.size:
            return
        part.unlink()
        have = 0
    request = urllib.request.Request(file.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        if _number(error.headers.get("Content-Range", "").rpartition("/")[2]) == have:
            return  # the file is complete
        part.unlink()  # longer than the file: start again
        raise ConnectionError(f"the server has no bytes from {have} on") from None
    with response:
        if response.status != 206:
            have = 0  # the server ignores Range and sends all
        elif _number(response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]) != have:
            part.unlink(missing_ok=True)
            raise ConnectionError(f"the server sends other bytes than those from {have} on")
        length = _number(response.headers.get("Content-Length"))
        total = have + length if length is not None else file.size or 0
        with part.open("ab" if have else "wb") as out:
            while block := response.read(_BLOCK):
                out.write(block)
                have += len(block)
                progress(f"downloading {file.name}", have, total)
    if total and have < total:  # read(n) ends early without an error when the connection is interrupted
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _locked(folder: Path) -> contextlib.AbstractContextManager[object]:
    try:
        from filelock import FileLock
    except ModuleNotFoundError as error:
        raise missing_extra("a download", "experiments", error) from None
    return FileLock(folder / ".downloads.lock")
