"""Robust classifiers for tables, as trained by `emphasis fit` and applied by `emphasis predict`.

from emphasis.tabular import fit_table, load_model

result = fit_table("customers.csv", label="churned", folder="runs/customers")
load_model("runs/customers").predict_proba(table)

The extra `fit` is required; boosters other than XGBoost require the extra of their name as well.
"""

from emphasis.tabular.fit import fit_table
from emphasis.tabular.result import Fit
from emphasis.tabular.saved import SavedModel, load_model

__all__ = ["Fit", "SavedModel", "fit_table", "load_model"]
