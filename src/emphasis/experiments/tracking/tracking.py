"""What is recorded of a run in a tracker: a nested run for each network, and the figures and the page of all.

A network is recorded when it is finished, under an id that follows from the folder and its settings. The folder keeps
which networks are recorded, so that a run that was killed and resumed is one run in the tracker:

    tracked.jsonl       a line with the id of the run, and one for each network that is recorded
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emphasis.experiments.runs.context import PassingOn, Reporter
from emphasis.experiments.runs.jobs import Job
from emphasis.experiments.runs.store import TRACKED, Row
from emphasis.experiments.tracking import TRACKERS
from emphasis.experiments.tracking.base import Images, MakeTracker, Tracker
from emphasis.extras import missing_extra
from emphasis.json_files import read_json_lines

_NO_PARAMETERS = ("key", "curves", "p_histogram", "diverged_batch", "broken_images", "versions", "job")


@dataclass(frozen=True)
class Destination:
    """The name of a tracker, and where it records; see `MakeTracker`."""

    tracker: str
    to: str | None = None


class Tracking(PassingOn):
    """Passes everything on to another reporter, and records the networks that are finished.

    Args:
        reporter: The other reporter.
        folder: Folder of the run.
        title: Name of the run.
        destination: Where it is recorded.

    Raises:
        ModuleNotFoundError: If the extra of the tracker is not installed.
    """

    def __init__(self, reporter: Reporter, folder: Path, title: str, destination: Destination) -> None:
        super().__init__(reporter)
        self._folder = folder
        self._title, self._destination = title, destination
        self._tracker: Tracker | None = None
        self._recorded: set[str] = set()
        self._identity = ""
        self._reported: set[str] = set()
        require_tracker(destination.tracker)

    def finished(self, job: Job, rows: Sequence[Row]) -> None:
        """Record networks, and pass on."""
        self._try(lambda: self._record(rows))
        self._reporter.finished(job, rows)

    def finish(self, rows: Iterable[Row], files: Sequence[Path], images: Images = dict) -> None:
        """Record what was finished earlier without being recorded, and the figures and the page; end the run.

        Args:
            rows: The lines of results.
            files: Files of the report.
            images: Draws the figures as PNG files, for trackers that show no others.
        """

        def record_all() -> None:
            self._record(rows)
            tracker = self._open()
            tracker.add_report(files, images)
            tracker.close()

        self._try(record_all)

    def _try(self, record: Callable[[], None]) -> None:
        """Record something; a tracker that cannot be reached does not stop training."""
        try:
            record()
        except Exception as error:  # of a library that talks to a server
            first = str(error).partition("\n")[0]
            text = (
                f"--track {self._destination.tracker}: {first or type(error).__name__}; the same command records later"
            )
            if text not in self._reported:
                self._reported.add(text)
                self._reporter.message(text, "warning")

    def _record(self, rows: Iterable[Row]) -> None:
        """Record the networks that are not recorded yet."""
        tracker = self._open()
        for row in rows:
            if row["key"] in self._recorded:
                continue
            title = ", ".join(filter(None, (row["condition"], row["method"], f"seed {row['seed']}")))
            logger = tracker.start_network(f"{self._identity}-{row['key']}", title)
            logger.log_hyperparams(parameters(row))
            curves = row["curves"]
            for number, iteration in enumerate(curves["iteration"]):
                logger.log_metrics(_numbers({k: v[number] for k, v in curves.items() if k != "iteration"}), iteration)
            logger.log_metrics(_numbers(final_metrics(row)), curves["iteration"][-1])
            logger.finalize("success")
            self._note({"key": row["key"]})
            self._recorded.add(row["key"])

    def _open(self) -> Tracker:
        """Return the tracker, with the identity that the folder keeps; the folder must be acquired before."""
        if self._tracker is None:
            about = {"tracker": self._destination.tracker, "to": self._destination.to}
            path = self._folder / TRACKED
            entries = [entry for _, entry in read_json_lines(path)] if path.exists() else []
            same = [entry for entry in entries if {name: entry.get(name) for name in about} == about]
            self._identity = next((entry["run"] for entry in same if "run" in entry), "")
            self._recorded = {entry["key"] for entry in same if "key" in entry}
            if not self._identity:
                self._identity = uuid.uuid4().hex[:8]
                self._note({"run": self._identity})
            self._tracker = make_tracker(self._destination, self._folder, self._title, self._identity)
        return self._tracker

    def _note(self, entry: Mapping[str, str]) -> None:
        line = {"tracker": self._destination.tracker, "to": self._destination.to, **entry}
        with (self._folder / TRACKED).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def parameters(row: Row) -> dict[str, Any]:
    """Return the settings of a network and what describes its training, flat, such as {"solver.iterations": 400}."""
    flat: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                add(f"{name}.{key}", item)
        else:
            flat[name] = value if isinstance(value, (bool, int, float, str)) else json.dumps(value, default=str)

    for name, value in row.items():
        if name not in (*_NO_PARAMETERS, *final_metrics(row)):
            add(name, value)
    return flat


def final_metrics(row: Row) -> dict[str, Any]:
    """Return the results of a network by name."""
    return {name: value for name, value in row.items() if name.startswith(("final_", "best_"))}


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics without those that a network that diverged has not."""
    return {name: float(value) for name, value in metrics.items() if value is not None and value == value}


def require_tracker(name: str) -> MakeTracker:
    """Return the class of a tracker.

    Raises:
        ModuleNotFoundError: If its extra is not installed; the message names the command's option.
    """
    try:
        return TRACKERS[name]
    except ModuleNotFoundError as error:
        raise missing_extra(f"--track {name}", name, error) from None


def make_tracker(destination: Destination, folder: Path, title: str, identity: str) -> Tracker:
    """Return a tracker; see `MakeTracker` for the arguments."""
    return require_tracker(destination.tracker)(destination.to, folder, title, identity)
