"""Lists of image files and their classes, from a folder with a folder for each class or from a table of paths."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.datasets.image_files import SUFFIXES, image_header
from emphasis.datasets.table import TableOptions, read_labels
from emphasis.datasets.table_report import TableError, counted, rows_text
from emphasis.errors import EmphasisValueError
from emphasis.texts import did_you_mean, shortened

_LISTED = 10  # files or folders named in a message
_SAMPLED = 200  # number of images whose headers are read to choose a size


@dataclass(frozen=True, eq=False)
class ImageList:
    """N image files and their classes.

    Attributes:
        base: Folder of the files.
        names: Paths of the files relative to `base`, with forward slashes.
        labels: Class of each file, shape (N,), in [0, C).
        classes: Names of the C classes.
        rows: Row of each file in its table, shape (N,); None if they come from a folder.
        notes: Observations, such as files that were skipped.
    """

    base: Path
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    rows: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: NDArray[np.int64]) -> ImageList:
        """Return the files at `rows`."""
        names = tuple(self.names[row] for row in rows.tolist())
        return replace(self, names=names, labels=self.labels[rows], rows=None if self.rows is None else self.rows[rows])


def list_images(base: Path, classes: Sequence[str] | None = None) -> ImageList:
    """Return the images of a folder with a folder for each class.

    Folders within the folder of a class are searched as well. Classes are in the order of their names, and files in
    the order of their paths. Files and folders whose name starts with a dot are skipped.

    Args:
        base: Folder of the folders of classes.
        classes: Names of the classes, of which some may be missing; None for all folders that hold images.

    Raises:
        DataNotFoundError: If there are no images.
        EmphasisValueError: If there are images of fewer than two classes.
    """
    folders = sorted(path.name for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    by_class: dict[str, list[str]] = {}
    others: Counter[str] = Counter()
    empty = []
    for folder in folders:
        images = []
        for path in files_below(base / folder):
            if path.suffix.lower() in SUFFIXES:
                images.append(path.relative_to(base).as_posix())
            else:
                others[path.suffix.lower() or "no suffix"] += 1
        if images:
            by_class[folder] = sorted(images)
        else:
            empty.append(folder)
    if folders and not by_class:
        raise DataNotFoundError(f"the folders in {base} hold no images; the formats are {', '.join(sorted(SUFFIXES))}")
    if classes is None and len(by_class) < 2:
        raise EmphasisValueError(
            f"{base} has {len(by_class)} {'folder' if len(by_class) == 1 else 'folders'} with images; classification "
            "needs one folder for each of 2 or more classes"
        )
    if classes is not None and (unknown := [name for name in by_class if name not in classes]):
        raise EmphasisValueError(f"{base} has the class {unknown[0]!r}, which the training part lacks")
    names = tuple(by_class) if classes is None else tuple(classes)
    loose = sum(1 for path in base.iterdir() if path.is_file() and path.suffix.lower() in SUFFIXES)
    notes = []
    if empty and classes is None:
        notes.append(f"{counted(len(empty), 'folder')} without images skipped: {shortened(empty, _LISTED)}")
    if loose:
        notes.append(f"{counted(loose, 'image')} in {base.name}, outside of the folders of the classes: skipped")
    if others:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(_LISTED))
        notes.append(f"{counted(others.total(), 'file')} of other kinds skipped: {kinds}")
    counts = [len(by_class.get(name, ())) for name in names]
    return ImageList(
        base,
        tuple(file for name in names for file in by_class.get(name, ())),
        np.repeat(np.arange(len(names)), counts),
        names,
        notes=tuple(notes),
    )


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, following links, without hidden files and folders."""
    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(parent))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) not in seen  # noqa: PTH118
        )
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))


def list_table_images(file: Path, label: str, images: str, options: TableOptions | None = None) -> ImageList:
    """Return the images that a table lists.

    Args:
        file: Table with paths that are absolute, or relative to its folder.
        label: Column of labels.
        images: Column of paths.
        options: Options for the table.

    Raises:
        DataNotFoundError, DamagedFileError, TableError: If the table cannot be used.
        EmphasisValueError: If it lists images of fewer than two classes.
    """
    labels, table = read_labels(file, label, options)
    if images not in table.frame.columns:
        known = list(map(str, table.frame.columns))
        raise TableError([f"{file.name} has no column {images!r} of images{did_you_mean(images, known)}"], file.name)
    column = table.frame[images]
    notes = [finding.text for finding in (*table.findings, *labels.findings)]
    if missing := table.rows[column.isna().to_numpy() & (labels.codes >= 0)].tolist():
        notes.append(f"no image in {rows_text(missing)}: skipped")
    used = np.flatnonzero((labels.codes >= 0) & ~column.isna().to_numpy())
    names = tuple(str(path).replace("\\", "/") if os.sep == "/" else str(path) for path in column.iloc[used])
    if others := [name for name in names if Path(name).suffix.lower() not in SUFFIXES]:
        raise EmphasisValueError(
            f"the column {images!r} of {file.name} names files that are not images: {shortened(others, _LISTED)}"
        )
    codes = labels.codes[used]
    if len(np.unique(codes)) < 2:
        raise EmphasisValueError(f"{file.name} lists images of fewer than 2 classes")
    return ImageList(file.parent, names, codes, labels.names, table.rows[used], tuple(notes))


def natural_size(images: ImageList, most: int) -> tuple[int, int]:
    """Return a suitable number of pixels per side and of channels for a list of images.

    The size is the median of the shorter sides, `most` at most. Images have one channel if all are gray.

    Args:
        images: List of images, of which 200 are examined.
        most: Largest size to return.

    Raises:
        DamagedFileError: None of the examined images can be read.
    """
    sides, gray = [], []
    for row in dict.fromkeys(np.linspace(0, len(images) - 1, min(_SAMPLED, len(images))).round().astype(int).tolist()):
        try:
            width, height, is_gray = image_header(images.base / images.names[row])
        except Exception:  # decoders can raise any error; broken images are reported when they are decoded
            continue
        sides.append(min(width, height))
        gray.append(is_gray)
    if not sides:
        raise DamagedFileError(f"none of the examined images in {images.base} can be read")
    return min(max(1, int(np.median(sides))), most), 1 if all(gray) else 3
