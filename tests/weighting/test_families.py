"""Each family against the paper's formula in mpmath, its modes and integrals, and the special cases of Eq. 5-12."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emphasis import CCE, DM, GCE, IMAE, MAE, MSE, SCE, Beta, Exponential, Focal, Normal, Uniform
from emphasis.weighting import from_function
from reference import (
    CASE_IDS,
    CASES,
    MARGINS,
    USER_CASES,
    exact_derivative,
    integral,
    probabilities,
    weightings,
)

UNIT = st.floats(0.0, 1.0)
TINY = np.finfo(np.float64).tiny


def logits_at(margin: float, rest: tuple[float, ...] = (0.3, -1.2, 0.7)) -> tuple[list[float], int]:
    """Logits whose label 1 has about this margin."""
    return [rest[0], margin + 1.1, *rest[1:]], 1


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize(("weighting", "w"), [case[:2] for case in CASES], ids=CASE_IDS)
def test_derivative_is_the_papers_to_1e12_and_its_l1_norm_is_w(weighting, w, margin):
    logits, label = logits_at(margin)
    expected, weight = exact_derivative(w, logits, label)
    got = weighting.derivative(np.array([logits]), np.array([label]))[0]
    for ours, theirs in zip(got, expected, strict=True):
        assert abs(ours - theirs) <= max(1e-12 * abs(theirs), TINY)
    assert abs(np.abs(got).sum() - weight) <= max(1e-12 * weight, TINY)


@pytest.mark.parametrize(("weighting", "w"), USER_CASES)
@pytest.mark.parametrize("margin", [m for m in MARGINS if abs(m) <= 1.0])
def test_users_functions_derive_as_exactly_as_p_allows(weighting, w, margin):
    logits, label = logits_at(margin)
    expected, _ = exact_derivative(w, logits, label)
    got = weighting.derivative(np.array([logits]), np.array([label]))[0]
    np.testing.assert_allclose(got, np.array(expected, dtype=float), rtol=1e-12)


@pytest.mark.parametrize(("weighting", "w"), [case[:2] for case in CASES], ids=CASE_IDS)
def test_value_and_log_agree_with_the_formula_inside_and_at_the_ends(weighting, w):
    p = np.array([1e-300, 1e-9, 0.1, 0.5, 0.9, 1 - 2.0**-40])
    expected = [w(mp.mpf(float(x)), 1 - mp.mpf(float(x))) for x in p]
    np.testing.assert_allclose(weighting(p), np.array(expected, dtype=float), rtol=1e-13)
    np.testing.assert_allclose(weighting.log(p), [float(mp.log(x)) for x in expected], rtol=1e-13, atol=1e-13)
    assert not np.isnan(weighting(np.array([0.0, 1.0]))).any()
    assert weighting.vanishes == (weighting(1.0) == 0.0)


@pytest.mark.parametrize(("weighting", "w"), [case[:2] for case in CASES], ids=CASE_IDS)
def test_integral_density_and_mass_agree_with_mpmath(weighting, w):
    whole = integral(w)
    assert abs(weighting.integral / whole - 1) < 1e-10
    assert abs(weighting.mass(0.2, 0.6) - integral(w, 0.2, 0.6) / whole) < 1e-10
    assert weighting.mass(0.0, 1.0) == pytest.approx(1.0, abs=1e-10)
    assert weighting.mass(0.3, 0.3) == 0.0
    p = np.linspace(0.01, 0.99, 9)
    np.testing.assert_allclose(weighting.density(p), weighting(p) / float(whole), rtol=1e-10)


@pytest.mark.parametrize(
    ("lam", "beta", "vanishing"),
    [
        *[(lam, beta, False) for lam, beta in ((0.1, 50), (0.5, 12), (3.0, 50), (0.1, -50), (1.0, 400), (0.01, 5))],
        *[(lam, beta, True) for lam, beta in ((0.1, 50), (0.5, 12), (3.0, 50), (1.0, 400), (0.01, 5), (2.0, 1e-6))],
    ],
)
def test_integral_of_dm_equals_quadrature_and_the_series(lam, beta, vanishing):
    weighting = DM(lam=lam, beta=beta, vanishing=vanishing)
    with mp.workdps(80):
        series = (
            mp.nsum(
                lambda k: mp.mpf(beta) ** k / mp.factorial(k) * mp.beta(mp.mpf(lam) * k + 1, k + 1),
                [1 if vanishing else 0, mp.inf],
                method="d",
            )
            if abs(beta) <= 50
            else None
        )
        quadrature = integral(lambda p, q: mp.exp(beta * p ** mp.mpf(lam) * q) - vanishing)
    assert abs(mp.mpf(weighting.log_integral) - mp.log(quadrature)) < 1e-10
    assert abs(weighting.integral / quadrature - 1) < 1e-10
    if series is not None:
        assert abs(series / quadrature - 1) < 1e-10


@pytest.mark.parametrize(("weighting", "w"), [(case[0], case[1]) for case in CASES], ids=CASE_IDS)
@pytest.mark.parametrize("margin", [-30.0, -3.0, 0.5, 2.0, 16.6, 40.0])
def test_potential_has_the_derivative_minus_w_over_2(weighting, w, margin):
    """L(u) - L(0) = -1/2 integral of w(sigmoid(s)) over [0, u]."""
    with mp.workdps(30):
        points = [margin * k / 16 for k in range(17)]
        change = -mp.quad(lambda s: w(*probabilities(s)), points) / 2
    got = weighting.potential(np.array([0.0, margin]))
    assert abs((got[1] - got[0]) - change) < 1e-11 * max(1, abs(change))


@pytest.mark.parametrize(("weighting", "loss"), [(c[0], c[2]) for c in CASES if c[2]])
def test_closed_form_losses_keep_their_usual_constants(weighting, loss):
    for margin in (-100.0, -20.0, -1.0, 0.0, 3.0, 20.0):
        expected = loss(*probabilities(margin))
        assert abs(weighting.potential(margin) - expected) <= 1e-13 * abs(expected) + 1e-300


def test_loss_is_zero_where_the_push_ends():
    for weighting in (DM(lam=0.5, beta=4, vanishing=True), from_function(lambda p: p * (1 - p))):
        assert weighting.potential(np.inf) == pytest.approx(0.0, abs=1e-12)
        assert weighting.potential(-5.0) > 0.0
    published = DM(lam=0.5, beta=4)
    assert published.potential(16.6, max_margin="auto") == pytest.approx(0.0, abs=1e-12)
    assert published.potential(50.0, max_margin="auto") == pytest.approx(0.0, abs=1e-12)
    assert published.potential(0.0, max_margin=None) == pytest.approx(0.0, abs=1e-12)
    assert published.potential(50.0, max_margin=None) < -20.0


def test_potential_goes_on_straight_beyond_its_table():
    weighting = DM(lam=1, beta=3)
    got = weighting.potential(np.array([-1e6, -1e5, 1e5, 1e6]))
    np.testing.assert_allclose(np.diff(got)[[0, 2]], -0.5 * 9e5, rtol=1e-12)


# --- Eq. 5 and 6 --------------------------------------------------------------------------------


@given(UNIT, UNIT)
def test_eq_5_the_losses_share_one_direction(p, q_power):
    cce = CCE()(p)
    assert MAE()(p) == pytest.approx(p * cce, rel=1e-12)
    assert MSE()(p) == pytest.approx(2 * p * (1 - p) * cce, rel=1e-12, abs=1e-300)
    assert GCE(q_power)(p) == pytest.approx(p**q_power * cce, rel=1e-9, abs=1e-300)


@given(UNIT)
def test_eq_6_modes(q):
    assert (CCE().mode, MAE().mode, MSE().mode) == (0.0, 0.5, pytest.approx(1 / 3))
    assert GCE(q).mode == pytest.approx(q / (q + 1))
    assert GCE(0)(0.3) == CCE()(0.3)
    assert GCE(1)(0.3) == MAE()(0.3)


# --- Eq. 9 to 12 --------------------------------------------------------------------------------


@given(UNIT, UNIT)
def test_eq_11_beta_covers_the_common_losses(p, q):
    pairs = [
        (Beta(alpha=1, eta=2), 0.5 * CCE()),
        (Beta(alpha=2, eta=2), 0.5 * MAE()),
        (Beta(alpha=2, eta=3), 0.25 * MSE()),
        (Beta(alpha=q + 1, eta=2), 0.5 * GCE(q)),
    ]
    for ours, theirs in pairs:
        assert ours(p) == pytest.approx(theirs(p), rel=1e-9, abs=1e-300)
        assert ours.density(p) == pytest.approx(theirs.density(p), rel=1e-9, abs=1e-300)
        assert ours.mode == pytest.approx(theirs.mode)


@given(UNIT, st.floats(-20, 20))
def test_eq_12_special_cases(p, beta):
    assert DM(lam=0, beta=beta)(p) == pytest.approx(Exponential(beta)(p), rel=1e-12)
    assert DM(lam=0, beta=beta).integral == pytest.approx(Exponential(beta).integral, rel=1e-12)
    assert DM(lam=1, beta=beta)(p) == pytest.approx(Normal(psi=0.5, beta=beta)(p), rel=1e-11)
    assert IMAE(beta) == DM(lam=1, beta=beta)
    assert DM(lam=abs(beta), beta=0)(p) == Uniform()(p) == 1.0


@given(UNIT, st.floats(0.0, 1.0), st.floats(0.1, 20))
def test_eq_12_is_the_exponential_of_scaled_beta(p, lam, beta):
    assert DM(lam=lam, beta=beta).log(p) == pytest.approx(beta * Beta(alpha=lam + 1, eta=2)(p), rel=1e-9, abs=1e-300)


@given(UNIT, st.floats(0.05, 1.0))
def test_vanishing_dm_tends_to_gce_as_beta_falls(p, lam):
    beta = 1e-7
    assert DM(lam=lam, beta=beta, vanishing=True)(p) / (beta / 2) == pytest.approx(GCE(lam)(p), rel=1e-6)


@given(UNIT, st.floats(0, 3), st.floats(0.01, 30))
def test_vanishing_is_the_published_form_less_one(p, lam, beta):
    published, vanishing = DM(lam=lam, beta=beta), DM(lam=lam, beta=beta, vanishing=True)
    assert vanishing(p) == pytest.approx(published(p) - 1.0, rel=1e-9, abs=1e-12)
    assert vanishing.mode == published.mode
    assert vanishing.integral == pytest.approx(published.integral - 1.0, rel=1e-8)


# --- modes --------------------------------------------------------------------------------------


@given(weightings())
def test_no_probability_outweighs_the_modes(weighting):
    p = np.linspace(0.0, 1.0, 1001)
    values = weighting.log(p)
    if not weighting.modes:
        assert np.ptp(values) < 1e-9
        return
    at_modes = np.array([float(weighting.log(mode)) for mode in weighting.modes])
    assert np.ptp(at_modes) < 1e-8
    assert values.max() <= at_modes.max() + 1e-9
    assert weighting.log_peak == pytest.approx(at_modes.max(), abs=1e-9)
    assert weighting.mode == weighting.modes[0]


def test_modes_of_special_settings():
    assert DM(lam=0.5, beta=12).modes == (pytest.approx(1 / 3),)
    assert DM(lam=0.5, beta=0).modes == Uniform().modes == ()
    assert Uniform().mode is None
    assert DM(lam=0, beta=-1).modes == (1.0,)
    assert DM(lam=2, beta=-1).modes == (0.0, 1.0)
    assert Normal(psi=0.3, beta=1).modes == (0.3,)
    assert Normal(psi=1.7, beta=1).modes == (1.0,)
    assert Normal(psi=0.3, beta=-1).modes == (1.0,)
    assert Normal(psi=0.7, beta=-1).modes == (0.0,)
    assert Normal(psi=0.5, beta=-1).modes == (0.0, 1.0)
    assert Normal(psi=0.5, beta=0).modes == Exponential(0).modes == Beta(alpha=1, eta=1).modes == ()
    assert Exponential(1).modes == (0.0,)
    assert Exponential(-1).modes == (1.0,)
    assert Beta(alpha=3, eta=2).modes == (pytest.approx(2 / 3),)
    assert Beta(alpha=0.5, eta=2).modes == (0.0,)
    assert Beta(alpha=2, eta=0.5).modes == (1.0,)
    assert Beta(alpha=0.5, eta=0.5).modes == (0.0, 1.0)
    assert SCE(mu=1, nu=0).modes == (0.0,)
    assert SCE(mu=0, nu=1).modes == (0.5,)
    assert SCE(mu=0.1, nu=1, A=-4).modes == (pytest.approx((4 - 0.1) / 8),)
    assert Focal(0).mode == 0.0
    assert 0.0 < Focal(2).mode < 0.2
    assert (2 * Focal(2)).modes == Focal(2).modes


def test_numerical_modes_find_every_peak_and_call_a_plateau_by_its_left_end():
    twin = from_function(lambda p: 4 * p * (1 - p) * (1 - 2 * p) ** 2)
    assert twin.modes == pytest.approx((0.5 - math.sqrt(0.125), 0.5 + math.sqrt(0.125)), abs=1e-7)
    plateau = from_function(lambda p: np.minimum(p, 0.25))
    assert plateau.mode == pytest.approx(0.25, abs=1e-6)
    assert len(plateau.modes) == 1
    assert from_function(lambda p: 0 * p + 3.0).modes == ()
    assert from_function(lambda p: p).modes == (1.0,)


# --- variances and extremes ---------------------------------------------------------------------


@given(st.lists(UNIT, min_size=1, max_size=20))
def test_definition_2_is_the_variance_of_the_weights_in_a_batch(p):
    weights = DM(lam=1, beta=3)(np.array(p))
    expected = np.mean((weights - np.mean(weights)) ** 2)
    assert DM(lam=1, beta=3).emphasis_variance(p) == pytest.approx(expected, abs=1e-12)
    assert Uniform().emphasis_variance(p) == 0.0


def test_edf_variance_is_that_of_the_distribution():
    assert Uniform().edf_variance == pytest.approx(1 / 12, rel=1e-12)
    assert Beta(alpha=2, eta=3).edf_variance == pytest.approx(2 * 3 / (25 * 6), rel=1e-12)


def test_huge_beta_is_kept_in_logarithms():
    weighting = DM(lam=0, beta=1e4)
    assert weighting.log_integral == pytest.approx(1e4 - math.log(1e4), rel=1e-13)
    assert weighting.integral == math.inf
    assert weighting.density(0.0) == pytest.approx(1e4, rel=1e-9)
    with pytest.raises(OverflowError, match="smaller beta"):
        weighting.potential(0.5)
    sharp = DM(lam=0.5, beta=1e4)
    assert sharp.mass(0.2, 0.5) == pytest.approx(1.0, abs=1e-10)
    assert np.isfinite(sharp.log_integral)


def test_unbounded_beta_says_what_it_lacks():
    hard = Beta(alpha=0.0, eta=2.0)
    assert hard.log_peak == math.inf
    assert hard.integral == math.inf
    for call in (lambda: hard.density(0.5), lambda: hard.mass(0.1, 0.2), lambda: hard.log_normalizer):
        with pytest.raises(ValueError, match="infinite integral"):
            call()
    assert Beta(alpha=0.5, eta=0.5).density(0.5) == pytest.approx(2 / math.pi)
    assert from_function(lambda p: 1 / p).integral == math.inf
    assert np.isfinite(Beta(alpha=0.5, eta=3).potential(np.array([-500.0, 0.0, 500.0]))).all()
