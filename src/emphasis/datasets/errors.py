"""Errors of data on disk: absent, damaged, or unsafe to read."""

from __future__ import annotations

from emphasis.errors import EmphasisError


class DataError(EmphasisError):
    """Data cannot be read; the message says why and what to do."""


class DataNotFoundError(DataError, FileNotFoundError):
    """None of a data set's files is in the folder searched."""


class DamagedFileError(DataError, ValueError):
    """A file is truncated, has another checksum or other content than expected."""


class UnsafeFileError(DataError, ValueError):
    """A file could run code or write outside of its folder when it is read; nothing was run or written."""


class DownloadError(DataError, OSError):
    """A download failed after all attempts."""
