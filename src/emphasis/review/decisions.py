"""Decisions about labels: an append-only file, the agreement of several reviewers, and the corrected labels.

decisions.jsonl holds one decision per line. A decision is on disk before `DecisionLog.append` returns, and a line that
was cut off by a crash is ignored. Only the latest decision of a reviewer about an example counts.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from emphasis.errors import EmphasisFileNotFoundError, EmphasisValueError
from emphasis.files import naming_refusals
from emphasis.json_files import JSONFileError

DECISIONS = "decisions.jsonl"
Action = Literal["keep", "suggestion", "other", "unsure", "withdraw"]
_MAX_TEXT = 10_000  # characters of a text in a decision


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The decision of a reviewer about one label.

    Attributes:
        example: Key of the example: the file of an image, relative to the data's folder, or the number of a row.
        action: "keep" the label, take the "suggestion", choose an "other" class, "unsure", or "withdraw" an earlier
            decision.
        before: The label as given.
        after: The label after the decision; "" for "unsure" and "withdraw".
        reviewer: Name of the reviewer.
        time: Time in UTC, as ISO 8601; empty for the present time.
        suggested: The class that the audit suggested.
        drawn: Whether the example was drawn at random from all that were not reviewed, not taken from the top of the
            order. Estimates of the remaining errors are based on these examples.
        settles: Whether the decision settles a disagreement of several reviewers.
        comment: Comment of the reviewer.
    """

    example: str
    action: Action
    before: str
    after: str
    reviewer: str = ""
    time: str = ""
    suggested: str = ""
    drawn: bool = False
    settles: bool = False
    comment: str = ""

    @property
    def says_wrong(self) -> bool:
        """Whether the given label is wrong according to this decision."""
        return self.action in ("suggestion", "other") and self.after != self.before


@dataclass(frozen=True)
class Outcome:
    """The joint outcome of the decisions about one example.

    Attributes:
        label: The label to use: the decided label, or the given label if there is no decision.
        before: The label as given.
        reviewers: Names of the reviewers.
        status: "confirmed", "corrected", "unsure", or "disputed" if reviewers disagree.
        comment: Their comments.
    """

    label: str
    before: str
    reviewers: tuple[str, ...]
    status: Literal["confirmed", "corrected", "unsure", "disputed"]
    comment: str = ""


@dataclass(frozen=True)
class Agreement:
    """The agreement of two reviewers.

    Attributes:
        reviewers: Names of the reviewers.
        both: Number of examples that both decided.
        observed: Share of these examples with the same decision; NaN if there are none.
        kappa: Cohen's kappa; NaN if it is not defined.
        disagreements: Keys of the examples that they decided differently.
    """

    reviewers: tuple[str, str]
    both: int
    observed: float
    kappa: float
    disagreements: tuple[str, ...]


