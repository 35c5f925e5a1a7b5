"""The derivative view of a method: the emphasis of an example as a function of its label's probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emphasis.baselines.protocol import Baseline, Problem
from emphasis.baselines.registry import METHODS, find, make
from emphasis.errors import EmphasisValueError
from emphasis.weighting import FunctionWeighting

_LARGEST_MARGIN, _SMALLEST_WEIGHT = 60.0, 1e-20  # smaller weights are set to 0
_ROUNDING = 1e-12  # of derivatives


@dataclass(frozen=True, repr=False)
class View(FunctionWeighting):
    """The emphasis of a method, as `view` returns it.

    Attributes:
        title: Name and options of the method.
        pushes_back: Smallest p from which on the method lowers p; NaN if there is none.
    """

    title: str = ""
    pushes_back: float = float("nan")

    def __repr__(self) -> str:
        return self.title


def view(name: str, num_classes: int = 10, **options: Any) -> View:
    """Return the emphasis of a method as a weighting: w(p) is the L1 norm of the derivative.

    The other classes have equal probabilities, on which the loss may depend. The label is class 0.

    Args:
        name: Name of the method, see `find`.
        num_classes: Number of classes C.
        **options: Hyperparameters.

    Raises:
        ValueError: The loss of the method is not a function of logits and label only; see also `make`.
    """
    if not find(name).has_view():
        have_views = ", ".join(other for other, method in METHODS.items() if method.has_view())
        raise EmphasisValueError(
            f"{name} has no derivative view, as its loss depends on more than p; methods with one: {have_views}"
        )
    words, examples = find(name).example(num_classes)
    examples = {} if examples.keys() & options.keys() else examples
    method = make(name, Problem(torch.zeros(1, dtype=torch.int64), num_classes), **examples, **options).double()

    def weight(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
        norms = np.asarray(np.abs(_derivative(method, p, q)).sum(-1), dtype=np.float64)
        return np.where(norms < _SMALLEST_WEIGHT, 0.0, norms)

    given = [f"{key}={value}" for key, value in options.items()]
    description = ", ".join([*given, *([words] if examples else []), f"{num_classes} classes"])
    p = np.linspace(0.0, 1.0, 2001)[1:-1]
    pushed_back = p[_derivative(method, p, 1.0 - p)[:, 0] > _ROUNDING]
    return View(weight, f"{name}({description})", float(pushed_back[0]) if len(pushed_back) else float("nan"))


def _derivative(method: Baseline, p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the derivative with respect to the logits, (..., C), for label 0 at probabilities p, 1 - p = q."""
    with np.errstate(divide="ignore"):
        margin = np.clip(np.log(p) - np.log(q), -_LARGEST_MARGIN, _LARGEST_MARGIN)
    logits = torch.zeros(margin.size, method.num_classes, dtype=torch.float64)
    logits[:, 0] = torch.from_numpy(np.ascontiguousarray(margin.ravel())) + np.log(method.num_classes - 1.0)
    logits.requires_grad_()
    labels = torch.zeros(margin.size, dtype=torch.int64)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(method.example_losses(logits, labels).sum(), logits)
    return gradient.numpy().reshape(*margin.shape, method.num_classes)
