"""Networks that are sharded over ranks (FSDP2), and their unsharded state for checkpoints."""

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
    """Return the stack, changed in place, with its parameters, gradients and optimizer state sharded over the ranks.

    Layers with matrices are gathered one by one as they are used; other parameters, such as those of norms, are
    gathered at the beginning. A stack of perceptrons is sharded along its networks and gathered at once. Parameters of
    a method outside of its networks are not sharded; each rank computes their whole derivative.

    Args:
        stack: Stack with contiguous parameters, the same on all ranks.
        mesh: Device mesh of Fabric's `ModelParallelStrategy`, with all ranks in "data_parallel".
    """
    over = mesh["data_parallel"]
    for network in _networks(stack):
        for layer in network.modules():
            matrices = any(parameter.ndim > 1 for parameter in layer.parameters(recurse=False))
            if matrices and layer is not network and not isinstance(network, StackedMLP):
                fully_shard(layer, mesh=over)
        fully_shard(network, mesh=over, reshard_after_forward=True)  # reshards after evaluations as well
    return stack


def _networks(stack: Stack) -> list[nn.Module]:
    """Return the networks that are called, and their copies, but not a `SingleNetwork`, whose output is a view."""
    if isinstance(stack, StackedMLP):
        return [stack]
    if isinstance(stack.network, Learner):
        learner = stack.network
        return [network for network in (learner.network, learner.peer, learner.kept) if network is not None]
    return [stack.network]


def local_part(value: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parts of a tensor (S, ...) with a parameter's sharding, and of `rows` (S,), that this rank holds.

    All ranks must call this. Tensors that are not sharded share memory with the arguments.
    """
    if not isinstance(value, DTensor):
        return value, rows
    cut = distribute_tensor(rows, value.device_mesh, value.placements)
    return value.to_local(), cut.to_local()


def gather_full(tree: Any, keep: bool = True) -> Any:
    """Return nested containers with every sharded tensor gathered on the CPU; all ranks must call this.

    Args:
        tree: Dictionaries and lists; tensors that are not sharded are returned unchanged.
        keep: Whether this rank keeps the gathered tensors; if not, they are replaced by None.
    """

    def put_together(part: DTensor) -> Tensor | None:
        together = part.full_tensor()
        return together.cpu() if keep else None

    return tree_map_only(DTensor, put_together, tree)


def load_full(module: nn.Module, optimizer: Any, states: dict[str, Any], slots: dict[str, Any]) -> None:
    """Load state dictionaries returned by `gather_full`, sharded like the module's parameters.

    All ranks must call this.

    Args:
        module: Module set up by Fabric.
        optimizer: Optimizer of its parameters, set up by Fabric.
        states: State dictionary of the module.
        slots: State dictionary of the optimizer.
    """
    module_state = module.state_dict()
    module.load_state_dict({name: _cut_as(value, module_state.get(name)) for name, value in states.items()})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {name: _cut_as(value, parameters[number]) for name, value in values.items()}
        for number, values in slots["state"].items()
    }
    optimizer.load_state_dict({**slots, "state": state})


def _cut_as(value: Any, like: Any) -> Any:
    """Return `value` with the sharding of `like`, if both are tensors of the same shape and `like` is sharded."""
    if isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape:
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value
