"""Runs in the tracker that people already have: TensorBoard, MLflow or Trackio."""

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
    },
)
"""Classes of trackers by name, which is that of the extra and of the package as well."""
