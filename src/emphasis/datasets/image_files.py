"""Reading of image files, and arrays of image files that are decoded on access."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.download import Progress, silent
from emphasis.datasets.errors import DamagedFileError
from emphasis.errors import EmphasisValueError
from emphasis.texts import one_line

_EIGHT_BITS = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"))
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Allowed formats, independent of file names; Pillow supports further formats, some with external programs."""

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
"""Suffixes of image files, in lower case."""

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode of images by number of channels."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageFiles:
    """N image files that behave like uint8 images (N, channels, size, size).

    It has the shape, dtype and ndim of that array. Indexing returns an `ImageFiles`, and `numpy.asarray` decodes all
    images.

    Attributes:
        base: Folder of the files.
        names: Paths of the files relative to `base`.
        size: Pixels per side that every image is scaled to.
        channels: 3 (RGB) or 1 (gray).
        center_crop: Whether images that are not square are cropped to their center; otherwise they are squeezed.
        skip_broken: Whether training skips images that cannot be decoded; otherwise it stops.
    """

    base: Path
    names: Sequence[str]
    size: int
    channels: int = 3
    center_crop: bool = False
    skip_broken: bool = False

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, channels, size, size)."""
        return len(self.names), self.channels, self.size, self.size

    def __getitem__(self, rows: Any) -> ImageFiles:
        """Return the images at `rows`: a slice, indices or a mask."""
        return replace(self, names=tuple(self.names[row] for row in np.arange(len(self))[rows].tolist()))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        images = np.empty(self.shape, self.dtype)
        for row in range(len(self)):
            images[row] = self.read(row)
        return images

    def __repr__(self) -> str:
        return f"<ImageFiles: {len(self)} in {str(self.base)!r}, {self.channels} x {self.size} x {self.size}>"

    def read(self, row: int) -> NDArray[np.uint8]:
        """Return one image, (channels, size, size); several threads may read simultaneously.

        Raises:
            DamagedFileError: The image is missing, or cannot be decoded.
        """
        path = self.base / self.names[row]
        try:
            return read_image(path, self.size, self.channels, self.center_crop)
        except MemoryError:  # not caused by the file
            raise
        except Exception as error:  # decoders can raise any error
            raise DamagedFileError(
                f"image {path} cannot be read ({one_line(error)}); replace it, remove it from the list, or skip it "
                'with the option broken = "skip"'
            ) from error

    def fingerprint(self) -> bytes:
        """Return names, sizes and times of the files, which change if a file changes."""
        about = ((name, (self.base / name).stat()) for name in self.names)
        return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in about).encode()

    def sample(self, number: int) -> NDArray[np.uint8]:
        """Return at most `number` images, evenly spaced, (n, channels, size, size), without skipped broken images.

        Raises:
            DamagedFileError: An image cannot be decoded and is not skipped, or no image can be decoded.
        """
        images = []
        for row in dict.fromkeys(np.linspace(0, len(self) - 1, min(number, len(self))).round().astype(int).tolist()):
            try:
                images.append(self.read(row))
            except DamagedFileError:
                if not self.skip_broken:
                    raise
        if not images:
            raise DamagedFileError(f"none of {min(number, len(self))} images in {self.base} can be decoded")
        return np.stack(images)


def read_images(
    paths: Sequence[Path], size: int, channels: int, progress: Progress = silent
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]:
    """Return image files as an array, cropped to their center, without those that cannot be read.

    Args:
        paths: N paths. All files are read, so that all unreadable files are reported at once.
        size: Pixels per side.
        channels: 3 (RGB) or 1 (gray).
        progress: Called as `progress(task, done, total)`.

    Returns:
        The K images that can be read, (K, channels, size, size); their indices in `paths`, (K,); and the paths of the
        other files with the reasons.
    """
    images = np.empty((len(paths), channels, size, size), np.uint8)
    unreadable: dict[int, str] = {}
    for number, path in enumerate(paths):
        try:
            images[number] = read_image(path, size, channels, center_crop=True)
        except MemoryError:  # not caused by the file
            raise
        except Exception as error:  # decoders can raise any error
            unreadable[number] = f"{path} ({one_line(error)})"
        progress("reading images", number + 1, len(paths))
    readable = np.setdiff1d(np.arange(len(paths)), list(unreadable))
    return images[readable] if unreadable else images, readable, list(unreadable.values())


def read_image(path: Path, size: int, channels: int, center_crop: bool) -> NDArray[np.uint8]:
    """Return an image file as (channels, size, size), upright.

    Args:
        path: Path of the file.
        size: Pixels per side.
        channels: 3 (RGB) or 1 (gray).
        center_crop: Whether an image that is not square is cropped to its center before it is scaled (bicubic);
            otherwise it is squeezed (bilinear, which takes half the time).

    Raises:
        Exception: The file cannot be read, or has more pixels than Pillow considers safe; decoders raise any error.
    """
    from PIL import Image, ImageOps

    with Image.open(path, formats=FORMATS) as image:
        # Pillow only warns, and warning filters are shared by all threads.
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise EmphasisValueError(
                f"its {image.width} x {image.height} pixels are more than {Image.MAX_IMAGE_PIXELS:,}"
            )
        if image.mode not in _EIGHT_BITS:  # Pillow would clip 16 bits to 8 instead of scaling
            raise EmphasisValueError(f"its mode {image.mode} has more than 8 bits per channel; convert it to 8")
        upright = ImageOps.exif_transpose(image)
        full = upright.convert("RGBA") if upright.mode in ("P", "PA") else upright
        plain = full.convert(MODES[channels])
        if center_crop:
            fitted = ImageOps.fit(plain, (size, size), Image.Resampling.BICUBIC)
        else:
            fitted = plain.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(fitted).reshape(size, size, channels).transpose(2, 0, 1)


def image_header(path: Path) -> tuple[int, int, bool]:
    """Return width and height of an image file, and whether it is gray, without decoding it.

    Raises:
        Exception: The file cannot be read; decoders raise any error.
    """
    from PIL import Image

    with Image.open(path, formats=FORMATS) as image:
        return image.width, image.height, image.mode in ("1", "L", "LA")


def skips(option: str, value: str) -> bool:
    """Return whether an option is "skip" rather than "stop".

    Raises:
        ValueError: The value is neither.
    """
    if value not in ("stop", "skip"):
        raise EmphasisValueError(f'{option}={value!r} is not allowed; use "stop" or "skip"')
    return value == "skip"


def check_sizes(resize: int, size: int) -> None:
    """Check the side that images are resized to, and the side of crops.

    Raises:
        ValueError: A crop is empty, or larger than the image.
    """
    if not 1 <= size <= resize:
        raise EmphasisValueError(f"resize={resize}, size={size} is not allowed; use 1 <= size <= resize")
