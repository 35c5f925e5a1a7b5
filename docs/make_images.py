"""Draw the pictures of README.md and of the documentation: python docs/make_images.py.

`docs/images/edf.png` is committed, for the README; `conf.py` draws the same picture anew at every build. So are the
paper's figures, as far as a run of them is stored in results/, for figures.md.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emphasis import CCE, DM, GCE, MAE, MSE, Weighting

DOCS = Path(__file__).resolve().parent
CURVES: dict[str, tuple[Weighting, str, str]] = {
    "CCE": (CCE(), "#555555", "-"),
    "MAE": (MAE(), "#1b9e77", "-"),
    "MSE": (MSE(), "#7570b3", "-"),
    "GCE, q = 0.7": (GCE(0.7), "#e6ab02", "-"),
    "DM, λ = 0.5, β = 8": (DM(lam=0.5, beta=8), "#d62728", "-"),
    "the same, vanishing": (DM(lam=0.5, beta=8, vanishing=True), "#1f4e9e", "--"),
}


def draw_edf(path: Path) -> None:
    """Save w(p) (logarithmic) and the density h(p) = w(p) / integral of w of the common losses and of DM."""
    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    p = np.linspace(0.0, 1.0, 1001)
    for name, (weighting, colour, style) in CURVES.items():
        left.plot(p, weighting(p), style, color=colour, label=name, linewidth=1.8)
        right.plot(p, weighting.density(p), style, color=colour, linewidth=1.8)
    left.set(title="Weight w(p): how hard an example pushes", yscale="log", ylim=(0.01, 40.0))
    right.set(title="Emphasis density h(p): where the push goes", ylim=(0.0, 2.2))
    for axes in (left, right):
        _finish(axes)
    figure.legend(loc="outside lower center", ncols=len(CURVES), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _finish(axes: Axes) -> None:
    axes.set(xlabel="p, the probability given to the example's label", xlim=(0.0, 1.0))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def draw_paper_figures(folder: Path) -> None:
    """Save each of the paper's figures that there is a run for as `emphasis figure` does."""
    from emphasis.diagnostics.plots.themes import save
    from emphasis.experiments.reports.paper_figures import FIGURES, draw_figure, find_run

    with contextlib.chdir(DOCS.parent):
        for name, figure in FIGURES.items():
            if not figure.recipes or find_run(figure) is not None:
                save(draw_figure(name)[0], folder / f"figure-{name}.svg", "auto")


if __name__ == "__main__":
    draw_edf(DOCS / "images" / "edf.png")
    draw_paper_figures(DOCS / "images")
