"""Perceptrons D-64-C, many at once: all networks of a seed see the same labels, order and start.

The derivatives are written out, so that a step of all networks is two matrix products forward and three back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from defaults_data import Ints, Task, noisy_labels
from defaults_methods import CCE, WARM_UP, Batch, Method
from torch import Tensor
from torch.nn import functional as F

HIDDEN, BATCH = 64, 128
MOMENTUM, DECAY = 0.9, 1e-4
SGD, ADAMW, CONSTANT = "SGD, cosine", "AdamW 1e-3", "SGD 0.1 constant"
REGIMES = (SGD, ADAMW, CONSTANT)


@dataclass(frozen=True)
class Network:
    """A network to train: by which method, how, at which rate."""

    method: str
    regime: str
    rate: float


class Stack:
    """A networks with one method each, contiguous by method, and their optimizer."""

    def __init__(self, methods: Sequence[Method], each: Sequence[tuple[str, float]], task: Task, seed: int) -> None:
        self.methods, self.each = methods, each
        self.networks = [Network(method.name, regime, rate) for method in methods for regime, rate in each]
        count, inputs = len(self.networks), task.x.shape[1]
        generator = torch.Generator().manual_seed(seed)

        def uniform(*shape: int, bound: float) -> Tensor:
            return (torch.rand(*shape, generator=generator) * 2.0 - 1.0) * bound

        first = uniform(inputs, 1, HIDDEN, bound=math.sqrt(3.0 / inputs))
        bias = uniform(1, HIDDEN, bound=1.0 / math.sqrt(inputs))
        last = uniform(1, HIDDEN, task.classes, bound=1.0 / math.sqrt(HIDDEN))
        self.W1 = first.repeat(1, count, 1)  # (D, A, H), so that one product serves all networks
        self.b1, self.W2 = bias.repeat(count, 1), last.repeat(count, 1, 1)
        self.b2 = torch.zeros(count, 1, task.classes)
        self.adam = each[0][0] == ADAMW
        self.first = [torch.zeros_like(q) for q in self.parameters]
        self.second = [torch.zeros_like(q) for q in self.parameters] if self.adam else []
        self.rates = torch.tensor([network.rate for network in self.networks])
        self.cosine = torch.tensor([network.regime == SGD for network in self.networks])

    @property
    def parameters(self) -> list[Tensor]:
        return [self.W1, self.b1, self.W2, self.b2]

    def hidden(self, x: Tensor, some: slice = slice(None)) -> Tensor:
        W1 = self.W1[:, some]
        return torch.addmm(self.b1[some].reshape(-1), x, W1.reshape(len(W1), -1)).relu_()

    def logits(self, hidden: Tensor, some: slice = slice(None)) -> Tensor:
        W2 = self.W2[some]
        return torch.baddbmm(self.b2[some], hidden.view(len(hidden), len(W2), HIDDEN).transpose(0, 1), W2)

    def probabilities(self, x: Tensor, some: slice = slice(None)) -> Tensor:
        """Return (n, N, C) for the networks `some`."""
        parts = [self.logits(self.hidden(part, some), some).softmax(-1) for part in x.split(1000)]
        return torch.cat(parts, dim=1)

    def of(self, method: int) -> slice:
        return slice(method * len(self.each), (method + 1) * len(self.each))

    def step(self, x: Tensor, y: Tensor, rows: Tensor, done: int, steps: int) -> None:
        hidden = self.hidden(x)
        S = _softmax(self.logits(hidden))
        G = torch.empty_like(S)
        for number, method in enumerate(self.methods):
            G[self.of(number)] = method.derivative(Batch(S[self.of(number)], y, rows))
        G /= len(y)
        by_network = hidden.view(len(x), len(self.networks), HIDDEN).transpose(0, 1)
        back = torch.bmm(G, self.W2.transpose(1, 2)).transpose(0, 1).reshape(hidden.shape)
        back *= hidden > 0.0
        gradients = [
            (x.T @ back).view_as(self.W1),
            back.sum(0).view_as(self.b1),
            torch.bmm(by_network.transpose(1, 2), G),
            G.sum(1, keepdim=True),
        ]
        rate = torch.where(self.cosine, self.rates * 0.5 * (1.0 + math.cos(math.pi * done / steps)), self.rates)
        for number, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            shape = (-1, 1) if parameter is not self.W2 and parameter is not self.b2 else (-1, 1, 1)
            self._update(number, parameter, gradient, rate.view(shape), done + 1)

    def _update(self, number: int, parameter: Tensor, gradient: Tensor, rate: Tensor, step: int) -> None:
        mean = self.first[number]
        if not self.adam:
            mean.mul_(MOMENTUM).add_(gradient).add_(parameter, alpha=DECAY)
            parameter.addcmul_(mean, rate, value=-1.0)
            return
        square = self.second[number]
        mean.mul_(0.9).add_(gradient, alpha=0.1)
        square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        parameter.mul_(1.0 - 1e-2 * rate)
        root = (square / (1.0 - 0.999**step)).sqrt_().add_(1e-8)
        parameter.sub_(rate * (mean / (1.0 - 0.9**step)) / root)


def _softmax(logits: Tensor) -> Tensor:
    """Return the probabilities, in place: torch's own takes twice as long for few classes."""
    S = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    return S.div_(S.sum(-1, keepdim=True))


