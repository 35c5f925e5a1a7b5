"""Parts shared by the networks: the classifier around a body, convolutions, initialization and checks of options."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.errors import EmphasisValueError
from emphasis.validation import check, is_number


class Classifier(nn.Module):
    """A classifier: a body that maps examples to features, dropout, and a last linear layer `fc` that returns logits.

    Attributes:
        body: Module that maps examples (N, ...) to features (N, num_features).
        dropout: Dropout of the features in training.
        fc: Last linear layer, which maps (N, num_features) to (N, num_classes).
    """

    def __init__(self, body: nn.Module, num_features: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(num_features, num_classes)

    def features(self, inputs: Tensor) -> Tensor:
        """Return the features before dropout, (N, num_features)."""
        features: Tensor = self.body(inputs)
        return features

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        logits: Tensor = self.fc(self.dropout(self.features(inputs)))
        return logits


class GlobalAveragePool(nn.Module):
    """Mean over height and width, which maps (N, C, H, W) to (N, C)."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the means, (N, C)."""
        # Unlike that of mean((2, 3)), this gradient keeps the memory format of channels-last images, in which the
        # backward pass of the layers before it is faster
        return F.avg_pool2d(images, images.shape[-2:]).flatten(1)


class Branches(nn.ModuleDict):
    """Modules with the same input, whose outputs are concatenated along the channels."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs, (N, sum of the branches' channels, H', W')."""
        return torch.cat([branch(images) for branch in self.values()], 1)


def conv_norm_relu(
    channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, batch_norm: bool = True
) -> nn.Sequential:
    """Return convolution ("same" padding at stride 1), batch normalization (or else a bias) and ReLU."""
    convolution = nn.Conv2d(channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=not batch_norm)
    norm = [nn.BatchNorm2d(out_channels)] if batch_norm else []
    return nn.Sequential(convolution, *norm, nn.ReLU(inplace=True))


def last_linear(network: nn.Module) -> nn.Linear:
    """Return the last linear layer, whose input is called the features of the network.

    Raises:
        ValueError: The network has no linear layer.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise EmphasisValueError(
            "the network has no nn.Linear layer, whose input would be its features; add a last linear layer"
        )
    return layers[-1]


def detach_input(layer: nn.Module) -> None:
    """Detach the input of a layer, so that the layer is trained on it and no gradient flows to what precedes it."""
    layer.register_forward_pre_hook(_detached)


def _detached(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].detach(), *inputs[1:])


def last_pool(network: nn.Module) -> nn.Module:
    """Return the last global average pool, whose input is called the feature maps of the network.

    Raises:
        ValueError: The network has no global average pool.
    """
    pools = [module for module in network.modules() if isinstance(module, GlobalAveragePool | nn.AdaptiveAvgPool2d)]
    if not pools:
        raise EmphasisValueError(
            "the network has no global average pool, whose input would be its feature maps; use a network for images"
        )
    return pools[-1]


def init_he_(model: nn.Module) -> None:
    """Draw the weights of convolutions from a normal distribution of variance 2 / (k * k * out channels); biases are 0.

    Source: K. He et al., Delving Deep into Rectifiers, ICCV 2015, Eq. 14.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def image_channels(model: str, input_shape: Sequence[int], smallest: int) -> int:
    """Return the number of channels of images of shape (channels, height, width).

    Raises:
        ValueError: The shape is not that of an image, or a side is shorter than `smallest` pixels.
    """
    if len(input_shape) != 3:
        raise EmphasisValueError(
            f"{model} takes images, input_shape=(channels, height, width), not {tuple(input_shape)}; "
            "use the model 'mlp' for vectors"
        )
    channels, height, width = input_shape
    if min(height, width) < smallest:
        raise EmphasisValueError(
            f"{model} needs images of at least {smallest} x {smallest} pixels, got {height} x {width}"
        )
    return channels


def check_dropout(dropout: float) -> None:
    """Check the dropout rate, which must be in [0, 1).

    Raises:
        ValueError: The rate is out of range or NaN.
    """
    holds = is_number(dropout) and 0.0 <= dropout < 1.0
    check(holds, "dropout", dropout, "use the share of features set to zero, 0 <= dropout < 1")


def check_widths(name: str, widths: Sequence[int], shortest: int) -> None:
    """Check the widths of successive layers, which must be at least `shortest` whole numbers >= 1.

    Raises:
        ValueError: There are too few widths, or a width is not allowed.
    """
    listed: object = widths
    valid = isinstance(listed, list | tuple) and all(type(width) is int and width >= 1 for width in listed)
    holds = valid and len(widths) >= shortest
    check(holds, name, widths, f"give at least {shortest} whole numbers >= 1, such as [64, 128]")
