"""The schedule of our own trainers, and which of a few rates is taken."""

import itertools

import pytest

from emphasis.learning_rate import RATES, WARM_UP, best_rate, can_be_found, cosine, middle_rate


@pytest.mark.parametrize("steps", [1, 2, 19, 20, 1000])
def test_the_rate_rises_shortly_and_then_falls_to_zero(steps):
    factors = [cosine(step, steps) for step in range(steps)]
    top = factors.index(max(factors))
    assert all(0.0 < factor <= 1.0 for factor in factors)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert top <= WARM_UP * steps
    assert factors[top] > 0.98
    assert cosine(steps, steps) == 0.0
    assert factors[-1] <= (1.0 if steps == 1 else 0.5 if steps == 2 else 0.01)


def test_the_most_accurate_rate_is_taken_and_of_equals_the_middle_one():
    assert best_rate({0.3: 0.2, 0.1: 0.5, 0.03: 0.4}) == 0.1
    assert best_rate({0.3: 0.5, 0.1: 0.5, 0.03: 0.5, 0.01: 0.1}) == 0.1


@pytest.mark.parametrize("optimizer", RATES)
def test_rates_are_a_factor_of_about_three_apart(optimizer):
    rates = RATES[optimizer]
    assert all(2.9 < high / low < 3.4 for low, high in itertools.pairwise(rates))
    assert rates[0] < middle_rate(optimizer) < rates[-1]


def test_of_a_few_examples_none_is_found():
    assert not can_be_found(99, 2)
    assert can_be_found(100, 2)
    assert not can_be_found(299, 150)
