"""What a network makes of videos, and how well persons are found by it."""

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
"""Frames (B, ...) as a network takes them, on any device, and the tracklet (B,) of each."""
Described = Iterator[tuple[Tensor, Ints]]
"""What is kept of the frames of each batch, (B, E) float32 on the CPU, and the tracklet (B,) of each."""


def tracklet_features(network: nn.Module, batches: Frames, num_tracklets: int) -> NDArray[np.float32]:
    """Return each video's feature, (T, D): the mean of its frames' features, of L2 norm 1 (the paper's Section 4.3).

    A frame's feature is what the last linear layer sees of it, in evaluation mode. Only one batch's are held at a time,
    beside the sums in float64. The same batches give the same features.

    Args:
        network: In which mode it is in makes no difference, and it is left in it.
        batches: The frames, in any order.
        num_tracklets: T.

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
    of_all: Callable[[Described], Described] = lambda own: own,
) -> Retrieval:
    """Return how well a network finds the gallery's persons.

    By cosine similarity of the means of frames' features, unless the method that trained it has another way.

    Args:
        network: Itself, not in a `Learner`.
        method: That trained it, if it was more than a weighting.
        batches: The frames of all videos, video by video.
        gallery: The videos.
        of_all: Where `batches` are some of the frames, and others are with others: makes of what is kept of these what
            is kept of all.

    Raises:
        DivergedError: What the network makes of a frame, or the method of videos, is not finite.
        ValueError: It has no linear layer, or no pool where the method needs its maps, or a video has no frame.
    """
    about = gallery.person, gallery.camera, gallery.query
    video_method = method if isinstance(method, VideoMethod) else None
    compares = video_method is not None and type(video_method).compare is not VideoMethod.compare
    if video_method is None or not (compares or video_method.test_frames):
        described = of_all(_described(network, batches, method))
        parts = ((_finite(one).numpy(), tracklet) for one, tracklet in described)
        return evaluate_features(mean_by_tracklet(parts, len(gallery.person)), *about)
    held = [(_finite(one), tracklet) for one, tracklet in of_all(_described(network, batches, method))]
    tracklet = np.concatenate([tracklet for _, tracklet in held])
    first, last = (np.searchsorted(tracklet, np.arange(len(gallery.person)), side) for side in ("left", "right"))
    if (empty := np.flatnonzero(first == last)).size:
        raise EmphasisValueError(f"{empty.size} of {len(first)} tracklets have no frame, tracklet {empty[0]} first")
    frames, device = torch.cat([values for values, _ in held]), video_method.labels.device
    with torch.no_grad(), _evaluating(video_method):
        if compares:
            places = (torch.from_numpy(rows).to(device) for rows in (first, last - 1, gallery.query))
            similarities = video_method.compare(frames.to(device), *places)
            return evaluate_rankings((_finite(part).cpu().numpy() for part in similarities), *about)
        rows = torch.from_numpy(spread(first, last - first, video_method.test_frames))
        videos = [
            _finite(video_method.videos(frames[part].to(device))).cpu() for part in torch.split(rows, _VIDEOS_AT_ONCE)
        ]
    return evaluate_features(torch.cat(videos).numpy(), *about)


def spread(first: Ints, length: Ints, number: int) -> NDArray[np.int64]:
    """Return the first place of each of `number` equal parts of each video, (T, number); short ones repeat places."""
    return first[:, None] + np.arange(number) * length[:, None] // number


@torch.no_grad()
def _described(network: nn.Module, batches: Frames, method: Baseline | None) -> Described:
    seen: dict[str, Tensor] = {}
    layers: dict[str, nn.Module] = {"features": last_linear(network)}
    if method is not None and "feature_maps" in method.needs:
        layers["maps"] = last_pool(network)
    hooks = [
        layer.register_forward_pre_hook(lambda _layer, inputs, name=name: seen.update({name: inputs[0]}))
        for name, layer in layers.items()
    ]
    device = next(network.parameters()).device
    try:
        with _evaluating(network, method):
            for frames, tracklet in batches:
                network(frames.to(device))
                features, maps = seen.pop("features").float(), seen.pop("maps", None)
                described = method.describe(features, maps) if isinstance(method, VideoMethod) else features
                yield described.float().cpu(), np.asarray(tracklet)
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Hold modules in evaluation mode, and leave them in the mode that they were in."""
    modes = [(one, one.training) for one in modules if one is not None]
    try:
        for one, _ in modes:
            one.eval()
        yield
    finally:
        for one, training in modes:
            one.train(training)


def _finite(values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise DivergedError("what is made of frames or videos is NaN or infinite; use a smaller learning rate")
    return values
