"""Options and labels of methods that are out of bounds, and mistyped names."""

import math
import re

import pytest
import torch

from emphasis.baselines import Problem, make

CLASSES = 5


def problem(labels=None, classes=CLASSES, **more):
    return Problem(torch.zeros(1, dtype=torch.int64) if labels is None else labels, classes, **more)


BAD = [
    ("label-smoothing", {"epsilon": 1.0}, "epsilon=1.0"),
    ("label-smoothing", {"epsilon": math.nan}, "epsilon=nan"),
    ("bootstrapping", {"beta": 0.0}, "beta=0.0"),
    ("forgetting", {"dropout": 1.0}, "dropout=1.0"),
    ("focal", {"gamma": -1.0}, "gamma"),
    ("active-passive", {"active": "CE"}, "active='CE'"),
    ("active-passive", {"passive": "GCE"}, "passive='GCE'"),
    ("active-passive", {"alpha": -1.0}, "alpha=-1.0"),
    ("loss-correction", {"warm": 1.0}, "warm=1.0"),
    ("self-paced", {"start": 0.9, "end": 0.5}, "end=0.5"),
    ("co-teaching", {"forget_rate": 1.0}, "forget_rate=1.0"),
    ("mentornet-pd", {"lambda2": -1.0}, "lambda2=-1.0"),
    ("mentornet-dd", {"updates": [0.7, 0.2]}, "updates"),
    ("mentornet-dd", {}, "annotate"),
    ("masking", {"structure": "ring"}, "structure='ring'"),
    ("masking", {"structure": [[1, 0], [0, 1]]}, "5 rows"),
    ("elr", {"beta": 1.0}, "beta=1.0"),
    ("aum", {"phase": 0.0}, "phase=0.0"),
    ("d2l", {"neighbours": 1}, "neighbours=1"),
    ("joint-optimization", {"window": 0}, "window=0"),
    ("mixup-bootstrapping", {"warm": 0.0}, "warm=0.0"),
    ("noise-adaptation", {"smallest": 0.5}, "smallest=0.5"),
    ("mentornet-dd", {"steps": 2.5}, "steps=2.5 is not allowed; use a whole number, 1 or more"),
    ("mixup-bootstrapping", {"iterations": 2.5}, "iterations=2.5"),
    ("d2l", {"neighbours": 5.0}, "neighbours=5.0 is not allowed; use a whole number, 2 to 127"),
    ("d2l", {"window": True}, "window=True"),
    ("bootstrapping", {"hard": "yes"}, "hard='yes' is not allowed; use true or false"),
    ("loss-correction", {"restart": 1}, "restart=1"),
    ("osm-caa", {"sigma": 0.0}, "sigma=0.0"),
    ("osm-caa", {"alpha": 2.5}, "alpha=2.5 is not allowed; use a number in (0, 2]"),
    ("osm-caa", {"lam": math.nan}, "lam=nan"),
    ("drsa", {}, "clip=1 is not allowed; use 2 or more (in a recipe, solver.clip"),
    ("drsa", {"attentions": 0}, "attentions=0 is not allowed; use a whole number, 1 or more"),
    ("drsa", {"width": 2.5}, "width=2.5"),
    ("drsa", {"lam": -1.0}, "lam=-1.0"),
    ("drsa", {"momentum": 1.0}, "momentum=1.0"),
    ("drsa", {"temperature": 0.0}, "temperature=0.0"),
    ("cae", {}, "clip=1 is not allowed; use 2 or more (in a recipe, solver.clip"),
    ("cae", {"width": 0}, "width=0 is not allowed; use a whole number, 1 or more"),
    ("cae", {"stride": 0.5}, "stride=0.5"),
    ("cae", {"top": 20}, "top=20 is not allowed; use a number in [0, 1]"),
    ("cae", {"lam": math.nan}, "lam=nan"),
    ("cae", {"negatives": -1.0}, "negatives=-1.0"),
    ("cae", {"momentum": 1.0}, "momentum=1.0"),
    ("cae", {"temperature": 0.0}, "temperature=0.0"),
]


@pytest.mark.parametrize(("name", "options", "said"), BAD, ids=str)
def test_what_is_out_of_bounds_is_named(name, options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        make(name, problem(), **options)


def test_misspelt_names_get_a_hint():
    with pytest.raises(ValueError, match="did you mean 'label-smoothing'"):
        make("label-smooting", problem())
    with pytest.raises(ValueError, match="did you mean 'epsilon'"):
        make("label-smoothing", problem(), epsilom=0.1)
    with pytest.raises(ValueError, match="needs the option 'forget_rate'"):
        make("co-teaching", problem())


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        (torch.tensor([0, 7]), 5, "from 0 to 7"),
        (torch.tensor([-1, 0]), 5, "from -1"),
        (torch.tensor([[0]]), 5, "shape"),
        (torch.tensor([0.0]), 5, "float32"),
        (torch.tensor([0]), 1, "num_classes=1"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels, classes, said):
    with pytest.raises(ValueError, match=said):
        Problem(labels, classes)
