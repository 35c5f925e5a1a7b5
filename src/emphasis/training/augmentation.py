"""Random crops and flips of whole batches, and normalization, on the device that holds the images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.deprecation import renamed
from emphasis.errors import EmphasisValueError


def random_crop_flip(
    images: Tensor,
    generator: torch.Generator,
    *,
    padding: int = 4,
    flip: bool = True,
    size: int | None = None,
    part: tuple[int, Tensor] | None = None,
) -> Tensor:
    """Pad each image with zeros, cut a window at random, and mirror every other one.

    Args:
        images: (N, channels, H, W) of any dtype.
        generator: On the images' device; what is drawn depends on it alone.
        padding: Pixels on every side, >= 0.
        flip: Whether half of the images, at random, are mirrored left to right.
        size: Pixels per side of the window, out of square images; None: as large as an image.
        part: If the images are a part of a batch: how many the batch has, and which of them (N,) these are. They are
            cut and mirrored as in the whole.

    Returns:
        (N, channels, H, W) or (N, channels, size, size), of the images' dtype.

    Raises:
        ValueError: `images` are not a batch of images, `padding` is negative, or there is no such window.
    """
    if images.ndim != 4:
        raise EmphasisValueError(f"images must have the shape (N, channels, H, W), got {tuple(images.shape)}")
    if padding < 0:
        raise EmphasisValueError(f"padding={padding!r} is not allowed; it is a number of pixels >= 0")
    height, width = images.shape[2:]
    if size is not None and not (height == width and 1 <= size <= height + 2 * padding):
        raise EmphasisValueError(f"size={size} is not allowed for images of {height} x {width}, padded by {padding}")
    room = 2 * padding + (0 if size is None else height - size)
    number, rows = (len(images), slice(None)) if part is None else part
    tops, lefts, flipped = (drawn[rows] for drawn in draw_offsets(number, generator, room=room, flip=flip))
    return crop_flip(images, tops, lefts, flipped, padding=padding, size=size)


def draw_offsets(
    number: int, generator: torch.Generator, *, room: int = 8, flip: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `number` tops and lefts, uniform over 0 to `room`, and whether to flip, each with chance 1/2."""
    device = generator.device
    tops, lefts = torch.randint(room + 1, (2, number), generator=generator, device=device)
    flipped = torch.randint(2 if flip else 1, (number,), generator=generator, device=device) == 1
    return tops, lefts, flipped


def crop_flip(
    images: Tensor, tops: Tensor, lefts: Tensor, flipped: Tensor, *, padding: int = 4, size: int | None = None
) -> Tensor:
    """Return the windows at `tops`, `lefts` of the zero-padded images, mirrored where `flipped`; (N,) each.

    They are `size` pixels wide and high; None: as an image is.
    """
    height, width = images.shape[2:] if size is None else (size, size)
    padded = F.pad(images, (padding,) * 4)
    rows = tops[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = lefts[:, None] + torch.where(flipped[:, None], width - 1 - columns, columns)
    # Pixels by their place in a flattened image: on a CPU four times as fast as an index per axis.
    places = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).flatten(1)
    windows = padded.flatten(2).gather(2, places[:, None].expand(-1, images.shape[1], -1))
    return windows.view(*images.shape[:2], height, width)


def center_crop(images: Tensor, size: int) -> Tensor:
    """Return the middle of images (..., H, W), `size` pixels wide and high, rounded up and left."""
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]


def normalize(images: Tensor, mean: Tensor, std: Tensor, *, channels_last: bool = True) -> Tensor:
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


__getattr__ = renamed(__name__, {"normalise": "normalize", "centre_crop": "center_crop"})
