"""The figures of the paper: 1a, 1b and 4 as drawings, the others from runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from emphasis.diagnostics.plots.canvas import new_figure
from emphasis.diagnostics.plots.curves import accuracy_curves
from emphasis.diagnostics.plots.diagrams import network_diagram, practice_and_dm_diagram
from emphasis.diagnostics.plots.figures import draw_weightings, mode_by_noise
from emphasis.diagnostics.plots.panels import ProbabilityPanel, probability_curves
from emphasis.errors import EmphasisValueError
from emphasis.experiments.recipes.settings import MethodSpec
from emphasis.experiments.reports.abnormal_examples import abnormal_examples
from emphasis.experiments.reports.recipe_figures import FITS, curve, marked, modes_by_rate, panel_of
from emphasis.experiments.reports.report import find_folder, read_summary
from emphasis.experiments.reports.summary import Entry, Summary
from emphasis.experiments.runs.store import FolderError
from emphasis.texts import did_you_mean
from emphasis.weighting import CCE, DM, GCE, MAE, MSE, Weighting, mode_for


@dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper.

    Attributes:
        caption: Caption of the figure.
        recipes: Recipes whose runs it can be drawn from, that of the paper first; empty if it needs no run.
        draw: Draws the figure: without arguments if it needs no run, otherwise from the summary of a run; if
            `shows_examples`, from the summary, the run's folder and the folder of the data sets.
        shows_examples: Whether it shows examples of the data set.
    """

    caption: str
    recipes: tuple[str, ...]
    draw: Callable[..., Figure]
    shows_examples: bool = False


def paper_figure(name: str) -> PaperFigure:
    """Return a figure by its number in the paper.

    Raises:
        ValueError: There is no such figure.
    """
    key = name.lower().removeprefix("figure").strip(" -")
    if key not in FIGURES:
        raise EmphasisValueError(
            f"there is no figure {name!r}{did_you_mean(key, FIGURES)}; known: {', '.join(FIGURES)}"
        )
    return FIGURES[key]


def find_run(figure: PaperFigure) -> Path | None:
    """Return the folder of a run, full or scaled, from which the figure can be drawn; None if there is none."""
    for name in [name + suffix for suffix in ("", "-scaled") for name in figure.recipes]:
        with contextlib.suppress(FolderError):
            return find_folder(name)
    return None


def draw_figure(name: str, run: str | None = None, root: Path | None = None) -> tuple[Figure, Path | None]:
    """Return a figure of the paper and the folder of the run it is drawn from, None if it needs no run.

    Args:
        name: Number of the figure, such as "2a".
        run: A run's folder, or its name in runs/ or results/; None takes the first run that `find_run` finds.
        root: Folder of the data sets, for a figure that shows examples.

    Raises:
        ValueError: There is no such figure, or the run lacks the results that it shows.
        FolderError: There is no run; the message names the command that trains it.
    """
    figure = paper_figure(name)
    if not figure.recipes:
        return figure.draw(), None
    folder = find_folder(run) if run is not None else find_run(figure)
    if folder is None:
        raise FolderError(
            f"no run to draw figure {name} from; 'emphasis run {figure.recipes[0]}' makes one, or with "
            "--scaled a smaller one, or give another's with --run"
        )
    summary = read_summary(folder)
    if not any(entry.rows for entry in summary.entries):
        raise EmphasisValueError(f"nothing is trained yet in {folder}; 'emphasis run {figure.recipes[0]}' resumes it")
    drawing = figure.draw(summary, folder, root) if figure.shows_examples else figure.draw(summary)
    return marked(summary, drawing), folder


def _losses_and_densities() -> Figure:
    """Return figure 1b: the magnitudes w(p) of losses' derivatives, and emphasis densities of DM."""
    figure = new_figure(10.4, 4.4)
    axes = figure.subplots(1, 2)
    draw_weightings(axes[0], [CCE(), MAE(), MSE(), GCE(q=0.7)], normalized=False)
    draw_weightings(axes[1], [DM(lam=0, beta=2), DM(lam=0.5, beta=12), DM(lam=1, beta=16), DM(lam=2, beta=12)])
    for axis, label in zip(axes, ("w(p), the size of the derivative", "emphasis density h(p)"), strict=True):
        axis.set(ylabel=label)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
    return figure


def _of_family(summary: Summary, *wanted: type[Weighting]) -> list[Entry]:
    """Return the entries whose weightings are of these classes; of DM only the published form.

    Raises:
        ValueError: There is none with DM.
    """
    entries = [
        entry
        for entry in summary.entries
        if entry.rows
        and not isinstance(entry.cell.objective, MethodSpec)
        and isinstance(entry.cell.objective.weighting, wanted)
        and not getattr(entry.cell.objective.weighting, "vanishing", False)
    ]
    if not any(entry.is_dm for entry in entries):
        raise EmphasisValueError(f"the run {summary.recipe.name} has no network with DM yet")
    return entries


