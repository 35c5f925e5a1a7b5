"""A network of which each rank keeps a part (FSDP2), and the state of training as one process would have it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from emphasis.models.stacked import StackOfOne


def sharded(stack: StackOfOne, mesh: DeviceMesh) -> StackOfOne:
    """Return the stack, changed in place, with its parameters, gradients and optimiser's state cut over the ranks.

    A layer with a matrix is put together when its turn comes, and what else there is, such as norms, at the beginning.

    Args:
        stack: The same on all ranks; its parameters are contiguous.
        mesh: Of Fabric's `ModelParallelStrategy`, all of whose ranks are in "data_parallel".
    """
    over = mesh["data_parallel"]
    network = stack.network  # not the stack, whose output is a view of the network's
    for layer in network.modules():
        if layer is not network and any(parameter.ndim > 1 for parameter in layer.parameters(recurse=False)):
            fully_shard(layer, mesh=over)
    fully_shard(network, mesh=over, reshard_after_forward=True)  # after evaluations as well
    return stack


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
