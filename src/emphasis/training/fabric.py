"""Lightning Fabric on the devices given by the settings."""

from __future__ import annotations

import atexit
import inspect
import logging
import warnings
from typing import Any

import torch
from torch import nn

from emphasis.compatibility.fabric import DDPStrategy, Fabric, MisconfigurationException, ModelParallelStrategy
from emphasis.errors import EmphasisValueError
from emphasis.training.settings import Execution, number_of_ranks
from emphasis.training.sharding import sharded


def make_fabric(execution: Execution) -> Fabric:
    """Return Fabric on the devices; with several devices it starts further processes, or joins those of torchrun.

    Raises:
        ValueError: See `number_of_ranks`.
    """
    ranks = number_of_ranks(execution)
    strategy: Any = "auto"
    if ranks > 1 and execution.strategy == "fsdp":  # Fabric's strategy "fsdp" supports GPUs only
        strategy = ModelParallelStrategy(sharded, ranks, tensor_parallel_size=1)
    elif ranks > 1:  # buffers are computed identically on all ranks
        known = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
        sync_option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # PyTorch 2.13
        options: dict[str, Any] = {sync_option: False}
        strategy = DDPStrategy(**options)
    try:
        with warnings.catch_warnings():  # one process on the login node of a cluster is allowed
            warnings.filterwarnings("ignore", "The `srun` command is available")
            fabric = Fabric(
                accelerator=execution.accelerator,
                devices=execution.devices,
                num_nodes=ranks // execution.devices,
                precision=execution.precision,  # type: ignore[arg-type]
                strategy=strategy,
            )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        settings = (
            f"accelerator={execution.accelerator!r}, devices={execution.devices}, precision={execution.precision!r}"
        )
        raise EmphasisValueError(f"{settings} cannot be used here: {error}") from error
    if ranks > 1:
        logging.getLogger("lightning_fabric.utilities.distributed").setLevel(
            logging.WARNING
        )  # hides messages about joining processes
        try:
            fabric.launch()
        except BaseException:  # before all have joined, so processes started here would wait
            for process in getattr(fabric.strategy.launcher, "procs", ()):
                process.terminate()
            raise
        # Lightning handles NCCL only. If this does not suffice, the ranks of a command end by `process.end_if_rank`.
        atexit.register(_leave_process_group)
    return fabric


def _leave_process_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
