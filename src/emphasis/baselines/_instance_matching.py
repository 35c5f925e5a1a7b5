"""Instance matching, online (OIM): each class is represented by the features of its examples.

Source: T. Xiao et al., Joint Detection and Identification Feature Learning for Person Search, CVPR 2017. There is no
queue of unlabeled examples here, as every example has a label.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.validation import check_range


class InstanceMatching(nn.Module):
    """Logits V x / temperature of features x, which also update the class vectors V.

    For each example in turn, v_y <- momentum v_y + (1 - momentum) x, divided by its L2 norm. V is initially 0 and has
    no derivative. Call the module in training only. In the publication V is updated in the backward pass.

    Args:
        num_classes: Number of classes C.
        width: Number of features.
        momentum: Momentum of V, in [0, 1). Published: 0.5.
        temperature: Divisor of the logits, > 0. Published: 0.1.

    Raises:
        ValueError: A parameter is out of range.
    """

    classes: Tensor

    def __init__(self, num_classes: int, width: int, *, momentum: float = 0.5, temperature: float = 0.1) -> None:
        super().__init__()
        check_range("momentum", momentum, 0.0, 1.0, ends="[)")
        check_range("temperature", temperature, 0.0, float("inf"), ends="()")
        self.momentum, self.temperature = momentum, temperature
        self.register_buffer("classes", torch.zeros(num_classes, width))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the logits (N, C) of unit vectors (N, width), and update the class vectors of their labels (N,)."""
        classes = self.classes.to(features.dtype, copy=True)  # as `_move` changes them before the backward pass
        self._move(features.detach().to(self.classes.dtype), labels)
        return features @ classes.T / self.temperature

    def _move(self, features: Tensor, labels: Tensor) -> None:
        """Update the class vectors, with the first examples of all classes at once, then the second ones, and so on.

        A batch takes as many steps as its most frequent class has examples.
        """
        by_label = torch.argsort(labels, stable=True)
        ordered = labels[by_label]
        positions = torch.arange(len(labels), device=labels.device)
        occurrence = positions - torch.searchsorted(ordered, ordered)  # 0 for the first example of each class
        rounds = by_label[torch.argsort(occurrence, stable=True)]
        for rows in torch.split(rounds, torch.bincount(occurrence).tolist()):
            moved = self.momentum * self.classes[labels[rows]] + (1.0 - self.momentum) * features[rows]
            self.classes[labels[rows]] = F.normalize(moved, dim=1)
