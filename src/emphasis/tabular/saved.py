"""A fitted model in a folder: a manifest in JSON, the model in its library's own format, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import emphasis
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.datasets.table_encoder import TableEncoder
from emphasis.files import replacing, write_text
from emphasis.tabular.models import KINDS, Kind, Predict
from emphasis.weighting import Weighting, from_dict

FOLDER, MANIFEST = "model", "manifest.json"
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A model that predicts tables like the one it was fitted on.

    Attributes:
        label: The label column's name.
        classes: The classes' names, in the order of the probabilities.
        encoder: Of the other columns.
        kind: "xgboost", "lightgbm", "catboost" or "net".
        weighting: What it learned with.
        predict_rows: Encoded rows (N, D) -> probabilities (N, C).
    """

    label: str
    classes: tuple[str, ...]
    encoder: TableEncoder
    kind: str
    weighting: Weighting
    predict_rows: Predict

    def predict_proba(self, table: Any) -> NDArray[np.float64]:
        """Return each class's probability, (N, C), of a pandas table; its other columns are passed over.

        Raises:
            ValueError: A column is absent or unfit.
        """
        probabilities: NDArray[np.float64] = np.asarray(self.predict_rows(self.encoder.transform(table)), np.float64)
        return probabilities

    def predict(self, table: Any) -> NDArray[Any]:
        """Return the most probable class of each row, as text."""
        names: NDArray[Any] = np.array(self.classes)
        return np.asarray(names[self.predict_proba(table).argmax(1)])


def save_model(
    folder: Path,
    classifier: Any,
    *,
    kind: str,
    settings: dict[str, Any],
    weighting: Weighting,
    label: str,
    classes: tuple[str, ...],
    encoder: TableEncoder,
) -> None:
    """Write model and manifest into `folder`/model, each whole or not at all, the manifest last."""
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    file = KINDS[kind].file
    with replacing(place / file) as partial:
        KINDS[kind].save(classifier, partial)
        digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    manifest = {
        "format": _FORMAT,
        "emphasis": emphasis.__version__,
        "kind": kind,
        "file": file,
        "sha256": digest,
        "settings": settings,
        "weighting": weighting.to_dict(),
        "label": label,
        "classes": list(classes),
        "encoder": encoder.to_dict(),
    }
    write_text(place / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))


def load_model(folder: str | os.PathLike[str]) -> SavedModel:
    """Return the model of a folder that `fit_table` has written, or of the folder "model" within it.

    Raises:
        DataNotFoundError: There is none.
        DamagedFileError: A file of it is cut short, changed, or of a later version of the package.
    """
    place = Path(folder)
    place = place if (place / MANIFEST).is_file() else place / FOLDER
    if not (place / MANIFEST).is_file():
        raise DataNotFoundError(f"{str(folder)!r} holds no model ({FOLDER}/{MANIFEST}); 'emphasis fit' makes one")
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            raise DamagedFileError(
                f"{place / MANIFEST} is of format {manifest['format']!r}, this version reads {_FORMAT}; update emphasis"
            )
        kind: Kind = KINDS[manifest["kind"]]
        encoder = TableEncoder.from_dict(manifest["encoder"])
        classes, weighting = tuple(manifest["classes"]), from_dict(manifest["weighting"])
        path, digest = place / kind.file, manifest["sha256"]
        label, settings = manifest["label"], manifest["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{place / MANIFEST} is damaged ({error}); fit again with --force") from error
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise DamagedFileError(f"{path} is absent, cut short or not that of {MANIFEST}; fit again with --force")
    predict = kind.load(path, settings, len(encoder.feature_names), len(classes))
    return SavedModel(label, classes, encoder, manifest["kind"], weighting, predict)
