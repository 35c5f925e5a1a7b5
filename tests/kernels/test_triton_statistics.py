"""The Triton kernels for `Relative`, which looks at the whole batch, against its formula in float64."""

import numpy as np
import pytest
import torch
from relative_reference import relative_reference

from emphasis import Relative
from emphasis.kernels.gpu import GPU
from emphasis.kernels.operators import OPERATORS
from emphasis.weighting.margin_table import margin_table
from triton_device import DTYPES, IGNORED, batch, float64, on_device, on_the_device, packed

pytest.importorskip("triton", reason="Triton is not installed")

# One example; several tiles; classes in one sweep, in some chunks, and in two sweeps; neighbours.
SHAPES = [(1, 2), (301, 2), (13, 130), (2, 9001), (3, 2, 5), (2, 7, 130)]


def rows_of(tensor):
    return tensor.movedim(1, -1).reshape(-1, tensor.shape[1]).cpu()


@on_device
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_labels(shape):
    weighting = Relative(q=0.9, doubt=0.3)
    cases = [
        (torch.float32, "mean", 30.0),
        (torch.float32, "sum", 0.0),
        *zip(DTYPES, ("none", "mean", "sum"), [4.0] * 3, strict=True),
    ]
    for dtype, reduction, spread in cases:
        logits, labels = batch(shape, 1, dtype, spread)
        factor = on_the_device(np.random.default_rng(2).uniform(0.1, 3, labels.shape))
        ignored = on_the_device(np.random.default_rng(3).uniform(size=labels.shape) < 0.3)
        ignored.view(-1)[0] = False
        share = torch.where(ignored, 0.0, factor)
        loss, gradient, count = relative_reference(
            rows_of(logits), labels.flatten().cpu(), weighting, share.flatten().cpu()[:, None]
        )
        labels = torch.where(ignored, IGNORED, labels)
        given = logits, labels, factor, packed(weighting), IGNORED, reduction, False, "new memory", weighting.trust
        found, derivative, pending = GPU.loss_of_labels(*given)
        by = float(count) if reduction == "mean" else 1.0
        wanted = loss if reduction == "none" else loss.sum()
        rtol = 1e-5 if dtype == torch.float32 else 1.01 * torch.finfo(dtype).eps
        np.testing.assert_allclose(float64(found).ravel(), wanted.numpy().ravel() / by, rtol=1e-5, atol=1e-5)
        got = float64(rows_of(derivative)) * float(pending) * by
        np.testing.assert_allclose(got, gradient.numpy(), rtol=rtol, atol=1e-6 if dtype == torch.float32 else 1e-4)


@on_device
@pytest.mark.parametrize("shape", [(13, 7), (2, 7, 130)], ids=str)
def test_shares_of_a_batch_and_in_place(shape):
    weighting = Relative()
    logits, labels = batch(shape, 5)
    _, gradient, _ = relative_reference(rows_of(logits), labels.flatten().cpu(), weighting)
    unit = gradient.abs().sum()
    given = labels, None, packed(weighting), IGNORED, "mean", True
    apart = GPU.loss_of_labels(logits, *given, "new memory", weighting.trust)
    np.testing.assert_allclose(float64(rows_of(apart.gradient)), (gradient / unit).numpy(), rtol=1e-5, atol=1e-7)
    within = GPU.loss_of_labels(logits, *given, "the logits", weighting.trust)
    assert within.gradient is logits
    assert torch.equal(within.gradient, apart.gradient)


@on_device
@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("shape", [(13, 7), (70, 2), (3, 1000)], ids=str)
def test_rows_of_probabilities(shape, is_batch):
    weighting = Relative()
    rng = np.random.default_rng(4)
    logits = on_the_device(rng.normal(size=shape) * 4.0, torch.float32)
    targets = on_the_device(rng.dirichlet(np.full(shape[1], 0.3), shape[0]), torch.float32)
    factor, class_weight = (on_the_device(rng.uniform(0.1, 2, size)) for size in shape)
    share = (factor[:, None] * class_weight).cpu()
    loss, gradient, _ = relative_reference(logits.cpu(), targets.cpu(), weighting, share)
    table = margin_table(weighting, weighting.max_margin("auto"), 0.0)
    tables = on_the_device(table.packed), on_the_device(table.compact)
    given = logits, targets, class_weight, factor, *tables, "sum", is_batch, "new memory", weighting.trust
    found, derivative, _ = GPU.loss_of_targets(*given)
    if is_batch:
        p = logits.cpu().double().softmax(1)
        own = ((targets.cpu() * share) > 0.0) * 1.0  # the L1 norm of each class's own derivative
        assert own.any()
        ratio = float64(derivative) / gradient.numpy()
        assert p.shape == ratio.shape
        np.testing.assert_allclose(ratio, np.median(ratio), rtol=2e-4)
    else:
        np.testing.assert_allclose(float(found), float(loss.sum()), rtol=1e-5)
        np.testing.assert_allclose(float64(derivative), gradient.numpy(), rtol=1e-5, atol=1e-5)


@on_device
@pytest.mark.parametrize("shape", [(40, 11), (2, 5, 70)], ids=str)
def test_the_statistics_are_those_of_torch_operators_and_an_ignored_example_no_part_of_it(shape):
    logits, labels = batch(shape, 6)
    labels.view(-1)[3] = IGNORED
    logits.movedim(1, -1).reshape(-1, shape[1])  # the layout stays
    share = torch.where(labels == IGNORED, 0.0, torch.rand(labels.shape, dtype=torch.float64, device=labels.device))
    ours, theirs = (backend.batch_statistics(logits, labels, share, IGNORED) for backend in (GPU, OPERATORS))
    kept = labels != IGNORED
    assert torch.equal(ours.likeliest.top[kept], theirs.likeliest.top[kept])
    for got, wanted in ((ours.lead, theirs.lead), (ours.likeliest.rest, theirs.likeliest.rest)):
        torch.testing.assert_close(got[kept], wanted[kept].to(got.dtype), rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(ours.likeliest.sums, theirs.likeliest.sums, rtol=2e-6, atol=0.0)
    again = GPU.batch_statistics(logits, labels, share, IGNORED)
    assert torch.equal(again.likeliest.sums, ours.likeliest.sums)
