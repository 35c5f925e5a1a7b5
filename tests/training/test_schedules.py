"""Weightings that change during training: a constant one is none, and a checkpoint goes on mid-schedule."""

import contextlib
import dataclasses
import json

import numpy as np
import pytest
import torch

from emphasis.experiments.recipes.convert import RecipeError, build_objective
from emphasis.experiments.recipes.load import recipe_digest, recipe_from_tables, recipe_to_tables
from emphasis.experiments.recipes.settings import objective_as_dict
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.jobs import make_jobs
from emphasis.experiments.runs.runner import run
from emphasis.models.stacked import StackedMLP
from emphasis.torch import EmphasisLoss, emphasis_loss
from emphasis.training.checkpoint import load_checkpoint, save_checkpoint
from emphasis.training.loop import initial_state, train
from emphasis.training.settings import Execution, Objective, Solver
from emphasis.training.task import Task
from emphasis.weighting import DM, Measured, Ramp, scheduled

CPU = Execution(accelerator="cpu")
SOLVER = Solver(iterations=60, batch_size=16, learning_rate=0.1, momentum=0.9)
BASE = Objective(DM(lam=0.5, beta=4, vanishing=True), "integral")


def with_schedule(**schedule):
    return dataclasses.replace(BASE, schedule=schedule)


def task_of(noise=0.3, n=240, seeds=1):
    generator = torch.Generator().manual_seed(0)
    true = torch.randint(3, (n,), generator=generator)
    inputs = torch.randn(n, 5, generator=generator) + 2.5 * torch.eye(3, 5)[true]
    labels = torch.where(
        torch.rand(seeds, n, generator=generator) < noise,
        (true + torch.randint(1, 3, (seeds, n), generator=generator)) % 3,
        true,
    )
    return Task(inputs, labels, true, inputs, true, 3)


def trained(fabric, objectives, task=None, seeds=(0,), **how):
    state = initial_state(StackedMLP([5, 8, 3], list(seeds), len(objectives)), SOLVER, fabric, CPU)
    train(state, task or task_of(seeds=len(seeds)), objectives, list(seeds), SOLVER, fabric, evaluate_every=10, **how)
    return state


def parameters(state):
    return torch.cat([value.flatten(1) for value in state.module.parameters()], 1)


def test_a_constant_schedule_is_bit_identical_to_none(fabric):
    constant = [
        with_schedule(lam=Ramp(0.5), beta=Ramp(4, 4, "cosine")),
        with_schedule(beta=Ramp(4, shape="constant")),
    ]
    plain = trained(fabric, [BASE, BASE])
    assert torch.equal(parameters(trained(fabric, constant)), parameters(plain))


def test_a_ramp_changes_the_training_and_ends_apart(fabric):
    plain, ramped = trained(fabric, [BASE]), trained(fabric, [with_schedule(lam=Ramp(2, 0.5))])
    assert not torch.allclose(parameters(ramped), parameters(plain), atol=1e-3)


