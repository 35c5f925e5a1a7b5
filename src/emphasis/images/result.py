"""The result of a fit of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emphasis.comparison import evaluate
from emphasis.datasets import ImageFiles
from emphasis.tabular.result import BASELINE
from emphasis.weighting import Weighting

if TYPE_CHECKING:
    from emphasis.images.saved import SavedImageModel


@dataclass(frozen=True, eq=False)
class ImageFit:
    """Result of a fit of N images of C classes.

    Attributes:
        folder: Folder that everything is written to.
        request: Settings of the fit, as in `fit.json`.
        base: Folder that `names` are relative to.
        names: The N image files.
        rows: Row of each image in the table, or its number, shape (N,).
        images: Inputs of the network, uint8 of shape (N, channels, size, size), or files.
        classes: Names of the C classes.
        given: Given class of each image, shape (N,).
        fold: Fold in which each image was held out, shape (N,).
        probabilities: Out-of-fold probabilities of shape (N, C) of each method: the weighting, and cross-entropy.
        weighting: Weighting that the network was trained with.
        calibration: Calibration of each method whose probabilities were calibrated.
        notes: Observations about the images, such as skipped files.
    """

    folder: Path
    request: dict[str, Any]
    base: Path
    names: tuple[str, ...]
    rows: NDArray[np.int64]
    images: NDArray[np.uint8] | ImageFiles
    classes: tuple[str, ...]
    given: NDArray[np.int64]
    fold: NDArray[np.int64]
    probabilities: dict[str, NDArray[np.float64]]
    weighting: Weighting
    calibration: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def model(self) -> SavedImageModel:
        """The network that was trained on all images, loaded from the folder."""
        from emphasis.images.saved import load_model

        return load_model(self.folder)

    @cached_property
    def scores(self) -> dict[str, Any]:
        """Scores of each method on held-out images with the given labels; see `emphasis.comparison.evaluate`."""
        return evaluate(self.given, self.probabilities, self.classes, baseline=BASELINE, fold=self.fold)

    @property
    def source(self) -> str:
        """Name of the folder or of the table."""
        return Path(self.request["source"]).name

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the image files."""
        return self.names

    @property
    def predictions_name(self) -> str:
        """Name of the file of predictions."""
        return "predictions.csv"
