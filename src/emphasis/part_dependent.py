"""Label noise that depends on the example's content, by the procedure of the part-dependent transition matrix.

Source: X. Xia et al., Part-dependent Label Noise: Towards Instance-dependent Label Noise, NeurIPS 2020, and the release
of its authors (xiaoboxia/Part-dependent-label-noise, tools.py, get_instance_noisy_label).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from emphasis.corruption import Corruption, from_noisy_labels
from emphasis.errors import EmphasisValueError
from emphasis.validation import checked_number
from emphasis.weighting._numerics import Array

_SPREAD = 0.1  # standard deviation of the flip rates, in the release


def part_dependent(
    labels: Array, inputs: Array, noise_rate: float, *, num_classes: int | None = None, seed: int = 0
) -> Corruption:
    """Change labels with a probability that differs between examples, to a class that depends on their content.

    Example i changes with probability q_i, drawn from a normal distribution around r with standard deviation 0.1 that
    is truncated to [0, 1]. Its new class is j with probability proportional to exp(x_i . W_y[:, j]), where W_y is
    standard normal for each class y. Inputs are standardized, images by channel. `instance_dependent` of
    `emphasis.corruption` uses difficulties instead, with a fixed number of changes.

    Args:
        labels: Integers in [0, C), (N,).
        inputs: Vectors or images, a numpy array (N, ...).
        noise_rate: Mean r of the rates before truncation, in [0, 1].
        num_classes: Number of classes C >= 2. Defaults to the largest label + 1.
        seed: Seed of the rates, of W and of the draws.

    Raises:
        ValueError: The inputs are not a numpy array, or their number is not that of the labels.
    """
    rate = checked_number("part_dependent", "noise_rate", noise_rate, 0.0, 1.0)
    clean = from_noisy_labels(labels, labels, num_classes=num_classes)
    given, classes = clean.labels, len(clean.transition_matrix)
    if not isinstance(inputs, np.ndarray) or inputs.ndim < 2 or len(inputs) != len(given):
        raise EmphasisValueError("part-dependent noise needs inputs in memory, (N, ...), one for each label")
    rng = np.random.default_rng(seed)
    if rate == 0.0:
        return replace(clean, requested_rate=rate)
    flips = rng.random(len(given)) < _flip_rates(rate, len(given), rng)
    noisy = given.copy()
    axes = tuple(axis for axis in range(inputs.ndim) if axis != 1 or inputs.ndim == 2)
    mean, spread = inputs.mean(axes, keepdims=True), inputs.std(axes, keepdims=True)
    for label in range(classes):
        weights = rng.standard_normal((int(np.prod(inputs.shape[1:])), classes), dtype=np.float32)
        rows = np.flatnonzero((given == label) & flips)
        content = ((inputs[rows] - mean) / np.maximum(spread, 1e-12)).reshape(len(rows), -1)
        scores = content.astype(np.float32) @ weights
        scores[:, label] = -np.inf
        # The largest of scores and Gumbel noise is a draw of their softmax.
        noisy[rows] = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    return replace(from_noisy_labels(given, noisy, num_classes=classes), requested_rate=rate)


def _flip_rates(rate: float, number: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return draws of a normal distribution around `rate`; draws outside [0, 1] are repeated."""
    rates = rng.normal(rate, _SPREAD, number)
    while (outside := (rates < 0.0) | (rates > 1.0)).any():
        rates[outside] = rng.normal(rate, _SPREAD, int(outside.sum()))
    return rates
