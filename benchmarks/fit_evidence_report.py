"""The tables of benchmarks/fit_evidence.py."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from emphasis.scores import METRICS

Line = dict[str, Any]
_Z = NormalDist().inv_cdf(0.975)
_HEADING = (
    "`python benchmarks/fit_evidence.py --data DATA`: {models} models, {seeds} seeds ({seconds} CPU seconds). Measured "
    "on the right labels of held-out rows. Differences to cross-entropy (CCE) in points, for log loss in nats; ± is "
    "the 95 % interval over tables and seeds, paired."
)


def write_report(folder: Path, lines: Sequence[Line]) -> None:
    """Write README.md into the folder."""
    (folder / "README.md").write_text("\n".join(report(lines)) + "\n", encoding="utf-8")


def report(lines: Sequence[Line]) -> list[str]:
    """Return all tables as lines of Markdown."""
    seeds = sorted({line["seed"] for line in lines})
    parts = [
        "# Does the default of `emphasis fit` help?",
        "",
        _HEADING.format(models=len(lines), seeds=len(seeds), seconds=round(sum(line["cpu_seconds"] for line in lines))),
    ]
    for model in dict.fromkeys(line["model"] for line in lines):
        parts += ["", f"## {model}", ""]
        for title, kind in (("All classes frequent", False), ("Rare class of 5 or 10 %", True)):
            chosen = [line for line in lines if line["model"] == model and line["table"].endswith("rare") == kind]
            parts += [f"{title}:", "", *_differences(chosen, kind), ""]
    parts += ["## By table", "", "Accuracy and balanced accuracy of CCE, and differences of the default to it.", ""]
    parts += _by_table(lines)
    parts += ["", "## Calibration (XGBoost)", "", *_calibration(lines)]
    return parts


def _pairs(lines: Sequence[Line], value: str) -> dict[tuple[str, str], list[float]]:
    """Return the differences of a score to CCE, by noise and method."""
    base = {_cell(line): line[value] for line in lines if line["method"] == "CCE"}
    differences: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in lines:
        if line["method"] != "CCE" and _cell(line) in base:
            differences[line["noise"], line["method"]].append(line[value] - base[_cell(line)])
    return differences


def _cell(line: Line) -> tuple[Any, ...]:
    return line["table"], line["noise"], line["model"], line["seed"]


def _differences(lines: Sequence[Line], rare: bool) -> list[str]:
    lines = [line | {"rare": line["recall"][1]} for line in lines]
    names = [*METRICS, *(["rare"] if rare else [])]
    titles = [metric.title for metric in METRICS.values()] + (["Recall of the rare class"] if rare else [])
    rows = ["| wrong labels | method | n | " + " | ".join(titles) + " |", "|" + "---|" * (len(names) + 3)]
    by_score = {name: _pairs(lines, name) for name in names}
    for noise, method in sorted(by_score["accuracy"], key=lambda key: (_order(key[0]), key[1])):
        values = {name: np.array(by_score[name][noise, method]) for name in names}
        cells = [_cell_text(values[name], 1.0 if name == "log_loss" else 100.0) for name in names]
        rows.append(f"| {noise} | {method} | {len(values['accuracy'])} | " + " | ".join(cells) + " |")
    return rows


def _order(noise: str) -> tuple[bool, int]:
    return "pair" in noise, int(noise.split()[0])


def _cell_text(values: np.ndarray, factor: float) -> str:
    error = _Z * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    digits = 1 if factor == 100.0 else 3
    return f"{factor * values.mean():+.{digits}f} ± {factor * error:.{digits}f}"


def _by_table(lines: Sequence[Line]) -> list[str]:
    rows = ["| table | model | wrong labels | accuracy | default | balanced | default |", "|" + "---|" * 7]
    groups: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
    for line in lines:
        groups[line["table"], line["model"], line["noise"]].append(line)
    for (table, model, noise), members in sorted(groups.items(), key=lambda g: (g[0][:2], _order(g[0][2]))):
        cells = []
        for value in ("accuracy", "balanced_accuracy"):
            base = [line[value] for line in members if line["method"] == "CCE"]
            ours = _pairs(members, value)[noise, "Relative"]
            cells += [f"{100 * np.mean(base):.1f}" if base else "", _cell_text(np.array(ours), 100.0) if ours else ""]
        rows.append(f"| {table} | {model} | {noise} | " + " | ".join(cells) + " |")
    return rows


def _calibration(lines: Sequence[Line]) -> list[str]:
    rows = ["| wrong labels | method | n | calibrated | accuracy | balanced | log loss | ECE |", "|" + "---|" * 8]
    groups: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in lines:
        if "calibrated" in line:
            groups[line["noise"], line["method"]].append(line)
    for (noise, method), members in sorted(groups.items(), key=lambda group: (_order(group[0][0]), group[0][1])):
        used = np.mean([line["calibration"] is not None for line in members])
        cells = []
        for name in ("accuracy", "balanced_accuracy", "log_loss", "ece"):
            before = np.mean([line[name] for line in members])
            after = np.mean([line["calibrated"][name] for line in members])
            cells.append(f"{before:.3f} → {after:.3f}")
        rows.append(f"| {noise} | {method} | {len(members)} | {100 * used:.0f} % | " + " | ".join(cells) + " |")
    return rows
