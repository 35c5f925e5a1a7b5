"""An audit keeps the number of threads with which it began."""

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer

from emphasis.experiments.runs.context import SILENT, Reporter, RunContext
from emphasis.experiments.studies import audit as audits
from emphasis.experiments.studies import threads
from emphasis.experiments.studies.own_data import recipe_of
from emphasis.training.settings import Execution
from emphasis.weighting import DM


def test_an_audit_that_is_resumed_on_a_busier_machine_computes_the_same_bits(tmp_path, monkeypatch):
    class Interrupted(Reporter):
        """Interrupts an audit when the first of the networks that choose the learning rate is trained."""

        def finished(self, _job, _rows):
            raise KeyboardInterrupt

    load_breast_cancer(as_frame=True).frame.to_csv(tmp_path / "cancer.csv", index=False)
    recipe = recipe_of(str(tmp_path / "cancer.csv"), {"label": "target"})
    recipe = recipe.changed({"network.dropout": 0.1, "network.hidden": [64]})  # neither stacked nor on one thread
    context = RunContext(execution=Execution("cpu"))
    one_network, split = audits.audit_recipe(recipe, DM(), context, iterations=4)

    def audited(name, idle, reporter=SILENT):
        monkeypatch.setattr(threads, "idle_cores", lambda: idle)
        audits.audit(one_network, split, tmp_path / name, context, reporter)
        (results,) = (tmp_path / name / "cells").glob("*.npz")
        (line,) = (tmp_path / name / "results.jsonl").read_text().splitlines()
        with np.load(results) as arrays:
            return json.loads(line)["threads"], {key: arrays[key].tobytes() for key in arrays.files}

    number_before = torch.get_num_threads()
    try:
        undisturbed = audited("undisturbed", 2)
        with pytest.raises(KeyboardInterrupt):
            audited("resumed", 2, Interrupted())
        assert audited("resumed", 1) == undisturbed
    finally:
        torch.set_num_threads(number_before)
    assert undisturbed[0] == 2
