"""Tables of benchmarks/defaults.py: each method's difference to cross-entropy, paired by seed, in points."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from defaults_figures import draw_differences, draw_dynamics
from defaults_methods import CCE, EARLY, MORE
from lines import read_lines
from numpy.typing import NDArray
from scipy.stats import t as student

from emphasis.files import write_text

ACCURACY, RECALL, HELD_OUT = range(3)
Cell = tuple[str, str, str]
"""Task, noise, regime."""
Scores = dict[Cell, dict[str, dict[float, NDArray[np.float64]]]]
"""By cell, method and rate: (seeds, 3) test accuracy, macro recall and accuracy on held-out noisy labels, percent."""
IMBALANCED = ("wine quality", "mnist-8", "diamonds cut")
AT_ITS_RATE, AT_OWN_RATE = "at cross-entropy's rate", "at its own best rate"


def scores_of(lines: Iterable[dict[str, Any]]) -> Scores:
    """Return the scores of the cells that every method has, of the seeds that every network of the cell has."""
    found: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for line in lines:
        for key, values in line["networks"].items():
            method, regime, rate = key.split("|")
            name = EARLY if method == "early" else method
            found[line["task"], line["noise"], regime][name][float(rate)][line["seed"]] = values[:3]
    names = {name for methods in found.values() for name in methods}
    scores: Scores = {}
    for cell, methods in found.items():
        shared = set.intersection(*(set(seeds) for rates in methods.values() for seeds in rates.values()))
        if shared and methods.keys() == names:
            scores[cell] = {
                name: {
                    rate: 100.0 * np.array([seeds[seed] for seed in sorted(shared)]) for rate, seeds in rates.items()
                }
                for name, rates in methods.items()
            }
    return scores


def best_rate(rates: dict[float, NDArray[np.float64]]) -> float:
    """Return the rate whose networks agree best with the held-out labels, which are as noisy as the others."""
    return max(rates, key=lambda rate: rates[rate][:, HELD_OUT].mean())


def differences(scores: Scores, own_rate: bool, of: int = ACCURACY) -> dict[str, dict[Cell, NDArray[np.float64]]]:
    """Return by method and cell the differences to cross-entropy at its best rate, one for each seed."""
    found: dict[str, dict[Cell, NDArray[np.float64]]] = defaultdict(dict)
    for cell, methods in scores.items():
        its_rate = best_rate(methods[CCE])
        for name, rates in methods.items():
            rate = best_rate(rates) if own_rate else its_rate
            found[name][cell] = rates[rate][:, of] - methods[CCE][its_rate][:, of]
    return found


def collapses(scores: Scores, own_rate: bool) -> dict[str, int]:
    """Return by method in how many cells its accuracy is below half of cross-entropy's."""
    gaps = differences(scores, own_rate)
    bases = {cell: methods[CCE][best_rate(methods[CCE])][:, ACCURACY].mean() for cell, methods in scores.items()}
    return {name: sum(gap.mean() < -0.5 * bases[cell] for cell, gap in by.items()) for name, by in gaps.items()}


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval by Student's t over the seeds."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Interval:
        n = len(values)
        half = student.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else float("nan")
        return cls(float(values.mean()), float(half))

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ± {self.half:.1f}" if np.isfinite(self.half) else f"{self.mean:+.1f}"


def over_cells(gaps: Sequence[NDArray[np.float64]]) -> Interval:
    """Return the mean over cells, its interval over seeds (those that all cells have)."""
    seeds = min(len(gap) for gap in gaps)
    return Interval.of(np.mean([gap[:seeds] for gap in gaps], axis=0))


def summary(scores: Scores, own_rate: bool) -> list[dict[str, Any]]:
    """Return a row for each method, best mean first."""
    rows = []
    recall, fallen = differences(scores, own_rate, RECALL), collapses(scores, own_rate)
    for name, by in differences(scores, own_rate).items():
        if name == CCE:
            continue
        means = {cell: float(gap.mean()) for cell, gap in by.items()}
        worst = min(means, key=means.__getitem__)
        row: dict[str, Any] = {"method": name, "rate": AT_OWN_RATE if own_rate else AT_ITS_RATE}
        row["mean"], row["worst"] = over_cells(list(by.values())), Interval.of(by[worst])
        row["worst cell"] = ", ".join(worst)
        row["losses > 1"] = sum(mean < -1.0 for mean in means.values())
        row["wins > 1"] = sum(mean > 1.0 for mean in means.values())
        row["collapses"] = fallen[name]
        for axis, values in ((1, noises(scores)), (2, regimes(scores))):
            for value in values:
                row[value] = float(np.mean([mean for cell, mean in means.items() if cell[axis] == value]))
        row["recall"] = float(np.mean([gap.mean() for gap in recall[name].values()]))
        rare = {cell: float(gap.mean()) for cell, gap in recall[name].items() if cell[0] in IMBALANCED}
        if rare:
            row["recall, imbalanced"] = float(np.mean(list(rare.values())))
            lowest = min(rare, key=rare.__getitem__)
            row["worst recall, imbalanced"] = Interval.of(recall[name][lowest])
        rows.append(row)
    return sorted(rows, key=lambda row: -row["mean"].mean)


