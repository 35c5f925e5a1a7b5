"""Results over seeds: the numbers of the table, the same for terminal and page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from emphasis.experiments.store import Row
from emphasis.metrics import describe_outcomes, mean_and_std

_CLEAR_GAIN = 0.1
COLUMNS = {
    "best": "best_test_accuracy",
    "final": "final_test_accuracy",
    "fit_noisy": "final_fit_noisy",
    "fit_true": "final_fit_true",
}


@dataclass(frozen=True)
class Summary:
    """A method over its seeds.

    Attributes:
        method: Its name.
        group: Its group.
        cells: For each of `COLUMNS`, "mean ± std" in percent; "-" without a finite number.
        final: Mean final test accuracy; NaN if there is none.
        gain: Mean and standard deviation, paired by seed, of final accuracy minus the baseline's, in points.
        clearly_better: Whether it ends 10 points or more above the baseline in every seed.
        status: What went wrong, such as "collapsed (2 of 5 seeds)"; "" if nothing did.
        detail: More of it, where there is more to say.
    """

    method: str
    group: str
    cells: dict[str, str]
    final: float
    gain: tuple[float, float]
    clearly_better: bool
    status: str
    detail: str

    @property
    def gain_text(self) -> str:
        """`gain` as text; "" where there is none."""
        return "" if math.isnan(self.gain[0]) else f"{100 * self.gain[0]:+.1f}"


def rows_of(rows: Sequence[Row], method: str) -> list[Row]:
    """Return the rows of one method, by seed."""
    return sorted((row for row in rows if row["method"] == method), key=lambda row: int(row["seed"]))


def methods_of(rows: Sequence[Row]) -> list[str]:
    """Return the methods in the order of the rows."""
    return list(dict.fromkeys(row["method"] for row in rows))


def summarise(rows: Sequence[Row], baseline: str) -> list[Summary]:
    """Return one summary per method, in the order of the rows."""
    reference = [_number(row["final_test_accuracy"]) for row in rows_of(rows, baseline)]
    summaries = []
    for method in methods_of(rows):
        own = rows_of(rows, method)
        final = [_number(row["final_test_accuracy"]) for row in own]
        gains = [a - b for a, b in zip(final, reference, strict=True)]
        summaries.append(
            Summary(
                method=method,
                group=own[0]["group"],
                cells={name: percent(*_spread([_number(row[key]) for row in own])) for name, key in COLUMNS.items()},
                final=_spread(final)[0],
                gain=(math.nan, math.nan) if method == baseline else _spread(gains),
                clearly_better=all(gain >= _CLEAR_GAIN for gain in gains),
                status=describe_outcomes([row["outcome"] for row in own]),
                detail=_detail(own),
            )
        )
    return summaries


def finding(summaries: Sequence[Summary], baseline: str) -> str:
    """Return in a sentence which methods end well above the baseline and which failed."""
    better = [s for s in summaries if s.clearly_better]
    failed = [s.method for s in summaries if s.status]
    text = (
        f"{len(better)} of {len(summaries) - 1} methods end 10 points or more above {baseline} in final test accuracy "
        "in every seed"
    )
    if better:
        best = max(better, key=lambda s: s.final)
        text += f", {best.method} highest ({best.cells['final']} %)"
    return text + (f". Did not hold what they had learned, or never learned: {', '.join(failed)}." if failed else ".")


def percent(mean: float, std: float) -> str:
    """Return "mean ± std" of shares in percent."""
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.1f}" + ("" if math.isnan(std) else f" ± {100 * std:.1f}")


def _spread(values: Sequence[float]) -> tuple[float, float]:
    mean, std = mean_and_std(values)
    return float(mean), float(std)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _detail(rows: Sequence[Row]) -> str:
    """Say from when on diverged networks gave no numbers."""
    first = [row["diverged_at"] for row in rows if row["diverged_at"] is not None]
    if not first:
        return ""
    return f"NaN or infinite logits from iteration {min(first)} on; these seeds are left out of the means"
