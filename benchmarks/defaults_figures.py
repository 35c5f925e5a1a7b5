"""Figures of benchmarks/defaults.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from defaults_methods import CCE
from matplotlib.colors import TwoSlopeNorm
from matplotlib.lines import Line2D

from emphasis.diagnostics.plots.canvas import new_figure, png
from emphasis.diagnostics.plots.palette import COLORS

_LIMIT = 15.0  # points; what is beyond has the last color


def draw_differences(path: Path, gaps: Mapping[str, Mapping[tuple[str, str, str], float]]) -> None:
    """Save a heat map: methods by cells, test accuracy minus cross-entropy's."""
    names = sorted((name for name in gaps if name != CCE), key=lambda name: -np.mean(list(gaps[name].values())))
    regimes = list(dict.fromkeys(cell[2] for cell in gaps[CCE]))
    tasks = list(dict.fromkeys(cell[0] for cell in gaps[CCE]))
    cells = sorted(
        gaps[CCE], key=lambda cell: (regimes.index(cell[2]), tasks.index(cell[0]), "pair" in cell[1], cell[1])
    )
    values = np.array([[gaps[name][cell] for cell in cells] for name in names])
    figure = new_figure(0.17 * len(cells) + 3.2, 0.24 * len(names) + 2.6)
    axis = figure.subplots()
    shown = axis.imshow(values, aspect="auto", cmap="RdBu", norm=TwoSlopeNorm(0.0, -_LIMIT, _LIMIT))
    axis.set_yticks(range(len(names)), names, fontsize=8)
    labels = [f"{cell[0]}, {cell[1].replace(' symmetric', '')}" for cell in cells]
    axis.set_xticks(range(len(cells)), labels, fontsize=6, rotation=90)
    for regime in regimes:
        where = [number for number, cell in enumerate(cells) if cell[2] == regime]
        axis.text(np.mean(where), -0.8, regime, ha="center", fontsize=9, fontweight="bold")
        axis.axvline(where[-1] + 0.5, color="black", linewidth=1.0)
    axis.tick_params(length=0)
    figure.colorbar(shown, ax=axis, label="points to cross-entropy", extend="both", pad=0.01)
    path.write_bytes(png(figure, dpi=110))


def draw_dynamics(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Save mean p of clean (solid) and wrongly labeled (dashed) training examples over the steps, by task."""
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    figure = new_figure(4.6 * len(tasks), 3.4)
    axes = np.atleast_1d(figure.subplots(1, len(tasks)))
    names = lines[0]["methods"]
    for axis, task in zip(axes, tasks, strict=True):
        some = [line for line in lines if line["task"] == task]
        steps = some[0]["steps"]
        for number, (name, color) in enumerate(zip(names, COLORS, strict=False)):
            for part, style in (("clean", "-"), ("wrong", (0, (4, 1.5)))):
                runs = np.array([np.array(line[part])[:, number] for line in some])
                mean, spread = runs.mean(0), runs.std(0)
                axis.plot(steps, mean, color=color, linestyle=style, linewidth=1.6, label=name)
                axis.fill_between(steps, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)
        axis.set(xlim=(0, steps[-1]), ylim=(0, 1), xlabel="step", ylabel="mean p of the label")
        axis.set_title(f"{task}, {some[0]['noise']}", fontsize=10, loc="left", fontweight="bold")
        axis.grid(axis="y", alpha=0.2, linewidth=0.6)
    handles = [Line2D([], [], color=color, label=name) for name, color in zip(names, COLORS, strict=False)]
    handles += [
        Line2D([], [], color="black", label="right labels"),
        Line2D([], [], color="black", linestyle=(0, (4, 1.5)), label="wrong labels"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    path.write_bytes(png(figure))
