"""The emphasis mode that goes with a noise rate, and the mixture that estimates one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emphasis.diagnostics.noise_rate import lam_for, mixture_noise_rate, mode_for
from emphasis.weighting import DM

rates = st.floats(0.0, 1.0)


@pytest.mark.parametrize(("rate", "lam"), [(0.0, 0.0), (0.2, 0.5), (0.4, 1.0), (0.6, 2.0), (0.8, 2.0), (1.0, 2.0)])
def test_at_the_papers_noise_rates_lam_is_the_papers(rate, lam):
    assert lam_for(rate) == pytest.approx(lam, abs=1e-12)


@given(rates, rates)
def test_the_more_noise_the_easier_the_examples_emphasised(one, other):
    low, high = sorted((one, other))
    assert 0.0 <= mode_for(low) <= mode_for(high) <= 2 / 3


@given(rates)
def test_the_mode_of_dm_with_that_lam_is_that_mode(rate):
    assert DM(lam=lam_for(rate), beta=4).mode == pytest.approx(mode_for(rate), abs=1e-12)


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, math.inf])
def test_what_is_no_rate_is_an_error(rate):
    with pytest.raises(ValueError, match=r"noise_rate=.* is not allowed; use a number in \[0, 1\]"):
        mode_for(rate)


@given(st.floats(0.1, 0.6), st.integers(0, 100))
def test_two_normal_distributions_are_told_apart(share, seed):
    rng = np.random.default_rng(seed)
    low = rng.random(3000) < share
    score = np.where(low, rng.normal(-3.0, 0.8, 3000), rng.normal(3.0, 0.5, 3000))
    assert mixture_noise_rate(score) == pytest.approx(low.mean(), abs=0.01)
