"""Reviewing suspect labels by hand: a local page, decisions on disk, how many errors remain, and labels out and in.

from emphasis.review import Decisions, review

review("runs/photos-audit")
labels, weights = Decisions.read("runs/photos-audit").apply(files, labels)
"""

from emphasis.review.decisions import Agreement, Decision, Decisions, Outcome

__all__ = ["Agreement", "Decision", "Decisions", "Outcome"]
