"""The learning rate of `emphasis audit`, `tune` and `fit`: its schedule, the candidates, and the choice among them.

A constant rate that suits one task is far from what suits another: with many classes 0.1 either memorizes wrong
labels or does not converge. The rate therefore falls to zero, and its highest value is chosen by the data: networks
are trained at a few candidate rates and evaluated on held-out labels as given, wrong ones included. Methods that are
compared share the rate of cross-entropy.

The candidates are trained as far as the final network, since a network that takes more or longer steps memorizes more
of the wrong labels: shorter trainings would choose too high a rate.

This module has the schedule, the candidates and the choice; its callers do the training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

WARM_UP = 0.05
"""Fraction of the steps in which the rate rises."""

RATES: dict[str, tuple[float, ...]] = {
    "sgd": (0.003, 0.01, 0.03, 0.1, 0.3),
    "adam": (0.0003, 0.001, 0.003, 0.01, 0.03),
}
"""Candidate rates of each optimizer; those of SGD are for a momentum of 0.9."""

HELD_OUT = 0.2
"""Fraction of the examples that candidates are evaluated on."""


def middle_rate(optimizer: str) -> float:
    """Return the rate to use if there are too few examples to choose one."""
    return RATES[optimizer][len(RATES[optimizer]) // 2]


def can_be_found(examples: int, num_classes: int) -> bool:
    """Return whether there are enough examples to compare rates on held-out ones."""
    return examples >= max(100, 2 * num_classes)


def cosine(step: int, steps: int) -> float:
    """Return the factor of the highest rate at a step: a linear rise, then a fall to 0 along half a cosine.

    Args:
        step: Number of steps taken before.
        steps: Number of all steps.

    The schedule is that of I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR
    2017, without restarts.
    """
    rise = min(1.0, (step + 1) / max(1.0, WARM_UP * steps))
    return rise * 0.5 * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))


def best_rate(accuracies: Mapping[float, float]) -> float:
    """Return the rate with the highest accuracy; the middle one of several."""
    best = max(accuracies.values())
    ties = sorted(rate for rate, accuracy in accuracies.items() if accuracy == best)
    return ties[len(ties) // 2]
