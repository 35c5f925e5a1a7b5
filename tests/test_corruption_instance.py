"""Label noise that depends on the example."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emphasis.corruption import (
    instance_dependent,
)
from reference import recounted

SEEDS = st.integers(0, 2**32 - 1)


RATES = st.floats(0.0, 1.0)


ROUNDING = 1e-9


@st.composite
def labels_and_probabilities(draw):
    num_classes, size = draw(st.integers(2, 6)), draw(st.integers(1, 80))
    rng = np.random.default_rng(draw(SEEDS))
    temperature = draw(st.sampled_from([0.1, 1.0, 10.0]))
    logits = rng.normal(size=(size, num_classes)) * temperature
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    return rng.integers(0, num_classes, size), probabilities / probabilities.sum(axis=1, keepdims=True)


def reachable(difficulty):
    return np.count_nonzero(difficulty) / difficulty.size


@given(labels_and_probabilities(), RATES, SEEDS)
def test_instance_dependent_count_is_within_one_of_the_rate_given_probabilities(case, rate, seed):
    labels, probabilities = case
    hardness = 1 - probabilities[np.arange(labels.size), labels]
    rate = rate * reachable(hardness)
    result = instance_dependent(labels, rate, probabilities=probabilities, seed=seed)
    assert abs(result.changed.sum() - rate * labels.size) < 1.0 + ROUNDING
    assert (probabilities[np.arange(labels.size), result.labels] > 0).all()
    np.testing.assert_allclose(
        result.transition_matrix, recounted(labels, result.labels, probabilities.shape[1]), atol=1e-15
    )


@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-12, 1e3)), min_size=2, max_size=60).filter(any),
    RATES,
    SEEDS,
)
def test_instance_dependent_count_is_within_one_of_the_rate_given_difficulty(difficulty, rate, seed):
    difficulty = np.array(difficulty)
    rate = rate * reachable(difficulty)
    labels = np.arange(difficulty.size) % 3
    result = instance_dependent(labels, rate, difficulty=difficulty, num_classes=3, seed=seed)
    assert abs(result.changed.sum() - rate * labels.size) < 1.0 + ROUNDING
    assert not result.changed[difficulty == 0.0].any()
    assert result.labels.max() < 3


def test_flip_probabilities_are_proportional_to_difficulty_and_saturate_at_one():
    difficulty = np.array([0.0, 1.0, 2.0, 3.0, 100.0])
    draws = [instance_dependent([0, 1, 0, 1, 0], 0.4, difficulty=difficulty, seed=s).changed for s in range(4000)]
    wanted = np.array([0.0, 1 / 6, 2 / 6, 3 / 6, 1.0])  # one label saturates, the rest share 5 * 0.4 - 1
    got = np.mean(draws, axis=0)
    assert (np.abs(got - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / 4000)).all()


def test_the_harder_half_flips_more_and_new_labels_follow_the_model():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.5, 0.3, 0.1], size=9000)
    labels = rng.integers(0, 3, 9000)
    hardness = 1 - probabilities[np.arange(9000), labels]
    result = instance_dependent(labels, 0.3, probabilities=probabilities)
    hard = hardness > np.median(hardness)
    assert result.realized_rate == pytest.approx(0.3, abs=1 / 9000)
    assert result.changed[hard].mean() > 1.5 * result.changed[~hard].mean()
    others = probabilities.copy()
    others[np.arange(9000), labels] = 0.0
    others /= others.sum(axis=1, keepdims=True)
    expected, got = others[result.changed], np.eye(3)[result.labels[result.changed]]
    sigma = np.sqrt((expected * (1 - expected)).sum(axis=0))
    assert (np.abs((got - expected).sum(axis=0)) < 5 * sigma).all()


def test_given_difficulty_new_labels_are_uniform_over_the_other_classes():
    result = instance_dependent(np.zeros(30_000, int), 1.0, difficulty=np.ones(30_000), num_classes=4)
    assert result.changed.all()
    assert np.abs(result.transition_matrix[0, 1:] - 1 / 3).max() < 5 * math.sqrt(2 / 9 / 30_000)


@pytest.mark.parametrize("difficulty", [[1.0, 1e-320], [1e308, 1e308], [5e-324, 5e-324], [1e-300, 1.0], [1e300, 1e290]])
def test_every_example_flips_at_rate_one_at_any_scale_of_difficulty(difficulty):
    assert instance_dependent([0, 1], 1.0, difficulty=difficulty).changed.all()


@pytest.mark.parametrize(("positive", "size"), [(299_993, 1_000_003), (700_001, 1_000_003), (5, 7), (65, 129)])
def test_the_largest_reachable_rate_flips_every_example_that_can(positive, size):
    difficulty = np.zeros(size)
    difficulty[:positive] = np.random.default_rng(0).exponential(size=positive)
    for rate in (positive / size, positive / size * (1 + 5e-13)):  # rate * size rounds to either side
        changed = instance_dependent(np.arange(size) % 2, rate, difficulty=difficulty).changed
        assert changed[:positive].all()
        assert not changed[positive:].any()


def test_float32_probabilities_are_taken_as_they_are():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(50, 1000)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    result = instance_dependent(np.arange(50), 0.5, probabilities=probabilities)
    assert result.changed.sum() == 25
    assert result.transition_matrix.shape == (1000, 1000)
