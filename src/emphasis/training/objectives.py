"""The losses of a stack of networks, method by method, through `emphasis.torch.emphasis_loss`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import vmap

from emphasis.torch import emphasis_loss
from emphasis.training.settings import Objective


def network_losses(objective: Objective, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss of each network over its batch.

    Args:
        objective: The weighting, its normalisation and its largest margin.
        logits: (K, N, C) of K networks.
        labels: (K, N) integers.

    Returns:
        (K,); the gradient of the sum is each network's own gradient.
    """
    weighting, normalization, max_margin = objective.weighting, objective.normalization, objective.max_margin
    if normalization == "batch":  # the sum of the weights runs over one network's batch, not over all networks

        def one(z: Tensor, y: Tensor) -> Tensor:
            return emphasis_loss(z, y, weighting, normalization="batch", max_margin=max_margin)

        losses: Tensor = vmap(one)(logits, labels)
        return losses
    # Examples do not interact, so all networks' examples go through as one batch: a third of the time of vmap.
    per_example = emphasis_loss(
        logits.flatten(0, 1),
        labels.flatten(),
        weighting,
        normalization=normalization,
        max_margin=max_margin,
        reduction="none",
    )
    return per_example.view(labels.shape).mean(dim=1)


def total_loss(objectives: Sequence[Objective], logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of all networks' losses.

    Args:
        objectives: M of them.
        logits: (M * K, N, C), objective by objective.
        labels: (K, N), the same for each objective.
    """
    chunks = torch.split(logits, len(labels))
    return torch.cat([network_losses(o, z, labels) for o, z in zip(objectives, chunks, strict=True)]).sum()
