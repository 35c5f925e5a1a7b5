"""Export of fitted models to ONNX: encoding of the columns, model and calibration in one graph."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import emphasis
from emphasis.datasets.table_encoder import Column, DateColumn, LevelsColumn, NumericColumn, TableEncoder
from emphasis.datasets.table_features import as_dates, finite_numbers, natural_texts
from emphasis.errors import EmphasisRuntimeError, EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.files import naming_refusals, replacing
from emphasis.json_files import read_json
from emphasis.tabular.models import MODELS, load_network
from emphasis.tabular.saved import MANIFEST, SavedModel, load_model, model_folder

try:
    import onnx
    from onnx import TensorProto, helper

    from emphasis.tabular.onnx_graph import Graph, add_calibration, add_column, column_input
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.tabular.onnx_export", "export", error) from None

TOLERANCE = 1e-5
_OPSET, _ML_OPSET, _IR_VERSION = 17, 3, 10  # read by onnxruntime 1.18 and later
_CHECKED_ROWS = 512

Converter = Callable[[Path, Mapping[str, Any], int, int], onnx.ModelProto]


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        path: Path of the file.
        inputs: Description of each input of shape (N, 1), by name.
        outputs: Description of each output, by name.
        difference: Largest difference between its probabilities and those of `SavedModel.predict_proba`.
    """

    path: Path
    inputs: dict[str, str]
    outputs: dict[str, str]
    difference: float


def export_onnx(folder: str | os.PathLike[str], path: str | os.PathLike[str] | None = None) -> Exported:
    """Write the model of a fit as an ONNX file, after comparing it with the model.

    Args:
        folder: Folder written by `emphasis.fit`.
        path: File to write; None for model.onnx in the folder of the model.

    Raises:
        DataNotFoundError, DamagedFileError: There is no model, or it cannot be read.
        EmphasisValueError: The model has a column of text.
        EmphasisRuntimeError: The probabilities of the ONNX model differ by more than 1e-5; nothing is written.
    """
    model = load_model(folder)
    source = model_folder(folder)
    target = source / "model.onnx" if path is None else Path(path)
    manifest = read_json(source / MANIFEST)
    settings, file = manifest["settings"], source / MODELS.find(model.kind).file_of(manifest)
    if model.kind not in _CONVERTERS:
        raise EmphasisValueError(
            f"a model of the kind {model.kind!r} cannot be exported, as its column holds text; the folder "
            f"{source / MODELS.find(model.kind).file} is in the format of Hugging Face, whose tools export it"
        )
    features = len(model.encoder.feature_names)
    converted = _CONVERTERS[model.kind](file, settings, features, len(model.classes))
    graph_model = _with_table(converted, model)
    difference = _difference(graph_model, model)
    if not difference <= TOLERANCE:
        raise EmphasisRuntimeError(
            f"the probabilities of the ONNX model differ from those of the model by {difference:.2g}, more than "
            f"{TOLERANCE:g}; nothing was written"
        )
    with naming_refusals("write to", target), replacing(target) as partial:
        partial.write_bytes(graph_model.SerializeToString())
    label, probabilities = (output.name for output in graph_model.graph.output)
    outputs = {
        label: "the most probable class, (N,)",
        probabilities: f"(N, {len(model.classes)}), in the order of classes",
    }
    return Exported(target, {c.name: _description(c) for c in model.encoder.columns}, outputs, difference)


def onnx_inputs(encoder: TableEncoder, frame: Any) -> dict[str, NDArray[Any]]:
    """Return the inputs of an exported model for the rows of a pandas table."""
    return {column.name: _values(column, frame[column.name])[:, None] for column in encoder.columns}


def _values(column: Column, values: Any) -> NDArray[Any]:
    import pandas as pd

    if isinstance(column, LevelsColumn):
        codes, texts = natural_texts(values)
        return np.asarray(np.array([*texts, ""], dtype=object)[codes])
    if isinstance(column, DateColumn):
        since = as_dates(values, column.name, column.format) - pd.Timestamp("1970-01-01")
        return np.asarray((since / pd.Timedelta(days=1)).to_numpy(np.float64))
    return finite_numbers(values, column.name)


def _description(column: Column) -> str:
    if isinstance(column, LevelsColumn):
        return 'a category as text, "" if it is missing'
    if isinstance(column, DateColumn):
        return "a date as days since 1970-01-01 in float64, NaN if it is missing"
    return "a number in float64, NaN if it is missing"