@dataclass(frozen=True, eq=False)
class Part:
    """A task with noise, a fifth of the training examples, noise included, held out."""

    x: Tensor
    y: Tensor
    wrong: Tensor
    x_held_out: Tensor
    y_held_out: Tensor
    x_test: Tensor
    y_test: Tensor


def part_of(task: Task, noise: str, seed: int) -> Part:
    labels: Ints = noisy_labels(task, noise, seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    held_out, train = order[: len(order) // 5], order[len(order) // 5 :]
    return Part(
        *map(torch.from_numpy, (task.x[train], labels[train], labels[train] != task.y[train], task.x[held_out])),
        *map(torch.from_numpy, (labels[held_out], task.x_test, task.y_test)),
    )


def train(task: Task, noise: str, seed: int, stack: Stack, epochs: int, watch: bool = False) -> dict[str, list]:
    """Train a stack; return [test accuracy, macro recall, accuracy on noisy held-out labels] by network.

    For cross-entropy, "early|regime|rate" is the test accuracy, macro recall and held-out accuracy of the epoch that is
    best on the held-out labels, and that epoch. `watch` returns the mean p of clean and of wrong examples instead.
    """
    part = part_of(task, noise, seed)
    examples = len(part.y)
    for method in stack.methods:
        method.start(len(stack.each), task.classes, examples)
    batches, done = examples // BATCH, 0
    steps = epochs * batches
    switch = math.ceil(WARM_UP * steps)
    by_epoch, watched = [], []
    for epoch in range(epochs):
        order = torch.randperm(examples, generator=torch.Generator().manual_seed(1000 * seed + epoch))
        for rows in order[: batches * BATCH].view(batches, BATCH):
            if done == switch:
                _end_warm_up(stack, part)
            if watch and done % max(1, batches // 2) == 0:
                watched.append([done, *_mean_p(stack, part)])
            stack.step(part.x[rows], part.y[rows], rows, done, steps)
            done += 1
        if stack.methods[0].name == CCE and not watch:
            by_epoch.append(_judged(stack, part, stack.of(0)))
    if watch:
        watched.append([done, *_mean_p(stack, part)])
        names = [method.name for method in stack.methods]
        return {
            "methods": names,
            "steps": [w[0] for w in watched],
            "clean": [w[1] for w in watched],
            "wrong": [w[2] for w in watched],
        }
    scores = _judged(stack, part)
    found = {f"{n.method}|{n.regime}|{n.rate:g}": row for n, row in zip(stack.networks, scores, strict=True)}
    for number, (regime, rate) in enumerate(stack.each if by_epoch else ()):
        best = max(range(epochs), key=lambda epoch: by_epoch[epoch][number][2])
        found[f"early|{regime}|{rate:g}"] = [*by_epoch[best][number], best + 1]
    return found


def _end_warm_up(stack: Stack, part: Part) -> None:
    for number, method in enumerate(stack.methods):
        if method.warms_up:
            method.switch(_p(stack, part, stack.of(number)))


def _p(stack: Stack, part: Part, some: slice) -> Tensor:
    return stack.probabilities(part.x, some)[:, torch.arange(len(part.y)), part.y]


def _mean_p(stack: Stack, part: Part) -> tuple[list[float], list[float]]:
    p = _p(stack, part, slice(None))
    return p[:, ~part.wrong].mean(-1).tolist(), p[:, part.wrong].mean(-1).tolist()


def _judged(stack: Stack, part: Part, some: slice = slice(None)) -> list[list[float]]:
    def predicted(x: Tensor) -> Tensor:
        return torch.cat([stack.logits(stack.hidden(rows, some), some).argmax(-1) for rows in x.split(1000)], dim=1)

    right = (predicted(part.x_test) == part.y_test).float()
    of_class = F.one_hot(part.y_test).float()
    of_class = of_class[:, of_class.sum(0) > 0]
    recall = (right @ of_class / of_class.sum(0)).mean(-1)
    held_out = (predicted(part.x_held_out) == part.y_held_out).float().mean(-1)
    columns = torch.stack([right.mean(-1), recall, held_out], dim=1)
    return [[round(value, 5) for value in row] for row in columns.tolist()]
