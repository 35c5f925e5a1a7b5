"""Methods that remember: their mathematics, piece by piece, and their limits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from clouds import CLASSES, N, first_loss, learner, network, problem
from emphasis.baselines import Learner, Step, make, names
from emphasis.baselines._transition import at_anchor_points, from_confusion
from emphasis.baselines.aum import margins
from emphasis.baselines.joint_optimization import against_one_class, mean_entropy
from emphasis.baselines.learner import DivergedError
from emphasis.baselines.mentornet_pd import curriculum
from emphasis.baselines.self_label_correction import corrected_targets
from emphasis.torch import emphasis_loss
from emphasis.weighting import DM


def cross_entropy(one, inputs):
    with torch.no_grad():
        return F.cross_entropy(one(inputs), one.method.labels)


LIMITS = [
    ("elr", {"lam": 0.0}),
    ("self-paced", {"start": 1.0}),
    ("forgetting", {"dropout": 0.0}),
    ("label-smoothing", {"epsilon": 0.0}),
    ("loss-correction", {"matrix": np.eye(CLASSES).tolist()}),
    ("d2l", {"neighbours": 5}),
    ("noise-adaptation", {}),
    ("mixup-bootstrapping", {"alpha": 0.0}),
]


@pytest.mark.parametrize(("name", "options"), LIMITS, ids=str)
def test_in_its_limit_or_at_first_each_is_cross_entropy(name, options):
    given_, inputs, _ = problem(noise=0.3)
    one = learner(name, given_, **options)
    torch.testing.assert_close(first_loss(one, inputs).detach(), cross_entropy(one, inputs))


def test_co_teaching_that_forgets_nothing_is_cross_entropy_twice():
    given_, inputs, _ = problem(noise=0.3)
    one = learner("co-teaching", given_, forget_rate=0.0)
    with torch.no_grad():
        both = sum(F.cross_entropy(net(inputs), given_.labels) for net in (one.network, one.peer))
    torch.testing.assert_close(first_loss(one, inputs, 0.9).detach(), both)
    with pytest.raises(ValueError, match=r"trains 2 network\(s\)"):
        Learner(make("co-teaching", given_, forget_rate=0.0), network())


def test_co_teaching_learns_from_the_share_that_the_other_finds_easiest():
    given_, inputs, _ = problem(noise=0.3)
    one = learner("co-teaching", given_, forget_rate=0.4)
    assert [one.method.kept_share(x) for x in (0.0, 0.05, 1.0)] == pytest.approx([1.0, 0.6, 0.6])
    with torch.no_grad():
        mine, other = (F.cross_entropy(net(inputs), given_.labels, reduction="none") for net in (one.network, one.peer))
    kept = round(0.6 * N)
    expected = mine[other.argsort()[:kept]].mean() + other[mine.argsort()[:kept]].mean()
    torch.testing.assert_close(first_loss(one, inputs, 0.9).detach(), expected)


# --- self label correction


@given(progress=st.floats(0.0, 1.0), sharpness=st.floats(0.0, 40.0), trust=st.floats(0.0, 1.0), seed=st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_corrected_targets_are_probabilities_between_label_and_prediction(progress, sharpness, trust, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(N, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (N,), generator=generator)
    t = corrected_targets(logits, labels, progress, sharpness=sharpness, trust=trust)
    p, y = F.softmax(logits, 1), F.one_hot(labels, CLASSES).double()
    torch.testing.assert_close(t.sum(1), torch.ones(N, dtype=torch.float64))
    sure = 1 + (p * p.log()).sum(1, keepdim=True) / np.log(CLASSES)
    epsilon = trust * sure / (1 + np.exp(-sharpness * (progress - 0.5)))
    torch.testing.assert_close(t, (1 - epsilon) * y + epsilon * p)
    assert torch.equal(corrected_targets(logits, labels, progress, trust=0.0), y)
    unsure = torch.zeros_like(logits)  # knows nothing, and is not trusted
    torch.testing.assert_close(corrected_targets(unsure, labels, progress), y)


def test_self_label_correction_without_trust_is_dm():
    given_, inputs, _ = problem(noise=0.3)
    one = learner("self-label-correction", given_, lam=0.7, beta=5.0, trust=0.0)
    with torch.no_grad():
        expected = emphasis_loss(one(inputs), given_.labels, DM(lam=0.7, beta=5, vanishing=True))
    torch.testing.assert_close(first_loss(one, inputs, 0.9).detach(), expected)


def test_self_label_correction_adds_up_the_derivatives_of_the_labels():
    given_, inputs, _ = problem(noise=0.3)
    one = learner("self-label-correction", given_, lam=0.7, beta=5.0)
    z = one(inputs).detach().double().requires_grad_()
    step = Step(inputs, given_.labels, torch.arange(N), 0.7, lambda _: z)
    (found,) = torch.autograd.grad(one.method.loss(step), z)
    targets = corrected_targets(z, given_.labels, 0.7)
    expected = torch.zeros_like(z)
    for k in range(CLASSES):
        w = DM(lam=0.7, beta=5, vanishing=True)
        d = torch.from_numpy(w.derivative(z.detach().numpy(), np.full(N, k)))
        expected += targets[:, k : k + 1] * d / w.integral / N
    torch.testing.assert_close(found, expected)


def test_correcting_by_ones_own_prediction_only_scales_cross_entropy():
    """(p - t) = (1 - epsilon)(p - onehot): the direction changes with DM alone, whose labels have magnitudes apart."""
    given_, inputs, _ = problem(noise=0.3)
    z = learner("elr", given_)(inputs).detach().double()
    p, y = F.softmax(z, 1), F.one_hot(given_.labels, CLASSES).double()
    t = corrected_targets(z, given_.labels, 0.8)
    torch.testing.assert_close(F.normalize(p - t), F.normalize(p - y))


# --- ELR


@given(beta=st.floats(0.0, 0.99), steps=st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_elr_targets_are_the_moving_average_of_the_predictions(beta, steps):
    given_, inputs, _ = problem()
    one = learner("elr", given_, beta=beta)
    with torch.no_grad():
        p = F.softmax(one(inputs), 1)
        for _ in range(steps):
            first_loss(one, inputs)
    torch.testing.assert_close(one.method.targets, (1 - beta**steps) * p, rtol=1e-3, atol=1e-4)


def test_elr_derivative_pulls_towards_the_targets():
    """The regulariser's derivative is p_j (sum_k p_k t_k - t_j) / (1 - <p, t>), Lemma 2 of the paper."""
    given_, inputs, _ = problem()
    one = learner("elr", given_, lam=1.0, beta=0.5)
    first_loss(one, inputs)
    targets = one.method.targets.clone()
    z = one(inputs).detach().requires_grad_()
    p = F.softmax(z, 1).detach()
    t = 0.5 * targets + 0.5 * p
    inner = (p * t).sum(1, keepdim=True)
    expected = p - F.one_hot(given_.labels, CLASSES) + p * (inner - t) / (1 - inner)
    step = Step(inputs, given_.labels, torch.arange(N), 0.0, lambda _: z)
    one.method.loss(step).backward()
    torch.testing.assert_close(z.grad * N, expected, rtol=1e-3, atol=1e-4)


