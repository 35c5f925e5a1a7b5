"""The errors that this package foresees: one root, and a class for each of Python's that callers may catch.

A message names the value that is wrong, what is allowed, and the cure. Whatever is raised and is no `EmphasisError`
is a fault of the package, or of code that it was given.
"""

ERROR_LOG = "error.log"
"""The file of a run's folder that the command writes other errors to."""


class EmphasisError(Exception):
    """Root of every error that the package foresees: bad arguments, files, settings and states."""


class EmphasisValueError(EmphasisError, ValueError):
    """An argument, setting or file holds a value that is not allowed."""


class EmphasisTypeError(EmphasisError, TypeError):
    """An argument is of a type that is not allowed."""


class EmphasisOverflowError(EmphasisError, OverflowError):
    """A result exceeds the numbers that its type can hold."""


class EmphasisRuntimeError(EmphasisError, RuntimeError):
    """A call that is not allowed in the present state."""


class EmphasisFileNotFoundError(EmphasisError, FileNotFoundError):
    """A file that is needed is not there."""


class EmphasisOSError(EmphasisError, OSError):
    """The system refuses a file: the disk is full, permission is denied, a folder is in its place, ...

    `errno` is the system's own.
    """

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno
