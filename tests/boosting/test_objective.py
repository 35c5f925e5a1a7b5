import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emphasis import CCE, DM, GCE, MAE, SCE, Beta, Relative
from emphasis.boosting import Objective
from emphasis.boosting.labels import initial_score
from emphasis.boosting.objective import Rounds
from emphasis.weighting import AUTO_MAX_MARGIN, DEFAULT_WEIGHTING
from reference import CASE_IDS, CASES, MARGINS, exact_derivative, weightings

RNG = np.random.default_rng(0)


def random_case(seed, examples=7, classes=4, scale=6.0):
    rng = np.random.default_rng(seed)
    return rng.integers(classes, size=examples), rng.normal(size=(examples, classes)) * scale


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize(("weighting", "w", "_"), CASES, ids=CASE_IDS)
@pytest.mark.parametrize("margin", MARGINS)
def test_gradient_is_the_exact_derivative_at_any_margin(weighting, w, _, margin):
    logits = [margin + 0.3 + math.log(2.0), 0.3, 0.3]  # the others' logsumexp is 0.3 + log 2
    exact, _ = exact_derivative(w, logits, 0)
    gradient, _ = Objective(weighting, normalization=None, max_margin=None).gradient_hessian([0], [logits])
    np.testing.assert_allclose(gradient[0], [float(x) for x in exact], rtol=1e-9, atol=1e-300)


@given(weightings(), st.integers(0, 10**6), st.sampled_from([None, "integral", "batch"]))
def test_gradient_sums_to_zero_and_hessian_is_positive(weighting, seed, normalization):
    y, z = random_case(seed)
    gradient, hessian = Objective(weighting, normalization).gradient_hessian(y, z)
    size = np.abs(gradient).max()
    np.testing.assert_allclose(gradient.sum(1), 0.0, atol=1e-12 * max(size, 1.0))
    assert (hessian > 0.0).all()


@given(weightings(), st.integers(0, 10**6))
def test_hessian_bounds_those_of_weighted_and_of_plain_cross_entropy(weighting, seed):
    y, z = random_case(seed)
    gradient, hessian = Objective(weighting, None, None).gradient_hessian(y, z)
    p = softmax(z)
    own = p[np.arange(len(y)), y]
    half = -gradient[np.arange(len(y)), y]
    with np.errstate(divide="ignore", invalid="ignore"):
        c = np.where(own < 1 - 1e-6, half / (1 - own), 0.0)[:, None]
    assert (hessian >= p * (1 - p) * (1 - 1e-6) - 1e-15).all()  # 1 - p has few digits near p = 1
    assert (hessian >= c * p * (1 - p) * (1 - 1e-6) - 1e-15).all()
    far = (1 - own[:, None]) > 1e-6
    expected = np.maximum(c, 1.0) * p * (1 - p)
    np.testing.assert_allclose(hessian[far[:, 0]], np.maximum(expected, 1e-16)[far[:, 0]], rtol=1e-6)


@pytest.mark.parametrize("weighting", [CCE(), MAE(), GCE(0.7), SCE(mu=0.1, nu=1.0, A=-4.0)], ids=repr)
def test_hessian_bounds_the_losss_own_second_derivative_where_it_is_said_to(weighting):
    y, z = random_case(1, examples=200, scale=3.0)
    objective, step = Objective(weighting, None, None), 1e-5
    _, hessian = objective.gradient_hessian(y, z)
    for j in range(z.shape[1]):
        shift = np.zeros(z.shape[1])
        shift[j] = step
        above, below = (objective.gradient_hessian(y, z + sign * shift)[0][:, j] for sign in (1, -1))
        assert (hessian[:, j] >= (above - below) / (2 * step) - 1e-6).all()


def test_cce_is_cross_entropy():
    y, z = random_case(2, examples=50)
    gradient, hessian = Objective(CCE()).gradient_hessian(y, z)
    p = softmax(z)
    np.testing.assert_allclose(gradient, p - np.eye(4)[y], atol=1e-15)
    np.testing.assert_allclose(hessian, np.maximum(p * (1 - p), 1e-16), rtol=1e-12, atol=1e-15)


@given(weightings(), st.integers(0, 10**6), st.sampled_from([None, "integral", "batch"]))
def test_one_score_is_the_difference_of_two(weighting, seed, normalization):
    y, z = random_case(seed, classes=2)
    objective = Objective(weighting, normalization)
    two, one = objective.gradient_hessian(y, z), objective.gradient_hessian(y, z[:, 1] - z[:, 0])
    scale = np.abs(one[0]).max()
    np.testing.assert_allclose(one[0], two[0][:, 1], atol=1e-12 * scale)
    np.testing.assert_allclose(one[1], two[1][:, 1], rtol=1e-7, atol=1e-16)


