import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_wine

from emphasis.corruption import symmetric


def noisy_table(load, names, seed=0):
    """A table of scikit-learn's with 30 % wrong labels as text, missing values, a category and a column of no use."""
    rng = np.random.default_rng(seed)
    data = load(as_frame=True)
    table = data.frame.drop(columns="target")
    wrong = symmetric(data.target.to_numpy(), 0.3, num_classes=len(names), seed=seed).labels
    table.loc[rng.random(len(table)) < 0.1, table.columns[2]] = np.nan
    place = np.where(table.iloc[:, 0] > table.iloc[:, 0].median(), "north", "south")
    table["place"] = pd.Series(place).where(rng.random(len(table)) > 0.1)
    table["code"] = rng.integers(1, 4, len(table))
    table["class"] = np.array(names)[wrong]
    return table, np.array(names)[data.target]


@pytest.fixture(scope="session")
def wine():
    return noisy_table(load_wine, ["barolo", "grignolino", "barbera"])


@pytest.fixture(scope="session")
def cancer():
    return noisy_table(load_breast_cancer, ["malignant", "benign"])
