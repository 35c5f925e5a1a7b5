"""The errors that this package raises: one root, and a subclass for each built-in exception that callers may catch.

A message names the wrong value, the allowed values, and the remedy. Any other exception is a fault of the package, or
of code that it was given.
"""

ERROR_LOG = "error.log"
"""The file in a run's folder to which the command writes the traceback of any other exception."""


class EmphasisError(Exception):
    """Base class of the package's errors: bad arguments, files, settings and states."""

    def command_lines(self) -> list[str]:
        """Return the lines that the command prints of this error."""
        return [str(self)]


class EmphasisValueError(EmphasisError, ValueError):
    """An argument, setting or file holds a value that is not allowed."""


class EmphasisTypeError(EmphasisError, TypeError):
    """An argument has a type that is not allowed."""


class EmphasisOverflowError(EmphasisError, OverflowError):
    """A result is too large for its type."""


class EmphasisRuntimeError(EmphasisError, RuntimeError):
    """A call is not allowed in the present state."""


class EmphasisFileNotFoundError(EmphasisError, FileNotFoundError):
    """A required file is missing."""


class EmphasisOSError(EmphasisError, OSError):
    """The operating system refuses access to a file: the disk is full, permission is denied, a folder is in its place.

    Attributes:
        errno: The operating system's error number, if known.
    """

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno
