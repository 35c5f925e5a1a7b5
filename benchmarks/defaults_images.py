"""The images of benchmarks/defaults.py: networks of three convolutions, one after another. All of it is scaled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from defaults_data import HUMAN, Task, noisy_labels, task_of
from defaults_methods import BEST, WARM_UP, Batch, Method, methods
from torch import Tensor, nn

WIDTH, BATCH, EPOCHS = 16, 128, 15
NORMED, PLAIN = "batch norm", "no batch norm"
CELLS = (
    ("cifar100", "0 %", NORMED),
    ("cifar100", "40 % symmetric", NORMED),
    ("cifar10", "40 % symmetric", NORMED),
    ("cifar10n", HUMAN, NORMED),
    ("vehicles10", "40 % symmetric", NORMED),
    ("cifar100", "0 %", PLAIN),
    ("cifar100", "40 % symmetric", PLAIN),
    ("cifar10n", HUMAN, PLAIN),
)
FIRST = ("CCE", BEST, "GCE 0.7")
SECOND = ("above prior 1", "doubt 0.7", "Relative 0.7, 1.5", "calibrated warm-up", "SCE", "Relative 0.5", "DM(0.5, 12)")


def image_cells(seeds: int) -> Iterator[dict[str, Any]]:
    for names, seed, (task, noise, norm) in product((FIRST, SECOND), range(seeds), CELLS):
        for method in names:
            yield {"task": task, "noise": noise, "norm": norm, "method": method, "seed": seed}


def network(classes: int, normed: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in ((3, WIDTH), (WIDTH, 2 * WIDTH), (2 * WIDTH, 4 * WIDTH)):
        layers.append(nn.Conv2d(before, after, 3, padding=1, bias=not normed))
        layers += [nn.BatchNorm2d(after)] if normed else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * WIDTH, classes))


def train_images(cell: dict[str, Any], root: Path) -> dict[str, Any]:
    """Train one network; return its test accuracy and macro recall.

    With batch norm SGD, rate 0.05 with a rise of a tenth of the steps and cosine decay; without it AdamW at 1e-3.
    """
    task, seed, normed = task_of(cell["task"], root), cell["seed"], cell["norm"] == NORMED
    (method,) = (method for method in methods() if method.name == cell["method"])
    x = torch.from_numpy(task.x).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(noisy_labels(task, cell["noise"], seed))
    torch.manual_seed(seed)
    model = network(task.classes, normed).to(memory_format=torch.channels_last)
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if normed:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    batches = len(y) // BATCH
    steps, done = EPOCHS * batches, 0
    switch = math.ceil(WARM_UP * steps)
    method.start(1, task.classes, len(y))
    for _ in range(EPOCHS):
        order = torch.randperm(len(y))
        for rows in order[: batches * BATCH].view(batches, BATCH):
            if done == switch and method.warms_up:
                method.switch(_probabilities(model, x)[torch.arange(len(y)), y][None])
            if normed:
                rise = min(1.0, (done + 1) / (0.1 * steps))
                optimizer.param_groups[0]["lr"] = 0.05 * rise * 0.5 * (1.0 + math.cos(math.pi * done / steps))
            mirrored = (torch.rand(BATCH) < 0.5)[:, None, None, None]
            images = torch.where(mirrored, x[rows].flip(3), x[rows]).contiguous(memory_format=torch.channels_last)
            _step(model, optimizer, method, images, y[rows], rows)
            done += 1
    return _scores(model, task)


def _step(
    model: nn.Sequential, optimizer: torch.optim.Optimizer, method: Method, images: Tensor, y: Tensor, rows: Tensor
) -> None:
    logits = model(images)
    batch = Batch(logits.detach().softmax(-1)[None], y, rows)
    optimizer.zero_grad(set_to_none=True)
    logits.backward(method.derivative(batch)[0] / len(y))
    optimizer.step()


def _probabilities(model: nn.Sequential, x: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(part).softmax(-1) for part in x.split(500)])
    model.train()
    return found


def _scores(model: nn.Sequential, task: Task) -> dict[str, Any]:
    y = torch.from_numpy(task.y_test)
    right = (_probabilities(model, torch.from_numpy(task.x_test)).argmax(-1) == y).float()
    recalls = [float(right[y == number].mean()) for number in y.unique()]
    return {"accuracy": round(float(right.mean()), 5), "recall": round(sum(recalls) / len(recalls), 5)}
