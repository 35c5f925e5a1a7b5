"""The learning rate of `emphasis audit`, `tune` and `fit`: how it falls, and how it is found.

A constant rate that suits one task is far from what suits another: with many classes 0.1 memorizes or never settles.
So the rate falls to zero, and its highest value is found from the data: trainings, one for each of a few rates, are
judged by held-out labels as they are, wrong ones included. Methods that are compared share cross-entropy's rate.

The trainings that are judged go as far as the one that is to come, since a network that takes more or longer steps
memorizes more of the wrong labels: shorter ones would choose too high a rate.

Here are the schedule, the rates and the choice; how networks are trained is the business of the trainers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

WARM_UP = 0.05
"""Share of the steps over which the rate rises."""

RATES: dict[str, tuple[float, ...]] = {
    "sgd": (0.003, 0.01, 0.03, 0.1, 0.3),
    "adam": (0.0003, 0.001, 0.003, 0.01, 0.03),
}
"""What is tried of each optimizer; SGD's are for a momentum of 0.9."""

HELD_OUT = 0.2
"""Share of the examples by whose labels rates are judged."""


def middle_rate(optimizer: str) -> float:
    """Return the rate to take where there are too few examples to find one."""
    return RATES[optimizer][len(RATES[optimizer]) // 2]


def can_be_found(examples: int, num_classes: int) -> bool:
    """Return whether there are enough examples to tell rates apart by those that are held out."""
    return examples >= max(100, 2 * num_classes)


def cosine(step: int, steps: int) -> float:
    """Return the factor of the rate in the step after `step` of `steps` steps: a linear rise, then half a cosine to 0.

    I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, without restarts.
    """
    rise = min(1.0, (step + 1) / max(1.0, WARM_UP * steps))
    return rise * 0.5 * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))


def best_rate(accuracies: Mapping[float, float]) -> float:
    """Return the rate with the highest accuracy, of equals the middle one."""
    best = max(accuracies.values())
    equal = sorted(rate for rate, accuracy in accuracies.items() if accuracy == best)
    return equal[len(equal) // 2]
