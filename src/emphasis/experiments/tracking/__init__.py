"""Runs in the tracker that people already have: TensorBoard, MLflow, Trackio or Weights & Biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emphasis.registry import Registry

if TYPE_CHECKING:
    from emphasis.experiments.tracking.base import MakeTracker

TRACKERS: Registry[MakeTracker] = Registry(
    "tracker",
    {
        "tensorboard": f"{__name__}.to_tensorboard:TensorBoardTracker",
        "mlflow": f"{__name__}.to_mlflow:MLflowTracker",
        "trackio": f"{__name__}.to_trackio:TrackioTracker",
        "wandb": f"{__name__}.to_wandb:WandbTracker",
    },
)
"""Classes of trackers by name, which is that of the extra and of the package as well."""
