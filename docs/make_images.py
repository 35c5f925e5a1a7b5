"""Draw the pictures of README.md and of the documentation: python docs/make_images.py.

The pictures are committed, except `edf.png`, which `conf.py` draws at every build. The paper's figures are drawn as far
as a run of them is stored in results/. `memorization.png` trains ten small networks, which takes about 20 seconds.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

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
SEEDS, STEPS, EVERY = 5, 1500, 50


def draw_edf(path: Path) -> None:
    """Save w(p) (logarithmic) and the density h(p) = w(p) / integral of w of the common losses and of DM."""
    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    p = np.linspace(0.0, 1.0, 1001)
    for name, (weighting, color, style) in CURVES.items():
        left.plot(p, weighting(p), style, color=color, label=name, linewidth=1.8)
        right.plot(p, weighting.density(p), style, color=color, linewidth=1.8)
    left.set(title="Weight w(p): the size of an example's derivative", yscale="log", ylim=(0.01, 40.0))
    right.set(title="Emphasis density h(p): the weight divided by its integral", ylim=(0.0, 2.2))
    for axes in (left, right):
        axes.set(xlabel="p, the probability given to the example's label", xlim=(0.0, 1.0))
        _finish(axes)
    figure.legend(loc="outside lower center", ncols=len(CURVES), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def draw_memorization(path: Path) -> None:
    """Save how cross-entropy and the default loss learn digits of which 40 % have wrong labels."""
    import torch

    from emphasis.torch import EmphasisLoss

    criteria = {
        "torch.nn.CrossEntropyLoss()": (torch.nn.CrossEntropyLoss(), "#555555", "--"),
        "EmphasisLoss()": (EmphasisLoss(), "#d62728", "-"),
    }
    figure = Figure(figsize=(10.0, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    steps = np.arange(0, STEPS + 1, EVERY)
    for name, (criterion, color, style) in criteria.items():
        curves = 100 * np.array([_train_on_digits(criterion, seed) for seed in range(SEEDS)])
        mean, spread = curves.mean(0), curves.std(0, ddof=1)
        for axes, middle, deviation in zip(panels, mean, spread, strict=True):
            axes.plot(steps, middle, style, color=color, label=name, linewidth=1.8)
            axes.fill_between(steps, middle - deviation, middle + deviation, color=color, alpha=0.15, linewidth=0)
        print(
            f"{name}: test accuracy {mean[0, -1]:.1f} ± {spread[0, -1]:.1f} %, wrong labels learned "
            f"{mean[1, -1]:.1f} ± {spread[1, -1]:.1f} %"
        )
    for axes, title in zip(
        panels, ("Accuracy on test labels (%)", "Wrong labels that were memorized (%)"), strict=True
    ):
        axes.set(title=title, xlabel="training step", xlim=(0, STEPS), ylim=(0, 100))
        _finish(axes)
    panels[0].legend(loc="lower left", frameon=False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _train_on_digits(criterion: object, seed: int) -> NDArray[np.float64]:
    """Return the accuracy on test labels and the share of wrong labels that are predicted, as rows, along training."""
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from emphasis.corruption import symmetric

    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16.0, labels, test_size=500, stratify=labels, random_state=seed)
    x, x_test = (torch.tensor(part, dtype=torch.float32) for part in split[:2])
    noise = symmetric(split[2], noise_rate=0.4, seed=seed)
    noisy, wrong, y_test = (torch.from_numpy(array) for array in (noise.labels, noise.changed, split[3]))
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rows = []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            with torch.no_grad():
                test = (model(x_test).argmax(1) == y_test).double().mean()
                memorized = (model(x).argmax(1) == noisy)[wrong].double().mean()
            rows.append([float(test), float(memorized)])
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        criterion(model(x[batch]), noisy[batch]).backward()  # type: ignore[operator]
        optimizer.step()
    return np.array(rows).T


def _finish(axes: Axes) -> None:
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def draw_paper_figures(folder: Path) -> None:
    """Save each of the paper's figures that there is a run for as `emphasis figure` does."""
    from emphasis.diagnostics.plots.themes import save
    from emphasis.experiments.reports.paper_figures import FIGURES, draw_figure, find_run

    with contextlib.chdir(DOCS.parent):
        for name, figure in FIGURES.items():
            if figure.shows_examples:  # by the probabilities of a run, which results/ does not keep
                continue
            if not figure.recipes or find_run(figure) is not None:
                save(draw_figure(name)[0], folder / f"figure-{name}.svg", "auto")


if __name__ == "__main__":
    draw_memorization(DOCS / "images" / "memorization.png")
    draw_paper_figures(DOCS / "images")
