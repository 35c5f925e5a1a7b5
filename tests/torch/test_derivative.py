"""The loss's gradient against mpmath, against the float64 numpy reference, and against its own value."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from emphasis import CCE, DM, GCE, MAE, MSE, Beta, Focal, Uniform, Weighting
from emphasis.torch import emphasis_loss, from_function, from_loss
from reference import CASE_IDS, CASES, MARGINS, exact_derivative, weightings

pytestmark = pytest.mark.filterwarnings("ignore:.*max_margin=None:emphasis.EmphasisWarning")
NORMALIZATIONS = [None, "integral", "batch"]


def gradient(logits, labels, weighting, **options):
    logits = logits.detach().clone().requires_grad_()
    loss = emphasis_loss(logits, labels, weighting, **options)
    return torch.autograd.grad(loss, logits)[0], loss.detach()


def reference(logits, labels, weighting: Weighting, normalization, weight=None, max_margin="auto"):
    """The mean loss's gradient in float64 numpy: Eq. 7, then Eq. 8 or the batch's unit of emphasis."""
    weight = np.ones(labels.shape) if weight is None else weight
    raw = weighting.derivative(logits, labels, max_margin) * np.expand_dims(weight, 1)
    if normalization == "batch":
        total = np.abs(raw).sum()
        return raw / total if total else raw
    scale = weighting.integral if normalization == "integral" else 1.0
    return raw / (scale * weight.sum())


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize(("weighting", "w"), [case[:2] for case in CASES], ids=CASE_IDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_derivative_against_mpmath(weighting, w, margin, dtype):
    """float64 to 1e-12, float32 to 1e-5, halves to their resolution, wherever the exact value is a normal number."""
    if dtype == torch.float16 and abs(margin) > 6e4:
        return
    logits = torch.tensor([[0.3, margin + 1.1, -1.2, 0.7]], dtype=dtype)
    got, _ = gradient(logits, torch.tensor([1]), weighting, normalization=None, max_margin=None)
    expected, weight = exact_derivative(w, logits[0].double().tolist(), 1)
    info = torch.finfo(dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 1.01 * info.eps)
    floor = {torch.float16: 6e-8}.get(dtype, torch.finfo(torch.promote_types(dtype, torch.float32)).tiny)
    assert got.isfinite().all()
    assert got.dtype == dtype
    for ours, theirs in zip(got[0].double().tolist(), expected, strict=True):
        assert abs(ours - theirs) <= max(tolerance * abs(theirs), floor)
    assert abs(got.double().abs().sum().item() - weight) <= max(tolerance * weight, 4 * floor)


@given(
    weightings(),
    st.sampled_from(NORMALIZATIONS),
    st.integers(2, 6),
    st.integers(0, 2**31),
    st.floats(0.1, 30),
)
def test_gradient_equals_the_numpy_reference(weighting, normalization, num_classes, seed, scale):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(7, num_classes, 3)) * scale
    labels = rng.integers(0, num_classes, (7, 3))
    got, _ = gradient(torch.from_numpy(logits), torch.from_numpy(labels), weighting, normalization=normalization)
    expected = reference(logits, labels, weighting, normalization)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("normalization", [None, "integral"])
@pytest.mark.parametrize(("weighting", "w"), [c[:2] for c in CASES], ids=CASE_IDS)
def test_gradcheck_at_margins_up_to_30(weighting, w, normalization):
    margins = torch.tensor([-30.0, -11.0, -3.0, -0.4, 0.0, 0.7, 2.5, 9.0, 17.0, 30.0], dtype=torch.float64)
    logits = torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(10) % 3
    rest = logits.scatter(1, labels[:, None], -math.inf).logsumexp(1, keepdim=True)
    logits = logits.scatter(1, labels[:, None], margins[:, None] + rest).requires_grad_()

    def loss(z):
        return emphasis_loss(z, labels, weighting, normalization=normalization, max_margin=None, reduction="none")

    assert torch.autograd.gradcheck(loss, logits)


@pytest.mark.parametrize("normalization", [None, "integral"])
@pytest.mark.parametrize(
    "weighting", [DM(lam=0.5, beta=12), CCE(), Focal(2), DM(lam=1, beta=4, vanishing=True)], ids=repr
)
def test_gradcheck_and_double_backward_with_everything_on(weighting, normalization):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(6, 4, 2, dtype=torch.float64, generator=generator).requires_grad_()
    hard = torch.randint(0, 4, (6, 2), generator=generator)
    hard[1, 1] = -100
    soft = torch.softmax(torch.randn(6, 4, 2, dtype=torch.float64, generator=generator), 1)
    sample_weight = torch.rand(6, 2, dtype=torch.float64, generator=generator)
    class_weight = torch.rand(4, dtype=torch.float64, generator=generator)
    for labels in (hard, soft):
        for reduction in ("mean", "sum", "none"):

            def loss(z, labels=labels, reduction=reduction):
                return emphasis_loss(
                    z,
                    labels,
                    weighting,
                    normalization=normalization,
                    reduction=reduction,
                    sample_weight=sample_weight,
                    class_weight=class_weight,
                )

            assert torch.autograd.gradcheck(loss, logits)
            assert torch.autograd.gradgradcheck(loss, logits)


@given(weightings(), st.integers(0, 2**31), st.sampled_from([1.0, 30.0]))
def test_soft_labels_derive_as_the_mean_of_the_hard_ones(weighting, seed, scale):
    """dz = sum_k t_k d_k, also where one class has nearly all the probability."""
    rng = np.random.default_rng(seed)
    logits, targets = rng.normal(size=(5, 4)) * scale, rng.dirichlet(np.full(4, 0.3), 5)
    got, _ = gradient(torch.from_numpy(logits), torch.from_numpy(targets), weighting, normalization=None)
    expected = sum(targets[:, [k]] * weighting.derivative(logits, np.full(5, k), "auto") / 5 for k in range(4))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-8, atol=1e-13 * max(1.0, np.abs(expected).max()))


@given(weightings(), st.sampled_from(NORMALIZATIONS), st.integers(0, 2**31))
def test_one_hot_soft_labels_are_hard_labels(weighting, normalization, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 3, dtype=torch.float64, generator=generator) * 4
    labels = torch.randint(0, 3, (6,), generator=generator)
    one_hot = F.one_hot(labels, 3).double()
    weight = torch.rand(6, dtype=torch.float64, generator=generator)
    options = {"normalization": normalization, "sample_weight": weight}
    hard, hard_loss = gradient(logits, labels, weighting, **options)
    soft, soft_loss = gradient(logits, one_hot, weighting, **options)
    torch.testing.assert_close(soft, hard, rtol=1e-9, atol=1e-13 * float(hard.abs().max()))
    torch.testing.assert_close(soft_loss, hard_loss, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cce_is_cross_entropy(soft, reduction):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(8, 5, 3, dtype=torch.float64, generator=generator).requires_grad_()
    class_weight = None if soft else torch.rand(5, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 5, (8, 3), generator=generator)
    labels[2, 1] = -100
    if soft:
        labels = torch.softmax(torch.randn(8, 5, 3, dtype=torch.float64, generator=generator), 1)
    ours = emphasis_loss(logits, labels, CCE(), normalization=None, reduction=reduction, class_weight=class_weight)
    theirs = F.cross_entropy(logits, labels, weight=class_weight, reduction=reduction)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    both = [torch.autograd.grad(x.sum(), logits)[0] for x in (ours, theirs)]
    torch.testing.assert_close(*both, rtol=1e-11, atol=1e-14)


def test_the_binary_form_is_two_columns_and_bce():
    z = torch.linspace(-40, 40, 9, dtype=torch.float64).requires_grad_()
    labels = torch.arange(9) % 2
    for given_labels in (labels, labels.bool(), labels.double()):
        loss = emphasis_loss(z, given_labels, CCE(), normalization=None)
        theirs = F.binary_cross_entropy_with_logits(z, labels.double())
        torch.testing.assert_close(loss, theirs)
        torch.testing.assert_close(*(torch.autograd.grad(x, z)[0] for x in (loss, theirs)))
    weighting = DM(lam=0.5, beta=3)
    columns = torch.stack((torch.zeros_like(z), z), 1)
    torch.testing.assert_close(emphasis_loss(z, labels, weighting), emphasis_loss(columns, labels, weighting))


def test_double_backward_survives_a_logit_far_ahead():
    logits = torch.tensor([[95.0, 0.0, 0.0], [0.0, 400.0, 1.0]], requires_grad=True)
    soft = torch.tensor([[0.9, 0.05, 0.05], [0.2, 0.5, 0.3]])
    for labels in (soft, torch.tensor([0, 0])):
        for weighting in (CCE(), DM(lam=0.5, beta=3), Focal(2)):
            loss = emphasis_loss(logits, labels, weighting)
            (first,) = torch.autograd.grad(loss, logits, create_graph=True)
            (second,) = torch.autograd.grad(first.pow(2).sum(), logits)
            assert second.isfinite().all(), weighting


# --- normalization ------------------------------------------------------------------------------


@given(st.floats(0, 3), st.sampled_from([-1e4, -3.0, 0.0, 12.0, 1e4]), st.integers(0, 2**31))
@settings(max_examples=30)
def test_batch_weights_are_one_unit_for_any_beta(lam, beta, seed):
    logits = torch.randn(16, 5, generator=torch.Generator().manual_seed(seed)) * 3
    labels = torch.arange(16) % 5
    got, loss = gradient(logits, labels, DM(lam=lam, beta=beta), normalization="batch")
    assert loss.isfinite()
    assert got.isfinite().all()
    assert got.abs().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_batch_value_is_the_weighted_cross_entropy_and_none_adds_up():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 4, (9,), generator=generator)
    weighting = DM(lam=0.5, beta=5)
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    weights = torch.from_numpy(weighting(p.numpy()))
    expected = (weights * -p.log()).sum() / weights.sum()
    losses = {
        r: emphasis_loss(logits, labels, weighting, normalization="batch", reduction=r) for r in ("mean", "sum", "none")
    }
    torch.testing.assert_close(losses["mean"], expected)
    torch.testing.assert_close(losses["sum"], expected)
    torch.testing.assert_close(losses["none"].sum(), expected)


def test_huge_beta_is_refused_where_it_overflows_and_fine_where_not():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    with pytest.raises(OverflowError, match='normalization="batch"'):
        emphasis_loss(logits, labels, DM(lam=0.5, beta=1e4), normalization=None)
    with pytest.raises(OverflowError):
        emphasis_loss(logits, labels, DM(lam=0, beta=100), normalization=None)
    emphasis_loss(logits.double(), labels, DM(lam=0, beta=100), normalization=None)
    assert emphasis_loss(logits, labels, DM(lam=0.5, beta=1e4), normalization="integral").isfinite()


def test_unbounded_weights_saturate():
    logits = torch.tensor([[-1000.0, 1000.0, 0.0]])
    for labels in (torch.tensor([0]), torch.tensor([1])):
        got, loss = gradient(logits, labels, Beta(alpha=0.5, eta=0.5), normalization=None, max_margin=None)
        assert got.isfinite().all()
        assert loss.isfinite()
        assert got.abs().max() > 1e30
    with pytest.raises(ValueError, match="infinite integral"):
        emphasis_loss(logits, torch.tensor([0]), Beta(alpha=0.0, eta=1.0))


def test_max_margin_stops_the_push_and_the_value():
    logits = torch.tensor([[16.0, 0.0], [17.0, 0.0], [60.0, 0.0]])
    labels = torch.zeros(3, dtype=torch.long)
    got, _ = gradient(logits, labels, DM(lam=0.5, beta=12), normalization=None)
    np.testing.assert_allclose(got.abs().sum(1) * 3, [1, 0, 0], atol=1e-3)
    values = emphasis_loss(logits, labels, DM(lam=0.5, beta=12), normalization=None, reduction="none")
    assert values[0] > 0
    assert values[1:].tolist() == [0.0, 0.0]
    bare, _ = gradient(logits, labels, DM(lam=0.5, beta=12), normalization=None, max_margin=None)
    np.testing.assert_allclose(bare.abs().sum(1) * 3, [1, 1, 1], atol=1e-3)
    only, _ = gradient(logits, labels, DM(lam=0.5, beta=12), normalization="batch")
    np.testing.assert_allclose(only.abs().sum(1), [1, 0, 0], atol=1e-6)


def test_the_published_float32_form_fails_where_this_one_holds():
    """At lambda .5, beta 12 the published form's L1 norm is off by over 10 % from margin 17 on; it should be 1."""
    margins = torch.tensor([17.0, 20.0, 25.0, 40.0])
    logits = torch.stack((margins, torch.zeros(4), torch.zeros(4)), 1) + torch.tensor([math.log(2.0), 0, 0])
    labels = torch.zeros(4, dtype=torch.long)
    p = logits.softmax(1)
    weight = (12 * p[:, 0].sqrt() * (1 - p[:, 0])).exp()
    published = (weight / (2 * (1 - p[:, 0]) + 1e-8))[:, None] * (p - F.one_hot(labels, 3))
    ours, _ = gradient(logits, labels, DM(lam=0.5, beta=12), normalization=None, max_margin=None, reduction="sum")
    np.testing.assert_allclose(ours.abs().sum(1), 1.0, rtol=1e-5)
    assert ((published.abs().sum(1) - 1).abs() > 0.1).all()


