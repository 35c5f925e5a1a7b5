"""Ranks of the methods, and their differences to the methods they are compared with, seed by seed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Group

from emphasis.experiments.reports.summary import Entry, Gain, Spread, Summary, number, paired, spread
from emphasis.experiments.runs.store import Row
from emphasis.rich_text import PlainTable, plain

_HEADS = (
    "method",
    "mean_rank",
    "std",
    "rank_of_means",
    "not_learned",
    "conditions",
    "condition",
    "rank",
    "rank_std",
    "n",
)


@dataclass(frozen=True, eq=False)
class Ranked:
    """The rank of one of M methods.

    Attributes:
        method: Name of the method.
        mean: Mean and standard deviation of its mean ranks over the conditions; 1 is the best rank, M the worst.
        ranks: Its rank over the seeds, by condition.
        rank_of_means: Its rank by the mean over the seeds, averaged over the conditions. A few networks that did not
            learn cost a method little in `mean` and much here.
        not_learned: Number of its networks that collapsed, diverged or stayed at chance.
        gains: Gain of each method of comparison over this one in the same seeds, by that method and by condition.
        compute: Its computational cost, by condition.
    """

    method: str
    mean: Spread
    ranks: dict[str, Spread]
    rank_of_means: float
    not_learned: int
    gains: dict[str, dict[str, Gain]]
    compute: dict[str, str]


def rank(summary: Summary) -> list[Ranked]:
    """Return the methods by mean rank, best first; methods that were not trained in every condition are not ranked.

    In each condition and seed the methods are ranked by the recipe's metric; ties share their mean rank, and networks
    that diverged rank last. Ranks are then averaged over seeds, and over conditions with equal weight.
    """
    names = [method.name for method in summary.recipe.methods]
    trained = [name for name in summary.recipe.condition_names if any(entry.rows for entry in summary.of(name))]
    if not trained:
        return []
    complete = [name for name in names if all(_complete(summary.find(condition, name)) for condition in trained)]
    values = {condition: _values(summary, condition, complete) for condition in trained}
    by_condition = {condition: _ranks(values[condition]) for condition in trained}
    means = [values[condition].mean(1).round(12) for condition in trained]  # those that differ by rounding are equal
    of_means = np.mean([_descending_ranks(mean) for mean in means], axis=0)
    ranked = []
    for number_of_method, name in enumerate(complete):
        ranks = {condition: by_condition[condition][number_of_method] for condition in trained}
        rows = [row for condition in trained for row in _entry(summary, condition, name).rows]
        not_learned = sum(row["outcome"] != "learned" for row in rows)
        gains = {
            other: {condition: _gain(summary, condition, other, name) for condition in trained}
            for other in summary.recipe.compare
            if other in complete and other != name
        }
        compute = {condition: _compute(_entry(summary, condition, name).rows) for condition in trained}
        mean = spread([value.mean for value in ranks.values()])
        ranked.append(Ranked(name, mean, ranks, float(of_means[number_of_method]), not_learned, gains, compute))
    return sorted(ranked, key=lambda method: method.mean.mean)


def verdict(summary: Summary, ranked: Sequence[Ranked]) -> list[str]:
    """Return sentences about the best method and the ranks of the methods of comparison."""
    if not ranked:
        return []
    by_mean = sorted(ranked, key=lambda method: method.rank_of_means)
    over = f"{len(ranked[0].ranks)} tasks" if len(ranked[0].ranks) > 1 else "the seeds"
    first = (
        f"By mean rank in each seed, over {over}, {ranked[0].method} is first of {len(ranked)} "
        f"({ranked[0].mean.mean:.1f}); by rank of the means, {by_mean[0].method} ({by_mean[0].rank_of_means:.1f})."
    )
    lines = [first]
    for number_by_rank, method in enumerate(ranked, 1):
        number_by_mean = by_mean.index(method) + 1
        if method.method not in summary.recipe.compare or 1 in (number_by_rank, number_by_mean):
            continue
        failed = f"; {method.not_learned} of its networks did not learn" if method.not_learned else ""
        lines.append(
            f"{method.method} is not best: number {number_by_rank} by mean rank in each seed "
            f"({method.mean.mean:.1f}) and number {number_by_mean} by rank of the means "
            f"({method.rank_of_means:.1f}){failed}."
        )
    return lines


def compared(ranked: Sequence[Ranked]) -> list[str]:
    """Return the methods of comparison that have been trained."""
    return list(dict.fromkeys(other for method in ranked for other in method.gains))


def rank_tables(summary: Summary, ranked: Sequence[Ranked]) -> list[Group]:
    """Return the table of ranks, and a table of differences for each method of comparison, for the terminal."""
    conditions = list(ranked[0].ranks) if ranked else []
    scaled = ", scaled" if summary.scaled else ""
    ranks = _table("Method", "Mean rank", "Rank of means", "Not learned", *conditions)
    for method in ranked:
        of_means, not_learned = f"{method.rank_of_means:.1f}", str(method.not_learned or "")
        ranks.add_row(
            method.method,
            rank_text(method.mean),
            of_means,
            not_learned,
            *(rank_text(method.ranks[name]) for name in conditions),
        )
    groups = [Group(plain(f"Ranks, 1 is best{scaled}", style="bold"), ranks)]
    for other in compared(ranked):
        table = _table("Method", *conditions)
        for method in ranked:
            if other in method.gains:
                table.add_row(method.method, *(_led(method.gains[other][name]) for name in conditions))
        groups.append(
            Group(plain(f"{other} minus the method, points{scaled} (seeds in which it leads)", style="bold"), table)
        )
    return groups


def ranks_csv(ranked: Sequence[Ranked]) -> str:
    """Return the ranks as CSV, with one line per method and condition."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    others = compared(ranked)
    writer.writerow(
        [*_HEADS, *(f"{other} minus it: {part}" for other in others for part in ("mean", "std", "ahead")), "compute"]
    )
    for method in ranked:
        for condition, rank_in_condition in method.ranks.items():
            line = [
                method.method,
                f"{method.mean.mean:.3f}",
                f"{method.mean.std:.3f}",
                f"{method.rank_of_means:.3f}",
                method.not_learned,
                method.mean.n,
                condition,
                f"{rank_in_condition.mean:.3f}",
                f"{rank_in_condition.std:.3f}",
                rank_in_condition.n,
            ]
            for other in others:
                gain = method.gains.get(other, {}).get(condition)
                line += (
                    ["", "", ""] if gain is None else [f"{100 * gain.mean:.3f}", f"{100 * gain.std:.3f}", gain.ahead]
                )
            writer.writerow([*line, method.compute[condition]])
    return file.getvalue()


