"""Clouds of points, a share of their labels wrong, and what trains on them with a method of `emphasis.baselines`.

In the plane a small network finds the clouds in spite of wrong labels; in many dimensions, all but two of them noise,
it memorizes wrong labels.
"""

import numpy as np
import torch
from torch import nn

from emphasis.baselines import Learner, Problem, make
from emphasis.models.layers import GlobalAveragePool

CLASSES, N = 3, 60


def clouds(true, rng, dimensions=2):
    """Points around one place a class, (n, dimensions)."""
    points = rng.normal(size=(len(true), dimensions))
    points[:, :2] += 4.0 * np.stack([np.cos(2.1 * true), np.sin(2.1 * true)], 1)
    return torch.from_numpy(points).float()


def problem(seed=0, n=N, noise=0.0, clip=1, dimensions=2):
    """Three clouds in the plane, a share of the labels wrong: the problem, the points and the true classes."""
    rng = np.random.default_rng(seed)
    true = np.arange(n) % CLASSES
    inputs = clouds(true, rng, dimensions)
    wrong = rng.random(n) < noise
    labels = np.where(wrong, (true + rng.integers(1, CLASSES, n)) % CLASSES, true)
    truth = torch.from_numpy(true)
    made = Problem(torch.from_numpy(labels), CLASSES, seed, annotate=lambda indices: truth[indices], clip=clip)
    return made, inputs, truth


def network(outputs=CLASSES, seed=0, dimensions=2, hidden=16):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(dimensions, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


def network_with_maps(outputs=CLASSES, seed=0):
    """The same, which sees points as images of one position."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Unflatten(1, (2, 1, 1)), nn.Conv2d(2, 16, 1), nn.ReLU(), GlobalAveragePool(), nn.Linear(16, outputs)
    )


def learner(name, given, seed=0, shape=None, **options):
    method = make(name, given, **options)
    made = network_with_maps if "feature_maps" in method.needs else network
    outputs = CLASSES + method.extra_outputs
    return Learner(method, *(made(outputs, seed + number, **(shape or {})) for number in range(method.networks)))


def train(one, inputs, epochs=20, batch=20, rate=0.1, record=None, seed=1):
    """One's own loop, as the docs show it."""
    optimizer = torch.optim.SGD([p for p in one.parameters() if p.requires_grad], rate, momentum=0.9)
    steps = len(inputs) // batch
    torch.manual_seed(seed)
    for epoch in range(epochs):
        one.begin_epoch(epoch, epoch / epochs, optimizer, lambda rows: [inputs if rows is None else inputs[rows]])
        order = torch.randperm(len(inputs))
        for step in range(steps):
            rows = order[step * batch : (step + 1) * batch]
            loss = one.loss(inputs[rows], rows, (epoch * steps + step) / (epochs * steps))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if record is not None:
                record(epoch, one)
    return one


def first_loss(one, inputs, progress=0.0):
    rows = torch.arange(len(inputs))
    torch.manual_seed(0)
    return one.loss(inputs, rows, progress)
