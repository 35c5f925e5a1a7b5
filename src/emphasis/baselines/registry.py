"""Methods by name: those of this package, and those in files of your own."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from emphasis.errors import EmphasisValueError
from emphasis.registry import REQUIRED, Registry, check_option_names, keyword_options

if TYPE_CHECKING:
    from emphasis.baselines.protocol import Baseline, Problem

METHODS: Registry[type[Baseline]] = Registry(
    "method",
    {
        name: f"emphasis.baselines.{path}"
        for name, path in {
            "active-passive": "active_passive:ActivePassive",
            "aum": "aum:AUM",
            "bootstrapping": "bootstrapping:Bootstrapping",
            "cae": "cae:CAE",
            "co-teaching": "co_teaching:CoTeaching",
            "d2l": "d2l:D2L",
            "divide-mix": "divide_mix:DivideMix",
            "drsa": "drsa:DRSA",
            "elr": "elr:ELR",
            "epsilon-softmax": "epsilon_softmax:EpsilonSoftmax",
            "focal": "focal:Focal",
            "forgetting": "forgetting:Forgetting",
            "gradient-clipping": "gradient_clipping:GradientClipping",
            "joint-optimization": "joint_optimization:JointOptimization",
            "label-smoothing": "label_smoothing:LabelSmoothing",
            "logit-clipping": "logit_clipping:LogitClipping",
            "loss-correction": "loss_correction:LossCorrection",
            "masking": "masking:Masking",
            "mentornet-dd": "mentornet_dd:MentorNetDD",
            "mentornet-pd": "mentornet_pd:MentorNetPD",
            "mixup-bootstrapping": "mixup_bootstrapping:MixupBootstrapping",
            "noise-adaptation": "noise_adaptation:NoiseAdaptation",
            "osm-caa": "osm_caa:OSMCAA",
            "pes": "pes:PES",
            "self-label-correction": "self_label_correction:SelfLabelCorrection",
            "self-paced": "self_paced:SelfPaced",
            "sop": "sop:SOP",
            "symmetric-cross-entropy": "symmetric_cross_entropy:SymmetricCrossEntropy",
            "vol-min-net": "vol_min_net:VolMinNet",
        }.items()
    },
    otherwise=", or one of your own as FILE.py:CLASS",
)
"""The methods of this package; the names are those that recipes use."""


def names() -> list[str]:
    """Return the names of the methods that come with the package."""
    return list(METHODS)


def find(name: str) -> type[Baseline]:
    """Return the class of a method.

    Args:
        name: Name of a method, from `names()`; or "FILE.py:CLASS" or "module:CLASS" for a method of your own.

    Raises:
        ValueError: The method does not exist, or its file cannot be read; the message says which.
    """
    return _own_method(name, _source_text(name)) if ":" in name else METHODS.find(name)


def source_of(name: str) -> str:
    """Return the text of the file that defines a method of your own; "" for the methods of the package.

    Raises:
        ValueError: The name is unknown.
    """
    if ":" not in name:
        return ""
    method = find(name)
    return _source_text(name) or inspect.getsource(importlib.import_module(method.__module__))


def _source_text(name: str) -> str:
    """Return the text of the file that "FILE.py:CLASS" names; "" for "module:CLASS"."""
    path = name.rpartition(":")[0]
    if not path.endswith(".py"):
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise EmphasisValueError(f"method {name!r} cannot be read: {error}; paths count from {Path.cwd()}") from error


def options_of(name: str) -> dict[str, Any]:
    """Return the hyperparameters of a method and their defaults; `...` for those without one.

    Raises:
        ValueError: The name is unknown.
    """
    return keyword_options(find(name))


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Check a method's name and the names of its options; a method of this package is not imported for it.

    Raises:
        ValueError: A name is unknown, or an option is missing; the message lists those that are known.
    """
    if ":" in name:
        defaults = options_of(name)
        check_option_names(name, options, {option: default is REQUIRED for option, default in defaults.items()})
    else:
        METHODS.check_options(name, options)


def make(name: str, problem: Problem, **options: Any) -> Baseline:
    """Return a method for a problem.

    Args:
        name: Name of the method, see `find`.
        problem: The labels to train on.
        **options: Hyperparameters; docs/baselines.md has the sources of their defaults.

    Raises:
        ValueError: The name or an option is unknown, missing or not allowed; the message says what to use.
    """
    check_options(name, options)
    return find(name)(problem, **options)


@lru_cache(maxsize=32)
def _own_method(name: str, text: str) -> type[Baseline]:
    """Return the class for a name such as "FILE.py:CLASS"; a file is run again if its `text` has changed."""
    from emphasis.baselines.protocol import Baseline

    path, _, attribute = name.rpartition(":")
    try:
        method = getattr(_run_file(path, text) if text else importlib.import_module(path), attribute)
    except Exception as error:  # a file of the user may raise anything
        raise EmphasisValueError(f"method {name!r} cannot be read: {type(error).__name__}: {error}") from error
    if not (inspect.isclass(method) and issubclass(method, Baseline)):
        raise EmphasisValueError(f"method {name!r} is not a subclass of emphasis.baselines.Baseline")
    return method


def _run_file(path: str, text: str) -> ModuleType:
    """Run a file as a module with a unique name in `sys.modules`, where dataclasses and pickles look it up."""
    digest = hashlib.sha256(f"{Path(path).resolve()} {text}".encode()).hexdigest()
    name = f"{Path(path).stem}_{digest[:12]}"
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = path
    try:
        exec(compile(text, path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module