@given(weightings(), st.integers(0, 10**6))
def test_an_example_for_itself_is_its_row_with_the_whole_matrix(weighting, seed):
    y, z = random_case(seed)
    weight = np.random.default_rng(seed).uniform(0.1, 3.0, len(y))
    objective = Objective(weighting)
    gradients, hessians = objective.gradient_hessian(y, z, weight)
    for label, scores, share, gradient, hessian in zip(y, z, weight, gradients, hessians, strict=True):
        single, matrix = objective.of_example(int(label), scores, share)
        np.testing.assert_allclose(single, gradient, rtol=1e-9, atol=1e-300)
        np.testing.assert_allclose(np.diag(matrix), hessian, rtol=1e-9, atol=1e-15)
        np.testing.assert_array_equal(matrix, matrix.T)
        np.testing.assert_allclose(
            matrix.sum(1), 0.0, atol=1e-12 * max(matrix.max(), share)
        )  # adding to all: no change
        assert np.linalg.eigvalsh(matrix).min() > -1e-12 * max(matrix.max(), share)


@given(weightings(), st.integers(0, 10**6))
def test_a_sample_weight_is_a_number_of_copies(weighting, seed):
    y, z = random_case(seed)
    copies = np.random.default_rng(seed).integers(0, 4, len(y))
    for normalization in (None, "integral"):
        objective = Objective(weighting, normalization)
        one, weighted = objective.gradient_hessian(y, z), objective.gradient_hessian(y, z, copies)
        np.testing.assert_allclose(weighted[0], one[0] * copies[:, None], rtol=1e-12, atol=1e-300)
        np.testing.assert_allclose(weighted[1], np.maximum(one[1] * copies[:, None], 1e-16), rtol=1e-9, atol=2e-16)


@given(weightings(), st.integers(0, 10**6))
def test_batch_gives_a_mean_weight_of_one(weighting, seed):
    y, z = random_case(seed, scale=2.0)
    weight = np.random.default_rng(seed).uniform(0.1, 3.0, len(y))
    gradient, _ = Objective(weighting, "batch").gradient_hessian(y, z, weight)
    assert np.abs(gradient).sum() == pytest.approx(weight.sum(), rel=1e-9)
    unit = Objective(weighting, None).gradient_hessian(y, z, weight)[0]
    np.testing.assert_allclose(gradient * np.abs(unit).sum(), unit * weight.sum(), rtol=1e-6, atol=1e-200)


def test_integral_divides_by_the_integral():
    y, z = random_case(3)
    w = DM(lam=0.5, beta=12)
    bare, density = (Objective(w, n).gradient_hessian(y, z)[0] for n in (None, "integral"))
    np.testing.assert_allclose(density * w.integral, bare, rtol=1e-12)


def test_no_push_beyond_the_largest_margin():
    z = np.array([AUTO_MAX_MARGIN - 0.1, AUTO_MAX_MARGIN + 0.1])
    gradient, hessian = Objective(DM(lam=0.5, beta=4)).gradient_hessian([1, 1], z)
    assert gradient[0] < 0.0 == gradient[1]
    assert (hessian > 0.0).all()
    assert Objective(DM(lam=0.5, beta=4), max_margin=None).gradient_hessian([1, 1], z)[0][1] < 0.0


def test_huge_weights_have_finite_shares_and_an_error_otherwise():
    huge = DM(lam=0, beta=1e4)
    y, z = random_case(4)
    assert np.isfinite(Objective(huge, "batch").gradient_hessian(y, z)[0]).all()
    with pytest.raises(OverflowError, match="smaller beta"):
        Objective(huge, None).gradient_hessian(y, z)
    with pytest.raises(OverflowError, match="exceeds float32"):
        Objective(DM(lam=0, beta=400), None).gradient_hessian(y, z.astype(np.float32))


@pytest.mark.parametrize("weighting", [CCE(), GCE(0.7), Relative(), DM(lam=0.5, beta=4)], ids=repr)
def test_scores_in_float32_have_the_derivatives_of_float64_in_float32(weighting):
    y, z = random_case(4)
    z = z.astype(np.float32)
    exact = Objective(weighting).gradient_hessian(y, z.astype(np.float64))
    for found, expected in zip(Objective(weighting).gradient_hessian(y, z), exact, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-7)


