"""The fused path: kernels against the float64 reference, in every layout, dtype and shape; its memory and guards."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from emphasis import CCE, DM, GCE, MAE
from emphasis.kernels.native import NATIVE
from emphasis.kernels.operators import OPERATORS
from emphasis.torch import EmphasisLoss, _fused, emphasis_loss, from_function
from reference import CASE_IDS, CASES, MARGINS, loss_reference, weightings

pytestmark = pytest.mark.filterwarnings("ignore:.*max_margin=None:emphasis.EmphasisWarning")
PUBLISHED = DM(lam=0.5, beta=12)
KINKED = from_function(lambda p: (1 - 2 * (p - 0.5).abs()).clamp(min=0.2) if isinstance(p, torch.Tensor) else p)
RESOLUTION = {torch.float32: 1e-5, torch.bfloat16: 1.01 * 2**-8, torch.float16: 1.01 * 2**-11}
KERNELS = [
    pytest.param(NATIVE, marks=pytest.mark.skipif(not NATIVE.takes(torch.float32), reason="no C compiler")),
    OPERATORS,
]


@pytest.fixture(params=KERNELS, ids=["native", "operators"])
def kernels(request, monkeypatch):
    monkeypatch.setattr(_fused, "backend_on", lambda tensor: request.param)
    return request.param


def gradient(logits, labels, weighting, *, seed=None, **options):
    logits = logits.detach().requires_grad_()
    loss = emphasis_loss(logits, labels, weighting, **options)
    seed = torch.ones_like(loss) if seed is None else seed
    return torch.autograd.grad(loss, logits, seed)[0], loss.detach()


@given(
    weightings(),
    st.sampled_from([None, "integral", "batch"]),
    st.sampled_from(["mean", "sum", "none"]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(2, 70),
    st.sampled_from([(), (1,), (5,), (3, 11), (300,)]),
    st.booleans(),
    st.integers(0, 2**31),
    st.sampled_from([0.5, 3.0, 20.0]),
)
@settings(max_examples=150)
def test_gradient_and_loss_equal_the_float64_reference(
    weighting, normalization, reduction, dtype, classes, inner, channels_last, seed, scale
):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(5, classes, *inner)) * scale).to(dtype)
    if channels_last and inner:
        logits = logits.movedim(1, -1).contiguous().movedim(-1, 1)
    labels = rng.integers(0, classes, (5, *inner))
    labels[rng.random(labels.shape) < 0.2] = -100
    weight = rng.integers(0, 3, labels.shape).astype(np.float32)
    if dtype == torch.float16 and weighting.log_peak > math.log(6e4):
        normalization = "batch"  # float16 holds no gradient of 65,520
    expected, terms = loss_reference(
        logits.double().numpy(), labels, weighting, normalization, reduction, -100, weight, "auto"
    )
    got, loss = gradient(
        logits,
        torch.from_numpy(labels),
        weighting,
        normalization=normalization,
        reduction=reduction,
        sample_weight=torch.from_numpy(weight),
    )
    assert got.dtype == dtype
    assert got.stride() == logits.stride()
    assert loss.dtype == torch.float32
    peak = np.abs(expected).max()
    # float32 margins of 60 are right to 4e-6, and so is a weight that grows as their exp; half types then round.
    tolerance = (2e-5 + 1e-5 * scale) + (0 if dtype == torch.float32 else 2 * RESOLUTION[dtype])
    floor = 1.2e-38 if dtype != torch.float16 else 6.2e-8
    np.testing.assert_allclose(got.double().numpy(), expected, rtol=tolerance, atol=1e-7 * peak + floor)
    terms = terms if reduction == "none" else terms.sum()
    np.testing.assert_allclose(loss.numpy(), terms, rtol=1e-4, atol=1e-6 * (1 + np.abs(terms).max()))


@pytest.mark.parametrize("classes", [2, 33])
@pytest.mark.parametrize("weighting", [case[0] for case in CASES], ids=CASE_IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_margins_up_to_1e4_in_either_kernel(kernels, weighting, classes, dtype):
    """float32 to 1e-5, halves to their resolution, wherever the exact value is a normal number; in both layouts."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(len(MARGINS), classes))
    labels = rng.integers(0, classes, len(MARGINS))
    logits[np.arange(len(MARGINS)), labels] += MARGINS
    rows = torch.from_numpy(logits).to(dtype)
    expected = weighting.derivative(rows.double().numpy(), labels)
    floor = {torch.float16: 6.2e-8}.get(dtype, 1.2e-38)
    for shape in ("rows", "columns"):
        z = rows if shape == "rows" else rows.t()[None].contiguous()
        y = torch.from_numpy(labels) if shape == "rows" else torch.from_numpy(labels)[None]
        got, _ = gradient(z, y, weighting, normalization=None, max_margin=None, reduction="sum")
        got = (got if shape == "rows" else got[0].t()).double().numpy()
        assert np.isfinite(got).all()
        error = np.abs(got - expected)
        assert (error <= np.maximum(RESOLUTION[dtype] * np.abs(expected), floor)).all(), error.max()


