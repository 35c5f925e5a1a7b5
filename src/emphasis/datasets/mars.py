"""MARS: videos of 1,261 people walking past six cameras, cut out by a detector and a tracker, mistakes included.

Source: L. Zheng et al., MARS: A Video Benchmark for Large-Scale Person Re-Identification, ECCV 2016; the lists are of
https://github.com/liangzheng06/MARS-evaluation. Read from

- `tracks_train_info.mat`, `tracks_test_info.mat` (a row per tracklet: first and last image, person, camera) and
  `query_IDX.mat` (rows of the latter), beside `root`, in its folder `info` or in `mars/info`;
- where they are, the lists of images `train_name.txt` and `test_name.txt` in the same places, and the images
  `bbox_train/0001/0001C1T0001F001.jpg` (person, camera, tracklet, frame) and `bbox_test/...`.

The gallery is the whole test part, including the queries; `emphasis.retrieval` ignores entries that do not count.
`load_mars` reads the lists, with or without images, and `load_mars_split` returns a data set for training.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.download import Progress
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError, UnsafeFileError
from emphasis.datasets.image_files import ImageFiles, check_sizes, skips
from emphasis.datasets.root import find, not_found
from emphasis.datasets.video import Gallery, VideoSplit
from emphasis.extras import missing_extra
from emphasis.texts import shortened

_FILES = {
    "train": ("tracks_train_info.mat", "track_train_info"),
    "test": ("tracks_test_info.mat", "track_test_info"),
    "query": ("query_IDX.mat", "query_IDX"),
}
"""File and variable of each part."""
_FOLDERS = ("", "info/", "mars_info/", "mars/info/", "MARS/info/")
_IMAGE_FOLDERS = ("", "mars/", "MARS/")
_NAME = re.compile(r"(\d{4}|00-1)C(\d)T\d+F\d+\.\w+")
_SHOWN = 5  # missing files in messages
_LARGEST = 2**53  # floats up to this are exact whole numbers

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False)
class Tracklets:
    """T consecutive tracklets of F images.

    Attributes:
        first: Index of the first image of each tracklet, (T,), from 0.
        last: Index of the last image of each tracklet, (T,).
        person: Person of each tracklet, (T,), >= 1; in the test part also 0 for distractors and -1 for false
            detections.
        camera: Camera of each tracklet, (T,), 1 to 6.
        names: Names of the F images; () if their list is absent.
        folder: Folder of the images; None if it or the list is absent.
    """

    first: Rows
    last: Rows
    person: Rows
    camera: Rows
    names: tuple[str, ...] = ()
    folder: Path | None = None

    def __repr__(self) -> str:
        return f"<Tracklets: {len(self)} of {len(self.tracklet)} images, {len(np.unique(self.person))} persons>"

    def __len__(self) -> int:
        return len(self.first)

    @property
    def tracklet(self) -> Rows:
        """The tracklet of each image, (F,)."""
        return np.repeat(np.arange(len(self)), self.last - self.first + 1)

    @property
    def labels(self) -> Rows:
        """The person of each tracklet as a class, (T,), 0 to C - 1 in the order of the persons' numbers."""
        return np.unique(self.person, return_inverse=True)[1].astype(np.int64)

    def path(self, image: int) -> Path:
        """Return the path of an image, given by its index from 0 to F - 1.

        Raises:
            DataNotFoundError: The list of images or their folder is absent.
        """
        return self._present_folder() / _file(self.names[image])

    def images(self, size: int, *, skip_broken: bool = False) -> ImageFiles:
        """Return all images, which are decoded on access and resized to `size` x `size`.

        Raises:
            DataNotFoundError: The list of images or their folder is absent.
        """
        return ImageFiles(self._present_folder(), tuple(map(_file, self.names)), size, skip_broken=skip_broken)

    def _present_folder(self) -> Path:
        if self.folder is None:
            raise DataNotFoundError(
                "the images of MARS or the list of their names are absent: put train_name.txt, "
                "test_name.txt, bbox_train and bbox_test beside the lists"
            )
        return self.folder


@dataclass(frozen=True, eq=False)
class Mars:
    """The tracklets of MARS.

    Attributes:
        train: The 8,298 training tracklets, of 625 persons.
        test: The 12,180 tracklets of the gallery, of other persons.
        query: Rows of `test` that are queries, (Q,); 1,980.
        missing: Messages about missing images that were skipped, one for each part; () if there are none.
    """

    train: Tracklets
    test: Tracklets
    query: Rows
    missing: tuple[str, ...] = ()