def test_blocks_of_examples_change_nothing(monkeypatch):
    y, z = random_case(4)
    whole = Objective().gradient_hessian(y, z)
    monkeypatch.setattr("emphasis.boosting.objective._BLOCK", 12)  # three examples at a time
    for found, expected in zip(Objective().gradient_hessian(y, z), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("precision", [np.float32, np.float64])
@pytest.mark.parametrize("normalization", ["integral", "batch"])
def test_arrays_of_an_earlier_call_are_overwritten_where_they_fit(precision, normalization):
    own = Objective(GCE(0.7), normalization)
    (y, z), (other_y, other_z) = random_case(4), random_case(5)
    earlier = own.gradient_hessian(other_y, other_z.astype(precision))
    expected = own.gradient_hessian(y, z.astype(precision))
    found = own.gradient_hessian(y, z.astype(precision), out=earlier)
    for now, before, right in zip(found, earlier, expected, strict=True):
        assert np.shares_memory(now, before)
        np.testing.assert_array_equal(now, right)
    for other in (z[:5].astype(precision), z.astype(np.float32 if precision == np.float64 else np.float64)):
        again = own.gradient_hessian(y[: len(other)], other, out=earlier)
        assert not any(np.shares_memory(now, before) for now, before in zip(again, earlier, strict=True))
        assert all(now.shape == other.shape and now.dtype == other.dtype for now in again)


def test_rounds_of_threads_and_of_pickled_copies_share_no_arrays():
    rounds = Rounds()
    rounds.last = Objective().gradient_hessian(*random_case(4))
    assert pickle.loads(pickle.dumps(rounds)).last is None
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(lambda: rounds.last).result() is None
    assert rounds.last is not None


def test_a_negative_function_is_named():
    negative = Objective(lambda p: np.where(abs(p - 0.9005) < 1e-4, -1.0, 1.0), None, None)  # between the probes
    with pytest.raises(ValueError, match="negative or NaN"):
        negative.gradient_hessian([1, 0], [np.log(0.9005 / 0.0995), 0.0])


def test_options_are_checked_when_made():
    assert Objective().weighting == DEFAULT_WEIGHTING
    assert Objective("GCE").weighting == Objective({"family": "GCE", "q": 0.7}).weighting == GCE(0.7)
    with pytest.raises(ValueError, match='use None, "integral" or "batch"'):
        Objective(CCE(), "mean")
    with pytest.raises(ValueError, match="max_margin"):
        Objective(CCE(), max_margin="none")
    with pytest.raises(ValueError, match="infinite integral"):
        Objective(Beta(alpha=0.0, eta=1.0))
    with pytest.raises(ValueError, match="than two classes"):
        Objective(CCE(), "batch").check_single_examples()


@pytest.mark.parametrize(
    ("y", "z", "weight", "match"),
    [
        ([0, 1], [[0.0, np.nan], [0.0, 1.0]], None, "NaN or infinity"),
        ([0, 1], [[0.0, np.inf], [0.0, 1.0]], None, "NaN or infinity"),
        ([0, 2], [[0.0, 1.0], [0.0, 1.0]], None, r"y_true holds .*2.*0 to 1"),
        ([0, 0.5], [[0.0, 1.0], [0.0, 1.0]], None, r"y_true holds .*0\.5.*whole"),
        ([0, -1], [0.0, 1.0], None, "y_true holds"),
        ([0], [[0.0, 1.0], [0.0, 1.0]], None, "y_true must have shape"),
        ([0, 0], [[0.0], [1.0]], None, "C >= 2"),
        ([0, 1], [0.0, 1.0], [1.0, -1.0], "negative"),
        ([0, 1], [0.0, 1.0], [1.0, np.nan], "negative number, NaN"),
        ([0, 1], [0.0, 1.0], [1.0], "sample_weight must have shape"),
    ],
)
def test_what_does_not_fit_is_named(y, z, weight, match):
    with pytest.raises(ValueError, match=match):
        Objective(CCE()).gradient_hessian(y, z, weight)


def test_initial_score_is_the_log_of_the_shares():
    y = np.array(["b", "a", "b", "b"])
    np.testing.assert_allclose(initial_score(y), np.log([0.25, 0.75]))
    np.testing.assert_allclose(initial_score(y, [1, 3, 1, 1]), np.log([0.5, 0.5]))
    with pytest.raises(ValueError, match="1 class"):
        initial_score(["a", "a"])
    with pytest.raises(ValueError, match=r"'a'.* has no sample_weight"):
        initial_score(y, [1, 0, 1, 1])
    # and the best constants of cross-entropy: there the gradients sum to 0
    numbers = RNG.integers(3, size=500)
    gradient, _ = Objective(CCE()).gradient_hessian(numbers, np.tile(initial_score(numbers), (500, 1)))
    np.testing.assert_allclose(gradient.sum(0), 0.0, atol=1e-10)


@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0, -1.0, 1.0], [1.0, math.nan, 1.0]])
def test_sample_weights_are_checked_before_the_batch_is_weighed_by_them(weights):
    with pytest.raises(ValueError, match="sample_weight"):
        Objective().gradient_hessian([0, 1, 2], np.eye(3), weights)
