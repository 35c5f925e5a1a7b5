"""The figures that a recipe asks for, drawn from the rows of its results."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from emphasis.diagnostics.plots.canvas import Layouts
from emphasis.diagnostics.plots.curves import Curve, CurvePanel, curve_layouts
from emphasis.diagnostics.plots.figures import mode_by_noise
from emphasis.diagnostics.plots.method_ranks import rank_figure
from emphasis.diagnostics.plots.pages import Chart, chart
from emphasis.diagnostics.plots.palette import GRAY
from emphasis.diagnostics.plots.panels import Panel, ProbabilityPanel, emphasis_layouts, probability_layouts
from emphasis.experiments.recipes.settings import MethodSpec
from emphasis.experiments.reports.ranking import rank
from emphasis.experiments.reports.summary import Entry, Summary, family_of, metric_title
from emphasis.experiments.runs.store import Row
from emphasis.weighting import Weighting
from emphasis.weighting.serialise import is_named

_MAX_METHODS_PER_PANEL = 8
_MAX_PANELS = 10
FITS = {"test_accuracy": "Test", "fit_noisy": "Training, labels as given", "fit_true": "Training, true labels"}


Draw = Callable[[], Layouts]
"""Draws the panels of a figure, and returns the function that lays them out."""


def draw(summary: Summary) -> dict[str, Chart]:
    """Return the charts that the recipe asks for, by the name of the file of each.

    Figures without trained networks are left out. A figure of one condition among several has its number in the name,
    such as emphasis-2.svg.
    """
    return {name: chart(_marked_layouts(summary, draw_one())) for name, draw_one in _requested(summary).items()}


def draw_images(summary: Summary) -> dict[str, NDArray[np.uint8]]:
    """Return the figures of `draw` as images (height, width, 3), by names such as "emphasis-2"."""
    images = {}
    for name, draw_one in _requested(summary).items():
        file = io.BytesIO()
        marked(summary, draw_one()(narrow=False)).savefig(file, format="png")
        with Image.open(file) as image:
            images[name.removesuffix(".svg")] = np.asarray(image.convert("RGB"))
    return images


def _requested(summary: Summary) -> dict[str, Draw]:
    drawings: dict[str, Draw] = {}
    for kind, figures in DRAWERS.items():
        if kind in summary.recipe.figures:
            drawings |= figures(summary)
    if summary.recipe.compare and (ranked := rank(summary)):
        tasks = list(ranked[0].ranks)
        ranks = {method.method: [method.ranks[task].mean for task in tasks] for method in ranked}
        drawings["ranks.svg"] = lambda: partial(rank_figure, ranks, tasks, summary.recipe.compare)
    return drawings


def file_name(summary: Summary, kind: str, condition: str) -> str:
    """Return the name of the file with the figure of `condition`."""
    names = summary.recipe.condition_names
    if len(names) == 1 or (kind == "curves" and not by_group(summary)):
        return f"{kind}.svg"
    return f"{kind}-{names.index(condition) + 1}.svg"


def by_group(summary: Summary) -> bool:
    """Return whether the methods are too many for one panel, so that there is a panel per group."""
    return len(summary.recipe.methods) > _MAX_METHODS_PER_PANEL


def _trained(summary: Summary, condition: str) -> list[Entry]:
    return [entry for entry in summary.of(condition) if entry.rows]


def _curves(summary: Summary) -> dict[str, Draw]:
    """Return test accuracy over iterations: a panel per condition, or a figure per condition and a panel per group."""
    gray = summary.recipe.baseline
    conditions = [name for name in summary.recipe.condition_names if _trained(summary, name)]
    if not by_group(summary):
        panels = [panel_of(condition, _trained(summary, condition)) for condition in conditions]
        return {"curves.svg": partial(curve_layouts, panels, gray=gray, columns=2)} if panels else {}
    drawings: dict[str, Draw] = {}
    for condition in conditions:
        groups: dict[str, list[Entry]] = {}
        for entry in _trained(summary, condition):
            groups.setdefault(entry.cell.group, []).append(entry)
        baseline = [entry for entry in _trained(summary, condition) if entry.cell.method == gray]
        panels = [
            panel_of(group, entries if baseline[:1] and baseline[0] in entries else [*entries, *baseline])
            for group, entries in groups.items()
        ]
        name = file_name(summary, "curves", condition)
        drawings[name] = partial(curve_layouts, panels, gray=gray, columns=2)
    return drawings


def panel_of(title: str, entries: Sequence[Entry], metric: str = "test_accuracy") -> CurvePanel:
    """Return the panel of a metric during training, for entries of one condition."""
    chance = 1.0 / entries[0].rows[0]["num_classes"]
    return CurvePanel(title, {e.cell.method: curve(e.rows, metric) for e in entries}, chance)


def _fits(summary: Summary) -> dict[str, Draw]:
    """Return test accuracy and both training accuracies: a figure per condition, a panel per set (Figure 5)."""

    def make(entries: Sequence[Entry]) -> Draw:
        panels = [panel_of(title, entries, metric) for metric, title in FITS.items()]
        return partial(curve_layouts, panels, gray=summary.recipe.baseline, ylabel="accuracy (%)", columns=2)

    return _each(summary, "fits", make)


def _probabilities(summary: Summary) -> dict[str, Draw]:
    """Return the mean p of clean and of noisy examples over iterations: a figure per condition, a panel per method."""

    def make(entries: Sequence[Entry]) -> Draw:
        panels = [
            ProbabilityPanel(e.cell.method, curve(e.rows, "p_clean"), curve(e.rows, "p_noisy"), e.outcome)
            for e in entries
        ]
        return partial(probability_layouts, panels)

    return _each(summary, "probabilities", make)


def _emphasis(summary: Summary) -> dict[str, Draw]:
    """Return the final p of the examples and the emphasis density: a figure per condition, a panel per method."""

    def make(entries: Sequence[Entry]) -> Draw:
        panels = [
            Panel(e.cell.method, _weighting(e), _counts(e, "clean"), _counts(e, "noisy"), e.outcome) for e in entries
        ]
        return partial(emphasis_layouts, panels, columns=4)

    return _each(summary, "emphasis", make)


def _counts(entry: Entry, labels: str) -> list[int]:
    """Return the histogram of p over all seeds."""
    return [sum(counts) for counts in zip(*(row["p_histogram"][labels] for row in entry.rows), strict=True)]


def _each(summary: Summary, kind: str, make: Callable[[Sequence[Entry]], Draw]) -> dict[str, Draw]:
    """Return a figure per condition of its methods; of many, only the DMs, the baseline and the best other method."""
    drawings = {}
    for condition in summary.recipe.condition_names:
        entries = _trained(summary, condition)
        if len(entries) > _MAX_PANELS:
            kept = (summary.find(condition, summary.recipe.baseline), summary.best(condition, dm=False))
            entries = [entry for entry in entries if entry.is_dm or entry in kept]
        if entries:
            drawings[file_name(summary, kind, condition)] = make(entries)
    return drawings


def _modes(summary: Summary) -> dict[str, Draw]:
    """Return the emphasis mode of the best DM by noise rate, if there are at least two rates."""
    rates, ours, papers = modes_by_rate(summary)
    if len(rates) < 2 or not np.isfinite(ours).any():
        return {}
    figure = partial(
        mode_by_noise,
        rates,
        ours,
        paper=papers if np.isfinite(papers).any() else (),
        paper_label="paper (full scale)" if summary.scaled else "paper",
        label=f"ours, by {metric_title(summary.recipe.metric).lower()}{', scaled' if summary.scaled else ''}",
    )
    return {"modes.svg": lambda: figure}


def modes_by_rate(summary: Summary) -> tuple[list[float], list[float], list[float]]:
    """Return the noise rates, and the emphasis modes of the best DM at each, here and in the paper.

    A mode is NaN where there is no DM; conditions without a noise rate are left out.
    """
    recipe, metric = summary.recipe, summary.recipe.metric
    rates, ours, papers = [], [], []
    for condition in recipe.condition_names:
        entries = [entry for entry in summary.of(condition) if _has_mode(entry)]
        if not entries or entries[0].cell.noise.kind in ("pn_ratio", "long_tail", "human"):
            continue
        rates.append(entries[0].cell.noise.rate)
        ours.append(_best_mode([(e, e.values[metric].mean) for e in entries if e.values[metric].n]))
        papers.append(_best_mode([(e, e.paper[metric]) for e in entries if e.paper[metric] == e.paper[metric]]))
    return rates, ours, papers


def _marked_layouts(summary: Summary, layouts: Layouts) -> Layouts:
    return lambda *, narrow: marked(summary, layouts(narrow=narrow))


def marked(summary: Summary, figure: Figure) -> Figure:
    """Return the figure with a note if the run is scaled down, since it may be shown without its page."""
    if summary.scaled:
        figure.suptitle("scaled run", x=0.01, ha="left", fontsize=10, color=GRAY)
    return figure


def _has_mode(entry: Entry) -> bool:
    """Return whether the entry is a DM with one emphasis mode, neither vanishing nor of the released arithmetic."""
    weighting, objective = _weighting(entry), entry.cell.objective
    if weighting is None or family_of(entry.cell) != "DM" or getattr(objective, "arithmetic", "") != "exact":
        return False
    return len(weighting.modes) == 1 and not weighting.parameters().get("vanishing", False)


def _weighting(entry: Entry) -> Weighting | None:
    """Return the entry's weighting, at the end of its schedule; None for a method without one, or a user's own."""
    objective = entry.cell.objective
    return None if isinstance(objective, MethodSpec) or is_named(objective.weighting) else objective.at(1.0)


def _best_mode(scored: Sequence[tuple[Entry, float]]) -> float:
    if not scored:
        return float("nan")
    weighting = _weighting(max(scored, key=lambda pair: pair[1])[0])
    return float("nan") if weighting is None else float(weighting.modes[0])


def curve(rows: Sequence[Row], name: str) -> Curve:
    """Return a curve of the rows; curves that end early, because a network diverged, are padded with NaN."""
    longest: list[int] = max((row["curves"]["iteration"] for row in rows), key=len)
    values = np.full((len(rows), len(longest)), np.nan)
    for number, row in enumerate(rows):
        curve_of_row = np.array(row["curves"][name], dtype=np.float64)  # None becomes NaN
        values[number, : len(curve_of_row)] = curve_of_row
    return Curve(longest, values)


DRAWERS: dict[str, Callable[[Summary], dict[str, Draw]]] = {
    "curves": _curves,
    "fits": _fits,
    "probabilities": _probabilities,
    "emphasis": _emphasis,
    "modes": _modes,
}
"""Functions that draw the figures of each kind."""
