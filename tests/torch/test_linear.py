"""The last layer and the loss in one: equal to the two apart, in value, gradients and errors; and its memory."""

import contextlib
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad
from torch.nn import functional as F

from emphasis import CCE, DM, MAE
from emphasis.kernels.native import NATIVE
from emphasis.kernels.operators import OPERATORS
from emphasis.torch import _linear, emphasis_loss, from_function, linear_emphasis_loss
from reference import weightings

PUBLISHED = DM(lam=0.5, beta=12)
KERNELS = [
    pytest.param(NATIVE, marks=pytest.mark.skipif(not NATIVE.takes(torch.float32), reason="no C compiler")),
    OPERATORS,
]


@pytest.fixture(params=KERNELS, ids=["native", "operators"])
def kernels(request, monkeypatch):
    monkeypatch.setattr(_linear, "backend_on", lambda tensor: request.param)
    return request.param


def problem(dtype, shape=(3, 7), width=8, classes=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(*shape, width, dtype=dtype, generator=generator, requires_grad=True)
    weight = torch.randn(classes, width, dtype=dtype, generator=generator, requires_grad=True)
    bias = torch.randn(classes, dtype=dtype, generator=generator, requires_grad=True)
    labels = torch.randint(0, classes, shape, generator=generator)
    labels.view(-1)[2] = -100
    return hidden, weight, bias, labels


def apart(hidden, weight, bias, labels, weighting, sample_weight=None, **options):
    """The layer, then the loss."""
    logits = F.linear(hidden, weight, bias).reshape(-1, len(weight))
    if sample_weight is not None:
        sample_weight = sample_weight.reshape(-1)
    loss = emphasis_loss(logits, labels.reshape(-1), weighting, sample_weight=sample_weight, **options)
    return loss.view(labels.shape) if loss.dim() else loss


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("normalization", [None, "integral", "batch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_equal_to_layer_and_loss_apart(kernels, dtype, normalization, reduction):
    """Loss, and gradients of hidden, weight and bias, whatever the chunks."""
    tolerance = 1e-12 if dtype == torch.float64 else 3e-6
    smooth = from_function(lambda p: p * (1 - p))
    for weighting, has_bias, chunk, weighted in itertools.product(
        (CCE(), PUBLISHED, smooth), (False, True), (None, 1, 5), (False, True)
    ):
        hidden, weight, bias, labels = problem(dtype)
        bias = bias if has_bias else None
        options = {"normalization": normalization, "reduction": reduction}
        if weighted:
            options |= {"class_weight": torch.rand(11, dtype=dtype), "sample_weight": torch.rand(3, 7, dtype=dtype)}
        got = linear_emphasis_loss(hidden, weight, labels, weighting, bias=bias, chunk_size=chunk, **options)
        expected = apart(hidden, weight, bias, labels, weighting, **options)
        inputs = [x for x in (hidden, weight, bias) if x is not None]
        upstream = torch.randn_like(expected)
        for one, other in zip(
            (got, *torch.autograd.grad(got, inputs, upstream)),
            (expected, *torch.autograd.grad(expected, inputs, upstream)),
            strict=True,
        ):
            assert one.shape == other.shape
            assert (one - other).abs().max() <= tolerance * other.abs().max()


@given(weightings(), st.sampled_from([None, "integral", "batch"]), st.integers(0, 2**31), st.integers(1, 30))
@settings(max_examples=40)
def test_any_weighting(weighting, normalization, seed, chunk):
    hidden, weight, bias, labels = problem(torch.float64, seed=seed)
    options = {"normalization": normalization}
    got = linear_emphasis_loss(hidden, weight, labels, weighting, bias=bias, chunk_size=chunk, **options)
    expected = apart(hidden, weight, bias, labels, weighting, **options)
    for one, other in zip(
        torch.autograd.grad(got, (hidden, weight, bias)),
        torch.autograd.grad(expected, (hidden, weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12 * float(other.abs().max()))


@pytest.mark.parametrize("normalization", [None, "integral"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck(normalization, reduction):
    hidden, weight, bias, labels = problem(torch.float64, (2, 3), 4, 5)

    def loss(hidden, weight, bias):
        return linear_emphasis_loss(
            hidden, weight, labels, PUBLISHED, bias=bias, normalization=normalization, reduction=reduction, chunk_size=2
        )

    assert torch.autograd.gradcheck(loss, (hidden, weight, bias))


@pytest.mark.parametrize("normalization", ["integral", "batch"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_right_to_their_resolution(kernels, dtype, normalization):
    """Against float64 from the same numbers: gradients add up in float32 over many chunks, and do not underflow."""
    hidden, weight, bias, labels = problem(dtype, (40, 25), 16, 50)
    scale = 1024.0
    got = linear_emphasis_loss(hidden, weight, labels, PUBLISHED, bias=bias, normalization=normalization, chunk_size=64)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    expected = apart(*exact, labels, PUBLISHED, normalization=normalization)
    assert got.dtype == torch.float32
    assert abs(got - expected) <= 5e-3 * abs(expected)
    for one, other in zip(
        torch.autograd.grad(scale * got, (hidden, weight, bias)),
        torch.autograd.grad(scale * expected, exact),
        strict=True,
    ):
        assert one.dtype == dtype
        # The logits themselves are rounded to `dtype`: that is the larger part.
        assert (one.double() - other).norm() <= 8 * torch.finfo(dtype).eps * other.norm()


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("normalization", [None, "batch"])
def test_the_default_dtype_does_not_matter(kernels, default, normalization, reduction):
    """Of functions with a kink too, whose weights are no table: buffers for kernels once had the default dtype."""
    for weighting in (PUBLISHED, lambda p: p * (p < 0.6)):
        results = []
        for context in (contextlib.nullcontext(), default_dtype(default)):
            hidden, weight, bias, labels = problem(torch.float32)
            with context:
                loss = linear_emphasis_loss(
                    hidden, weight, labels, weighting, bias=bias, normalization=normalization, reduction=reduction
                )
                results.append((loss, *torch.autograd.grad(loss.sum(), (hidden, weight, bias))))
        for one, other in zip(*results, strict=True):
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("normalization", [None, "integral", "batch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_tokens_that_do_not_count_take_no_part(kernels, dtype, normalization, reduction):
    """Their hidden states may be anything, which once made the weight's gradient NaN; their own gradient is 0."""
    tolerance = 1e-12 if dtype == torch.float64 else 3e-6
    for share, has_weights, weighting in itertools.product((0.0, 0.5, 1.0), (False, True), (PUBLISHED, lambda p: p)):
        hidden, weight, bias, labels = problem(dtype)
        labels = torch.where(torch.rand(labels.shape) < share, -100, labels)
        options = {"normalization": normalization, "reduction": reduction}
        counts = labels != -100
        if has_weights:
            options["sample_weight"] = torch.rand(labels.shape, dtype=dtype) * (torch.rand(labels.shape) < 0.7)
            counts &= options["sample_weight"] > 0
        expected = apart(hidden, weight, bias, labels, weighting, **options)
        upstream = torch.randn_like(expected)
        wanted = torch.autograd.grad(expected, (hidden, weight, bias), upstream)
        hidden = torch.where(counts[..., None], hidden.detach(), math.nan).requires_grad_()
        got = linear_emphasis_loss(hidden, weight, labels, weighting, bias=bias, chunk_size=4, **options)
        gradients = torch.autograd.grad(got, (hidden, weight, bias), upstream)
        for one, other in zip((got, *gradients), (expected, *wanted), strict=True):
            assert (one - other).abs().max() <= tolerance * max(other.abs().max(), 1e-30)
        assert gradients[0][~counts].eq(0).all()


def test_every_subset_of_inputs_that_require_grad():
    for chosen, normalization, reduction in itertools.product(
        itertools.product((False, True), repeat=3), ("integral", "batch"), ("mean", "none")
    ):
        if not any(chosen):
            continue
        *inputs, labels = problem(torch.float64)
        inputs = [x.detach().requires_grad_(wanted) for x, wanted in zip(inputs, chosen, strict=True)]
        hidden, weight, bias = inputs
        options = {"normalization": normalization, "reduction": reduction}
        losses = (
            linear_emphasis_loss(hidden, weight, labels, PUBLISHED, bias=bias, chunk_size=4, **options),
            apart(hidden, weight, bias, labels, PUBLISHED, **options),
        )
        wanted = [x for x in inputs if x.requires_grad]
        for one, other in zip(*(torch.autograd.grad(loss.sum(), wanted) for loss in losses), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_any_layout_of_the_inputs():
    """Slices, transposes and expanded tensors, and one hidden state alone."""
    torch.manual_seed(0)
    hidden = torch.randn(8, 5, 3, dtype=torch.float64).permute(2, 1, 0)[:, :-1]
    labels = torch.randint(0, 11, (4, 3)).t()
    for own, weight, of_own in (
        (hidden, torch.randn(8, 11, dtype=torch.float64).t(), labels),
        (hidden[:1].expand(3, 4, 8), torch.randn(11, 16, dtype=torch.float64)[:, ::2], labels),
        (hidden[0, 0], torch.randn(11, 8, dtype=torch.float64), labels[0, 0]),
    ):
        own, weight = own.detach().requires_grad_(), weight.detach().requires_grad_()
        for reduction in ("mean", "none"):
            got = linear_emphasis_loss(own, weight, of_own, "GCE", reduction=reduction, chunk_size=5)
            logits = F.linear(own, weight).reshape(-1, 11)
            expected = emphasis_loss(logits, of_own.reshape(-1), "GCE", reduction=reduction)
            assert got.shape == (of_own.shape if reduction == "none" else ())
            for one, other in zip(
                torch.autograd.grad(got.sum(), (own, weight)),
                torch.autograd.grad(expected.sum(), (own, weight)),
                strict=True,
            ):
                torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_transforms_and_traces_are_right():
    hidden, weight, bias, labels = (x.detach() for x in problem(torch.float64))

    def fused(hidden, weight):
        return linear_emphasis_loss(hidden, weight, labels, PUBLISHED, bias=bias)

    def plain(hidden, weight):
        return apart(hidden, weight, bias, labels, PUBLISHED)

    both = torch.stack((hidden, 2.0 * hidden)), weight
    for one, other in zip(
        *(
            (
                *torch.func.grad(loss, (0, 1))(hidden, weight),
                torch.func.vmap(loss, (0, None))(*both),
                torch.func.jvp(loss, (hidden, weight), (hidden, weight))[1],
            )
            for loss in (fused, plain)
        ),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    with forward_ad.dual_level():
        tangents = [
            forward_ad.unpack_dual(loss(forward_ad.make_dual(hidden, hidden), weight)).tangent
            for loss in (fused, plain)
        ]
    torch.testing.assert_close(*tangents)
    traced = torch.jit.trace(fused, (hidden, weight))
    torch.testing.assert_close(traced(2.0 * hidden, weight), fused(2.0 * hidden, weight))


def test_several_gradients_at_once():
    hidden, weight, bias, labels = problem(torch.float64)
    upstream = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for normalization in ("integral", "batch"):
        loss = linear_emphasis_loss(hidden, weight, labels, PUBLISHED, bias=bias, normalization=normalization)
        (single,) = torch.autograd.grad(loss, weight, retain_graph=True)
        (several,) = torch.autograd.grad(loss, weight, upstream, is_grads_batched=True)
        torch.testing.assert_close(several, upstream.view(3, 1, 1) * single)
    losses = linear_emphasis_loss(hidden, weight, labels, PUBLISHED, bias=bias, reduction="none")
    with pytest.raises(RuntimeError, match="one gradient at a time"):
        torch.autograd.grad(losses, weight, torch.ones(2, *losses.shape), is_grads_batched=True)


def test_autocast_runs_the_layer_in_its_dtype():
    hidden, weight, _, labels = problem(torch.float32, (40, 5), 16, 50)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_emphasis_loss(hidden, weight, labels, PUBLISHED)
    loss.backward()
    expected = linear_emphasis_loss(hidden.detach().bfloat16(), weight.detach().bfloat16(), labels, PUBLISHED)
    assert loss == expected
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32
    hidden, weight, _, labels = problem(torch.float64)
    with torch.autocast("cpu", torch.bfloat16):  # float64 stays, as of F.linear
        assert linear_emphasis_loss(hidden, weight, labels, PUBLISHED).dtype == torch.float64


@pytest.mark.parametrize(("normalization", "reduction"), [("integral", "mean"), ("batch", "mean"), (None, "none")])
def test_second_backward_pass_gives_the_same(normalization, reduction):
    hidden, weight, _, labels = problem(torch.float32)
    loss = linear_emphasis_loss(hidden, weight, labels, "GCE", normalization=normalization, reduction=reduction)
    upstream = 3.0 * torch.ones_like(loss)
    first = torch.autograd.grad(loss, (hidden, weight), upstream, retain_graph=True)
    second = torch.autograd.grad(loss, (hidden, weight), upstream)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    loss = linear_emphasis_loss(hidden, weight, labels, "GCE", normalization=normalization, reduction=reduction)
    with pytest.raises(RuntimeError, match="does not require grad"):  # no second derivative
        torch.autograd.grad(torch.autograd.grad(loss.sum(), hidden, create_graph=True)[0].sum(), weight)


def test_frozen_inputs_get_no_gradient():
    hidden, weight, bias, labels = problem(torch.float32)
    loss = linear_emphasis_loss(hidden, weight.detach(), labels, "CCE", bias=bias.detach())
    expected = apart(hidden, weight.detach(), bias.detach(), labels, "CCE")
    torch.testing.assert_close(torch.autograd.grad(loss, hidden)[0], torch.autograd.grad(expected, hidden)[0])
    with torch.no_grad():
        assert not linear_emphasis_loss(hidden, weight, labels, "CCE").requires_grad


def test_nothing_counts_and_nothing_is_there():
    hidden, weight, _, labels = problem(torch.float32)
    for normalization in ("integral", "batch"):
        loss = linear_emphasis_loss(
            hidden, weight, torch.full_like(labels, -100), PUBLISHED, normalization=normalization
        )
        assert loss == 0
        assert all(g.eq(0).all() for g in torch.autograd.grad(loss, (hidden, weight)))
        empty = linear_emphasis_loss(hidden[:0], weight, labels[:0], PUBLISHED, normalization=normalization)
        assert empty == 0
        assert torch.autograd.grad(empty, weight)[0].eq(0).all()


def test_mae_is_dynamic_fine_tuning():
    """DFT's loss is p.detach() * cross-entropy; the MAE weighting has the same gradient."""
    hidden, weight, bias, labels = problem(torch.float64)
    valid = labels != -100
    log_p = torch.log_softmax(F.linear(hidden, weight, bias), -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    dft = ((-log_p * log_p.exp().detach()) * valid).sum() / valid.sum()
    loss = linear_emphasis_loss(hidden, weight, labels, MAE(), bias=bias, normalization=None)
    for one, other in zip(
        torch.autograd.grad(loss, (hidden, weight, bias)), torch.autograd.grad(dft, (hidden, weight, bias)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


# torch looks at .grad of every tensor that crosses a break in the graph, and warns itself.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiles_with_a_break_in_the_graph():
    hidden, weight, _, labels = problem(torch.float32)

    @torch.compile(backend="eager")
    def step(hidden, weight):
        return 2.0 * linear_emphasis_loss(hidden * 1.0, weight, labels, "GCE")

    expected = 2.0 * linear_emphasis_loss(hidden, weight, labels, "GCE")
    torch.testing.assert_close(step(hidden, weight), expected)


H, W, _, Y = problem(torch.float32)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: linear_emphasis_loss(H, W.t(), Y, "CCE"), ValueError, r"\(V, H\)"),
        (lambda: linear_emphasis_loss(H, W, Y[:2], "CCE"), ValueError, r"labels must have shape \(3, 7\)"),
        (lambda: linear_emphasis_loss(H, W, Y.float(), "CCE"), TypeError, "integers"),
        (lambda: linear_emphasis_loss(H, W.double(), Y, "CCE"), TypeError, "one dtype"),
        (lambda: linear_emphasis_loss(H.long(), W, Y, "CCE"), TypeError, "floating"),
        (lambda: linear_emphasis_loss(H.to(torch.float8_e5m2), W, Y, "CCE"), TypeError, "float8"),
        (lambda: linear_emphasis_loss(H, W[:1], Y, "CCE"), ValueError, "V=1"),
        (lambda: linear_emphasis_loss(H, W, Y, "CCE", bias=W[0]), ValueError, r"shape \(11,\)"),
        (lambda: linear_emphasis_loss(H, W, Y + 11, "CCE"), ValueError, r"outside 0\.\.10"),
        (lambda: linear_emphasis_loss(H, W, Y, "CCE", chunk_size=0), ValueError, "chunk_size=0"),
        (lambda: linear_emphasis_loss(H, W, Y, "CCE", reduction="avg"), ValueError, "avg"),
        (lambda: linear_emphasis_loss(H, W, Y, "CCE", ignore_index=1.0), TypeError, "ignore_index"),
        (lambda: linear_emphasis_loss([1.0], W, Y, "CCE"), TypeError, "torch.Tensor"),
        (lambda: linear_emphasis_loss(H, W.to("meta"), Y, "CCE"), ValueError, "meta"),
        (lambda: linear_emphasis_loss(H, W, Y, "CCE", class_weight=torch.ones(3)), ValueError, r"\(11,\)"),
        (lambda: linear_emphasis_loss(H, W, Y, "CCE", sample_weight=torch.ones(3)), ValueError, r"\(3, 7\)"),
    ],
)
def test_bad_input_names_value_and_cure(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("chunk", [None, 2])
def test_nan_names_the_token(kernels, chunk):
    hidden, weight, _, labels = problem(torch.float32)
    hidden = hidden.detach().clone()
    hidden[1, 4, 0] = math.nan
    with pytest.raises(ValueError, match=r"NaN or infinity.*\(1, 4\)"):
        linear_emphasis_loss(hidden, weight, labels, "CCE", chunk_size=chunk)
    labels[1, 4] = -100
    assert linear_emphasis_loss(hidden, weight, labels, "CCE", chunk_size=chunk).isfinite()
