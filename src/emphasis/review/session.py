"""The state of a review: the next example, the decisions, and estimates about unreviewed examples."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.review.decisions import Decision, DecisionLog, Decisions, Outcome, outcome_of
from emphasis.review.estimate import (
    SHARE,
    Outlook,
    drawn_examples,
    estimate_remaining,
    outlook,
    random_sequence,
)
from emphasis.review.examples import Examples, ReviewError
from emphasis.review.neighbors import Neighbors
from emphasis.review.order import LearnedOrder
from emphasis.review.views import Views

RELEARN_EVERY = 25
"""Number of decisions after which the order is learned again."""

_SHARED = 10  # one of this number of examples is shown to every reviewer, to measure agreement
_RECENT = 50  # decisions from which the next are predicted before an order can be learned


@dataclass(frozen=True)
class Filter:
    """A selection of examples.

    Attributes:
        status: "open" for those that the reviewer has not seen yet, "reviewed", "disputed" or "all".
        given: Only examples with this label; -1 for any.
        suggested: Only examples with this suggestion; -1 for any.
        least: Smallest score.
        most: Largest score.
        query: Text that the examples contain.
        suspects: Whether only suspects are shown.
    """

    status: str = "open"
    given: int = -1
    suggested: int = -1
    least: float = -np.inf
    most: float = np.inf
    query: str = ""
    suspects: bool = False


class ReviewSession:
    """A review of an audit, by one or several reviewers at once; safe to use from several threads.

    Args:
        examples: Examples of the audit.
        views: Views of the examples.
        log: File of the decisions; those of earlier sessions are read.
        relearn_every: Number of decisions after which the order is learned again; 0 keeps the audit's order.

    Raises:
        JSONFileError: The decisions are damaged.
        ReviewError: The decisions are about other data.
    """

    def __init__(
        self, examples: Examples, views: Views, log: DecisionLog, *, relearn_every: int = RELEARN_EVERY
    ) -> None:
        self.examples, self.views = examples, views
        self.neighbors = Neighbors(examples)
        self._log, self._relearn_every = log, relearn_every
        self._order = LearnedOrder(examples, self.neighbors)
        self._suspicion = self._order.static()
        self._queue = np.argsort(-self._suspicion, kind="stable")
        self._learned_from = 0
        self._sequence = random_sequence(len(examples))
        self._votes: dict[int, dict[str, Decision]] = {}
        self._decisions: list[Decision] = []
        self._draws: list[int] = []
        self._masks: dict[str, NDArray[np.bool_]] = {}
        self._reviewed = np.zeros(len(examples), dtype=bool)
        self._skipped: dict[str, set[int]] = {}
        self._skipped_at: dict[str, int] = {}
        self._on_screen: dict[str, tuple[int, bool]] = {}
        self._searches: dict[str, NDArray[np.bool_]] = {}
        self._lock = threading.RLock()
        self._learner: threading.Thread | None = None
        self.refresh()

    def refresh(self) -> None:
        """Read the decisions that other processes have appended."""
        with self._lock:
            self._take_in(self._log.refresh())

    def _take_in(self, decisions: Sequence[Decision]) -> None:
        for decision in decisions:
            index = self.examples.index_of.get(decision.example)
            if index is None or self.examples.class_names[self.examples.labels[index]] != decision.before:
                raise ReviewError(
                    f"{self._log.path} holds a decision about {decision.example!r} labeled {decision.before!r}, which "
                    "this audit does not have; move the file away, or audit the data that it belongs to"
                )
            self._decisions.append(decision)
            votes = self._votes.setdefault(index, {})
            votes.pop(decision.reviewer, None)
            if decision.action != "withdraw":
                votes[decision.reviewer] = decision
            elif not votes:
                del self._votes[index]
            mask = self._masks.setdefault(decision.reviewer, np.zeros(len(self.examples), dtype=bool))
            mask[index] = decision.action != "withdraw"
            self._reviewed[index] = index in self._votes
            if decision.drawn:
                self._draws.append(index)
        if decisions:
            self._learn_if_due()

    def decide(self, reviewer: str, indices: Sequence[int], action: Any, label: int = -1, **more: Any) -> None:
        """Save the decisions of a reviewer about examples, which are on disk when this returns.

        Args:
            reviewer: Name of the reviewer.
            indices: Indices of the examples.
            action: Action, as in `Decision`.
            label: Class for the action "other".
            more: Further fields of the decisions, such as `comment`.

        Raises:
            ReviewError: An example or the class does not exist.
            EmphasisOSError: The decisions cannot be saved.
        """
        names, decisions = self.examples.class_names, []
        shown = self._on_screen.get(reviewer)
        for index in indices:
            if not 0 <= index < len(self.examples):
                raise ReviewError(f"there is no example {index}")
            before = names[self.examples.labels[index]]
            suggested = names[self.examples.suggested[index]]
            if action == "other" and not 0 <= label < len(names):
                raise ReviewError(f"there is no class {label}")
            after = {"keep": before, "suggestion": suggested}.get(action, names[label] if action == "other" else "")
            decisions.append(
                Decision(
                    example=self.examples.keys[index],
                    action=action,
                    before=before,
                    after=after,
                    reviewer=reviewer,
                    suggested=suggested,
                    drawn=shown == (index, True) and action != "withdraw",
                    **more,
                )
            )
        with self._lock:
            self._log.append(decisions)
            self._take_in(self._log.refresh())

    def skip(self, reviewer: str, index: int) -> None:
        """Skip an example, which is not shown to the reviewer again in this session, except on request."""
        with self._lock:
            self._skipped.setdefault(reviewer, set()).add(index)
            self._skipped_at[reviewer] = len(self._decisions)

    def next_example(self, reviewer: str, chosen: Filter | None = None) -> int | None:
        """Return the example to show next, or None if there is none left."""
        with self._lock:
            others = {index for name, (index, _) in self._on_screen.items() if name != reviewer}
            selected = self._selected(reviewer, chosen or Filter())
            selected[list(others)] = False  # unless no other examples remain
            if not selected.any():
                selected = self._selected(reviewer, chosen or Filter())
            if not selected.any():
                self._on_screen.pop(reviewer, None)
                return None
            index, drawn = int(self._queue[selected[self._queue].argmax()]), False
            is_turn = len(self._decisions) % SHARE == SHARE - 1
            if is_turn and chosen in (None, Filter()) and self._skipped_at.get(reviewer) != len(self._decisions):
                # A draw that was skipped is shown again at the next turn: leaving it out would bias the estimate.
                unreviewed = np.flatnonzero(~self._reviewed[self._sequence])
                if len(unreviewed):
                    index, drawn = int(self._sequence[unreviewed[0]]), True
            self._on_screen[reviewer] = (index, drawn)
            return index

    def matching(self, reviewer: str, chosen: Filter) -> NDArray[np.int64]:
        """Return all examples that a filter selects, in the current order."""
        with self._lock:
            return np.asarray(self._queue[self._selected(reviewer, chosen)[self._queue]], dtype=np.int64)

    def _selected(self, reviewer: str, chosen: Filter) -> NDArray[np.bool_]:
        examples = self.examples
        n = len(examples)
        selected = np.ones(n, dtype=bool)
        if chosen.status == "open":
            shared = self._sequence % _SHARED == 0
            decided_by_reviewer = self._masks.get(reviewer)
            selected = (
                ~self._reviewed | shared
                if decided_by_reviewer is None
                else (~self._reviewed | shared) & ~decided_by_reviewer
            )
            selected[list(self._skipped.get(reviewer, ()))] = False
        elif chosen.status == "reviewed":
            selected = self._reviewed.copy()
        elif chosen.status == "disputed":
            selected = np.zeros(n, dtype=bool)
            selected[self.disputed()] = True
        if chosen.suspects:
            selected &= examples.suspect
        if chosen.given >= 0:
            selected &= examples.labels == chosen.given
        if chosen.suggested >= 0:
            selected &= examples.suggested == chosen.suggested
        if chosen.query:
            if chosen.query not in self._searches:
                self._searches = {chosen.query: self.views.search(chosen.query)}
            selected &= self._searches[chosen.query]
        return selected & (examples.score >= chosen.least) & (examples.score <= chosen.most)

    def votes(self, index: int) -> list[Decision]:
        """Return the latest decision of each reviewer about an example, in order of time."""
        return list(self._votes.get(index, {}).values())

    def disputed(self) -> list[int]:
        """Return the examples about which reviewers disagree."""
        return [index for index, outcome in self._outcomes().items() if outcome.status == "disputed"]

    def latest_of(self, reviewer: str, count: int) -> list[int]:
        """Return the examples with the latest decisions of a reviewer, the latest first."""
        with self._lock:
            keys = [decision.example for decision in reversed(self._decisions) if decision.reviewer == reviewer]
            return [self.examples.index_of[key] for key in dict.fromkeys(keys)][:count]

    def _outcomes(self) -> dict[int, Outcome]:
        return {index: outcome_of(list(votes.values())) for index, votes in self._votes.items()}

    def _learn_if_due(self) -> None:
        if not self._relearn_every or len(self._decisions) - self._learned_from < self._relearn_every:
            return
        if self._learner is not None and self._learner.is_alive():
            return
        wrong = _answers(self._outcomes())
        if self._order.can_learn(wrong):
            self._learned_from = len(self._decisions)
            self._learner = threading.Thread(target=self._learn, args=(wrong,), daemon=True)
            self._learner.start()

    def _learn(self, wrong: Mapping[int, bool]) -> None:
        suspicion = self._order.probabilities(wrong)
        queue = np.argsort(-suspicion, kind="stable")
        with self._lock:
            self._suspicion, self._queue = suspicion, queue

    def wait_for_order(self) -> None:
        """Wait until learning of an order is complete."""
        if self._learner is not None:
            self._learner.join()

    @property
    def is_learned(self) -> bool:
        """Whether the order was learned from decisions."""
        return self._learned_from > 0 and (self._learner is None or not self._learner.is_alive())

    def summary(self) -> dict[str, Any]:
        """Return counts, agreement, and estimates about the unreviewed examples."""
        with self._lock:
            outcomes = self._outcomes()
            statuses = Counter(outcome.status for outcome in outcomes.values())
            suspects = [outcome for index, outcome in outcomes.items() if self.examples.suspect[index]]
            wrong = {index: outcome.status == "corrected" for index, outcome in outcomes.items()}
            drawn = drawn_examples(self._sequence, self._reviewed, self._draws)
            remaining = estimate_remaining(self._suspicion, wrong, drawn)
            ahead = self._outlook(np.flatnonzero(~self._reviewed), outcomes)
            return {
                "examples": len(self.examples),
                "suspects": int(self.examples.suspect.sum()),
                "reviewed": len(outcomes),
                "by_reviewer": dict(
                    Counter(decision.reviewer for v in self._votes.values() for decision in v.values())
                ),
                **{name: statuses[name] for name in ("corrected", "confirmed", "unsure", "disputed")},
                "suspects_reviewed": len(suspects),
                "suspects_wrong": sum(outcome.status == "corrected" for outcome in suspects),
                "remaining": vars(remaining),
                "outlook": None if ahead is None else vars(ahead),
                "learned": self.is_learned,
                "agreement": [
                    {
                        "reviewers": pair.reviewers,
                        "both": pair.both,
                        "observed": pair.observed if pair.both else None,
                        "kappa": pair.kappa if pair.kappa == pair.kappa else None,
                        "differ": len(pair.disagreements),
                    }
                    for pair in Decisions(self._decisions).agree()
                ],
            }

    def _outlook(self, unreviewed: NDArray[np.int64], outcomes: Mapping[int, Outcome]) -> Outlook | None:
        if self.is_learned:
            return outlook(self._suspicion, unreviewed)
        recent = [outcome.status == "corrected" for outcome in list(outcomes.values())[-_RECENT:]]
        if len(recent) < RELEARN_EVERY:
            return None
        ahead = min(_RECENT, len(unreviewed))
        return Outlook(ahead, ahead * sum(recent) / len(recent), -1)


def _answers(outcomes: Mapping[int, Outcome]) -> dict[int, bool]:
    """Return whether the label is wrong, by decided example."""
    return {
        index: outcome.status == "corrected"
        for index, outcome in outcomes.items()
        if outcome.status in ("corrected", "confirmed")
    }
