"""Experiments: recipes (TOML), the runner, the folder that a run writes, its table and its page."""
