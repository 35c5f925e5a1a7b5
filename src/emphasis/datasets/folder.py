"""Any folder of images, one folder per class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.download import Progress
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.datasets.image_files import MODES, ImageFiles, read_image, skips
from emphasis.datasets.split import Inputs, Split, draw_stratified, take_training
from emphasis.errors import EmphasisValueError
from emphasis.texts import shortened

_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
_SHOWN = 10  # unreadable files named in an error


def load_image_folder(
    root: Path,
    progress: Progress,
    *,
    folder: str = ".",
    size: int = 32,
    channels: int = 3,
    test_share: float = 0.2,
    seed: int = 0,
    stream: bool = False,
    broken: str = "stop",
) -> Split:
    """Return the images below a folder: ROOT/train/CLASS/FILE and ROOT/test/CLASS/FILE, or ROOT/CLASS/FILE.

    Each image is scaled, and cut in the middle where it is no square, to size x size pixels. Classes are numbered in
    the order of their names, examples in that of class and file name. Files whose name starts with a dot, and those
    that are no image by their suffix, are passed over.

    Args:
        root: The data folder.
        progress: Told the number of images read and in all.
        folder: The folder of the images, relative to `root` or absolute.
        size: Pixels per side.
        channels: 3 (RGB) or 1 (gray).
        test_share: Share of each class that becomes the test part, in (0, 1), where there is no train/ and test/. 0:
            all images are trained on, and the test part is the training part.
        seed: Of that choice.
        stream: Whether images are decoded when training asks for them, instead of all at once into memory.
        broken: What training does, if `stream`, about an image that cannot be decoded: "stop", or "skip" it.

    Raises:
        DataNotFoundError: There is no such folder, or no images in it.
        DamagedFileError: Images cannot be read; the message lists them. With `stream` nothing is read here.
        ValueError: An option is out of range, there are less than two classes, or train and test differ in theirs.
    """
    if size < 1 or channels not in MODES:
        raise EmphasisValueError(f"size={size}, channels={channels} is not allowed; use size >= 1 and channels 1 or 3")
    skip = skips("broken", broken)
    if skip and not stream:
        raise EmphasisValueError('broken="skip" is not allowed without stream=true; mend or remove what cannot be read')
    base = root / folder
    if not base.is_dir():
        raise DataNotFoundError(f"image folder {str(base)!r} does not exist; name it with the option 'folder'")

    def images_of(paths: list[Path]) -> Inputs:
        if stream:
            return ImageFiles(base, _relative(paths, base), size, channels, center_crop=True, skip_broken=skip)
        return _read_all(paths, size, channels, progress)

    divided = [base / part for part in ("train", "test")]
    if all(path.is_dir() for path in divided):
        names = _classes(divided[0])
        if strange := sorted(set(_classes(divided[1])) - set(names)):
            raise EmphasisValueError(f"{divided[1]} has the class {strange[0]!r}, which {divided[0]} lacks")
        train, train_labels = _files(divided[0], names)
        test, test_labels = _files(divided[1], names, may_lack=True)
        images = images_of([*train, *test])
        return Split(
            images[: len(train)],
            train_labels,
            images[len(train) :],
            test_labels,
            len(names),
            names,
            sources=_relative(train, base),
        )
    if any(path.is_dir() for path in divided):
        raise EmphasisValueError(f"{base} has only one of the folders 'train' and 'test'; it needs both or neither")
    if not 0.0 <= test_share < 1.0:
        raise EmphasisValueError(
            f"test_share={test_share} is not allowed; use a number between 0 and 1, or 0 for no test part"
        )
    names = _classes(base)
    paths, labels = _files(base, names)
    tested = draw_stratified(labels, max(round(test_share * len(paths)), 1), seed) if test_share else np.arange(0)
    images = images_of(paths)
    everything = Split(images, labels, images, labels, len(names), names, sources=_relative(paths, base))
    if not test_share:
        return everything
    trained = take_training(everything, np.setdiff1d(np.arange(len(paths)), tested))
    return replace(trained, test_inputs=images[tested], test_labels=labels[tested])


def _relative(paths: list[Path], base: Path) -> tuple[str, ...]:
    return tuple(path.relative_to(base).as_posix() for path in paths)


def _classes(base: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.name for path in base.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if len(names) < 2:
        raise EmphasisValueError(
            f"{base} has {len(names)} folders; classification needs one folder for each of 2 or more classes"
        )
    return names


def _files(base: Path, names: tuple[str, ...], may_lack: bool = False) -> tuple[list[Path], NDArray[np.int64]]:
    """Return the image files of each class in order, and their labels."""
    paths: list[Path] = []
    counts = []
    for name in names:
        inside = (base / name).iterdir() if (base / name).is_dir() else ()
        own = sorted(p for p in inside if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))
        if not own and not may_lack:
            raise DataNotFoundError(f"{base / name} holds no images; it may hold {', '.join(sorted(_SUFFIXES))}")
        paths += own
        counts.append(len(own))
    if not paths:
        raise DataNotFoundError(f"{base} holds no images")
    return paths, np.repeat(np.arange(len(names)), counts)


def _read_all(paths: list[Path], size: int, channels: int, progress: Progress) -> NDArray[np.uint8]:
    images = np.empty((len(paths), channels, size, size), dtype=np.uint8)
    unreadable = []
    for place, path in enumerate(paths):
        try:
            images[place] = read_image(path, size, channels, center_crop=True)
        except Exception as error:  # decoders fail in many ways; every file is tried, so that one run finds them all
            unreadable.append(f"{path} ({error})")
        progress("reading images", place + 1, len(paths))
    if unreadable:
        listed = shortened(unreadable, _SHOWN, "; ")
        raise DamagedFileError(f"{len(unreadable)} of {len(paths)} images cannot be read: {listed}")
    return images
