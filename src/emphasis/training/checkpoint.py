"""Checkpoints: written whole or not at all, and refused when damaged or when they belong to another run."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emphasis.compatibility.fabric import Fabric
from emphasis.errors import EmphasisError
from emphasis.files import replacing
from emphasis.training.loop import State
from emphasis.training.sharding import load_whole, whole

_FORMAT = 4


class CheckpointError(EmphasisError):
    """A checkpoint that cannot be used; the message says why."""


def save_checkpoint(path: Path, state: State, fabric: Fabric, run: str, extra: dict[str, Any]) -> None:
    """Write `state` to `path`, replacing what was there in one move, so that a kill leaves the old or the new.

    The first rank writes. Where each has a shard of the state, all must call this.

    Args:
        path: The file.
        state: To be kept.
        fabric: The one that trains it; mixed precision has a loss scale to keep.
        run: Identifies the run; `load_checkpoint` compares it.
        extra: Numbers and strings to keep beside it.
    """
    content = {
        "format": _FORMAT,
        "run": run,
        "extra": extra,
        "iteration": state.iteration,
        "module": whole(state.module.state_dict(), fabric.is_global_zero),
        "optimizer": whole(state.optimizer.state_dict(), fabric.is_global_zero),
        "precision": fabric.strategy.precision.state_dict(),
        "diverged_at": state.diverged_at,
        "evaluated_at": state.evaluated_at,
        "curves": state.curves,
        "trace": [torch.from_numpy(p) for p in state.trace],
        "predicted": [torch.from_numpy(one) for one in state.predicted],
        "broken": sorted(state.broken),
    }
    if fabric.is_global_zero:
        with replacing(path) as partial, partial.open("wb") as file:  # torch leaves its own open when the disk is full
            torch.save(content, file)


def load_checkpoint(path: Path, state: State, fabric: Fabric, run: str) -> dict[str, Any]:
    """Bring `state`, fresh from `initial_state`, to where the checkpoint was; return its `extra`.

    Raises:
        CheckpointError: The file is damaged, of another format or of another run; `state` is then unchanged.
        FileNotFoundError: There is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
            bad = archive.testzip()
        if bad is not None:
            raise zipfile.BadZipFile(bad)
        content = torch.load(path, weights_only=True, map_location="cpu")  # optimisers keep their counters there
        found = content["format"], content["run"]
    except FileNotFoundError:
        raise
    except Exception as error:  # what a damaged file raises on its way through zip and pickle cannot be foretold
        raise CheckpointError(f"{path} is damaged or cut short ({type(error).__name__})") from error
    if found != (_FORMAT, run):
        raise CheckpointError(f"{path} belongs to another run or another version of emphasis")
    load_whole(state.module, state.optimizer, content["module"], content["optimizer"])
    fabric.strategy.precision.load_state_dict(content["precision"])
    state.iteration = content["iteration"]
    state.diverged_at = content["diverged_at"].to(fabric.device)
    state.evaluated_at = content["evaluated_at"]
    state.curves = content["curves"]
    state.trace = [np.asarray(p) for p in content["trace"]]
    state.predicted = [np.asarray(one) for one in content["predicted"]]
    state.broken = set(content["broken"])
    extra: dict[str, Any] = content["extra"]
    return extra