class Decisions(Sequence[Decision]):
    """Decisions of one or several reviewers, in the order in which they were made.

    Examples:
        >>> from emphasis.review import Decision, Decisions
        >>> decisions = Decisions([
        ...     Decision(example="1", action="suggestion", before="cat", after="dog", reviewer="Ada"),
        ...     Decision(example="2", action="keep", before="dog", after="dog", reviewer="Ada"),
        ... ])
        >>> labels, weights = decisions.apply(["0", "1", "2"], ["cat", "cat", "dog"])
        >>> list(labels)
        ['cat', 'dog', 'dog']
    """

    def __init__(self, decisions: Iterable[Decision] = ()) -> None:
        self._decisions = tuple(decisions)

    @classmethod
    def read(cls, *paths: str | os.PathLike[str]) -> Decisions:
        """Return the decisions in one or several files, or in the folders of audits, merged.

        Raises:
            EmphasisFileNotFoundError: A file does not exist.
            JSONFileError: A line other than the last is damaged; the message names file and line.
        """
        parts = []
        for name in paths:
            path = Path(name) / DECISIONS if Path(name).is_dir() else Path(name)
            if not path.is_file():
                raise EmphasisFileNotFoundError(
                    f"{path} does not exist; `emphasis review` with the folder of an audit writes decisions"
                )
            parts.append(cls(DecisionLog(path).refresh()))
        return parts[0].merge(*parts[1:]) if parts else cls()

    def __len__(self) -> int:
        return len(self._decisions)

    def __getitem__(self, index: Any) -> Any:
        return Decisions(self._decisions[index]) if isinstance(index, slice) else self._decisions[index]

    def __iter__(self) -> Iterator[Decision]:
        return iter(self._decisions)

    def merge(self, *others: Decisions) -> Decisions:
        """Return all decisions ordered by time, without duplicates."""
        everything = dict.fromkeys(decision for part in (self, *others) for decision in part)
        return Decisions(sorted(everything, key=lambda decision: decision.time))

    @property
    def reviewers(self) -> tuple[str, ...]:
        """The names of the reviewers, in the order of their first decisions."""
        return tuple(dict.fromkeys(decision.reviewer for decision in self))

    def latest(self) -> dict[str, dict[str, Decision]]:
        """Return the latest decision of each reviewer about each example, as `latest()[example][reviewer]`."""
        latest: dict[str, dict[str, Decision]] = {}
        for decision in self:
            of_example = latest.setdefault(decision.example, {})
            of_example.pop(decision.reviewer, None)  # so that the last one is the latest of all reviewers
            if decision.action != "withdraw":
                of_example[decision.reviewer] = decision
        return {example: of_example for example, of_example in latest.items() if of_example}

    def outcomes(self) -> dict[str, Outcome]:
        """Return the joint outcome for each example.

        The majority decides, unless a later decision settles a disagreement.
        """
        return {example: outcome_of(list(of_example.values())) for example, of_example in self.latest().items()}

    def agree(self) -> list[Agreement]:
        """Return the agreement of each pair of reviewers on the examples that both decided."""
        latest = self.latest()
        pairs = []
        for number, first in enumerate(self.reviewers):
            for second in self.reviewers[number + 1 :]:
                both = {key: votes for key, votes in latest.items() if first in votes and second in votes}
                pairs.append(_agreement((first, second), both))
        return pairs

    def apply(
        self, keys: Sequence[Any], labels: Sequence[Any], *, trust: float = 2.0
    ) -> tuple[list[Any], NDArray[np.float64]]:
        """Return the labels with the decisions applied, and the weight of each example.

        Args:
            keys: Keys of the n examples: files relative to the data's folder, or numbers of rows.
            labels: The n given labels, as names of classes.
            trust: Weight of labels that were confirmed or corrected; the weight of the others is 1.

        Raises:
            EmphasisValueError: The label of an example differs from the label in a decision about it, so the decisions
                are about other data.
        """
        if len(keys) != len(labels):
            raise EmphasisValueError(f"there are {len(keys)} keys of {len(labels)} labels")
        outcomes, applied, weight = self.outcomes(), list(labels), np.ones(len(labels))
        for index, key in enumerate(keys):
            outcome = outcomes.get(str(key))
            if outcome is None:
                continue
            if str(labels[index]) not in (outcome.before, outcome.label):
                raise EmphasisValueError(
                    f"the decision about {key} is about the label {outcome.before!r}, but it is {labels[index]!r}: "
                    "the decisions are about other data"
                )
            if outcome.status in ("confirmed", "corrected"):
                applied[index], weight[index] = outcome.label, trust
        return applied, weight

    def to_frame(self) -> Any:
        """Return the decisions as a pandas DataFrame with one row per decision."""
        import pandas as pd

        names = [field.name for field in dataclasses.fields(Decision)]
        return pd.DataFrame([dataclasses.asdict(decision) for decision in self], columns=names)


def outcome_of(votes: Sequence[Decision]) -> Outcome:
    """Return the joint outcome of the latest decisions of several reviewers, given in order of time."""
    before, reviewers = votes[0].before, tuple(vote.reviewer for vote in votes)
    comment = "; ".join(dict.fromkeys(vote.comment for vote in votes if vote.comment))
    counting = [vote for vote in votes if vote.settles][-1:] or list(votes)
    ranked = Counter(vote.after for vote in counting if vote.action != "unsure").most_common()
    if not ranked:
        return Outcome(before, before, reviewers, "unsure", comment)
    if ranked[1:] and ranked[0][1] == ranked[1][1]:
        return Outcome(before, before, reviewers, "disputed", comment)
    label = ranked[0][0]
    return Outcome(label, before, reviewers, "confirmed" if label == before else "corrected", comment)


