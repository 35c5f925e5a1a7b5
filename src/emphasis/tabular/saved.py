"""Trained models in a folder: a manifest in JSON and the model in the format of its library, without pickles."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import emphasis
from emphasis.datasets.archives import file_digest, read_npz
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.datasets.table import read_like
from emphasis.datasets.table_encoder import TableEncoder
from emphasis.datasets.text_encoder import folder_digest
from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.files import naming_refusals, replacing, write_text
from emphasis.json_files import JSONFileError, read_json
from emphasis.tabular.calibration import Calibration
from emphasis.tabular.models import FINE_TUNED, MODELS, ModelSpec, Predict
from emphasis.tabular.trained_rows import read_hashes, row_hashes, write_hashes
from emphasis.texts import one_line
from emphasis.weighting import Weighting
from emphasis.weighting.serialise import named_from_dict

FOLDER, MANIFEST, TEXTS = "model", "manifest.json", "texts.npz"
# Format 3 added columns of dates and hashes of the training rows, format 4 calibration and columns of text.
_FORMAT, _READABLE = 4, (2, 3, 4)
CHECKSUM = "checksum"


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A model that predicts tables like the one that it was trained on.

    Attributes:
        label: Name of the label column.
        classes: Names of the classes, in the order of the probabilities.
        encoder: Encoder of the other columns.
        kind: "xgboost", "lightgbm", "catboost", "net", "linear" or "fine-tuned".
        weighting: Weighting that it was trained with; only the name is saved of a user-defined function.
        predict_rows: Function from encoded rows (N, D) to probabilities (N, C).
        trained: Sorted hashes of the training rows; None if they were not saved.
        calibration: Calibration of the probabilities; None if they are not calibrated.
        missing_labels: Texts in the label column that mean that there is no label.
    """

    label: str
    classes: tuple[str, ...]
    encoder: TableEncoder
    kind: str
    weighting: Weighting
    predict_rows: Predict
    trained: NDArray[np.uint64] | None = None
    calibration: Calibration | None = None
    missing_labels: tuple[str, ...] = ()

    def predict_proba(self, table: Any) -> NDArray[np.float64]:
        """Return the class probabilities of each row of a table, shape (N, C). Unknown columns are ignored.

        Args:
            table: A table of pandas, polars, pyarrow or another library, or the path of a table.

        Raises:
            ValueError: A column is missing, or cannot be encoded.
            DamagedFileError: The model does not match its manifest.
        """
        return self.predict_features(self.encoder.transform(read_like(table, self.encoder).frame))

    def predict_features(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the class probabilities of encoded rows (N, D), shape (N, C).

        Raises:
            DamagedFileError: The model does not match its manifest.
        """
        try:
            probabilities: NDArray[np.float64] = np.asarray(self.predict_rows(rows), np.float64)
        except Exception as error:  # libraries can raise any error if the model does not match
            raise DamagedFileError(f"the model cannot predict ({one_line(error)}); fit again with --force") from error
        if probabilities.shape != (len(rows), len(self.classes)):
            raise DamagedFileError(
                f"the model predicts {probabilities.shape[1:]} numbers per row for {len(self.classes)} classes; fit "
                "again with --force"
            )
        return probabilities if self.calibration is None else self.calibration.apply(probabilities)

    def was_trained_on(self, rows: NDArray[np.float32]) -> NDArray[np.bool_] | None:
        """Return which encoded rows are in the training table, (N,); None if this is not known."""
        return None if self.trained is None else np.isin(row_hashes(rows), self.trained)

    def predict(self, table: Any) -> NDArray[Any]:
        """Return the most probable class of each row as text, shape (N,)."""
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
    identified: NDArray[np.float32] | None,
    calibration: Calibration | None = None,
    missing_labels: Sequence[str] = (),
) -> None:
    """Write the model, the hashes of its encoded training rows unless these are None, and its manifest.

    They are written into `folder`/model, each file atomically.
    """
    target, spec = folder / FOLDER, MODELS[kind]
    target.mkdir(parents=True, exist_ok=True)
    if spec.is_folder:
        with naming_refusals("write to", target / spec.file):
            digest = _save_folder(spec, classifier, target / spec.file)
    else:
        with replacing(target / spec.file) as partial:
            spec.save(classifier, partial)
            digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "emphasis": emphasis.__version__,
        "kind": kind,
        "file": spec.file,
        "sha256": digest,
        "settings": settings,
        "weighting": weighting.to_dict(),
        "label": label,
        "classes": list(classes),
        "encoder": encoder.to_dict(),
        "calibration": None if calibration is None else calibration.to_dict(),
        **({"missing_labels": list(missing_labels)} if missing_labels else {}),
    }
    if identified is not None:
        manifest["rows_sha256"] = write_hashes(target, identified)
    if arrays := encoder.arrays():
        with replacing(target / TEXTS) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        manifest["texts_sha256"] = file_digest(target / TEXTS, "sha256")
    manifest = json.loads(json.dumps(manifest))  # in the form in which it will be read
    manifest[CHECKSUM] = checksum(manifest)
    write_text(target / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))


def _save_folder(spec: ModelSpec, classifier: Any, target: Path) -> str:
    """Write a model that is a folder, which replaces an earlier one when it is complete, and return its digest."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    spec.save(classifier, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return folder_digest(target)


def checksum(manifest: Mapping[str, Any]) -> str:
    """Return the digest of a manifest without its checksum; the manifest includes the digest of the model's file."""
    content = {name: value for name, value in manifest.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def model_folder(folder: str | os.PathLike[str]) -> Path:
    """Return the folder that holds the model: `folder` itself or its subfolder "model".

    Raises:
        DataNotFoundError: There is no model.
    """
    for candidate in (Path(folder), Path(folder) / FOLDER):
        if (candidate / MANIFEST).is_file():
            return candidate
    raise DataNotFoundError(f"{str(folder)!r} holds no model ({FOLDER}/{MANIFEST}); train a model with 'emphasis fit'")


def load_model(folder: str | os.PathLike[str], *, encoder: str | os.PathLike[str] = "") -> SavedModel:
    """Return the model of a folder that `fit_table` has written, or of its subfolder "model".

    Code that the manifest refers to is not run.

    Args:
        folder: Folder of the fit or of the model.
        encoder: Present folder of the pretrained encoder of texts; "" for the folder at the time of the fit. A
            fine-tuned encoder is part of the model.

    Raises:
        DataNotFoundError: There is no model.
        DamagedFileError: A file is incomplete, changed, or of a later version of the package.
        EmphasisValueError: An encoder is given for a model that contains its own.
    """
    source, manifest = read_manifest(folder, _READABLE)
    encoder = os.fspath(encoder)
    if encoder and manifest.get("kind") == FINE_TUNED:
        raise EmphasisValueError(
            f"the model in {source} contains its fine-tuned encoder; leave out --encoder (encoder={encoder!r})"
        )
    try:
        label, name = texts_of([manifest["label"], manifest["kind"]])
        spec = MODELS.find(name)
        if spec.trains_encoder:
            encoder = str(source / spec.file)
        arrays = _read_arrays(source, manifest)
        table_encoder = TableEncoder.from_dict(manifest["encoder"], arrays, encoder)
        classes, weighting = texts_of(manifest["classes"]), named_from_dict(manifest["weighting"])
        path, digest = source / spec.file_of(manifest), manifest["sha256"]
        settings, missing = manifest["settings"], texts_of(manifest.get("missing_labels", []))
        curves = manifest.get("calibration")
        calibration = None if curves is None else Calibration.from_dict(curves, len(classes))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFileError(f"{source / MANIFEST} is damaged ({error}); fit again with --force") from error
    check_whole(path, digest)
    try:
        predict = spec.load(path, settings, len(table_encoder.feature_names), len(classes))
    except ModuleNotFoundError:
        raise
    except Exception as error:  # libraries can raise any error for a damaged file
        raise DamagedFileError(f"{path} cannot be read ({one_line(error)}); fit again with --force") from error
    trained = read_hashes(source, manifest["rows_sha256"]) if "rows_sha256" in manifest else None
    return SavedModel(label, classes, table_encoder, name, weighting, predict, trained, calibration, missing)


def _read_arrays(folder: Path, manifest: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the fitted arrays of columns of text; {} if there are none."""
    if "texts_sha256" not in manifest:
        return {}
    path = folder / TEXTS
    check_whole(path, manifest["texts_sha256"])
    return read_npz(path)


def check_whole(path: Path, digest: Any) -> None:
    """Check that a file of a model has the SHA-256 digest in the manifest.

    Raises:
        DamagedFileError: The digest differs.
    """
    with naming_refusals("read", path):
        found = folder_digest(path) if path.is_dir() else file_digest(path, "sha256") if path.is_file() else ""
        is_whole = found == digest
    if not is_whole:
        raise DamagedFileError(f"{path} is missing, incomplete or does not match {MANIFEST}; fit again with --force")


def read_manifest(folder: str | os.PathLike[str], readable: Sequence[int | str]) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a saved model and its manifest.

    Args:
        folder: Folder of a fit, or its subfolder "model".
        readable: Formats that can be read, the newest last.

    Raises:
        DataNotFoundError: There is no model.
        DamagedFileError: The manifest is damaged, changed, or of another format.
    """
    source = model_folder(folder)
    try:
        manifest = read_json(source / MANIFEST)
    except JSONFileError as error:
        raise DamagedFileError(f"{error}; fit again with --force") from error
    if manifest.get("format") not in readable:
        raise DamagedFileError(
            f"{source / MANIFEST} is of format {manifest.get('format')!r}, this version reads "
            f"{readable[-1]}; update emphasis, or fit again with --force"
        )
    if manifest.get(CHECKSUM) != checksum(manifest):
        raise DamagedFileError(
            f"{source / MANIFEST} is damaged or was changed by hand: its checksum does not match; fit again with "
            "--force"
        )
    return source, manifest


def model_kind(folder: str | os.PathLike[str]) -> str:
    """Return the kind of the model in a folder, such as "xgboost" or "images"; "" if there is none that can be read."""
    try:
        return str(read_json(model_folder(folder) / MANIFEST).get("kind", ""))
    except (DataNotFoundError, JSONFileError):
        return ""


def texts_of(values: Any) -> tuple[str, ...]:
    """Return a list of texts as a tuple, or raise TypeError."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise EmphasisTypeError(f"{values!r} is not a list of texts")
    return tuple(values)
