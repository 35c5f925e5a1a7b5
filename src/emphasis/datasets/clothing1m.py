"""Clothing1M in its official layout: a million photographs from shops, labeled by the words around them.

Source: T. Xiao, T. Xia, Y. Yang, C. Huang and X. Wang, Learning from Massive Noisy Labeled Data for Image
Classification, CVPR 2015. The data is given by its authors, for research that is not commercial.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.download import Progress
from emphasis.datasets.errors import DamagedFileError
from emphasis.datasets.image_files import ImageFiles, check_sizes, skips
from emphasis.datasets.root import find, not_found
from emphasis.datasets.split import Split
from emphasis.errors import EmphasisValueError
from emphasis.texts import shortened

CLASSES = 14
LINES = {
    "noisy_train_key_list.txt": 1_000_000,
    "clean_train_key_list.txt": 47_570,
    "clean_val_key_list.txt": 10_526,
    "clean_test_key_list.txt": 14_313,
    "noisy_label_kv.txt": 1_037_497,  # 37,497 images have both labels; none of them is in the noisy list
    "clean_label_kv.txt": 72_409,
    "category_names_eng.txt": CLASSES,
}
"""The files beside images/, and how many lines the authors' have."""

_KEY = re.compile(r"images/(?!.*\.\.)\S+\.\w+", re.ASCII)
_FOLDERS = ("clothing1m", "clothing1M", "Clothing1M", ".")
_FAULTY = -1  # stands for a faulty label
_SHOWN = 5  # examples of each fault in the report


def load_clothing1m(
    root: Path,
    progress: Progress,
    *,
    test: str = "test",
    resize: int = 256,
    size: int = 224,
    missing: str = "stop",
    broken: str = "stop",
    complete: bool = True,
) -> Split:
    """Return Clothing1M, with noisy training labels and clean test labels; images are decoded during training.

    `root` or its folder clothing1m has the files of `LINES`, and in images/ the images that they list. All lists are
    read, every example is checked for a label from 0 to 13 and a file, and all faults are reported at once. Images are
    not opened.

    Args:
        root: The data folder.
        progress: Called as `progress(task, done, total)` while files are checked.
        test: Clean part that is the test part: "test", or "val" for a search of settings.
        resize: Pixels per side to which images are resized.
        size: Pixels per side of the crops, at most `resize`.
        missing: "stop" at faulty examples, or "skip" them, which the `notes` of the split report. Absent or incomplete
            lists always stop it.
        broken: Whether training should "stop" at an image that cannot be decoded, or "skip" it.
        complete: Whether lists must have their official lengths; False for a part of the data.

    Returns:
        The data set. Its `train_labels` are noisy; the true ones are unknown.

    Raises:
        DataNotFoundError: None of the files exists.
        DamagedFileError: Lists or images are faulty; the message names and counts them.
        ValueError: An option is not allowed.
    """
    if test not in ("test", "val"):
        raise EmphasisValueError(f'test={test!r} is not allowed; use "test" or "val"')
    check_sizes(resize, size)
    skip, skip_broken = skips("missing", missing), skips("broken", broken)
    folders = [folder for folder in _FOLDERS if find(root / folder, LINES)]
    if not folders:
        raise not_found("Clothing1M", root, ["clothing1m/noisy_train_key_list.txt", "noisy_train_key_list.txt"])
    base = root / folders[0]
    lines = _lines(base, complete)
    faults: dict[str, list[str]] = defaultdict(list)
    labels = {kind: _labels(f"{kind}_label_kv.txt", lines, faults) for kind in ("noisy", "clean")}
    keys = {name: lines[name] for name in LINES if name.endswith("_key_list.txt")}
    files = _files(base, filter(_KEY.fullmatch, chain(*keys.values())), progress)
    if absent := {_topmost_absent(base, folder) for folder, inside in files.items() if inside is None}:
        faults["folders that do not exist"] += sorted(absent)

    seen: set[str] = set()
    kept: dict[str, tuple[list[str], NDArray[np.int64]]] = {}
    for name, listed in keys.items():
        label_of = labels[name.split("_")[0]]
        good: list[str] = []
        for key in listed:
            folder, _, file = key.rpartition("/")
            if not _KEY.fullmatch(key):
                faults[f"lines of {name} that are no image's"].append(key)
            elif key in seen:
                faults[f"keys listed again in {name}"].append(key)
            elif key not in label_of:
                faults[f"keys of {name} without a label"].append(key)
            elif file not in (files[folder] or ()):
                faults[f"images of {name} that do not exist"].append(key)
            elif label_of[key] != _FAULTY:
                good.append(key)
            seen.add(key)
        kept[name] = good, np.array([label_of[key] for key in good], dtype=np.int64)

    report = f"Clothing1M in {str(base)!r}: {_report(faults)}"
    if faults and not skip:
        raise DamagedFileError(f'{report}. Get them again, or skip such examples with the option missing = "skip"')
    (train, train_labels), (tested, test_labels) = kept["noisy_train_key_list.txt"], kept[f"clean_{test}_key_list.txt"]
    if not train or not tested:
        raise DamagedFileError(f"{report}; there are no examples left to train on or to test with")
    images = ImageFiles(base, (*train, *tested), resize, skip_broken=skip_broken)
    return Split(
        images[: len(train)],
        train_labels,
        images[len(train) :],
        test_labels,
        CLASSES,
        tuple(lines["category_names_eng.txt"]),
        sources=tuple(train),
        crop=size,
        notes=(f"{report}. They are skipped.",) if faults else (),
    )


