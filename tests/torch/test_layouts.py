"""The loss of logits in any layout, dtype and default dtype is that of their contiguous copy, which has a reference."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from emphasis import CCE, DM, GCE
from emphasis.kernels.native import NATIVE
from emphasis.kernels.operators import OPERATORS
from emphasis.torch import EmphasisLoss, _fused, emphasis_loss, from_function, linear_emphasis_loss
from reference import loss_reference

IGNORED = -100
DTYPES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1.01 * 2**-8, torch.float16: 1.01 * 2**-11}
PUBLISHED = DM(lam=0.5, beta=12)
KINKED = from_function(lambda p: 0.2 + abs(p - 0.5))  # has no table
KERNELS = [
    pytest.param(NATIVE, marks=pytest.mark.skipif(not NATIVE.takes(torch.float32), reason="no C compiler")),
    OPERATORS,
]
SHAPES = {2: (7, 5), 3: (3, 5, 4), 4: (2, 5, 3, 4)}


@pytest.fixture(params=KERNELS, ids=["native", "operators"])
def kernels(request, monkeypatch):
    monkeypatch.setattr(_fused, "backend_on", lambda tensor: request.param)
    return request.param


def orders():
    return [(dims, order) for dims in SHAPES for order in itertools.permutations(range(dims))]


def laid_out(values, order, kind):
    """Return a tensor of the same values whose memory is in another order, has gaps, or overlaps, and is no leaf."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    base = values.permute(order).contiguous()
    if kind == "slice":
        wide = torch.full([2 * size + 1 for size in base.shape], float("nan"), dtype=base.dtype)
        inside = wide[tuple(slice(1, None, 2) for _ in base.shape)]
        inside.copy_(base)
        base = inside
    return base.permute(inverse)


def both(logits, labels, **options):
    """Return the loss and its gradient, twice: of a first and of a second backward pass."""
    leaf = logits.detach().requires_grad_()
    assert leaf.stride() == logits.stride()
    loss = emphasis_loss(leaf, labels, **options)
    seed = torch.linspace(0.5, 2.0, loss.numel(), dtype=loss.dtype).view(loss.shape)
    first = torch.autograd.grad(loss, leaf, seed, retain_graph=True)[0].clone()
    return loss.detach(), seed, first, torch.autograd.grad(loss, leaf, seed)[0]


@pytest.mark.parametrize("kind", ["permutation", "slice"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_order_of_axes_against_the_float64_reference(kernels, dtype, kind):
    """Every normalization and reduction for each of the 32 orders of 2-D, 3-D and 4-D logits; and a second backward."""
    rng = np.random.default_rng(0)
    options = list(itertools.product((None, "integral", "batch"), ("mean", "sum", "none")))
    for number, (dims, order) in enumerate(orders()):
        shape = SHAPES[dims]
        values = torch.from_numpy(rng.normal(size=shape) * 2).to(dtype)
        labels = torch.from_numpy(rng.integers(0, 5, shape[:1] + shape[2:]))
        labels.view(-1)[number % labels.numel()] = IGNORED
        weight = torch.from_numpy(rng.uniform(0.2, 3.0, labels.shape))
        label_order = tuple(rng.permutation(dims - 1).tolist())
        logits = laid_out(values, order, kind)
        for normalization, reduction in options:
            loss, seed, got, again = both(
                logits,
                laid_out(labels, label_order, "permutation"),
                weighting=PUBLISHED,
                normalization=normalization,
                reduction=reduction,
                sample_weight=laid_out(weight, label_order, "permutation"),
            )
            derivative, terms = loss_reference(
                values.double().numpy(),
                labels.numpy(),
                PUBLISHED,
                normalization,
                reduction,
                IGNORED,
                weight.numpy(),
                "auto",
            )
            terms = terms if reduction == "none" else terms.sum()
            np.testing.assert_allclose(loss.double().numpy(), terms, rtol=2e-5, atol=1e-6)
            expected = derivative * (np.expand_dims(seed.double().numpy(), 1) if reduction == "none" else seed.item())
            peak = np.abs(expected).max()
            for gradient in (got, again):
                np.testing.assert_allclose(
                    gradient.double().numpy(),
                    expected,
                    rtol=2 * DTYPES[dtype],
                    atol=DTYPES[dtype] * peak,
                    err_msg=f"{order} {normalization} {reduction}",
                )


@given(
    st.sampled_from(orders()),
    st.sampled_from(["permutation", "slice"]),
    st.sampled_from(list(DTYPES)),
    st.sampled_from([None, "integral", "batch"]),
    st.sampled_from(["mean", "sum", "none"]),
    st.sampled_from([CCE(), PUBLISHED, GCE(0.7), DM(lam=1, beta=4, vanishing=True), KINKED]),
    st.sampled_from(["labels", "targets"]),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=10 * settings.default.max_examples)
def test_layout_changes_no_bit(order, kind, dtype, normalization, reduction, weighting, labels_are, weighted, seed):
    """Native and operators alike: hundreds of random cases each, soft labels among them."""
    dims, axes = order
    shape = SHAPES[dims]
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(shape, generator=generator, dtype=torch.float64) * 3).to(dtype)
    per_example = shape[:1] + shape[2:]
    if labels_are == "labels":
        labels = torch.randint(5, per_example, generator=generator)
        labels.view(-1)[0] = IGNORED
    else:
        labels = torch.softmax(torch.randn(shape, generator=generator, dtype=torch.float64) * 2, 1)
    options = {"weighting": weighting, "normalization": normalization, "reduction": reduction}
    if weighted:
        options["sample_weight"] = torch.rand(per_example, generator=generator, dtype=torch.float64)
        options["class_weight"] = torch.rand(5, generator=generator, dtype=torch.float64)
    for backend in (NATIVE, OPERATORS):
        if not backend.takes(dtype):
            continue
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_fused, "backend_on", lambda tensor, backend=backend: backend)
            plain = both(values, labels, **options)
            other = both(laid_out(values, axes, kind), labels, **options)
        for got, expected in zip(other, plain, strict=True):
            # Sums run in the order of memory.
            tolerance = 1e-13 if dtype == torch.float64 else 2e-6
            if got.dtype in (torch.bfloat16, torch.float16):
                tolerance = 2.0 * torch.finfo(got.dtype).eps
            scale = expected.abs().amax().item()
            torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("shape", [(6, 1, 4), (1, 5), (5, 1, 1), (1, 1, 5, 2)])
