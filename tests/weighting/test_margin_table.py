"""A weighting as a table of the margin: what the kernels compute with."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emphasis import CCE, DM, GCE, MAE, Beta, from_function
from emphasis.kernels.operators import look_up
from emphasis.weighting.margin_table import COMPACT_REACH, NEAR_REACH, OCTAVES, margin_table
from reference import CASE_IDS, CASES, weightings

MARGINS = np.concatenate((np.linspace(-40, 40, 4001), np.array([1e2, -1e2, 1e3, -1e3, 1e4, -1e4, 3e4, -3e4])))


def exact_log_weight(weighting, margin):
    return weighting.log_weight(-np.logaddexp(0.0, -margin), -np.logaddexp(0.0, margin), np) + 0.0 * margin


@pytest.mark.parametrize("weighting", [case[0] for case in CASES], ids=CASE_IDS)
def test_table_holds_weight_and_loss_to_more_than_float32(weighting):
    table = margin_table(weighting, math.inf, 0.0)
    if weighting.log_peak == math.inf:
        assert table is None
        return
    log_w, loss = table(MARGINS)
    expected_log_w, expected_loss = exact_log_weight(weighting, MARGINS), weighting.potential(MARGINS)
    matters = expected_log_w > weighting.log_peak - 87.0  # below, w / w(mode) is no normal float32 number
    np.testing.assert_allclose(log_w[matters], expected_log_w[matters], atol=6e-8)
    scale = np.abs(expected_loss) + 1e-6 * (1.0 + np.median(np.abs(expected_loss)))
    assert (np.abs(loss - expected_loss) <= 6e-8 * scale).all()


@pytest.mark.parametrize("weighting", [case[0] for case in CASES], ids=CASE_IDS)
def test_table_that_is_exact_holds_weight_and_loss_to_float64(weighting):
    table = margin_table(weighting, math.inf, 0.0)
    if weighting.log_peak == math.inf:
        return
    assert table.is_exact
    margins = MARGINS[np.abs(MARGINS) < 2e4]
    log_w, loss = table(margins)
    expected_log_w, expected_loss = exact_log_weight(weighting, margins), weighting.potential(margins)
    matters = expected_log_w > weighting.log_peak - 700.0
    size = 1.0 + np.abs(margins) + np.abs(expected_log_w)
    assert (np.abs(log_w - expected_log_w) <= 2e-15 * size)[matters].all()
    assert (np.abs(loss - expected_loss) <= 1e-13 * (1.0 + np.abs(expected_loss))).all()


@pytest.mark.parametrize("weighting", [case[0] for case in CASES], ids=CASE_IDS)
def test_compact_table_holds_the_less_likely_classes_to_float32(weighting):
    table = margin_table(weighting, weighting.max_margin("auto"), 0.0)
    if table is None:
        return
    log_p = np.linspace(-COMPACT_REACH, -math.log(2.0), 4001)
    number = 1.0 - 2.0 * (math.log(2.0) + log_p)
    cell = np.floor(np.log2(number)).astype(int)
    x = 2.0 * (number / 2.0**cell) - 3.0
    log_rho, loss = (
        sum(row[cell].astype(np.float64) * x**k for k, row in enumerate(half)) for half in np.split(table.compact, 2)
    )
    log_q = np.log(-np.expm1(log_p))
    expected = exact_log_weight(weighting, log_p - log_q) - math.log(2.0) - log_q
    matters = expected > weighting.log_peak - 87.0
    np.testing.assert_allclose(log_rho[matters], expected[matters], rtol=1e-6, atol=1e-6)
    value = weighting.potential(log_p - log_q, "auto")
    np.testing.assert_allclose(loss, value, rtol=1e-6, atol=1e-6 * (1.0 + np.median(np.abs(value))))


@pytest.mark.parametrize("weighting", [case[0] for case in CASES], ids=CASE_IDS)
def test_table_of_margins_that_are_not_large_holds_weight_and_loss_to_float32(weighting):
    table = margin_table(weighting, max(weighting.max_margin("auto"), NEAR_REACH), weighting.log_normalizer)
    if table is None or table.near is None:
        return
    margins = np.linspace(-NEAR_REACH + 1e-3, NEAR_REACH - 1e-3, 4001)
    number = np.abs(margins) + 1.0
    octave = np.floor(np.log2(number)).astype(int)
    position = 2.0 * (number / 2.0**octave - 1.0)
    cell, x = 2 * octave + np.floor(position).astype(int) + 8 * (margins < 0.0), 2.0 * (position % 1.0) - 1.0
    of_log_w, of_loss = np.split(table.near.astype(np.float64), 2)
    weight = of_log_w[0, cell] * np.exp(sum(of_log_w[k, cell] * x**k for k in range(1, len(of_log_w))))
    loss = sum(row[cell] * x**k for k, row in enumerate(of_loss))
    expected_log_w, expected_loss = table(margins)
    np.testing.assert_allclose(weight, np.exp(expected_log_w), rtol=1e-5)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6, atol=1e-6 * np.median(np.abs(expected_loss)))


def test_published_weightings_have_a_table_of_margins_that_are_not_large():
    for weighting in (CCE(), MAE(), GCE(0.7), DM(lam=0.5, beta=12)):
        assert margin_table(weighting, weighting.max_margin("auto"), weighting.log_normalizer).near is not None
    steep = DM(lam=0.5, beta=1000)  # whose weights leave the range of float32
    assert margin_table(steep, math.inf, steep.log_normalizer).near is None


@given(weightings(), st.floats(-3.0, 20.0))
def test_beyond_max_margin_weight_is_0_and_loss_at_its_end(weighting, max_margin):
    table = margin_table(weighting, max_margin, 0.3)
    if table is None:
        return
    margin = np.array([max_margin - 0.5, max_margin, np.nextafter(max_margin, np.inf), max_margin + 1.0, 1e5])
    log_w, loss = table(margin)
    assert (log_w[2:] == -math.inf).all()
    assert (log_w[:2] > -math.inf).all()
    expected = weighting.loss(margin, np, np.asarray, max_margin, 0.3)
    assert (loss[2:] == expected[2:]).all()
    np.testing.assert_allclose(loss[:2], expected[:2], rtol=1e-6, atol=1e-6 * (1 + np.abs(expected).max()))


def test_users_smooth_function_has_a_table_though_its_p_rounds_to_1():
    margin = np.linspace(-30, 20, 1001)
    for function, twin in ((lambda p: 2 * p * (1 - p), MAE()), (lambda p, q: 2 * q, CCE())):
        table = margin_table(from_function(function), math.inf, 0.0)
        log_w, _ = table(margin)
        np.testing.assert_allclose(log_w, exact_log_weight(twin, margin), atol=1e-6)
        log_w, _ = table(np.array([60.0, 1e3]))
        np.testing.assert_allclose(log_w, exact_log_weight(twin, np.array([60.0, 1e3])), rtol=1e-3)


@pytest.mark.parametrize(
    "function",
    [
        lambda p: np.maximum(0.2, 1 - 2 * np.abs(p - 0.5)),  # kinks
        lambda p: np.where(p > 0.3, 1.0, 0.5),  # a jump
        lambda p: np.where(p > 0.3, p * (1 - p), 0.0),  # zero inside
    ],
)
def test_no_table_where_it_would_be_wrong(function):
    assert margin_table(from_function(function), math.inf, 0.0) is None


def test_no_table_for_unbounded_weights():
    assert margin_table(Beta(alpha=0.5, eta=2), math.inf, 0.0) is None


@pytest.mark.parametrize("weighting", [DM(lam=1, beta=1e4), DM(lam=0.5, beta=400), GCE(0.7)], ids=repr)
def test_normaliser_is_subtracted_in_log_space(weighting):
    table = margin_table(weighting, 16.6, weighting.log_integral)
    margin = np.linspace(-15, 15, 301)
    log_w, _ = table(margin)
    np.testing.assert_allclose(log_w, exact_log_weight(weighting, margin) - weighting.log_integral, atol=1e-7)


@pytest.mark.parametrize("shape", [(0,), (5, 3), (20_001,), (2, 3, 4000)])
@pytest.mark.parametrize("reach", [3.0, 14.0, 3e4])
def test_operators_look_up_what_the_table_holds(shape, reach):
    """Within the table, part by part, and beyond its end and the largest margin."""
    margins = np.linspace(-reach, reach, math.prod(shape)).reshape(shape)
    for weighting in (CCE(), DM(lam=0.5, beta=12), GCE(0.7)):
        table = margin_table(weighting, weighting.max_margin("auto"), 0.0)
        got = look_up(torch.from_numpy(table.packed), torch.from_numpy(margins))
        for one, expected in zip(got, table(margins), strict=True):
            assert one.shape == shape
            np.testing.assert_allclose(one.numpy(), expected, rtol=1e-13, atol=1e-14)


def test_packed_form_holds_everything():
    table = margin_table(DM(lam=0.5, beta=12), 16.6, 1.0)
    packed = table.packed
    assert packed.dtype == np.float64
    assert len(table.coefficients) == 2 * OCTAVES * 2 ** packed[0]
    assert packed[1] == 16.6
    assert packed[-1] == table.end == 0.0
    np.testing.assert_array_equal(packed[2:6], table.slopes.ravel())
    assert tuple(packed[6:8]) == table.trust == (0.0, 0.0)
    np.testing.assert_array_equal(packed[8:-1], table.coefficients.ravel())