def load_mars(root: Path, *, missing: str = "stop") -> Mars:
    """Return the tracklets, with the names and the folder of their images if these are available.

    Args:
        root: The data folder.
        missing: Whether to "stop" if images are missing, or to "skip" them, tracklets without images, and their
            queries, which `Mars.missing` reports.

    Raises:
        DataNotFoundError: A list of tracklets is absent, or images are missing and `missing` is "stop".
        DamagedFileError: A list is truncated or inconsistent.
        UnsafeFileError: The name of an image leads out of its folder.
        MissingExtraError: scipy, which reads the lists, is not installed.
        ValueError: `missing` is not allowed.
    """
    skip = skips("missing", missing)
    paths = {part: find(root, [f"{folder}{name}" for folder in _FOLDERS]) for part, (name, _) in _FILES.items()}
    if lacking := [_FILES[part][0] for part, path in paths.items() if path is None]:
        raise not_found("MARS, all of its lists of tracklets,", root, lacking)
    train_path, test_path, query_path = (path for path in paths.values() if path is not None)
    train, test = _read_tracklets(train_path, "train"), _read_tracklets(test_path, "test")
    _check_rows(train_path, train.person < 1, "shows no person, which a tracklet to train on must")
    _check_rows(test_path, np.isin(test.person, train.person), f"shows a person of {train_path.name}")
    query = _read_mat(query_path, _FILES["query"][1]).ravel() - 1
    _check_rows(query_path, (query < 0) | (query >= len(test)), f"is no row of the {len(test)} in {test_path.name}")
    _check_rows(query_path, np.r_[False, np.diff(query) <= 0], "does not follow the query before it")
    _check_rows(query_path, test.person[query] < 1, f"is a row of {test_path.name} that shows no person")
    train, _, train_report = _without_missing(_with_names(train, train_path, "train", root), skip)
    test, kept, test_report = _without_missing(_with_names(test, test_path, "test", root), skip)
    reports = tuple(report for report in (train_report, test_report) if report)
    return Mars(train, test, np.flatnonzero(np.isin(kept, query)), reports)


def load_mars_split(
    root: Path, progress: Progress, *, resize: int = 256, size: int = 224, missing: str = "stop", broken: str = "stop"
) -> VideoSplit:
    """Return MARS with frames labeled by person, for evaluation by retrieval; images are decoded on access.

    Args:
        root: The data folder.
        progress: Called as `progress(task, done, total)` while lists are read.
        resize: Pixels per side to which images are resized.
        size: Pixels per side of the crops, at most `resize`.
        missing: Whether to "stop" if images are missing, or to "skip" them, which the `notes` of the split report.
        broken: Whether training should "stop" at an image that cannot be decoded, or "skip" it.

    Raises:
        DataNotFoundError: Lists or images are absent.
        DamagedFileError: A list is truncated or inconsistent.
        UnsafeFileError: The name of an image leads out of its folder.
        MissingExtraError: scipy, which reads the lists, is not installed.
        ValueError: An option is not allowed.
    """
    check_sizes(resize, size)
    skip_broken = skips("broken", broken)
    progress("reading MARS's lists", 0, 0)
    mars = load_mars(root, missing=missing)
    train, test = mars.train, mars.test
    return VideoSplit(
        train_inputs=train.images(resize, skip_broken=skip_broken),
        train_labels=train.labels[train.tracklet],
        test_inputs=test.images(resize, skip_broken=skip_broken),
        test_labels=test.tracklet,
        num_classes=len(np.unique(train.person)),
        class_names=tuple(f"{person:04d}" for person in np.unique(train.person)),
        sources=train.names,
        crop=size,
        notes=tuple(f"{report}. They are skipped." for report in mars.missing),
        videos=train.tracklet,
        gallery=Gallery(test.person, test.camera, mars.query),
    )


def _file(name: str) -> str:
    return f"{name[:4]}/{name}"


def _read_tracklets(path: Path, part: str) -> Tracklets:
    table = _read_mat(path, _FILES[part][1])
    if table.ndim != 2 or table.shape[1] != 4:
        raise DamagedFileError(f"{path} holds an array of shape {table.shape}, not (tracklets, 4); get it again")
    first, last, person, camera = table.T
    _check_rows(path, last < first, "has its last image before its first")
    _check_rows(path, first != np.r_[1, last[:-1] + 1], "does not begin where the row before it ends")
    _check_rows(path, person < -1, "has a person under -1")
    _check_rows(path, (camera < 1) | (camera > 6), "has a camera that is not 1 to 6")
    return Tracklets(first - 1, last - 1, person, camera)