# --- users' functions ---------------------------------------------------------------------------


def test_any_torch_or_plain_function_is_a_weighting():
    logits = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 3
    labels = torch.arange(12) % 4
    pairs = [
        (lambda p: 2 * p * (1 - p), MAE()),
        (lambda p, q: 4 * p * torch.square(q), MSE()),
        (lambda p: 2 * torch.exp(0.3 * torch.log(p)) * (1 - p), GCE(0.3)),
        (lambda p: 1.0, Uniform()),
        (from_loss(lambda p: -torch.log(p)), CCE()),
        (from_loss(lambda p, q: torch.abs(q), lambda p: -torch.ones_like(p)), MAE()),
    ]
    for function, weighting in pairs:
        for normalization in NORMALIZATIONS:
            got, loss = gradient(logits, labels, function, normalization=normalization)
            expected, expected_loss = gradient(logits, labels, weighting, normalization=normalization)
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-13)
            torch.testing.assert_close(loss, expected_loss, rtol=1e-9, atol=1e-11)


def test_rounding_below_zero_is_zero():
    """sin(pi p) is -9e-8 at p = 1 in float32, which is no negative weight."""
    logits = torch.tensor([[0.0, 0.0], [60.0, 0.0], [-60.0, 0.0]])
    got, loss = gradient(logits, torch.zeros(3, dtype=torch.long), lambda p: torch.sin(torch.pi * p))
    assert loss.isfinite()
    assert got.isfinite().all()
    assert got[1].abs().max() == 0.0


def test_a_torch_function_has_its_numpy_side_and_is_made_once():
    weighting = from_function(torch.sqrt)
    assert weighting.mode == 1.0
    assert weighting.integral == pytest.approx(2 / 3)
    assert from_function(torch.sqrt) is weighting
    powers = [from_function(lambda p, k=k, scale=scale: p**k + scale) for scale in (0.1, 0.2, 0.1) for k in (1, 2)]
    assert powers[0] is powers[4]
    assert len({id(each) for each in powers}) == 4
    np.testing.assert_allclose([float(each(0.5)) for each in powers[:4]], [0.6, 0.35, 0.7, 0.45])
    with pytest.raises(ValueError, match=">= 0"):
        emphasis_loss(torch.randn(2, 3), torch.tensor([0, 1]), lambda p: torch.cos(4 * p))
