"""Folds as jobs: their predictions are those of one process, whatever becomes of a worker."""

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emphasis.executors import ExecutorOptions
from emphasis.tabular import fit_table
from emphasis.tabular.cross_validation import Data
from emphasis.tabular.fold_jobs import FoldWork

RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 3))
FRAME = pd.DataFrame(X, columns=list("abc")).assign(y=np.where(X[:, 0] + 0.5 * X[:, 1] > 0, "yes", "no"))
OPTIONS = {"label": "y", "folds": 3, "settings": {"n_estimators": 5, "n_jobs": 1}, "calibrate": False}
MODULES = {"ray": "ray", "slurm": "submitit"}


class _KilledOnce(FoldWork):
    def __call__(self, send):
        marker = Path(os.environ["KILLED_ONCE"])
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(send)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return fit_table(FRAME, folder=tmp_path_factory.mktemp("fits") / "alone", **OPTIONS)


@pytest.mark.parametrize("executor", ["ray", "slurm"])
def test_folds_on_a_cluster_are_those_of_one_process(executor, alone, tmp_path, monkeypatch):
    pytest.importorskip(MODULES[executor])
    monkeypatch.setenv("KILLED_ONCE", str(tmp_path / "killed"))
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("emphasis.tabular.fold_jobs.FoldWork", _KilledOnce)
    seen = []
    result = fit_table(
        FRAME,
        folder=tmp_path / "fit",
        executor=ExecutorOptions(executor),
        progress=lambda *what: seen.append(what),
        **OPTIONS,
    )
    assert (tmp_path / "killed").exists()
    assert (f"folds on {executor}", 0, 3) in seen
    for name, p in alone.probabilities.items():
        np.testing.assert_array_equal(result.probabilities[name], p)
    assert sorted(path.name for path in (tmp_path / "fit" / "folds").iterdir()) == ["0.npz", "1.npz", "2.npz"]


def test_a_fold_returns_the_mistake_of_the_user(monkeypatch, alone, tmp_path):
    from emphasis.tabular import fold_jobs
    from emphasis.tabular.cross_validation import Trainer
    from emphasis.tabular.models import XGBOOST

    data = Data(alone.prepared, None, alone.weights)
    monkeypatch.setattr(Data, "encode", lambda self, train, test: (X[train], X[test]))
    trainer = Trainer(XGBOOST, {"max_depth": -4}, 0)
    work = fold_jobs.FoldWork(data, {"ours": alone.weighting}, trainer, np.arange(200), np.arange(200, 240))
    assert "xgboost rejects the settings" in str(work(lambda _: None))
