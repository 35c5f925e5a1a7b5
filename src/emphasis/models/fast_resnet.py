"""A wide and shallow residual network that learns to classify 32 x 32 images in a few epochs on one GPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from emphasis.models.layers import (
    Classifier,
    GlobalAveragePool,
    check_dropout,
    check_widths,
    conv_norm_relu,
    image_channels,
    init_he_,
)


class PooledResidualBlock(nn.Module):
    """A convolution with a 2 x 2 max pool, and two convolutions whose output is added to the pooled one."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.halved = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.residual = nn.Sequential(
            conv_norm_relu(out_channels, out_channels, 3), conv_norm_relu(out_channels, out_channels, 3)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out_channels, H // 2, W // 2)."""
        halved: Tensor = self.halved(images)
        out: Tensor = halved + self.residual(halved)
        return out


def fast_resnet(
    input_shape: Sequence[int], num_classes: int, *, widths: Sequence[int] = (64, 128, 256, 512), dropout: float = 0.0
) -> Classifier:
    """Return a convolution and a `PooledResidualBlock` for each further width, with a global average pool at the end.

    Few wide layers keep a GPU busier than the many narrow ones of `resnet56`, so that a run of tens of epochs takes a
    minute or two. The layout is our choice and resembles networks that are tuned for short runs on CIFAR-10 (K. Jordan,
    94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024), without their fixed whitening layer and scaled outputs. For
    32 x 32 RGB images and 10 classes it has 7,753,802 parameters.

    Args:
        input_shape: (channels, height, width), sides of at least 2 ** (len(widths) - 1) pixels.
        num_classes: Number of classes C.
        widths: Channels of the first convolution and of each block; at least two.
        dropout: Dropout rate before the last linear layer, in [0, 1).

    Raises:
        ValueError: An argument is not allowed.
    """
    check_widths("widths", widths, 2)
    check_dropout(dropout)
    channels = image_channels("fast-resnet", input_shape, 2 ** (len(widths) - 1))
    layers: list[nn.Module] = [conv_norm_relu(channels, widths[0], 3)]
    layers += [PooledResidualBlock(before, after) for before, after in itertools.pairwise(widths)]
    model = Classifier(nn.Sequential(*layers, GlobalAveragePool()), widths[-1], num_classes, dropout)
    init_he_(model)
    return model