# --- self-paced, MentorNet


@given(st.floats(0.1, 5.0), st.floats(0.0, 5.0))
@settings(max_examples=50, deadline=None)
def test_mentornet_weights_minimise_their_objective(lambda1, lambda2):
    losses = torch.linspace(0.0, 10.0, 23, dtype=torch.float64)
    found = curriculum(losses, lambda1, lambda2)
    grid = torch.linspace(0.0, 1.0, 2001, dtype=torch.float64)
    objective = grid * losses[:, None] + 0.5 * lambda2 * grid**2 - (lambda1 + lambda2) * grid
    value = found * losses + 0.5 * lambda2 * found**2 - (lambda1 + lambda2) * found
    assert (value <= objective.min(1).values + 1e-9).all()


def test_the_weights_of_mentornet_pd_over_training_are_the_releases():
    """vstar_mentornet_pd: all to epoch 18, hard to 89, then 1 - (loss - threshold) / 1; dropout of a half to 16."""
    method = make("mentornet-pd", problem()[0], burn_in=0.19, hard_until=0.9, strong_dropout=0.17)
    method.threshold.fill_(1.0)
    losses = torch.tensor([0.2, 1.0, 1.25, 1.9, 2.5])
    for epoch in range(100):
        expected = [1.0] * 5 if epoch <= 18 else [1.0, 1.0, 0.0, 0.0, 0.0] if epoch < 90 else [1.0, 1.0, 0.75, 0.1, 0.0]
        assert method.weights(losses, epoch / 100).tolist() == pytest.approx(expected, abs=1e-6), epoch
        assert method.dropped(epoch / 100) == (0.5 if epoch < 17 else 0.05)


def test_self_paced_learning_as_in_mentornets_release_lets_seven_in_ten_through_from_the_first_step():
    method = make("self-paced", problem()[0], start=0.7, end=0.7, burn_in=0.0)
    assert {method.share(step / 100) for step in range(100)} == {0.7}
    given_, inputs, _ = problem(noise=0.3)
    one = learner("self-paced", given_, start=0.7, end=0.7, burn_in=0.0)
    losses = F.cross_entropy(one(inputs), given_.labels, reduction="none").detach()
    expected = losses[losses <= torch.quantile(losses, 0.7)].sum() / N
    torch.testing.assert_close(first_loss(one, inputs).detach(), expected)