def _entry(summary: Summary, condition: str, method: str) -> Entry:
    entry = summary.find(condition, method)
    assert entry is not None
    return entry


def _complete(entry: Entry | None) -> bool:
    return entry is not None and len(entry.rows) == entry.seeds


def _values(summary: Summary, condition: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the recipe's metric (methods, seeds) in a condition; 0 for a network that diverged."""
    metric = summary.recipe.metric
    values = np.array([[number(row.get(metric)) for row in _entry(summary, condition, name).rows] for name in names])
    return np.where(np.isfinite(values), values, 0.0)


def _ranks(values: NDArray[np.float64]) -> list[Spread]:
    """Return each method's rank over the seeds, given the metric (methods, seeds)."""
    return [spread(ranks.tolist()) for ranks in _descending_ranks(values)]


def _descending_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks of values along the first axis, 1 for the largest; equal ones share their mean rank."""
    above = (values[None] > values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return np.asarray(above + (equal + 1) / 2)


def _gain(summary: Summary, condition: str, other: str, name: str) -> Gain:
    return paired(_entry(summary, condition, other), _entry(summary, condition, name), summary.recipe.metric)


def _compute(rows: Sequence[Row]) -> str:
    """Return the computational cost of a method, such as "2 networks, 41.0 passes"."""
    row = rows[0]
    parts = [f"{row['networks_trained']} networks"] if row.get("networks_trained", 1) > 1 else []
    if math.isfinite(number(row.get("passes"))):
        parts.append(f"{row['passes']:.1f} passes")
    if row.get("surveys"):
        parts.append(f"{row['surveys']:.1f} without derivatives")
    if row.get("true_labels_asked"):
        parts.append(f"{row['true_labels_asked']:,} true labels")
    return ", ".join(parts)


def _table(first: str, *headings: str) -> PlainTable:
    table = PlainTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def rank_text(value: Spread) -> str:
    """Return "3.2 ± 1.1"."""
    return f"{value.mean:.1f}" + ("" if math.isnan(value.std) else f" ± {value.std:.1f}")


def _led(gain: Gain) -> str:
    return f"{gain} ({gain.ahead}/{gain.n})" if gain.n else "-"
