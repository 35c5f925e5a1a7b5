"""BN-Inception (GoogLeNet V2) for 224 x 224 images: S. Ioffe and C. Szegedy, Batch Normalization, ICML 2015, Figure 5.

The figure prints 576 channels for modules 4c and 4d, but the widths in its own columns add up to 608 (and those of 4e
to 1,056, not 1,024). This network follows the columns, like the published pretrained parameters.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from emphasis.errors import EmphasisValueError
from emphasis.models.layers import (
    Branches,
    Classifier,
    GlobalAveragePool,
    check_dropout,
    conv_norm_relu,
    image_channels,
    init_he_,
)

_TOTAL_STRIDE = 32
_STEM = {
    "conv1_7x7_s2": (64, 7, 2),
    "pool1": None,
    "conv2_3x3_reduce": (64, 1, 1),
    "conv2_3x3": (192, 3, 1),
    "pool2": None,
}
"""Name: channels, kernel size and stride of a convolution, or None for a 3 x 3 max pool of stride 2."""


class Inception(NamedTuple):
    """Channels of one module's convolutions: one row of the paper's Figure 5.

    `conv1` = 0 marks a module of stride 2: it has no 1 x 1 branch and passes the pooled input on without projection.
    """

    conv1: int
    reduce3: int
    conv3: int
    reduce_double3: int
    double3: int
    pool: Literal["avg", "max"]
    projection: int

    @property
    def stride(self) -> int:
        """Stride of the module: 2 if it halves the resolution, otherwise 1."""
        return 1 if self.conv1 else 2

    def out_channels(self, channels: int) -> int:
        """Channels of the concatenated branches for an input of `channels`."""
        return self.conv1 + self.conv3 + self.double3 + (self.projection or channels)


_MODULES = {
    "3a": Inception(64, 64, 64, 64, 96, "avg", 32),
    "3b": Inception(64, 64, 96, 64, 96, "avg", 64),
    "3c": Inception(0, 128, 160, 64, 96, "max", 0),
    "4a": Inception(224, 64, 96, 96, 128, "avg", 128),
    "4b": Inception(192, 96, 128, 96, 128, "avg", 128),
    "4c": Inception(160, 128, 160, 128, 160, "avg", 128),
    "4d": Inception(96, 128, 192, 160, 192, "avg", 128),
    "4e": Inception(0, 128, 192, 192, 256, "max", 0),
    "5a": Inception(352, 192, 320, 160, 224, "avg", 128),
    "5b": Inception(352, 192, 320, 192, 224, "max", 128),
}


def _inception(channels: int, row: Inception) -> Branches:
    double = [
        conv_norm_relu(channels, row.reduce_double3, 1),
        conv_norm_relu(row.reduce_double3, row.double3, 3),
        conv_norm_relu(row.double3, row.double3, 3, stride=row.stride),
    ]
    branches = {
        "3x3": nn.Sequential(
            conv_norm_relu(channels, row.reduce3, 1), conv_norm_relu(row.reduce3, row.conv3, 3, stride=row.stride)
        ),
        "double_3x3": nn.Sequential(*double),
    }
    if row.stride == 2:
        return Branches(branches | {"pool": _halving_pool()})
    pool = nn.AvgPool2d(3, 1, padding=1) if row.pool == "avg" else nn.MaxPool2d(3, 1, padding=1)
    pooled = nn.Sequential(pool, conv_norm_relu(channels, row.projection, 1))
    return Branches({"1x1": conv_norm_relu(channels, row.conv1, 1), **branches, "pool": pooled})


def _halving_pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


class BNInception(Classifier):
    """BN-Inception; `features` returns (N, 1024). It has 11,295,240 parameters, not counting biases of convolutions."""

    def from_standard(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the parameters of the published PyTorch file, converted from Caffe, to those of this network.

        Names that are not in that file are kept. The convolutions in the file have biases. Since a batch normalization
        follows each convolution, its bias is subtracted from the running mean instead.
        """
        ours = [name for name, module in self.named_modules() if isinstance(module, nn.Conv2d)]
        renamed = dict(state)
        for standard, convolution in zip(_standard_names(), ours, strict=True):
            norm = f"{convolution.rpartition('.')[0]}.1"
            if f"{standard}.weight" in renamed:
                renamed[f"{convolution}.weight"] = renamed.pop(f"{standard}.weight")
            prefix = f"{standard}_bn."
            for key in [key for key in renamed if key.startswith(prefix)]:
                renamed[f"{norm}.{key.removeprefix(prefix)}"] = renamed.pop(key)
            mean = f"{norm}.running_mean"
            bias = renamed.get(f"{standard}.bias")
            if bias is not None and mean in renamed and bias.shape == renamed[mean].shape:
                renamed[mean] = renamed[mean] - renamed.pop(f"{standard}.bias")
        for part in ("weight", "bias"):
            if f"last_linear.{part}" in renamed:
                renamed[f"fc.{part}"] = renamed.pop(f"last_linear.{part}")
        return renamed


def _standard_names() -> Iterator[str]:
    """Yield the published file's names of the convolutions, in the order of this network's parameters."""
    yield from (name for name, convolution in _STEM.items() if convolution is not None)
    for module, row in _MODULES.items():
        branches = ["3x3_reduce", "3x3", "double_3x3_reduce", "double_3x3_1", "double_3x3_2"]
        if row.stride == 1:
            branches = ["1x1", *branches, "pool_proj"]
        yield from (f"inception_{module}_{branch}" for branch in branches)


def bn_inception(input_shape: Sequence[int], num_classes: int, *, dropout: float = 0.0) -> BNInception:
    """Return BN-Inception; `emphasis.models.load_pretrained` loads pretrained parameters.

    The published parameters expect channels in the order blue, green, red, with values from 0 to 255 from which the
    means 104, 117 and 128 are subtracted.

    Args:
        input_shape: (channels, height, width), such as (3, 224, 224); height and width must be multiples of 32.
        num_classes: Number of classes C.
        dropout: Dropout rate before the last linear layer, in [0, 1).

    Raises:
        ValueError: An argument is not allowed.
    """
    check_dropout(dropout)
    channels = image_channels("googlenet-v2", input_shape, _TOTAL_STRIDE)
    height, width = input_shape[1:]
    if height % _TOTAL_STRIDE or width % _TOTAL_STRIDE:
        raise EmphasisValueError(
            f"googlenet-v2 halves its images five times, so their sides must be multiples of {_TOTAL_STRIDE}, "
            f"such as 224 x 224; got {height} x {width}"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, convolution in _STEM.items():
        if convolution is None:
            layers[name] = _halving_pool()
        else:
            out_channels, kernel_size, stride = convolution
            layers[name] = conv_norm_relu(channels, out_channels, kernel_size, stride=stride)
            channels = out_channels
    for name, row in _MODULES.items():
        layers[name] = _inception(channels, row)
        channels = row.out_channels(channels)
    layers["pool5"] = GlobalAveragePool()
    model = BNInception(nn.Sequential(layers), channels, num_classes, dropout)
    init_he_(model)
    return model
