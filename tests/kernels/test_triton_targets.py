"""The Triton kernels for rows of probabilities against the float64 reference, and the kernels for the CPU."""

import math

import numpy as np
import pytest
import torch

from emphasis import CCE, DM, GCE, Focal
from emphasis.kernels.gpu import GPU
from emphasis.kernels.native import NATIVE
from emphasis.kernels.operators import OPERATORS
from emphasis.torch import _fused, emphasis_loss
from emphasis.weighting.margin_table import margin_table
from triton_device import DEVICE, DTYPES, float64, on_device, on_the_device

pytest.importorskip("triton", reason="Triton is not installed")

PUBLISHED = DM(lam=0.5, beta=12)
WEIGHTINGS = [CCE(), PUBLISHED, DM(lam=0.001, beta=3), GCE(0.7), Focal(2.0)]
SHAPES = [(13, 7), (70, 2), (3, 1000), (2, 2500)]  # several rows a program, one, and some sweeps over its classes


def tables(weighting, log_unit=0.0):
    table = margin_table(weighting, weighting.max_margin("auto"), log_unit)
    return on_the_device(table.packed), None if table.compact is None else on_the_device(table.compact)


def problem(shape, dtype, spread=4.0, seed=0):
    """Logits, rows with all, one and few probabilities above 0, and weights of examples and classes, some of them 0."""
    rng = np.random.default_rng(seed)
    logits = on_the_device(rng.normal(size=shape) * spread, dtype)
    targets = rng.dirichlet(np.full(shape[1], 0.3), shape[0])
    targets[0] = np.eye(shape[1])[1]
    factor, class_weight = rng.uniform(0.1, 2, shape[0]), rng.uniform(0.1, 2, shape[1])
    factor[-1] = class_weight[0] = 0.0
    return logits, on_the_device(targets, torch.float32), on_the_device(factor), on_the_device(class_weight)


def expected(weighting, logits, targets, unit, is_batch):
    """The losses and their derivative in float64: the expected ones of a label drawn from the row, times unit."""
    z, t = float64(logits), float64(targets) * unit
    if is_batch:
        largest = z.max(1, keepdims=True)
        log_p = z - largest - np.log(np.exp(z - largest).sum(1, keepdims=True))
    losses, derivative = np.zeros(len(z)), np.zeros_like(z)
    for label in range(z.shape[1]):
        of_label = weighting.derivative(z, np.full(len(z), label), "auto")
        derivative += t[:, label, None] * of_label
        if is_batch:
            losses -= t[:, label] * np.abs(of_label).sum(1) * log_p[:, label]
        else:
            own = np.arange(z.shape[1]) == label
            others = np.logaddexp.reduce(np.where(own, -np.inf, z), 1)
            losses += t[:, label] * weighting.loss(
                z[:, label] - others, np, np.asarray, weighting.max_margin("auto"), 0.0
            )
    return losses, derivative


def compute(logits, targets, class_weight, factor, table, compact, reduction="none", is_batch=False):
    loss, gradient, pending = GPU.loss_of_targets(
        logits, targets, class_weight, factor, table, compact, reduction, is_batch, "new memory"
    )
    assert loss.dtype == torch.float32
    assert gradient.dtype == logits.dtype
    return loss, gradient, float64(gradient) * float(pending)


@on_device
@pytest.mark.parametrize("is_compact", [True, False])
@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=str)
def test_loss_and_derivative_equal_the_reference(weighting, is_compact):
    table, compact = tables(weighting)
    for dtype in DTYPES if is_compact else DTYPES[:1]:
        logits, targets, factor, class_weight = problem((13, 7), dtype)
        unit = float64(factor)[:, None] * float64(class_weight)
        losses, derivative = expected(weighting, logits, targets, unit, False)
        loss, _, got = compute(logits, targets, class_weight, factor, table, compact if is_compact else None)
        np.testing.assert_allclose(float64(loss), losses, rtol=1e-5, atol=1e-5 * np.abs(losses).max())
        # What a class has of its own and of the others' cancels: an error is one of the row's.
        floor = 2e-6 * np.abs(derivative).sum(1, keepdims=True) + 6e-8
        resolution = 0.0 if dtype == torch.float32 else 1.01 * torch.finfo(dtype).eps
        assert (np.abs(got - derivative) <= floor + resolution * np.abs(derivative)).all()


@on_device
def test_the_loss_alone_is_the_loss():
    table, compact = tables(PUBLISHED)
    logits, targets, factor, class_weight = problem((3, 60), torch.float16)
    for reduction in ("mean", "none"):
        for is_batch in (False, True):
            given = logits, targets, class_weight, factor, table, compact, reduction, is_batch
            alone = GPU.loss_of_targets(*given, "nothing")
            assert torch.equal(alone.loss, compute(*given)[0])
            assert alone.gradient is None
            assert alone.pending_scale == 1.0


