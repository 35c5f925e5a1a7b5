"""The folder of a fit. Every file is written atomically.

fit.json             the settings of the fit, and a digest of them and of the data
folds/K.npz          probabilities of the rows of fold K; existing folds are not trained again
model/               the model, read by `load_model`
predictions.csv      one line per row, predicted by a model that was not trained on it; .parquet for Parquet tables
metrics.json, report.html
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.archives import read_npz
from emphasis.datasets.errors import DamagedFileError
from emphasis.errors import EmphasisValueError
from emphasis.files import replacing, write_text
from emphasis.json_files import JSONFileError, read_json
from emphasis.tabular.result import FIT, FOLDS
from emphasis.tabular.saved import FOLDER


def fit_digest(request: Mapping[str, Any], used: Any) -> str:
    """Return a digest of the settings of a fit and of the columns that it uses, a pandas table."""
    import pandas as pd

    digest = hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode())
    digest.update(repr(list(zip(used.columns, map(str, used.dtypes), strict=True))).encode())
    digest.update(pd.util.hash_pandas_object(used, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def default_folder(request: Mapping[str, Any], used: Any) -> Path:
    """Return the default folder of a fit, which is the same for the same call."""
    if request["table"] is not None:
        return Path("runs") / Path(request["table"]).stem
    label = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in request["label"])
    return Path("runs") / f"{label}-{fit_digest(request, used)[:8]}"


def acquire(folder: Path, request: Mapping[str, Any], used: Any, force: bool) -> str:
    """Reserve the folder for a fit, and return the digest that identifies its folds.

    Args:
        folder: Folder, which is created if it does not exist.
        request: Settings of the fit.
        used: The columns that it uses.
        force: Whether to replace another fit in the folder.

    Raises:
        EmphasisValueError: The folder holds another fit or other files.
    """
    digest = fit_digest(request, used)
    if (folder / FIT).is_file():
        try:
            stored = read_json(folder / FIT).get("digest")
        except JSONFileError:
            stored = None
        if force:
            shutil.rmtree(folder / FOLDS, ignore_errors=True)
            shutil.rmtree(folder / FOLDER, ignore_errors=True)
        elif stored != digest:
            raise EmphasisValueError(
                f"{folder} holds a fit of other settings or other data; use another folder (--out), or replace it "
                "(--force, force=True)"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise EmphasisValueError(f"{folder} is not empty and holds no fit; use another folder (--out)")
    (folder / FOLDS).mkdir(parents=True, exist_ok=True)
    write_text(folder / FIT, json.dumps({"digest": digest, **request}, indent=1, ensure_ascii=False, default=str))
    return digest


def write_fold(folder: Path, number: int, digest: str, probabilities: Mapping[str, NDArray[np.float64]]) -> None:
    """Write the probabilities of a fold's rows, by method."""
    with replacing(folder / FOLDS / f"{number}.npz") as partial, partial.open("wb") as file:
        arrays = {f"method {position}": p for position, p in enumerate(probabilities.values())}
        np.savez(file, digest=np.array(digest), **arrays)  # type: ignore[arg-type]


def read_fold(
    folder: Path, number: int, digest: str, methods: Sequence[str], shape: tuple[int, int]
) -> dict[str, NDArray[np.float64]] | None:
    """Return the probabilities of a fold's rows, by method; None if they are missing, damaged or of another fit."""
    try:
        content = read_npz(folder / FOLDS / f"{number}.npz")
        probabilities = {name: content[f"method {position}"] for position, name in enumerate(methods)}
        is_same = str(content["digest"]) == digest
    except (OSError, DamagedFileError, KeyError):
        return None
    is_valid = all(p.shape == shape and p.dtype == np.float64 for p in probabilities.values())
    return probabilities if is_same and is_valid else None
