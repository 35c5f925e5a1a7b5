"""The multilayer perceptron for vectors or flattened images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import nn

from emphasis.errors import EmphasisValueError
from emphasis.models.layers import check_dropout, check_widths
from emphasis.texts import did_you_mean

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


def mlp(
    input_shape: Sequence[int],
    num_classes: int,
    *,
    hidden: Sequence[int] = (64,),
    activation: str = "relu",
    dropout: float = 0.0,
) -> nn.Sequential:
    """Return a multilayer perceptron with PyTorch's default initialization, uniform in +-1/sqrt(fan-in).

    Args:
        input_shape: Shape of an example, (D,) or any shape, which is flattened.
        num_classes: Number of classes C.
        hidden: Number of units of each hidden layer; without any, the network is a linear classifier.
        activation: Activation after each hidden layer: "relu", "sigmoid" or "tanh".
        dropout: Dropout rate before the last linear layer, in [0, 1).

    Raises:
        ValueError: An argument is not allowed.
    """
    check_widths("hidden", hidden, 0)
    check_dropout(dropout)
    if activation not in _ACTIVATIONS:
        hint = did_you_mean(str(activation), _ACTIVATIONS)
        raise EmphasisValueError(f"activation={activation!r} is unknown{hint}; known: {', '.join(_ACTIVATIONS)}")
    sizes = [math.prod(input_shape), *hidden]
    layers: list[nn.Module] = [] if len(input_shape) == 1 else [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), _ACTIVATIONS[activation]()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))
