"""Part-dependent noise: how many labels change, that content decides where to, and as which recipe kind."""

import numpy as np
import pytest

from emphasis.datasets import Split
from emphasis.experiments.recipes.settings import Noise
from emphasis.experiments.runs.data import corrupted
from emphasis.part_dependent import part_dependent

LABELS = np.arange(4000) % 5


def vectors(seed=0):
    return np.random.default_rng(seed).normal(size=(4000, 6)).astype(np.float32)


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.7])
def test_about_the_rate_changes_and_no_label_to_itself(rate):
    result = part_dependent(LABELS, vectors(), rate, seed=1)
    bounds = 5 * np.sqrt(rate * (1 - rate) / 4000)
    middle = rate if rate > 0.2 else 0.128  # what is cut at 0 raises the mean: that of the cut normal distribution
    assert abs(result.changed.mean() - middle) < bounds
    assert result.requested_rate == rate
    again = part_dependent(LABELS, vectors(), rate, seed=1)
    assert (again.labels == result.labels).all()
    assert (part_dependent(LABELS, vectors(), rate, seed=2).labels != result.labels).any()


def test_content_decides_where_a_label_goes():
    """Two copies of an example go to one class far more often than two examples do; for symmetric noise they do not."""
    inputs = vectors()
    twice = np.concatenate([inputs, inputs])
    result = part_dependent(np.concatenate([LABELS, LABELS]), 3.0 * twice, 0.6, seed=0)
    first, second = result.labels[:4000], result.labels[4000:]
    both = (first != LABELS) & (second != LABELS)
    alike = np.mean(first[both] == second[both])
    shuffled = np.random.default_rng(0).permutation(second[both & (LABELS == 0)])
    chance = np.mean(first[both & (LABELS == 0)] == shuffled)
    assert alike > 0.55
    assert chance < 0.4


@pytest.mark.parametrize("scale", [255.0, np.array([1.0, 100.0, 1e-3, 5.0, 1e4, 30.0])], ids=["one", "by column"])
def test_scale_and_units_do_not_matter(scale):
    inputs = vectors()
    expected = part_dependent(LABELS, inputs, 0.4).labels
    assert (part_dependent(LABELS, scale * inputs + 7.0, 0.4).labels == expected).mean() > 0.999


@pytest.mark.parametrize("seed", range(5))
def test_classes_without_a_flipped_example_or_without_any(seed):
    labels = np.repeat(np.arange(150), 20)
    result = part_dependent(labels, vectors()[: labels.size], 0.05, num_classes=160, seed=seed)
    assert result.num_classes == 160
    assert 0.0 < result.changed.mean() < 0.2


def test_parts_of_a_data_set_have_the_same_noise_if_its_structure_is_the_same():
    """An example that changes in both draws comes to the same class far more often than with another structure."""

    def agreement(structure_seed):
        first = part_dependent(LABELS, 3.0 * vectors(), 0.6, seed=1, structure_seed=0)
        second = part_dependent(LABELS, 3.0 * vectors(), 0.6, seed=2, structure_seed=structure_seed)
        both = first.changed & second.changed
        return np.mean(first.labels[both] == second.labels[both])

    assert agreement(0) > 0.55
    assert agreement(3) < 0.4


def test_it_is_a_kind_of_recipes_for_vectors_and_images():
    images = np.random.default_rng(0).integers(0, 256, (200, 3, 4, 4), dtype=np.uint8)
    for inputs in (vectors()[:200], images):
        split = Split(inputs, LABELS[:200], inputs[:1], LABELS[:1], 5)
        result = corrupted(split, Noise("part_dependent", rate=0.4), 0)
        assert 0.2 < result.changed.mean() < 0.6
    assert not part_dependent(LABELS, vectors(), 0.0).changed.any()


@pytest.mark.parametrize("inputs", [None, np.zeros(4000), np.zeros((3, 2))])
def test_inputs_that_do_not_fit_are_refused(inputs):
    with pytest.raises(ValueError, match="inputs in memory"):
        part_dependent(LABELS, inputs, 0.4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_inputs_that_are_no_numbers_are_refused(value):
    inputs = vectors()
    inputs[5, 2] = value
    for refused in (inputs, inputs.astype(object), inputs.astype(str)):
        with pytest.raises(ValueError, match="needs finite numbers as inputs"):
            part_dependent(LABELS, refused, 0.4)


@pytest.mark.parametrize("name", ["seed", "structure_seed"])
def test_seeds_are_integers_from_zero(name):
    with pytest.raises(ValueError, match=f"{name}=-1"):
        part_dependent(LABELS, vectors(), 0.4, **{name: -1})
    with pytest.raises(TypeError, match=name):
        part_dependent(LABELS, vectors(), 0.4, **{name: "x"})
