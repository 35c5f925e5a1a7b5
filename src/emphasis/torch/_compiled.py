"""The loss under torch.compile and torch.export. Imported during compilation only, as it imports the compiler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from emphasis.kernels.operators import OPERATORS
from emphasis.torch import _checks, _ops
from emphasis.torch._autograd import EmphasisFunction
from emphasis.torch._fused import backend_on
from emphasis.torch._options import options_from_id, pin_options
from emphasis.torch.functional import resolve
from emphasis.torch.linear import uncompiled
from emphasis.weighting import MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization, Reduction


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def register(
    weighting: WeightingLike,
    normalization: Normalization,
    reduction: Reduction,
    max_margin: MaxMargin,
    process_group: Any,
) -> int:
    """Return the id of resolved options, a constant that a compiled graph can contain."""
    return pin_options(resolve(weighting, normalization, reduction, max_margin, process_group))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _setting(options_id: int, name: str) -> Any:
    return getattr(options_from_id(options_id), name)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _has_table(options_id: int, device: torch.device, dtype: torch.dtype) -> bool:
    return options_from_id(options_id).tables_for(device, dtype) is not None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _table(options_id: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    tables = options_from_id(options_id).tables_for(device, dtype)
    assert tables is not None
    return tables.packed


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _compact(options_id: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    tables = options_from_id(options_id).tables_for(device, dtype)
    return None if tables is None else tables.compact


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _suffix(device: torch.device, dtype: torch.dtype) -> str:
    """Return the suffix of the operators' names: those for GPUs are traced down to their kernel launches."""
    if device.type == "cpu":
        return "_on_cpu"
    if backend_on(torch.empty(0, device=device, dtype=dtype)).name != "gpu":
        return ""
    _ops.register_on_gpu()
    return "_on_gpu"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _trust_on(options_id: int, device: torch.device, dtype: torch.dtype) -> tuple[float, ...]:
    """Return `Weighting.trust` for the operators for GPUs; those for CPUs read it from the table."""
    return options_from_id(options_id).weighting.trust if _suffix(device, dtype) == "_on_gpu" else ()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _takes_targets(device: torch.device, dtype: torch.dtype) -> bool:
    return backend_on(torch.empty(0, device=device, dtype=dtype)) is not OPERATORS


@torch.compiler.allow_in_graph  # type: ignore[untyped-decorator]
def _plain(
    logits: Tensor, labels: Tensor, factor: Tensor | None, valid: Tensor | None, options_id: int, with_gradient: bool
) -> Tensor:
    """Return the loss by torch operators, as a node that is traced after the Python code of the weighting has run."""
    options = options_from_id(options_id)
    options.check_range(logits.dtype)
    loss: Tensor = EmphasisFunction.apply(  # type: ignore[no-untyped-call]
        logits, labels, factor, valid, options, with_gradient
    )[0]
    return loss


def loss(
    logits: Tensor,
    labels: Tensor,
    options_id: int,
    ignore_index: int,
    class_weight: Tensor | None,
    sample_weight: Tensor | None,
) -> Tensor:
    """Return the loss by one operator of `_ops` if there is a kernel, and by torch operators otherwise."""
    reduction, is_batch = _setting(options_id, "reduction"), _setting(options_id, "normalization") == "batch"
    given = _checks.prepare(
        logits, labels, class_weight, sample_weight, ignore_index, _setting(options_id, "only_ratios_matter")
    )
    logits, labels, targets, class_weight, factor, valid = given
    device, dtype, with_gradient = logits.device, logits.dtype, torch.is_grad_enabled()
    if targets is None and _has_table(options_id, device, dtype):
        of_labels = getattr(torch.ops.emphasis, "loss_of_labels" + _suffix(device, dtype))
        table = _table(options_id, device, dtype)
        result: Tensor = of_labels(
            logits,
            labels,
            factor,
            table,
            ignore_index,
            reduction,
            is_batch,
            with_gradient,
            *_trust_on(options_id, device, dtype),
        )[0]
        return result
    if targets is not None and _takes_targets(device, dtype) and _has_table(options_id, device, dtype):
        shape = logits.movedim(1, -1).shape
        rows, probabilities = (t.movedim(1, -1).reshape(-1, shape[-1]) for t in (logits, targets))
        factor = None if factor is None else factor.reshape(-1)
        of_targets = getattr(torch.ops.emphasis, "loss_of_targets" + _suffix(device, dtype))
        result = of_targets(
            rows,
            probabilities,
            class_weight,
            factor,
            _table(options_id, device, dtype),
            _compact(options_id, device, dtype),
            reduction,
            is_batch,
            with_gradient,
            *_trust_on(options_id, device, dtype),
        )[0]
        return result.view(shape[:-1]) if reduction == "none" else result
    if targets is not None:
        targets = _checks.weighted_targets(targets, class_weight)
    else:
        targets = labels if valid is None else torch.where(valid, labels, 0)
    plain: Tensor = _plain(logits, targets, factor, valid, options_id, with_gradient)
    return plain


@torch.compiler.disable  # type: ignore[untyped-decorator]
def linear(*arguments: Any) -> Tensor:
    """Return `linear_emphasis_loss`, outside the graph."""
    return uncompiled(*arguments)
