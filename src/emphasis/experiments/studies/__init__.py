"""Studies: what is done with many runs, such as a search for settings or an audit of labels."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emphasis.experiments.studies.audit_result import Audit
    from emphasis.experiments.studies.search import SearchResult, Trial
    from emphasis.experiments.studies.tuning_result import TuningResult

__all__ = ["Audit", "SearchResult", "Trial", "TuningResult"]

_MODULES = {"Audit": "audit_result", "SearchResult": "search", "Trial": "search", "TuningResult": "tuning_result"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pkgutil.resolve_name(f"{__name__}.{_MODULES[name]}:{name}")