def test_each_step_has_the_weighting_of_its_progress(fabric):
    """The loop with a schedule equals one's own loop that sets the criterion's weighting before each step."""
    from emphasis.training.batches import Batches
    from emphasis.training.optimizers import apply_schedule, make_optimizer

    schedule = {"lam": Ramp(0, 1, "cosine"), "beta": Ramp(2, 8)}
    task = task_of()
    state = trained(fabric, [with_schedule(**schedule)], task)
    module = StackedMLP([5, 8, 3], [0], 1)
    optimizer = make_optimizer(module.parameters(), SOLVER)
    criterion = EmphasisLoss(BASE.weighting)
    batches = Batches([0], task.num_train, SOLVER.batch_size, torch.device("cpu"))
    for step in range(SOLVER.iterations):
        criterion.weighting = scheduled(BASE.weighting, schedule, step / SOLVER.iterations)
        places = batches.indices(step)[0]
        apply_schedule(optimizer, SOLVER, step)
        optimizer.zero_grad()
        criterion(module(task.inputs[places].unsqueeze(0))[0], task.labels[0][places]).backward()
        optimizer.step()
    expected = torch.cat([value.flatten(1) for value in module.parameters()], 1)
    torch.testing.assert_close(parameters(state), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", [{"lam": Ramp(0, 2), "beta": Ramp(2, 8, "cosine")}, {"lam": Measured(0.25)}])
def test_a_checkpoint_goes_on_mid_schedule_bit_for_bit(tmp_path, fabric, schedule):
    objectives, task = [with_schedule(**schedule), BASE], task_of()
    whole = trained(fabric, objectives, task)

    class KilledError(Exception):
        pass

    def kill(state):
        if state.iteration == 37:
            save_checkpoint(tmp_path / "c.pt", state, fabric, "run", {})
            raise KilledError

    with pytest.raises(KilledError):
        trained(fabric, objectives, task, after_step=kill)
    second = initial_state(StackedMLP([5, 8, 3], [0], 2), SOLVER, fabric, CPU)
    load_checkpoint(tmp_path / "c.pt", second, fabric, "run")
    train(second, task, objectives, [0], SOLVER, fabric, evaluate_every=10)
    assert torch.equal(parameters(second), parameters(whole))
    assert second.curves == whole.curves


def test_the_measured_rate_is_the_share_of_labels_contradicted_at_the_last_look(fabric):
    """From the first look on, training equals that with lam set by hand."""
    task = task_of(noise=0.4)
    measured = trained(fabric, [with_schedule(lam=Measured(0.5))], task)
    seen = [1 - one[0] for one in measured.curves["fit_noisy"]]
    assert seen[-1] == pytest.approx(0.4, abs=0.06)
    by_hand = initial_state(StackedMLP([5, 8, 3], [0], 1), SOLVER, fabric, CPU)
    for look in range(6):
        rate = seen[look] if look else None
        lam = scheduled(BASE.weighting, {"lam": Measured(0.5)}, 0.0, rate).lam
        some = dataclasses.replace(BASE, weighting=dataclasses.replace(BASE.weighting, lam=lam))

        class StopError(Exception):
            pass

        def stop(state, until=10 * (look + 1)):
            if state.iteration == until:
                raise StopError

        with contextlib.suppress(StopError):
            train(by_hand, task, [some], [0], SOLVER, fabric, evaluate_every=10, after_step=stop)
    assert torch.equal(parameters(by_hand), parameters(measured))


TABLES = {
    "name": "tiny",
    "title": "t",
    "question": "q",
    "source": "s",
    "cost": "c",
    "choices": "c",
    "baseline": "plain",
    "seeds": 2,
    "dataset": {"name": "digits"},
    "noise": {"kind": "symmetric", "rate": 0.4},
    "network": {"name": "mlp", "hidden": [8]},
    "solver": {"iterations": 30, "batch_size": 64, "learning_rate": 0.1},
    "evaluation": {"every": 10},
    "methods": [
        {"name": "plain", "weighting": {"family": "DM", "lam": 0.5, "beta": 4}},
        {
            "name": "ramp",
            "weighting": {"family": "DM", "lam": 0.5, "beta": 4},
            "schedule": {"lam": {"start": 0, "end": 1}},
        },
        {
            "name": "measured",
            "weighting": {"family": "DM", "lam": 0.5, "beta": 4},
            "schedule": {"lam": {"measured": True, "start": 0.5}},
        },
    ],
}


def test_a_recipe_takes_schedules_and_says_them_again(tmp_path):
    recipe = recipe_from_tables(TABLES)
    again = recipe_from_tables(json.loads(json.dumps(recipe_to_tables(recipe))))
    assert recipe_digest(again) == recipe_digest(recipe)
    cells = list(recipe.cells())
    assert len({cell.key for cell in cells}) == 6
    assert "schedule" not in objective_as_dict(cells[0].objective)  # so that keys of earlier results stay
    assert objective_as_dict(cells[2].objective)["schedule"] == {"lam": {"start": 0, "end": 1, "shape": "linear"}}
    jobs = make_jobs(cells)
    assert sorted((len(job.cells), job.seeds) for job in jobs) == [(1, (0,)), (1, (1,)), (4, (0, 1))]
    rows = run(recipe, tmp_path / "run", RunContext(threads=1))
    assert len(rows) == 6
    finals = {(row["method"], row["seed"]): row["curves"]["p_clean"][-1] for row in rows}
    assert len(set(finals.values())) == 6
    from emphasis.experiments.reports.report import read_summary, render

    page = render(read_summary(tmp_path / "run"), "html")
    assert "lam: Ramp(start=0, end=1" in page
    assert "lam: Measured(start=0.5)" in page


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"weighting": {"family": "DM"}, "schedule": 3}, "schedule must be a table"),
        ({"weighting": {"family": "DM"}, "schedule": {"lam": {"start": -1}}}, "lam"),
        ({"weighting": {"family": "CCE"}, "schedule": {"lam": {"start": 1}}}, "has no parameter 'lam'"),
        ({"training": {"name": "elr"}, "schedule": {"lam": {"start": 1}}}, "'training' has none"),
        ({"training": {"name": "elr"}, "arithmetic": "float32-published"}, "'arithmetic' belongs to a 'weighting'"),
        ({"training": {"name": "elr"}, "normalization": "batch"}, "'normalization' belongs to a 'weighting'"),
        ({"training": {"name": "elr"}, "max_margin": 16.6}, "'max_margin' belongs to a 'weighting'"),
        ({"weighting": {"family": "DM"}, "schedule": {"beta": {"measured": True}}}, "beta cannot follow"),
        ({"weighting": {"family": "DM", "vanishing": True}, "schedule": {"beta": {"start": 4, "end": -1}}}, "beta"),
    ],
)
def test_a_schedule_that_cannot_be_is_an_error_before_training(table, said):
    with pytest.raises(RecipeError, match=said):
        build_objective(table, "here")


def test_a_criterion_whose_weighting_is_set_is_that_of_the_new_weighting():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6) % 4
    criterion = EmphasisLoss(DM(lam=0.5, beta=4), normalization="batch", max_margin=3.0)
    criterion.weighting = DM(lam=1, beta=6)
    expected = emphasis_loss(logits, labels, DM(lam=1, beta=6), normalization="batch", max_margin=3.0)
    assert torch.equal(criterion(logits, labels), expected)
    assert repr(criterion.weighting) == "DM(lam=1.0, beta=6.0)"
    compiled = torch.compile(criterion, backend="eager")
    np.testing.assert_allclose(float(compiled(logits, labels)), float(expected), rtol=1e-6)
    criterion.weighting = DM(lam=0, beta=1)
    again = emphasis_loss(logits, labels, DM(lam=0, beta=1), normalization="batch", max_margin=3.0)
    np.testing.assert_allclose(float(compiled(logits, labels)), float(again), rtol=1e-6)
