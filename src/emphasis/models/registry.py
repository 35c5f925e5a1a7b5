"""The one door to networks: a name, the shape of an example, the number of classes and a seed give a module."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from emphasis.errors import EmphasisValueError
from emphasis.texts import did_you_mean

if TYPE_CHECKING:
    from torch import nn

# name: (module:constructor, arguments that the name fixes). Text, so that asking for the names imports no torch.
_MODELS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "small-cnn": ("small_cnn:small_cnn", {}),
    "mlp": ("mlp:mlp", {}),
    **{f"resnet{depth}": ("resnet:cifar_resnet", {"depth": depth}) for depth in (20, 32, 44, 56, 110)},
    "googlenet-v1": ("googlenet:googlenet", {}),
    "googlenet-v2": ("bn_inception:bn_inception", {}),
    "resnet50": ("resnet50:resnet50", {}),
}

NAMES = tuple(_MODELS)
"""The names that `build` knows."""

_LARGEST_SEED = 2**63 - 1


def build(name: str, input_shape: Sequence[int], num_classes: int, *, seed: int, **options: Any) -> nn.Module:
    """Return a network on the CPU, in training mode, that turns examples (N, *input_shape) into logits (N, C).

    The same arguments give the same parameters, whatever was drawn before; no global generator moves.

    Args:
        name: One of `NAMES`.
        input_shape: Of one example: (D,) or (channels, height, width).
        num_classes: C, at least 2.
        seed: Of the initial parameters, 0 to 2**63 - 1.
        **options: Of the network; `options_of(name)` lists them.

    Raises:
        ValueError: A name, option or value is not allowed.
    """
    constructor, fixed = _constructor(name)
    defaults = options_of(name)
    for option in options:
        if option not in defaults:
            takes = f"it takes {', '.join(defaults)}" if defaults else "it takes no options"
            raise EmphasisValueError(f"{name} has no option {option!r}{did_you_mean(option, defaults)}; {takes}")
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if not shape or any(not _is_whole(size) or size < 1 for size in shape):
        raise EmphasisValueError(
            f"input_shape={input_shape!r} is not allowed; give one example's shape, (D,) or (channels, height, width)"
        )
    if not _is_whole(num_classes) or num_classes < 2:
        raise EmphasisValueError(f"num_classes={num_classes!r} is not allowed; it must be a whole number >= 2")
    if not _is_whole(seed) or not 0 <= seed <= _LARGEST_SEED:
        raise EmphasisValueError(f"seed={seed!r} is not allowed; it must be a whole number from 0 to {_LARGEST_SEED}")

    import torch

    # torch.manual_seed would seed the generators of all GPUs too, and those are not put back.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: nn.Module = constructor(shape, num_classes, **fixed, **options)
    return model


def options_of(name: str) -> dict[str, Any]:
    """Return the options of a network and their defaults.

    Raises:
        ValueError: The name is unknown.
    """
    constructor, fixed = _constructor(name)
    parameters = inspect.signature(constructor).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in fixed}


def _constructor(name: str) -> tuple[Any, Mapping[str, Any]]:
    if name not in _MODELS:
        raise EmphasisValueError(
            f"model {name!r} is unknown{did_you_mean(str(name), NAMES)}; known: {', '.join(NAMES)}"
        )
    path, fixed = _MODELS[name]
    return pkgutil.resolve_name(f"emphasis.models.{path}"), fixed


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
