"""The loss under what PyTorch does to functions: forward mode, batched gradients, traces, compiled graphs, export."""

import warnings

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from emphasis import CCE, DM, GCE
from emphasis.torch import EmphasisLoss, _ops, emphasis_loss

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # which goes, but is used still
WEIGHTINGS = [CCE(), DM(lam=0.5, beta=4), DM(lam=0.5, beta=4, vanishing=True)]
LABELS = torch.arange(6) % 4
SOFT = torch.softmax(torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), 1)


@pytest.fixture(params=["labels", "soft labels", "one logit"])
def data(request):
    generator = torch.Generator().manual_seed(0)
    if request.param == "one logit":
        return torch.randn(6, dtype=torch.float64, generator=generator), LABELS % 2
    logits = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    return logits, LABELS if request.param == "labels" else SOFT


@pytest.fixture(params=[None, "integral", "batch"])
def loss(request, data):
    """The losses of three weightings added up, and that of each example."""

    def compute(logits, reduction="mean"):
        return sum(
            emphasis_loss(logits, data[1], w, normalization=request.param, reduction=reduction, max_margin=20.0)
            for w in WEIGHTINGS
        )

    return compute


def gradient(loss, logits):
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def test_forward_mode_is_the_derivative_along_the_tangent(loss, data):
    logits = data[0]
    tangent = torch.randn(logits.shape, dtype=torch.float64)
    expected = (gradient(loss, logits) * tangent).sum()
    torch.testing.assert_close(torch.func.jvp(loss, (logits,), (tangent,))[1], expected)
    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(logits, tangent))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, expected)


def test_hessian_by_forward_over_reverse_is_that_by_reverse_over_reverse(loss, data):
    logits = data[0]
    expected = torch.autograd.functional.hessian(loss, logits)
    torch.testing.assert_close(torch.func.hessian(loss)(logits), expected)


def test_several_gradients_at_once(loss, data):
    leaf = data[0].clone().requires_grad_()
    losses = loss(leaf, "none")
    every = torch.eye(6, dtype=torch.float64)
    expected = torch.stack([torch.autograd.grad(losses, leaf, one, retain_graph=True)[0] for one in every])
    got = torch.autograd.grad(losses, leaf, every, is_grads_batched=True, retain_graph=True)[0]
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(losses, leaf, every[0])[0], expected[0])
    jacobian = torch.autograd.functional.jacobian(lambda z: loss(z, "none"), data[0], vectorize=True)
    torch.testing.assert_close(jacobian, expected)


def test_trace_computes_anew_for_other_inputs_and_has_the_derivative(loss, data):
    traced = torch.jit.trace(loss, (data[0],))
    other = torch.randn(data[0].shape, dtype=torch.float64, requires_grad=True)
    value = traced(other)
    torch.testing.assert_close(value, loss(other))
    torch.testing.assert_close(torch.autograd.grad(value, other)[0], gradient(loss, other.detach()))


def test_graphs_of_make_fx_compute_anew(loss, data):
    other = torch.randn(data[0].shape, dtype=torch.float64)
    torch.testing.assert_close(make_fx(lambda z: loss(z))(data[0])(other), loss(other))
    torch.testing.assert_close(make_fx(lambda z: torch.func.grad(loss)(z))(data[0])(other), gradient(loss, other))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_compiled_graph_holds_the_kernels(dtype, reduction, monkeypatch):
    """One operator in one graph, and the loss that is not compiled; bad labels are errors there as well."""
    seen = []

    def backend(module, inputs):
        seen.append({str(node.target) for node in module.graph.nodes})
        return module.forward

    torch._dynamo.reset()
    logits, labels = torch.randn(12, 5).to(dtype).requires_grad_(), torch.arange(12) % 5
    labels[3] = -100
    for targets, operator in ((labels, "loss_of_labels"), (torch.softmax(torch.randn(12, 5), 1), "loss_of_targets")):
        criterion = EmphasisLoss(GCE(0.7), reduction=reduction, class_weight=torch.rand(5))
        got = torch.compile(criterion, fullgraph=True, backend=backend)(logits, targets)
        expected = criterion(logits, targets)
        assert any(operator in target for target in seen[-1])
        torch.testing.assert_close(got, expected)
        seed = torch.linspace(1.0, 2.0, got.numel(), dtype=got.dtype).view(got.shape)
        pair = (torch.autograd.grad(one, logits, seed)[0] for one in (got, expected))
        rounding = 2.0 * torch.finfo(dtype).eps
        torch.testing.assert_close(*pair, rtol=rounding, atol=rounding)
    wrong = torch.full((12,), 7)
    with pytest.raises(ValueError, match="label 7 is outside"):
        torch.compile(EmphasisLoss(CCE()), fullgraph=True, backend="aot_eager")(logits, wrong)


