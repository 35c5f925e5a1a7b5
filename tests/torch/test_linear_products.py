"""What the last layer and the loss in one compute, and what they leave out: products, memory, bounds."""

import pytest
import torch
from torch.nn import functional as F

from emphasis import CCE, DM, MAE
from emphasis.kernels.native import NATIVE
from emphasis.kernels.operators import OPERATORS
from emphasis.torch import _linear, emphasis_loss, linear_emphasis_loss

PUBLISHED = DM(lam=0.5, beta=12)
KERNELS = [
    pytest.param(NATIVE, marks=pytest.mark.skipif(not NATIVE.takes(torch.float32), reason="no C compiler")),
    OPERATORS,
]


@pytest.fixture(params=KERNELS, ids=["native", "operators"])
def kernels(request, monkeypatch):
    monkeypatch.setattr(_linear, "backend_on", lambda tensor: request.param)
    return request.param


def learned(dtype, seed=0):
    """A problem some of whose tokens are learned by heart, others hopeless, and most in between."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(50, 16, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 50, (300,), generator=generator)
    size = 3.0 * torch.rand(300, 1, generator=generator, dtype=torch.float64) - 0.5
    hidden = size * weight[labels] + 0.1 * torch.randn(300, 16, generator=generator, dtype=torch.float64)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), labels


def products(work, width, classes):
    """Return how many tokens' rows the matrix products of a call have."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        work()
    rows = 0
    for event in profile.events():
        if event.name in ("aten::mm", "aten::addmm", "aten::addmm_"):
            shapes = [shape for shape in event.input_shapes if len(shape) == 2]
            rows += shapes[-2][0] * shapes[-1][0] * shapes[-1][1]
    return rows / (width * classes)


@pytest.mark.parametrize("normalization", ["integral", "batch"])
def test_no_product_more_than_needed(normalization):
    """Three for each token that counts, one without gradients; under "batch" too."""
    hidden, weight, labels = learned(torch.float32)
    hidden, labels = hidden[:40], labels[:40].clone()
    labels[10:30] = -100

    def step(*inputs):
        loss = linear_emphasis_loss(*inputs, labels, "CCE", normalization=normalization, chunk_size=7)
        if loss.requires_grad:
            loss.backward()

    assert products(lambda: step(hidden, weight), 16, 50) == 3 * 20
    assert products(lambda: step(hidden, weight.detach()), 16, 50) == 2 * 20
    with torch.no_grad():
        assert products(lambda: step(hidden, weight), 16, 50) == 20


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("normalization", ["integral", "batch"])
@pytest.mark.parametrize("weighting", [CCE(), MAE(), DM(lam=0.5, beta=12, vanishing=True)], ids=repr)
def test_what_is_left_out_is_bounded(kernels, monkeypatch, weighting, normalization, reduction):
    """By the share e of the sum of w for hidden and bias, of w |h| for the weight; e = 0.01 here, not eps / 8."""
    hidden, weight, labels = learned(torch.float64)
    bias = torch.zeros(50, dtype=torch.float64, requires_grad=True)
    options = {"normalization": normalization, "reduction": reduction}

    def step(negligible):
        monkeypatch.setattr(_linear, "_NEGLIGIBLE", negligible)
        loss = linear_emphasis_loss(hidden, weight, labels, weighting, bias=bias, chunk_size=40, **options)
        return torch.autograd.grad(loss, (hidden, weight, bias), upstream[: loss.numel()].view(loss.shape))

    upstream = torch.randn(300, dtype=torch.float64)
    logits = F.linear(hidden, weight, bias).detach().requires_grad_()
    loss = emphasis_loss(logits, labels, weighting, **options)
    (derivative,) = torch.autograd.grad(loss, logits, upstream[: loss.numel()].view(loss.shape))
    w = derivative.abs().sum(1)
    share = 0.01
    left_out = [a - b for a, b in zip(step(-1.0), step(share / torch.finfo(torch.float64).eps), strict=True)]
    of_hidden, of_weight, of_bias = left_out
    count = int(of_hidden.ne(0).any(1).sum())
    assert count > 20  # some were
    slack = 1.0 + 1e-9
    assert of_hidden.norm(dim=1).sum() <= share * w.sum() * weight.norm(dim=1).max() * slack
    assert of_weight.norm() <= share * (w * hidden.norm(dim=1)).sum() * slack
    assert of_bias.norm() <= share * w.sum() * slack
    monkeypatch.undo()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("normalization", ["integral", "batch"])
