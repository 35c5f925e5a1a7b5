"""Batch normalization over the examples of all ranks, on GPUs (with torch's SyncBatchNorm) and on CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class _Sum(torch.autograd.Function):
    """Sum over ranks. The losses of all ranks depend on it, so its derivative is the sum of their derivatives."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _over_ranks(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total


class SynchronizedNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with default options, with mean and variance over the examples of all ranks during training.

    Ranks may have different numbers N of examples (N, C, H, W). The derivative is that of the joint batch as well.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Return the normalized input."""
        if not self.training:
            return super().forward(input)
        counts = torch.tensor(float(input.numel() // max(input.shape[1], 1)), dtype=input.dtype)
        dist.all_reduce(counts)
        mean = _over_ranks(input.sum((0, 2, 3))) / counts
        centered = input - mean.view(1, -1, 1, 1)
        variance = _over_ranks(centered.square().sum((0, 2, 3))) / counts
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (counts / (counts - 1.0)), self.momentum)
        scaled = centered * (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        return torch.addcmul(self.bias.view(1, -1, 1, 1), scaled, self.weight.view(1, -1, 1, 1))


def synchronized_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """Return the module with batch normalization over all ranks, and the same parameters and buffers."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:  # the only kind that the networks of this package use
            child.__class__ = SynchronizedNorm
    return module
