"""Runs: the jobs of a recipe, the processes that train them, and the folder that stores their results."""

from emphasis.experiments.runs.context import Reporter, RunContext

__all__ = ["Reporter", "RunContext"]
