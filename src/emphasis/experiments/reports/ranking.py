"""Ranks of the methods, and their differences to the methods they are compared with, seed by seed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.console import Group

from emphasis.experiments.reports.summary import Entry, Gain, Spread, Summary, number, paired, spread
from emphasis.experiments.runs.store import Row
from emphasis.rich_text import PlainTable, plain

_HEADS = ("method", "mean_rank", "std", "conditions", "condition", "rank", "rank_std", "n")


@dataclass(frozen=True, eq=False)
class Ranked:
    """The rank of one of M methods.

    Attributes:
        method: Name of the method.
        mean: Mean and standard deviation of its mean ranks over the conditions; 1 is the best rank, M the worst.
        ranks: Its rank over the seeds, by condition.
        gains: Gain of each method of comparison over this one in the same seeds, by that method and by condition.
        compute: Its computational cost, by condition.
    """

    method: str
    mean: Spread
    ranks: dict[str, Spread]
    gains: dict[str, dict[str, Gain]]
    compute: dict[str, str]


def rank(summary: Summary) -> list[Ranked]:
    """Return the methods by mean rank, best first; methods that were not trained in every condition are left out.

    In each condition and seed the methods are ranked by the recipe's metric; ties share their mean rank, and networks
    that diverged rank last. Ranks are then averaged over seeds, and over conditions with equal weight.
    """
    names = [method.name for method in summary.recipe.methods]
    trained = [name for name in summary.recipe.condition_names if any(entry.rows for entry in summary.of(name))]
    if not trained:
        return []
    complete = [name for name in names if all(_complete(summary.find(one, name)) for one in trained)]
    by_condition = {one: _ranks(summary, one, complete) for one in trained}
    ranked = []
    for name in complete:
        ranks = {one: by_condition[one][name] for one in trained}
        gains = {
            other: {one: _gain(summary, one, other, name) for one in trained}
            for other in summary.recipe.compare
            if other in complete and other != name
        }
        compute = {one: _compute(_entry(summary, one, name).rows) for one in trained}
        ranked.append(Ranked(name, spread([one.mean for one in ranks.values()]), ranks, gains, compute))
    return sorted(ranked, key=lambda method: method.mean.mean)


def verdict(summary: Summary, ranked: Sequence[Ranked]) -> list[str]:
    """Return sentences about the best method and the ranks of the methods of comparison."""
    if not ranked:
        return []
    first = ranked[0]
    over = f"{len(ranked[0].ranks)} tasks" if len(ranked[0].ranks) > 1 else "the seeds"
    lines = [f"By mean rank over {over} {first.method} is first ({first.mean.mean:.1f} of {len(ranked)})."]
    order = [each.method for each in ranked]
    for name in summary.recipe.compare:
        if name not in order or name == first.method:
            continue
        index = order.index(name)
        lines.append(
            f"{name} is not best: it is number {index + 1} ({ranked[index].mean.mean:.1f}), behind "
            f"{', '.join(one.method for one in ranked[:index])}."
        )
    return lines


def compared(ranked: Sequence[Ranked]) -> list[str]:
    """Return the methods of comparison that have been trained."""
    return list(dict.fromkeys(other for one in ranked for other in one.gains))


def rank_tables(summary: Summary, ranked: Sequence[Ranked]) -> list[Group]:
    """Return the table of ranks, and a table of differences for each method of comparison, for the terminal."""
    conditions = list(ranked[0].ranks) if ranked else []
    scaled = ", scaled" if summary.scaled else ""
    ranks = _table("Method", "Mean rank", *conditions)
    for one in ranked:
        ranks.add_row(one.method, rank_text(one.mean), *(rank_text(one.ranks[name]) for name in conditions))
    groups = [Group(plain(f"Ranks, 1 is best{scaled}", style="bold"), ranks)]
    for other in compared(ranked):
        table = _table("Method", *conditions)
        for one in ranked:
            if other in one.gains:
                table.add_row(one.method, *(_led(one.gains[other][name]) for name in conditions))
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
        [*_HEADS, *(f"{other} minus it: {what}" for other in others for what in ("mean", "std", "ahead")), "compute"]
    )
    for one in ranked:
        for condition, own in one.ranks.items():
            line = [
                one.method,
                f"{one.mean.mean:.3f}",
                f"{one.mean.std:.3f}",
                one.mean.n,
                condition,
                f"{own.mean:.3f}",
                f"{own.std:.3f}",
                own.n,
            ]
            for other in others:
                gain = one.gains.get(other, {}).get(condition)
                line += (
                    ["", "", ""] if gain is None else [f"{100 * gain.mean:.3f}", f"{100 * gain.std:.3f}", gain.ahead]
                )
            writer.writerow([*line, one.compute[condition]])
    return file.getvalue()


def _entry(summary: Summary, condition: str, method: str) -> Entry:
    found = summary.find(condition, method)
    assert found is not None
    return found


def _complete(entry: Entry | None) -> bool:
    return entry is not None and len(entry.rows) == entry.seeds


def _ranks(summary: Summary, condition: str, names: Sequence[str]) -> dict[str, Spread]:
    """Return each method's rank over the seeds of a condition."""
    metric = summary.recipe.metric
    values = np.array([[number(row.get(metric)) for row in _entry(summary, condition, name).rows] for name in names])
    values = np.where(np.isfinite(values), values, -1.0)
    above = (values[None] > values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    ranks = above + (equal + 1) / 2
    return {name: spread([float(one) for one in own]) for name, own in zip(names, ranks, strict=True)}


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
