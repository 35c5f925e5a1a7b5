"""The released arithmetic of the paper's code, against a literal one in numpy's float32; and what it is not."""

import math

import numpy as np
import pytest
import torch

from emphasis.experiments.recipes.convert import RecipeError, build_objective
from emphasis.experiments.recipes.settings import objective_as_dict
from emphasis.torch.functional import resolve
from emphasis.torch.stacked import stacked_derivative
from emphasis.training.arithmetic import QUOTIENT_EPSILON, derivative, published_derivative, with_arithmetic
from emphasis.training.settings import Objective
from emphasis.weighting import DM, GCE, EmphasisWarning

pytestmark = pytest.mark.filterwarnings(f"ignore::{EmphasisWarning.__module__}.EmphasisWarning")
ULP = np.spacing(np.float32(1.0))


def released_layer(logits, labels, lam, beta):
    """The layer of the release, unified_weight_loss_layer.cpp, step by step in float32; and w / (2 (1 - p) + 1e-6)."""
    f = np.float32
    logits = logits.astype(f)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    prob = shifted / shifted.sum(1, keepdims=True, dtype=f)
    diff = prob.copy()
    total, quotients = f(1e-8), np.zeros(len(labels), f)
    for i, y in enumerate(labels):
        p = prob[i, y]
        weight = np.power(f(2.718281828), f(beta) * np.power(p, f(lam)) * (f(1) - p))
        total += weight
        diff[i, y] -= f(1)
        diff[i] /= f(2) - f(2) * p + f(1e-6)
        diff[i] *= weight
        quotients[i] = weight / (f(2) - f(2) * p + f(1e-6))
    return diff * (f(1) / total), quotients / total


def at_margins(margins, classes=10):
    """Logits whose label 0 leads by these margins, the others even."""
    logits = np.zeros((len(margins), classes))
    logits[:, 0] = np.asarray(margins) + math.log(classes - 1.0)
    return logits


@pytest.mark.parametrize(("lam", "beta"), [(0.5, 12.0), (1.0, 16.0), (0.0, 0.5), (0.0, -0.52), (2.0, 24.0), (0.0, 0.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_released_arithmetic_is_the_releases_to_float32_rounding(lam, beta, seed):
    """Its quotient magnifies a rounding of p, one spacing of float32, by w / (2 (1 - p) + 1e-6): so much is allowed."""
    rng = np.random.default_rng(seed)
    logits = np.concatenate([4.0 * rng.normal(size=(40, 10)), at_margins(rng.uniform(-12.0, 40.0, 60))])
    labels = rng.integers(0, 10, 100)
    labels[40:] = 0
    expected, quotients = released_layer(logits, labels, lam, beta)
    options = resolve(DM(lam=lam, beta=beta), "batch", "mean", None, None)
    given = torch.from_numpy(logits).float().unsqueeze(0)
    found = published_derivative(given, torch.from_numpy(labels).unsqueeze(0), options)[0].numpy()
    rounding = 2.0 * ULP * quotients
    allowed = rounding[:, None] + 8.0 * ULP * (1.0 + abs(beta)) * np.abs(expected) + 1e-12
    assert (np.abs(found - expected) <= allowed).all()
    assert found.dtype == np.float32


def test_it_keeps_learned_examples_in_the_sum_and_lets_their_push_die_away():
    margins = [0.0, 8.0, 12.0, 14.0, 16.0, 20.0, 40.0]
    weighting = DM(lam=0.5, beta=12.0)
    logits = torch.from_numpy(at_margins(margins)).float().unsqueeze(0)
    labels = torch.zeros(1, len(margins), dtype=torch.int64)
    options = resolve(weighting, "batch", "mean", None, None)
    norms = published_derivative(logits, labels, options)[0].abs().sum(1).double().numpy()
    p = 1.0 / (1.0 + np.exp(-np.array(margins)))
    share = weighting(p) / weighting(p).sum()
    np.testing.assert_allclose(norms[:2] / share[:2], 1.0, rtol=2e-3)
    ratio = 2.0 * (1.0 - p) / (2.0 * (1.0 - p) + QUOTIENT_EPSILON)  # were p not rounded
    np.testing.assert_allclose(norms[2:4] / share[2:4], ratio[2:4], rtol=0.1)
    assert (norms[5:] < 5e-3 * share[5:]).all()  # p has become 1
    assert float(norms.sum()) < 1.0 - share[5:].sum() + 1e-3  # but they take their share of the sum
    limited = resolve(weighting, "batch", "mean", 16.6, None)
    assert float(stacked_derivative(logits, labels, [limited]).abs().sum()) == pytest.approx(1.0, rel=1e-5)


def test_the_exact_derivative_may_keep_learned_examples_in_the_sum():
    margins = [-2.0, 0.0, 3.0, 16.0, 17.0, 30.0]
    weighting = DM(lam=0.5, beta=4.0)
    logits = torch.from_numpy(at_margins(margins)).unsqueeze(0)
    labels = torch.zeros(1, len(margins), dtype=torch.int64)
    options = with_arithmetic(resolve(weighting, "batch", "mean", 16.6, None), "keep-learned")
    norms = derivative(logits, labels, [options])[0].abs().sum(1).numpy()
    weights = weighting(1.0 / (1.0 + np.exp(-np.array(margins))))
    expected = np.where(np.array(margins) > 16.6, 0.0, weights / weights.sum())
    np.testing.assert_allclose(norms, expected, rtol=1e-6)


def test_methods_of_one_stack_have_each_their_own_arithmetic():
    generator = torch.Generator().manual_seed(0)
    logits = 6.0 * torch.randn(6, 8, 5, generator=generator)
    labels = torch.randint(5, (2, 8), generator=generator)
    exact = [resolve(DM(), "batch", "mean", margin, None) for margin in (16.6, None, 16.6)]
    mixed = [
        with_arithmetic(one, kind) for one, kind in zip(exact, ("exact", "float32-published", "exact"), strict=True)
    ]
    found, plain = derivative(logits, labels, mixed), derivative(logits, labels, exact)
    assert torch.equal(found[:2], plain[:2])
    assert torch.equal(found[4:], plain[4:])
    torch.testing.assert_close(found[2:4], published_derivative(logits[2:4], labels, exact[1]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arithmetic": "float16"}, "use one of exact"),
        ({"arithmetic": "keep-learned", "normalization": "integral"}, "batch"),
        ({"arithmetic": "float32-published", "max_margin": 16.6}, "max_margin=None"),
        ({"arithmetic": "float32-published", "weighting": GCE(), "max_margin": None}, "DM"),
        ({"arithmetic": "float32-published", "weighting": DM(vanishing=True), "max_margin": None}, "DM"),
    ],
)
def test_what_has_no_such_arithmetic_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Objective(**{"weighting": DM(), "normalization": "batch", **settings})


def test_it_is_a_setting_of_recipes_and_results():
    table = {"weighting": {"family": "DM", "lam": 0.5, "beta": 12}, "normalization": "batch", "max_margin": "none"}
    objective = build_objective({**table, "arithmetic": "float32-published"}, "row")
    assert objective.arithmetic == "float32-published"
    assert objective_as_dict(objective)["arithmetic"] == "float32-published"
    assert "arithmetic" not in objective_as_dict(build_objective(table, "row"))  # results keep their keys
    with pytest.raises(RecipeError, match="row: arithmetic='float64'"):
        build_objective({**table, "arithmetic": "float64"}, "row")
