"""What must work where one extra alone is installed: python tests/extra_alone.py EXTRA, in such an environment.

Run by `make extras`, which makes the environments. Uses numpy and the extra's own packages, no pytest.
"""

import importlib
import importlib.util
import sys

import numpy as np

from controls import right_beyond_chance
from emphasis import CCE, DM
from emphasis.experiments.tracking import TRACKERS
from emphasis.extras import EXTRAS

WEIGHTING = DM(lam=0.5, beta=4, vanishing=True)
RNG = np.random.default_rng(0)
LABELS = RNG.integers(3, size=300)
INPUTS = np.eye(3)[LABELS] + 0.3 * RNG.normal(size=(300, 3))
FRONT_ENDS = {
    "torch": "emphasis.torch",
    "jax": "emphasis.jax",
    "sklearn": "emphasis.sklearn",
    "xgboost": "emphasis.boosting.xgboost",
    "lightgbm": "emphasis.boosting.lightgbm",
    "catboost": "emphasis.boosting.catboost",
    "dask": "emphasis.boosting.dask.xgboost",
    "transformers": "emphasis.huggingface",
    "lightning": "emphasis.lightning",
}


def classifier(extra):
    """The estimator of an extra, small and quick."""
    if extra == "sklearn":
        from emphasis.sklearn import EmphasisClassifier

        return EmphasisClassifier(WEIGHTING, hidden=(16,), learning_rate=0.01, random_state=0)
    import emphasis.boosting

    name, options = {
        "xgboost": ("EmphasisXGBClassifier", {}),
        "lightgbm": ("EmphasisLGBMClassifier", {"verbose": -1}),
        "catboost": ("EmphasisCatBoostClassifier", {"verbose": 0, "iterations": 20, "allow_writing_files": False}),
    }[extra]
    return getattr(emphasis.boosting, name)(weighting=WEIGHTING, **options)


def use_executor(extra):
    """Do something on the extra's executor."""
    import tempfile
    from pathlib import Path

    from emphasis.executors import ExecutorOptions, make_executor

    with tempfile.TemporaryDirectory() as folder:
        executor = make_executor(ExecutorOptions(extra), Path(folder))
        with executor.batch():
            future = executor.submit("sum", Total((1, 2)), print)
        assert future.result(120) == 3
        executor.close()


class Total:
    """Work for an executor."""

    def __init__(self, numbers):
        self.numbers = numbers

    def __call__(self, send):
        return sum(self.numbers)


def use(extra):
    """Do something with the extra's front end."""
    if extra in TRACKERS:
        from emphasis.experiments.tracking.tracking import require_tracker

        require_tracker(extra)
        return
    if extra in ("ray", "slurm"):
        use_executor(extra)
        return
    if extra == "jax":
        import jax

        from emphasis.jax import emphasis_loss

        gradient = jax.grad(lambda z: emphasis_loss(z, LABELS, CCE()))(INPUTS.astype(np.float32))
        assert np.isfinite(np.asarray(gradient)).all()
    elif extra == "dask":
        import dask.array as da
        from distributed import Client, LocalCluster

        from emphasis.boosting.dask import EmphasisDaskXGBClassifier

        X, y = da.from_array(INPUTS, chunks=(150, 3)), da.from_array(LABELS, chunks=150)
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
            Client(cluster),
        ):
            model = EmphasisDaskXGBClassifier(weighting=WEIGHTING, n_estimators=20).fit(X, y)
            assert right_beyond_chance(model.predict(X).compute(), LABELS)
    else:
        assert right_beyond_chance(np.ravel(classifier(extra).fit(INPUTS, LABELS).predict(INPUTS)), LABELS)


def check_the_others_are_named(extra):
    """Every front end whose packages are absent says in one line which extra it needs."""
    for other, module in FRONT_ENDS.items():
        if all(importlib.util.find_spec(name) for name in EXTRAS[other]):
            continue
        said = ""
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            said = str(error)
        if f"pip install '.[{other}]'" not in said or "\n" in said:
            raise SystemExit(f"{module} does not name its extra {other} in one line: {said!r}")


if __name__ == "__main__":
    (chosen,) = sys.argv[1:]
    use(chosen)
    check_the_others_are_named(chosen)
    print(f"the extra {chosen} works alone")
