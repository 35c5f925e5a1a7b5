"""Weightings of functions of torch tensors, which can be evaluated in numpy too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from emphasis.weighting import FunctionWeighting, LossWeighting, Weighting, WeightingLike, as_weighting


class _OnTensors(FunctionWeighting):
    """Calls the user's function with tensors for numpy arrays, and converts its result to an array."""

    def call(self, function: Callable[..., Any], p: Any, q: Any) -> Any:
        """Return function(p) or function(p, q) in the type and dtype of `p`, whatever type the function returns."""
        if isinstance(p, Tensor):
            value = super().call(function, p, q)
            return value.to(p) if isinstance(value, Tensor) and not value.is_complex() else value
        with torch.no_grad():
            value = torch.as_tensor(super().call(function, torch.as_tensor(p), torch.as_tensor(q))).cpu()
        return (value if value.is_complex() else value.double()).numpy()


@dataclass(frozen=True, repr=False)
class TorchFunctionWeighting(_OnTensors):
    """A function of torch tensors, such as `lambda p: torch.sin(p)`."""


@dataclass(frozen=True, repr=False)
class TorchLossWeighting(_OnTensors, LossWeighting):
    """The weighting of a loss of torch tensors, such as `lambda p: -torch.log(p)`."""


def from_loss(loss: Callable[..., Any], derivative: Callable[..., Any] | None = None) -> TorchLossWeighting:
    """Return `emphasis.from_loss(loss, derivative)` for functions that use torch."""
    return TorchLossWeighting(loss, derivative)


def from_function(function: Callable[..., Any]) -> TorchFunctionWeighting:
    """Return `emphasis.from_function(function)` for a function that uses torch.

    A lambda inside a loop is a new function in each iteration. Functions with the same code and values give the same
    weighting, so that its tables are computed once.
    """
    source = _Source(function)
    cached = _same_function(source)
    # Values that the cached function encloses may have changed since.
    return cached if _Source(cached.function) == source else TorchFunctionWeighting(function)


class _Source:
    """A function that is compared by its code, defaults and enclosed values."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.key: tuple[Any, ...] = (function,)
        if isinstance(function, FunctionType):
            try:
                enclosed = tuple(cell.cell_contents for cell in function.__closure__ or ())
                key = (function.__code__, function.__defaults__, enclosed)
                hash(key)
            except (TypeError, ValueError):  # a value cannot be hashed, or a cell is empty
                return
            self.key = key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Source) and self.key == other.key


@lru_cache(maxsize=256)
def _same_function(source: _Source) -> TorchFunctionWeighting:
    return TorchFunctionWeighting(source.function)


def as_torch_weighting(weighting: WeightingLike) -> Weighting:
    """Return `as_weighting(weighting)`, where plain functions may use torch."""
    return as_weighting(weighting, from_function)