@pytest.fixture(params=["labels", "soft labels"])
def graph(request):
    """A loss in a graph that AOTAutograd traces, beside the loss itself, with logits and labels."""
    torch._dynamo.reset()
    criterion = EmphasisLoss(DM(lam=0.5, beta=4))
    logits = torch.randn(6, 4, requires_grad=True)
    labels = LABELS if request.param == "labels" else SOFT.float()
    return torch.compile(criterion, fullgraph=True, backend="aot_eager"), criterion, logits, labels


def test_derivative_that_a_graph_keeps_outside_is_freed_with_the_loss(graph):
    compiled, criterion, logits, labels = graph
    before = len(_ops._kept)
    loss = compiled(logits, labels)
    assert len(_ops._kept) == before + 1
    del loss
    assert len(_ops._kept) == before
    with torch.no_grad():
        torch.testing.assert_close(compiled(logits, labels), criterion(logits, labels))
    assert len(_ops._kept) == before
    compiled(logits, labels).backward()
    assert len(_ops._kept) == before


def test_second_backward_pass_of_a_graph_computes_the_derivative_again(graph):
    compiled, criterion, logits, labels = graph
    expected = torch.autograd.grad(criterion(logits, labels), logits)[0]
    with torch._functorch.config.patch(donated_buffer=False):  # with which PyTorch refuses a second backward pass
        loss = compiled(logits, labels)
        first = torch.autograd.grad(3.0 * loss, logits, retain_graph=True)[0]
        torch.testing.assert_close(first, 3.0 * expected)
        torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], expected)
        torch.testing.assert_close(first, 3.0 * expected)  # memory of its own


def test_equal_losses_in_a_graph_have_their_own_derivatives(graph):
    _, criterion, logits, labels = graph

    def twice(z):
        return 2.0 * criterion(z, labels) + 0.5 * criterion(z, labels)

    got = torch.autograd.grad(torch.compile(twice, fullgraph=True, backend="aot_eager")(logits), logits)[0]
    torch.testing.assert_close(got, torch.autograd.grad(twice(logits), logits)[0])


def test_export_holds_the_kernels():
    logits, labels = torch.randn(12, 5), torch.arange(12) % 5

    class Evaluated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.loss = EmphasisLoss(DM(lam=0.5, beta=12))

        def forward(self, logits, labels):
            return self.loss(logits * 2.0, labels)

    program = torch.export.export(Evaluated(), (logits, labels))
    assert any("loss_of_labels" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(logits, labels), Evaluated()(logits, labels))


