"""Features of images from a frozen network, cached on disk so that they are computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from emphasis.datasets.archives import file_digest
from emphasis.errors import EmphasisFileNotFoundError, EmphasisValueError
from emphasis.files import cache_dir, naming_refusals, replacing
from emphasis.images.networks import Statistics, build_network, outputs, without_head
from emphasis.images.saved import KIND, PARAMETERS, load_model
from emphasis.models import NAMES
from emphasis.models.pretrained import IMAGENET_STATISTICS, load_pretrained
from emphasis.models.registry import TIMM
from emphasis.tabular.saved import model_folder, model_kind
from emphasis.texts import did_you_mean

SIZE = 224
"""Default number of pixels per side for networks of timm."""

_AT_ONCE = 1024  # images between two reports of progress

Progress = Callable[[str, int, int], None]  # (task, done, total)


@dataclass(frozen=True, eq=False)
class FrozenNetwork:
    """A network that is not trained, and whose features are used.

    Attributes:
        name: Name of the network, as accepted by `emphasis.models.build`.
        options: Options of the network.
        body: The network without its last linear layer, (N, channels, size, size) to (N, D).
        size: Pixels per side.
        channels: 3 (RGB) or 1 (gray).
        statistics: Mean and standard deviation of the channels that it expects; None for those of the images.
        digest: Digest that identifies the features.
    """

    name: str
    options: dict[str, Any]
    body: nn.Module
    size: int
    channels: int
    statistics: Statistics | None
    digest: str


def frozen_network(network: str, weights: Path | None = None, *, size: int = 0, channels: int = 3) -> FrozenNetwork:
    """Return a network without its last layer.

    Args:
        network: The folder of a fit of images, the name of a network, or "timm:NAME".
        weights: Local file of parameters, .safetensors or a state dict of PyTorch; None for random parameters. It is
            not allowed for the folder of a fit.
        size: Pixels per side of the images; 0 for 224 with networks of timm, and 32 with others.
        channels: 3 (RGB) or 1 (gray). The folder of a fit has its own size and channels.

    Raises:
        EmphasisValueError: The network is unknown, or arguments do not fit it.
        FileNotFoundError: The file of parameters does not exist.
    """
    if model_kind(network) == KIND:
        if weights is not None:
            raise EmphasisValueError(f"the folder {network} holds parameters; leave out {weights}")
        model = load_model(network)
        body = model.network[0] if isinstance(model.network, nn.Sequential) and model.width else None
        return FrozenNetwork(
            model.name,
            model.options,
            without_head(model.network) if body is None else body,
            model.size,
            model.channels,
            model.statistics,
            file_digest(model_folder(network) / PARAMETERS, "sha256"),
        )
    is_timm = network.startswith(TIMM)
    if not is_timm and network not in NAMES:
        raise EmphasisValueError(
            f"{network!r} is not a network{did_you_mean(network, NAMES)}; use the folder of a fit of images, "
            f"timm:NAME, or one of {', '.join(NAMES)}"
        )
    if weights is not None and not weights.is_file():
        raise EmphasisFileNotFoundError(f"there is no file of parameters {weights}")
    side = size or (SIZE if is_timm else 32)
    options = {"pretrained": str(weights)} if is_timm and weights is not None else {}
    built = build_network(network, options, (channels, side, side), 2)
    if weights is not None and not is_timm:
        load_pretrained(built, weights)
    digest = "random" if weights is None else file_digest(weights, "sha256")
    return FrozenNetwork(
        network,
        {},
        without_head(built),
        side,
        channels,
        _expected(built) if weights and channels == 3 else None,
        digest,
    )


def _expected(network: nn.Module) -> Statistics:
    """Return the statistics of the images that a pretrained network was trained on."""
    about = getattr(network, "pretrained_cfg", None) or {}
    if "mean" in about and "std" in about:
        return np.array(about["mean"], np.float64), np.array(about["std"], np.float64)
    return IMAGENET_STATISTICS


def cached_features(
    frozen: FrozenNetwork,
    images: NDArray[np.uint8],
    statistics: Statistics,
    progress: Progress = lambda *_: None,
) -> NDArray[np.float32]:
    """Return the features of images, shape (N, D), from the user's cache folder if they were computed before.

    Args:
        frozen: Frozen network.
        images: uint8 of shape (N, channels, size, size).
        statistics: Mean and standard deviation of the channels.
        progress: Called as `progress(task, done, total)`.
    """
    about = [frozen.name, sorted(frozen.options.items()), frozen.digest, [part.tolist() for part in statistics]]
    digest = hashlib.sha256(json.dumps([about, images.shape], default=str).encode())
    digest.update(np.ascontiguousarray(images).data)
    path = cache_dir() / "features" / f"{digest.hexdigest()[:32]}.npy"
    if path.is_file():
        try:
            stored = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            stored = np.empty(0)
        if stored.ndim == 2 and len(stored) == len(images) and stored.dtype == np.float32:
            return np.asarray(stored)
    parts = []
    for start in range(0, len(images), _AT_ONCE):
        progress("features of the images", start, len(images))
        parts.append(outputs(frozen.body, images[start : start + _AT_ONCE], statistics))
    features = np.concatenate(parts)
    features = features.reshape(len(features), -1)
    if not np.isfinite(features).all():
        raise EmphasisValueError(f"the features of {frozen.name} are not finite; use other parameters")
    with naming_refusals("write to", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, features)
    return features