def test_function_without_a_table_takes_two_sweeps(kernels):
    logits, labels = torch.randn(9, 6), torch.arange(9) % 6
    assert EmphasisLoss(KINKED, normalization=None).options.table is None
    got, loss = gradient(logits, labels, KINKED, normalization=None)
    p = torch.softmax(logits.double(), 1).gather(1, labels[:, None])
    half = 0.5 * KINKED.function(p) / 9
    q = torch.softmax(logits.double().scatter(1, labels[:, None], -math.inf), 1)
    expected = (q * half).scatter(1, labels[:, None], -half)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-8)
    assert loss.isfinite()


# --- more than one backward pass ----------------------------------------------------------------


def test_second_backward_pass_gives_the_same(kernels):
    logits, labels = torch.randn(6, 5, requires_grad=True), torch.arange(6) % 5
    loss = emphasis_loss(logits, labels, PUBLISHED)
    first = torch.autograd.grad(loss, logits, torch.tensor(3.0), retain_graph=True)[0]
    second = torch.autograd.grad(loss, logits, torch.tensor(3.0), retain_graph=True)[0]
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, second)


def test_second_derivative_is_that_of_the_plain_path(kernels):
    logits, labels = torch.randn(6, 5, requires_grad=True), torch.arange(6) % 5
    labels[2] = -100
    first = torch.autograd.grad(emphasis_loss(logits, labels, GCE(0.7)), logits, create_graph=True)[0]
    got = torch.autograd.grad(first.square().sum(), logits)[0]
    one_hot = F.one_hot(labels.clamp(min=0), 5).double()
    z = logits.detach().double().requires_grad_()
    valid = (labels >= 0).double()
    soft = emphasis_loss(z, one_hot, GCE(0.7), reduction="none")
    again = torch.autograd.grad((soft * valid).sum() / valid.sum(), z, create_graph=True)[0]
    expected = torch.autograd.grad(again.square().sum(), z)[0]
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-7)


def test_logits_changed_between_the_passes_are_noticed():
    logits = torch.randn(6, 5, requires_grad=True)
    output = logits * 1.0
    loss = emphasis_loss(output, torch.arange(6) % 5, PUBLISHED)
    loss.backward(retain_graph=True)
    with torch.no_grad():
        output.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- half types ---------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["integral", "batch"])
