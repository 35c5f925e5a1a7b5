"""The spline: scipy's monotone interpolant, at the points and between them, and in everything that follows."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from emphasis import Spline, from_dict


@st.composite
def points(draw):
    n = draw(st.integers(2, 8))
    inner = draw(st.lists(st.integers(1, 999), min_size=n - 2, max_size=n - 2, unique=True))
    x = [0.0, *(one / 1000 for one in sorted(inner)), 1.0]
    y = draw(st.lists(st.just(0.0) | st.floats(1e-3, 20.0), min_size=n, max_size=n).filter(any))
    return tuple(zip(x, y, strict=True))


@given(points())
@settings(max_examples=100, deadline=None)
def test_it_is_scipys_interpolant_and_stays_between_its_points(given_points):
    w = Spline(given_points)
    x, y = np.array(given_points).T
    p = np.linspace(0.0, 1.0, 1001)
    np.testing.assert_allclose(w(p), np.maximum(PchipInterpolator(x, y)(p), 0.0), rtol=1e-9, atol=1e-9 * y.max())
    np.testing.assert_allclose(w(x), y, rtol=1e-12, atol=1e-12)
    for (a, ya), (b, yb) in pairwise(given_points):
        inside = w(np.linspace(a, b, 50))
        assert inside.min() >= min(ya, yb) * (1 - 1e-9) - 1e-12
        assert inside.max() <= max(ya, yb) * (1 + 1e-9) + 1e-12
    assert w.integral == pytest.approx(float(PchipInterpolator(x, y).integrate(0.0, 1.0)), rel=1e-9)
    if w.modes:
        assert float(w(w.mode)) == pytest.approx(y.max())
    else:
        assert y.min() == y.max()


@given(points())
@settings(max_examples=20, deadline=None)
def test_text_dictionary_and_back(given_points):
    w = Spline(given_points)
    assert eval(repr(w)) == w
    assert from_dict(w.to_dict()) == w
    assert hash(from_dict(w.to_dict())) == hash(w)


def test_a_curve_that_ends_at_0_keeps_its_digits_far_out():
    w = Spline(((0, 1), (0.5, 2), (1, 0)))
    u = np.array([20.0, 40.0, 100.0, 1e4])
    log_q = -np.logaddexp(0.0, u)
    found = w.log_weight(-np.logaddexp(0.0, -u), log_q, np)
    np.testing.assert_allclose(found, math.log(7.0) + log_q, rtol=1e-7)
    assert w.vanishes
    assert not Spline(((0, 1), (1, 0.5))).vanishes


def test_two_points_are_a_straight_line_and_a_plateau_counts_once():
    line = Spline(((0, 2), (1, 0)))
    assert line(0.25) == pytest.approx(1.5)
    assert line.modes == (0.0,)
    assert Spline(((0, 0), (0.2, 3), (0.6, 3), (1, 0))).modes == (0.2,)
    assert Spline(((0, 3), (0.5, 0), (1, 3))).modes == (0.0, 1.0)
    assert Spline(((0, 1), (1, 1))).modes == ()


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (((0, 1),), "1 points are not enough"),
        (((0, 1), (0.9, 1)), "p must increase from 0 to 1"),
        (((0, 1), (0.5, 1), (0.5, 2), (1, 0)), "p must increase from 0 to 1"),
        (((0, -1), (1, 0)), "weights are finite and >= 0"),
        (((0, math.nan), (1, 0)), "weights are finite and >= 0"),
        (((0, 0), (1, 0)), "w is 0 at every point"),
        (((0, 1, 2), (1, 0, 0)), "give pairs"),
        (5, "give pairs"),
        ((("a", 1), (1, 0)), "give pairs"),
    ],
)
def test_what_is_no_curve_is_refused(bad, said):
    with pytest.raises(ValueError, match=said):
        Spline(bad)
    with pytest.raises(ValueError, match=said):
        from_dict({"family": "Spline", "points": bad})
