"""The residual networks for 32 x 32 images of K. He et al., Deep Residual Learning, CVPR 2016, section 4.2."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from emphasis.models.layers import (
    Classifier,
    GlobalAveragePool,
    check_dropout,
    conv_norm_relu,
    image_channels,
    init_he_,
)
from emphasis.validation import check, is_whole

_STAGE_WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions whose output is added to a shortcut without parameters (option A of the paper).

    Where the block halves the resolution and widens, the shortcut takes every second pixel and fills the new
    channels with zeros.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = conv_norm_relu(channels, out_channels, 3, stride=stride)
        self.second = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.stride = stride
        self.new_channels = out_channels - channels

    def shortcut(self, images: Tensor) -> Tensor:
        """Return the input, subsampled and padded to the shape of the output."""
        if self.stride > 1:
            # The pixels of images[:, :, ::stride, ::stride], but with a gradient in the images' memory format
            images = F.avg_pool2d(images, 1, self.stride)
        if self.new_channels:
            images = F.pad(images, (0, 0, 0, 0, 0, self.new_channels))
        return images

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, out_channels, H / stride, W / stride), sizes rounded up."""
        return F.relu(self.second(self.first(images)) + self.shortcut(images), inplace=True)


def cifar_resnet(depth: int, input_shape: Sequence[int], num_classes: int, *, dropout: float = 0.0) -> Classifier:
    """Return a residual network of 6n + 2 layers: a 3 x 3 convolution, three stages of n blocks, a linear layer.

    The stages have 16, 32 and 64 channels at full, half and quarter resolution; a global average pool precedes the
    linear layer. Convolutions start from He et al.'s distribution. With 10 classes and RGB images: 269,722
    parameters at depth 20, 464,154 at 32, 658,586 at 44, 853,018 at 56 and 1,727,962 at 110.

    Args:
        depth: 6n + 2 for n >= 1.
        input_shape: (channels, height, width), sides of at least 4 pixels.
        num_classes: Number of classes C.
        dropout: Dropout rate before the last linear layer, in [0, 1). He et al. use none; the papers that compare with
            dropout do not state its position in a residual network. Here no normalized layer follows it.

    Raises:
        ValueError: An argument is not allowed.
    """
    check(is_whole(depth) and depth >= 8 and depth % 6 == 2, "depth", depth, "it must be 6n + 2, such as 20 or 56")
    check_dropout(dropout)
    channels = image_channels(f"resnet{depth}", input_shape, 4)
    layers: list[nn.Module] = [conv_norm_relu(channels, _STAGE_WIDTHS[0], 3)]
    before = _STAGE_WIDTHS[0]
    for width in _STAGE_WIDTHS:
        for _ in range((depth - 2) // 6):
            layers.append(BasicBlock(before, width, 1 if width == before else 2))
            before = width
    model = Classifier(nn.Sequential(*layers, GlobalAveragePool()), before, num_classes, dropout)
    init_he_(model)
    return model


resnet20 = partial(cifar_resnet, 20)
resnet32 = partial(cifar_resnet, 32)
resnet44 = partial(cifar_resnet, 44)
resnet56 = partial(cifar_resnet, 56)
resnet110 = partial(cifar_resnet, 110)
