"""`Relative` depends on the whole batch: its formula, written a second time, against every kernel and front end."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from relative_reference import relative_reference
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
@example(seed=134, shape=(33, 10), spread=0.0, q=1.0, doubt=0.0, soft=True, weighted=True, reduction="sum")
def test_kernels_have_the_formula(dtype, kernel, seed, shape, spread, q, doubt, soft, weighted, reduction):
    logits, labels = random_batch(seed, *shape, spread, soft)
    logits = logits.to(dtype)
    weighting, share, weights = Relative(q, doubt), None, {}
    if weighted:
        generator = torch.Generator().manual_seed(seed + 1)
        of_class, of_example = (torch.rand(n, generator=generator, dtype=torch.float64) + 0.1 for n in shape[::-1])
        share, weights = of_class * of_example[:, None], {"class_weight": of_class, "sample_weight": of_example}
    loss, gradient, count = relative_reference(logits, labels, weighting, share)
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


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("spread", [3.0, 40.0])
def test_front_ends_have_the_derivative_of_the_reference(classes, spread):
    logits, labels = random_batch(0, 40, classes, spread, soft=False)
    wanted = Relative().derivative(logits.numpy(), labels.numpy())
    np.testing.assert_allclose(wanted, relative_reference(logits, labels, Relative())[1], atol=1e-14)
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
    with jax.enable_x64(True):
        weight = np.linspace(0.0, 2.0, 30)
        gradient = jax.grad(lambda z: loss_in_jax(z, labels.numpy(), sample_weight=weight))(logits.numpy())
    z = logits.clone().requires_grad_()
    emphasis_loss(z, labels, sample_weight=torch.from_numpy(weight)).backward()
    np.testing.assert_allclose(gradient, z.grad, rtol=1e-12, atol=1e-15)


def pushes(loss, logits, labels, **options):
    z = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(z, labels, **options), z)[0]


def cases_of_cross_entropy():
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(10, (200,), generator=generator)
    prior = torch.linspace(-3.0, 3.0, 10, dtype=torch.float64).expand(200, 10)
    yield "nothing is known", torch.zeros(200, 10, dtype=torch.float64), labels
    yield "labels and network agree", 5.0 * F.one_hot(labels, 10).double(), labels
    yield "no more than the classes' frequencies is known", prior, labels
    yield "one class is predicted for certain", 12.0 * prior, labels
    for seed in range(5):
        yield "one example", 3.0 * torch.randn(1, 10, generator=generator, dtype=torch.float64), labels[seed : seed + 1]
        alike = torch.randn(1, 2, generator=generator, dtype=torch.float64).expand(200, 2)
        yield "two classes, and all examples alike", alike, labels % 2


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", RTOL)
def test_it_is_cross_entropy_where_nothing_is_contradicted_with_certainty(kernel, dtype, monkeypatch):
    monkeypatch.setattr(_fused, "backend_on", lambda _: kernel)
    rtol = 2e-6 if dtype == torch.float32 else 1e-12
    for why, logits, labels in cases_of_cross_entropy():
        z = logits.to(dtype)
        wanted = pushes(F.cross_entropy, z, labels)
        for got in (
            pushes(EmphasisLoss(), z, labels),
            pushes(emphasis_loss, z, F.one_hot(labels, z.shape[1]).to(dtype)),
        ):
            torch.testing.assert_close(got, wanted, rtol=rtol, atol=1e-9 if dtype == torch.float32 else 1e-15, msg=why)
    logits, labels = torch.randn(20, 5, dtype=dtype), torch.randint(5, (20,))
    torch.testing.assert_close(
        emphasis_loss(logits, labels, Relative(q=0)), F.cross_entropy(logits, labels), rtol=rtol, atol=0
    )


def test_an_example_of_weight_two_is_two_examples_and_one_of_weight_zero_none():
    logits, labels = random_batch(7, 30, 4, 3.0, soft=False)
    weight = torch.arange(30, dtype=torch.float64) % 3
    count = weight.long()
    got = emphasis_loss(logits, labels, sample_weight=weight)
    wanted = emphasis_loss(logits.repeat_interleave(count, 0), labels.repeat_interleave(count, 0))
    torch.testing.assert_close(got, wanted, rtol=1e-13, atol=0)


@pytest.mark.parametrize("shape", [(300, 7), (40, 1000), (3, 5, 400)])
@pytest.mark.parametrize("dtype", RTOL)
def test_the_number_of_threads_changes_no_digit(shape, dtype):
    generator = torch.Generator().manual_seed(5)
    many = (5500 // shape[0]) if dtype == torch.float32 else 60  # enough for several threads
    logits = 3.0 * torch.randn(shape[0] * many, *shape[1:], generator=generator, dtype=dtype)
    labels = torch.randint(shape[1], (len(logits), *shape[2:]), generator=generator)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(pushes(EmphasisLoss(), logits, labels))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("soft", [False, True])
def test_of_two_classes_one_may_be_the_prior(soft):
    """Nine tenths of the examples are of class 0, and a network that says so is not taken for certain."""
    generator = torch.Generator().manual_seed(6)
    labels = (torch.arange(100) % 10 == 0).long()
    logits = torch.stack((torch.full((100,), 2.2, dtype=torch.float64), torch.zeros(100, dtype=torch.float64)), 1)
    logits += 0.01 * torch.randn(100, 2, generator=generator, dtype=torch.float64)
    given = F.one_hot(labels, 2).double() if soft else labels
    ratio = pushes(EmphasisLoss(), logits, given) / pushes(F.cross_entropy, logits, labels)
    assert (ratio > 0.9).all()  # a power of p / p_max alone would hold class 1 back to a ninth


def test_its_push_is_never_above_cross_entropys():
    logits, labels = (one.numpy() for one in random_batch(2, 500, 8, 4.0, soft=False))
    ours, of_cross_entropy = (np.abs(w.derivative(logits, labels)).sum(1) for w in (Relative(), CCE()))
    assert (ours <= of_cross_entropy * (1 + 1e-12)).all()
    assert (ours < 0.5 * of_cross_entropy).mean() > 0.1


def test_as_a_function_of_p_it_is_that_of_two_classes_equally_frequent_in_full_doubt():
    p = np.linspace(0.01, 0.99, 99)
    margin = np.log(p / (1 - p))
    logits = np.stack((margin, np.zeros_like(margin)), 1)
    logits = np.concatenate((logits, logits[:, ::-1]))  # every p for both classes: both have a mean of 1/2
    push = np.abs(Relative(doubt=0.0).derivative(logits, np.zeros(198, int))).sum(1)[:99]
    np.testing.assert_allclose(Relative()(p), push, rtol=1e-12)
    below = p < 0.5
    np.testing.assert_allclose(Relative()(p)[below], (2 * (1 - p) * (p / (1 - p)) ** (1 - 2 * p))[below], rtol=1e-12)
    np.testing.assert_allclose(Relative()(p)[~below], 2 * (1 - p)[~below], rtol=1e-12)
    assert Relative()(0.0) == Relative()(1.0) == 0.0


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
        with pytest.raises(EmphasisValueError, match="depend on p only"):
            make()


@pytest.mark.parametrize("parameters", [{"q": -0.1}, {"q": 1.5}, {"doubt": float("nan")}, {"doubt": 2}])
def test_parameters_are_checked(parameters):
    with pytest.raises(ValueError, match=r"Relative: .*(q|doubt)"):
        Relative(**parameters)


def test_backends_of_linear_are_those_of_the_loss():
    assert _linear.backend_on is _fused.backend_on
