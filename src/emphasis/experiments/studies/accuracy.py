"""Final accuracies of networks, where one that diverged counts as 0."""

from __future__ import annotations

import math
from collections.abc import Sequence

from emphasis.experiments.runs.store import Row
from emphasis.metrics import mean_and_std


def final_accuracies(rows: Sequence[Row]) -> tuple[float, ...]:
    """Return the final test accuracy of each network; 0 if it diverged."""
    values = [row["final_test_accuracy"] for row in rows]
    return tuple(0.0 if value is None or math.isnan(value) else value for value in values)


def final_accuracy(rows: Sequence[Row]) -> tuple[float, float]:
    """Return mean and standard deviation of `final_accuracies`."""
    mean, std = mean_and_std(list(final_accuracies(rows)))
    return float(mean), float(std)
