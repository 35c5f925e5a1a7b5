"""The mixture that estimates a noise rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emphasis.diagnostics.noise_rate import mixture_noise_rate


@given(st.floats(0.1, 0.6), st.integers(0, 100))
def test_two_normal_distributions_are_told_apart(share, seed):
    rng = np.random.default_rng(seed)
    low = rng.random(3000) < share
    score = np.where(low, rng.normal(-3.0, 0.8, 3000), rng.normal(3.0, 0.5, 3000))
    assert mixture_noise_rate(score) == pytest.approx(low.mean(), abs=0.01)
