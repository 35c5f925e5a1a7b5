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
from emphasis.validation import checked_integer, checked_number
from emphasis.weighting._numerics import Array

_SPREAD = 0.1  # standard deviation of the flip rates, in the release
_STRUCTURE = 1  # tells the random numbers of W from those of the draws


def part_dependent(
    labels: Array,
    inputs: Array,
    noise_rate: float,
    *,
    num_classes: int | None = None,
    seed: int = 0,
    structure_seed: int | None = None,
) -> Corruption:
    """Change labels with a probability that differs between examples, to a class that depends on their content.

    Example i changes with probability q_i, drawn from a normal distribution around r with standard deviation 0.1 that
    is truncated to [0, 1]. Its new class is j with probability proportional to exp(x_i . W_y[:, j]), where W_y is
    standard normal for each class y. Inputs are standardized, vectors by column (our choice) and images by channel.
    `instance_dependent` of `emphasis.corruption` uses difficulties instead, with a fixed number of changes.

    Args:
        labels: Integers in [0, C), (N,).
        inputs: Finite vectors (N, D) or images (N, channels, height, width), a numpy array.
        noise_rate: Mean r of the rates before truncation, in [0, 1].
        num_classes: Number of classes C >= 2. Defaults to the largest label + 1.
        seed: Seed >= 0 of the rates and of the draws.
        structure_seed: Seed >= 0 of W; None: `seed`. Parts of a data set have the same noise if it is the same.

    Raises:
        ValueError: The inputs are not a numpy array of finite numbers, or their number is not that of the labels.
    """
    rate = checked_number("part_dependent", "noise_rate", noise_rate, 0.0, 1.0)
    clean = from_noisy_labels(labels, labels, num_classes=num_classes)
    given, classes = clean.labels, len(clean.transition_matrix)
    if not isinstance(inputs, np.ndarray) or inputs.ndim < 2 or len(inputs) != len(given):
        raise EmphasisValueError("part-dependent noise needs inputs in memory, (N, ...), one for each label")
    kind = inputs.dtype.kind
    if kind not in "buif" or (kind == "f" and not np.isfinite(inputs).all()):
        raise EmphasisValueError("part-dependent noise needs finite numbers as inputs; fill in or drop missing values")
    seed = checked_integer("seed", seed, 0)
    rng = np.random.default_rng(seed)
    structure = checked_integer("structure_seed", seed if structure_seed is None else structure_seed, 0)
    normal = np.random.default_rng((structure, _STRUCTURE))
    if rate == 0.0:
        return replace(clean, requested_rate=rate)
    flips = rng.random(len(given)) < _flip_rates(rate, len(given), rng)
    noisy = given.copy()
    axes, size = (0, *range(2, inputs.ndim)), int(np.prod(inputs.shape[1:]))
    mean, spread = inputs.mean(axes, keepdims=True), inputs.std(axes, keepdims=True)
    for label in range(classes):
        weights = normal.standard_normal((size, classes), dtype=np.float32)
        rows = np.flatnonzero((given == label) & flips)
        content = ((inputs[rows] - mean) / np.maximum(spread, 1e-12)).reshape(len(rows), size)
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
