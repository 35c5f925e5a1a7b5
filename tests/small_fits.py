"""Quick fits of small tables."""

from emphasis.tabular import fit_table

QUICK = {
    "xgboost": {"n_estimators": 15},
    "lightgbm": {"n_estimators": 15},
    "catboost": {"iterations": 15},
    "net": {"max_epochs": 30, "learning_rate": 0.01},
    "linear": {"max_epochs": 30, "learning_rate": 0.01},
}


def written(folder, table, name="table.csv"):
    """The table as a file."""
    path = folder / name
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    return path


def fitted(folder, path, model="xgboost", **options):
    return fit_table(path, label="class", folder=folder / "fit", model=model, settings=QUICK[model], **options)
