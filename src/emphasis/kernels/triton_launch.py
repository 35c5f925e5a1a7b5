"""Fast launches of Triton kernels, as a small loss takes as long as its launches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from emphasis.kernels.triton_tiles import triton

_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}
_MOST_COMPILED = 4096
# Before Triton 3.3 a compiled kernel takes other arguments than its function.
_IS_KNOWN = triton is not None and tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 3)


def start(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Start a kernel on the device of its first argument."""
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

    Triton inspects every argument and option to select a compiled kernel, which takes several times as long as the
    launch. Here compiled kernels are cached with the arguments and options as key.
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
    if known is not None and not addresses % 16:  # the compiled kernel assumes aligned memory
        compiled, constants = known
        compiled[(*grid, 1, 1)](*arguments, *constants)
        return
    compiled = kernel[grid](*arguments, **options)
    if compiled is not None and _IS_KNOWN and not addresses % 16:  # Triton's interpreter compiles nothing
        if len(_compiled) >= _MOST_COMPILED:
            _compiled.clear()
        _compiled[tuple(key)] = compiled, tuple(options[name] for name in kernel.arg_names[len(arguments) :])
