"""CIFAR-10, CIFAR-100 and Vehicles-10: photographs of 32 x 32 pixels.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html. Read from the official Python archive, the folder it unpacks to, or the
compact files (`NAME_train.npz`, `NAME_test.npz`: lossless WebP strips in the official order).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets import cifar_names
from emphasis.datasets.archives import check_digest, read_members, read_npz
from emphasis.datasets.download import Progress, RemoteFile, download
from emphasis.datasets.errors import DamagedFileError
from emphasis.datasets.human_labels import load_human_labels
from emphasis.datasets.root import find, not_found
from emphasis.datasets.safe_pickle import loads
from emphasis.datasets.split import Split, take_training
from emphasis.errors import EmphasisValueError

LabelKind = Literal["fine", "coarse"]
_SIDE = 32
_VEHICLES = (18, 19)  # the coarse labels "vehicles 1" and "vehicles 2"


@dataclass(frozen=True)
class _Source:
    """The files of a data set. `batches` are names and md5 of the official pickles; the last one is the test part."""

    title: str
    archive: RemoteFile
    folder: str
    batches: tuple[tuple[str, str], ...]
    compact: str
    labels: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        return [f"{self.folder}/", self.archive.name, f"{self.compact}_train.npz"]


CIFAR10 = _Source(
    "CIFAR-10",
    RemoteFile(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "cifar-10-python.tar.gz",
        ("md5", "c58f30108f718f92721af3b95e74349a"),
        170_498_071,
    ),
    "cifar-10-batches-py",
    (
        ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        ("data_batch_4", "634d18415352ddfa80567beed471001a"),
        ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
        ("test_batch", "40351d587109b95175f43aff81a1287e"),
    ),
    "cifar10",
    ("label",),
)
CIFAR100 = _Source(
    "CIFAR-100",
    RemoteFile(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "cifar-100-python.tar.gz",
        ("md5", "eb9058c3a382ffc7106e4002c42a8d85"),
        169_001_437,
    ),
    "cifar-100-python",
    (("train", "16019d7e3df5f24257cddd939b257f8d"), ("test", "f0ef6b0ae62326f3e7ffdfab6717acfc")),
    "cifar100",
    ("fine", "coarse"),
)
_PICKLED = {"label": "labels", "fine": "fine_labels", "coarse": "coarse_labels"}


@dataclass(frozen=True)
class _Part:
    """Images (N, 3, 32, 32) uint8 and what is known of each: labels by kind, and `exact` (see `load_cifar10`)."""

    images: NDArray[np.uint8]
    columns: Mapping[str, NDArray[Any]]

    def keep(self, mask: NDArray[np.bool_]) -> _Part:
        return _Part(self.images[mask], {name: column[mask] for name, column in self.columns.items()})


def load_cifar10(
    root: Path, progress: Progress, *, download: bool = False, human_labels: bool = False, exact_only: bool = False
) -> Split:
    """Return CIFAR-10: 50,000 training and 10,000 test images of 10 classes.

    Args:
        root: The data folder.
        progress: Called as `progress(task, done, total)` during a download.
        download: Whether to download the official archive (170 MB) if no file of the data set is in `root`.
        human_labels: Whether to add the labels of CIFAR-10N; see `emphasis.datasets.human_labels`.
        exact_only: Whether to skip the 837 training and 173 test images of which the compact files have only JPEG
            copies (16 % of the ships). The official files have no such images.

    Raises:
        DataError: The data is absent, damaged or unsafe.
    """
    train, test = _read(CIFAR10, root, progress, download)
    split = _as_split(train, test, "label", cifar_names.CIFAR10)
    if human_labels:
        split = replace(split, human_labels=load_human_labels(root, "cifar10", split.train_labels))
    if exact_only and "exact" in train.columns:
        seen = test.columns["exact"]
        split = replace(split, test_inputs=split.test_inputs[seen], test_labels=split.test_labels[seen])
        split = take_training(split, train.columns["exact"])
    return split


def load_cifar100(
    root: Path,
    progress: Progress,
    *,
    labels: LabelKind = "fine",
    download: bool = False,
    human_labels: bool = False,
) -> Split:
    """Return CIFAR-100: 50,000 training and 10,000 test images of 100 classes, or of their 20 superclasses.

    Args:
        root: The data folder.
        progress: Called as `progress(task, done, total)` during a download.
        labels: "fine" for 100 classes, or "coarse" for 20.
        download: Whether to download the official archive (169 MB) if no file of the data set is in `root`.
        human_labels: Whether to add the labels of CIFAR-100N; see `emphasis.datasets.human_labels`.

    Raises:
        DataError: The data is absent, damaged or unsafe.
        ValueError: `labels` is neither.
    """
    if labels not in get_args(LabelKind):
        raise EmphasisValueError(f"labels={labels!r} is not allowed; use 'fine' (100 classes) or 'coarse' (20)")
    names = cifar_names.CIFAR100_FINE if labels == "fine" else cifar_names.CIFAR100_COARSE
    split = _as_split(*_read(CIFAR100, root, progress, download), labels, names)
    if human_labels:
        split = replace(split, human_labels=load_human_labels(root, f"cifar100-{labels}", split.train_labels))
    return split


def load_vehicles10(root: Path, progress: Progress, *, download: bool = False) -> Split:
    """Return Vehicles-10, the ten vehicle classes of CIFAR-100: 5,000 training and 1,000 test images.

    They are superclasses "vehicles 1" and "vehicles 2"; labels 0 to 9 are in the order of the fine labels, and
    examples in that of CIFAR-100.

    Args:
        root: The data folder, with `vehicles10_train.npz` and `vehicles10_test.npz` or any form of CIFAR-100.
        progress: Called as `progress(task, done, total)` during a download.
        download: Whether to download the official archive of CIFAR-100 (169 MB) if neither is in `root`.

    Raises:
        DataError: The data is absent, damaged or unsafe.
    """
    if find(root, ["vehicles10_train.npz"]):
        train, test = _read_compact(root, "vehicles10", ("fine", "coarse"))
    elif download or find(root, CIFAR100.files):
        train, test = _read(CIFAR100, root, progress, download)
    else:
        raise not_found("Vehicles-10", root, ["vehicles10_train.npz", *CIFAR100.files], download=True)
    train, test = (part.keep(np.isin(part.columns["coarse"], _VEHICLES)) for part in (train, test))
    classes = np.unique(train.columns["fine"])
    for part in (train, test):
        if (absent := np.setdiff1d(part.columns["fine"], classes)).size:
            raise DamagedFileError(f"test images of Vehicles-10 have the fine label {absent[0]}, training images none")
    train, test = (_Part(p.images, {"fine": np.searchsorted(classes, p.columns["fine"])}) for p in (train, test))
    return _as_split(train, test, "fine", tuple(cifar_names.CIFAR100_FINE[c] for c in classes))


def _as_split(train: _Part, test: _Part, kind: str, names: tuple[str, ...]) -> Split:
    labels = [part.columns[kind].astype(np.int64) for part in (train, test)]
    return Split(train.images, labels[0], test.images, labels[1], len(names), names)


def _read(source: _Source, root: Path, progress: Progress, fetch: bool) -> tuple[_Part, _Part]:
    """Read from the unpacked folder, the archive or the compact files, in this order: official ones first."""
    names = [name for name, _ in source.batches]
    if (folder := root / source.folder).is_dir():
        for name, md5 in source.batches:
            if not (folder / name).is_file():
                raise DamagedFileError(f"{folder} lacks {name}: unpack {source.archive.name} again")
            check_digest(folder / name, ("md5", md5))
        return _official_parts(source, names, lambda name: (folder / name).read_bytes(), folder)
    archive, compact = root / source.archive.name, root / f"{source.compact}_train.npz"
    if not archive.exists() and not compact.exists() and fetch:
        download(source.archive, root, progress)
    elif archive.exists():
        check_digest(archive, source.archive.digest)
    elif compact.exists():
        return _read_compact(root, source.compact, source.labels)
    else:
        raise not_found(source.title, root, source.files, download=True)
    members = {f"{source.folder}/{name}" for name in names}
    contents = {Path(name).name: content for name, content in read_members(archive, members.__contains__)}
    if lacking := [name for name in names if name not in contents]:
        raise DamagedFileError(f"{archive} lacks {source.folder}/{lacking[0]}; get it again")
    return _official_parts(source, names, contents.__getitem__, archive)


def _official_parts(
    source: _Source, names: list[str], content: Callable[[str], bytes], where: Path
) -> tuple[_Part, _Part]:
    batches = []
    for name in names:
        batch = loads(content(name), f"{where}: {name}")
        wanted = {kind: _PICKLED[kind] for kind in source.labels}
        try:
            images = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, _SIDE, _SIDE)
            columns = {kind: np.asarray(batch[key], dtype=np.int64) for kind, key in wanted.items()}
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DamagedFileError(f"{where}: {name} is no batch of {source.title} ({error!r})") from error
        batches.append(_checked(_Part(images, columns), f"{where}: {name}"))
    return _joined(batches[:-1]), _joined(batches[-1:])


def _read_compact(root: Path, stem: str, labels: Iterable[str]) -> tuple[_Part, _Part]:
    parts = []
    for path in (root / f"{stem}_train.npz", root / f"{stem}_test.npz"):
        if not path.exists():
            raise not_found(f"the other half of {stem}", root, [path.name])
        arrays = read_npz(path)
        try:
            strips = [_decoded(arrays[name]) for name in sorted(arrays) if name.startswith("strip")]
            columns = {name: arrays[name] for name in labels}
        except Exception as error:  # decoders can fail in any way
            raise DamagedFileError(f"{path} is damaged ({error}); get it again") from error
        columns |= {name: arrays[name] for name in ("exact",) if name in arrays}
        images = np.concatenate([np.empty((0, 3, _SIDE, _SIDE), np.uint8), *strips])
        parts.append(_checked(_Part(images, columns), str(path)))
    return parts[0], parts[1]


def _decoded(content: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the images (n, 3, 32, 32) of one strip, 32 wide and 32 n high."""
    from PIL import Image

    with Image.open(io.BytesIO(content.tobytes()), formats=["WEBP"]) as strip:
        if strip.width != _SIDE or strip.height % _SIDE:
            raise EmphasisValueError(f"a strip of images has {strip.width} x {strip.height} pixels")
        pixels = np.asarray(strip.convert("RGB"))
    return np.ascontiguousarray(pixels.reshape(-1, _SIDE, _SIDE, 3).transpose(0, 3, 1, 2))


def _checked(part: _Part, where: str) -> _Part:
    for name, column in part.columns.items():
        if column.shape != (len(part.images),):
            raise DamagedFileError(f"{where}: {len(part.images)} images, but {name} has the shape {column.shape}")
    if not len(part.images):
        raise DamagedFileError(f"{where} holds no images")
    return part


def _joined(parts: list[_Part]) -> _Part:
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return _Part(np.concatenate([part.images for part in parts]), columns)
