"""What can go wrong with data on disk: absent, damaged, or unsafe to read."""

from __future__ import annotations

from emphasis.errors import EmphasisError


class DataError(EmphasisError):
    """Data cannot be read; the message says which, why and what to do."""


class DataNotFoundError(DataError, FileNotFoundError):
    """None of a data set's files is in the folder searched."""


class DamagedFileError(DataError, ValueError):
    """A file is cut off, fails its checksum or does not hold what its name says."""


class UnsafeFileError(DataError, ValueError):
    """A file would run code or write outside its folder if it were read naively; nothing of it was run or written."""


class DownloadError(DataError, OSError):
    """A download did not end well after all attempts."""
