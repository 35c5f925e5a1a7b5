"""The lines of results: what every reader needs of one, checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

BINS = 20
"""Of the histogram of p that each line keeps."""

_LARGEST = 2**53  # up to which JSON's numbers are exact


def fault_of(row: Mapping[str, Any]) -> str:
    """Return what is wrong with a line, such as "it has no 'seed'"; "" if nothing that a reader needs is."""
    for name, (holds, kind) in _NEEDED.items():
        if name not in row:
            return f"it has no {name!r}"
        if not holds(row[name]):
            return f"{name!r} must be {kind}"
    for name, value in row.items():
        holds, kind = _SHARE if name.startswith(("best_", "final_")) else _OPTIONAL.get(name, _ANY)
        if not holds(value):
            return f"{name!r} must be {kind}"
    return ""


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _count(value: Any) -> bool:
    return _whole(value) and value > 0


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _share(value: Any) -> bool:
    """Whether it is a share, or null or NaN where a network has diverged."""
    return value is None or (_number(value) and value <= 1) or (isinstance(value, float) and math.isnan(value))


def _or_none(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


def _all(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _curves(value: Any) -> bool:
    if not isinstance(value, dict) or not {"iteration", *CURVES} <= value.keys():
        return False
    at = value["iteration"]
    if not _all(_whole)(at) or not at or sorted(set(at)) != at:
        return False
    others = [curve for name, curve in value.items() if name != "iteration"]
    return all(_all(_share)(curve) and len(curve) == len(at) for curve in others)


def _histogram(value: Any) -> bool:
    sides: list[Any] = [value.get(name) for name in ("clean", "noisy")] if isinstance(value, dict) else [None]
    return all(_all(_whole)(side) and len(side) == BINS for side in sides)


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


CURVES = ("test_accuracy", "fit_noisy", "fit_true", "p_clean", "p_noisy")
"""The curves that every line has."""

_Kind = tuple[Callable[[Any], bool], str]
_ANY: _Kind = (lambda _: True, "")
_TEXT: _Kind = (_text, "a text")
_WHOLE: _Kind = (_whole, "a whole number >= 0")
_COUNT: _Kind = (_count, "a whole number >= 1")
_NUMBER: _Kind = (_number, "a number >= 0")
_SHARE: _Kind = (_share, "a number in [0, 1], or null")
_NEEDED: dict[str, _Kind] = {
    **dict.fromkeys(("key", "condition", "method", "outcome", "device", "precision"), _TEXT),
    **dict.fromkeys(("seed", "n_train", "n_test", "threads"), _WHOLE),
    **dict.fromkeys(("num_classes", "networks_at_once"), _COUNT),
    **dict.fromkeys(("best_test_accuracy", "final_test_accuracy", "final_fit_noisy", "final_fit_true"), _SHARE),
    "seconds": _NUMBER,
    "diverged_at": (_or_none(_whole), "a whole number >= 0, or null"),
    "compiled": (lambda value: isinstance(value, bool), "true or false"),
    "revision": (_or_none(_text), "a text, or null"),
    "versions": (_texts, "an object of texts"),
    "curves": (_curves, f"an object of lists of one length: rising iterations, and shares {', '.join(CURVES)}"),
    "p_histogram": (_histogram, f"an object of two lists, clean and noisy, of {BINS} whole numbers"),
}
_OPTIONAL: dict[str, _Kind] = {
    "networks_trained": _COUNT,
    "true_labels_asked": _WHOLE,
    **dict.fromkeys(("passes", "surveys"), (_or_none(_number), "a number >= 0, or null")),
    "diverged_batch": (_or_none(_all(_whole)), "a list of whole numbers, or null"),
}
