"""Methods whose loss is a function of logits and label: their limits, their published forms, their derivatives."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from emphasis.baselines import Problem, find, make, names, view
from emphasis.torch import emphasis_loss
from emphasis.weighting import CCE, GCE, SCE, Focal

CLASSES = 5
VIEWS = [name for name in names() if find(name).has_view()]


def problem(labels=None, classes=CLASSES, **more):
    return Problem(torch.zeros(1, dtype=torch.int64) if labels is None else labels, classes, **more)


def batch(seed=0, n=12, classes=CLASSES, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (n,), generator=generator)


def losses(name, logits, labels, **options):
    return make(name, problem(classes=logits.shape[1]), **options).to(logits.dtype).example_losses(logits, labels)


def gradient(name, logits, labels, **options):
    z = logits.clone().requires_grad_()
    losses(name, z, labels, **options).sum().backward()
    return z.grad


SEEDS = st.integers(0, 10**6)
LIMITS = [
    ("label-smoothing", {"epsilon": 0.0}),
    ("bootstrapping", {"beta": 1.0}),
    ("bootstrapping", {"beta": 1.0, "hard": True}),
    ("loss-correction", {"matrix": torch.eye(CLASSES).tolist()}),
    ("loss-correction", {"matrix": torch.eye(CLASSES).tolist(), "backward": True}),
    ("focal", {"gamma": 0.0}),
    ("symmetric-cross-entropy", {"mu": 1.0, "nu": 0.0}),
    ("forgetting", {"dropout": 0.0}),
    ("epsilon-softmax", {"m": 0.0, "alpha": 1.0, "beta": 0.0}),
    ("logit-clipping", {"bound": math.inf}),
]


@pytest.mark.parametrize(("name", "options"), LIMITS, ids=str)
@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_in_its_limit_each_is_cross_entropy(name, options, seed):
    logits, labels = batch(seed)
    torch.testing.assert_close(
        losses(name, logits, labels, **options), F.cross_entropy(logits, labels, reduction="none"), rtol=1e-9, atol=1e-9
    )


@given(seed=SEEDS, epsilon=st.floats(0.0, 0.9))
@settings(max_examples=30, deadline=None)
def test_label_smoothing_pulls_towards_the_smoothed_target(seed, epsilon):
    logits, labels = batch(seed)
    target = (1 - epsilon) * F.one_hot(labels, CLASSES) + epsilon / CLASSES
    expected = F.softmax(logits, 1) - target
    torch.testing.assert_close(gradient("label-smoothing", logits, labels, epsilon=epsilon), expected)


@given(seed=SEEDS, beta=st.floats(0.05, 1.0))
@settings(max_examples=30, deadline=None)
def test_soft_bootstrapping_is_cross_entropy_and_the_predictions_entropy(seed, beta):
    logits, labels = batch(seed)
    p = F.softmax(logits, 1)
    entropy = -(p * p.log()).sum(1)
    expected = beta * F.cross_entropy(logits, labels, reduction="none") + (1 - beta) * entropy
    torch.testing.assert_close(losses("bootstrapping", logits, labels, beta=beta), expected)


@given(seed=SEEDS, beta=st.floats(0.05, 1.0))
@settings(max_examples=30, deadline=None)
def test_hard_bootstrapping_pulls_towards_label_and_own_prediction(seed, beta):
    logits, labels = batch(seed)
    said = F.one_hot(logits.argmax(1), CLASSES)
    expected = F.softmax(logits, 1) - beta * F.one_hot(labels, CLASSES) - (1 - beta) * said
    torch.testing.assert_close(gradient("bootstrapping", logits, labels, beta=beta, hard=True), expected)


def random_transition(seed, classes=CLASSES):
    generator = torch.Generator().manual_seed(seed)
    rows = 0.1 * torch.rand(classes, classes, generator=generator, dtype=torch.float64) + torch.eye(classes)
    return rows / rows.sum(1, keepdim=True)


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_backward_corrected_loss_is_in_the_mean_over_the_noise_the_loss_of_the_true_label(seed):
    logits, labels = batch(seed)
    transition = random_transition(seed)
    corrected = torch.stack(
        [
            losses("loss-correction", logits, torch.full_like(labels, j), matrix=transition, backward=True)
            for j in range(CLASSES)
        ],
        1,
    )
    mean = (transition[labels] * corrected).sum(1)  # labels here are the true ones
    torch.testing.assert_close(mean, F.cross_entropy(logits, labels, reduction="none"), rtol=1e-5, atol=1e-5)


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_forward_corrected_loss_is_the_cross_entropy_of_the_noisy_prediction(seed):
    logits, labels = batch(seed)
    transition = random_transition(seed)
    noisy = F.softmax(logits, 1) @ transition
    expected = -noisy.gather(1, labels[:, None]).squeeze(1).log()
    found = losses("loss-correction", logits, labels, matrix=transition)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_forward_correction_stays_finite_where_transitions_are_impossible():
    logits = torch.tensor([[200.0, -200.0, 0.0]], dtype=torch.float64)
    pair = [[0.6, 0.4, 0.0], [0.0, 0.6, 0.4], [0.4, 0.0, 0.6]]
    z = logits.requires_grad_()
    loss = losses("loss-correction", z, torch.tensor([2]), matrix=pair)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize(
    ("matrix", "more", "message"),
    [
        ([[1.0, 0.0]], {}, "shape"),
        ("x", {}, "matrix='x' is not allowed; use 2 rows of 2 numbers"),
        ([[1.0, 0.0], [1.0]], {}, "use 2 rows of 2 numbers"),
        ([[0.5, 0.6], [0.5, 0.5]], {}, "each must be 1"),
        ([[1.5, -0.5], [0.0, 1.0]], {}, "outside"),
        ([[0.5, 0.5], [0.5, 0.5]], {"backward": True}, "singular"),
    ],
)
def test_what_is_no_transition_matrix_is_refused(matrix, more, message):
    with pytest.raises(ValueError, match=message):
        make("loss-correction", problem(classes=2), matrix=matrix, **more)


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_nce_and_rce_are_the_published_ones(seed):
    logits, labels = batch(seed)
    log_p = F.log_softmax(logits, 1)
    own = log_p.gather(1, labels[:, None]).squeeze(1)
    nce = own / log_p.sum(1)
    rce = 4.0 * (1.0 - own.exp())  # -sum_j p_j log(onehot_j) with log 0 = -4
    torch.testing.assert_close(losses("active-passive", logits, labels), nce + rce)
    found = losses("active-passive", logits, labels, alpha=2.0, beta=0.0)
    torch.testing.assert_close(found, 2.0 * nce)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("passive", ["RCE", "MAE"])
def test_normalised_passive_losses_are_shares_of_the_sum_over_all_labels(classes, passive):
    logits, labels = batch(3, classes=classes)
    options = {"alpha": 0.0, "beta": 1.0}
    each = torch.stack(
        [
            losses("active-passive", logits, torch.full_like(labels, j), passive=passive, **options)
            for j in range(classes)
        ],
        1,
    )
    share = each.gather(1, labels[:, None]).squeeze(1) / each.sum(1)
    normalized = losses("active-passive", logits, labels, passive=f"N{passive}", **options)
    torch.testing.assert_close(normalized, share)
    rce = losses("active-passive", logits, labels, passive="RCE", **options)
    torch.testing.assert_close(
        losses("active-passive", logits, labels, passive="NRCE", **options), rce / (4 * (classes - 1))
    )


@given(seed=SEEDS, gamma=st.floats(0.0, 3.0))
@settings(max_examples=20, deadline=None)
def test_nfl_is_the_share_of_the_focal_loss(seed, gamma):
    logits, labels = batch(seed)
    each = torch.stack([losses("focal", logits, torch.full_like(labels, j), gamma=gamma) for j in range(CLASSES)], 1)
    share = each.gather(1, labels[:, None]).squeeze(1) / each.sum(1)
    found = losses("active-passive", logits, labels, active="NFL", beta=0.0, gamma=gamma)
    torch.testing.assert_close(found, share, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("A", "value"), [("paper", 4.0), ("release", 4.0 * math.log(10.0)), (-2.5, 2.5)])
def test_what_log_0_is_read_as_has_the_papers_and_the_releases_names(A, value):
    """The release's is what a label clamped at 1e-4 gives: -sum_j p_j log max(onehot_j, 1e-4)."""
    logits, labels = batch(2)
    p, own = F.softmax(logits, 1), F.one_hot(labels, CLASSES).double()
    reverse = -(p * torch.where(own == 1.0, 0.0, -value)).sum(1)
    found = losses("symmetric-cross-entropy", logits, labels, mu=0.0, nu=1.0, A=A)
    torch.testing.assert_close(found, reverse)
    torch.testing.assert_close(losses("active-passive", logits, labels, alpha=0.0, A=A), reverse)
    if A == "release":
        clamped = -(p * own.clamp(1e-4, 1.0).log()).sum(1)
        torch.testing.assert_close(found, clamped)