def test_axes_of_one_element_and_expanded_ones(kernels, shape):
    small = torch.randn(shape, dtype=torch.float32)
    for sizes in ((6, 5, 4), (6, 5), (5, 5, 3), (3, 4, 5, 2)):
        if len(sizes) != len(shape) or any(s not in (1, size) for s, size in zip(shape, sizes, strict=True)):
            continue
        logits = small.expand(sizes)
        if sizes[1] < 2:
            continue
        labels = torch.randint(sizes[1], sizes[:1] + sizes[2:])
        expected = F.cross_entropy(logits, labels)
        torch.testing.assert_close(emphasis_loss(logits, labels, CCE()), expected)
        leaf = small.clone().requires_grad_()
        emphasis_loss(leaf.expand(sizes), labels, CCE()).backward()
        again = small.clone().requires_grad_()
        F.cross_entropy(again.expand(sizes), labels).backward()
        torch.testing.assert_close(leaf.grad, again.grad)


def test_numbers_that_a_view_negates(kernels):
    values, labels = torch.randn(6, 5, dtype=torch.float32), torch.arange(6) % 5
    negated = torch._neg_view(values)
    assert negated.is_neg()
    torch.testing.assert_close(emphasis_loss(negated, labels, CCE()), F.cross_entropy(-values, labels))


def test_an_example_that_is_wrong_is_named_by_its_place_in_the_logits(kernels):
    logits = torch.randn(4, 3, 5).permute(2, 1, 0)  # (5, 3, 4)
    labels = torch.randint(3, (5, 4))
    labels[3, 2] = 7
    with pytest.raises(ValueError, match="label 7 is outside"):
        emphasis_loss(logits, labels, CCE())
    labels[3, 2] = 0
    logits[4, 1, 3] = float("nan")
    with pytest.raises(ValueError, match=r"index \(4, 3\)"):
        emphasis_loss(logits, labels, CCE())
    soft = torch.softmax(torch.randn(5, 3, 4), 1)
    with pytest.raises(ValueError, match=r"index \(4, 3\)"):
        emphasis_loss(logits, soft, CCE())


# --- default dtypes -------------------------------------------------------------------------------


@pytest.fixture(params=[torch.float64, torch.bfloat16, torch.float16], ids=str)
def default_dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize("weighting", [CCE(), PUBLISHED, KINKED], ids=repr)
@pytest.mark.parametrize("normalization", [None, "integral", "batch"])
def test_default_dtype_changes_nothing(kernels, default_dtype, weighting, normalization):
    generator = torch.Generator().manual_seed(0)
    for dtype, shape in itertools.product(DTYPES, ((9, 4), (2, 4, 3))):
        logits = torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)
        labels = torch.randint(4, shape[:1] + shape[2:], generator=generator)
        labels.view(-1)[1] = IGNORED
        soft = torch.softmax(torch.randn(shape, generator=generator, dtype=torch.float32), 1)
        for given_labels, reduction in itertools.product((labels, soft), ("mean", "sum", "none")):
            options = {"weighting": weighting, "normalization": normalization, "reduction": reduction}
            got = both(logits, given_labels, **options)
            torch.set_default_dtype(torch.float32)
            expected = both(logits, given_labels, **options)
            torch.set_default_dtype(default_dtype)
            for one, other in zip(got, expected, strict=True):
                assert one.dtype == other.dtype
                assert torch.equal(one, other)


def test_linear_form_and_modules_under_another_default_dtype(default_dtype):
    hidden = torch.randn(11, 6, dtype=torch.float32, requires_grad=True)
    weight = torch.randn(20, 6, dtype=torch.float32)
    labels = torch.randint(20, (11,))
    for weighting in (PUBLISHED, KINKED):
        loss = linear_emphasis_loss(hidden, weight, labels, weighting)
        expected = emphasis_loss(F.linear(hidden, weight), labels, weighting)
        torch.testing.assert_close(loss, expected)
        for one, other in zip(torch.autograd.grad(loss, hidden), torch.autograd.grad(expected, hidden), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    criterion = EmphasisLoss(CCE(), class_weight=[0.1, 0.2, 0.7])
    assert criterion.class_weight.dtype in (torch.float32, torch.float64)
    logits, three = torch.randn(5, 3, dtype=torch.float32), torch.arange(5) % 3
    expected = F.cross_entropy(logits, three, torch.tensor([0.1, 0.2, 0.7], dtype=torch.float32))
    torch.testing.assert_close(criterion(logits, three), expected)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_losses_pass_their_tests_under_another_default_dtype(dtype):
    """The tests of this file in a process that Lightning's bf16-true or a user's float64 has prepared."""
    script = (
        f"import sys, torch, pytest\ntorch.set_default_dtype(torch.{dtype})\n"
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-p', 'no:xdist', {__file__!r}, '-k', "
        "'every_order_of_axes and native and permutation or negates or named_by_its_place or one_element']))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "COVERAGE_"))}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
