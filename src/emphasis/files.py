"""Functions for files: atomic writing, errors that name the file, and the cache folder."""

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
    """Yield a temporary path; after success it replaces `path` atomically, after a failure `path` is unchanged.

    Raises:
        EmphasisOSError: The file cannot be written; the message gives the reason.
    """
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except EmphasisError:
        raise
    except Exception as error:  # libraries raise errors of their own when the disk is full
        if (reason := _reason(error) or _refusal(partial)) is None:
            raise
        raise refused("write", path, reason) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _reason(error: BaseException) -> OSError | None:
    """Return the OSError that an error is or was caused by; None if there is none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    cause: BaseException | None = error
    while cause is not None and not is_full(cause):
        cause = cause.__cause__ or cause.__context__
    return cause if isinstance(cause, OSError) else None


def _refusal(path: Path) -> OSError | None:
    """Return the error of appending to a file; None if that succeeds."""
    try:
        with path.open("ab") as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def refused(action: str, path: Path, error: OSError) -> EmphasisOSError:
    """Return an error that names the file, the action that failed, and the reason."""
    cure = "; free some space" if error.errno in _FULL else ""
    reason = os.strerror(error.errno) if error.errno else error
    return EmphasisOSError(f"cannot {action} {path}: {reason}{cure}", error.errno)


@contextmanager
def naming_refusals(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError within the block into an error that names the file, the action that failed, and the reason.

    Raises:
        EmphasisOSError: In place of an OSError.
    """
    try:
        yield
    except EmphasisError:
        raise
    except OSError as error:
        raise refused(action, path, error) from error


def is_full(error: BaseException) -> bool:
    """Return whether an error means that the disk or the user's quota is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def write_text(path: Path, text: str) -> None:
    r"""Write `text` to `path` atomically, as UTF-8.

    Lone surrogates, which stand for undecodable bytes in file names, are written as \udcff, as JSON and Python do.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def cache_dir() -> Path:
    """Return the user's cache folder for this package, which may not exist yet.

    It is $XDG_CACHE_HOME/emphasis if that is set, else in the platform's folder: ~/.cache, ~/Library/Caches or
    %LOCALAPPDATA%. Relative paths in the environment are ignored, since they would depend on the working directory.

    Raises:
        EmphasisOSError: The user has no home folder.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base and sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", "")
    if base and Path(base).is_absolute():
        return Path(base) / "emphasis"
    return _home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "emphasis"


def _home() -> Path:
    with suppress(RuntimeError, KeyError):  # neither the environment nor the user database has a home folder
        if (home := Path.home()).is_absolute():
            return home
        if sys.platform != "win32":
            import pwd

            return Path(pwd.getpwuid(os.getuid()).pw_dir)
    raise EmphasisOSError("there is no home folder for cached files; set HOME, or XDG_CACHE_HOME, to an absolute path")
