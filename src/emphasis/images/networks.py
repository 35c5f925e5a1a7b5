"""Image networks without the training loop: their bodies, and their predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emphasis.datasets import ImageFiles
from emphasis.models import build
from emphasis.models.layers import last_linear
from emphasis.training.augmentation import normalize

_AT_ONCE, _PIXELS = 256, 32 * 32  # images per batch, for images of that many pixels; fewer if they are larger

Statistics = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Mean and standard deviation of each channel, for pixels in [0, 1]."""


def without_head(network: nn.Module) -> nn.Module:
    """Return the network with its last linear layer replaced by the identity, so that it returns features.

    Raises:
        EmphasisValueError: The network has no linear layer.
    """
    head = last_linear(network)
    if network is head:
        return nn.Identity()
    for parent in network.modules():
        for name, child in parent.named_children():
            if child is head:
                setattr(parent, name, nn.Identity())
    return network


def build_network(
    name: str, options: dict[str, Any], shape: tuple[int, int, int], num_classes: int, *, width: int = 0, seed: int = 0
) -> nn.Module:
    """Return a network, or a frozen network's body with a linear layer on its features.

    Args:
        name: Name of the network, as accepted by `emphasis.models.build`.
        options: Options of the network.
        shape: (channels, height, width) of an image.
        num_classes: Number of classes C.
        width: Number of features of the body; 0 for the network itself.
        seed: Seed of the initial parameters.
    """
    network = build(name, shape, max(2, num_classes), seed=seed, **options)
    return nn.Sequential(without_head(network), nn.Linear(width, num_classes)) if width else network


@torch.no_grad()
def outputs(network: nn.Module, images: NDArray[np.uint8] | ImageFiles, statistics: Statistics) -> NDArray[np.float32]:
    """Return the outputs of a network for images, shape (N, ...), in evaluation mode on the CPU.

    Args:
        network: Network.
        images: uint8 of shape (N, channels, size, size), or image files.
        statistics: Mean and standard deviation of the channels.
    """
    network = network.cpu().eval()
    mean, std = (torch.from_numpy(np.asarray(part)).float() for part in statistics)
    parts = [network(normalize(part, mean, std)).float().numpy() for part in _parts(images)]
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def _parts(images: NDArray[np.uint8] | ImageFiles) -> Iterator[Tensor]:
    size = max(1, _AT_ONCE * _PIXELS // max(_PIXELS, math.prod(images.shape[2:])))
    for start in range(0, len(images), size):
        yield torch.from_numpy(np.ascontiguousarray(np.asarray(images[start : start + size])))


def probabilities(
    network: nn.Module, images: NDArray[np.uint8] | ImageFiles, statistics: Statistics
) -> NDArray[np.float64]:
    """Return the class probabilities of images, shape (N, C)."""
    return _softmax(outputs(network, images, statistics))


@torch.no_grad()
def probabilities_of_features(linear: nn.Linear, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the class probabilities (N, C) that a linear layer predicts from features (N, D)."""
    return _softmax(linear(torch.from_numpy(features)).numpy())


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(torch.from_numpy(logits.astype(np.float64)).softmax(1).numpy())
