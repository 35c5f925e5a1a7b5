"""The derivative of many networks at once is each network's own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emphasis.torch import emphasis_loss
from emphasis.torch.functional import resolve
from emphasis.torch.stacked import stacked_derivative
from emphasis.weighting import CCE, DM, GCE, MAE, MSE, Normal

METHODS = [
    (CCE(), None, "auto"),
    (GCE(0.7), "batch", "auto"),
    (MSE(), "integral", "auto"),
    (DM(lam=0.5, beta=12), "batch", 16.6),
    (DM(lam=0.0, beta=-0.5), "integral", 3.0),
    (DM(lam=2.0, beta=1e4), "batch", 16.6),
    (DM(lam=0.5, beta=8, vanishing=True), "integral", "auto"),
    (Normal(psi=0.3, beta=4.0), None, 16.6),
]
OPTIONS = [resolve(weighting, n, "mean", max_margin, None) for weighting, n, max_margin in METHODS]


@given(st.integers(0, 2**31), st.sampled_from([0.3, 3.0, 40.0]), st.integers(2, 6), st.integers(1, 3))
def test_it_is_the_gradient_of_each_networks_loss(seed, scale, classes, seeds):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(len(METHODS) * seeds, 7, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (seeds, 7), generator=generator)
    derivative = stacked_derivative(logits, labels, OPTIONS)
    for number, own in enumerate(logits):
        weighting, normalization, max_margin = METHODS[number // seeds]
        own = own.clone().requires_grad_()
        emphasis_loss(
            own, labels[number % seeds], weighting, normalization=normalization, max_margin=max_margin
        ).backward()
        torch.testing.assert_close(derivative[number], own.grad, rtol=1e-12, atol=1e-15)


def test_all_examples_beyond_the_largest_margin_push_nothing():
    logits = torch.tensor([[[0.0, 40.0]] * 3])
    derivative = stacked_derivative(logits, torch.ones(1, 3, dtype=torch.int64), [OPTIONS[3]])
    assert torch.equal(derivative, torch.zeros_like(logits))


def test_a_network_that_is_not_finite_leaves_the_others_alone():
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 5, dtype=torch.int64)
    options = [OPTIONS[3], OPTIONS[3]]
    alone = stacked_derivative(logits, labels, options)
    logits[0, 2, 1] = math.nan
    derivative = stacked_derivative(logits, labels, options)
    assert derivative[0].isnan().any()
    assert torch.equal(derivative[1], alone[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_computed_in_float32(dtype):
    logits = (4 * torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))).to(dtype)
    labels = torch.zeros(1, 5, dtype=torch.int64)
    derivative = stacked_derivative(logits, labels, OPTIONS[:2])
    assert derivative.dtype == dtype
    assert torch.equal(derivative, stacked_derivative(logits.float(), labels, OPTIONS[:2]).to(dtype))


@pytest.mark.parametrize(("networks", "examples"), [(3, 5), (2, 4)])
def test_shapes_that_do_not_fit_are_refused(networks, examples):
    with pytest.raises(ValueError, match=r"do not fit 2 methods; use \(methods \* seeds, N, C\)"):
        stacked_derivative(torch.zeros(networks, examples, 3), torch.zeros(1, 5, dtype=torch.int64), OPTIONS[:2])


def test_a_weight_beyond_the_dtype_is_an_error():
    options = [resolve(MAE(), None, "mean", "auto", None), resolve(DM(lam=0, beta=100), None, "mean", 16.6, None)]
    with pytest.raises(OverflowError):
        stacked_derivative(torch.zeros(2, 5, 3), torch.zeros(1, 5, dtype=torch.int64), options)
