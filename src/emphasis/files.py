"""Files that appear whole or not at all, whatever kills the writer; and the folder for what is slow to make."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from emphasis.errors import EmphasisError, EmphasisOSError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE = bytes(2**16)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it replaces `path` in one move, on failure `path` stays as it was.

    Raises:
        EmphasisOSError: The system refuses the file; the message says why.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except EmphasisError:
        raise
    except Exception as error:  # libraries that write files themselves fail in ways of their own when the disk is full
        known = isinstance(error, OSError) and error.errno is not None
        reason = error if known else _refusal(partial)
        if not isinstance(reason, OSError):
            raise
        raise refused("write", path, reason) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _refusal(path: Path) -> OSError | None:
    """Return why the system does not let anything be added to a file; None if it does."""
    try:
        with path.open("ab") as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def refused(action: str, path: Path, error: OSError) -> EmphasisOSError:
    """Return the error that says what could not be done to a file, and why."""
    cure = "; free some space, and try again" if error.errno in _FULL else ""
    return EmphasisOSError(f"cannot {action} {path}: {error.strerror or error}{cure}", error.errno)


@contextmanager
def naming_refusals(action: str, path: Path) -> Iterator[None]:
    """Turn what the system refuses within into an error that says what could not be done to a file, and why.

    Raises:
        EmphasisOSError: Instead of an OSError.
    """
    try:
        yield
    except EmphasisError:
        raise
    except OSError as error:
        raise refused(action, path, error) from error


def is_full(error: BaseException) -> bool:
    """Return whether an error is that the disk, or one's share of it, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def cache_dir() -> Path:
    """Return the user's cache folder for this package, which may not exist yet.

    $XDG_CACHE_HOME/emphasis where that is set, else the platform's: ~/.cache, ~/Library/Caches or %LOCALAPPDATA%.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    if not base and sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    if base:
        return Path(base) / "emphasis"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "emphasis"