def _lines(base: Path, complete: bool) -> dict[str, list[str]]:
    """Return the lines of each list.

    Raises:
        DamagedFileError: Lists are absent, no text, or of another length than they must be.
    """
    lines, wrong = {}, []
    for name, number in LINES.items():
        try:
            lines[name] = (base / name).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            wrong.append(f"{name} is not there")
            continue
        except UnicodeDecodeError:
            wrong.append(f"{name} is no text")
            continue
        if len(lines[name]) != number and (complete or name == "category_names_eng.txt"):
            wrong.append(f"{name} has {len(lines[name]):,} lines, not {number:,}")
        elif not lines[name]:
            wrong.append(f"{name} is empty")
    if wrong:
        part = "" if not complete else ", or, for a part of the data, use the option complete = false"
        raise DamagedFileError(f"Clothing1M in {str(base)!r}: {'; '.join(wrong)}. Get what is wrong again{part}")
    return lines


def _labels(name: str, lines: dict[str, list[str]], faults: dict[str, list[str]]) -> dict[str, int]:
    """Return the label of each key in a file of lines "KEY LABEL", `_FAULTY` where that is among the `faults`."""
    labels: dict[str, int] = {}
    for line in lines[name]:
        key, *rest = line.split() or [""]
        if len(rest) != 1 or not re.fullmatch(r"-?\d+", rest[0], re.ASCII):
            faults[f"lines of {name} that are no key and label"].append(line)
        elif not 0 <= int(rest[0]) < CLASSES:
            faults[f"labels of {name} outside 0 to {CLASSES - 1}"].append(line)
            labels[key] = _FAULTY
        elif labels.setdefault(key, int(rest[0])) != int(rest[0]):
            faults[f"keys of {name} with two labels"].append(line)
            labels[key] = _FAULTY
    return labels


def _files(base: Path, keys: Iterable[str], progress: Progress) -> dict[str, set[str] | None]:
    """Return the file names in each folder of `keys`, or None for a folder that does not exist."""
    folders = sorted({key.rpartition("/")[0] for key in keys})
    names: dict[str, set[str] | None] = {}
    for number, folder in enumerate(folders):
        try:
            names[folder] = {path.name for path in (base / folder).iterdir()}
        except (FileNotFoundError, NotADirectoryError):
            names[folder] = None
        progress("looking for images", number + 1, len(folders))
    return names


def _topmost_absent(base: Path, folder: str) -> str:
    """Return `folder`, or the topmost folder above it that does not exist either."""
    above = [parent for parent in Path(folder).parents if parent.name and not (base / parent).is_dir()]
    return (above[-1] if above else Path(folder)).as_posix()


def _report(faults: dict[str, list[str]]) -> str:
    """Return the number of examples with each fault, and the first few of them."""
    return "; ".join(f"{len(which):,} {fault} ({shortened(which, _SHOWN)})" for fault, which in faults.items())
