import math

import numpy as np
import pytest

from emphasis.metrics import (
    accuracy,
    chance_ceiling,
    describe_outcomes,
    largest_share,
    mean_and_std,
    outcome,
)


def test_accuracy_and_largest_share_work_on_stacks():
    predicted = np.array([[0, 1, 2, 2], [2, 2, 2, 2]])
    assert accuracy(predicted, np.array([0, 1, 1, 2])).tolist() == [0.75, 0.25]
    assert largest_share(predicted, 3).tolist() == [0.5, 1.0]


def test_mean_and_std_leave_out_what_is_not_finite():
    assert mean_and_std([0.2, math.nan, 0.4]) == pytest.approx((0.3, math.sqrt(0.02)))
    mean, std = mean_and_std([0.5])
    assert mean == 0.5
    assert math.isnan(std)
    assert all(math.isnan(value) for value in mean_and_std([math.nan]))


@pytest.mark.parametrize(
    ("accuracies", "shares", "expected"),
    [
        ([0.1, 0.8, 0.9], [0.5, 0.2, 0.1], "learned"),
        ([0.1, 0.8, 0.1], [0.5, 0.2, 1.0], "collapsed"),
        ([0.1, 0.8, 0.12], [0.5, 0.2, 0.4], "collapsed"),  # chance, whatever it predicts
        ([0.1, 0.8, 0.3], [0.5, 0.2, 1.0], "collapsed"),  # one class only, however frequent it is
        ([0.1, 0.12, 0.1], [1.0, 1.0, 1.0], "never learned"),
        ([0.1, 0.19, 0.19], [0.5, 0.5, 0.5], "never learned"),
        ([0.1, 0.8, math.nan], [0.5, 0.2, math.nan], "diverged"),
    ],
)
def test_outcome(accuracies, shares, expected):
    assert outcome(np.array(accuracies), np.array(shares), 10, 500) == expected


def test_outcome_needs_curves_of_one_length():
    with pytest.raises(ValueError, match="two curves of one length"):
        outcome(np.array([0.5]), np.array([]), 10, 500)


def test_chance_ceiling_shrinks_with_the_test_set():
    assert 0.1 < chance_ceiling(10, 10_000) < chance_ceiling(10, 500) < 0.15


def test_describe_outcomes_names_only_what_went_wrong():
    assert describe_outcomes(["learned"] * 3) == ""
    assert describe_outcomes(["collapsed", "learned", "collapsed"]) == "collapsed (2 of 3 seeds)"
    assert describe_outcomes(["diverged"]) == "diverged (1 of 1 seed)"
