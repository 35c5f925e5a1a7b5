"""Corruption: what is asked for is what comes out, to within one label of each class."""

import dataclasses
import math
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emphasis.corruption import (
    CIFAR10_ASYMMETRIC,
    CIFAR100_SUPERCLASS,
    cifar10_asymmetric,
    from_noisy_labels,
    from_transition_matrix,
    instance_dependent,
    long_tail,
    pair_flip,
    pn_ratio,
    superclass_swap,
    symmetric,
)
from reference import recounted

SEEDS = st.integers(0, 2**32 - 1)
RATES = st.floats(0.0, 1.0)
ROUNDING = 1e-9
TEN = np.repeat(np.arange(10), 500)
HUNDRED = np.repeat(np.arange(100), 50)

METHODS = {
    "symmetric": lambda rate, **options: symmetric(TEN, rate, **options),
    "pair_flip": lambda rate, **options: pair_flip(TEN, rate, **options),
    "cifar10_asymmetric": lambda rate, **options: cifar10_asymmetric(TEN, rate, **options),
    "superclass_swap": lambda rate, **options: superclass_swap(HUNDRED, rate, **options),
    "instance_dependent": lambda rate, **options: instance_dependent(
        TEN, rate, difficulty=np.linspace(0.1, 1.0, TEN.size), **options
    ),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@st.composite
def labels_and_matrices(draw):
    num_classes = draw(st.integers(2, 7))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=120))
    entry = st.one_of(st.just(0.0), st.floats(1e-6, 1.0))
    row = st.lists(entry, min_size=num_classes, max_size=num_classes).filter(any)
    matrix = np.array(draw(st.lists(row, min_size=num_classes, max_size=num_classes)))
    return np.array(labels), matrix / matrix.sum(axis=1, keepdims=True)


# --- one core: any transition matrix


@given(labels_and_matrices(), SEEDS)
def test_exact_counts_are_within_one_of_expectation(case, seed):
    labels, matrix = case
    noisy = from_transition_matrix(labels, matrix, seed=seed).labels
    for c in np.unique(labels):
        counts = np.bincount(noisy[labels == c], minlength=len(matrix))
        expected = matrix[c] * (labels == c).sum()
        assert (np.abs(counts - expected) < 1.0 + ROUNDING).all()
        assert counts[matrix[c] == 0.0].sum() == 0
    changes = (1.0 - np.diag(matrix))[labels].sum()
    assert abs((noisy != labels).sum() - changes) < 1.0 + ROUNDING


@pytest.mark.parametrize("per_class", [1, 3])
def test_many_small_classes_together_have_the_rate_too(per_class):
    labels = np.repeat(np.arange(20), per_class)
    counts = [symmetric(labels, 0.4, seed=seed).changed.sum() for seed in range(50)]
    assert set(counts) == {8 * per_class}


@given(labels_and_matrices(), SEEDS, st.sampled_from(["exact", "independent"]))
def test_the_result_describes_its_labels(case, seed, sampling):
    labels, matrix = case
    result = from_transition_matrix(labels, matrix, sampling=sampling, seed=seed)
    np.testing.assert_array_equal(result.changed, result.labels != labels)
    np.testing.assert_array_equal(result.index, np.arange(labels.size))
    wanted = recounted(labels, result.labels, len(matrix))
    np.testing.assert_allclose(result.transition_matrix, wanted, atol=1e-15)
    np.testing.assert_allclose(result.transition_matrix.sum(axis=1), 1.0, atol=1e-14)
    assert result.realized_rate == pytest.approx((result.labels != labels).mean())
    assert result.requested_rate is None
    assert result.labels.dtype == np.int64
    assert result.index.dtype == np.int64
    assert result.changed.dtype == bool
    assert result.transition_matrix.dtype == np.float64


def test_a_target_of_probability_zero_gets_no_label_however_the_cumulative_sum_rounds():
    row = np.array([0.1] * 10 + [0.0])  # its cumulative sum is 1 - 1.1e-16: the last class must not fill the gap
    matrix = np.tile(row, (11, 1))
    for seed in range(50):
        for sampling in ("exact", "independent"):
            noisy = from_transition_matrix(np.zeros(1000, int), matrix, sampling=sampling, seed=seed).labels
            assert noisy.max() < 10


