"""Sums of a batch that is distributed over ranks, over several calls of the loss, or both, and `Accumulation`.

With valid examples i of all ranks and calls, f_i their class and sample weights, d_i the derivative of unit L1 norm
and w_i the weight, the gradient of the whole batch is

    None, "integral"    sum_i f_i w_i d_i / sum_i f_i
    "batch"             sum_i f_i w_i d_i / sum_i f_i w_i

Both are quotients of two sums, and the divisors are not differentiated. The numerators can therefore be summed over
calls, in any unit, and divided at the end. No second forward pass is needed, which dropout and batch norm would affect.
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
    """Treats the calls of a loss between two steps of the optimizer as one batch, on one rank or several.

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
    one call has the same result as without accumulation, bit for bit. Outside a step each call is a batch of its own.
    `Relative` uses the means over each call.

    Args:
        process_group: Ranks over which the examples of each call are distributed, as in `emphasis_loss`, or None.

    Attributes:
        factor: Scalar tensor of the last step. The sum of the losses of its calls times this factor is the loss of the
            whole batch.
    """

    factor: Tensor

    def __init__(self, process_group: Any = None) -> None:
        self.process_group = process_group
        self._under_way = False
        self._sums: list[Tensor] = []  # peak and sum of the first call, and sum over all calls

    @contextmanager
    def step(self, parameters: Iterable[torch.nn.Parameter]) -> Iterator[None]:
        """Treat all calls of the loss in the context as one batch; rescale the gradients of `parameters` at the end.

        In the context the gradients must come from this loss only: set them to zero before, and clip them, unscale them
        and call `backward` for other terms after it. Under `no_sync` of DistributedDataParallel, or
        `set_requires_gradient_sync` of `fully_shard`, let the last `backward` synchronize. All ranks make the same
        number of calls; a rank without examples for a call makes it with an empty batch, or with labels that are all
        ignored.

        Args:
            parameters: The parameters that the optimizer has.

        Raises:
            RuntimeError: Another step has not ended, no call was counted, no parameter has a gradient, or a call cannot
                be counted correctly: under torch.compile, or in a backward pass (a second `backward` of a loss,
                `create_graph`, or the loss in an activation checkpoint).
            OverflowError: The weights, or under "batch" the ratio of a call's weights to those of the first call,
                exceed the dtype, which for float32 is a ratio of exp(88). On the CPU only; elsewhere the gradients
                become NaN.
        """
        if self._under_way:
            raise EmphasisRuntimeError(
                "another step of this Accumulation has not ended; use one Accumulation for each step"
            )
        rescaled = list(parameters)
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
        gradients = [parameter.grad for parameter in rescaled if parameter.grad is not None]
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
        """Count exp(peak) * total; return peak and sum of the step's first call, by which all calls are normalized."""
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
        added = torch.where(total == 0.0, 0.0, (peak - first).exp() * total)
        self._sums = [first, unit, counted + added]
        return first, unit


def global_sum(total: Tensor, over: Any) -> Tensor:
    """Return the denominator of a mean, the sum over ranks and calls; 1 if it is 0.

    Args:
        total: Sum of the factors f_i of this call on this rank, a scalar >= 0.
        over: A process group, an `Accumulation`, or None.
    """
    group = _group_of(over)
    total = _sum_over_ranks(total, group)
    if isinstance(over, Accumulation):
        total = over._in_units_of_step(total.new_zeros(()), total)[1]
    return _nonzero(total)


def mean_over_ranks(total: Tensor, count: Tensor, over: Any) -> Tensor:
    """Return the sum of `total` over ranks divided by that of `count`; 0 where the count is 0.

    Args:
        total: Sums on this rank, (..., K).
        count: Counts on this rank, (..., 1), >= 0.
        over: A process group, an `Accumulation`, of which only this call is used, or None.
    """
    both = _sum_over_ranks(torch.cat((total, count), -1), _group_of(over))
    total, count = both[..., :-1], both[..., -1:]
    return torch.where(count == 0.0, 0.0, total / _nonzero(count))


def global_max_and_sumexp(log_share: Tensor, over: Any) -> tuple[Tensor, Tensor]:
    """Return the maximum and the sum of exp(log_share - maximum) over the whole batch; 0 and 1 if it is empty.

    The maximum is taken over the examples of one call on all ranks. Within an `Accumulation`, this is the first call of
    the step, and otherwise the present one.

    Args:
        log_share: Logarithms of f_i w_i of the examples of this call on this rank; -inf for those that do not count.
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
    """Return the logarithm of the mean of exp(log_sum) over ranks.

    Args:
        log_sum: Logarithms on this rank, of any shape, which is the same on all ranks; -inf for an empty sum.
        group: A process group.
    """
    peak = log_sum.clone()
    dist.all_reduce(peak, dist.ReduceOp.MAX, group)
    peak = torch.where(peak == -math.inf, 0.0, peak)
    return peak + _sum_over_ranks((log_sum - peak).exp(), group).log()


def rank_slice(group: Any) -> slice:
    """Return the slice of a batch's rows that belongs to this rank: every W-th row of W ranks."""
    return slice(dist.get_rank(group), None, dist.get_world_size(group))


def all_gather_rows(rows: Tensor, number: int, group: Any) -> Tensor:
    """Return all rows of a batch, (number, ...), on every rank, in order.

    The derivative is for a loss that each rank computes from all rows, under a wrapper that averages gradients over
    ranks, such as DDP and FSDP: it is that of the rows of this rank times the number of ranks.

    Args:
        rows: Rows of this rank, those of `rank_slice`; there may be none.
        number: Number of rows of all ranks.
        group: A process group.
    """
    gathered: Tensor = _AllGatherRows.apply(rows, number, group)  # type: ignore[no-untyped-call]
    return gathered


class _AllGatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, number: int, group: Any) -> Tensor:
        ctx.group = group
        ranks = dist.get_world_size(group)
        padded = rows.new_zeros(-(-number // ranks), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(ranks)]
        dist.all_gather(parts, padded, group)
        return torch.stack(parts, 1).flatten(0, 1)[:number]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[rank_slice(ctx.group)] * dist.get_world_size(ctx.group), None, None


def _group_of(over: Any) -> Any:
    return over.process_group if isinstance(over, Accumulation) else over


def _sum_over_ranks(total: Tensor, group: Any) -> Tensor:
    """Return the sum over ranks divided by their number, because DDP and FSDP average gradients over ranks."""
    if group is None:
        return total
    total = total.clone()
    dist.all_reduce(total, dist.ReduceOp.SUM, group)
    return total / dist.get_world_size(group)


def _nonzero(total: Tensor) -> Tensor:
    return torch.where(total == 0.0, 1.0, total)
