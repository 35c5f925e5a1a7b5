"""What an experiment is asked to do: recipes, their settings, and the TOML files of the paper's experiments."""
