"""Questions that take several runs: search, tune, audit, and recipes for your own data."""