def _with_table(converted: onnx.ModelProto, model: SavedModel) -> onnx.ModelProto:
    """Add the encoding of the columns before a model of encoded rows, and calibration and class names after it."""
    converted = onnx.compose.add_prefix(converted, "model/")
    inner, columns = converted.graph, model.encoder.columns
    before, after = Graph(), Graph()
    features = before.add("Concat", *(name for column in columns for name in add_column(before, column)), axis=1)
    before.nodes.append(helper.make_node("Cast", [features], [inner.input[0].name], to=TensorProto.FLOAT))
    after.nodes, after.constants = [*before.nodes, *inner.node], before.constants
    p = after.cast(inner.output[-1].name)
    if model.calibration is not None:
        p = add_calibration(after, model.calibration, p)
    used_names = {column.name for column in columns}
    label, probabilities = _free("label", used_names), _free("probabilities", used_names)
    best = after.add("ArgMax", p, axis=1, keepdims=0)
    names = after.constant(np.array(model.classes, dtype=object))
    after.nodes.append(helper.make_node("Gather", [names, best], [label]))
    after.nodes.append(helper.make_node("Cast", [p], [probabilities], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        after.nodes,
        "emphasis",
        [column_input(column) for column in columns],
        [
            helper.make_tensor_value_info(label, TensorProto.STRING, ["N"]),
            helper.make_tensor_value_info(probabilities, TensorProto.FLOAT, ["N", len(model.classes)]),
        ],
        [*inner.initializer, *after.constants],
    )
    opset = max([entry.version for entry in converted.opset_import if entry.domain == ""], default=_OPSET)
    opsets = [helper.make_opsetid("", max(opset, _OPSET)), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model_with_table = helper.make_model(
        graph, opset_imports=opsets, ir_version=_IR_VERSION, functions=converted.functions
    )
    model_with_table.producer_name, model_with_table.producer_version = "emphasis", emphasis.__version__
    helper.set_model_props(
        model_with_table, {"label": model.label, "classes": json.dumps(model.classes, ensure_ascii=False)}
    )
    onnx.checker.check_model(model_with_table)
    return model_with_table


def _free(name: str, used_names: set[str]) -> str:
    while name in used_names:
        name += "_"
    return name


def _difference(exported: onnx.ModelProto, model: SavedModel) -> float:
    """Return the largest difference of probabilities on random rows with values known to the encoder."""
    import onnxruntime
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({column.name: _drawn(column, rng) for column in model.encoder.columns})
    session = onnxruntime.InferenceSession(exported.SerializeToString(), providers=["CPUExecutionProvider"])
    _, p = session.run(None, onnx_inputs(model.encoder, frame))
    expected = model.predict_features(model.encoder.transform(frame))
    return float(np.abs(p - expected).max())


def _drawn(column: Column, rng: np.random.Generator) -> Any:
    """Return random values of a column, including missing values and unknown categories."""
    import pandas as pd

    absent = rng.random(_CHECKED_ROWS) < 0.1
    if isinstance(column, LevelsColumn):
        texts = [*(level for level in column.levels if level is not None), "no level of the column"]
        return pd.Series(np.array(texts, dtype=object)[rng.integers(len(texts), size=_CHECKED_ROWS)]).mask(absent, None)
    if isinstance(column, DateColumn):
        days = rng.integers(-20000, 20000, _CHECKED_ROWS)
        dates = pd.Timestamp(column.first).normalize() + pd.to_timedelta(days, unit="D")
        return pd.Series(dates).mask(absent, pd.NaT)
    assert isinstance(column, NumericColumn)
    drawn = (column.mean + column.deviation * rng.normal(scale=2.0, size=_CHECKED_ROWS)) * column.scale
    return pd.Series(np.where(absent, np.nan, drawn))


def _from_xgboost(path: Path, _settings: Mapping[str, Any], features: int, _classes: int) -> onnx.ModelProto:
    import onnxmltools
    import xgboost

    booster = xgboost.Booster(model_file=bytearray(path.read_bytes()))
    return onnxmltools.convert_xgboost(booster, initial_types=_features_type(features))


def _from_lightgbm(path: Path, _settings: Mapping[str, Any], features: int, classes: int) -> onnx.ModelProto:
    import lightgbm
    import onnxmltools

    text = re.sub(r"^threshold=(.*)$", _floats_below, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = re.sub(r"^tree_sizes=.*\n", "", text, flags=re.MULTILINE)  # sizes in bytes, which have changed
    booster = lightgbm.Booster(model_str=text)
    booster.params["objective"] = "binary" if classes == 2 else "multiclass"  # it was "custom" in training
    return onnxmltools.convert_lightgbm(booster, initial_types=_features_type(features), zipmap=False)


def _floats_below(line: re.Match[str]) -> str:
    """Return a line of thresholds rounded down to float32, which does not change x <= threshold for float32 x."""
    exact = np.array(line.group(1).split(), np.float64)
    rounded = exact.astype(np.float32)
    below = np.where(rounded > exact, np.nextafter(rounded, np.float32(-np.inf)), rounded)
    return "threshold=" + " ".join(repr(float(value)) for value in below)


def _features_type(features: int) -> list[tuple[str, Any]]:
    from onnxmltools.convert.common.data_types import FloatTensorType

    return [("features", FloatTensorType([None, features]))]


def _from_catboost(path: Path, _settings: Mapping[str, Any], _features: int, _classes: int) -> onnx.ModelProto:
    import tempfile

    from catboost import CatBoostClassifier

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        CatBoostClassifier().load_model(str(path)).save_model(str(file), format="onnx")
        model = onnx.load(file)
    zipped = next(node for node in model.graph.node if node.op_type == "ZipMap")  # dictionaries of probabilities
    model.graph.node.remove(zipped)
    model.graph.output[-1].CopyFrom(helper.make_tensor_value_info(zipped.input[0], TensorProto.FLOAT, None))
    return model


def _from_net(path: Path, settings: Mapping[str, Any], features: int, classes: int) -> onnx.ModelProto:
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not installed
    network = torch.nn.Sequential(load_network(path, settings, features, classes), torch.nn.Softmax(1)).eval()
    rows = torch.zeros(2, features)
    with warnings.catch_warnings():  # warnings of the exporter about itself
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, (rows,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("N")},), verbose=False
        )
    assert program is not None  # true for dynamo=False
    return program.model_proto


_CONVERTERS: dict[str, Converter] = {
    "xgboost": _from_xgboost,
    "lightgbm": _from_lightgbm,
    "catboost": _from_catboost,
    "net": _from_net,
    "linear": _from_net,
}