def test_counts_always_sum_to_the_class_size_when_the_random_offset_is_the_largest_below_one(monkeypatch):
    class Extreme:
        def random(self, size=None):
            largest = np.nextafter(1.0, 0.0)
            return largest if size is None else np.full(size, largest)

        def permutation(self, values):
            return np.arange(values) if isinstance(values, int) else values

    monkeypatch.setattr("emphasis.corruption._generator", lambda _: Extreme())
    for sampling in ("exact", "independent"):
        noisy = from_transition_matrix(np.zeros(1000, int), np.full((3, 3), 1 / 3), sampling=sampling).labels
        assert noisy.max() == 2


@pytest.mark.parametrize("sampling", ["exact", "independent"])
def test_sampling_is_unbiased_for_classes_of_one_example(sampling):
    matrix = np.array([[0.7, 0.2, 0.1], [0.05, 0.0, 0.95], [0.5, 0.25, 0.25]])
    trials = 2000
    total = np.zeros((3, 3))
    for seed in range(trials):
        total += from_transition_matrix([0, 1, 2], matrix, sampling=sampling, seed=seed).transition_matrix
    sigma = np.sqrt(matrix * (1 - matrix) / trials)
    assert (np.abs(total / trials - matrix) <= 5 * sigma).all()


def test_exact_sampling_treats_all_examples_of_a_class_alike():
    flips = np.mean([symmetric([0] * 5 + [1] * 5, 0.5, seed=seed).changed for seed in range(2000)], axis=0)
    assert np.abs(flips - 0.5).max() < 5 * math.sqrt(0.25 / 2000)


def test_independent_sampling_is_within_five_sigma_and_not_exact():
    labels = np.repeat(np.arange(3), 20_000)
    matrix = np.array([[0.7, 0.2, 0.1], [0.05, 0.0, 0.95], [0.5, 0.25, 0.25]])
    got = from_transition_matrix(labels, matrix, sampling="independent", seed=3).transition_matrix
    assert (np.abs(got - matrix) <= 5 * np.sqrt(matrix * (1 - matrix) / 20_000)).all()
    assert np.abs(got - matrix).max() > 1 / 20_000


# --- the named kinds of noise


@each_method
def test_no_noise_is_the_identity(method):
    result = method(0.0)
    assert not result.changed.any()
    assert result.realized_rate == 0.0
    np.testing.assert_array_equal(result.transition_matrix, np.eye(len(result.transition_matrix)))


@each_method
def test_the_seed_decides_and_the_request_is_kept(method):
    one, same, other = method(0.4, seed=1), method(0.4, seed=1), method(0.4, seed=2)
    np.testing.assert_array_equal(one.labels, same.labels)
    assert (one.labels != other.labels).any()
    assert one.requested_rate == 0.4


@pytest.mark.parametrize(
    ("kind", "share"),
    [("symmetric", 1.0), ("pair_flip", 1.0), ("cifar10_asymmetric", 0.5), ("superclass_swap", 0.4)],
)
@pytest.mark.parametrize("rate", [0.2, 0.4, 0.6, 1.0])
def test_on_balanced_data_the_realized_rate_is_the_one_asked_for(kind, share, rate):
    assert METHODS[kind](rate).realized_rate == pytest.approx(rate * share, abs=1e-12)


@given(st.integers(2, 8), RATES, SEEDS)
@settings(max_examples=30)
def test_symmetric_noise_spreads_alike_and_never_onto_the_own_class(num_classes, rate, seed):
    labels = np.repeat(np.arange(num_classes), 40)
    counts = symmetric(labels, rate, seed=seed).transition_matrix * 40
    wanted = np.full((num_classes, num_classes), 40 * rate / (num_classes - 1))
    np.fill_diagonal(wanted, 40 * (1 - rate))
    assert (np.abs(counts - wanted) < 1.0 + ROUNDING).all()
    assert symmetric(labels, 1.0, seed=seed).changed.all()


@given(st.integers(2, 8), RATES, SEEDS)
@settings(max_examples=30)
def test_inclusive_symmetric_noise_changes_r_times_c_minus_1_over_c(num_classes, rate, seed):
    labels = np.repeat(np.arange(num_classes), 40)
    kept = np.diag(symmetric(labels, rate, inclusive=True, seed=seed).transition_matrix)
    assert (np.abs(kept - (1 - rate * (num_classes - 1) / num_classes)) < (1.0 + ROUNDING) / 40).all()


def test_num_classes_may_exceed_the_labels_present():
    result = symmetric([0, 0, 0, 0], 1.0, num_classes=5)
    assert sorted(result.labels) == [1, 2, 3, 4]
    np.testing.assert_array_equal(result.transition_matrix[1:], np.eye(5)[1:])


