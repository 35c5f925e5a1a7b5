"""Private names of PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

__all__ = [
    "disable_current_modes",
    "dispatch_modes_are_active",
    "has_batch_dimension",
    "in_backward_pass",
    "in_forward_mode",
    "is_tracing",
    "transforms_are_active",
    "tree_map_only",
    "view_base",
]

disable_current_modes = _disable_current_modes
"""Context manager in which tensors are ordinary ones, whatever dispatch mode is active."""

transforms_are_active = torch._C._are_functorch_transforms_active
"""Return whether a transform of torch.func, such as vmap or grad, is active."""

_is_vmapped, _is_legacy_vmapped = torch._C._functorch.is_batchedtensor, torch._C._functorch.is_legacy_batchedtensor


def has_batch_dimension(tensor: Tensor) -> bool:
    """Return whether a tensor stands for a batch of tensors, inside of torch.vmap."""
    return _is_vmapped(tensor) or _is_legacy_vmapped(tensor)


def is_tracing() -> bool:
    """Return whether torch.jit.trace is recording."""
    return torch._C._get_tracing_state() is not None


def dispatch_modes_are_active() -> bool:
    """Return whether a dispatch mode, such as make_fx's, is recording."""
    return torch._C._len_torch_dispatch_stack() > 0


def in_backward_pass() -> bool:
    """Return whether autograd is computing gradients in this thread."""
    return torch._C._current_graph_task_id() != -1


def view_base(tensor: Tensor) -> Tensor | None:
    """Return the tensor that a tensor is a view of for autograd; None: it is not a view."""
    return tensor._base


def in_forward_mode() -> bool:
    """Return whether a level of forward-mode differentiation is open."""
    return forward_ad._current_level >= 0
