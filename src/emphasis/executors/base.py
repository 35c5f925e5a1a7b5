"""The protocol of executors, and the options that choose one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from emphasis.errors import EmphasisError, EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.validation import check_choice, check_whole

if TYPE_CHECKING:
    from concurrent.futures import Future

Send = Callable[[Any], None]
"""Sends something picklable from the worker to the caller of `submit` while the work is going on."""

Work = Callable[[Send], Any]
"""A picklable piece of work. It should return foreseen failures rather than raise them."""

Name = Literal["local", "ray", "slurm"]
NAMES: tuple[Name, ...] = get_args(Name)
OPTIONS_OF: dict[str, Name] = {"address": "ray", "partition": "slurm", "minutes": "slurm", "per_job": "slurm"}
"""The executor that each option is for; the other options are for all."""

MAX_ATTEMPTS = 3
"""Number of attempts at a piece of work whose worker is lost, for instance because memory runs out."""

SIGNAL_SECONDS = 1.0
"""Longest wait for results at a time, after which a signal is noticed that another thread has received."""


class WorkerLostError(EmphasisError):
    """A worker ended before its work did; the message says how, such as "its process was killed (SIGKILL)".

    Attributes:
        begun: Whether the work had begun. Work that only waited for its turn in a job has no part in its loss.
    """

    def __init__(self, message: str, *, begun: bool = True) -> None:
        super().__init__(message)
        self.begun = begun


class Executor(Protocol):
    """Runs work in other processes, here or elsewhere. Whoever submits work decides whether to submit it again."""

    shares_disk: bool
    """Whether workers see the files of this machine under the same paths."""

    def capacity(self) -> int:
        """Return how much work should be submitted at a time; more would only wait."""

    def submit(self, name: str, work: Work, receive: Callable[[Any], None]) -> Future[Any]:
        """Submit work.

        Args:
            name: Identifies the work, also in a later process that submits it again.
            work: What to do.
            receive: Called with whatever the work sends, in another thread.

        Returns:
            A future of what `work` returns. It raises `WorkerLostError` if the worker was lost.
        """

    def batch(self) -> AbstractContextManager[Any]:
        """Return a context whose submissions are made together at its end."""

    def share(self, value: Any) -> Callable[[], Any] | None:
        """Bring a value within reach of all workers; return a picklable function that returns it there.

        None means that workers should get the value by themselves, as the executor has no store of objects.
        """

    def close(self) -> None:
        """Stop everything that is unfinished, and wait until it has ended."""


@dataclass(frozen=True)
class ExecutorOptions:
    """Where work runs.

    Attributes:
        name: "local" (processes of this machine), "ray" or "slurm".
        address: Address of a Ray cluster to join, such as "10.0.0.1:6379" or "auto"; None joins the one that runs on
            this machine, or starts one.
        partition: Partition of the Slurm cluster; None for the default one.
        minutes: Time limit of a Slurm job; a job that reaches it is requeued, and goes on from its checkpoint. None
            for an hour.
        jobs: Most jobs at a time; None for as many as the cluster runs.
        per_job: Most pieces of work that a Slurm job does, one after the other; None for one.

    Raises:
        ValueError: If a value is not allowed, or an option belongs to another executor.
    """

    name: Name = "local"
    address: str | None = None
    partition: str | None = None
    minutes: int | None = None
    jobs: int | None = None
    per_job: int | None = None

    def __post_init__(self) -> None:
        check_choice("executor", self.name, NAMES)
        for option, executor in OPTIONS_OF.items():
            if getattr(self, option) is not None and self.name != executor:
                raise EmphasisValueError(f"{option} is an option of the executor {executor}, and not of {self.name}")
        for option in ("minutes", "jobs", "per_job"):
            value = getattr(self, option)
            if value is not None:
                check_whole(option, value, 1)

    @property
    def is_local(self) -> bool:
        """Whether work runs in processes of this machine."""
        return self.name == "local"


LOCAL = ExecutorOptions()


def make_executor(
    options: ExecutorOptions, folder: Path, *, workers: int = 1, cpus: int = 1, gpus: int = 0
) -> Executor:
    """Return the executor that the options ask for.

    Args:
        options: Which one, and its options.
        folder: Existing folder for files of the executor.
        workers: Number of processes, for the local executor.
        cpus: Number of CPU cores of each piece of work.
        gpus: Number of GPUs of each piece of work.

    Raises:
        ModuleNotFoundError: If the extra of the executor is not installed.
    """
    try:
        if options.name == "ray":
            from emphasis.executors.on_ray import RayExecutor

            return RayExecutor(options.address, cpus, gpus, options.jobs)
        if options.name == "slurm":
            from emphasis.executors.on_slurm import SlurmExecutor

            return SlurmExecutor(folder, options, cpus, gpus)
    except ModuleNotFoundError as error:
        raise missing_extra(f"--executor {options.name}", options.name, error) from None
    from emphasis.executors.local import LocalExecutor

    return LocalExecutor(workers)
