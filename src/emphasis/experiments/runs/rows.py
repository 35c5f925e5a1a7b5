"""The lines of results: the fields that readers rely on, checked before a line is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

BINS = 20
"""Number of bins of the histogram of p that each line holds."""

CURVES = ("test_accuracy", "fit_noisy", "fit_true", "p_clean", "p_noisy")
"""Curves that every line has."""

_LARGEST = 2**53  # whole numbers above this are not exact in JSON


def find_fault(row: Mapping[str, Any]) -> str:
    """Return what is wrong with a line, such as "it has no 'seed'", or "" if every required field is valid."""
    for name, (is_valid, description) in _REQUIRED.items():
        if name not in row:
            return f"it has no {name!r}"
        if not is_valid(row[name]):
            return f"{name!r} must be {description}"
    for name, value in row.items():
        is_valid, description = _FRACTION if name.startswith(("best_", "final_")) else _OPTIONAL.get(name, _ANY)
        if not is_valid(value):
            return f"{name!r} must be {description}"
    return ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < _LARGEST


def _is_fraction(value: Any) -> bool:
    """Return whether a value is in [0, 1], or null or NaN, as for networks that diverged."""
    return value is None or (_is_number(value) and value <= 1) or (isinstance(value, float) and math.isnan(value))


def _or_none(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_valid(value)


def _list_of(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_valid, value))


def _are_curves(value: Any) -> bool:
    if not isinstance(value, dict) or not {"iteration", *CURVES} <= value.keys():
        return False
    iterations = value["iteration"]
    if not _list_of(_is_whole)(iterations) or not iterations or sorted(set(iterations)) != iterations:
        return False
    curves = [curve for name, curve in value.items() if name != "iteration"]
    return all(_list_of(_is_fraction)(curve) and len(curve) == len(iterations) for curve in curves)


def _is_histogram(value: Any) -> bool:
    parts: list[Any] = [value.get(name) for name in ("clean", "noisy")] if isinstance(value, dict) else [None]
    return all(_list_of(_is_whole)(part) and len(part) == BINS for part in parts)


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


_Check = tuple[Callable[[Any], bool], str]  # whether a value is valid, and a description of valid values
_ANY: _Check = (lambda _: True, "")
_TEXT: _Check = (_is_text, "a text")
_WHOLE: _Check = (_is_whole, "a whole number >= 0")
_COUNT: _Check = (_is_count, "a whole number >= 1")
_NUMBER: _Check = (_is_number, "a number >= 0")
_FRACTION: _Check = (_is_fraction, "a number in [0, 1], or null")
_REQUIRED: dict[str, _Check] = {
    **dict.fromkeys(("key", "condition", "method", "outcome", "device", "precision"), _TEXT),
    **dict.fromkeys(("seed", "n_train", "n_test", "threads"), _WHOLE),
    **dict.fromkeys(("num_classes", "networks_at_once"), _COUNT),
    **dict.fromkeys(("best_test_accuracy", "final_test_accuracy", "final_fit_noisy", "final_fit_true"), _FRACTION),
    "seconds": _NUMBER,
    "diverged_at": (_or_none(_is_whole), "a whole number >= 0, or null"),
    "compiled": (lambda value: isinstance(value, bool), "true or false"),
    "revision": (_or_none(_is_text), "a text, or null"),
    "versions": (_are_texts, "an object of texts"),
    "curves": (
        _are_curves,
        f"an object of lists of equal length: rising iterations, and numbers in [0, 1] for {', '.join(CURVES)}",
    ),
    "p_histogram": (_is_histogram, f"an object of two lists, clean and noisy, of {BINS} whole numbers"),
}
_OPTIONAL: dict[str, _Check] = {
    "networks_trained": _COUNT,
    "true_labels_asked": _WHOLE,
    **dict.fromkeys(("passes", "surveys"), (_or_none(_is_number), "a number >= 0, or null")),
    "diverged_batch": (_or_none(_list_of(_is_whole)), "a list of whole numbers, or null"),
}
