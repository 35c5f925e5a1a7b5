"""Tables of benchmarks/noisy_tables.py."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from emphasis.files import write_text

OWN = "own objective"
Lines = list[dict[str, Any]]


def write_report(out: Path, lines: Lines, methods: list[str], machine: dict[str, str]) -> None:
    """Write README.md with a table for each number, booster and kind of trees."""
    seeds = sorted({line["seed"] for line in lines})
    what = (
        "Test accuracy in percent, mean +- standard deviation over seeds; in brackets the mean paired difference to "
        "the booster's own objective, with a `*` where it is more than two standard errors from 0. Written by "
        "`python benchmarks/noisy_tables.py --data DIR`, whose docstring says what was trained."
    )
    revisions = ", ".join(sorted({line["revision"] for line in lines}))
    where = (
        f"{len(lines)} trainings, seeds {seeds[0]} to {seeds[-1]}, revision {revisions}, "
        + ", ".join(f"{name} {value}" for name, value in machine.items())
        + "."
    )
    text = ["# Boosting with wrong labels", "", what, "", where, "", *_summary(lines, methods)]
    for number, trees in product(("last", "stopped"), dict.fromkeys(line["trees"] for line in lines)):
        said = "after the last round" if number == "last" else "stopped early by the noisy held-out rows"
        text += [f"## {trees.capitalize()}, {said}", ""]
        for booster in dict.fromkeys(line["booster"] for line in lines):
            some = [line for line in lines if line["booster"] == booster and line["trees"] == trees]
            text += [f"### {booster}", "", *_table(some, methods, number), ""]
    write_text(out / "README.md", "\n".join(text))


def _columns(lines: Lines) -> list[tuple[str, float]]:
    return sorted({(line["data"], line["rate"]) for line in lines}, key=lambda pair: (pair[0], pair[1]))


def _table(lines: Lines, methods: list[str], number: str) -> list[str]:
    columns = _columns(lines)
    rows = ["| | " + " | ".join(f"{data} {100 * rate:.0f} %" for data, rate in columns) + " |"]
    rows.append("|---|" + "---|" * len(columns))
    for method in methods:
        cells = []
        for column in columns:
            own, values = (_by_seed(lines, column, name, number) for name in (OWN, method))
            cell = f"{100 * np.mean(list(values.values())):.1f} +- {100 * np.std(list(values.values()), ddof=1):.1f}"
            if method != OWN:
                mean, clear = _paired(own, values)
                cell += f" ({mean:+.1f}{'*' if clear else ''})"
            cells.append(cell)
        rows.append(f"| {method} | " + " | ".join(cells) + " |")
    return rows


def _by_seed(lines: Lines, column: tuple[str, float], method: str, number: str) -> dict[int, float]:
    return {
        line["seed"]: line[number]
        for line in lines
        if (line["data"], line["rate"]) == column and line["method"] == method
    }


def _paired(own: dict[int, float], values: dict[int, float]) -> tuple[float, bool]:
    """Return the mean difference in points, and whether it is more than two standard errors from 0."""
    seeds = sorted(own.keys() & values.keys())
    differences = 100 * np.array([values[seed] - own[seed] for seed in seeds])
    error = differences.std(ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else np.inf
    return float(differences.mean()), bool(abs(differences.mean()) > 2 * error)


def _summary(lines: Lines, methods: list[str]) -> list[str]:
    """Say in how many cells each method is clearly better or worse, and its mean difference, by noise rate."""
    rates = sorted({line["rate"] for line in lines})
    rows = ["## In all", ""]
    about = (
        "Mean difference to the own objective in points over all cells of a noise rate (data, booster, trees); in "
        "brackets, in how many it is clearly better and clearly worse."
    )
    rows += [about, ""]
    for number in ("last", "stopped"):
        rows += [f"| {number} | " + " | ".join(f"{100 * rate:.0f} % noise" for rate in rates) + " |"]
        rows += ["|---|" + "---|" * len(rates)]
        for method in methods:
            if method == OWN:
                continue
            cells = []
            for rate in rates:
                groups = {(line["data"], line["booster"], line["trees"]) for line in lines if line["rate"] == rate}
                found = []
                for data, booster, trees in groups:
                    some = [line for line in lines if line["booster"] == booster and line["trees"] == trees]
                    found.append(_paired(*(_by_seed(some, (data, rate), name, number) for name in (OWN, method))))
                better, worse = (sum(clear and sign * mean > 0 for mean, clear in found) for sign in (1, -1))
                cells.append(
                    f"{np.mean([mean for mean, _ in found]):+.1f} ({better} better, {worse} worse of {len(found)})"
                )
            rows.append(f"| {method} | " + " | ".join(cells) + " |")
        rows.append("")
    return rows
