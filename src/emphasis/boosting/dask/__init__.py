"""Gradient boosting with a weighting on a Dask cluster, for tables larger than the memory of one machine.

from emphasis.boosting.dask import EmphasisDaskXGBClassifier

model = EmphasisDaskXGBClassifier(n_estimators=200)
model.fit(X, y).predict_proba(X)  # dask arrays or dataframes

The estimators are those of `xgboost.dask` and `lightgbm.dask` in everything but the objective. They need the extra
`dask`; the one of LightGBM needs the extra `lightgbm` as well.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from emphasis.extras import missing_extra

try:
    import dask as _dask  # noqa: F401
    import distributed as _distributed  # noqa: F401
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.boosting.dask", "dask", error) from None

if TYPE_CHECKING:
    from emphasis.boosting.dask.lightgbm import EmphasisDaskLGBMClassifier
    from emphasis.boosting.dask.xgboost import EmphasisDaskXGBClassifier

__all__ = ["EmphasisDaskLGBMClassifier", "EmphasisDaskXGBClassifier"]

_MODULES = {"EmphasisDaskLGBMClassifier": "lightgbm", "EmphasisDaskXGBClassifier": "xgboost"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"emphasis.boosting.dask.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
