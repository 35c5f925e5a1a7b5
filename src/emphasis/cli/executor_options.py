"""The options that choose where networks are trained, on this machine or on a cluster, and where runs are tracked."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from emphasis.errors import EmphasisValueError
from emphasis.executors.base import LOCAL, NAMES, OPTIONS_OF, ExecutorOptions
from emphasis.experiments.tracking import TRACKERS
from emphasis.extras import missing_extra

if TYPE_CHECKING:
    from emphasis.experiments.runs.context import Reporter
    from emphasis.experiments.tracking.tracking import Tracking


def add_executor_options(parser: argparse.ArgumentParser, trained: str = "networks") -> argparse._ArgumentGroup:
    """Add `--executor` and the options of the clusters; return their group."""
    group = parser.add_argument_group("executor")
    group.add_argument(
        "--executor",
        choices=NAMES,
        default=LOCAL.name,
        help=f"where {trained} are trained: on this machine (local, the default), a Ray cluster, or Slurm",
    )
    group.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="the Ray cluster to join (default: that of this machine, started if necessary)",
    )
    group.add_argument(
        "--partition", metavar="NAME", help="partition of the Slurm cluster (default: that of the cluster)"
    )
    group.add_argument(
        "--time",
        dest="minutes",
        metavar="MINUTES",
        help="time limit of a Slurm job, as minutes or H:MM:SS; longer jobs are requeued (default: 60)",
    )
    group.add_argument(
        "--per-job",
        type=int,
        metavar="N",
        help=f"most {trained} that a Slurm job trains, one after the other (default: 1)",
    )
    return group


def add_locks_option(group: argparse._ArgumentGroup) -> None:
    """Add `--locks`."""
    group.add_argument(
        "--locks",
        choices=("flock", "lease"),
        default="flock",
        help="how processes that share the output folder lock jobs: by the file system (flock, the default), or where "
        "it has no locks, by leases that expire (lease)",
    )


def requested_executor(options: argparse.Namespace) -> ExecutorOptions:
    """Return the executor that the options ask for, with `--workers` as the most jobs at a time."""
    name = options.executor
    for option, executor in OPTIONS_OF.items():
        if getattr(options, option) is not None and name != executor:
            flag = "--time" if option == "minutes" else f"--{option.replace('_', '-')}"
            raise EmphasisValueError(f"{flag} is for --executor {executor}")
    if name == LOCAL.name:
        return LOCAL
    minutes = None if options.minutes is None else _minutes(options.minutes)
    jobs = getattr(options, "workers", None)
    return ExecutorOptions(name, options.address, options.partition, minutes, jobs, options.per_job)


def add_tracking_options(parser: argparse.ArgumentParser) -> None:
    """Add `--track` and `--track-to`."""
    group = parser.add_argument_group("tracking")
    group.add_argument(
        "--track",
        choices=tuple(TRACKERS),
        help="record parameters, curves, results, figures and the page in this tracker (default: none)",
    )
    group.add_argument(
        "--track-to",
        metavar="PLACE",
        help="folder for tensorboard (default: OUT/tensorboard), URI for mlflow (default: $MLFLOW_TRACKING_URI, or a "
        "file in OUT), or project of trackio and wandb (default: the recipe's name)",
    )


def requested_tracking(options: argparse.Namespace, reporter: Reporter, folder: Path, title: str) -> Tracking | None:
    """Return the reporter that passes on to `reporter` and records in the tracker that the options ask for, if any.

    Raises:
        EmphasisValueError: There is a place without a tracker.
        ModuleNotFoundError: The extra of the tracker is not installed.
    """
    if options.track is None:
        if options.track_to is not None:
            raise EmphasisValueError("--track-to needs --track")
        return None
    try:
        from emphasis.experiments.tracking.tracking import Destination, Tracking
    except ModuleNotFoundError as error:
        raise missing_extra(f"--track {options.track}", options.track, error) from None
    if getattr(options, "force", False):  # what is trained anew is recorded anew
        (folder / "tracked.jsonl").unlink(missing_ok=True)
    return Tracking(reporter, folder, title, Destination(options.track, options.track_to))


def _minutes(text: str) -> int:
    """Return the minutes of "90", "1:30:00" or "2-12:00:00", rounded up."""
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):(\d+):(\d+))|(\d+)", text)
    minutes = 0
    if match:
        days, hours, minutes_, seconds, plain = (int(part or 0) for part in match.groups())
        minutes = plain or (days * 24 + hours) * 60 + minutes_ + -(-seconds // 60)
    if minutes < 1:
        raise EmphasisValueError(f"--time {text} is not allowed; use minutes, such as 90, or H:MM:SS")
    return minutes