def test_pair_flip_moves_to_the_next_class():
    np.testing.assert_array_equal(pair_flip(TEN, 1.0).labels, (TEN + 1) % 10)
    result = pair_flip(TEN, 0.45)
    assert set(result.labels[result.changed] - TEN[result.changed]) == {1, -9}


def test_the_cifar10_map_is_truck_automobile_bird_airplane_deer_horse_cat_dog():
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    wanted = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
    assert {names[a]: names[b] for a, b in CIFAR10_ASYMMETRIC.items()} == wanted
    for true, noisy in zip(np.arange(10), cifar10_asymmetric(np.arange(10), 1.0).labels, strict=True):
        assert names[noisy] == wanted.get(names[true], names[true])


@given(SEEDS)
@settings(max_examples=25)
def test_superclass_swap_swaps_two_classes_of_every_superclass(seed):
    coarse = np.array(CIFAR100_SUPERCLASS)
    noisy = superclass_swap(np.arange(100), 1.0, seed=seed).labels
    np.testing.assert_array_equal(coarse[noisy], coarse)
    np.testing.assert_array_equal(noisy[noisy], np.arange(100))  # to each other
    np.testing.assert_array_equal(np.bincount(coarse[noisy != np.arange(100)]), np.full(20, 2))
    matrix = superclass_swap(HUNDRED, 0.3, seed=seed).transition_matrix
    np.testing.assert_array_equal(np.flatnonzero(np.diag(matrix) < 1), np.flatnonzero(noisy != np.arange(100)))


def test_superclass_swap_takes_any_superclasses_and_picks_every_class_in_the_end():
    moved = [superclass_swap(range(5), 1.0, superclass=[7, 7, 7, 2, 2], seed=s).changed for s in range(40)]
    assert np.array(moved)[:, 3:].all()
    assert np.array(moved)[:, :3].any(axis=0).all()


