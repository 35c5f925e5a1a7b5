"""GoogLeNet (Inception V1) for 32 x 32 images.

Source: C. Szegedy et al., Going Deeper with Convolutions, CVPR 2015, Table 1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from emphasis.models.layers import (
    Branches,
    Classifier,
    GlobalAveragePool,
    check_dropout,
    conv_norm_relu,
    image_channels,
    init_he_,
)
from emphasis.validation import check_flag

_STEM_WIDTH = 192


class Inception(NamedTuple):
    """Channels of one module's convolutions: one row of the paper's Table 1."""

    conv1: int
    reduce3: int
    conv3: int
    reduce5: int
    conv5: int
    pool: int

    @property
    def out_channels(self) -> int:
        """Channels of the concatenated branches."""
        return self.conv1 + self.conv3 + self.conv5 + self.pool


_BODY: dict[str, Inception | None] = {
    "3a": Inception(64, 96, 128, 16, 32, 32),
    "3b": Inception(128, 128, 192, 32, 96, 64),
    "pool3": None,  # 3 x 3 max pool, stride 2
    "4a": Inception(192, 96, 208, 16, 48, 64),
    "4b": Inception(160, 112, 224, 24, 64, 64),
    "4c": Inception(128, 128, 256, 24, 64, 64),
    "4d": Inception(112, 144, 288, 32, 64, 64),
    "4e": Inception(256, 160, 320, 32, 128, 128),
    "pool4": None,
    "5a": Inception(256, 160, 320, 32, 128, 128),
    "5b": Inception(384, 192, 384, 48, 128, 128),
}


def _inception(channels: int, row: Inception, batch_norm: bool) -> Branches:
    def conv(before: int, after: int, size: int) -> nn.Sequential:
        return conv_norm_relu(before, after, size, batch_norm=batch_norm)

    return Branches(
        {
            "1x1": conv(channels, row.conv1, 1),
            "3x3": nn.Sequential(conv(channels, row.reduce3, 1), conv(row.reduce3, row.conv3, 3)),
            "5x5": nn.Sequential(conv(channels, row.reduce5, 1), conv(row.reduce5, row.conv5, 5)),
            "pool": nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv(channels, row.pool, 1)),
        }
    )


def googlenet(
    input_shape: Sequence[int], num_classes: int, *, batch_norm: bool = True, dropout: float = 0.0
) -> Classifier:
    """Return GoogLeNet with a stem for small images and without auxiliary classifiers.

    The paper's stem shrinks 224 x 224 images eightfold before module 3a. Here, as in the usual ports to CIFAR, the stem
    is one 3 x 3 convolution of stride 1 with 192 channels and no pooling. Modules 3a and 3b work at 32 x 32, 4a to 4e
    at 16 x 16, and 5a and 5b at 8 x 8; a global average pool and the linear layer follow.

    Args:
        input_shape: (channels, height, width), sides of at least 4 pixels.
        num_classes: Number of classes C.
        batch_norm: Whether batch normalization follows each convolution. The network of the paper has none, and is
            hard to train without its auxiliary classifiers.
        dropout: Dropout rate before the last linear layer, in [0, 1) (0.4 in the paper).

    Raises:
        ValueError: An argument is not allowed.
    """
    check_dropout(dropout)
    check_flag("batch_norm", batch_norm)
    channels = image_channels("googlenet-v1", input_shape, 4)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=conv_norm_relu(channels, _STEM_WIDTH, 3, batch_norm=batch_norm)
    )
    before = _STEM_WIDTH
    for name, row in _BODY.items():
        if row is None:
            layers[name] = nn.MaxPool2d(3, 2, padding=1)
        else:
            layers[name] = _inception(before, row, batch_norm)
            before = row.out_channels
    layers["pool5"] = GlobalAveragePool()
    model = Classifier(nn.Sequential(layers), before, num_classes, dropout)
    init_he_(model)
    return model
