"""Figure 3 of the paper: the training examples whose labels a network trained with DM believes least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emphasis.datasets import Split
from emphasis.diagnostics.plots.canvas import literal, new_figure
from emphasis.diagnostics.plots.palette import ALARM, COLORS
from emphasis.errors import EmphasisValueError
from emphasis.experiments.reports.summary import Entry, Summary, family_of
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.data import load_split
from emphasis.experiments.runs.store import CELLS, FolderError, probabilities
from emphasis.experiments.studies.example_data import pictures_of

_COLUMNS = 8


def abnormal_examples(summary: Summary, folder: Path, root: Path | None, count: int = 24) -> Figure:
    """Return the images with the smallest final p, each with the label that it was trained with.

    They are of the first network with DM, in the condition with the most wrong labels. A label that is known to be
    wrong is red, with the true one after an arrow; where the noise is real, no label is known to be wrong.

    Args:
        summary: Summary of a run.
        folder: Folder of the run, with the probabilities of its networks in cells/.
        root: Folder of the data sets.
        count: Number of images.

    Raises:
        ValueError: If the run has no network with DM, or its examples are not images.
        FolderError: If the run's probabilities are missing, as they are from the runs in results/.
        DataNotFoundError: If the data is missing.
    """
    entry = _network(summary)
    if not (folder / CELLS).is_dir():
        raise FolderError(
            f"{folder} has only the results, without the probabilities of the examples; train it again with "
            f"'emphasis run' into another folder, and give that with --run"
        )
    arrays = probabilities(folder, entry.rows[0])
    split = load_split(entry.cell.dataset, entry.cell.noise, RunContext(root))
    least = np.argsort(arrays["p"], kind="stable")[:count]
    index = arrays["index"][least]
    given = arrays["labels"][least] if "labels" in arrays else split.train_labels[index]
    wrong = arrays["noisy"][least]
    names = [_label(split, int(label), int(true)) for label, true in zip(given, split.train_labels[index], strict=True)]
    images = pictures_of(split, index)
    if images is None:
        raise EmphasisValueError(
            f"the examples of {entry.cell.dataset.name} are not images; give another run with --run"
        )
    return image_grid(images, names, wrong)


def image_grid(images: NDArray[np.uint8], titles: Sequence[str], marked: NDArray[np.bool_]) -> Figure:
    """Return images (n, channels, height, width) in rows, each under its title; marked ones in a red box."""
    rows = math.ceil(len(images) / _COLUMNS)
    figure = new_figure(1.35 * _COLUMNS, 1.65 * rows)
    axes = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    for axis, image, title, is_marked in zip(axes, images, titles, marked, strict=False):
        color = ALARM if is_marked else COLORS[4]
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(literal(title), fontsize=8, color=color)
        axis.set_axis_on()
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(edgecolor=color, linewidth=2.5 if is_marked else 0.8)
    return figure


def _network(summary: Summary) -> Entry:
    """Return the entry with DM of the condition with the highest noise rate.

    Raises:
        ValueError: If there is none.
    """
    entries = [entry for entry in summary.entries if entry.rows and family_of(entry.cell) == "DM"]
    if not entries:
        raise EmphasisValueError(f"the run {summary.recipe.name} has no network with DM yet")
    return max(entries, key=lambda entry: entry.cell.noise.rate)


def _label(split: Split, given: int, true: int) -> str:
    names = [split.class_names[label] if split.class_names else str(label) for label in (given, true)]
    return names[0] if given == true else f"{names[0]} ← {names[1]}"
