"""Parameters from a file: a standard state dict of a network trained elsewhere."""

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
"""Mean and standard deviation of red, green and blue, as pixels in [0, 1], that networks of torchvision expect."""


class PretrainedError(EmphasisValueError):
    """A file of parameters cannot be read or does not fit the network."""


def load_pretrained(model: nn.Module, path: str | Path) -> bool:
    """Fill a network from a local state dict; the network is changed only if the whole file fits.

    The last linear layer `fc` keeps its initial parameters where the file's has another number of classes. Counters
    of batches (`num_batches_tracked`), which files of old versions of PyTorch lack, stay as they are.

    Args:
        model: As `emphasis.models.build` makes it, for example "resnet50" or "googlenet-v2".
        path: A file of `torch.save(model.state_dict(), path)`, read without running code in it, or `.safetensors`
            (needs the package safetensors). Names as in torchvision for ResNet-50; for BN-Inception those of the file
            converted from Caffe, or this package's own.

    Returns:
        Whether the last layer was loaded too.

    Raises:
        PretrainedError: The file is not a state dict; names are missing, unexpected or wrongly shaped; a value is not
            finite.
        FileNotFoundError: There is no such file.
        ModuleNotFoundError: A `.safetensors` file and no such package.
    """
    path = Path(path)
    state = read_state(path)
    translate = getattr(model, "from_standard", None)
    if translate is not None:
        state = translate(state)
    own = model.state_dict()

    head_fits = True
    if all(name in own and name in state for name in _HEAD):
        head_fits = len(state[_HEAD[0]]) == len(own[_HEAD[0]]) if state[_HEAD[0]].ndim else True
        if not head_fits and state[_HEAD[0]].shape[1:] == own[_HEAD[0]].shape[1:]:
            state = state | {name: own[name] for name in _HEAD}
    state = {name: own[name] for name in own if name.endswith("num_batches_tracked")} | state

    faults = {
        "misses": sorted(own.keys() - state.keys()),
        "has the unexpected": sorted(state.keys() - own.keys()),
        "has wrong shapes for": [
            f"{name} (file {tuple(state[name].shape)}, network {tuple(own[name].shape)})"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ],
    }
    found = [f"{what} {_shortened(names)}" for what, names in faults.items() if names]
    if found:
        raise PretrainedError(f"{path} does not fit this network: it {'; it '.join(found)}")
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise PretrainedError(f"{path} holds a value of {name} that is not finite; get the file again")
    model.load_state_dict(state)
    return head_fits


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict in a file, without running code in it.

    Raises:
        PretrainedError: If it is no such file.
        FileNotFoundError: If there is no file.
        ModuleNotFoundError: If it is a `.safetensors` file, and the package safetensors is not installed.
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
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # what fails, fails by itself
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise refused("read", path, error) from error
    except MemoryError:
        raise
    except Exception as error:  # bytes that are no such file end the reader in any way: IndexError, struct.error, ...
        raise PretrainedError(
            f"{path} is not a file of tensors alone, or is cut off; save the network's state_dict() again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise PretrainedError(f"{path} does not hold a state dict (names to tensors); save the network's state_dict()")
    return dict(state)


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
