"""The command `emphasis`."""