def test_scaled_float16_gradients_do_not_underflow(kernels, normalization):
    """A mean over many examples, times a scaler's factor, is as right as from float32."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(4096, 8, generator=rng).half()
    labels = torch.randint(0, 8, (4096,), generator=rng)
    scale = torch.tensor(2.0**14)
    got, _ = gradient(logits, labels, PUBLISHED, normalization=normalization, seed=scale)
    expected, _ = gradient(logits.float(), labels, PUBLISHED, normalization=normalization, seed=scale)
    torch.testing.assert_close(got.float(), expected, rtol=2e-3, atol=1e-6)


# --- threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(900, 7000), (3, 40, 53000)])  # enough for five threads
def test_result_does_not_depend_on_the_number_of_threads(shape):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, shape[1], shape[:1] + shape[2:], generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(gradient(logits, labels, PUBLISHED))
    finally:
        torch.set_num_threads(before)
    for got, loss in results[1:]:
        assert torch.equal(got, results[0][0])
        assert torch.equal(loss, results[0][1])


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [(), (7, 9)])
def test_error_names_the_example(kernels, inner):
    logits, labels = torch.randn(40, 20, *inner), torch.zeros(40, *inner, dtype=torch.long)
    where = (33, *(2,) * len(inner))
    for value in (math.nan, math.inf, -math.inf):
        bad = logits.clone()
        bad[(33, 4, *where[1:])] = value
        pattern = str(where).replace("(", r"\(").replace(")", r"\)")
        with pytest.raises(ValueError, match=f"NaN or infinity.*{pattern}"):
            emphasis_loss(bad, labels, "CCE")
        ignored = labels.clone()
        ignored[where] = -100
        got, loss = gradient(bad, ignored, "CCE")
        assert loss.isfinite()
        assert (got[33] if not inner else got[(33, slice(None), *where[1:])]).eq(0).all()
    for label in (20, -1, 2**40):
        wrong = labels.clone()
        wrong[where] = label
        with pytest.raises(ValueError, match=rf"label {label} is outside 0\.\.19"):
            emphasis_loss(logits, wrong, "CCE")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_small_integer_labels(dtype):
    logits, labels = torch.randn(6, 5), torch.arange(6) % 5
    assert torch.equal(gradient(logits, labels.to(dtype), "MAE")[0], gradient(logits, labels, "MAE")[0])


# --- in place -----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", [None, "integral", "batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(12, 4), (3, 21, 5, 7), (9, 130)])
def test_inplace_gives_the_same_gradient_in_the_logits_memory(kernels, shape, dtype, normalization):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    labels = torch.randint(0, shape[1], shape[:1] + shape[2:], generator=torch.Generator().manual_seed(4))
    labels.view(-1)[3] = -100
    expected, loss = gradient(values, labels, PUBLISHED, normalization=normalization)
    logits = values.clone().requires_grad_() * 1.0
    got = emphasis_loss(logits, labels, PUBLISHED, normalization=normalization, inplace=True)
    derivative = torch.autograd.grad(got, logits)[0]
    assert torch.equal(got, loss)
    assert torch.equal(derivative, expected)
    assert derivative.data_ptr() == logits.data_ptr()


def test_inplace_takes_a_reshaped_output():
    layer = torch.nn.Linear(5, 8)
    x, labels = torch.randn(2, 3, 5), torch.randint(0, 8, (2, 3))
    gradients = []
    for inplace in (False, True):
        layer.zero_grad()
        loss = emphasis_loss(layer(x).view(-1, 8), labels.view(-1), PUBLISHED, inplace=inplace)
        loss.backward()
        gradients.append(layer.weight.grad.clone())
    assert torch.equal(*gradients)


def test_inplace_refuses_what_would_destroy_values_that_are_needed():
    labels = torch.arange(6) % 5
    leaf = torch.randn(6, 5, requires_grad=True)
    before = leaf.detach().clone()
    output = leaf * 1.0
    for logits, text in (
        (leaf, "leaf"),
        (leaf.view(6, 5), "leaf"),
        ((torch.cat((leaf, leaf)) * 1.0)[:6], r"a part, of shape \(6, 5\)"),
        ((leaf[:1] * 1.0).expand(6, 5), "a part"),
    ):
        with pytest.raises(ValueError, match=text):
            emphasis_loss(logits, labels, "CCE", inplace=True)
    assert torch.equal(leaf, before)
    with pytest.raises(ValueError, match="integer labels"):
        emphasis_loss(output, torch.softmax(before, 1), "CCE", inplace=True)
    with pytest.raises(ValueError, match="integer labels"):
        emphasis_loss(output[:, 0].clone(), labels % 2, "CCE", inplace=True)


def test_inplace_after_an_operation_that_needs_its_output_is_noticed():
    leaf = torch.randn(6, 5, requires_grad=True)
    loss = emphasis_loss(leaf.exp(), torch.arange(6) % 5, "CCE", inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_inplace_allows_one_backward_pass_and_no_second_derivative(kernels):
    leaf = torch.randn(6, 5, requires_grad=True)
    labels = torch.arange(6) % 5
    loss = emphasis_loss(leaf * 1.0, labels, "CCE", inplace=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="one backward pass"):
        loss.backward()
    loss = emphasis_loss(leaf * 1.0, labels, "CCE", inplace=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, leaf, create_graph=True)


def test_inplace_leaves_logits_alone_where_there_is_no_gradient(kernels):
    logits, labels = torch.randn(6, 5), torch.arange(6) % 5
    before = logits.clone()
    criterion = EmphasisLoss(MAE(), inplace=True)
    assert criterion(logits, labels) == EmphasisLoss(MAE())(logits, labels)
    with torch.no_grad():
        criterion(logits.requires_grad_(), labels)
    assert torch.equal(logits, before)


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("weighting", [PUBLISHED, CCE()], ids=repr)
def test_extra_memory_is_one_buffer_and_none_in_place(weighting, inplace, kernels):
    leaf, labels = torch.randn(64, 30000, requires_grad=True), torch.randint(0, 30000, (64,))

    def step(logits):
        loss = emphasis_loss(logits, labels, weighting, inplace=inplace)
        return torch.autograd.grad(loss, logits)[0]

    step(leaf * 1.0)
    logits = leaf * 1.0
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step(logits)
    events = profile.profiler.kineto_results.events()
    allocated = sum(event.nbytes() for event in events if event.name() == "[memory]" and event.nbytes() > 0)
    assert allocated <= (0.02 if inplace else 1.02) * leaf.nbytes
