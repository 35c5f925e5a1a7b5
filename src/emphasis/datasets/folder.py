"""Any folder of images, one folder per class, and any table that lists images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.download import Progress
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.datasets.image_files import MODES, ImageFiles, read_images, skips
from emphasis.datasets.image_list import ImageList, list_images, list_table_images
from emphasis.datasets.split import Inputs, Split, draw_stratified, take_training
from emphasis.datasets.table import TableOptions
from emphasis.errors import EmphasisValueError
from emphasis.texts import shortened

_LISTED, _LISTED_IN_NOTE = 10, 50  # unreadable files named in an error, and in a note

Read = Callable[[ImageList], tuple[Inputs, NDArray[np.int64], tuple[str, ...]]]
"""Reads images: returns those that can be read, their rows in the list, and notes about the others."""


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

    Each image is scaled, and cropped to its middle where it is no square, to size x size pixels. Classes are numbered
    in the order of their names, examples in that of class and path. Folders within the folder of a class are searched
    as well; folders without images, and files that are no images by their suffix, are skipped and noted.

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
        broken: What is done about images that cannot be decoded: "stop", or "skip" them. They are skipped and noted,
            or with `stream` skipped in training.

    Raises:
        DataNotFoundError: There is no such folder, or no images in it.
        DamagedFileError: Images cannot be read; the message lists them. With `stream` nothing is read here.
        ValueError: An option is out of range, there are less than two classes, or train and test differ in theirs.
    """
    read = _reader(progress, size, channels, stream, broken)
    base = root / folder
    if not base.is_dir():
        raise DataNotFoundError(f"image folder {str(base)!r} does not exist; name it with the option 'folder'")
    divided = [base / part for part in ("train", "test")]
    if all(path.is_dir() for path in divided):
        train = list_images(divided[0])
        test = list_images(divided[1], train.classes)
        return _of_parts(_below(train, base), _below(test, base), read)
    if any(path.is_dir() for path in divided):
        raise EmphasisValueError(f"{base} has only one of the folders 'train' and 'test'; it needs both or neither")
    return _divided(list_images(base), read, test_share, seed)


def load_image_table(
    root: Path,
    progress: Progress,
    *,
    file: str,
    label: str,
    images: str,
    size: int = 32,
    channels: int = 3,
    test_share: float = 0.2,
    seed: int = 0,
    stream: bool = False,
    broken: str = "stop",
    sep: str = "",
    encoding: str = "",
    missing: tuple[str, ...] = (),
    unlabeled: str = "drop",
    rare_classes: str = "keep",
    merge_spellings: str = "form",
) -> Split:
    """Return the images that a table lists.

    Args:
        root: The data folder.
        progress: Told the number of images read and in all.
        file: The table, relative to `root` or absolute.
        label: Its column of labels.
        images: Its column of paths, absolute or relative to the folder of the table.
        size: Pixels per side; this and the next five as for `load_image_folder`.
        channels: 3 (RGB) or 1 (gray).
        test_share: Share of each class that becomes the test part; 0 for none.
        seed: Seed of that choice.
        stream: Whether images are decoded when training asks for them.
        broken: "stop" at images that cannot be decoded, or "skip" them.
        sep: Separator of cells; this and the next five as for `load_table`.
        encoding: Encoding of the file.
        missing: Texts that stand for missing values.
        unlabeled: "drop" rows without a label, or "error".
        rare_classes: What becomes of classes of very few rows.
        merge_spellings: Which spellings of a class are one.

    Raises:
        DataNotFoundError, DamagedFileError: The table or images cannot be read.
        ValueError: An option is out of range, or the table cannot be used.
    """
    read = _reader(progress, size, channels, stream, broken)
    options = TableOptions.of(
        sep=sep,
        encoding=encoding,
        missing=missing,
        unlabeled=unlabeled,
        rare_classes=rare_classes,
        merge_spellings=merge_spellings,
    )
    return _divided(list_table_images(root / file, label, images, options), read, test_share, seed)


def _reader(progress: Progress, size: int, channels: int, stream: bool, broken: str) -> Read:
    if size < 1 or channels not in MODES:
        raise EmphasisValueError(f"size={size}, channels={channels} is not allowed; use size >= 1 and channels 1 or 3")
    skip = skips("broken", broken)

    def read(images: ImageList) -> tuple[Inputs, NDArray[np.int64], tuple[str, ...]]:
        if stream:
            files = ImageFiles(images.base, images.names, size, channels, center_crop=True, skip_broken=skip)
            return files, np.arange(len(images)), ()
        return _read_all(images, size, channels, skip, progress)

    return read


def _divided(images: ImageList, read: Read, test_share: float, seed: int) -> Split:
    """Return the images divided into training and test part, all classes alike."""
    if not 0.0 <= test_share < 1.0:
        raise EmphasisValueError(
            f"test_share={test_share} is not allowed; use a number between 0 and 1, or 0 for no test part"
        )
    inputs, kept, notes = read(images)
    images = images[kept]
    everything = Split(
        inputs,
        images.labels,
        inputs,
        images.labels,
        len(images.classes),
        images.classes,
        sources=images.names,
        notes=(*images.notes, *notes),
        rows=images.rows,
    )
    if not test_share:
        return everything
    tested = draw_stratified(images.labels, max(round(test_share * len(images)), 1), seed)
    trained = take_training(everything, np.setdiff1d(np.arange(len(images)), tested))
    return replace(trained, test_inputs=inputs[tested], test_labels=images.labels[tested])


def _of_parts(train: ImageList, test: ImageList, read: Read) -> Split:
    both = ImageList(
        train.base, (*train.names, *test.names), np.concatenate([train.labels, test.labels]), train.classes
    )
    inputs, kept, notes = read(both)
    both, number = both[kept], int(np.count_nonzero(kept < len(train)))
    return Split(
        inputs[:number],
        both.labels[:number],
        inputs[number:],
        both.labels[number:],
        len(both.classes),
        both.classes,
        sources=both.names[:number],
        notes=(*train.notes, *test.notes, *notes),
    )


def _below(images: ImageList, base: Path) -> ImageList:
    """Return the list with names relative to a folder above its own."""
    part = images.base.relative_to(base).as_posix()
    return replace(images, base=base, names=tuple(f"{part}/{name}" for name in images.names))


def _read_all(
    images: ImageList, size: int, channels: int, skip: bool, progress: Progress
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Decode all images into memory.

    Raises:
        DamagedFileError: Images cannot be read, and such are not skipped, or none of a class can.
    """
    paths = [images.base / name for name in images.names]
    arrays, kept, unreadable = read_images(paths, size, channels, progress)
    if not unreadable:
        return arrays, kept, ()
    count = f"{len(unreadable):,} of {len(images):,} images cannot be read"
    if not skip:
        raise DamagedFileError(f"{count}: {shortened(unreadable, _LISTED, '; ')}")
    left = np.bincount(images.labels[kept], minlength=len(images.classes))
    lost = [images.classes[c] for c in np.unique(images.labels) if not left[c]]
    if lost:
        listed = shortened(unreadable, _LISTED, "; ")
        raise DamagedFileError(f"{count}, among them all of {shortened(lost, _LISTED)}: {listed}")
    return arrays, kept, (f"{count} and were skipped: {shortened(unreadable, _LISTED_IN_NOTE, '; ')}",)
