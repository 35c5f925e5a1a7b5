"""Estimating the transition matrix at anchor points: classes of any size, and what Forward learns with it."""

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from controls import share_of_the_way
from emphasis.baselines import Learner, Problem, make
from emphasis.baselines._transition import at_anchor_points
from emphasis.weighting import EmphasisWarning

SEEDS = (0, 1)
NOISE = 0.4


def symmetric(classes):
    """T of 40 % symmetric noise."""
    eye = torch.eye(classes)
    return (1 - NOISE) * eye + NOISE * (1 - eye) / (classes - 1)


@cache
def gaussians(seed, classes, per_class, rare=0.0):
    """Noisy labels, points and true classes to train on, and points and classes to test on; class 0 may be rare."""
    rng = np.random.default_rng(seed)
    centers = 1.6 * rng.normal(size=(classes, 16))
    counts = np.full(classes, per_class)
    if rare:
        counts[0] = round(rare * per_class * classes)
    parts = []
    for sizes in (counts, np.full(classes, 20)):
        true = np.repeat(np.arange(classes), sizes)
        parts += [torch.from_numpy(centers[true] + rng.normal(size=(len(true), 16))).float(), torch.from_numpy(true)]
    points, true, test_points, test_true = parts
    wrong = torch.from_numpy(rng.random(len(true)) < NOISE)
    other = (true + torch.from_numpy(rng.integers(1, classes, len(true)))) % classes
    return torch.where(wrong, other, true), points, true, test_points, test_true


@cache
def trained(name, seed, classes, per_class, rare=0.0, epochs=10, **options):
    """A learner of one hidden layer; `matrix="true"` gives it the noise's own."""
    labels, points, *_ = gaussians(seed, classes, per_class, rare)
    options = {**options, **({"matrix": symmetric(classes)} if options.get("matrix") == "true" else {})}
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, classes))
    learner = Learner(make(name, Problem(labels, classes, seed), **options), network)
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], 0.1, momentum=0.9)
    steps = len(points) // 128
    for epoch in range(epochs):
        learner.begin_epoch(epoch, epoch / epochs, optimizer, lambda rows: [points if rows is None else points[rows]])
        order = torch.randperm(len(points))
        for step in range(steps):
            rows = order[step * 128 : (step + 1) * 128]
            loss = learner.loss(points[rows], rows, (epoch + step / steps) / epochs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return learner


def accuracy(name, seed, classes, per_class, **options):
    *_, points, true = gaussians(seed, classes, per_class)
    return float((trained(name, seed, classes, per_class, **options)(points).argmax(1) == true).float().mean())


def test_forward_does_better_than_cross_entropy_with_100_classes_nearly_as_well_as_with_the_true_matrix():
    """With anchors at the 97th percentile of all examples, three times a class, it is right about 5 % of the time."""
    found = {
        name: np.mean([accuracy(method, seed, 100, 32, **options) for seed in SEEDS])
        for name, method, options in (
            ("cross-entropy", "label-smoothing", {"epsilon": 0.0}),
            ("estimated", "loss-correction", {"quantile": 1.0}),
            ("true", "loss-correction", {"matrix": "true"}),
        )
    }
    print(found)
    assert share_of_the_way(found["estimated"], found["cross-entropy"], found["true"]) > 0.3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_class_of_1_percent_has_an_anchor_of_its_own(seed):
    _, points, true, *_ = gaussians(seed, 20, 150, rare=0.01)
    learner = trained("label-smoothing", seed, 20, 150, rare=0.01, epsilon=0.0)
    assert float((true == 0).float().mean()) < 0.012
    with torch.no_grad():
        predictions = learner(points).softmax(1)
    row = at_anchor_points(predictions, 0.7)[0]
    over_all = predictions[predictions[:, 0].argsort()[int(0.97 * len(predictions))]]
    expected = symmetric(20)[0]
    assert int(row.argmax()) == 0
    assert int(over_all.argmax()) != 0  # what the 97th percentile over all examples finds is another class's example
    assert float((row - expected).abs().sum()) < float((over_all - expected).abs().sum())


def test_the_anchor_stands_at_the_quantile_of_the_examples_that_are_taken_for_the_class():
    first = torch.cat([torch.linspace(0.99, 0.51, 10), torch.linspace(0.49, 0.01, 90)])
    predictions = torch.stack([first, 1.0 - first], 1)[torch.randperm(100)]
    for quantile, places in ((1.0, (0, 99)), (0.7, (3, 72)), (0.5, (5, 54))):
        expected = torch.stack([first[list(places)], 1.0 - first[list(places)]], 1)
        torch.testing.assert_close(at_anchor_points(predictions, quantile), expected)


def test_a_class_without_an_anchor_is_named_and_left_as_it_is():
    predictions = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.5, 0.2]]).repeat(20, 1)
    with pytest.warns(EmphasisWarning, match=r"predicts class 2 for no example, .* not corrected"):
        found = at_anchor_points(predictions, 1.0)
    torch.testing.assert_close(found, torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.0, 1.0]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at_anchor_points(torch.eye(3).repeat(5, 1), 0.7)
