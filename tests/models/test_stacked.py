import pytest
import torch

from emphasis.models.stacked import forward, init_mlps
from emphasis.training.objectives import total_loss
from emphasis.training.settings import Objective
from emphasis.weighting import DM, GCE, MAE

OBJECTIVES = [
    Objective(MAE()),
    Objective(GCE(0.7), "integral"),
    Objective(DM(lam=0.5, beta=12), "batch", 16.6),
    Objective(DM(lam=0.5, beta=8, vanishing=True), "integral"),
]
SEEDS = [3, 4]
SIZES = [6, 7, 5, 4]


def _plain_network(parameters, number):
    """Network `number` of the stack as an ordinary torch module."""
    layers = []
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        linear = torch.nn.Linear(*weight.shape[1:], dtype=weight.dtype)
        linear.weight.data = weight[number].detach().T.clone()
        linear.bias.data = bias[number].detach().clone()
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def test_the_stack_trains_as_its_networks_do_one_by_one():
    from emphasis.torch import EmphasisLoss

    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(10, len(SEEDS), 9, SIZES[0], generator=generator, dtype=torch.float64)
    labels = torch.randint(SIZES[-1], (10, len(SEEDS), 9), generator=generator)
    stack = init_mlps(SIZES, SEEDS, len(OBJECTIVES), torch.float64)
    plain = [_plain_network(stack, number) for number in range(len(stack[0]))]

    optimizer = torch.optim.SGD(stack, lr=0.1, momentum=0.9)
    for x, y in zip(inputs, labels, strict=True):
        optimizer.zero_grad()
        total_loss(OBJECTIVES, forward(stack, x.repeat(len(OBJECTIVES), 1, 1)), y).backward()
        optimizer.step()

    for number, network in enumerate(plain):
        objective = OBJECTIVES[number // len(SEEDS)]
        criterion = EmphasisLoss(
            objective.weighting, normalization=objective.normalization, max_margin=objective.max_margin
        )
        own = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for x, y in zip(inputs[:, number % len(SEEDS)], labels[:, number % len(SEEDS)], strict=True):
            own.zero_grad()
            criterion(network(x), y).backward()
            own.step()
        for layer, linear in enumerate(network[::2]):
            torch.testing.assert_close(stack[2 * layer][number], linear.weight.T, rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(stack[2 * layer + 1][number], linear.bias, rtol=1e-11, atol=1e-12)


def test_a_network_starts_from_its_seed_alone():
    first, second = init_mlps([3, 4], [0, 1], 2)[0], init_mlps([3, 4], [1], 1)[0]
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[1], second[0])
    assert not torch.equal(first[0], first[1])
    assert first.abs().max() <= 3**-0.5


@pytest.mark.parametrize("hidden", [[], [5]])
def test_any_depth(hidden):
    parameters = init_mlps([3, *hidden, 2], [0], 1)
    assert forward(parameters, torch.ones(1, 4, 3)).shape == (1, 4, 2)