def test_mentornet_with_lambda2_0_is_self_paced_learning():
    losses = torch.tensor([0.5, 1.0, 1.5])
    assert curriculum(losses, 1.0, 0.0).tolist() == [1.0, 1.0, 0.0]


def test_self_paced_learning_lets_the_asked_share_through():
    given_, inputs, _ = problem(noise=0.3)
    later = learner("self-paced", given_, burn_in=0.2).method
    assert [later.share(progress) for progress in (0.0, 0.19, 0.2, 0.6, 1.0)] == [1.0, 1.0, 0.5, 0.75, 1.0]
    one = learner("self-paced", given_, start=0.5, end=1.0, burn_in=0.0)
    loss = first_loss(one, inputs)
    losses = F.cross_entropy(one(inputs), given_.labels, reduction="none")
    half = losses.sort().values[: N // 2].sum() / N
    torch.testing.assert_close(loss, half, rtol=1e-5, atol=1e-6)


# --- the transition matrix


def test_transition_matrix_is_read_off_anchor_points_and_off_the_confusion():
    transition = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.0, 0.3, 0.7]])
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(30_000) % CLASSES
    probabilities = transition[true]  # a network that knows P(label | x)
    torch.testing.assert_close(at_anchor_points(probabilities, 1.0), transition)
    labels = torch.multinomial(transition[true], 1, generator=generator).squeeze(1)
    certain = F.one_hot(true, CLASSES).float()  # a network that knows the true class
    torch.testing.assert_close(from_confusion(certain, labels), transition, rtol=0.0, atol=0.02)


@pytest.mark.filterwarnings("ignore:the network predicts class")  # it has not been trained
@pytest.mark.parametrize("restart", [True, False])
def test_corrected_training_starts_anew_or_goes_on(restart):
    given_, inputs, _ = problem(n=120, noise=0.3)
    one = learner("loss-correction", given_, warm=0.5, restart=restart)
    start = [parameter.detach().clone() for parameter in one.network.parameters()]
    optimizer = torch.optim.SGD(one.network.parameters(), 0.1)
    with torch.no_grad():
        for parameter in one.network.parameters():
            parameter += 1.0
    one.begin_epoch(5, 0.5, optimizer, lambda rows: [inputs if rows is None else inputs[rows]])
    now = [parameter.detach() for parameter in one.network.parameters()]
    moved = [float((new - old).abs().max()) for new, old in zip(now, start, strict=True)]
    assert moved == pytest.approx([0.0 if restart else 1.0] * 4, abs=1e-6)
    assert one.method.correcting
    assert one.method.schedule(0.75) == (0.5 if restart else 0.75)


def test_schedule_of_two_trainings_runs_twice():
    one = make("loss-correction", problem()[0], warm=0.5)
    joint = make("joint-optimization", problem()[0], phase=0.5)
    assert [one.schedule(x) for x in (0.0, 0.25)] == [0.0, 0.5]
    assert [joint.schedule(x) for x in (0.0, 0.49, 0.55)] == [0.0, 0.0, 0.0]
    # Until the epoch that the share ends in is over, the first training goes on as it ended.
    assert [one.schedule(x) for x in (0.5, 0.55)] == pytest.approx([1.0, 1.0])
    assert one.schedule(0.55) < 1.0
    for method in (one, joint):
        method.began.fill_(0.6)
        assert [method.schedule(x) for x in (0.6, 0.8)] == pytest.approx([0.0, 0.5])


@pytest.mark.filterwarnings("ignore:the network predicts class")  # it has not been trained
@pytest.mark.parametrize("name", ["aum", "joint-optimization", "loss-correction"])
def test_a_second_training_begins_with_an_epoch_and_from_the_first_parameters(name):
    given_, inputs, _ = problem(noise=0.3)
    one = learner(name, given_)
    first = [parameter.detach().clone() for parameter in one.network.parameters()]
    optimizer = torch.optim.SGD(one.network.parameters(), 0.1)
    with torch.no_grad():
        for parameter in one.network.parameters():
            parameter += 1.0
    for progress, begun in ((0.4, False), (0.7, True)):
        one.begin_epoch(5, progress, optimizer, lambda rows: [inputs if rows is None else inputs[rows]])
        assert one.method.second == begun
        assert all(torch.equal(a, b) for a, b in zip(one.network.parameters(), first, strict=True)) == begun
        assert float(one.restarted_at) == (0.7 if begun else 0.0)


def test_a_matrix_that_never_gives_a_label_that_occurs_is_refused():
    given_, _, _ = problem()
    with pytest.raises(ValueError, match="never gives the label 1, which 20 examples have"):
        make("loss-correction", given_, matrix=[[1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0]])


