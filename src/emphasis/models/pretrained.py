"""Loading of pretrained parameters from the state dict in a local file."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emphasis.errors import EmphasisFileNotFoundError, EmphasisValueError
from emphasis.files import refused

_HEAD = ("fc.weight", "fc.bias")
_NAMES_SHOWN = 3
IMAGENET_STATISTICS = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
"""Mean and standard deviation of red, green and blue, for pixels in [0, 1], that networks of torchvision expect."""


class PretrainedError(EmphasisValueError):
    """A file of parameters cannot be read or does not fit the network."""


def load_pretrained(model: nn.Module, path: str | Path) -> bool:
    """Load the parameters of a network from a local state dict; the network is changed only if the whole file fits.

    The last linear layer `fc` keeps its initial parameters if the file is for another number of classes. Counters of
    batches (`num_batches_tracked`), which are missing in files of old versions of PyTorch, are kept.

    Args:
        model: Network returned by `emphasis.models.build`, for example "resnet50" or "googlenet-v2".
        path: A file of `torch.save(model.state_dict(), path)`, read without running code in it, or `.safetensors`
            (requires the package safetensors). For ResNet-50, parameters have the names of torchvision; for
            BN-Inception, those of the file converted from Caffe, or those of this package.

    Returns:
        Whether the last layer was loaded as well.

    Raises:
        PretrainedError: The file is not a state dict, parameters are missing, unexpected or of another shape, or a
            value is not finite.
        FileNotFoundError: The file does not exist.
        ModuleNotFoundError: The file is a `.safetensors` file, and the package safetensors is not installed.
    """
    path = Path(path)
    state = read_state(path)
    translate = getattr(model, "from_standard", None)
    if translate is not None:
        state = translate(state)
    initial = model.state_dict()

    head_fits = True
    if all(name in initial and name in state for name in _HEAD):
        head_fits = len(state[_HEAD[0]]) == len(initial[_HEAD[0]]) if state[_HEAD[0]].ndim else True
        if not head_fits and state[_HEAD[0]].shape[1:] == initial[_HEAD[0]].shape[1:]:
            state = state | {name: initial[name] for name in _HEAD}
    state = {name: initial[name] for name in initial if name.endswith("num_batches_tracked")} | state

    faults = {
        "misses": sorted(initial.keys() - state.keys()),
        "has the unexpected": sorted(state.keys() - initial.keys()),
        "has wrong shapes for": [
            f"{name} (file {tuple(state[name].shape)}, network {tuple(initial[name].shape)})"
            for name in initial
            if name in state and state[name].shape != initial[name].shape
        ],
    }
    differences = [f"{fault} {_shortened(names)}" for fault, names in faults.items() if names]
    if differences:
        raise PretrainedError(f"{path} does not fit this network: it {'; it '.join(differences)}")
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise PretrainedError(f"{path} holds a value of {name} that is not finite; get the file again")
    model.load_state_dict(state)
    return head_fits


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict in a file, without running code in the file.

    Raises:
        PretrainedError: The file is not a state dict.
        FileNotFoundError: The file does not exist.
        ModuleNotFoundError: The file is a `.safetensors` file, and the package safetensors is not installed.
    """
    if not path.is_file():
        raise EmphasisFileNotFoundError(f"there is no file of parameters {path}")
    if path.suffix == ".safetensors":
        safetensors: Any = importlib.import_module("safetensors")
        load_file: Any = importlib.import_module("safetensors.torch").load_file
        try:
            return dict(load_file(path))
        except safetensors.SafetensorError as error:
            raise PretrainedError(f"{path} is not a whole safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Detected pickle protocol", UserWarning
            )  # a failure raises an error anyway
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise refused("read", path, error) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise any error: IndexError, struct.error, ...
        raise PretrainedError(
            f"{path} is not a file of tensors alone, or is cut off; save the network's state_dict() again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise PretrainedError(f"{path} does not hold a state dict (names to tensors); save the network's state_dict()")
    return dict(state)


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
