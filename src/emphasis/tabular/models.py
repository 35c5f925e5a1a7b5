"""The kinds of model that a table can be fitted with: how each is made, saved without pickles, and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emphasis.errors import EmphasisValueError
from emphasis.texts import did_you_mean
from emphasis.weighting import DEFAULT_WEIGHTING, Weighting

Predict = Callable[[Any], Any]  # (N, D) float32 -> (N, C) probabilities


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes:
        extra: What it needs beside the extra `fit`.
        weighting: Its weighting unless told.
        settings: Its settings unless told: small trees, which leave wrong labels alone longest.
        file: Where it is saved.
        make: (weighting, settings, seed) -> a classifier of scikit-learn's habits.
        save: (classifier, path).
        load: (path, settings, number of features, number of classes) -> probabilities of rows.
    """

    extra: str
    weighting: Weighting
    settings: Mapping[str, Any]
    file: str
    make: Callable[[Weighting, Mapping[str, Any], int], Any]
    save: Callable[[Any, Path], None]
    load: Callable[[Path, Mapping[str, Any], int, int], Predict]


def kind_of(name: str) -> Kind:
    """Return the kind of a name, or ValueError that lists them."""
    if name not in KINDS:
        raise EmphasisValueError(f"model={name!r} is unknown{did_you_mean(name, KINDS)}; use one of {', '.join(KINDS)}")
    return KINDS[name]


def _make_xgboost(weighting: Weighting, settings: Mapping[str, Any], seed: int) -> Any:
    from emphasis.boosting.xgboost import EmphasisXGBClassifier

    return EmphasisXGBClassifier(weighting=weighting, random_state=seed, **settings)


def _save_xgboost(model: Any, path: Path) -> None:
    path.write_bytes(model.get_booster().save_raw("ubj"))  # its own writer does not see that the last block is refused


def _load_xgboost(path: Path, _settings: Mapping[str, Any], features: int, _classes: int) -> Predict:
    import xgboost

    booster = xgboost.Booster(model_file=bytearray(path.read_bytes()))  # whatever bytes its name has
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
    import torch

    with path.open("wb") as file:
        torch.save(model.network_.state_dict(), file)


def _load_net(path: Path, settings: Mapping[str, Any], features: int, classes: int) -> Predict:
    import torch

    from emphasis.models.mlp import mlp

    chosen = {name: settings[name] for name in ("hidden", "activation", "dropout") if name in settings}
    with torch.device("meta"):  # no memory is taken before the file proves to hold as much
        network = mlp((features,), classes, **chosen).eval()
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"), assign=True)

    @torch.no_grad()
    def predict(rows: Any) -> Any:
        return network(torch.from_numpy(rows)).softmax(1).numpy()

    return predict


def _save_by_method(model: Any, path: Path) -> None:
    model.save_model(str(path))


def _check_features(found: int, features: int) -> None:
    """Raise ValueError unless a model was trained on so many features: boosters take fewer for missing."""
    if found != features:
        raise EmphasisValueError(f"it was trained on {found} features, not {features}")


def _two_columns(probability: Any) -> Any:
    return np.stack([1.0 - probability, probability], axis=1) if probability.ndim == 1 else probability


KINDS = {
    "xgboost": Kind(
        "fit", DEFAULT_WEIGHTING, {"n_estimators": 150, "max_depth": 3, "learning_rate": 0.1}, "model.ubj",
        _make_xgboost, _save_xgboost, _load_xgboost,
    ),
    "lightgbm": Kind(
        "lightgbm", DEFAULT_WEIGHTING,
        {"n_estimators": 150, "num_leaves": 8, "learning_rate": 0.1, "verbose": -1}, "model.txt",
        _make_lightgbm, _save_lightgbm, _load_lightgbm,
    ),
    "catboost": Kind(
        "catboost", DEFAULT_WEIGHTING,
        {"iterations": 150, "depth": 3, "learning_rate": 0.1, "verbose": 0, "allow_writing_files": False},
        "model.cbm", _make_catboost, _save_by_method, _load_catboost,
    ),
    "net": Kind(
        "sklearn", DEFAULT_WEIGHTING, {"hidden": (64,), "max_epochs": 100}, "model.pt",
        _make_net, _save_net, _load_net,
    ),
}  # fmt: skip
