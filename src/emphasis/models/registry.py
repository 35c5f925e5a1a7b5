"""Networks by name; `build` makes a network for the shape of an example, the number of classes and a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from emphasis.errors import EmphasisValueError
from emphasis.registry import Registry
from emphasis.validation import is_whole

if TYPE_CHECKING:
    from torch import nn

MODELS: Registry[Callable[..., nn.Module]] = Registry(
    "model",
    {
        "small-cnn": "emphasis.models.small_cnn:small_cnn",
        "fast-resnet": "emphasis.models.fast_resnet:fast_resnet",
        "mlp": "emphasis.models.mlp:mlp",
        **{f"resnet{depth}": f"emphasis.models.resnet:resnet{depth}" for depth in (20, 32, 44, 56, 110)},
        "googlenet-v1": "emphasis.models.googlenet:googlenet",
        "googlenet-v2": "emphasis.models.bn_inception:bn_inception",
        "resnet50": "emphasis.models.resnet50:resnet50",
    },
)
"""Constructors (input_shape, num_classes, *, options) -> network by name."""

NAMES = MODELS.names
"""The names that `build` knows."""

TIMM = "timm:"
"""Prefix of the names of networks of the package timm, such as "timm:resnet18"."""

_LARGEST_SEED = 2**63 - 1


def build(name: str, input_shape: Sequence[int], num_classes: int, *, seed: int, **options: Any) -> nn.Module:
    """Return a network on the CPU, in training mode, that maps examples (N, *input_shape) to logits (N, C).

    The same arguments give the same parameters, independent of global random states, which are not changed.

    Args:
        name: One of `NAMES`, or "timm:NAME" for a network of the package timm (extra `timm`).
        input_shape: Shape of one example: (D,) or (channels, height, width).
        num_classes: Number of classes C, at least 2.
        seed: Seed of the initial parameters, 0 to 2**63 - 1.
        **options: Options of the network; `options_of(name)` lists them.

    Raises:
        ValueError: A name, option or value is not allowed.
    """
    if not name.startswith(TIMM):
        MODELS.check_options(name, options)
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if not shape or any(not is_whole(size) or size < 1 for size in shape):
        raise EmphasisValueError(
            f"input_shape={input_shape!r} is not allowed; give one example's shape, (D,) or (channels, height, width)"
        )
    if not is_whole(num_classes) or num_classes < 2:
        raise EmphasisValueError(f"num_classes={num_classes!r} is not allowed; it must be a whole number >= 2")
    if not is_whole(seed) or not 0 <= seed <= _LARGEST_SEED:
        raise EmphasisValueError(f"seed={seed!r} is not allowed; it must be a whole number from 0 to {_LARGEST_SEED}")

    import torch

    # torch.manual_seed would also seed the generators of all GPUs, which fork_rng does not restore here.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: nn.Module = _constructor(name)(shape, num_classes, **options)
    return model


def _constructor(name: str) -> Callable[..., nn.Module]:
    if not name.startswith(TIMM):
        return MODELS[name]
    from emphasis.models.timm_networks import timm_network

    return partial(timm_network, name.removeprefix(TIMM))


def options_of(name: str) -> dict[str, Any]:
    """Return the options of a network and their defaults.

    Raises:
        ValueError: The name is unknown.
    """
    return {"pretrained": ""} if name.startswith(TIMM) else MODELS.options(name)