@pytest.mark.parametrize("name", ["symmetric-cross-entropy", "active-passive"])
@pytest.mark.parametrize("A", ["code", 4.0, float("nan"), True])
def test_what_log_0_cannot_be_read_as_is_refused(name, A):
    with pytest.raises(ValueError, match=r'A=.* use "paper", "release" or a number <= 0'):
        make(name, problem(), A=A)


def test_focal_loss_with_a_constant_weight_is_mentornets():
    logits, labels = batch(5)
    p = F.softmax(logits, 1).gather(1, labels[:, None])
    expected = (1.0 - p) ** 2 * (F.softmax(logits, 1) - F.one_hot(labels, CLASSES))
    torch.testing.assert_close(gradient("focal", logits, labels, stop_gradient=True), expected)


@pytest.mark.parametrize(
    ("options", "passive"),
    [
        ({"passive": "AGCE"}, lambda p: (4.0**1.5 - (3.0 + p) ** 1.5) / 1.5),
        ({"passive": "AGCE", "a": 0.6, "q": 0.6}, lambda p: (1.6**0.6 - (0.6 + p) ** 0.6) / 0.6),
        ({"passive": "AUL"}, lambda p: ((6.0 - p) ** 1.5 - 5.0**1.5) / 1.5),
        ({"passive": "AEL", "beta": 4.0}, lambda p: (-p / 2.5).exp()),
    ],
    ids=["AGCE", "AGCE of other parameters", "AUL", "AEL"],
)
def test_nce_with_an_asymmetric_loss_is_their_sum(options, passive):
    logits, labels = batch(4)
    z = logits.clone().requires_grad_()
    log_p = F.log_softmax(z, 1)
    own = log_p.gather(1, labels[:, None]).squeeze(1)
    expected = own / log_p.sum(1) + options.get("beta", 1.0) * passive(own.exp())
    torch.testing.assert_close(losses("active-passive", logits, labels, **options), expected.detach())
    (slope,) = torch.autograd.grad(expected.sum(), z)
    torch.testing.assert_close(gradient("active-passive", logits, labels, **options), slope)


