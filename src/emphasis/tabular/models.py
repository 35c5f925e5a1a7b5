"""Kinds of models for tables, with functions that create them, save them without pickles, and load them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from emphasis.errors import EmphasisValueError
from emphasis.registry import Registry
from emphasis.tabular.fine_tuned import SETTINGS as FINE_TUNING
from emphasis.weighting import Weighting

FINE_TUNED = "fine-tuned"
"""Name of the kind of model that trains a pretrained encoder of texts."""
Predict = Callable[[Any], Any]  # (N, D) float32 -> (N, C) probabilities


@dataclass(frozen=True)
class ModelSpec:
    """A kind of model.

    Attributes:
        extra: Extra required in addition to `fit`.
        settings: Default settings: small trees, which memorize few wrong labels.
        file: Name of the file of the model.
        make: Function of weighting, settings and seed that returns a classifier with scikit-learn's interface.
        save: Function of a trained classifier and a path.
        load: Function of path, settings, number of features and number of classes that returns a prediction function.
        earlier_file: Name of the file in earlier versions, which `load` reads as well.
        threads: Name of the parameter for the number of threads; "" if there is none.
        is_folder: Whether `file` is a folder, which `save` writes.
        trains_encoder: Whether a pretrained encoder of texts is trained, whose folder `make` takes as the setting
            "encoder", with the names of the classes as "classes" and a function "on_step".
    """

    extra: str
    settings: Mapping[str, Any]
    file: str
    make: Callable[[Weighting, Mapping[str, Any], int], Any]
    save: Callable[[Any, Path], None]
    load: Callable[[Path, Mapping[str, Any], int, int], Predict]
    earlier_file: str = ""
    threads: str = ""
    is_folder: bool = False
    trains_encoder: bool = False

    def file_of(self, manifest: Mapping[str, Any]) -> str:
        """Return the name of the file of a saved model, which earlier versions may have written."""
        earlier = self.earlier_file and manifest.get("file") == self.earlier_file
        return self.earlier_file if earlier else self.file


def _make_xgboost(weighting: Weighting, settings: Mapping[str, Any], seed: int) -> Any:
    from emphasis.boosting.xgboost import EmphasisXGBClassifier

    return EmphasisXGBClassifier(weighting=weighting, random_state=seed, **settings)


def _save_xgboost(model: Any, path: Path) -> None:
    path.write_bytes(
        model.get_booster().save_raw("ubj")
    )  # XGBoost's writer does not detect a full disk at the last block


def _load_xgboost(path: Path, _settings: Mapping[str, Any], features: int, _classes: int) -> Predict:
    import xgboost

    booster = xgboost.Booster(model_file=bytearray(path.read_bytes()))  # its reader does not accept every file name
    _check_features(booster.num_features(), features)

    def predict(rows: Any) -> Any:
        return _two_columns(booster.predict(xgboost.DMatrix(rows)))

    return predict


def _make_lightgbm(weighting: Weighting, settings: Mapping[str, Any], seed: int) -> Any:
    from emphasis.boosting.lightgbm import EmphasisLGBMClassifier

    return EmphasisLGBMClassifier(weighting=weighting, random_state=seed, **settings)


def _save_lightgbm(model: Any, path: Path) -> None:
    path.write_text(model.booster_.model_to_string(), encoding="utf-8")


def _load_lightgbm(path: Path, _settings: Mapping[str, Any], features: int, _classes: int) -> Predict:
    import lightgbm

    booster = lightgbm.Booster(model_str=path.read_text(encoding="utf-8"))
    _check_features(booster.num_feature(), features)

    def predict(rows: Any) -> Any:
        return _two_columns(booster.predict(rows))

    return predict


def _make_catboost(weighting: Weighting, settings: Mapping[str, Any], seed: int) -> Any:
    from emphasis.boosting.catboost import EmphasisCatBoostClassifier

    return EmphasisCatBoostClassifier(weighting=weighting, random_seed=seed, **settings)


def _load_catboost(path: Path, _settings: Mapping[str, Any], _features: int, _classes: int) -> Predict:
    from catboost import CatBoostClassifier

    predict: Predict = CatBoostClassifier().load_model(str(path)).predict_proba
    return predict


def _make_net(weighting: Weighting, settings: Mapping[str, Any], seed: int) -> Any:
    from emphasis.sklearn import EmphasisClassifier

    return EmphasisClassifier(weighting, random_state=seed, **settings)


def _save_net(model: Any, path: Path) -> None:
    from safetensors.torch import save

    path.write_bytes(save(model.network_.state_dict()))


def load_network(path: Path, settings: Mapping[str, Any], features: int, classes: int) -> Any:
    """Return the network of a saved net, which maps encoded rows (N, D) to logits (N, C)."""
    import torch
    from safetensors.torch import load

    from emphasis.models.mlp import mlp

    chosen = {name: settings[name] for name in ("hidden", "activation", "dropout") if name in settings}
    with torch.device("meta"):  # so that a wrong manifest does not allocate more memory than the file needs
        network = mlp((features,), classes, **chosen).eval()
    stored = load(path.read_bytes()) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    network.load_state_dict(stored, assign=True)
    return network


def _load_net(path: Path, settings: Mapping[str, Any], features: int, classes: int) -> Predict:
    import torch

    network = load_network(path, settings, features, classes)

    @torch.no_grad()
    def predict(rows: Any) -> Any:
        return network(torch.from_numpy(rows)).softmax(1).numpy()

    return predict


def _make_fine_tuned(weighting: Weighting, settings: Mapping[str, Any], seed: int) -> Any:
    from emphasis.tabular.fine_tuned import FineTunedClassifier

    return FineTunedClassifier(weighting, seed, **settings)


def _load_fine_tuned(path: Path, _settings: Mapping[str, Any], _features: int, classes: int) -> Predict:
    from emphasis.tabular.fine_tuned import load_predictor

    return load_predictor(path, classes)


def _save_by_method(model: Any, path: Path) -> None:
    model.save_model(str(path))


def _check_features(trained_on: int, features: int) -> None:
    """Raise ValueError unless the numbers of features agree, since boosters treat absent features as missing."""
    if trained_on != features:
        raise EmphasisValueError(f"the model was trained on {trained_on} features, not {features}")


def _two_columns(probability: Any) -> Any:
    return np.stack([1.0 - probability, probability], axis=1) if probability.ndim == 1 else probability


XGBOOST = ModelSpec(
    extra="fit",
    settings={"n_estimators": 150, "max_depth": 3, "learning_rate": 0.1},
    file="model.ubj",
    make=_make_xgboost,
    save=_save_xgboost,
    load=_load_xgboost,
    threads="n_jobs",
)
LIGHTGBM = ModelSpec(
    extra="lightgbm",
    settings={"n_estimators": 150, "num_leaves": 8, "learning_rate": 0.1, "verbose": -1},
    file="model.txt",
    make=_make_lightgbm,
    save=_save_lightgbm,
    load=_load_lightgbm,
    threads="n_jobs",
)
CATBOOST = ModelSpec(
    extra="catboost",
    settings={"iterations": 150, "depth": 3, "learning_rate": 0.1, "verbose": 0, "allow_writing_files": False},
    file="model.cbm",
    make=_make_catboost,
    save=_save_by_method,
    load=_load_catboost,
    threads="thread_count",
)
NET = ModelSpec(
    extra="sklearn",
    settings={"hidden": (64,), "max_epochs": 100},
    file="model.safetensors",
    earlier_file="model.pt",
    make=_make_net,
    save=_save_net,
    load=_load_net,
)
LINEAR = replace(NET, settings={**NET.settings, "hidden": ()})
ENCODER = ModelSpec(
    extra="transformers",
    settings=FINE_TUNING,
    file="encoder",
    make=_make_fine_tuned,
    save=lambda model, path: model.save(path),
    load=_load_fine_tuned,
    is_folder=True,
    trains_encoder=True,
)

MODELS: Registry[ModelSpec] = Registry(
    "model",
    {
        **{name: f"{__name__}:{name.upper()}" for name in ("xgboost", "lightgbm", "catboost", "net", "linear")},
        FINE_TUNED: f"{__name__}:ENCODER",
    },
)
"""Kinds of models by name, as accepted by `emphasis fit --model`."""
