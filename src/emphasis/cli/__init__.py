"""The command `emphasis`: one module per command, with its help, its options and its handler."""
