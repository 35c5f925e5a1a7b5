"""What a network makes of videos: one vector for each, by which they are compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emphasis.models.layers import last_linear
from emphasis.retrieval import Ints, mean_by_tracklet, normalised


@torch.no_grad()
def tracklet_features(
    network: nn.Module, batches: Iterable[tuple[Tensor, Ints]], num_tracklets: int
) -> NDArray[np.float32]:
    """Return each video's feature, (T, D): the mean of its frames' features, of L2 norm 1 (the paper's Section 4.3).

    A frame's feature is what the last linear layer sees of it, in evaluation mode. Only one batch's are held at a time,
    beside the sums in float64. The same batches give the same features.

    Args:
        network: In which mode it is in makes no difference, and it is left in it.
        batches: Frames (B, ...) as the network takes them, on any device, and the tracklet (B,) of each, in any order.
        num_tracklets: T.

    Raises:
        ValueError: The network has no linear layer, a tracklet is not in [0, T) or has no frame, or features are not
            finite.
    """
    seen: list[Tensor] = []
    hook = last_linear(network).register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    device = next(network.parameters()).device

    def parts() -> Iterator[tuple[NDArray[Any], Ints]]:
        for frames, tracklet in batches:
            network(frames.to(device))
            yield seen.pop().float().cpu().numpy(), np.asarray(tracklet)

    training = network.training
    network.eval()
    try:
        return normalised(mean_by_tracklet(parts(), num_tracklets)).astype(np.float32)
    finally:
        hook.remove()
        network.train(training)
