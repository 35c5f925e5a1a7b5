"""Distribution of evaluation over ranks in whole batches, so that results are bit-identical to those of one process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor

from emphasis.compatibility.torch import tree_map_only
from emphasis.datasets.errors import DamagedFileError

T = TypeVar("T")


def deal_round_robin(parts: Sequence[T], group: Any) -> Sequence[T]:
    """Return this rank's parts, every W-th one of W ranks; the last one again where other ranks have one more.

    So all ranks call the network equally often, as they must where each has a shard of it.

    Args:
        parts: The same on all ranks, one or more.
        group: The ranks; None: this process alone, which has all parts.
    """
    if group is None:
        return parts
    ranks, own = dist.get_world_size(group), dist.get_rank(group)
    return [parts[min(number, len(parts) - 1)] for number in range(own, -(-len(parts) // ranks) * ranks, ranks)]


def gather_in_order(own: Iterable[T], number: int, group: Any) -> Iterator[T]:
    """Yield the results of all `number` parts, in order, from this rank's results; tensors on the CPU.

    Raises:
        DamagedFileError: The results of any rank raised one.
    """
    if group is None:
        yield from own
        return
    results = iter(own)
    ranks = dist.get_world_size(group)
    for done in range(0, number, ranks):
        try:
            mine: Any = tree_map_only(Tensor, Tensor.cpu, next(results))
        except DamagedFileError as error:  # on the others as well: they would wait for this one
            mine = error
        gathered: list[Any] = [None] * ranks
        dist.all_gather_object(gathered, mine, group)
        if failed := [result for result in gathered if isinstance(result, DamagedFileError)]:
            raise failed[0]
        yield from gathered[: number - done]