def _agreement(reviewers: tuple[str, str], both: Mapping[str, Mapping[str, Decision]]) -> Agreement:
    if not both:
        return Agreement(reviewers, 0, float("nan"), float("nan"), ())
    answers = [[_answer(votes[name]) for votes in both.values()] for name in reviewers]
    n = len(both)
    differ = tuple(key for key, first, second in zip(both, *answers, strict=True) if first != second)
    observed = 1.0 - len(differ) / n
    counts = [Counter(of_reviewer) for of_reviewer in answers]
    expected = sum(counts[0][answer] * counts[1][answer] for answer in counts[0]) / n**2
    kappa = (observed - expected) / (1.0 - expected) if expected < 1.0 else float("nan")
    return Agreement(reviewers, n, observed, kappa, differ)


def _answer(decision: Decision) -> str | None:
    return None if decision.action == "unsure" else decision.after


class DecisionLog:
    """A file of decisions that several processes can append to and follow.

    Args:
        path: File of the decisions, created with the first decision.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = self._lines = 0

    def refresh(self) -> list[Decision]:
        """Return the decisions that were added since the last call, by any process.

        Raises:
            JSONFileError: A complete line is damaged.
        """
        if not self.path.exists():
            return []
        with naming_refusals("read", self.path), self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._offset:
                raise JSONFileError(f"{self.path} has become shorter; decisions are only ever added to it")
            file.seek(self._offset)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]  # an incomplete line is being written, or was cut off by a crash
        decisions = []
        for line in complete.split(b"\n")[:-1]:
            self._lines += 1
            decisions.append(_decision_from_line(line, f"{self.path}, line {self._lines}"))
        self._offset += len(complete)
        return decisions

    def append(self, decisions: Sequence[Decision]) -> list[Decision]:
        """Append decisions, which are on disk when this returns; after a crash, some of them may be.

        Returns:
            The decisions as written, with their time.

        Raises:
            EmphasisOSError: The decisions cannot be written, and none of them counts.
        """
        from filelock import FileLock

        stamped = [decision if decision.time else dataclasses.replace(decision, time=_now()) for decision in decisions]
        content = b"".join(_line_of(decision) for decision in stamped)
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        with naming_refusals("write to", self.path), lock, self.path.open("a+b") as file:
            start = _end_of_last_line(file)
            file.truncate(start)  # a line that was cut off was never reported as saved
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise
            if not start:
                _sync_folder(self.path.parent)
        return stamped


def _end_of_last_line(file: Any) -> int:
    """Return the position after the last complete line of a file."""
    position = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - 4096)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return int(start + newline + 1)
        position = start
    return 0


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file durable, if the system supports it."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _line_of(decision: Decision) -> bytes:
    return json.dumps(dataclasses.asdict(decision)).encode("ascii") + b"\n"


def _decision_from_line(line: bytes, where: str) -> Decision:
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        return decision_from_dict(record)
    except (ValueError, RecursionError) as error:
        raise JSONFileError(f"{where}: not a decision ({error}); remove the line") from error


def decision_from_dict(record: Mapping[str, Any]) -> Decision:
    """Return a decision from its fields; unknown fields are ignored.

    Raises:
        EmphasisValueError: A field is missing or has a value that is not allowed.
    """
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Decision):
        kind = bool if field.type == "bool" else str
        value = record.get(field.name, field.default)
        if not isinstance(value, kind):
            raise EmphasisValueError(f"{field.name!r} is missing or not a {'truth value' if kind is bool else 'text'}")
        if isinstance(value, str) and len(value) > _MAX_TEXT:
            raise EmphasisValueError(f"{field.name!r} has more than {_MAX_TEXT:,} characters")
        values[field.name] = value
    if values["action"] not in get_args(Action):
        raise EmphasisValueError(
            f"the action {values['action']!r} is unknown; use one of {', '.join(get_args(Action))}"
        )
    return Decision(**values)
