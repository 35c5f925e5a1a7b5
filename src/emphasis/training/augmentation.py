"""Random crops and flips of whole batches, and normalisation, on the device that holds the images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def random_crop_flip(images: Tensor, generator: torch.Generator, *, padding: int = 4, flip: bool = True) -> Tensor:
    """Pad each image with zeros, cut a window of the old size at random, and mirror every other one.

    Args:
        images: (N, channels, H, W) of any dtype.
        generator: On the images' device; what is drawn depends on it alone.
        padding: Pixels on every side, >= 0.
        flip: Whether half of the images, at random, are mirrored left to right.

    Returns:
        (N, channels, H, W), of the images' dtype.

    Raises:
        ValueError: `images` are not a batch of images, or `padding` is negative.
    """
    if images.ndim != 4:
        raise ValueError(f"images must have the shape (N, channels, H, W), got {tuple(images.shape)}")
    if padding < 0:
        raise ValueError(f"padding={padding!r} is not allowed; it is a number of pixels >= 0")
    tops, lefts, flipped = draw_offsets(len(images), generator, padding=padding, flip=flip)
    return crop_flip(images, tops, lefts, flipped, padding=padding)


def draw_offsets(
    number: int, generator: torch.Generator, *, padding: int = 4, flip: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `number` tops and lefts, uniform over 0 to 2 * padding, and whether to flip, each with chance 1/2."""
    device = generator.device
    tops, lefts = torch.randint(2 * padding + 1, (2, number), generator=generator, device=device)
    flipped = torch.randint(2 if flip else 1, (number,), generator=generator, device=device) == 1
    return tops, lefts, flipped


def crop_flip(images: Tensor, tops: Tensor, lefts: Tensor, flipped: Tensor, *, padding: int = 4) -> Tensor:
    """Return the windows at `tops`, `lefts` of the zero-padded images, mirrored where `flipped`; (N,) each."""
    width = images.shape[3]
    padded = F.pad(images, (padding,) * 4)
    rows = tops[:, None] + torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = lefts[:, None] + torch.where(flipped[:, None], width - 1 - columns, columns)
    # Pixels by their place in a flattened image: on a CPU four times as fast as an index per axis.
    places = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).flatten(1)
    return padded.flatten(2).gather(2, places[:, None].expand(-1, images.shape[1], -1)).view(images.shape)


def normalise(images: Tensor, mean: Tensor, std: Tensor, *, channels_last: bool = True) -> Tensor:
    """Return uint8 images (N, channels, H, W) as (x / 255 - mean) / std, float32.

    Args:
        images: uint8.
        mean: (channels,), of pixels in [0, 1].
        std: (channels,), > 0, likewise.
        channels_last: Whether channels come last in memory.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    scale = (1.0 / (255.0 * std)).view(-1, 1, 1)
    shift = (mean / std).view(-1, 1, 1)
    return images.to(torch.float32, memory_format=memory_format).mul_(scale).sub_(shift)