def _probabilities(summary: Summary) -> Figure:
    """Return figure 2a: mean p of clean and of noisy examples during training, of cross-entropy and DM."""
    entries = _of_family(summary, CCE, DM)
    several = len(summary.recipe.conditions) > 1
    return probability_curves(
        [
            ProbabilityPanel(
                ": ".join([*([entry.cell.condition] if several else []), entry.cell.method]),
                curve(entry.rows, "p_clean"),
                curve(entry.rows, "p_noisy"),
                entry.outcome,
            )
            for entry in entries
        ]
    )


def _test_accuracies(summary: Summary) -> Figure:
    """Return figure 2b: test accuracy during training, of cross-entropy and DM, a panel per condition."""
    entries = _of_family(summary, CCE, DM)
    columns = {
        name: [entry for entry in entries if entry.cell.condition == name] for name in summary.recipe.condition_names
    }
    panels = [panel_of(name or FITS["test_accuracy"], column) for name, column in columns.items() if column]
    return accuracy_curves(panels, gray=summary.recipe.baseline)


def _modes(summary: Summary) -> Figure:
    """Return figure 2c: the best emphasis mode at each noise rate, here and in the paper."""
    rates, ours, _ = modes_by_rate(summary)
    if len(rates) < 2 or not np.isfinite(ours).any():
        raise EmphasisValueError(
            f"the run {summary.recipe.name} lacks two noise rates with DMs that have one emphasis mode each; "
            "use 'emphasis run figure2c', or table9 with several conditions"
        )
    return mode_by_noise(
        rates,
        ours,
        paper=[mode_for(rate) for rate in rates],
        paper_label="paper (CIFAR-10, ResNet-56)",
        label="this run",
    )


def _fits(summary: Summary, metrics: tuple[str, ...]) -> Figure:
    """Return test and training accuracies during training: a row per condition, a panel per set."""
    panels = []
    for condition in summary.recipe.condition_names:
        entries = [entry for entry in summary.of(condition) if entry.rows]
        panels += [
            panel_of(": ".join(filter(None, (condition, FITS[metric]))), entries, metric)
            for metric in metrics
            if entries
        ]
    return accuracy_curves(panels, gray=summary.recipe.baseline, columns=len(metrics), ylabel="accuracy (%)")


def _by_mode(summary: Summary) -> Figure:
    """Return test accuracy during training: a panel per emphasis mode, a line per beta, and cross-entropy in each."""
    baseline = [entry for entry in summary.entries if entry.rows and entry.cell.method == summary.recipe.baseline]
    groups: dict[str, list[Entry]] = {}
    for entry in _of_family(summary, DM):
        groups.setdefault(entry.cell.group, []).append(entry)
    panels = [panel_of(group, [*entries, *baseline]) for group, entries in groups.items()]
    return accuracy_curves(panels, gray=summary.recipe.baseline)


_EVERY = tuple(FITS)
REVIEW_NETWORK = (("review vector", 100), ("hidden, ReLU", 8), ("classes", 2))
"""The layers of table5's network; the size of the vectors is our choice, which the paper does not state."""

FIGURES: dict[str, PaperFigure] = {
    "1a": PaperFigure("Common practice and derivative manipulation", (), practice_and_dm_diagram),
    "1b": PaperFigure("What losses emphasize, and emphasis densities of DM", (), _losses_and_densities),
    "2a": PaperFigure("Mean p of clean and of noisy examples, cross-entropy and DM", ("figure2",), _probabilities),
    "2b": PaperFigure("Test accuracy on noisy labels, cross-entropy and DM", ("figure2",), _test_accuracies),
    "2c": PaperFigure("The best emphasis mode by noise rate", ("table9", "figure2c"), _modes),
    "3": PaperFigure(
        "Training examples whose labels DM believes least",
        ("figure2", "table9", "table4"),
        abnormal_examples,
        shows_examples=True,
    ),
    "4": PaperFigure("The network for movie reviews", (), partial(network_diagram, REVIEW_NETWORK)),
    "5": PaperFigure(
        "Test and training accuracies by noise rate and emphasis mode",
        ("figure5", "table9"),
        partial(_fits, metrics=_EVERY),
    ),
    **{
        str(number): PaperFigure(f"Emphasis mode and variance, {rate} % wrong labels", (f"figure{number}",), _by_mode)
        for number, rate in ((6, 20), (7, 40), (8, 60), (9, 80))
    },
    "10": PaperFigure(
        "Training and test accuracies, clean labels, ResNet-20", ("figure10",), partial(_fits, metrics=_EVERY[:2])
    ),
    "11": PaperFigure(
        "Training and test accuracies, clean labels, ResNet-56", ("figure11",), partial(_fits, metrics=_EVERY[:2])
    ),
}
"""The figures by their numbers in the paper."""
