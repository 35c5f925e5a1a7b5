"""ResNet-50 for ImageNet, with the layout and parameter names of torchvision, for its pretrained parameters.

Source: K. He et al., Deep Residual Learning for Image Recognition, CVPR 2016, Table 1. As in torchvision (and NVIDIA's
"v1.5") a block that halves the resolution does so in its 3 x 3 convolution, not in the first 1 x 1 convolution.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from emphasis.models.layers import GlobalAveragePool, check_dropout, image_channels, init_he_
from emphasis.models.pretrained import load_pretrained

_STAGES = {"layer1": (3, 64, 1), "layer2": (4, 128, 2), "layer3": (6, 256, 2), "layer4": (3, 512, 2)}
"""Number of blocks, width of the 3 x 3 convolutions, stride of the first block, by name of the stage."""
_EXPANSION = 4


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, added to the input or, where shapes change, to its 1 x 1 convolution."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = _EXPANSION * width
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, 4 * width, H / stride, W / stride), sizes rounded up."""
        branch = F.relu(self.bn1(self.conv1(images)), inplace=True)
        branch = F.relu(self.bn2(self.conv2(branch)), inplace=True)
        shortcut = images if self.downsample is None else self.downsample(images)
        return F.relu(self.bn3(self.conv3(branch)) + shortcut, inplace=True)


class ResNet50(nn.Sequential):
    """ResNet-50 with torchvision's module names; 25,557,032 parameters for RGB images and 1,000 classes."""

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False),
            bn1=nn.BatchNorm2d(64),
            relu=nn.ReLU(inplace=True),
            maxpool=nn.MaxPool2d(3, 2, padding=1),
        )
        before = 64
        for name, (blocks, width, stride) in _STAGES.items():
            first = Bottleneck(before, width, stride)
            before = _EXPANSION * width
            layers[name] = nn.Sequential(first, *[Bottleneck(before, width, 1) for _ in range(blocks - 1)])
        layers |= {"avgpool": GlobalAveragePool(), "dropout": nn.Dropout(dropout), "fc": nn.Linear(before, num_classes)}
        super().__init__(layers)

    def features(self, images: Tensor) -> Tensor:
        """Return the features before dropout, (N, 2048)."""
        for name, module in self.named_children():
            if name == "dropout":
                break
            images = module(images)
        return images


def resnet50(input_shape: Sequence[int], num_classes: int, *, dropout: float = 0.0, pretrained: str = "") -> ResNet50:
    """Return ResNet-50.

    Args:
        input_shape: (channels, height, width), such as (3, 224, 224), with sides of at least 32 pixels.
        num_classes: Number of classes C.
        dropout: Dropout rate before the last linear layer, in [0, 1).
        pretrained: File of parameters to start from, as accepted by `emphasis.models.load_pretrained`, such as
            torchvision's for ImageNet. If it is for another number of classes, the last layer keeps its initial
            parameters. "" trains from scratch.

    Raises:
        ValueError: An argument is not allowed, or the file does not fit the network.
        FileNotFoundError: The file does not exist.
    """
    check_dropout(dropout)
    model = ResNet50(image_channels("resnet50", input_shape, 32), num_classes, dropout)
    init_he_(model)
    if pretrained:
        load_pretrained(model, pretrained)
    return model