@pytest.mark.parametrize("options", [{"a": 1.0}, {"passive": "AEL", "q": 2.0}, {"passive": "AUL", "a": 0.5}])
def test_what_a_passive_loss_does_not_have_is_refused(options):
    with pytest.raises(ValueError, match=r"no such parameter|a=0.5 is not allowed"):
        make("active-passive", problem(), **options)


@pytest.mark.parametrize("m", [0.0, 1.0, 1e5])
def test_epsilon_softmax_is_cross_entropy_of_raised_predictions_and_mae(m):
    logits, labels = batch(7)
    z = logits.clone().requires_grad_()
    p = F.softmax(z, 1)
    raised = (p + m * F.one_hot(logits.argmax(1), CLASSES)) / (m + 1.0)
    own = [t.gather(1, labels[:, None]).squeeze(1) for t in (raised, p)]
    expected = 0.3 * -own[0].log() + 2.0 * 2.0 * (1.0 - own[1])
    options = {"m": m, "alpha": 0.3, "beta": 2.0}
    torch.testing.assert_close(losses("epsilon-softmax", logits, labels, **options), expected.detach())
    (slope,) = torch.autograd.grad(expected.sum(), z)
    torch.testing.assert_close(gradient("epsilon-softmax", logits, labels, **options), slope)


@given(seed=SEEDS, bound=st.floats(0.5, 20.0))
@settings(deadline=None)
def test_logit_clipping_bounds_the_loss_and_turns_what_lies_beyond(seed, bound):
    logits, labels = batch(seed, scale=6.0)
    found = losses("logit-clipping", logits, labels, bound=bound)
    norm = logits.norm(dim=1, keepdim=True)
    expected = F.cross_entropy(logits * (bound / norm).clamp(max=1.0), labels, reduction="none")
    torch.testing.assert_close(found, expected)
    gap = bound * math.sqrt(CLASSES / (CLASSES - 1))
    assert found.max() <= math.log1p((CLASSES - 1) * math.exp(math.sqrt(2.0) * bound)) + 1e-9
    assert found.min() >= math.log1p((CLASSES - 1) * math.exp(-gap)) - 1e-9
    slope = gradient("logit-clipping", logits, labels, bound=bound)
    beyond = norm.squeeze(1) > bound
    torch.testing.assert_close(
        (slope * logits).sum(1)[beyond], torch.zeros(int(beyond.sum())).double(), atol=1e-9, rtol=0
    )


