"""What the networks share: checks of their options, convolutions, initialization and the classifier around a body."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emphasis.errors import EmphasisValueError
from emphasis.validation import check, is_number


class Classifier(nn.Module):
    """A body that turns examples into features, dropout, and a last linear layer `fc` that turns them into logits.

    Attributes:
        body: (N, ...) examples to (N, num_features).
        dropout: Applied to the features in training.
        fc: The last linear layer, (N, num_features) to (N, num_classes).
    """

    def __init__(self, body: nn.Module, num_features: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = body
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(num_features, num_classes)

    def features(self, inputs: Tensor) -> Tensor:
        """Return what the last layer sees, (N, num_features), before dropout."""
        features: Tensor = self.body(inputs)
        return features

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        logits: Tensor = self.fc(self.dropout(self.features(inputs)))
        return logits


class GlobalAveragePool(nn.Module):
    """Mean over height and width: (N, C, H, W) to (N, C)."""

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, C)."""
        return images.mean((2, 3))


class Branches(nn.ModuleDict):
    """Modules that see the same input and whose outputs are concatenated along the channels."""

    def forward(self, images: Tensor) -> Tensor:
        """Return (N, the branches' channels together, H', W')."""
        return torch.cat([branch(images) for branch in self.values()], 1)


def conv_norm_relu(
    channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, batch_norm: bool = True
) -> nn.Sequential:
    """Return convolution ("same" padding at stride 1), batch normalization and ReLU; a bias stands in for no norm."""
    convolution = nn.Conv2d(channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=not batch_norm)
    norm = [nn.BatchNorm2d(out_channels)] if batch_norm else []
    return nn.Sequential(convolution, *norm, nn.ReLU(inplace=True))


def last_linear(network: nn.Module) -> nn.Linear:
    """Return the last linear layer, whose input is what is called a network's features.

    Raises:
        ValueError: There is none.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise EmphasisValueError("the network has no last nn.Linear, whose input would be its features; add one")
    return layers[-1]


def detach_input(layer: nn.Module) -> None:
    """Let a layer learn from what a network makes of inputs, and the network learn nothing from the layer."""
    layer.register_forward_pre_hook(_detached)


def _detached(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].detach(), *inputs[1:])


def last_pool(network: nn.Module) -> nn.Module:
    """Return the last global average pool, whose input is what is called a network's maps.

    Raises:
        ValueError: There is none.
    """
    pools = [module for module in network.modules() if isinstance(module, GlobalAveragePool | nn.AdaptiveAvgPool2d)]
    if not pools:
        raise EmphasisValueError(
            "the network has no global average pool, whose input would be its maps; use one of images"
        )
    return pools[-1]


def init_he_(model: nn.Module) -> None:
    """Draw every convolution from He et al.'s normal distribution of variance 2 / (k * k * out channels); biases 0.

    Source: K. He et al., Delving Deep into Rectifiers, ICCV 2015, Eq. 14.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def image_channels(model: str, input_shape: Sequence[int], smallest: int) -> int:
    """Return the channels of one example's shape (channels, height, width).

    Raises:
        ValueError: The shape is not that of an image, or a side is under `smallest` pixels.
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
    """Check the probability with which a feature is zeroed in training, in [0, 1).

    Raises:
        ValueError: It is out of range or NaN.
    """
    holds = is_number(dropout) and 0.0 <= dropout < 1.0
    check(holds, "dropout", dropout, "it is the share of features zeroed, 0 <= dropout < 1")


def check_widths(name: str, widths: Sequence[int], shortest: int) -> None:
    """Check the widths of successive layers: at least `shortest` whole numbers >= 1.

    Raises:
        ValueError: They are not.
    """
    listed: object = widths
    whole = isinstance(listed, list | tuple) and all(type(width) is int and width >= 1 for width in listed)
    holds = whole and len(widths) >= shortest
    check(holds, name, widths, f"give at least {shortest} whole numbers >= 1, as [64, 128]")