@on_device
@pytest.mark.parametrize("shape", SHAPES[:1], ids=str)
@pytest.mark.parametrize("weighting", [CCE(), PUBLISHED], ids=str)
def test_the_weights_of_a_batch_sum_to_one(weighting, shape):
    table, compact = tables(weighting, weighting.log_peak)
    logits, targets, factor, class_weight = problem(shape, torch.float32)
    unit = float64(factor)[:, None] * float64(class_weight)
    losses, derivative = expected(weighting, logits, targets, unit, True)
    every = sum(
        float64(targets)[:, label]
        * unit[:, label]
        * np.abs(weighting.derivative(float64(logits), np.full(shape[0], label), "auto")).sum(1)
        for label in range(shape[1])
    ).sum()
    loss, _, got = compute(logits, targets, class_weight, factor, table, compact, is_batch=True)
    np.testing.assert_allclose(float64(loss), losses / every, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(got, derivative / every, rtol=1e-5, atol=2e-6 * np.abs(derivative).max() / every)


@on_device
@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("spread", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.skipif(not NATIVE.takes(torch.float16), reason="no C compiler")
def test_they_are_the_kernels_for_the_cpu(shape, spread, is_batch):
    """With and without weights; large logits leave the compact table."""
    number = SHAPES.index(shape) + (1 if spread == 30.0 else 2 if spread > 30.0 else 0)
    dtype, reduction, weighting = DTYPES[number % 3], ("mean", "sum", "none")[number // 2 % 3], WEIGHTINGS[number % 5]
    table, compact = tables(weighting, weighting.log_peak if is_batch else 0.0)
    logits, targets, factor, class_weight = problem(shape, dtype, spread, number)
    weights = ((None, None), (None, factor), (class_weight, None))[(number + is_batch) % 3]
    loss, _, got = compute(logits, targets, *weights, table, compact, reduction, is_batch)
    one = [None if tensor is None else tensor.cpu() for tensor in (logits, targets, *weights, table, compact)]
    wanted = NATIVE.loss_of_targets(*one, reduction, is_batch, "new memory")
    resolution = 1e-5 if spread < 100.0 else 1e-4
    torch.testing.assert_close(loss.cpu(), wanted.loss, rtol=resolution, atol=1e-9)
    gradient = float64(wanted.gradient) * wanted.pending_scale
    rtol = resolution if dtype == torch.float32 else 2.02 * torch.finfo(dtype).eps
    floor = 1e-6 * np.abs(gradient).max() + 2.0**-23 * wanted.pending_scale * (dtype == torch.float16)
    np.testing.assert_allclose(got, gradient, rtol=rtol, atol=floor)


@on_device
@pytest.mark.parametrize("is_batch", [False, True])
def test_a_mean_and_a_batch_do_not_depend_on_the_weights_unit(is_batch):
    table, compact = tables(PUBLISHED, PUBLISHED.log_peak)
    for dtype in (torch.float32, torch.float16):
        logits, targets, factor, class_weight = problem((13, 7), dtype)
        wanted = compute(logits, targets, class_weight, factor, table, compact, "mean", is_batch)
        for unit in (1e-300, 1e300):
            got = compute(logits, targets, class_weight, unit * factor, table, compact, "mean", is_batch)
            torch.testing.assert_close(got[0], wanted[0], rtol=1e-5, atol=0.0)
            assert torch.equal(got[1] == 0.0, wanted[1] == 0.0)
            eps = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
            np.testing.assert_allclose(got[2], wanted[2], rtol=eps, atol=eps * np.abs(wanted[2]).max())


@on_device
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("wrong", ["sum", "negative", "nan", "nan logit", "infinite logit"])
def test_a_row_that_holds_no_probabilities_or_a_wrong_logit_is_nan_and_leaves_the_others_alone(wrong):
    table, compact = tables(PUBLISHED)
    logits, targets, *_ = problem((13, 7), torch.float32)
    clean = compute(logits, targets, None, None, table, compact)
    if "logit" in wrong:
        logits[3, 2] = math.nan if "nan" in wrong else math.inf
    else:
        targets[3, 2] = {"sum": 1.0, "negative": -0.5, "nan": math.nan}[wrong]
    loss, got, _ = compute(logits, targets, None, None, table, compact)
    assert loss[3].isnan()
    assert got[3].isnan().all()
    others = torch.arange(13, device=DEVICE) != 3
    assert torch.equal(loss[others], clean[0][others])
    assert torch.equal(got[others], clean[1][others])
    for is_batch in (False, True):
        mean, gradient, _ = compute(logits, targets, None, None, table, compact, "mean", is_batch)
        assert mean.isnan()
        assert gradient[3].isnan().all()
        assert is_batch or gradient[others].isfinite().all()


@on_device
@pytest.mark.parametrize("is_batch", [False, True])
def test_without_a_weight_above_0_there_is_neither_loss_nor_derivative(is_batch):
    table, compact = tables(PUBLISHED)
    for dtype in (torch.float32, torch.float16):
        logits, targets, factor, _ = problem((13, 7), dtype)
        for reduction in ("mean", "none"):
            loss, _, got = compute(logits, targets, None, 0.0 * factor, table, compact, reduction, is_batch)
            assert not loss.any()
            assert not got.any()


@on_device
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("normalization", ["integral", "batch"])
def test_weights_by_the_whole_batch_are_those_of_torch_operators(monkeypatch, soft, normalization):
    generator = torch.Generator().manual_seed(0)
    logits = (4.0 * torch.randn(21, 37, generator=generator)).to(DEVICE)
    labels = torch.randint(37, (21,), generator=generator)
    labels = torch.softmax(2.0 * torch.randn(21, 37, generator=generator), 1) if soft else labels
    weights = {
        "class_weight": torch.rand(37, generator=generator).to(DEVICE),
        "sample_weight": torch.rand(21, generator=generator).to(DEVICE),
    }
    found = []
    for backend in (GPU, OPERATORS):
        monkeypatch.setattr(_fused, "backend_on", lambda _, backend=backend: backend)
        z = logits.clone().requires_grad_()
        loss = emphasis_loss(z, labels.to(DEVICE), normalization=normalization, **weights)
        loss.backward()
        found.append((loss.detach(), z.grad))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-8)
