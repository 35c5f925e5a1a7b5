"""The Triton kernels where an example is wrong or ignored, and the losses on top of them."""

import math

import numpy as np
import pytest
import torch

from emphasis import CCE, DM, GCE, Uniform
from emphasis.kernels.gpu import GPU
from emphasis.kernels.operators import OPERATORS
from triton_device import DEVICE, DTYPES, IGNORED, batch, compute, on_device, on_the_device, packed

pytest.importorskip("triton", reason="Triton is not installed")

PUBLISHED = DM(lam=0.5, beta=12)


@on_device
@pytest.mark.parametrize("label", [-1, 7, 2**32, 2**40 + 3, -(2**62), 2**63 - 1])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)], ids=str)
def test_a_label_that_is_no_class_makes_nan_and_touches_nothing_else(label, shape):
    size, canary = math.prod(shape), 12345.0
    around = torch.full((size + 512,), canary, device=DEVICE)
    within = around[256 : 256 + size].view(shape)
    logits, labels = batch(shape, 7)
    table, where = packed(CCE()), (2,) if len(shape) == 2 else (2, 0)
    clean = compute(logits, labels, table)
    state = GPU.margins(logits, labels, IGNORED, "new memory").state
    half = torch.rand(labels.shape, device=DEVICE)
    clean_in_two = GPU.derivative(logits, labels, half, state, IGNORED, "new memory")
    labels[where] = label
    others = torch.ones(labels.shape, dtype=torch.bool, device=DEVICE)
    others[where] = False

    def only_that_one_is_wrong(derivative, right):
        assert derivative.movedim(1, -1)[where].isnan().all()
        assert torch.equal(derivative.movedim(1, -1)[others], right.movedim(1, -1)[others])
        assert (around[:256] == canary).all()
        assert (around[256 + size :] == canary).all()

    within.copy_(logits)
    loss, derivative, _ = compute(within, labels, table, where="the logits")
    assert loss[where].isnan()
    assert torch.equal(loss[others], clean[0][others])
    only_that_one_is_wrong(derivative, clean[1])
    within.copy_(logits)
    margin, _, state = GPU.margins(within, labels, IGNORED, "the logits")
    assert margin.isnan().sum() == 1
    only_that_one_is_wrong(GPU.derivative(within, labels, half, state, IGNORED, "the logits"), clean_in_two)
    assert compute(logits, labels, table, reduction="mean", where="nothing")[0].isnan()
    batched = compute(logits, labels, table, reduction="mean", is_batch=True)
    assert batched[0].isnan()
    assert batched[1].movedim(1, -1)[where].isnan().all()


@on_device
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(5, 2), (2, 7, 3), (2, 9001)], ids=str)
def test_a_logit_that_is_not_finite_makes_its_example_nan(shape, value):
    table = packed(PUBLISHED)
    for place, label in ((0, 0), (0, shape[1] - 1), (shape[1] - 1, 0)):
        logits, labels = batch(shape, 8)
        where = (1,) if len(shape) == 2 else (1, 0)
        labels[where] = label
        clean = compute(logits, labels, table)
        logits.movedim(1, -1)[where][place] = value
        loss, got, _ = compute(logits, labels, table)
        for nans in (loss, GPU.margins(logits, labels, IGNORED, "new memory").margin):
            assert nans[where].isnan()
            assert nans.isnan().sum() == 1
        assert got.movedim(1, -1)[where].isnan().all()
        loss[where] = clean[0][where]
        got.movedim(1, -1)[where] = clean[1].movedim(1, -1)[where]
        assert torch.equal(loss, clean[0])
        assert torch.equal(got, clean[1])
        for is_batch in (False, True):
            assert compute(logits, labels, table, reduction="sum", is_batch=is_batch, where="nothing")[0].isnan()


