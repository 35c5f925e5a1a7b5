"""VolMinNet, SOP, PES and DivideMix: their mathematics, piece by piece, and their limits."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clouds import CLASSES, N, first_loss, learner, problem, train
from emphasis.baselines import Problem, Step, make
from emphasis.baselines._gaussian_mixture import fit, scaled
from emphasis.baselines.gradient_clipping import threshold_for
from emphasis.models.layers import last_linear


def cross_entropy(one, inputs):
    with torch.no_grad():
        return F.cross_entropy(one(inputs), one.method.labels)


def epoch_of(one, inputs, progress, number=5):
    optimizer = torch.optim.SGD(one.network.parameters(), 0.1)
    one.begin_epoch(number, progress, optimizer, lambda rows: [inputs if rows is None else inputs[rows]])


@pytest.mark.parametrize("name", ["pes", "sop"])
def test_at_first_they_are_cross_entropy(name):
    given, inputs, _ = problem(noise=0.3)
    one = learner(name, given)
    torch.testing.assert_close(first_loss(one, inputs).detach(), cross_entropy(one, inputs), rtol=1e-5, atol=1e-6)


def test_divide_mix_is_cross_entropy_twice_at_first():
    given, inputs, _ = problem(noise=0.3)
    one = learner("divide-mix", given)
    with torch.no_grad():
        both = sum(F.cross_entropy(network(inputs), given.labels) for network in (one.network, one.peer))
    torch.testing.assert_close(first_loss(one, inputs).detach(), both)


# --- VolMinNet


def test_the_matrix_of_vol_min_net_keeps_half_of_the_labels_and_shrinks():
    for classes in (2, 3, 10, 100):
        given, *_ = problem()
        method = make("vol-min-net", type(given)(given.labels % classes, classes))
        transition = method.transition.detach()
        torch.testing.assert_close(transition.sum(1), torch.ones(classes))
        assert 0.45 < float(transition.diagonal().min()) < 0.7
        (method.lam * torch.linalg.slogdet(method.transition).logabsdet).backward()
        assert (method.w.grad * (1 - method.eye)).max() <= 0.0  # a smaller volume is noise of more classes
    given, *_ = problem()
    nearly_clean = make("vol-min-net", given, lam=0.0, init=40.0)
    logits = torch.randn(N, CLASSES)
    step = Step(logits, given.labels, torch.arange(N), 0.0, lambda _: logits)
    torch.testing.assert_close(nearly_clean.loss(step).detach(), F.cross_entropy(logits, given.labels))


@pytest.mark.parametrize("init", [-10, 80])
@pytest.mark.parametrize("classes", [2, 10, 150])
def test_vol_min_net_is_finite_where_it_may_begin(init, classes):
    labels = torch.arange(300) % classes
    method = make("vol-min-net", Problem(labels, classes), init=init)
    logits = torch.randn(300, classes, requires_grad=True)
    loss = method.loss(Step(logits, labels, torch.arange(300), 0.0, lambda _: logits))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(method.w.grad).all()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_vol_min_net_comes_to_know_the_noise(seed):
    given, inputs, truth = problem(seed, n=300, noise=0.3)
    counted = torch.stack([F.one_hot(given.labels[truth == k], CLASSES).float().mean(0) for k in range(CLASSES)])
    one = learner("vol-min-net", given, seed, lam=0.01)
    before = float((one.method.transition.detach() - counted).abs().sum())
    train(one, inputs, rate=0.05, seed=seed)
    assert float((one.method.transition.detach() - counted).abs().sum()) < before / 2


# --- SOP


@pytest.mark.parametrize(("scale", "size"), [(1.0, 0.5), (300.0, 0.02)], ids=["smooth", "clamped"])
def test_the_steps_of_sop_are_gradient_descent_on_the_releases_two_losses(scale, size):
    given, inputs, _ = problem(noise=0.3)
    one = learner("sop", given, lr_u=0.3, lr_v=0.2)
    method = one.method
    generator = torch.Generator().manual_seed(0)
    method.u.copy_(size * torch.rand(N, generator=generator))
    method.v.copy_(size * torch.rand(N, CLASSES, generator=generator))
    with torch.no_grad():
        last_linear(one.network).weight.mul_(scale)
    u, v = method.u.clone().requires_grad_(), method.v.clone().requires_grad_()
    label = F.one_hot(given.labels, CLASSES).float()
    p = one(inputs).softmax(1)
    first = (p + u[:, None] ** 2 * label - (v**2 * (1 - label)).detach()).clamp_min(1e-4)
    if scale > 1.0:
        assert (first == 1e-4).any(1).sum() > 10
    fit = -(label * (first / first.sum(1, keepdim=True)).clamp_min(1e-4).log()).sum(1).mean()
    said = F.one_hot(p.argmax(1), CLASSES)
    apart = ((said + (u[:, None] ** 2 * label).detach() - v**2 * (1 - label) - label) ** 2).sum() / N
    slopes = torch.autograd.grad(fit, u, retain_graph=True)[0], torch.autograd.grad(apart, v)[0]
    expected = torch.autograd.grad(fit, list(one.network.parameters()))
    found = one.loss(inputs, torch.arange(N), 0.5)
    torch.testing.assert_close(found.detach(), fit.detach())
    torch.testing.assert_close(torch.autograd.grad(found, list(one.network.parameters())), expected)
    torch.testing.assert_close(method.u, u.detach() - 0.3 * slopes[0])
    torch.testing.assert_close(method.v, v.detach() - 0.2 * slopes[1])


def test_sop_corrects_wrong_labels_more():
    found = []
    for seed in (0, 1):
        given, inputs, truth = problem(seed, n=300, noise=0.3)
        one = train(learner("sop", given, seed, lr_u=30.0), inputs, rate=0.02, epochs=25, seed=seed)
        wrong = given.labels != truth
        found.append((float(one.method.u[wrong].square().mean()), float(one.method.u[~wrong].square().mean())))
    print(found)
    assert all(wrong > 5 * right for wrong, right in found)


# --- PES


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1), torch.optim.Adam])
def test_pes_leaves_the_other_layers_as_they_are_while_it_trains_the_last_one(optimizer):
    given, inputs, _ = problem(n=120, noise=0.3)
    one = learner("pes", given, warm=0.2, refine=0.3)
    update = optimizer(one.network.parameters(), lr=0.1)

    def step(progress):
        update.zero_grad(set_to_none=True)
        one.loss(inputs, torch.arange(120), progress).backward()
        one.discard_fixed_gradients(progress)
        update.step()

    for progress in (0.0, 0.1):
        step(progress)
    *others, weight, bias = (parameter.detach().clone() for parameter in one.network.parameters())
    one.begin_epoch(1, 0.2, update, lambda _: [inputs])
    assert not any(parameter in update.state for parameter in list(one.network.parameters())[-2:])
    for progress in (0.2, 0.3, 0.4):
        step(progress)
    *fixed, new_weight, new_bias = one.network.parameters()
    assert all(torch.equal(before, after) for before, after in zip(others, fixed, strict=True))
    assert not torch.equal(weight, new_weight)
    assert not torch.equal(bias, new_bias)
    one.begin_epoch(2, 0.5, update, lambda _: [inputs])
    step(0.5)
    assert not any(torch.equal(before, after) for before, after in zip(others, one.network.parameters()))  # noqa: B905


def test_pes_starts_the_last_layer_anew_trains_it_alone_and_then_chooses():
    given, inputs, _ = problem(n=120, noise=0.3)
    one = learner("pes", given, warm=0.2, refine=0.1)
    before = [parameter.detach().clone() for parameter in one.network.parameters()]
    epoch_of(one, inputs, 0.2)
    changed = [not torch.equal(a, b) for a, b in zip(before, one.network.parameters(), strict=True)]
    assert changed == [False, False, True, True]
    one.loss(inputs, torch.arange(120), 0.25).backward()
    assert [float(p.grad.abs().max()) > 0.0 for p in one.network.parameters()] == [False, False, True, True]
    epoch_of(one, inputs, 0.31)
    predicted = one(inputs).argmax(1)
    assert torch.equal(one.method.confident, predicted == given.labels)
    counts = torch.bincount(given.labels[one.method.confident], minlength=CLASSES).float()
    present = counts > 0
    weight = counts[present].mean() / counts[present]
    torch.testing.assert_close(one.method.class_weight[present], weight)
    assert (one.method.class_weight[~present] == 0.0).all()
    losses = F.cross_entropy(one(inputs), given.labels, reduction="none").detach()
    each = one.method.confident * one.method.class_weight[given.labels]
    found = one.loss(inputs, torch.arange(120), 0.5).detach()
    torch.testing.assert_close(found, (losses * each).sum() / each.sum())


# --- DivideMix


def test_a_mixture_of_two_normal_distributions_is_told_apart():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(np.concatenate([rng.normal(0.2, 0.05, 700), rng.normal(0.7, 0.1, 300)])).clamp(0, 1)
    mixture = fit(values, 5e-4)
    np.testing.assert_allclose(mixture.mean, [0.2, 0.7], atol=0.02)
    np.testing.assert_allclose(mixture.share, [0.7, 0.3], atol=0.02)
    found = mixture.posterior(values)
    assert found[:700].mean() > 0.99
    assert found[700:].mean() < 0.02
    for same in (torch.full((20,), 0.3), torch.zeros(3)):
        assert torch.isfinite(fit(same, 5e-4).posterior(same)).all()
    assert scaled(torch.tensor([1.0, math.nan, 3.0])).tolist() == [0.0, 0.0, 1.0]
    assert scaled(torch.tensor([math.nan])).tolist() == [0.0]


def test_divide_mix_by_its_formula():
    given, inputs, _ = problem(noise=0.3)
    one = learner("divide-mix", given, warm=0.1, ramp=0.4, lambda_u=3.0)
    method = one.method
    clean = torch.rand(2, N, generator=torch.Generator().manual_seed(1))
    method.clean.copy_(clean)
    method.divided.fill_(True)
    torch.manual_seed(4)
    found = one.loss(inputs, torch.arange(N), 0.3)
    torch.manual_seed(4)
    drawn = float(torch.distributions.Beta(4.0, 4.0).sample())
    share, other = max(drawn, 1 - drawn), torch.randperm(N)
    label = F.one_hot(given.labels, CLASSES).float()
    with torch.no_grad():
        p = [network(inputs).softmax(1) for network in (one.network, one.peer)]
    expected = 0.0
    for k, network in enumerate((one.network, one.peer)):
        w = clean[1 - k][:, None]
        target = torch.where(w > 0.5, w * label + (1 - w) * p[k], (p[0] + p[1]) / 2) ** 2
        target = target / target.sum(1, keepdim=True)
        target = share * target + (1 - share) * target[other]
        log_p = network(share * inputs + (1 - share) * inputs[other]).log_softmax(1)
        kept = w[:, 0] > 0.5
        fit = -(target * log_p).sum(1)[kept].mean()
        apart = (log_p.exp() - target).square().mean(1)[~kept].mean()
        even = (1 / CLASSES * (1 / CLASSES / log_p.exp().mean(0)).log()).sum()
        expected = expected + fit + 3.0 * 0.5 * apart + even
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        losses = torch.stack(
            [F.cross_entropy(network(inputs), given.labels, reduction="none") for network in (one.network, one.peer)]
        )
    torch.testing.assert_close(method.losses, losses)


@pytest.mark.parametrize("seed", [0, 1])
def test_divide_mix_tells_wrong_labels(seed):
    given, inputs, truth = problem(seed, n=300, noise=0.3)
    one = train(learner("divide-mix", given, seed, warm=0.2, lambda_u=0.0), inputs, epochs=12, rate=0.02, seed=seed)
    wrong = given.labels != truth
    assert float(one.method.clean.mean(0)[~wrong].mean()) > float(one.method.clean.mean(0)[wrong].mean()) + 0.3


# --- OGC


def test_the_loss_of_ogc_is_cross_entropy_and_its_tangent_below_the_threshold():
    given, inputs, _ = problem(noise=0.3)
    method = learner("gradient-clipping", given).method
    method.threshold.fill_(0.3)
    logits = (3.0 * torch.randn(N, CLASSES, dtype=torch.float64)).requires_grad_()
    found = method.loss(Step(inputs, given.labels, torch.arange(N), 0.0, lambda _: logits))
    p = logits.softmax(1).gather(1, given.labels[:, None]).squeeze(1)
    expected = torch.where(p > 0.3, -p.log(), 1 - p / 0.3 - math.log(0.3)).mean()
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(found, logits)
    w = torch.where(p > 0.3, 2 * (1 - p), 2 * (1 - p) * p / 0.3)
    torch.testing.assert_close(N * slope.abs().sum(1), w.detach())


def test_the_threshold_of_ogc_bounds_how_much_more_large_losses_push():
    rng = np.random.default_rng(0)
    losses = torch.from_numpy(np.abs(np.concatenate([rng.normal(0.3, 0.2, 3000), rng.normal(4.0, 1.0, 1000)])))
    thresholds = [threshold_for(losses, bound) for bound in (1.01, 1.2, 3.0, 30.0)]
    assert thresholds == sorted(thresholds, reverse=True)
    for bound, t in zip((1.2, 3.0), thresholds[1:3], strict=True):
        small, large = (float(part.exp().clamp_max(1 / t).mean()) for part in (losses[:3000], losses[3000:]))
        assert large / small == pytest.approx(bound, rel=0.05)
    assert threshold_for(losses, 1e9) == 1e-7
    method = make("gradient-clipping", problem()[0])
    assert [method.bound(x) for x in (0.0, 0.34, 0.67, 0.99)] == pytest.approx([3.0, 1.2, 1.02, 1.02])


def test_ogc_fits_when_its_queue_of_the_latest_losses_is_full():
    given, inputs, _ = problem(n=200, noise=0.3)
    one = learner("gradient-clipping", given, every=2, queue=150)
    found = []
    for number in range(6):
        rows = torch.arange(40) + 40 * (number % 5)
        one.loss(inputs[rows], rows, 0.9)
        found.append(float(one.method.threshold))
    assert found[:3] == [1e-7] * 3  # 120 losses
    assert found[3] > 1e-7
    assert found[4] == found[3]
    losses = F.cross_entropy(one(inputs), given.labels, reduction="none").detach()
    latest = torch.cat([torch.arange(40), torch.arange(90, 200)])
    torch.testing.assert_close(one.method.losses.sort().values, losses[latest].sort().values)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vol-min-net", {"lam": -1.0}),
        ("vol-min-net", {"init": -10.1}),
        ("vol-min-net", {"init": 81}),
        ("sop", {"std": 0.0}),
        ("sop", {"lr_u": -1.0}),
        ("pes", {"warm": 0.0}),
        ("pes", {"warm": 0.6, "refine": 0.5}),
        ("divide-mix", {"alpha": 0.0}),
        ("divide-mix", {"threshold": 1.0}),
        ("gradient-clipping", {"excess": 0.0}),
        ("gradient-clipping", {"every": 0}),
    ],
)
def test_hyperparameters_out_of_bounds_are_refused(name, options):
    with pytest.raises(ValueError, match=r"not allowed|leave no training"):
        make(name, problem()[0], **options)