# --- what a loss is given ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the integral of:emphasis.EmphasisWarning")  # the jump's
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dtype_that_a_function_returns_changes_nothing(dtype):
    logits = torch.randn(6, 4, dtype=dtype, requires_grad=True)
    results = []
    for cast in (lambda p: p, torch.Tensor.double, torch.Tensor.float):
        kinked = emphasis_loss(logits, LABELS, lambda p, cast=cast: cast(p) * (1 - cast(p)) * (p < 0.6) + 0.01)
        results.append((kinked, *torch.autograd.grad(kinked, logits)))
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            torch.testing.assert_close(same, one, rtol=1e-6, atol=1e-8)
    halves = emphasis_loss(logits, LABELS, lambda p: (p * (1 - p)).bfloat16())
    whole = emphasis_loss(logits, LABELS, lambda p: p * (1 - p))
    torch.testing.assert_close(halves, whole, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("scale", [1 / 4096, 1e-6, 1e-30, 1e30])
@pytest.mark.parametrize("normalization", ["integral", "batch"])
def test_scale_of_weights_zeroes_nothing_in_float16(scale, normalization):
    logits = torch.randn(512, 100).half().requires_grad_()
    labels = torch.randint(100, (512,))

    def result(**options):
        loss = emphasis_loss(logits, labels, DM(lam=0.5, beta=12), normalization=normalization, **options)
        return loss, torch.autograd.grad(loss, logits, torch.tensor(65536.0))[0]

    loss, got = result(sample_weight=torch.full((512,), scale))
    expected_loss, expected = result()
    torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=0)
    assert expected.count_nonzero() > 0.999 * expected.numel()


def test_weights_at_the_ends_of_their_dtypes():
    logits = torch.randn(6, 4, requires_grad=True)
    expected = emphasis_loss(logits, LABELS, CCE())
    for size, dtype in ((1e30, torch.float32), (1e-30, torch.float32), (1e300, torch.float64), (1e-300, torch.float64)):
        weights = {
            "class_weight": torch.full((4,), size, dtype=dtype),
            "sample_weight": torch.full((6,), size, dtype=dtype),
        }
        for labels in (LABELS, SOFT.float()):
            plain = emphasis_loss(logits, labels, CCE())
            got = emphasis_loss(logits, labels, CCE(), **weights)
            torch.testing.assert_close(got, plain)
            torch.testing.assert_close(
                *(torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (got, plain))
            )
    with pytest.raises(OverflowError, match="scale the weights down"):
        emphasis_loss(logits, LABELS, CCE(), sample_weight=torch.full((6,), 1e39, dtype=torch.float64), reduction="sum")
    assert expected.isfinite()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_weight_that_float16_does_not_hold_is_an_error_and_no_infinity(reduction):
    logits = torch.randn(6, 4)
    options = {"normalization": None, "reduction": reduction}
    with pytest.raises(OverflowError, match=r"more than torch\.float16 holds"):
        emphasis_loss(logits.half(), LABELS, DM(lam=0.5, beta=60), **options)
    assert emphasis_loss(logits, LABELS, DM(lam=0.5, beta=60), **options).isfinite().all()


@pytest.mark.parametrize("value", [np.int64(-1), np.int32(3), torch.tensor(2).item(), -(2**63)])
def test_integers_of_other_kinds_say_which_label_to_ignore(value):
    labels = LABELS.clone()
    labels[0] = int(value)
    logits = torch.randn(6, 4)
    expected = F.cross_entropy(logits, labels, ignore_index=int(value))
    torch.testing.assert_close(emphasis_loss(logits, labels, CCE(), ignore_index=value), expected)


@pytest.mark.parametrize("value", [2**63, -(2**64), 1.0, True, None, "x"])
def test_what_no_label_can_be_is_an_error(value):
    with pytest.raises((ValueError, TypeError), match="ignore_index"):
        emphasis_loss(torch.randn(6, 4), LABELS, CCE(), ignore_index=value)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_float8_logits_are_named(dtype):
    with pytest.raises(TypeError, match="float8"):
        emphasis_loss(torch.randn(6, 4).to(dtype), LABELS, CCE())


def test_sparse_logits_are_named():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = torch.randn(6, 4).to_sparse_csr()
    with pytest.raises(TypeError, match="dense"):
        emphasis_loss(sparse, LABELS, CCE())


def test_meta_tensors_have_shapes_alone():
    logits = torch.randn(6, 4, device="meta", requires_grad=True)
    loss = emphasis_loss(logits, LABELS.to("meta"), CCE())
    assert loss.shape == ()
    assert torch.autograd.grad(loss, logits)[0].shape == (6, 4)
