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
    except Exception as error:  # libraries fail in ways of their own when the disk is full
        if (reason := _reason(error) or _refusal(partial)) is None:
            raise
        raise refused("write", path, reason) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _reason(error: BaseException) -> OSError | None:
    """Return what the system said, itself or as the cause of a library's error; None if it is not known."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    found: BaseException | None = error
    while found is not None and not is_full(found):
        found = found.__cause__ or found.__context__
    return found if isinstance(found, OSError) else None


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
    cure = "; free some space" if error.errno in _FULL else ""
    reason = os.strerror(error.errno) if error.errno else error
    return EmphasisOSError(f"cannot {action} {path}: {reason}{cure}", error.errno)


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
    r"""Write `text` to `path`, whole or not at all.

    A file's name may have bytes that are no letters, which Python reads as lone surrogates and UTF-8 does not have:
    they are written as \udcff, as JSON and Python write them.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def cache_dir() -> Path:
    """Return the user's cache folder for this package, which may not exist yet.

    $XDG_CACHE_HOME/emphasis where that is set, else the platform's: ~/.cache, ~/Library/Caches or %LOCALAPPDATA%.
    Relative paths in the environment are ignored: they would mean another folder in each working directory.

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
    with suppress(RuntimeError, KeyError):  # neither the environment nor the system's list of users knows one
        if (home := Path.home()).is_absolute():
            return home
        if sys.platform != "win32":
            import pwd

            return Path(pwd.getpwuid(os.getuid()).pw_dir)
    raise EmphasisOSError("there is no home folder for cached files; set HOME, or XDG_CACHE_HOME, to an absolute path")
