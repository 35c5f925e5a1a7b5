"""Runs in the tracker that people already have: TensorBoard, MLflow or Trackio."""
