"""The folder of a run: who owns it, its results as JSON Lines, and its probabilities. Every file appears whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.files import replacing, write_text

Row = dict[str, Any]

RUN, RESULTS, PROBABILITIES, CHECKPOINT = "run.json", "results.jsonl", "probabilities.npz", "checkpoint.pt"
CURVES_PNG, EMPHASIS_PNG, REPORT = "curves.png", "emphasis.png", "report.html"
_OWN = (RUN, RESULTS, PROBABILITIES, CHECKPOINT, CURVES_PNG, EMPHASIS_PNG, REPORT)


class FolderError(Exception):
    """A folder that this run must not write to; the message names the cure."""


@dataclass(frozen=True, eq=False)
class Probabilities:
    """What the networks said about their training labels at the end.

    Attributes:
        p: (S, N) float32, probability of the label trained on; NaN for diverged networks.
        noisy: (K, N) bool, whether that label is wrong, for each seed.
    """

    p: NDArray[np.float32]
    noisy: NDArray[np.bool_]


def claim(folder: Path, config: dict[str, Any], config_hash: str, force: bool) -> None:
    """Make `folder` this run's, or raise FolderError if it is another's; `force` removes an earlier run's files."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / RUN
    if owner.exists():
        earlier = _read_owner(owner)
        if force:
            for name in _OWN:
                (folder / name).unlink(missing_ok=True)
        elif earlier.get("config_hash") != config_hash:
            raise FolderError(
                f"{folder} holds another run ({_difference(earlier.get('config', {}), config)}); choose another --out, "
                "or --force to replace it"
            )
        else:
            return
    elif any(folder.iterdir()):
        raise FolderError(f"{folder} is not empty and holds no run of emphasis; choose another --out")
    write_text(owner, json.dumps({"config_hash": config_hash, "config": config}, indent=1) + "\n")


def _read_owner(path: Path) -> dict[str, Any]:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        owner = None
    return owner if isinstance(owner, dict) else {}


def _difference(old: Any, new: Any, name: str = "") -> str:
    """Return the first setting that differs, such as "noise.rate is 0.4 there and 0.2 here"."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    if isinstance(old, (dict, list)) or isinstance(new, (dict, list)) or not name:
        return f"{name or 'its settings'} differ"
    return f"{name} is {old!r} there and {new!r} here"


def write_results(folder: Path, rows: list[Row], probabilities: Probabilities) -> None:
    """Write the results; the rows come last, since their presence says that the run is complete."""
    with replacing(folder / PROBABILITIES) as partial:
        np.savez_compressed(partial, p=probabilities.p, noisy=probabilities.noisy)
    lines = [json.dumps(_without_nan(row), ensure_ascii=False, allow_nan=False) for row in rows]
    write_text(folder / RESULTS, "\n".join(lines) + "\n")
    (folder / CHECKPOINT).unlink(missing_ok=True)


def read_results(folder: Path) -> tuple[list[Row], Probabilities] | None:
    """Return what `write_results` wrote, None where there is nothing yet."""
    path = folder / RESULTS
    if not path.exists():
        return None
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        with np.load(folder / PROBABILITIES) as arrays:
            return rows, Probabilities(arrays["p"], arrays["noisy"])
    except (OSError, ValueError, KeyError) as error:
        raise FolderError(f"the results in {folder} cannot be read ({error}); use --force to run again") from error


def _without_nan(value: Any) -> Any:
    """Return `value` with None for NaN and infinity, which JSON has no words for."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
