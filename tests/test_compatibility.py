"""Private names of other packages are there, and mean what this package takes them for."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import emphasis
from emphasis.compatibility import sklearn as private_sklearn
from emphasis.compatibility import torch as private_torch


class Passing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated:DeprecationWarning")
def test_traces_are_told():
    seen = []

    def noted(x):
        seen.append(private_torch.is_tracing())
        return x + 1

    assert not private_torch.is_tracing()
    torch.jit.trace(noted, torch.zeros(2), check_trace=False)
    assert seen == [True]
    assert not private_torch.is_tracing()


def test_dispatch_modes_are_told_and_disabled():
    assert not private_torch.dispatch_modes_are_active()
    with Passing():
        assert private_torch.dispatch_modes_are_active()
        with private_torch.disable_current_modes():
            assert not private_torch.dispatch_modes_are_active()


def test_transforms_and_their_batches_are_told():
    seen = []

    def noted(x):
        seen.append((private_torch.transforms_are_active(), private_torch.has_batch_dimension(x)))
        return x.sum()

    noted(torch.ones(2))
    torch.vmap(noted)(torch.ones(3, 2))
    torch.func.grad(noted)(torch.ones(2))
    assert seen == [(False, False), (True, True), (True, False)]


def test_gradients_that_come_in_batches_are_told():
    seen = []

    class Noted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            seen.append((private_torch.in_backward_pass(), private_torch.has_batch_dimension(gradient)))
            return 2 * gradient

    x = torch.ones(3, requires_grad=True)
    Noted.apply(x).sum().backward()
    torch.autograd.grad(Noted.apply(x), x, torch.eye(3), is_grads_batched=True)
    assert seen == [(True, False), (True, True)]
    assert not private_torch.in_backward_pass()


def test_views_know_their_base():
    base = torch.zeros(4)
    assert private_torch.view_base(base) is None
    assert private_torch.view_base(base[1:]) is base


def test_levels_of_forward_mode_are_told():
    assert not private_torch.in_forward_mode()
    with torch.autograd.forward_ad.dual_level():
        assert private_torch.in_forward_mode()


def test_a_tree_is_mapped_where_it_holds_tensors():
    tree = {"a": [torch.ones(2), "text"], "b": (3, torch.zeros(1))}
    mapped = private_torch.tree_map_only(torch.Tensor, lambda tensor: tensor.tolist(), tree)
    assert mapped == {"a": [[1.0, 1.0], "text"], "b": (3, [0.0])}


def test_sample_weights_are_checked_by_scikit_learn():
    X = np.zeros((2, 1))
    checked = private_sklearn.check_sample_weight([1, 2], X, dtype=np.float64, ensure_non_negative=True)
    assert checked.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="Negative values"):
        private_sklearn.check_sample_weight([1, -2], X, dtype=np.float64, ensure_non_negative=True)


def test_the_first_call_of_partial_fit_needs_the_classes():
    from sklearn.base import BaseEstimator

    estimator = BaseEstimator()
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        private_sklearn.check_partial_fit_first_call(estimator, None)
    assert private_sklearn.check_partial_fit_first_call(estimator, [1, 0])
    assert estimator.classes_.tolist() == [0, 1]
    assert not private_sklearn.check_partial_fit_first_call(estimator, None)


def test_lightgbm_has_the_method_that_is_overridden():
    lightgbm = pytest.importorskip("lightgbm")
    parameters = lightgbm.LGBMClassifier(objective="binary", n_estimators=3)._process_params(stage="fit")
    assert parameters["objective"] == "binary"


def test_lightgbm_on_dask_has_the_methods_that_are_called():
    lightgbm = pytest.importorskip("lightgbm")
    from emphasis.compatibility.lightgbm import close_connections

    close_connections()
    model = lightgbm.DaskLGBMClassifier(verbose=-1)
    assert {"model_factory", "kwargs"} <= set(inspect.signature(model._lgb_dask_fit).parameters)
    other = lightgbm.LGBMClassifier()
    other._n_classes = 7
    model._lgb_dask_copy_extra_params(source=other, dest=model)
    assert model._n_classes == 7
    assert model._other_params == {}


def test_trl_has_the_method_that_is_overridden():
    trl = pytest.importorskip("trl")
    assert callable(trl.SFTTrainer._set_signature_columns_if_needed)


FOREIGN = {
    "catboost",
    "jax",
    "lightgbm",
    "lightning",
    "lightning_fabric",
    "sklearn",
    "torch",
    "transformers",
    "xgboost",
}


def private_names(source):
    """Yield the private names of other packages that a module imports, or reads as attributes of their modules."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [name for name in [ast.unparse(node)] if name.replace(".", "").isidentifier()]
        for name in names:
            first, *rest = name.split(".")
            if first in FOREIGN and any(part.startswith("_") and not part.startswith("__") for part in rest):
                yield name


def test_private_names_of_other_packages_are_used_in_one_place_only():
    assert list(private_names("import torch\ntorch._C._x()\nfrom sklearn.utils._a import b")) == [
        "sklearn.utils._a.b",
        "torch._C._x",
        "torch._C",
    ]
    package = Path(emphasis.__file__).parent
    used = {
        f"{file.relative_to(package)}: {name}"
        for file in package.rglob("*.py")
        if file.parent.name != "compatibility"
        for name in private_names(file.read_text(encoding="utf-8"))
    }
    assert not used