def test_a_network_of_too_few_outputs_is_refused():
    given_, inputs, _ = problem()
    one = Learner(make("aum", given_), network(CLASSES))
    with pytest.raises(ValueError, match=r"needs a network of 4 outputs \(3 classes and 1 more\), got \(3,\)"):
        first_loss(one, inputs)


@pytest.mark.parametrize("name", names())
def test_logits_that_are_no_numbers_are_refused_whatever_the_method(name):
    given_, inputs, _ = problem(noise=0.3, clip=2)  # which only methods for videos look at
    one = learner(name, given_, **({"forget_rate": 0.3} if name == "co-teaching" else {}))
    next(one.network.parameters()).data.fill_(torch.nan)
    with pytest.raises(DivergedError, match="NaN or infinite"):
        first_loss(one, inputs)
    if "survey" in one.method.needs:
        optimizer = torch.optim.SGD(one.network.parameters(), 0.1)
        with pytest.raises(DivergedError):
            for number, progress in ((7, 0.9), (8, 0.99)):  # PES looks at nothing when it starts the last layer anew
                one.begin_epoch(number, progress, optimizer, lambda rows: [inputs if rows is None else inputs[rows]])


# --- joint optimization


def test_the_term_against_one_class_is_the_divergence_from_the_uniform():
    assert float(against_one_class(torch.full((4, 5), 0.2))) == pytest.approx(0.0, abs=1e-6)
    one_class = torch.tensor([[0.98, 0.01, 0.01]]).repeat(7, 1)
    expected = sum(1 / 3 * math.log(1 / 3 / q) for q in (0.98, 0.01, 0.01))
    assert float(against_one_class(one_class)) == pytest.approx(expected, rel=1e-5)


def test_mean_entropy_has_its_limits():
    assert float(mean_entropy(torch.zeros(3, 8))) == pytest.approx(math.log(8), rel=1e-6)
    assert float(mean_entropy(torch.tensor([[200.0, 0.0]]))) == pytest.approx(0.0, abs=1e-6)


def test_labels_of_examples_that_were_not_seen_stay():
    given_, _, _ = problem()
    method = make("joint-optimization", given_)
    before = method.found.clone()
    method._update()
    torch.testing.assert_close(method.found, before)


# --- AUM


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_margins_are_the_label_against_the_largest_other(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, 4, generator=generator)
    labels = torch.randint(4, (9,), generator=generator)
    expected = [float(z[y] - max(v for j, v in enumerate(z) if j != y)) for z, y in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(margins(logits, labels), expected, rtol=1e-6)


# --- the learner


def test_forgetting_drops_features_in_training_alone():
    given_, inputs, _ = problem()
    one = learner("forgetting", given_, dropout=0.5)
    assert not torch.equal(one(inputs), one(inputs))
    one.eval()
    assert torch.equal(one(inputs), one(inputs))


def test_what_a_method_needs_and_the_network_lacks_is_said():
    given_, _, _ = problem()
    for name in ("d2l", "forgetting"):
        with pytest.raises(ValueError, match=r"nn\.Linear"):
            Learner(make(name, given_, **({"neighbours": 5} if name == "d2l" else {})), nn.Conv1d(1, 1, 1))


def test_old_names_of_an_epoch_and_its_outputs_warn():
    from emphasis import baselines
    from emphasis.baselines import Epoch, Predictions, protocol

    epoch = Epoch(0, 0.0, lambda _: None, save_weights=lambda: "saved", restore_weights=lambda: "restored")
    with pytest.warns(DeprecationWarning, match=r"Epoch\.keep is deprecated; use Epoch\.save_weights"):
        assert epoch.keep() == "saved"
    with pytest.warns(DeprecationWarning, match=r"Epoch\.recall is deprecated"):
        assert epoch.recall() == "restored"
    for module in (baselines, protocol):
        with pytest.warns(DeprecationWarning, match="Survey is deprecated; use .*Predictions"):
            assert module.Survey is Predictions
    with pytest.warns(DeprecationWarning, match='"maps" among the needs of Old is deprecated'):

        class Old(baselines.Baseline):
            needs = frozenset({"maps", "copy"})

    assert Old.needs == {"feature_maps", "copy"}


def test_a_checkpoint_of_before_its_counters_were_renamed_is_read():
    given_, _, _ = problem()
    one = learner("elr", given_)
    one.examples_evaluated.fill_(7)
    one.restarted_at.fill_(0.5)
    state = one.state_dict()
    state["surveyed"], state["recalled"] = state.pop("examples_evaluated"), state.pop("restarted_at")
    other = learner("elr", given_)
    other.load_state_dict(state)
    assert (int(other.examples_evaluated), float(other.restarted_at)) == (7, 0.5)
