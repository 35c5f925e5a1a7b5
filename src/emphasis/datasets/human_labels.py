"""CIFAR-10N and CIFAR-100N: the training labels of CIFAR as people gave them, mistakes included.

Source: J. Wei et al., Learning with Noisy Labels Revisited: A Study Using Real-World Human Annotations, ICLR 2022,
https://github.com/UCSC-REAL/cifar-10-100n (CC BY-NC 4.0). Row i belongs to training image i.

- "cifar10": "worse_label" (40 % wrong), "aggre_label" (9 %), "random_label1" to "random_label3" (17 to 18 %).
- "cifar100-fine": "noisy_label" (40 % wrong); "cifar100-coarse": "noisy_coarse_label".
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.archives import read_npz
from emphasis.datasets.errors import DamagedFileError, UnsafeFileError
from emphasis.datasets.root import find, not_found
from emphasis.datasets.safe_pickle import ALLOWED

_FILES = {"cifar10": ("cifar10n.npz", "CIFAR-10_human.pt"), "cifar100": ("cifar100n.npz", "CIFAR-100_human.pt")}
_NAMES = {
    "cifar10": ("clean_label", "aggre_label", "worse_label", "random_label1", "random_label2", "random_label3"),
    "cifar100-fine": ("clean_label", "noisy_label"),
    "cifar100-coarse": ("clean_coarse_label", "noisy_coarse_label"),
}


def load_human_labels(root: Path, kind: str, true_labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Return the human labels by name, each (N,) int64.

    Args:
        root: The data folder, with the compact `cifar10n.npz` / `cifar100n.npz` or the official `CIFAR-10_human.pt` /
            `CIFAR-100_human.pt` (which needs torch), there or in a folder `data`.
        kind: "cifar10", "cifar100-fine" or "cifar100-coarse".
        true_labels: (N,) the labels of the images, which the file's own copy must equal: it is the only proof that
            rows belong together.

    Raises:
        DataNotFoundError: No such file.
        DamagedFileError: It is damaged, or its true labels are not `true_labels`.
        UnsafeFileError: It names what could run code.
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
    import torch

    # torch knows the names under which this numpy would write arrays; the file may be from an older numpy.
    names = [(value, f"{module}.{name}") for (module, name), value in ALLOWED.items() if module != "_codecs"]
    dtypes = [type(np.dtype(code)) for code in ("u1", "i1", "i2", "i4", "i8")]
    try:
        with torch.serialization.safe_globals([*names, *dtypes]):
            content = torch.load(path, map_location="cpu", weights_only=True)
        return {str(name): np.asarray(column) for name, column in content.items()}
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(f"{path} is refused: {str(error).splitlines()[0]}") from error
    except Exception as error:  # a damaged file can fail in any way
        raise DamagedFileError(f"{path} is damaged ({error}); get it again") from error
