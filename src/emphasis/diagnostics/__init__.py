"""Diagnostics of the emphasis: traces of a training, suspects, and figures for files and for the terminal."""
