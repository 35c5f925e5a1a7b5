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
    """Return every W-th part for this rank of W ranks; the last part is repeated where other ranks have one more.

    All ranks thus call the network equally often, which is required if each has a shard of it.

    Args:
        parts: One or more parts, the same on all ranks.
        group: Process group of the ranks; None for this process alone, which gets all parts.
    """
    if group is None:
        return parts
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    return [parts[min(number, len(parts) - 1)] for number in range(rank, -(-len(parts) // ranks) * ranks, ranks)]


def gather_in_order(results_of_rank: Iterable[T], number: int, group: Any) -> Iterator[T]:
    """Yield the results of all `number` parts, in order, from this rank's results; tensors on the CPU.

    Raises:
        DamagedFileError: The results of any rank raised one.
    """
    if group is None:
        yield from results_of_rank
        return
    results = iter(results_of_rank)
    ranks = dist.get_world_size(group)
    for done in range(0, number, ranks):
        try:
            result_of_rank: Any = tree_map_only(Tensor, Tensor.cpu, next(results))
        except DamagedFileError as error:  # raised on all ranks, since the others would wait for this rank
            result_of_rank = error
        gathered: list[Any] = [None] * ranks
        dist.all_gather_object(gathered, result_of_rank, group)
        if failed := [result for result in gathered if isinstance(result, DamagedFileError)]:
            raise failed[0]
        yield from gathered[: number - done]
