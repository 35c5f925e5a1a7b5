"""A fitted model in a folder: a manifest in JSON, the model in its library's own format, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import emphasis
from emphasis.datasets.archives import file_digest
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.datasets.table_encoder import TableEncoder
from emphasis.errors import EmphasisTypeError
from emphasis.files import naming_refusals, replacing, write_text
from emphasis.json_files import JSONFileError, read_json
from emphasis.tabular.models import KINDS, Predict, kind_of
from emphasis.texts import one_line
from emphasis.weighting import Weighting
from emphasis.weighting.serialise import named_from_dict

FOLDER, MANIFEST = "model", "manifest.json"
_FORMAT = 2
_CHECKSUM = "checksum"


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A model that predicts tables like the one it was fitted on.

    Attributes:
        label: The label column's name.
        classes: The classes' names, in the order of the probabilities.
        encoder: Of the other columns.
        kind: "xgboost", "lightgbm", "catboost" or "net".
        weighting: What it learned with; by name only, without values, if it was a function of the user's.
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
            DamagedFileError: The model is not that of its manifest.
        """
        rows = self.encoder.transform(table)
        try:
            probabilities: NDArray[np.float64] = np.asarray(self.predict_rows(rows), np.float64)
        except Exception as error:  # of a library that is given what its model was not made for
            raise DamagedFileError(f"the model cannot predict ({one_line(error)}); fit again with --force") from error
        if probabilities.shape != (len(rows), len(self.classes)):
            raise DamagedFileError(f"the model predicts {probabilities.shape[1:]} numbers a row for "
                                   f"{len(self.classes)} classes; fit again with --force")  # fmt: skip
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
    manifest: dict[str, Any] = {
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
    manifest = json.loads(json.dumps(manifest))  # as it is read
    manifest[_CHECKSUM] = checksum(manifest)
    write_text(place / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))


def checksum(manifest: Mapping[str, Any]) -> str:
    """Return the digest of all that a manifest says besides; the model file's digest is among it."""
    said = {name: value for name, value in manifest.items() if name != _CHECKSUM}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def load_model(folder: str | os.PathLike[str]) -> SavedModel:
    """Return the model of a folder that `fit_table` has written, or of the folder "model" within it.

    No code that it names is run.

    Raises:
        DataNotFoundError: There is none.
        DamagedFileError: A file of it is cut short, changed, or of a later version of the package.
    """
    place = Path(folder)
    place = place if (place / MANIFEST).is_file() else place / FOLDER
    if not (place / MANIFEST).is_file():
        raise DataNotFoundError(f"{str(folder)!r} holds no model ({FOLDER}/{MANIFEST}); 'emphasis fit' makes one")
    try:
        manifest = read_json(place / MANIFEST)
    except JSONFileError as error:
        raise DamagedFileError(f"{error}; fit again with --force") from error
    if manifest.get("format") != _FORMAT:
        raise DamagedFileError(
            f"{place / MANIFEST} is of format {manifest.get('format')!r}, this version reads {_FORMAT}; update "
            "emphasis, or fit again with --force"
        )
    if manifest.get(_CHECKSUM) != checksum(manifest):
        raise DamagedFileError(f"{place / MANIFEST} is damaged or was changed by hand: its checksum is that of another "
                               "content; fit again with --force")  # fmt: skip
    try:
        label, name = _texts([manifest["label"], manifest["kind"]])
        kind = kind_of(name)
        encoder = TableEncoder.from_dict(manifest["encoder"])
        classes, weighting = _texts(manifest["classes"]), named_from_dict(manifest["weighting"])
        path, digest = place / kind.file, manifest["sha256"]
        settings = manifest["settings"]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{place / MANIFEST} is damaged ({error}); fit again with --force") from error
    with naming_refusals("read", path):
        is_whole = path.is_file() and file_digest(path, "sha256") == digest
    if not is_whole:
        raise DamagedFileError(f"{path} is absent, cut short or not that of {MANIFEST}; fit again with --force")
    try:
        predict = kind.load(path, settings, len(encoder.feature_names), len(classes))
    except ModuleNotFoundError:
        raise
    except Exception as error:  # the library that reads it can fail in any way
        raise DamagedFileError(f"{path} cannot be read ({one_line(error)}); fit again with --force") from error
    return SavedModel(label, classes, encoder, name, weighting, predict)


def _texts(values: Any) -> tuple[str, ...]:
    """Return a list's texts, or raise TypeError."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise EmphasisTypeError(f"{values!r} are no texts")
    return tuple(values)