def test_the_cifar100_superclasses_are_those_of_the_data_set():
    assert np.bincount(CIFAR100_SUPERCLASS).tolist() == [5] * 20
    folder = Path(os.environ.get("EMPHASIS_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))
    file = folder / "cifar100n.npz"
    if not file.exists():
        pytest.skip(f"{file} is absent; EMPHASIS_DATA names the folder that holds cifar100n.npz")
    with np.load(file) as data:
        fine, coarse = data["clean_label"], data["clean_coarse_label"]
    np.testing.assert_array_equal(np.array(CIFAR100_SUPERCLASS)[fine], coarse)


# --- imbalance


@pytest.mark.parametrize(("ratio", "negatives"), [(10, 1250), (50, 250), (1, 12_500)])
def test_pn_ratio_keeps_the_papers_numbers(ratio, negatives):
    labels = np.tile([1, 0], 12_500)
    result = pn_ratio(labels, ratio)
    assert np.bincount(result.labels).tolist() == [negatives, 12_500]
    np.testing.assert_array_equal(result.labels, labels[result.index])
    assert (np.diff(result.index) > 0).all()
    assert not result.changed.any()
    assert result.requested_rate is None
    np.testing.assert_array_equal(result.transition_matrix, np.eye(2))


def test_pn_ratio_makes_any_label_the_positive_one_and_draws_by_seed():
    labels = np.repeat(np.arange(4), 100)
    result = pn_ratio(labels, 2.0, positive=3, seed=5)
    np.testing.assert_array_equal(result.labels, labels[result.index] == 3)
    assert result.labels.sum() == 100
    assert (result.labels == 0).sum() == 50
    assert set(labels[result.index]) == {0, 1, 2, 3}
    assert (pn_ratio(labels, 2.0, positive=3, seed=6).index != result.index).any()


@given(st.integers(2, 12), st.integers(1, 200), st.floats(1.0, 500.0), SEEDS)
def test_long_tail_of_balanced_data_follows_its_formula(num_classes, size, factor, seed):
    labels = np.repeat(np.arange(num_classes), size)
    result = long_tail(labels, factor, seed=seed)
    counts = np.bincount(result.labels, minlength=num_classes)
    wanted = size * factor ** (-np.arange(num_classes) / (num_classes - 1))
    assert (np.abs(counts - np.maximum(wanted, 1.0)) <= 0.5 + 1e-6).all()
    np.testing.assert_array_equal(result.labels, labels[result.index])
    assert (np.diff(result.index) > 0).all()
    assert not result.changed.any()


def test_long_tail_keeps_the_profile_where_a_class_is_short():
    labels = np.repeat([0, 1, 2], [1000, 1000, 20])
    assert np.bincount(long_tail(labels, 25).labels).tolist() == [500, 100, 20]
    assert np.bincount(long_tail(labels, 1).labels).tolist() == [20, 20, 20]
    assert np.bincount(long_tail(labels, 1e300).labels).tolist() == [1000, 1, 1]


# --- inputs and errors


def test_lists_small_integers_and_tensors_are_read_and_nothing_is_modified():
    wanted = symmetric(TEN, 0.4, seed=9)
    matrix = np.full((10, 10), 0.1)
    before = TEN.copy(), matrix.copy()
    for labels in (TEN.tolist(), TEN.astype(np.uint8), tuple(TEN)):
        np.testing.assert_array_equal(symmetric(labels, 0.4, seed=9).labels, wanted.labels)
    for result in (pair_flip(TEN, 0.0), from_transition_matrix(TEN, matrix), long_tail(TEN, 1)):
        result.labels[:] = 3
    probabilities = np.full((TEN.size, 10), 0.1)
    instance_dependent(TEN, 0.2, probabilities=probabilities)
    difficulty = np.ones(TEN.size)
    instance_dependent(TEN, 0.2, difficulty=difficulty)
    np.testing.assert_array_equal(TEN, before[0])
    np.testing.assert_array_equal(matrix, before[1])
    assert (probabilities == 0.1).all()
    assert (difficulty == 1.0).all()


def test_torch_tensors_are_read():
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(symmetric(torch.from_numpy(TEN), 0.4).labels, symmetric(TEN, 0.4).labels)


def test_the_result_is_frozen_and_says_what_happened():
    result = symmetric(TEN, 0.4)
    assert repr(result) == ("<Corruption: 5000 labels of 10 classes, 2000 changed (40.00%), requested noise_rate 0.4>")
    assert repr(pn_ratio([1, 1, 0], 2)) == "<Corruption: 3 labels of 2 classes, 0 changed (0.00%)>"
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.labels = None
    empty = dataclasses.replace(result, labels=result.labels[:0], changed=result.changed[:0])
    assert empty.realized_rate == 0.0


def test_no_framework_is_imported():
    code = "import sys, emphasis.corruption; sys.exit(bool({'torch', 'scipy', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_labels_that_somebody_else_corrupted_are_described():
    true, noisy = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    found = from_noisy_labels(true, noisy, num_classes=4)
    assert found.changed.tolist() == [False, True, False, True]
    expected = [[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(found.transition_matrix, expected)
    with pytest.raises(ValueError, match="give one for each"):
        from_noisy_labels(true, noisy[:3], num_classes=4)


def test_few_examples_of_many_classes_go_to_all_classes_alike():
    labels = np.repeat(np.arange(150), 20)
    found = symmetric(labels, 0.4, num_classes=150, seed=0)
    of_each = np.bincount(found.labels[found.changed], minlength=150)
    assert of_each.sum() == 1200
    assert of_each.max() < 8 + 6 * np.sqrt(8)  # as of draws of a Poisson distribution, of mean 8


@pytest.mark.parametrize("kind", [symmetric, pair_flip])
def test_many_classes_take_no_matrix_of_classes_by_classes(kind):
    classes = 6000  # whose matrix takes 288 MB
    labels = np.random.default_rng(0).integers(0, classes, 50_000)
    tracemalloc.start()
    try:
        result = kind(labels, 0.4, num_classes=classes)
        true, noisy, counts = result.transition_counts()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30e6
    assert result.changed.sum() == pytest.approx(20_000, abs=1)
    assert counts.sum() == labels.size
    assert counts[true != noisy].sum() == result.changed.sum()
    if kind is symmetric:
        received = np.bincount(result.labels[result.changed], minlength=classes)
        assert received.max() < 3.3 + 6 * np.sqrt(3.3)  # as of draws of a Poisson distribution, of mean 20,000 / 6,000


def test_the_old_names_warn():
    with pytest.warns(DeprecationWarning, match="realised_rate is deprecated; use Corruption.realized_rate"):
        assert symmetric(TEN, 0.4).realised_rate == 0.4
    from emphasis import corruption

    with pytest.warns(DeprecationWarning, match="given_labels is deprecated"):
        assert corruption.given_labels is from_noisy_labels