def _read_mat(path: Path, name: str) -> Rows:
    """Return a variable of a MATLAB file, an array of whole numbers."""
    try:
        import scipy.io
    except ModuleNotFoundError as error:
        raise missing_extra("emphasis.datasets.mars", "experiments", error) from None
    try:
        content = scipy.io.loadmat(path, variable_names=[name])
    except Exception as error:  # a damaged file can fail in any way
        raise DamagedFileError(f"{path} is cut off or no MATLAB file ({error}); get it again") from error
    values: NDArray[Any] | None = content.get(name)
    if values is None:
        raise DamagedFileError(f"{path} holds no variable {name!r}; get it again")
    numbers = values.dtype.kind in "iuf" and values.size > 0 and bool(np.all(np.abs(values) < _LARGEST))
    if not numbers or np.any(values % 1 != 0):
        raise DamagedFileError(f"{path} holds a {name} that is empty or not of whole numbers; get it again")
    return values.astype(np.int64)


def _check_rows(path: Path, wrong: NDArray[np.bool_], fault: str) -> None:
    """Check that no row is wrong; raise DamagedFileError with its number, counted from 1, otherwise."""
    if wrong.any():
        raise DamagedFileError(f"{path}: row {np.argmax(wrong) + 1} of {len(wrong)} {fault}; get it again")


def _with_names(tracklets: Tracklets, info: Path, part: str, root: Path) -> Tracklets:
    """Return the tracklets of the file `info` with the names and the folder of their images, if the list is there."""
    path = find(root, [f"{folder}{part}_name.txt" for folder in _FOLDERS])
    if path is None:
        return tracklets
    folder = find(root, [f"{folder}bbox_{part}" for folder in _IMAGE_FOLDERS])
    return replace(tracklets, names=_read_names(path, tracklets, info), folder=folder)


def _read_names(path: Path, tracklets: Tracklets, info: Path) -> tuple[str, ...]:
    """Return the names of the images, after checking that they contain person and camera of their tracklet."""
    try:
        names = tuple(path.read_text(encoding="ascii").split())
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} is not a list of names ({error}); get it again") from error
    tracklet_of = tracklets.tracklet
    if len(names) != len(tracklet_of):
        raise DamagedFileError(
            f"{path} names {len(names)} images, but {info.name} has {len(tracklet_of)}; get both again"
        )
    marks = [
        ("00-1" if p == -1 else f"{p:04d}", str(c)) for p, c in zip(tracklets.person, tracklets.camera, strict=True)
    ]
    for line, (name, tracklet) in enumerate(zip(names, tracklet_of.tolist(), strict=True), start=1):
        match = _NAME.fullmatch(name)
        if match is None:
            if "/" in name or "\\" in name:
                raise UnsafeFileError(f"{path} is refused: line {line}, {name!r}, names a file in another folder")
            raise DamagedFileError(f"{path}: line {line}, {name!r}, is not a name like 0001C1T0001F001.jpg")
        if match.groups() != marks[tracklet]:
            person, camera = marks[tracklet]
            raise DamagedFileError(
                f"{path}: line {line}, {name!r}, is not of person {person} and camera {camera} as "
                f"row {tracklet + 1} of {info.name} says"
            )
    return names


def _without_missing(tracklets: Tracklets, skip: bool) -> tuple[Tracklets, Rows, str]:
    """Return the tracklets without missing images, their previous rows, and a message about missing images."""
    rows = np.arange(len(tracklets))
    if tracklets.folder is None:
        return tracklets, rows, ""
    present: dict[str, set[str]] = {}
    for person in dict.fromkeys(name[:4] for name in tracklets.names):
        folder = tracklets.folder / person
        present[person] = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    there = np.array([name in present[name[:4]] for name in tracklets.names])
    if there.all():
        return tracklets, rows, ""
    lengths = np.bincount(tracklets.tracklet[there], minlength=len(rows))
    kept = np.flatnonzero(lengths)
    absent = [f"{name[:4]}/{name}" for name, here in zip(tracklets.names, there, strict=True) if not here]
    folders = [person for person, names in present.items() if not names]
    report = f"{tracklets.folder} lacks {len(absent)} of {len(there)} images: {shortened(absent, _SHOWN)}"
    report += f"; {len(folders)} whole folders: {shortened(folders, _SHOWN)}" if folders else ""
    report += f"; {len(rows) - len(kept)} of {len(rows)} tracklets have no image"
    if not skip or not len(kept):
        raise DataNotFoundError(f"{report}; get them, or skip them with missing='skip'")
    last = np.cumsum(lengths[kept]) - 1
    names = tuple(name for name, here in zip(tracklets.names, there, strict=True) if here)
    left = Tracklets(
        last - lengths[kept] + 1, last, tracklets.person[kept], tracklets.camera[kept], names, tracklets.folder
    )
    return left, kept, report
