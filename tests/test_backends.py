"""One derivative everywhere: every backend against float64 numpy, itself tested against mpmath."""

import numpy as np
import pytest
import torch

from emphasis import from_function
from emphasis.boosting import Objective
from emphasis.torch import emphasis_loss
from reference import CASE_IDS, CASES

pytestmark = pytest.mark.filterwarnings("ignore::emphasis.EmphasisWarning")  # the bare formula is what is compared
MARGINS = (0.0, 1.0, -1.0, 8.0, -8.0, 30.0, -30.0, 100.0, -100.0)


def logits_and_labels(classes):
    """Random logits, and some whose margins are those of MARGINS; float32 numbers, so that all see the same."""
    rng = np.random.default_rng(classes)
    logits = rng.normal(size=(60, classes)) * 5.0
    labels = rng.integers(classes, size=60)
    for row, margin in enumerate(MARGINS):
        rest = np.delete(logits[row], labels[row])
        logits[row, labels[row]] = margin + np.log(np.exp(rest).sum())
    return logits.astype(np.float32).astype(np.float64), labels


def of_torch(dtype):
    def backend(weighting, logits, labels, max_margin):
        z = torch.tensor(logits, dtype=dtype, requires_grad=True)
        options = {"normalization": None, "reduction": "sum", "max_margin": max_margin}
        emphasis_loss(z, torch.tensor(labels), weighting, **options).backward()
        return z.grad.double().numpy()

    return backend


def of_jax(x64):
    def backend(weighting, logits, labels, max_margin):
        jax = pytest.importorskip("jax", reason="needs the extra jax")
        from emphasis import jax as emphasis_jax

        options = {"normalization": None, "reduction": "sum", "max_margin": max_margin}
        with jax.enable_x64(x64):
            z = jax.numpy.asarray(logits, "float64" if x64 else "float32")
            gradient = jax.grad(lambda z: emphasis_jax.emphasis_loss(z, labels, weighting, **options))(z)
            return np.asarray(gradient, np.float64)

    return backend


def of_boosting(weighting, logits, labels, max_margin):
    return Objective(weighting, None, max_margin).gradient_hessian(labels, logits)[0]


def of_boosting_one_by_one(weighting, logits, labels, max_margin):
    objective = Objective(weighting, None, max_margin)
    return np.stack([objective.of_example(int(y), z)[0] for y, z in zip(labels, logits, strict=True)])


BACKENDS = {
    "torch float64": of_torch(torch.float64),
    "torch float32": of_torch(torch.float32),
    "jax float64": of_jax(True),
    "jax float32": of_jax(False),
    "boosting": of_boosting,
    "boosting, one by one": of_boosting_one_by_one,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("weighting", [case[0] for case in CASES], ids=CASE_IDS)
def test_every_backend_has_the_derivative_of_the_reference(weighting, backend):
    for classes in (2, 10):
        for max_margin in (None, 16.6):
            logits, labels = logits_and_labels(classes)
            expected = weighting.derivative(logits, labels, max_margin)
            found = BACKENDS[backend](weighting, logits, labels, max_margin)
            # Of the largest weight: a family's own scale is no digit lost. Float32 numbers beyond 1 have 6e-8 each,
            # and exp makes of one in log w, which may be 12, some 1e-6.
            size = np.abs(expected).max()
            np.testing.assert_allclose(found / size, expected / size, rtol=0.0, atol=1e-6)
            if "32" not in backend:
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-300)


def test_two_classes_with_one_score_have_it_too():
    logits, labels = logits_and_labels(2)
    for weighting in (case[0] for case in CASES):
        expected = weighting.derivative(logits, labels)[:, 1]
        score = logits[:, 1] - logits[:, 0]
        z = torch.tensor(score, requires_grad=True)
        options = {"normalization": None, "reduction": "sum", "max_margin": None}
        emphasis_loss(z, torch.tensor(labels), weighting, **options).backward()
        objective = Objective(weighting, None, None)
        for found in (z.grad.numpy(), objective.gradient_hessian(labels, score)[0]):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-300)


def test_a_function_of_ones_own_is_the_same_weighting_everywhere():
    weighting = from_function(lambda p, q: p**1.5 * q)
    logits, labels = logits_and_labels(5)
    expected = weighting.derivative(logits, labels)
    for name in ("torch float64", "jax float64", "boosting", "boosting, one by one"):
        found = BACKENDS[name](weighting, logits, labels, None)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-30)
