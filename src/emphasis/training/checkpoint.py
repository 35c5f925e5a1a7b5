"""Checkpoints, which are written atomically, and rejected if they are damaged or belong to another run."""

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
from emphasis.training.sharding import gather_full, load_full

_FORMAT = 4


class CheckpointError(EmphasisError):
    """A checkpoint cannot be used; the message says why."""


def save_checkpoint(path: Path, state: State, fabric: Fabric, run: str, extra: dict[str, Any]) -> None:
    """Write `state` to `path`, atomically replacing an earlier checkpoint.

    The first rank writes the file. All ranks must call this if each has a shard of the state.

    Args:
        path: File to write.
        state: State to save.
        fabric: Fabric that trains the state; with mixed precision, its loss scale is saved as well.
        run: Identifier of the run, compared by `load_checkpoint`.
        extra: Further numbers and strings to save.
    """
    content = {
        "format": _FORMAT,
        "run": run,
        "extra": extra,
        "iteration": state.iteration,
        "module": gather_full(state.module.state_dict(), fabric.is_global_zero),
        "optimizer": gather_full(state.optimizer.state_dict(), fabric.is_global_zero),
        "precision": fabric.strategy.precision.state_dict(),
        "diverged_at": state.diverged_at,
        "evaluated_at": state.evaluated_at,
        "curves": state.curves,
        "trace": [torch.from_numpy(p) for p in state.trace],
        "predicted": [torch.from_numpy(row) for row in state.predicted],
        "broken": sorted(state.broken),
    }
    if fabric.is_global_zero:
        with (
            replacing(path) as partial,
            partial.open("wb") as file,
        ):  # torch leaves files open that it opened itself when the disk is full
            torch.save(content, file)


def load_checkpoint(path: Path, state: State, fabric: Fabric, run: str) -> dict[str, Any]:
    """Restore a checkpoint into `state`, which comes from `initial_state`, and return the checkpoint's `extra`.

    Raises:
        CheckpointError: The file is damaged, of another format or of another run; `state` is then unchanged.
        FileNotFoundError: The file does not exist.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not check the checksums
            bad = archive.testzip()
        if bad is not None:
            raise zipfile.BadZipFile(bad)
        content = torch.load(path, weights_only=True, map_location="cpu")  # optimizers keep their counters on the CPU
        identity = content["format"], content["run"]
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can raise any error in zip and pickle
        raise CheckpointError(f"{path} is damaged or cut short ({type(error).__name__})") from error
    if identity != (_FORMAT, run):
        raise CheckpointError(f"{path} belongs to another run or another version of emphasis")
    load_full(state.module, state.optimizer, content["module"], content["optimizer"])
    fabric.strategy.precision.load_state_dict(content["precision"])
    state.iteration = content["iteration"]
    state.diverged_at = content["diverged_at"].to(fabric.device)
    state.evaluated_at = content["evaluated_at"]
    state.curves = content["curves"]
    state.trace = [np.asarray(p) for p in content["trace"]]
    state.predicted = [np.asarray(row) for row in content["predicted"]]
    state.broken = set(content["broken"])
    extra: dict[str, Any] = content["extra"]
    return extra
