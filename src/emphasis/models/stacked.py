"""Many multilayer perceptrons of one shape, computed at once: their parameters are stacked, their layers one bmm.

Networks never mix: network s of the stack computes, and is trained to, what it would be alone. On a CPU this is
many times faster than one network after another, whose matrices are too small to keep the cores busy.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

Parameters = list[Tensor]
"""[weight, bias, weight, bias, ...] of layer after layer: weights (S, in, out), biases (S, out)."""


def init_mlps(
    layer_sizes: Sequence[int], seeds: Sequence[int], copies: int, dtype: torch.dtype = torch.float32
) -> Parameters:
    """Return the parameters of copies * len(seeds) perceptrons, uniform within +-1/sqrt(fan-in) like nn.Linear's.

    Network `copy * len(seeds) + k` depends on `seeds[k]` alone, so all copies start alike.

    Args:
        layer_sizes: [inputs, hidden, ..., classes], at least two.
        seeds: One integer per network of a copy.
        copies: Number of copies.
        dtype: Of the parameters; drawn in float64, so that dtypes start alike too.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    parameters: Parameters = []
    for fan_in, fan_out in itertools.pairwise(layer_sizes):
        for shape in ((fan_in, fan_out), (fan_out,)):
            drawn = [torch.rand(shape, generator=g, dtype=torch.float64) for g in generators]
            one = (2.0 * torch.stack(drawn) - 1.0) / fan_in**0.5
            stack = one.to(dtype).repeat(copies, *[1] * len(shape))
            parameters.append(stack.requires_grad_())
    return parameters


def forward(parameters: Parameters, inputs: Tensor) -> Tensor:
    """Return the logits (S, N, C) of S networks with rectified hidden layers for inputs (S, N, D)."""
    activations = inputs
    last = len(parameters) - 2
    for layer in range(0, len(parameters), 2):
        weight, bias = parameters[layer], parameters[layer + 1]
        activations = torch.baddbmm(bias.unsqueeze(1), activations, weight)
        if layer < last:
            activations = activations.relu()
    return activations