def test_nfl_with_gamma_0_is_nce():
    logits, labels = batch(1)
    found = losses("active-passive", logits, labels, active="NFL", beta=0.0, gamma=0.0)
    torch.testing.assert_close(found, losses("active-passive", logits, labels, active="NCE", beta=0.0))


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("margin", [-110.0, -50.0, 0.0, 50.0, 110.0])
def test_no_loss_and_no_derivative_is_ever_nan(name, margin):
    logits = torch.zeros(1, CLASSES)
    logits[0, 0] = margin
    labels = torch.tensor([0])
    assert torch.isfinite(losses(name, logits, labels)).all()
    assert torch.isfinite(gradient(name, logits, labels)).all()


def test_gce_keeps_its_derivative_below_1e_7_and_at_a_margin_of_minus_110():
    for margin in (-18.0, -40.0, -110.0):
        z = torch.tensor([[margin, 0.0]], requires_grad=True, dtype=torch.float64)
        emphasis_loss(z, torch.tensor([0]), GCE(0.7), normalization=None).backward()
        p = 1.0 / (1.0 + math.exp(-margin))
        assert -float(z.grad[0, 0]) == pytest.approx(p**0.7 * (1.0 - p), rel=1e-9)
        assert float(z.grad[0, 0]) < 0.0


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize(
    ("name", "options", "weighting"),
    [
        ("symmetric-cross-entropy", {}, SCE(mu=0.1, nu=1.0, A=-4.0)),
        ("focal", {}, Focal(gamma=2.0)),
        ("label-smoothing", {"epsilon": 0.0}, CCE()),
        ("active-passive", {"alpha": 0.0, "beta": 1.0}, SCE(mu=0.0, nu=1.0, A=-4.0)),
    ],
)
def test_views_are_the_weightings_where_there_is_one(num_classes, name, options, weighting):
    p = np.linspace(0.0, 1.0, 101)
    np.testing.assert_allclose(view(name, num_classes, **options)(p), weighting(p), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("epsilon", "classes"), [(0.1, 10), (0.4, 2), (0.3, 100)])
def test_view_of_label_smoothing_is_the_distance_to_its_target(epsilon, classes):
    drawn = view("label-smoothing", classes, epsilon=epsilon)
    target = 1 - epsilon + epsilon / classes
    p = np.linspace(0.0, 1.0, 21)
    np.testing.assert_allclose(drawn(p), 2 * np.abs(target - p), atol=1e-9)
    assert drawn.pushes_back == pytest.approx(target, abs=1e-3)


@pytest.mark.parametrize("name", ["focal", "logit-clipping"])
def test_views_of_methods_that_only_push_up_say_so(name):
    assert math.isnan(view(name).pushes_back)


def test_loss_correction_is_drawn_with_a_matrix_that_is_said():
    p = np.linspace(0.01, 0.99, 99)
    forward = view("loss-correction")
    assert "T of 40 % symmetric noise" in repr(forward)
    # -log(.6 p + .4 (1 - p) / 9): its derivative by the label's logit times 2.
    slope = (0.6 - 0.4 / 9) / (0.6 * p + 0.4 / 9 * (1 - p))
    np.testing.assert_allclose(forward(p), 2 * p * (1 - p) * slope, rtol=1e-6)
    identity = view("loss-correction", matrix=np.eye(10).tolist())
    np.testing.assert_allclose(identity(p), 2 * (1 - p), rtol=1e-6)
    assert "40 %" not in repr(identity)


def test_methods_whose_loss_needs_more_than_p_have_no_view():
    with pytest.raises(ValueError, match=r"elr has no derivative view.*label-smoothing"):
        view("elr")


@pytest.mark.parametrize("name", VIEWS)
def test_float32_agrees_with_float64(name):
    logits, labels = batch(7)
    torch.testing.assert_close(
        losses(name, logits.float(), labels).double(), losses(name, logits, labels), rtol=1e-4, atol=1e-5
    )
