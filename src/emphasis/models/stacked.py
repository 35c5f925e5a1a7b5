"""Many networks of one shape as one module: their parameters are stacked, their layers one batched product.

Networks never mix: network s of the stack computes, and is trained to, what it would be alone. On a CPU this is
many times faster than one network after another, whose matrices are too small to keep the cores busy.

A stack of S networks takes inputs (K, N, ...) with K a divisor of S, and network m * K + k sees inputs[k]: so S / K
methods share K seeds' batches, and K = 1 shows the same examples to all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from emphasis.errors import EmphasisValueError

ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


class StackedMLP(nn.Module):
    """copies * len(seeds) multilayer perceptrons, uniform within +-1/sqrt(fan-in) at first like nn.Linear.

    Network `copy * len(seeds) + k` starts from `seeds[k]` alone, so all copies start alike.

    Args:
        layer_sizes: [inputs, hidden, ..., classes], at least two.
        seeds: One integer per network of a copy.
        copies: Number of copies.
        activation: Of the hidden layers: "relu", "sigmoid" or "tanh".
        dtype: Of the parameters; drawn in float64, so that dtypes start alike too.

    Raises:
        ValueError: An unknown activation.
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        seeds: Sequence[int],
        copies: int = 1,
        *,
        activation: str = "relu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise EmphasisValueError(f"activation={activation!r} is not allowed; use one of {', '.join(ACTIVATIONS)}")
        self.activation = activation
        self.num_networks = copies * len(seeds)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for fan_in, fan_out in itertools.pairwise(layer_sizes):
            for parameters, shape in ((self.weights, (fan_in, fan_out)), (self.biases, (1, fan_out))):
                drawn = [torch.rand(shape, generator=g, dtype=torch.float64) for g in generators]
                one = (2.0 * torch.stack(drawn) - 1.0) / fan_in**0.5
                parameters.append(nn.Parameter(one.to(dtype).repeat(copies, 1, 1)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (S, N, C) for inputs (K, N, ...), each example flattened."""
        inputs = inputs.flatten(2)
        seeds, examples, width = inputs.shape
        first = self.weights[0]
        # The networks that share inputs share one product: one large matrix instead of many small ones.
        joined = first.view(-1, seeds, width, first.shape[2]).permute(1, 2, 0, 3).flatten(2)
        hidden = torch.bmm(inputs, joined).view(seeds, examples, -1, first.shape[2])
        hidden = hidden.permute(2, 0, 1, 3).reshape(self.num_networks, examples, -1)
        activations: Tensor = hidden + self.biases[0]
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            activations = torch.baddbmm(bias, ACTIVATIONS[self.activation](activations), weight)
        return activations

    def features(self, inputs: Tensor) -> Tensor:
        """Return what the last layer sees, (S, N, width), for inputs (K, N, ...)."""
        hidden = inputs.flatten(2).repeat(self.num_networks // len(inputs), 1, 1)
        for weight, bias in list(zip(self.weights, self.biases, strict=True))[:-1]:
            hidden = ACTIVATIONS[self.activation](torch.baddbmm(bias, hidden, weight))
        return hidden


def at_own_rates(
    optimizer: torch.optim.Optimizer,
    rates: Sequence[float],
    held: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda parameter, of_networks: (parameter, of_networks),
) -> None:
    """Let each network of a stack be trained at a learning rate of its own.

    Each step is taken at the optimizer's rate, and network s then goes `rates[s]` of the way. That is the step at so
    much of the rate wherever steps are proportional to it, as those of SGD, Adam and AdamW are.

    Args:
        optimizer: Over the parameters of a stack.
        rates: One per network, shares of the optimizer's rate.
        held: Returns what of a parameter, and of values of all networks, is on this rank.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shares = torch.tensor(rates, dtype=parameters[0].dtype, device=parameters[0].device)
    before: list[Tensor] = []

    def keep(*_: object) -> None:
        before[:] = [held(parameter, shares)[0].detach().clone() for parameter in parameters]

    @torch.no_grad()
    def shorten(*_: object) -> None:
        for parameter, old in zip(parameters, before, strict=True):
            own, share = held(parameter, shares)
            own.copy_(old.lerp(own, share.to(own).view(-1, *[1] * (own.ndim - 1))))

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(shorten)


@torch.no_grad()
def init_like_stack(network: nn.Module, seed: int) -> None:
    """Give a multilayer perceptron of linear layers the parameters that one in a stack starts from, by its seed."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    stack = StackedMLP([layers[0].in_features, *(layer.out_features for layer in layers)], [seed])
    for layer, weight, bias in zip(layers, stack.weights, stack.biases, strict=True):
        layer.weight.copy_(weight[0].T)
        layer.bias.copy_(bias[0, 0])


class SingleNetwork(nn.Module):
    """Any network (N, ...) -> (N, C) as a stack of one: (1, N, ...) -> (1, N, C)."""

    num_networks = 1

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (1, N, C) for inputs (1, N, ...)."""
        logits: Tensor = self.network(inputs.squeeze(0))
        return logits.unsqueeze(0)


Stack = StackedMLP | SingleNetwork
