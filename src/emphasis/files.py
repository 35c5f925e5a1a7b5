"""Files that appear whole or not at all, whatever kills the writer; and the folder for what is slow to make."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it replaces `path` in one move, on failure `path` stays as it was."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
