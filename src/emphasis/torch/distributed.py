"""A batch that is spread over ranks, or over several calls of the loss, or both: its sums, and `Accumulation`.

With valid examples i of all ranks and calls, f_i their class and sample weights, d_i the derivative of unit L1 norm
and w_i the weight, the gradient of the whole batch is

    None, "integral"    sum_i f_i w_i d_i / sum_i f_i
    "batch"             sum_i f_i w_i d_i / sum_i f_i w_i

Both are one sum divided by another, and neither divisor is differentiated: so the numerators can be added up call by
call, in any unit, and divided in the end. No second forward pass is needed, dropout and batch norm stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from emphasis.compatibility.torch import in_backward_pass
from emphasis.errors import EmphasisOverflowError, EmphasisRuntimeError
from emphasis.torch._checks import is_true


class Accumulation:
    """Makes the calls of a loss between two steps of the optimizer one batch, on one rank or on many.

    Given as `process_group` to `EmphasisLoss`, `emphasis_loss` or `linear_emphasis_loss`, with reduction "mean" or
    normalization "batch"::

        whole = Accumulation()  # or Accumulation(torch.distributed.group.WORLD)
        criterion = EmphasisLoss(process_group=whole)
        with whole.step(model.parameters()):
            for x, labels in micro_batches:
                criterion(model(x), labels).backward()
        optimizer.step()

    Every call is normalized by the divisor s_1 of the first call that has one; at the end of the step the gradients
    are multiplied by s_1 / (s_1 + ... + s_M), s_m being a call's divisor over all ranks (see the module). A step of
    one call is the loss as it is without accumulation, bit for bit. Outside a step each call is a batch of its own.
    `Relative` weighs the examples of each call by the means over that call.

    Args:
        process_group: As in `emphasis_loss`: the ranks over which each call's examples are spread, or None.

    Attributes:
        factor: Of the last step, a scalar tensor: the sum of the calls' losses times it is the whole batch's loss.
    """

    factor: Tensor

    def __init__(self, process_group: Any = None) -> None:
        self.process_group = process_group
        self._under_way = False
        self._sums: list[Tensor] = []  # the first call's peak and sum, all calls' sum

    @contextmanager
    def step(self, parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
        """Make every call of the loss inside one batch; at the end multiply the gradients of `parameters` once.

        Inside, the gradients must come from this loss alone: zero them before, clip and unscale after, call
        `backward` on other terms after. Under `no_sync` of DistributedDataParallel, or `set_requires_gradient_sync`
        of `fully_shard`, let the last `backward` inside synchronize. All ranks make equally many calls; a rank without
        examples for one makes it with an empty batch, or with labels that are all ignored.

        Raises:
            RuntimeError: Another step is under way, no call was counted, no parameter has a gradient, or a call would
                be counted wrongly: inside torch.compile, or in a backward pass (a second `backward` of one loss,
                `create_graph`, or the loss inside an activation checkpoint).
            OverflowError: Weights, or under "batch" a call's share of them beside the first's, exceed the dtype: a
                ratio of exp(88) in float32. Read on the CPU only; elsewhere the gradients become NaN.
        """
        if self._under_way:
            raise EmphasisRuntimeError(
                "a step of this Accumulation is under way; use one of its own for each step at a time"
            )
        given = list(parameters)
        self._under_way, self._sums = True, []
        try:
            yield
        finally:
            self._under_way = False
        if not self._sums:
            raise EmphasisRuntimeError(
                "no call of the loss was counted in this step: pass the Accumulation as the loss's process_group, with "
                'reduction="mean" or normalization="batch", and call the loss inside the step, outside torch.compile'
            )
        gradients = [one.grad for one in given if one.grad is not None]
        if not gradients:
            raise EmphasisRuntimeError(
                "no parameter has a gradient at the end of the step: call backward inside it, synchronized, and pass "
                "the parameters that the optimizer has"
            )
        _, unit, total = self._sums
        if is_true(~total.isfinite()):
            raise EmphasisOverflowError(
                f"a call's weights are so much larger than those of the step's first that {total.dtype} does not hold "
                "their ratio; use float64, or a smaller beta"
            )
        self.factor = torch.where(total == 0.0, 1.0, unit / total)
        with torch.no_grad():
            for gradient in gradients:
                gradient.mul_(self.factor.to(gradient.device))

    def _in_units_of_step(self, peak: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """Count exp(peak) * total, and return peak and sum of the call that is this step's unit."""
        if not self._under_way:
            return peak, total
        if torch.compiler.is_compiling():
            raise EmphasisRuntimeError(
                "call a loss under Accumulation outside torch.compile, which would count it only once"
            )
        if in_backward_pass():
            raise EmphasisRuntimeError(
                "a loss under Accumulation is computed again in a backward pass, and would count twice: call backward "
                "once, without create_graph, and keep the loss out of activation checkpoints"
            )
        if not self._sums:
            self._sums = [peak, total, total]
            return peak, total
        first, unit, counted = self._sums
        none_yet = counted == 0.0
        first, unit = torch.where(none_yet, peak, first), torch.where(none_yet, total, unit)
        own = torch.where(total == 0.0, 0.0, (peak - first).exp() * total)
        self._sums = [first, unit, counted + own]
        return first, unit


