import dataclasses
import math

import numpy as np
import pytest
import torch

from emphasis.experiments.recipe import load_recipe
from emphasis.experiments.runner import make_task
from emphasis.metrics import outcome
from emphasis.training.batches import batch_indices
from emphasis.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from emphasis.training.loop import Task, initial_state, label_probabilities, train
from emphasis.training.settings import Objective, Solver
from emphasis.weighting import CCE, DM, Beta

PUBLISHED = DM(lam=0.5, beta=12)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_push_that_never_ends_and_its_two_cures_on_clean_digits():
    """The bare formula collapses without any label noise; max_margin and vanishing=True do not."""
    objectives = [
        Objective(CCE()),
        Objective(PUBLISHED, "batch", None),
        Objective(PUBLISHED, "integral", 16.6),
        Objective(DM(lam=0.5, beta=12, vanishing=True), "integral"),
    ]
    seeds = [0, 1]
    task, _ = make_task(load_recipe("digits").changed(seeds=2, noise_rate=0.0))
    solver = Solver(iterations=700, batch_size=128, learning_rate=0.1, momentum=0.9)
    state = initial_state([64, 48, 48, 10], seeds, len(objectives), solver)
    train(state, task, objectives, seeds, solver, evaluate_every=50)

    accuracies = np.array(state.curves["test_accuracy"])
    shares = np.array(state.curves["largest_share"])
    outcomes = [outcome(accuracies[:, n], shares[:, n], 10, 500) for n in range(accuracies.shape[1])]
    assert outcomes[2:4] == ["collapsed"] * 2, accuracies[-1]
    assert outcomes[:2] + outcomes[4:] == ["learned"] * 6, accuracies[-1]
    assert (accuracies[-1, [0, 1, 4, 5, 6, 7]] > 0.93).all(), accuracies[-1]
    assert all(math.isnan(value) for value in state.curves["p_noisy"][-1])  # there is no noisy example


def _tiny_task():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(40, 5, generator=generator)
    labels = torch.randint(3, (2, 40), generator=generator)
    return Task(inputs, labels, labels[0], inputs, labels[0], 3)


SOLVER = Solver(iterations=12, batch_size=8, learning_rate=0.1, momentum=0.9)
OBJECTIVES = [Objective(CCE()), Objective(PUBLISHED, "batch", 16.6)]


def _fresh():
    return initial_state([5, 6, 3], [0, 1], 2, SOLVER)


def test_a_network_that_blows_up_is_named_and_leaves_the_others_alone():
    task = _tiny_task()
    alone, broken = _fresh(), _fresh()
    broken.parameters[0].data[2] = math.inf
    for state in (alone, broken):
        train(state, task, OBJECTIVES, [0, 1], SOLVER, 5)
    assert broken.diverged_at.tolist() == [-1, -1, 0, -1]
    curve = np.array(broken.curves["test_accuracy"])
    assert np.isnan(curve[:, 2]).all()
    others = [0, 1, 3]
    assert np.array_equal(curve[:, others], np.array(alone.curves["test_accuracy"])[:, others])
    assert np.isnan(label_probabilities(broken, task)[2]).all()
    assert all(torch.equal(a[others], b[others]) for a, b in zip(alone.parameters, broken.parameters, strict=True))


def test_a_checkpoint_resumes_bit_for_bit(tmp_path):
    task, whole, first, second = _tiny_task(), _fresh(), _fresh(), _fresh()
    train(whole, task, OBJECTIVES, [0, 1], SOLVER, 5)
    train(first, task, OBJECTIVES, [0, 1], dataclasses.replace(SOLVER, iterations=7), 100)
    first.curves, first.evaluated_at = {k: v[:1] for k, v in first.curves.items()}, [0]
    # What a run with evaluations at 5 would hold at 7: its second point comes from the whole run.
    for name, curve in first.curves.items():
        curve.append(whole.curves[name][1])
    first.evaluated_at.append(5)
    save_checkpoint(tmp_path / "c.pt", first, "run", {"seconds": 1.5})
    assert load_checkpoint(tmp_path / "c.pt", second, "run") == {"seconds": 1.5}
    train(second, task, OBJECTIVES, [0, 1], SOLVER, 5)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))
    np.testing.assert_equal(second.curves, whole.curves)  # NaN equals NaN here
    assert second.evaluated_at == whole.evaluated_at == [0, 5, 10, 12]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_checkpoint_cut_short_is_refused(tmp_path, kept):
    path = tmp_path / "c.pt"
    save_checkpoint(path, _fresh(), "run", {})
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_checkpoint(path, _fresh(), "run")


def test_another_runs_checkpoint_is_refused(tmp_path):
    save_checkpoint(tmp_path / "c.pt", _fresh(), "run", {})
    with pytest.raises(CheckpointError, match="another run"):
        load_checkpoint(tmp_path / "c.pt", _fresh(), "other")
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.pt", _fresh(), "run")


def test_batches_cover_an_epoch_without_repetition_and_depend_on_seed_and_iteration_alone():
    epoch = np.concatenate([batch_indices([7, 8], i, 20, 6) for i in range(3)], axis=1)
    assert epoch.shape == (2, 18)
    assert all(len(set(row)) == 18 for row in epoch.tolist())
    assert np.array_equal(batch_indices([8], 1, 20, 6)[0], epoch[1, 6:12])
    assert not np.array_equal(batch_indices([7], 0, 20, 6), batch_indices([7], 3, 20, 6))
    with pytest.raises(ValueError, match="use a smaller one"):
        batch_indices([0], 0, 5, 6)


@pytest.mark.parametrize("changes", [{"iterations": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"momentum": 1.0}])
def test_solver_settings_are_checked(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        dataclasses.replace(SOLVER, **changes)


def test_objective_settings_are_checked():
    with pytest.raises(ValueError, match="normalization"):
        Objective(CCE(), "sum")
    with pytest.raises(ValueError, match="max_margin"):
        Objective(CCE(), max_margin="never")
    with pytest.raises(ValueError, match="infinite integral"):
        Objective(Beta(alpha=0, eta=2), "integral")
