"""`Relative` depends on the whole batch: its formula, written a second time, against every kernel and front end."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from emphasis import CCE, MAE, Relative, from_dict
from emphasis.boosting import Objective
from emphasis.errors import EmphasisValueError
from emphasis.kernels.native import NATIVE
from emphasis.kernels.operators import OPERATORS
from emphasis.torch import EmphasisLoss, _fused, _linear, emphasis_loss, linear_emphasis_loss
from emphasis.torch.functional import plain_loss, resolve
from emphasis.torch.stacked import stacked_derivative
from emphasis.weighting import DEFAULT_WEIGHTING

KERNELS = [pytest.param(one, id=one.name) for one in (NATIVE, OPERATORS) if one.takes(torch.float32)]
RTOL = {torch.float32: 3e-6, torch.float64: 1e-12}


def reference(logits, labels, weighting, share=None):
    """Loss (N,) and derivative of the sum, both without the mean's division: the formula of the class's docstring."""
    z = logits.detach().double()
    p = z.softmax(1)
    t = labels.double() if labels.is_floating_point() else F.one_hot(labels, z.shape[1]).double()
    t = t if share is None else t * share
    highest = p.amax(1, keepdim=True)
    contradiction = (t * (highest - p)).sum() / t.sum()
    d = 1.0 if weighting.doubt == 0.0 else min(1.0, float(contradiction) / weighting.doubt)
    trust = t * (p / highest) ** (weighting.q * d * highest)
    gradient = trust.sum(1, keepdim=True) * p - trust
    return -(trust * z.log_softmax(1)).sum(1), gradient, t.sum()


def random_batch(seed, examples, classes, spread, soft):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(examples, classes, generator=generator, dtype=torch.float64)
    if soft:
        return logits, torch.softmax(2.0 * torch.randn(examples, classes, generator=generator, dtype=torch.float64), 1)
    return logits, torch.randint(classes, (examples,), generator=generator)


@pytest.mark.parametrize("dtype", RTOL)
@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([(1, 2), (2, 3), (17, 2), (33, 10), (5, 129), (3, 1000)]),
    spread=st.sampled_from([0.0, 0.1, 3.0, 30.0]),
    q=st.floats(0.0, 1.0),
    doubt=st.one_of(st.just(0.0), st.floats(1e-3, 1.0)),
    soft=st.booleans(),
    weighted=st.booleans(),
    reduction=st.sampled_from(["mean", "sum", "none"]),
)
def test_kernels_have_the_formula(dtype, kernel, seed, shape, spread, q, doubt, soft, weighted, reduction):
    logits, labels = random_batch(seed, *shape, spread, soft)
    logits = logits.to(dtype)
    weighting, share, weights = Relative(q, doubt), None, {}
    if weighted:
        generator = torch.Generator().manual_seed(seed + 1)
        of_class, of_example = (torch.rand(n, generator=generator, dtype=torch.float64) + 0.1 for n in shape[::-1])
        share, weights = of_class * of_example[:, None], {"class_weight": of_class, "sample_weight": of_example}
    loss, gradient, count = reference(logits, labels, weighting, share)
    z = logits.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fused, "backend_on", lambda _: kernel)
        found = emphasis_loss(z, labels.to(dtype) if soft else labels, weighting, reduction=reduction, **weights)
    found.sum().backward()
    divisor = count if reduction == "mean" else 1.0
    expected = loss if reduction == "none" else loss.sum() / divisor
    torch.testing.assert_close(
        found.double(), expected, rtol=RTOL[dtype], atol=RTOL[dtype] * float(expected.abs().max()) + 1e-14
    )
    floor = RTOL[dtype] * float(gradient.abs().max() / divisor) + 1e-14  # 1 - p of the reference
    torch.testing.assert_close(z.grad.double(), gradient / divisor, rtol=RTOL[dtype], atol=floor)


@pytest.mark.parametrize("normalization", [None, "integral", "batch"])
def test_layouts_ignored_labels_and_one_logit(normalization):
    logits = torch.randn(4, 5, 3, 2, dtype=torch.float64)
    labels = torch.randint(5, (4, 3, 2))
    labels[1, 2] = -100
    rows, kept = logits.movedim(1, -1).reshape(-1, 5), labels.flatten() != -100
    wanted = emphasis_loss(rows[kept], labels.flatten()[kept], Relative(), normalization=normalization)
    for order in ((0, 1, 2, 3), (2, 1, 0, 3), (3, 2, 1, 0)):
        z = logits.permute(order).contiguous().permute([order.index(k) for k in range(4)]).requires_grad_()
        found = emphasis_loss(z, labels, Relative(), normalization=normalization)
        torch.testing.assert_close(found, wanted)
    for labels in (torch.randint(2, (30,)), torch.rand(30, dtype=torch.float64)):
        z = torch.randn(30, dtype=torch.float64)
        two = torch.stack((1.0 - labels, labels), 1) if labels.is_floating_point() else labels
        wanted = emphasis_loss(torch.stack((torch.zeros_like(z), z), 1), two, Relative(), normalization=normalization)
        torch.testing.assert_close(emphasis_loss(z, labels, Relative(), normalization=normalization), wanted)


def test_front_ends_have_the_derivative_of_the_reference():
    logits, labels = random_batch(0, 40, 6, 3.0, soft=False)
    wanted = Relative().derivative(logits.numpy(), labels.numpy())
    np.testing.assert_allclose(wanted, reference(logits, labels, Relative())[1], atol=1e-14)
    np.testing.assert_allclose(Objective(Relative()).gradient_hessian(labels, logits)[0], wanted, atol=1e-14)
    options = resolve(Relative(), "integral", "mean", "auto", None)
    stacked = stacked_derivative(torch.stack((logits, logits)), labels[None], (options, options))
    np.testing.assert_allclose(40 * stacked, np.stack((wanted, wanted)), atol=1e-14)
    z = logits.clone().requires_grad_()
    plain_loss(z, labels, options, -100, None, None).backward()
    np.testing.assert_allclose(40 * z.grad, wanted, atol=1e-14)


@pytest.mark.parametrize("normalization", ["integral", "batch"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_linear_form_is_that_of_the_logits(normalization, reduction):
    hidden, weight = (torch.randn(n, 8, dtype=torch.float64, requires_grad=True) for n in (40, 11))
    labels = torch.randint(11, (40,))
    labels[::7] = -100
    options = {"normalization": normalization, "reduction": reduction}
    losses = (
        linear_emphasis_loss(hidden, weight, labels, chunk_size=9, **options),
        emphasis_loss(hidden @ weight.t(), labels, **options),
    )
    torch.testing.assert_close(*losses)
    gradients = [
        torch.autograd.grad((loss * torch.arange(1.0, 1.0 + loss.numel())).sum(), (hidden, weight)) for loss in losses
    ]
    torch.testing.assert_close(*gradients)


def test_jax_has_it():
    jax = pytest.importorskip("jax", reason="needs the extra jax")
    from emphasis.jax import emphasis_loss as loss_in_jax

    logits, labels = random_batch(1, 30, 7, 3.0, soft=False)
    labels[3] = -100
    z = logits.clone().requires_grad_()
    emphasis_loss(z, labels).backward()
    gradient = jax.grad(lambda z: loss_in_jax(z, labels.numpy()))(logits.numpy().astype(np.float32))
    np.testing.assert_allclose(gradient, z.grad, atol=1e-7)


def test_it_is_cross_entropy_where_nothing_is_contradicted():
    labels = torch.arange(10)
    for logits in (torch.zeros(10, 10), 5.0 * torch.eye(10)):
        torch.testing.assert_close(EmphasisLoss()(logits, labels), F.cross_entropy(logits, labels))
    logits = torch.randn(20, 5)
    labels = torch.randint(5, (20,))
    torch.testing.assert_close(emphasis_loss(logits, labels, Relative(q=0)), F.cross_entropy(logits, labels))


def test_its_push_is_never_above_cross_entropys():
    logits, labels = (one.numpy() for one in random_batch(2, 500, 8, 4.0, soft=False))
    pushes, of_cross_entropy = (np.abs(w.derivative(logits, labels)).sum(1) for w in (Relative(), CCE()))
    assert (pushes <= of_cross_entropy * (1 + 1e-12)).all()
    assert (pushes < 0.5 * of_cross_entropy).mean() > 0.1


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # the compiler's own
def test_compiled_and_without_arguments_it_is_the_default():
    assert EmphasisLoss().weighting == DEFAULT_WEIGHTING == Relative() == from_dict(Relative().to_dict())
    z, labels = torch.randn(16, 9, requires_grad=True), torch.randint(9, (16,))
    eager, compiled = (
        torch.autograd.grad(one(z, labels), z)[0] for one in (EmphasisLoss(), torch.compile(EmphasisLoss()))
    )
    torch.testing.assert_close(compiled, eager)


def test_it_neither_adds_nor_scales():
    for make in (lambda: Relative() + MAE(), lambda: 2 * Relative()):
        with pytest.raises(EmphasisValueError, match="depend on p alone"):
            make()


@pytest.mark.parametrize("parameters", [{"q": -0.1}, {"q": 1.5}, {"doubt": float("nan")}, {"doubt": 2}])
def test_parameters_are_checked(parameters):
    with pytest.raises(ValueError, match=r"Relative: .*(q|doubt)"):
        Relative(**parameters)


def test_backends_of_linear_are_those_of_the_loss():
    assert _linear.backend_on is _fused.backend_on
