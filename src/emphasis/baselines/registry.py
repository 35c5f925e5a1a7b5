"""Methods by name: every file of this package that defines one, and files of one's own."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import emphasis.baselines as package
from emphasis.baselines.protocol import Baseline, Problem
from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.texts import did_you_mean
from emphasis.weighting import FunctionWeighting

_HELPERS = ("learner", "protocol", "registry")
_LARGEST_MARGIN, _NOTHING = 60.0, 1e-20  # weights of 1e-26 are left there, where others would go on to 0


@lru_cache(maxsize=1)
def _own() -> dict[str, type[Baseline]]:
    """Return the methods of this package: a file label_smoothing.py defines "label-smoothing"."""
    modules = [one.name for one in pkgutil.iter_modules(package.__path__)]
    return {
        module.replace("_", "-"): _only_method(importlib.import_module(f"{package.__name__}.{module}"), module)
        for module in modules
        if module not in _HELPERS and not module.startswith("_")
    }


def names() -> list[str]:
    """Return the names of the methods that come with the package."""
    return list(_own())


def find(name: str) -> type[Baseline]:
    """Return a method's class.

    Args:
        name: One of `names()`; or "FILE.py:CLASS" or "module:CLASS", of your own.

    Raises:
        ValueError: There is none; the message names those that are known, or what is wrong with the file.
    """
    if ":" in name:
        return _of_ones_own(name, _text_of(name))
    if name not in _own():
        raise EmphasisValueError(
            f"method {name!r} is unknown{did_you_mean(name, names())}; known: {', '.join(names())}, or one of your own "
            "as FILE.py:CLASS"
        )
    return _own()[name]


def source_of(name: str) -> str:
    """Return the text of the file that defines a method of one's own; "" for those of the package.

    Raises:
        ValueError: The name is unknown.
    """
    if ":" not in name:
        return ""
    method = find(name)
    return _text_of(name) or inspect.getsource(importlib.import_module(method.__module__))


def _text_of(name: str) -> str:
    """Return the text of the file that "FILE.py:CLASS" names; "" for a module's."""
    where = name.rpartition(":")[0]
    if not where.endswith(".py"):
        return ""
    try:
        return Path(where).read_text(encoding="utf-8")
    except OSError as error:
        raise EmphasisValueError(f"method {name!r} cannot be read: {error}; paths count from {Path.cwd()}") from error


def options_of(name: str) -> dict[str, Any]:
    """Return the hyperparameters of a method and their defaults; `inspect.Parameter.empty` where it has none.

    Raises:
        ValueError: The name is unknown.
    """
    parameters = inspect.signature(find(name)).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Check a method's name and the names of its options.

    Raises:
        ValueError: One is unknown or missing; the message names those that are known.
    """
    known = options_of(name)
    for option in options:
        if option not in known:
            takes = ", ".join(known) or "none"
            raise EmphasisValueError(f"{name} has no option {option!r}{did_you_mean(option, known)}; it takes {takes}")
    for option, default in known.items():
        if default is inspect.Parameter.empty and option not in options:
            raise EmphasisValueError(f"{name} needs the option {option!r}")


def make(name: str, problem: Problem, **options: Any) -> Baseline:
    """Return a method for a problem.

    Args:
        name: As `find` takes it.
        problem: The labels that it is to learn from.
        options: Hyperparameters; those left out are the published ones.

    Raises:
        ValueError: The name or an option is unknown, missing or not allowed; the message names the cure.
    """
    check_options(name, options)
    return find(name)(problem, **options)


@dataclass(frozen=True, repr=False)
class View(FunctionWeighting):
    """A method's emphasis, made by `view`.

    Attributes:
        title: The method and what it was given.
        pushes_back: The least p from which on it pushes p down, not up; NaN if it never does.
    """

    title: str = ""
    pushes_back: float = float("nan")

    def __repr__(self) -> str:
        return self.title


def view(name: str, num_classes: int = 10, **options: Any) -> View:
    """Return a method's emphasis as a weighting: w(p) = L1 norm of the derivative, the others sharing 1 - p evenly.

    Where a loss depends on the other classes' probabilities too, that even share stands for them. Label 0 is used.

    Args:
        name: As `find` takes it.
        num_classes: C.
        options: Hyperparameters.

    Raises:
        ValueError: The method is no function of logits and label alone, or as `make`.
    """
    if not find(name).has_view():
        drawn = ", ".join(one for one, kind in _own().items() if kind.has_view())
        raise EmphasisValueError(
            f"{name} has no derivative view: what it does depends on more than p; these have: {drawn}"
        )
    words, examples = find(name).example(num_classes)
    examples = {} if examples.keys() & options.keys() else examples
    method = make(name, Problem(torch.zeros(1, dtype=torch.int64), num_classes), **examples, **options).double()

    def weight(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
        found = np.asarray(np.abs(_derivative(method, p, q)).sum(-1), dtype=np.float64)
        return np.where(found < _NOTHING, 0.0, found)

    given = [f"{key}={value}" for key, value in options.items()]
    said = ", ".join([*given, *([words] if examples else []), f"{num_classes} classes"])
    p = np.linspace(0.0, 1.0, 2001)[1:-1]
    back = p[_derivative(method, p, 1.0 - p)[:, 0] > 0.0]
    return View(weight, f"{name}({said})", float(back[0]) if len(back) else float("nan"))


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


@lru_cache(maxsize=32)
def _of_ones_own(name: str, text: str) -> type[Baseline]:
    """Return the class that a name like "FILE.py:CLASS" means; a file whose `text` has changed is read again."""
    where, _, attribute = name.rpartition(":")
    try:
        found = getattr(_run_file(where, text) if text else importlib.import_module(where), attribute)
    except Exception as error:  # whatever a file of the user's may raise when it is run
        raise EmphasisValueError(f"method {name!r} cannot be read: {type(error).__name__}: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Baseline)):
        raise EmphasisValueError(f"method {name!r} is no subclass of emphasis.baselines.Baseline")
    return found


def _run_file(where: str, text: str) -> ModuleType:
    """Return a file as a module, which is known by a name of its own: dataclasses and pickles look it up."""
    digest = hashlib.sha256(f"{Path(where).resolve()} {text}".encode()).hexdigest()
    name = f"{Path(where).stem}_{digest[:12]}"
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = where
    try:
        exec(compile(text, where, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _only_method(module: Any, name: str) -> type[Baseline]:
    """Return the one method that a file defines."""
    found = [
        value for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Baseline) and value.__module__ == module.__name__
    ]  # fmt: skip
    if len(found) != 1:
        raise EmphasisTypeError(f"{name}.py defines {len(found)} methods; a file of emphasis.baselines defines one")
    return found[0]
