"""The methods that derivative manipulation is compared with, one file each, and one protocol.

from emphasis.baselines import Learner, Problem, make

learner = Learner(make("elr", Problem(labels, num_classes=10)), network)
loss = learner.loss(inputs, indices, progress)
"""

from emphasis.baselines.learner import Learner
from emphasis.baselines.protocol import Baseline, Epoch, Problem, Step, Survey
from emphasis.baselines.registry import check_options, find, make, names, options_of, source_of, view

__all__ = [
    "Baseline",
    "Epoch",
    "Learner",
    "Problem",
    "Step",
    "Survey",
    "check_options",
    "find",
    "make",
    "names",
    "options_of",
    "source_of",
    "view",
]
