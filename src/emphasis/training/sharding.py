"""A network of which each rank keeps a part (FSDP2), and the state of training as one process would have it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from emphasis.baselines import Learner
from emphasis.compatibility.torch import tree_map_only
from emphasis.models.stacked import Stack, StackedMLP


def sharded(stack: Stack, mesh: DeviceMesh) -> Stack:
    """Return the stack, changed in place, with its parameters, gradients and optimiser's state cut over the ranks.

    A layer with a matrix is put together when its turn comes, and what else there is, such as norms, at the beginning.
    A stack of perceptrons is cut between networks, and put together as one. What a method has besides its networks is
    kept whole: each rank computes all of its derivative.

    Args:
        stack: The same on all ranks; its parameters are contiguous.
        mesh: Of Fabric's `ModelParallelStrategy`, all of whose ranks are in "data_parallel".
    """
    over = mesh["data_parallel"]
    for network in _networks(stack):
        for layer in network.modules():
            matrices = any(parameter.ndim > 1 for parameter in layer.parameters(recurse=False))
            if matrices and layer is not network and not isinstance(network, StackedMLP):
                fully_shard(layer, mesh=over)
        fully_shard(network, mesh=over, reshard_after_forward=True)  # after evaluations as well
    return stack


def _networks(stack: Stack) -> list[nn.Module]:
    """Return what is called, or copied from what is; not a stack of one, whose output is a view of its network's."""
    if isinstance(stack, StackedMLP):
        return [stack]
    if isinstance(stack.network, Learner):
        learner = stack.network
        return [one for one in (learner.network, learner.peer, learner.kept) if one is not None]
    return [stack.network]


def held(value: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return what this rank holds of a parameter or its like, (S, ...), and of `rows`, (S,); all ranks must call this.

    Both share memory with what is given, if nothing is cut.
    """
    if not isinstance(value, DTensor):
        return value, rows
    cut = distribute_tensor(rows, value.device_mesh, value.placements)
    return value.to_local(), cut.to_local()


def whole(tree: Any, keep: bool = True) -> Any:
    """Return nested containers with every sharded tensor put together on the CPU; all ranks must call this.

    Args:
        tree: Dictionaries and lists; other tensors than sharded ones stay as they are.
        keep: Whether this rank wants them; if not, it has None in their place.
    """

    def put_together(part: DTensor) -> Tensor | None:
        together = part.full_tensor()
        return together.cpu() if keep else None

    return tree_map_only(DTensor, put_together, tree)


def load_whole(module: nn.Module, optimizer: Any, states: dict[str, Any], slots: dict[str, Any]) -> None:
    """Load the state dictionaries that `whole` returned, cut as the module's parameters are; all ranks must call this.

    Args:
        module: Set up by Fabric.
        optimizer: Over its parameters, likewise.
        states: The module's.
        slots: The optimiser's.
    """
    own = module.state_dict()
    module.load_state_dict({name: _cut_as(value, own.get(name)) for name, value in states.items()})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {name: _cut_as(value, parameters[number]) for name, value in values.items()}
        for number, values in slots["state"].items()
    }
    optimizer.load_state_dict({**slots, "state": state})


def _cut_as(value: Any, like: Any) -> Any:
    """Return `value` with the shards of `like`, if it is a tensor of that shape and `like` has any."""
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value
