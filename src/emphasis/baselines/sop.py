"""SOP: sparse corrections of labels, estimated by over-parameterization.

Source: S. Liu et al., Robust Training under Label Noise by Over-parameterization, ICML 2022.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, Step, check_range, one_hot

_SMALLEST = 1e-4  # lower bound of probabilities, 1 - u^2 and 1 - v^2, in the release (model/loss.py)


class SOP(Baseline):
    """Models a label by the prediction plus a correction of the example, u^2 at the label and -v^2 elsewhere.

    The network and u minimize -log of the share of the label in p + s, with s = u^2 onehot(y) - v^2 (1 - onehot(y)); v
    minimizes the squared distance of onehot(argmax p) + s from the label. All u and v are initially near 0, and
    gradient descent increases few of them, those of wrong labels. The consistency and balance terms of SOP+ are not
    included.

    u and v are buffers that are updated in each step by gradient descent with separate learning rates.

    Args:
        problem: The labels. u needs memory for n numbers, and v for n * C.
        lr_u: Learning rate of u, >= 0; with 0 the labels do not change. The default was chosen for this package; the
            README of the release has 1 for CIFAR-100.
        lr_v: Learning rate of v, >= 0. 10 in the README of the release (shengliu66/SOP, README.md) for CIFAR-100 with
            symmetric noise.
        std: Standard deviation of the initial u and v, > 0. 1e-8 in the release (model/loss.py, init_param).

    Raises:
        ValueError: A parameter is out of range.
    """

    u: Tensor
    v: Tensor

    def __init__(self, problem: Problem, *, lr_u: float = 10.0, lr_v: float = 10.0, std: float = 1e-8) -> None:
        super().__init__(problem)
        check_range("lr_u", lr_u, 0.0, math.inf, ends="[)")
        check_range("lr_v", lr_v, 0.0, math.inf, ends="[)")
        check_range("std", std, 0.0, math.inf, ends="()")
        self.lr_u, self.lr_v = lr_u, lr_v
        n, generator = len(problem.labels), problem.generator()
        self.register_buffer("u", std * torch.randn(n, generator=generator))
        self.register_buffer("v", std * torch.randn(n, problem.num_classes, generator=generator))

    def loss(self, step: Step) -> Tensor:
        """Return the loss of the network, and update u and v."""
        rows = step.indices
        p = F.softmax(step.logits.float(), 1)
        label = one_hot(step.labels, p)
        u, v = self.u[rows].unsqueeze(1), self.v[rows]
        added = (u * u * label).clamp(0.0, 1.0 - _SMALLEST)
        taken = (v * v * (1.0 - label)).clamp(0.0, 1.0 - _SMALLEST)
        raised = (p + added - taken).clamp_min(_SMALLEST)
        with torch.no_grad():
            self._update(rows, p, label, raised, added, taken)
        shares = (raised / raised.sum(1, keepdim=True)).clamp_min(_SMALLEST)
        return -(label * shares.log()).sum(1).mean()

    def _update(self, rows: Tensor, p: Tensor, label: Tensor, raised: Tensor, added: Tensor, taken: Tensor) -> None:
        """Update u and v of the batch by a step of gradient descent of their mean losses."""
        count = len(rows)
        u, v = self.u[rows], self.v[rows]
        at_label, total = (label * raised).sum(1), raised.sum(1)
        clamped = (
            ((label * (p + added)).sum(1) < _SMALLEST) | (at_label / total < _SMALLEST) | (u * u > 1.0 - _SMALLEST)
        )
        slope_u = torch.where(clamped, 0.0, 2.0 * u * (1.0 / total - 1.0 / at_label))
        prediction = F.one_hot(p.argmax(1), p.shape[1]).to(p.dtype)
        slope_v = -4.0 * v * (prediction + added - taken - label) * (1.0 - label) * (v * v < 1.0 - _SMALLEST)
        self.u[rows] = u - self.lr_u / count * slope_u
        self.v[rows] = v - self.lr_v / count * slope_v
