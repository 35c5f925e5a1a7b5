"""Networks of the package timm, with random parameters or parameters of a local file. Nothing is downloaded."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emphasis.errors import EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.models.layers import image_channels
from emphasis.models.pretrained import PretrainedError, read_state
from emphasis.texts import did_you_mean, one_line, shortened

_LISTED = 3


def timm_network(name: str, input_shape: Sequence[int], num_classes: int, *, pretrained: str = "") -> nn.Module:
    """Return a network of timm.

    Args:
        name: Name in timm, such as "resnet18".
        input_shape: (channels, height, width).
        num_classes: Number of classes C.
        pretrained: Local state dict; the last layer keeps its initial parameters if its shape is another.

    Raises:
        ValueError: timm has no such network, the network does not accept such images, or the file does not fit.
        FileNotFoundError: The file does not exist.
        MissingExtraError: timm is not installed.
    """
    try:
        timm: Any = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise missing_extra(f"the network timm:{name}", "timm", error) from None
    if not timm.is_model(name):
        raise EmphasisValueError(f"timm has no network {name!r}{did_you_mean(name, timm.list_models())}")
    channels = image_channels(f"timm:{name}", input_shape, 1)
    settings: dict[str, Any] = {"pretrained": False, "num_classes": num_classes, "in_chans": channels}
    try:
        network: nn.Module = timm.create_model(name, **settings, img_size=tuple(input_shape[1:]))
    except TypeError:  # convolutional networks accept images of any size
        network = timm.create_model(name, **settings)
    if pretrained:
        _load(network, Path(pretrained))
    return network


def _load(network: Any, path: Path) -> None:
    """Load parameters from a file; the network is changed only if the whole file fits, apart from the last layer."""
    heads = network.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    initial, state = network.state_dict(), read_state(path)
    initial_heads = {
        name: initial[name]
        for name in initial
        if prefixes and name.startswith(prefixes) and (name not in state or state[name].shape != initial[name].shape)
    }
    state = {name: value for name, value in state.items() if name not in initial_heads} | initial_heads
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise PretrainedError(f"{path} holds a value of {name} that is not finite; get the file again")
    wrong = sorted(initial.keys() ^ state.keys()) + [
        n for n in initial if n in state and initial[n].shape != state[n].shape
    ]
    if wrong:
        raise PretrainedError(f"{path} does not fit this network: it differs in {shortened(wrong, _LISTED)}")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise PretrainedError(f"{path} does not fit this network: {one_line(error)}") from error
