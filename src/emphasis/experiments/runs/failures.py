"""Failures of jobs: what is said about each, and the error that a run raises in the end."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from emphasis.errors import EmphasisError
from emphasis.experiments.runs.jobs import Job
from emphasis.files import is_full

_NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # which torch raises as a RuntimeError


class JobError(EmphasisError):
    """A job failed for a known reason; the message names the job and the reason."""


class UnforeseenJobError(Exception):
    """A job failed for an unknown reason; the message names the job, and notes hold the tracebacks."""


@dataclass(frozen=True)
class Failure:
    """Why a job failed.

    Attributes:
        message: One line.
        traceback: Traceback of an unforeseen error; "" for a foreseen one.
        concerns_all: Whether every other job would fail as well.
    """

    message: str
    traceback: str = ""
    concerns_all: bool = False


def describe_failure(job: Job, error: Exception) -> Failure:
    """Return why a job failed, with the traceback of an unforeseen error."""
    if isinstance(error, EmphasisError):
        return Failure(f"{job.title}: {error}", concerns_all=is_full(error))
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _NO_MEMORY in str(error):
        first = str(error).partition(". ")[0]
        details = f" ({first})" if first else ""
        return Failure(
            f"{job.title}: not enough memory{details}; use a smaller solver.batch_size, or fewer workers (--workers)"
        )
    return Failure(f"{job.title}: {type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


def raise_failures(failures: Sequence[Failure]) -> None:
    """Raise JobError if any job failed, UnforeseenJobError if any failed in an unforeseen way."""
    if not failures:
        return
    unforeseen = [failure for failure in failures if failure.traceback]
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    message = f"{(unforeseen or failures)[0].message}{more}; the same command goes on with the rest"
    if not unforeseen:
        raise JobError(message)
    error = UnforeseenJobError(message)
    for failure in unforeseen:
        error.add_note(f"\n{failure.message}\n{failure.traceback}")
    raise error
