"""Asymmetric losses and Taylor cross-entropy: value and derivative against mpmath, and their limits."""

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

import reference
from emphasis.torch import emphasis_loss
from emphasis.weighting import AEL, AGCE, AUL, CCE, GCE, MAE, Taylor, from_dict

mpmath.mp.dps = reference.mp.mp.dps  # one precision for all tests of a process
LOSSES = [
    (AGCE(a=1.0, q=2.0), lambda p: ((1 + 1) ** 2 - (1 + p) ** 2) / mpmath.mpf(2)),
    (
        AGCE(a=0.6, q=0.6),
        lambda p: ((1 + mpmath.mpf(0.6)) ** mpmath.mpf(0.6) - (0.6 + p) ** mpmath.mpf(0.6)) / mpmath.mpf(0.6),
    ),
    (AGCE(a=0.0, q=0.7), lambda p: (1 - p ** mpmath.mpf(0.7)) / mpmath.mpf(0.7)),
    (AGCE(a=4.0, q=0.0), lambda p: mpmath.log(5 / (4 + p))),
    (AGCE(a=0.0, q=0.0), lambda p: -mpmath.log(p)),
    (AUL(a=1.5, q=0.9), lambda p: ((1.5 - p) ** mpmath.mpf(0.9) - mpmath.mpf(0.5) ** 0.9) / mpmath.mpf(0.9)),
    (AUL(a=6.0, q=1.5), lambda p: ((6 - p) ** mpmath.mpf(1.5) - mpmath.mpf(5) ** 1.5) / mpmath.mpf(1.5)),
    (AUL(a=1.0, q=2.0), lambda p: (1 - p) ** 2 / mpmath.mpf(2)),
    (AEL(a=3.0), lambda p: mpmath.exp(-p / 3)),
    (AEL(a=0.5), lambda p: mpmath.exp(-2 * p)),
    (Taylor(order=1), lambda p: 1 - p),
    (Taylor(order=2), lambda p: (1 - p) + (1 - p) ** 2 / 2),
    (Taylor(order=6), lambda p: sum((1 - p) ** i / mpmath.mpf(i) for i in range(1, 7))),
]
MARGINS = [-60.0, -20.0, -3.0, -0.5, 0.0, 1.0, 4.0, 15.0, 30.0]


@pytest.mark.parametrize(("weighting", "loss"), LOSSES, ids=[repr(weighting) for weighting, _ in LOSSES])
@pytest.mark.parametrize("margin", MARGINS)
def test_value_and_derivative_are_those_of_the_loss(weighting, loss, margin):
    def of_margin(u):
        return loss(1 / (1 + mpmath.exp(-u)))

    expected, slope = of_margin(mpmath.mpf(margin)), mpmath.diff(of_margin, mpmath.mpf(margin))
    assert float(weighting.potential(margin)) == pytest.approx(float(expected), rel=1e-11, abs=1e-30)
    z = torch.tensor([[margin, 0.0]], dtype=torch.float64, requires_grad=True)
    emphasis_loss(z, torch.tensor([0]), weighting, normalization=None).backward()
    assert float(z.grad[0, 0]) == pytest.approx(float(slope), rel=1e-9)
    log_w = weighting.log_weight(np.log(1 / (1 + np.exp(-margin))), -np.logaddexp(0.0, margin), np)
    assert float(np.exp(log_w)) == pytest.approx(-2 * float(slope), rel=1e-9)


@pytest.mark.parametrize(
    ("weighting", "limit"),
    [
        (AGCE(a=0.0, q=0.3), GCE(0.3)),
        (AGCE(a=0.0, q=0.0), CCE()),
        (AGCE(a=2.0, q=1.0), MAE()),
        (AUL(a=3.0, q=1.0), MAE()),
        (Taylor(1), MAE()),
    ],
)
def test_their_limits(weighting, limit):
    p = np.linspace(0.0, 1.0, 41)
    np.testing.assert_allclose(weighting(p), limit(p), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("a", [0.3, 1.0, 4.0])
def test_the_asymmetric_loss_tends_to_the_logarithm_of_the_shifted_p(a):
    margins = np.linspace(-30.0, 30.0, 61)
    gaps = [np.abs(AGCE(a=a, q=q).potential(margins) - AGCE(a=a, q=0.0).potential(margins)).max() for q in (1e-2, 1e-6)]
    assert gaps[1] < 1e-5 < gaps[0]


def test_taylor_cross_entropy_tends_to_cross_entropy():
    p = np.linspace(0.05, 1.0, 20)
    gaps = [np.abs(Taylor(order)(p) - CCE()(p)).max() for order in (1, 4, 16, 256)]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-5


@pytest.mark.parametrize("weighting", [AGCE(a=1e6, q=50.0), AUL(a=1e6, q=50.0), AUL(a=1.0, q=50.0), Taylor(10_000)])
def test_they_are_finite_at_their_bounds(weighting):
    margins = np.array([-1e3, -20.0, 0.0, 20.0, 1e3])
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(weighting.potential(margins)).all()


@pytest.mark.parametrize("weighting", [one for one, _ in LOSSES], ids=repr)
def test_they_come_back_from_a_dictionary_and_stop_pushing(weighting):
    assert from_dict(weighting.to_dict()) == weighting
    assert weighting.vanishes
    p = np.linspace(0.0, 1.0, 100_001)
    assert weighting.integral == pytest.approx(trapezoid(weighting(p), p), rel=1e-5)
    assert weighting(weighting.mode) == pytest.approx(weighting(p).max(), rel=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AGCE(q=-0.1), "q=-0.1"),
        (lambda: AGCE(a=-0.1), "a=-0.1"),
        (lambda: AUL(a=0.9), "a=0.9"),
        (lambda: AUL(q=0), "q=0"),
        (lambda: AEL(0.0), "a=0"),
        (lambda: AGCE(a=1e200), "a=1e.200"),
        (lambda: AGCE(q=2000), "q=2000"),
        (lambda: AUL(a=1e300), "a=1e.300"),
        (lambda: AUL(q=51), "q=51"),
        (lambda: Taylor(1e308), "order=1e.308"),
        (lambda: Taylor(10_001), "order=10001"),
        (lambda: Taylor(0), "order=0"),
        (lambda: Taylor(1.5), "order=1.5"),
        (lambda: Taylor(float("nan")), "order=nan"),
    ],
)
def test_parameters_out_of_bounds_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    with pytest.raises(TypeError, match="must be a number"):
        Taylor("2")