def noises(scores: Scores) -> list[str]:
    return sorted({cell[1] for cell in scores}, key=lambda noise: ("pair" in noise, noise))


def regimes(scores: Scores) -> list[str]:
    return list(dict.fromkeys(cell[2] for cell in scores))


def table(rows: list[dict[str, Any]], columns: Sequence[str]) -> list[str]:
    lines = ["| method | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for row in rows:
        values = [f"{row[c]:+.1f}" if isinstance(row[c], float) else str(row[c]) for c in columns]
        lines.append(f"| {row['method']} | " + " | ".join(values) + " |")
    return lines


def _section(title: str, scores: Scores) -> list[str]:
    text = [f"## {title}", ""]
    for own_rate in (False, True):
        rows = summary(scores, own_rate)
        common = ["mean", "worst", "worst cell", "losses > 1", "wins > 1", "collapses"]
        parts = [*noises(scores), *regimes(scores)]
        rest = [name for name in ("recall", "recall, imbalanced", "worst recall, imbalanced") if name in rows[0]]
        text += [f"### Each method {AT_OWN_RATE if own_rate else AT_ITS_RATE}", ""]
        text += [*table(rows, common), "", *table(rows, [*parts, *rest]), ""]
    return text


def _by_cell(scores: Scores) -> list[list[str]]:
    """Return the lines of cells.csv."""
    its, own = differences(scores, False), differences(scores, True)
    lines = [
        [
            "task",
            "noise",
            "regime",
            "method",
            "seeds",
            "CCE",
            "CCE's rate",
            "difference",
            "±",
            "own rate",
            "difference at own rate",
            "± at own rate",
        ]
    ]
    for cell, methods in scores.items():
        rate = best_rate(methods[CCE])
        base = methods[CCE][rate][:, ACCURACY].mean()
        for name, rates in methods.items():
            at_its, at_own = Interval.of(its[name][cell]), Interval.of(own[name][cell])
            numbers = (at_its.mean, at_its.half, at_own.mean, at_own.half)
            first, second, third, fourth = (f"{number:.3f}" for number in numbers)
            seeds = str(len(its[name][cell]))
            line = [*cell, name, seeds, f"{base:.3f}", f"{rate:g}", first, second, f"{best_rate(rates):g}"]
            lines.append([*line, third, fourth])
    return lines


def image_scores(lines: Iterable[dict[str, Any]]) -> Scores:
    """Return the scores of the seeds that cross-entropy has as well; there is one rate, 0."""
    found: dict[Cell, dict[str, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        values = [line["accuracy"], line["recall"], 0.0]
        found[line["task"], line["noise"], line["norm"]][line["method"]][line["seed"]] = values
    scores: Scores = {}
    for cell, methods in found.items():
        complete = [seeds for name, seeds in methods.items() if name in methods]
        shared = sorted(set.intersection(*(set(seeds) for seeds in complete))) or [0]
        scores[cell] = {
            name: {0.0: 100.0 * np.array([seeds[seed] for seed in shared])}
            for name, seeds in methods.items()
            if set(shared) <= seeds.keys()
        }
    return scores


def _betas(scores: Scores) -> list[str]:
    """Return a table: accuracy at 40 % symmetric noise, each at its own best rate, and that rate."""
    names = list(next(iter(scores.values())))
    rows = ["| | " + " | ".join(cell[0] for cell in scores) + " | mean |", "|---|" + "---|" * (len(scores) + 1)]
    for name in names:
        values = []
        for methods in scores.values():
            rate = best_rate(methods[name])
            values.append((methods[name][rate][:, ACCURACY].mean(), rate))
        cells = [f"{accuracy:.1f} ({rate:g})" for accuracy, rate in values]
        rows.append(f"| {name} | " + " | ".join(cells) + f" | {np.mean([a for a, _ in values]):.1f} |")
    return rows


def write_report(out: Path, images: Path) -> None:
    """Write README.md, table.csv and cells.csv to `out`, the figures to `images`."""
    lines = read_lines(out / "perceptrons.jsonl")
    if not lines:
        return
    for name in MORE:
        lines += read_lines(out / f"{name}.jsonl")
    scores = scores_of(lines)
    pictures, betas = read_lines(out / "images.jsonl"), read_lines(out / "betas.jsonl")
    what = (
        "Test accuracy minus cross-entropy's at the rate that is best for it, in points; ± is the 95 % interval over "
        "the seeds, paired. The worst cell is picked for being so: its mean is biased downwards. Collapses: below half "
        "of cross-entropy's accuracy. Written by `python benchmarks/defaults.py --report`; its docstring says what was "
        "trained."
    )
    where = _provenance(scores, [*lines, *pictures, *betas])
    text = ["# Default losses", "", what, "", where, "", *_section("Perceptrons", scores)]
    if pictures:
        cells = image_scores(pictures)
        text += ["## Images, scaled: one rate", "", *_images(cells), ""]
    if betas:
        what = (
            "Test accuracy and the rate, each method's best. Vanishing DM tends to GCE with q = lam as beta tends to 0."
        )
        text += ["## DM's beta beside GCE, 40 % symmetric", "", what, "", *_betas(scores_of(betas)), ""]
    write_text(out / "README.md", "\n".join(text))
    rows = [row for own_rate in (False, True) for row in summary(scores, own_rate)]
    _write_csv(out / "table.csv", [list(rows[0]), *([_plain(value) for value in row.values()] for row in rows)])
    _write_csv(out / "cells.csv", _by_cell(scores))
    _write_check(out)
    gaps = {
        name: {cell: float(gap.mean()) for cell, gap in by.items()} for name, by in differences(scores, False).items()
    }
    draw_differences(images / "defaults-differences.png", gaps)
    if watched := read_lines(out / "dynamics.jsonl"):
        draw_dynamics(images / "defaults-dynamics.png", watched)


def _provenance(scores: Scores, lines: Sequence[dict[str, Any]]) -> str:
    """Return how many networks, cells of perceptrons and seeds there are, and what they were trained with."""
    seeds = [len(methods[CCE][best_rate(methods[CCE])]) for methods in scores.values()]
    networks = sum(len(line.get("networks", [0])) for line in lines)
    return (
        f"{networks} networks, {len(scores)} cells of perceptrons with {min(seeds)} to {max(seeds)} seeds; revisions "
        f"{', '.join(sorted({line['revision'] for line in lines}))}; torch {lines[0]['torch']}, {lines[0]['machine']}."
    )


def _write_check(out: Path) -> None:
    """Write check.md: the tasks of benchmarks/defaults_check.py, which had no part in the choice of the default."""
    lines = read_lines(out / "check.jsonl")
    if not lines:
        return
    for name in MORE:
        lines += read_lines(out / f"check_{name}.jsonl")
    scores = scores_of(lines)
    what = (
        "As in README.md, for the tasks of `python benchmarks/defaults_check.py`, which had no part in the choice of "
        "the default. Written by `python benchmarks/defaults.py --report`."
    )
    where = _provenance(scores, lines)
    text = ["# Default losses on tasks that had no part in the choice", "", what, "", where, ""]
    write_text(out / "check.md", "\n".join([*text, *_section("Perceptrons", scores)]))


def _images(scores: Scores) -> list[str]:
    """Return a table of the cells: cross-entropy's accuracy, and the differences to it."""
    names = list(dict.fromkeys(name for methods in scores.values() for name in methods if name != CCE))
    rows = ["| | seeds | CCE | " + " | ".join(names) + " |", "|---|---|---|" + "---|" * len(names)]
    gaps = differences(scores, False)
    for cell, methods in scores.items():
        base = methods[CCE][0.0][:, ACCURACY]
        values = [str(Interval.of(gaps[name][cell])) if cell in gaps[name] else "" for name in names]
        rows.append(f"| {', '.join(cell)} | {len(base)} | {base.mean():.1f} | " + " | ".join(values) + " |")
    return rows


def _plain(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
