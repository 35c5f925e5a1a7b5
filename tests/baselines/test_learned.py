"""What the methods for wrong labels learn, beside what cross-entropy learns, or what shuffled truth would say."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from clouds import CLASSES, clouds, learner, problem, train
from controls import share_of_the_way
from emphasis.baselines import Problem

SEEDS = (0, 1)
RATE = 0.02  # at five times that, cross-entropy itself loses the clouds again now and then
CROSS_ENTROPY = ("label-smoothing", {"epsilon": 0.0})
ROBUST = [
    ("aum", {}),
    ("co-teaching", {"forget_rate": 0.3}),
    ("joint-optimization", {}),
    ("mixup-bootstrapping", {}),
    ("vol-min-net", {"lam": 0.1}),
    ("sop", {"lr_u": 30.0}),
    ("pes", {}),
    ("gradient-clipping", {"every": 5, "queue": 200}),
    ("divide-mix", {"warm": 0.2, "lambda_u": 0.0}),
]


@cache
def accuracy(name, seed, **options):
    """Accuracy on true labels in 40 dimensions, where cross-entropy memorizes the 30 % wrong labels."""
    given, inputs, truth = problem(seed, n=300, noise=0.3, dimensions=40)
    one = learner(name, given, seed, {"dimensions": 40, "hidden": 64}, **options)
    train(one, inputs, rate=RATE, seed=seed).eval()
    test = clouds(truth.numpy(), np.random.default_rng(seed + 1000), 40)
    return float((one(test).argmax(1) == truth).float().mean())


@pytest.mark.parametrize(("name", "options"), ROBUST, ids=str)
def test_it_is_right_more_often_than_cross_entropy_where_that_memorizes_wrong_labels(name, options):
    found, plain = (
        np.mean([accuracy(which, seed, **given) for seed in SEEDS]) for which, given in ((name, options), CROSS_ENTROPY)
    )
    assert share_of_the_way(found, plain) > 0.2


def tells_wrong_labels(scores, wrong):
    """Whether scores are higher for wrong labels, nearer to always than to never."""
    return share_of_the_way(roc_auc_score(wrong, scores), 0.5) > 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_mentornet_dd_learns_which_labels_are_right_from_no_more_true_labels_than_its_share(seed):
    given, inputs, truth = problem(seed, n=300, noise=0.4)
    asked = []
    given = Problem(given.labels, CLASSES, seed, annotate=lambda rows: (asked.append(len(rows)), truth[rows])[1])
    one = train(learner("mentornet-dd", given, seed, share=0.2), inputs, epochs=10, rate=RATE, seed=seed)
    assert asked == [60]
    with torch.no_grad():
        losses = F.cross_entropy(one(inputs), given.labels, reduction="none")
        weights = one.method.mentor(losses, losses - one.method.threshold, given.labels, 0.75)
    assert tells_wrong_labels(-weights, given.labels != truth)


@pytest.mark.parametrize("seed", SEEDS)
def test_forward_correction_and_the_noise_layer_come_to_know_the_noise(seed):
    """Much nearer to the matrix of the labels, which is counted, than a matrix without noise is."""
    given, inputs, truth = problem(seed, n=300, noise=0.3)
    counted = torch.stack([F.one_hot(given.labels[truth == k], CLASSES).float().mean(0) for k in range(CLASSES)])
    far = (torch.eye(CLASSES) - counted).abs().mean()
    for name, options in (("loss-correction", {"warm": 0.5}), ("noise-adaptation", {"warm": 0.3})):
        one = train(learner(name, given, seed, **options), inputs, rate=RATE, seed=seed)
        matrix = one.method.transition.detach()
        torch.testing.assert_close(matrix.sum(1), torch.ones(CLASSES))
        assert share_of_the_way(float((matrix - counted).abs().mean()), float(far), 0.0) > 0.3


def test_joint_optimization_corrects_most_labels_and_trains_anew_on_them():
    for seed in SEEDS:
        given, inputs, truth = problem(seed, n=300, noise=0.3)
        one = train(learner("joint-optimization", given, seed), inputs, rate=RATE, seed=seed)
        torch.testing.assert_close(one.method.found.sum(1), torch.ones(300))
        assert bool(one.method.second)
        before, after = ((labels == truth).float().mean() for labels in (given.labels, one.method.found.argmax(1)))
        assert share_of_the_way(float(after), float(before)) > 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_mixup_bootstrapping_tells_wrong_labels(seed):
    given, inputs, truth = problem(seed, n=300, noise=0.3)
    one = train(learner("mixup-bootstrapping", given, seed), inputs, epochs=15, rate=RATE, seed=seed)
    assert tells_wrong_labels(one.method.wrong, given.labels != truth)


@pytest.mark.parametrize("seed", SEEDS)
def test_aum_leaves_out_wrong_labels(seed):
    given, inputs, truth = problem(seed, n=300, noise=0.3)
    one = train(learner("aum", given, seed), inputs, rate=RATE, seed=seed)
    method = one.method
    assert int(method.drawn.sum()) == 300 // (CLASSES + 1)
    assert one(inputs).shape == (300, CLASSES)
    own = ~method.drawn
    assert tells_wrong_labels(~method.kept[own], (given.labels != truth)[own])
    assert method.kept[own].float().mean() > (given.labels == truth)[own].float().mean() / 2
