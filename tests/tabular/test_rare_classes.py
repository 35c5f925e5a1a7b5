"""The default weighting on a rare class, where others lose its recall or the ranking although accuracy stays."""

import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.metrics import log_loss, recall_score, roc_auc_score
from sklearn.model_selection import train_test_split

from emphasis import CCE, DM
from emphasis.tabular.models import MODELS
from emphasis.weighting import DEFAULT_WEIGHTING

SEEDS = 3


def scores(name, weighting):
    """Recall of the rare class, AUC and log loss, means over tables with 5 % in the rare class."""
    spec = MODELS[name]
    of_seeds = []
    for seed in range(SEEDS):
        X, y = make_classification(
            3000, 10, n_informative=4, n_redundant=0, weights=[0.95], flip_y=0.02, random_state=seed
        )
        X, X_test, y, y_test = train_test_split(X, y, test_size=0.5, stratify=y, random_state=seed)
        p = spec.make(weighting, {**spec.settings, spec.threads: 1}, seed).fit(X, y).predict_proba(X_test)[:, 1]
        of_seeds.append((recall_score(y_test, p > 0.5), roc_auc_score(y_test, p), log_loss(y_test, p)))
    return np.mean(of_seeds, axis=0)


@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_the_default_keeps_what_cross_entropy_finds_of_a_rare_class_and_another_weighting_does_not(name):
    pytest.importorskip(name, reason=f"needs the extra {name}")
    default, ordinary = scores(name, DEFAULT_WEIGHTING), scores(name, CCE())
    np.testing.assert_allclose(default, ordinary, atol=0.025)
    control = scores(name, DM(lam=1.0, beta=4.0, vanishing=True))  # the earlier default
    assert control[1] < ordinary[1] - 0.05
    assert control[2] > ordinary[2] + 0.1