def global_sum(total: Tensor, over: Any) -> Tensor:
    """Return what a mean divides by, of which this call on this rank has `total`, a scalar >= 0; 1 instead of 0.

    Args:
        total: The sum of the factors f_i here.
        over: A process group, an `Accumulation`, or None.
    """
    group = _group_of(over)
    total = _sum_over_ranks(total, group)
    if isinstance(over, Accumulation):
        total = over._in_units_of_step(total.new_zeros(()), total)[1]
    return _nonzero(total)


def mean_over_ranks(total: Tensor, count: Tensor, over: Any) -> Tensor:
    """Return total / count, sums over the ranks of which this one has its part; 0 for a count of 0.

    Args:
        total: (..., K).
        count: (..., 1) >= 0.
        over: A process group, an `Accumulation`, of which this is one call alone, or None.
    """
    both = _sum_over_ranks(torch.cat((total, count), -1), _group_of(over))
    total, count = both[..., :-1], both[..., -1:]
    return torch.where(count == 0.0, 0.0, total / _nonzero(count))


def global_max_and_sumexp(log_share: Tensor, over: Any) -> tuple[Tensor, Tensor]:
    """Return a peak and the sum of exp(share - peak) over the whole batch; 0 and 1 if there is no share.

    The peak is the largest log share of one call over all ranks: of this one, or of the step's first.

    Args:
        log_share: Of this call's examples on this rank, log(f_i w_i); -inf for those that do not count.
        over: A process group, an `Accumulation`, or None.
    """
    group = _group_of(over)
    peak = log_share.amax() if log_share.numel() else log_share.new_full((), -math.inf)
    if group is not None:
        dist.all_reduce(peak, dist.ReduceOp.MAX, group)
    peak = torch.where(peak == -math.inf, 0.0, peak)
    total = _sum_over_ranks((log_share - peak).exp().sum(), group)
    if isinstance(over, Accumulation):
        peak, total = over._in_units_of_step(peak, total)
    return peak, _nonzero(total)


def global_logsumexp(log_sum: Tensor, group: Any) -> Tensor:
    """Return the logarithm of the sum over ranks, divided by their number, of which this one has exp(log_sum).

    Args:
        log_sum: Any shape, the same on all ranks; -inf for nothing.
        group: A process group.
    """
    peak = log_sum.clone()
    dist.all_reduce(peak, dist.ReduceOp.MAX, group)
    peak = torch.where(peak == -math.inf, 0.0, peak)
    return peak + _sum_over_ranks((log_sum - peak).exp(), group).log()


def rank_slice(group: Any) -> slice:
    """Return which rows of a batch are this rank's, where ranks take them in turn: every W-th of W ranks'."""
    return slice(dist.get_rank(group), None, dist.get_world_size(group))


def all_gather_rows(own: Tensor, number: int, group: Any) -> Tensor:
    """Return all rows of a batch, (number, ...), on every rank, in order.

    Its derivative is for a loss that each rank computes of all rows alike, under a wrapper that averages gradients over
    ranks, as DDP and FSDP do: the own rows' derivative, times the number of ranks.

    Args:
        own: This rank's rows, those of `rank_slice`; there may be none.
        number: Of rows of all ranks together.
        group: A process group.
    """
    rows: Tensor = _AllGatherRows.apply(own, number, group)  # type: ignore[no-untyped-call]
    return rows


class _AllGatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, number: int, group: Any) -> Tensor:
        ctx.group = group
        ranks = dist.get_world_size(group)
        padded = own.new_zeros(-(-number // ranks), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(ranks)]
        dist.all_gather(parts, padded, group)
        return torch.stack(parts, 1).flatten(0, 1)[:number]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[rank_slice(ctx.group)] * dist.get_world_size(ctx.group), None, None


def _group_of(over: Any) -> Any:
    return over.process_group if isinstance(over, Accumulation) else over


def _sum_over_ranks(total: Tensor, group: Any) -> Tensor:
    """Return the sum over all ranks divided by the number of ranks, because DDP and FSDP average over them."""
    if group is None:
        return total
    total = total.clone()
    dist.all_reduce(total, dist.ReduceOp.SUM, group)
    return total / dist.get_world_size(group)


def _nonzero(total: Tensor) -> Tensor:
    return torch.where(total == 0.0, 1.0, total)