@on_device
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("ignore_index", [-100, 1, 2**40])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (3, 9001)], ids=str)
def test_what_an_ignored_example_holds_does_not_matter(shape, ignore_index):
    logits, labels = batch(shape, 9)
    labels[labels == ignore_index] += 1
    where = (1,) if len(shape) == 2 else (1, 0)
    labels[where] = ignore_index
    logits.movedim(1, -1)[where][:3] = torch.tensor([math.nan, math.inf, -math.inf])
    for is_batch in (False, True):
        loss, got, _ = compute(logits, labels, packed(Uniform()), ignore_index=ignore_index, is_batch=is_batch)
        assert loss[where] == 0.0
        assert loss.isfinite().all()
        assert not got.movedim(1, -1)[where].any()
        assert got.isfinite().all()
    margin, _, state = GPU.margins(logits, labels, ignore_index, "new memory")
    assert margin[where] == 0.0
    got = GPU.derivative(logits, labels, torch.ones_like(margin), state, ignore_index, "new memory")
    assert not got.movedim(1, -1)[where].any()
    assert got.isfinite().all()


@on_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 7), (3, 5000), (2, 300, 70)], ids=str)
def test_scaling_multiplies_in_place(shape, dtype):
    gradient, labels = batch(shape, 10, dtype)
    of_each = torch.tensor([0.0, 1.0, -2.0, 0.5], device=DEVICE)[labels % 4].unsqueeze(1)
    one = torch.ones((), device=DEVICE)
    for factor in (one, 0.5 * one, 0.0 * one, one.expand(of_each.shape), (2 * one).expand(of_each.shape), of_each):
        for pending in (1.0, torch.tensor(2.0**-12, dtype=torch.float64, device=DEVICE)):
            got, before = gradient.clone(), gradient.double()
            assert GPU.scale(got, factor, pending) is got
            assert torch.equal(got, (before * factor * pending).to(dtype))


@on_device
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("normalization", [None, "integral", "batch"])
@pytest.mark.parametrize("shape", [(6, 5), (2, 7, 3, 4)], ids=str)
def test_the_loss_on_these_kernels_is_that_on_torch_operators(shape, normalization, dtype, inplace, monkeypatch):
    """Every reduction, with weights and ignored examples, in place, and twice."""
    from emphasis.torch import _fused, emphasis_loss

    rng = np.random.default_rng(11)
    values = on_the_device(rng.normal(size=shape) * 3, dtype)
    labels = on_the_device(rng.integers(0, shape[1], shape[:1] + shape[2:]))
    labels.view(-1)[2] = IGNORED
    weight = on_the_device(rng.integers(0, 3, labels.shape), torch.float32)
    for reduction, upstream in (("mean", 1.0), ("mean", 64.0), ("sum", 0.5), ("none", None)):
        results = []
        for backend in (GPU, OPERATORS):
            monkeypatch.setattr(_fused, "backend_on", lambda tensor, backend=backend: backend)
            logits = values.clone().requires_grad_() * 1.0
            options = {"normalization": normalization, "reduction": reduction, "sample_weight": weight}
            loss = emphasis_loss(logits, labels, DM(lam=0.5, beta=4), inplace=inplace, **options)
            seed = torch.linspace(0, 2, loss.numel()) if upstream is None else torch.tensor(upstream)
            seed = seed.to(loss).view(loss.shape)
            results.append((loss.detach(), torch.autograd.grad(loss, logits, seed)[0]))
        (loss, got), (expected_loss, wanted) = results
        assert got.dtype == dtype
        torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
        rtol = 2e-5 if dtype == torch.float32 else 2.02 * torch.finfo(dtype).eps
        torch.testing.assert_close(got, wanted, rtol=rtol, atol=1e-7 if dtype != torch.float16 else 4e-6)


@on_device
def test_the_linear_form_on_these_kernels_is_that_on_torch_operators(monkeypatch):
    from emphasis.torch import _linear, linear_emphasis_loss

    rng = np.random.default_rng(12)
    hidden, weight = (
        on_the_device(rng.normal(size=size), torch.float32).requires_grad_() for size in ((3, 5, 8), (40, 8))
    )
    labels = on_the_device(rng.integers(0, 40, (3, 5)))
    labels[0, 1] = IGNORED
    for normalization in (None, "integral", "batch"):
        for reduction in ("mean", "none"):
            results = []
            for backend in (GPU, OPERATORS):
                monkeypatch.setattr(_linear, "backend_on", lambda tensor, backend=backend: backend)
                loss = linear_emphasis_loss(
                    hidden, weight, labels, GCE(0.7), normalization=normalization, reduction=reduction, chunk_size=4
                )
                results.append((loss.detach(), *torch.autograd.grad(loss, (hidden, weight), torch.ones_like(loss))))
            for got, wanted in zip(*results, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
