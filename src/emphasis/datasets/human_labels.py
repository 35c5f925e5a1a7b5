"""CIFAR-10N and CIFAR-100N: the training labels of CIFAR as people gave them, mistakes included.

Source: J. Wei et al., Learning with Noisy Labels Revisited: A Study Using Real-World Human Annotations, ICLR 2022,
https://github.com/UCSC-REAL/cifar-10-100n (CC BY-NC 4.0). Row i belongs to training image i.

- "cifar10": "worse_label" (40 % wrong), "aggre_label" (9 %), "random_label1" to "random_label3" (17 to 18 %).
- "cifar100-fine": "noisy_label" (40 % wrong); "cifar100-coarse": "noisy_coarse_label".
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.archives import check_digest, read_npz
from emphasis.datasets.errors import DamagedFileError, UnsafeFileError
from emphasis.datasets.root import find, not_found
from emphasis.datasets.safe_pickle import load
from emphasis.errors import EmphasisValueError

_FILES = {"cifar10": ("cifar10n.npz", "CIFAR-10_human.pt"), "cifar100": ("cifar100n.npz", "CIFAR-100_human.pt")}
DIGESTS = {
    "CIFAR-10_human.pt": ("sha256", "873e69c39cb9b5e97fb6bae2d60bb59b38a5cbc31d2b868f7903dcb2b9dd2310"),
    "CIFAR-100_human.pt": ("sha256", "bd2d80409754d420292d622e15e25248ba21e37d27429efac49c8da723f44394"),
}
"""Of the official files."""

_MAGIC = 0x1950A86A20F9469CFC6C  # with which files of torch begin that are no zip archives
_LARGEST = 1 << 28  # bytes of a pickle of labels
_NAMES = {
    "cifar10": ("clean_label", "aggre_label", "worse_label", "random_label1", "random_label2", "random_label3"),
    "cifar100-fine": ("clean_label", "noisy_label"),
    "cifar100-coarse": ("clean_coarse_label", "noisy_coarse_label"),
}


def load_human_labels(root: Path, kind: str, true_labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Return the human labels by name, each (N,) int64.

    Args:
        root: The data folder, with the compact `cifar10n.npz` or `cifar100n.npz`, or the official `CIFAR-10_human.pt`
            or `CIFAR-100_human.pt` in it or in a folder `data`.
        kind: Labels to read: "cifar10", "cifar100-fine" or "cifar100-coarse".
        true_labels: True labels of the images, (N,). The file's own copy must be equal to them, which proves that the
            order of examples is the same.

    Raises:
        DataNotFoundError: The file does not exist.
        DamagedFileError: The file is damaged, or its true labels are not `true_labels`.
        UnsafeFileError: The file could run code.
    """
    compact, official = _FILES[kind.partition("-")[0]]
    path = find(root, (compact, official, f"data/{official}"))
    if path is None:
        raise not_found(
            f"the file of human labels ({kind}; of https://github.com/UCSC-REAL/cifar-10-100n)",
            root,
            [compact, official],
        )
    clean, *noisy = _NAMES[kind]
    columns = read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    if lacking := [name for name in _NAMES[kind] if name not in columns]:
        raise DamagedFileError(f"{path} lacks {lacking[0]!r}; it holds {', '.join(columns)}")
    if not np.array_equal(columns[clean], true_labels):
        raise DamagedFileError(
            f"{path} belongs to other images, or to these in another order: its {clean} is not the data set's labels"
        )
    for name in noisy:
        if columns[name].shape != true_labels.shape:
            raise DamagedFileError(f"{path}: {name} has the shape {columns[name].shape}, not {true_labels.shape}")
    return {name: columns[name].astype(np.int64) for name in noisy}


def _read_torch(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an official file, without torch, which does not check the contents of numpy arrays."""
    check_digest(path, DIGESTS[path.name])
    return read_torch_arrays(path)


def read_torch_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the numpy arrays of a dictionary that `torch.save` has written, in either of its formats.

    Raises:
        UnsafeFileError: The file could run code.
        DamagedFileError: The file is truncated, or contains something else, such as tensors.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                (member,) = (m for m in archive.infolist() if m.filename.rpartition("/")[2] == "data.pkl")
                if member.file_size > _LARGEST:
                    raise EmphasisValueError(f"it unpacks to more than {_LARGEST:,} bytes")
                content = archive.read(member)
            loaded = load(io.BytesIO(content), len(content), str(path))
        else:
            size = path.stat().st_size
            with path.open("rb") as file:
                if load(file, size, str(path)) != _MAGIC:
                    raise EmphasisValueError("it is not a file of torch")
                load(file, size, str(path))  # the version of the format
                load(file, size, str(path))  # the machine
                loaded = load(file, size, str(path))
        if not isinstance(loaded, dict):
            raise EmphasisValueError("it does not contain a dictionary")
        return {str(name): np.asarray(column) for name, column in loaded.items()}
    except UnsafeFileError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise DamagedFileError(f"{path} is damaged ({error}); get it again") from error
