"""Starting a kernel in the time that the driver takes, which for a small loss is all the time there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from emphasis.kernels.triton_tiles import triton

_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}
_MOST_COMPILED = 4096
# Before 3.3 what Triton has compiled takes other arguments than the function that it was compiled from.
_IS_KNOWN = triton is not None and tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 3)


def start(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Start a kernel where its first argument is."""
    device = arguments[0].get_device()
    if device < 0 or device == torch.cuda.current_device():
        _start_here(kernel, grid, arguments, options, device)
    else:
        with torch.cuda.device(device):
            _start_here(kernel, grid, arguments, options, device)


def _start_here(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], options: Mapping[str, Any], device: int
) -> None:
    """Start a kernel on the current device.

    Triton looks at every argument and option to find out for which of them it has compiled the kernel, which takes
    several times as long as the launch. Here they are a key; one that comes again starts what was compiled for it.
    """
    key: list[Any] = [id(kernel), device, *options.values()]
    addresses = 0
    for argument in arguments:
        if isinstance(argument, Tensor):
            addresses |= argument.data_ptr()
            key.append(argument.dtype)
        else:
            key.append(argument)
    known = _compiled.get(tuple(key))
    if known is not None and not addresses % 16:  # a kernel for aligned memory
        compiled, constants = known
        compiled[(*grid, 1, 1)](*arguments, *constants)
        return
    compiled = kernel[grid](*arguments, **options)
    if compiled is not None and _IS_KNOWN and not addresses % 16:  # Triton's interpreter compiles nothing
        if len(_compiled) >= _MOST_COMPILED:
            _compiled.clear()
        _compiled[tuple(key)] = compiled, tuple(options[name] for name in kernel.arg_names[len(arguments) :])
