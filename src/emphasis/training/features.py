"""Features of videos, and evaluation of person retrieval with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emphasis.baselines import Baseline
from emphasis.baselines.learner import DivergedError
from emphasis.baselines.video import VideoMethod
from emphasis.datasets import Gallery
from emphasis.errors import EmphasisValueError
from emphasis.models.layers import last_linear, last_pool
from emphasis.retrieval import Ints, Retrieval, evaluate_features, evaluate_rankings, mean_by_tracklet, normalized_rows

_VIDEOS_AT_ONCE = 256

Frames = Iterable[tuple[Tensor, Ints]]
"""Batches of frames (B, ...) as inputs of a network, on any device, with the tracklet (B,) of each frame."""
Described = Iterator[tuple[Tensor, Ints]]
"""Descriptors of the frames of each batch, (B, E) float32 on the CPU, with the tracklet (B,) of each frame."""


def tracklet_features(network: nn.Module, batches: Frames, num_tracklets: int) -> NDArray[np.float32]:
    """Return the features of videos, (T, D): means of the frames' features with L2 norm 1 (the paper's Section 4.3).

    The feature of a frame is the input of the last linear layer in evaluation mode. Only the features of one batch and
    the sums in float64 are held in memory. The same batches give the same features.

    Args:
        network: Network; its training or evaluation mode is restored.
        batches: Frames, in any order.
        num_tracklets: Number of tracklets T.

    Raises:
        ValueError: The network has no linear layer, a tracklet is not in [0, T) or has no frame, or features are not
            finite.
    """
    parts = ((described.numpy(), tracklet) for described, tracklet in _described(network, batches, None))
    return normalized_rows(mean_by_tracklet(parts, num_tracklets)).astype(np.float32)


def find(
    network: nn.Module,
    method: Baseline | None,
    batches: Frames,
    gallery: Gallery,
    of_all: Callable[[Described], Described] = lambda described: described,
) -> Retrieval:
    """Evaluate the retrieval of a gallery's persons with a network.

    Videos are compared by cosine similarity of the means of their frames' features, unless the method defines another
    comparison.

    Args:
        network: Network, not wrapped in a `Learner`.
        method: Method that trained the network; None for a weighting.
        batches: Frames of all videos, ordered by video.
        gallery: Videos of the gallery.
        of_all: Maps the descriptors of `batches` to those of all frames, if other ranks have further frames.

    Raises:
        DivergedError: A feature of a frame or a video is not finite.
        ValueError: The network has no linear layer, or no pooling layer although the method needs feature maps, or a
            video has no frame.
    """
    about = gallery.person, gallery.camera, gallery.query
    video_method = method if isinstance(method, VideoMethod) else None
    compares = video_method is not None and type(video_method).compare is not VideoMethod.compare
    if video_method is None or not (compares or video_method.test_frames):
        described = of_all(_described(network, batches, method))
        parts = ((_finite(values).numpy(), tracklet) for values, tracklet in described)
        return evaluate_features(mean_by_tracklet(parts, len(gallery.person)), *about)
    descriptors = [(_finite(values), tracklet) for values, tracklet in of_all(_described(network, batches, method))]
    tracklet = np.concatenate([tracklet for _, tracklet in descriptors])
    first, last = (np.searchsorted(tracklet, np.arange(len(gallery.person)), side) for side in ("left", "right"))
    if (empty := np.flatnonzero(first == last)).size:
        raise EmphasisValueError(f"{empty.size} of {len(first)} tracklets have no frame, tracklet {empty[0]} first")
    frames, device = torch.cat([values for values, _ in descriptors]), video_method.labels.device
    with torch.no_grad(), _evaluating(video_method):
        if compares:
            indices = (torch.from_numpy(rows).to(device) for rows in (first, last - 1, gallery.query))
            similarities = video_method.compare(frames.to(device), *indices)
            return evaluate_rankings((_finite(part).cpu().numpy() for part in similarities), *about)
        rows = torch.from_numpy(spread(first, last - first, video_method.test_frames))
        videos = [
            _finite(video_method.videos(frames[part].to(device))).cpu() for part in torch.split(rows, _VIDEOS_AT_ONCE)
        ]
    return evaluate_features(torch.cat(videos).numpy(), *about)


def spread(first: Ints, length: Ints, number: int) -> NDArray[np.int64]:
    """Return the first index of each of `number` equal parts of each video, (T, number), repeated if it is short."""
    return first[:, None] + np.arange(number) * length[:, None] // number


@torch.no_grad()
def _described(network: nn.Module, batches: Frames, method: Baseline | None) -> Described:
    inputs_of: dict[str, Tensor] = {}
    layers: dict[str, nn.Module] = {"features": last_linear(network)}
    if method is not None and "feature_maps" in method.needs:
        layers["maps"] = last_pool(network)
    hooks = [
        layer.register_forward_pre_hook(lambda _layer, inputs, name=name: inputs_of.update({name: inputs[0]}))
        for name, layer in layers.items()
    ]
    device = next(network.parameters()).device
    try:
        with _evaluating(network, method):
            for frames, tracklet in batches:
                network(frames.to(device))
                features, maps = inputs_of.pop("features").float(), inputs_of.pop("maps", None)
                described = method.describe(features, maps) if isinstance(method, VideoMethod) else features
                yield described.float().cpu(), np.asarray(tracklet)
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Put modules in evaluation mode, and restore their modes on exit."""
    modes = [(module, module.training) for module in modules if module is not None]
    try:
        for module, _ in modes:
            module.eval()
        yield
    finally:
        for module, training in modes:
            module.train(training)


def _finite(values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise DivergedError("the features of frames or videos are NaN or infinite; use a smaller learning rate")
    return values