def test_what_is_left_out_is_less_than_rounding(kernels, monkeypatch, dtype, normalization):
    """The error from float64 is that of all tokens' gradients, to within a tenth; and many are left out."""
    hidden, weight, labels = learned(dtype)
    inputs = hidden, weight
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(linear_emphasis_loss(*exact, labels, CCE(), normalization=normalization), exact)
    errors = []
    for negligible in (-1.0, _linear._NEGLIGIBLE):
        monkeypatch.setattr(_linear, "_NEGLIGIBLE", negligible)
        loss = linear_emphasis_loss(*inputs, labels, CCE(), normalization=normalization, chunk_size=64)
        got = torch.autograd.grad(loss, inputs)
        errors.append([(a.double() - b).norm() for a, b in zip(got, expected, strict=True)])
    assert got[0].eq(0).all(1).sum() > 30
    assert all(own <= 1.1 * of_all for own, of_all in zip(errors[1], errors[0], strict=True))


def test_tokens_beyond_the_largest_margin_are_left_out():
    """Nothing is lost with them, and nothing computed for them but their logits."""
    hidden, weight, labels = learned(torch.float32)
    loss = emphasis_loss(F.linear(hidden, weight), labels, PUBLISHED)
    expected = torch.autograd.grad(loss, (hidden, weight))
    counting = int(expected[0].ne(0).any(1).sum())
    assert 50 < counting < 280
    got = []

    def step():
        loss = linear_emphasis_loss(hidden, weight, labels, PUBLISHED, chunk_size=64)
        got.extend(torch.autograd.grad(loss, (hidden, weight)))

    assert products(step, 16, 50) == 300 + 2 * counting
    for one, other in zip(got, expected, strict=True):
        assert (one - other).abs().max() <= 3e-6 * other.abs().max()


@pytest.mark.parametrize("order", ["rising", "falling"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_shares_of_a_batch_whichever_chunk_has_the_large_weights(kernels, dtype, order):
    """The weights are apart by factors of e^30 and more: what was added up before is made smaller."""
    hidden, weight, labels = learned(dtype)
    weighting = DM(lam=1.0, beta=400, vanishing=True)
    each = emphasis_loss(F.linear(hidden, weight).double(), labels, "CCE", normalization=None, reduction="none")
    places = each.sort(descending=order == "rising").indices  # of the learned ones the least is the largest
    hidden, labels = hidden.detach()[places].requires_grad_(), labels[places]
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    expected = emphasis_loss(F.linear(*exact), labels, weighting, normalization="batch")
    got = linear_emphasis_loss(hidden, weight, labels, weighting, normalization="batch", chunk_size=10)
    # A rounding of the logits by eps moves a log-weight by beta / 4 of it.
    tolerance = 1e3 * torch.finfo(dtype).eps
    assert abs(got - expected) <= tolerance * abs(expected)
    for one, other in zip(
        torch.autograd.grad(got, (hidden, weight)), torch.autograd.grad(expected, exact), strict=True
    ):
        assert (one.double() - other).norm() <= tolerance * other.norm()


def test_logits_are_never_held():
    """Beyond the gradients themselves, a seventh of the logits at most."""
    hidden = torch.randn(2048, 16, requires_grad=True)
    weight = torch.randn(20000, 16, requires_grad=True)
    labels = torch.randint(0, 20000, (2048,))

    def step():
        loss = linear_emphasis_loss(hidden, weight, labels, PUBLISHED)
        return torch.autograd.grad(loss, (hidden, weight))

    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        gradients = step()
    held, peak = 0, 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert peak - sum(g.nbytes for g in gradients) <= 2048 * 20000 * 4 / 7
