"""Gradient boosting that learns with a weighting: scikit-learn estimators of XGBoost, LightGBM and CatBoost.

from emphasis.boosting import EmphasisXGBClassifier

model = EmphasisXGBClassifier(n_estimators=200)
model.fit(X, y).predict_proba(X)

A library is imported when its estimator is asked for, and needs the extra of its name. `Objective` is what all three
call, and needs numpy only.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from emphasis.boosting.objective import Objective

if TYPE_CHECKING:
    from emphasis.boosting.catboost import EmphasisCatBoostClassifier
    from emphasis.boosting.lightgbm import EmphasisLGBMClassifier
    from emphasis.boosting.xgboost import EmphasisXGBClassifier

__all__ = ["EmphasisCatBoostClassifier", "EmphasisLGBMClassifier", "EmphasisXGBClassifier", "Objective"]

_MODULES = {
    "EmphasisCatBoostClassifier": "catboost",
    "EmphasisLGBMClassifier": "lightgbm",
    "EmphasisXGBClassifier": "xgboost",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"emphasis.boosting.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
