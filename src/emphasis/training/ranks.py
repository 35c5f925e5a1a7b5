"""Work without derivatives, shared out to ranks in whole batches, so that results have one process's bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_map_only

from emphasis.datasets.errors import DamagedFileError

T = TypeVar("T")


def dealt(parts: Sequence[T], group: Any) -> Sequence[T]:
    """Return this rank's of the parts, every W-th of W ranks'; the last one again where others have one more.

    So that all make as many calls of a network, which they must where each has a share of it.

    Args:
        parts: The same on all ranks, one or more.
        group: The ranks; None: this process alone, which has all.
    """
    if group is None:
        return parts
    ranks, own = dist.get_world_size(group), dist.get_rank(group)
    return [parts[min(number, len(parts) - 1)] for number in range(own, -(-len(parts) // ranks) * ranks, ranks)]


def exchanged(own: Iterable[T], number: int, group: Any) -> Iterator[T]:
    """Yield what came of all `number` parts, in order, from what came of the `dealt` ones; tensors on the CPU.

    Raises:
        DamagedFileError: One that `own` raised, on any rank.
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
        found: list[Any] = [None] * ranks
        dist.all_gather_object(found, mine, group)
        if failed := [one for one in found if isinstance(one, DamagedFileError)]:
            raise failed[0]
        yield from found[: number - done]
