"""Training with the methods of emphasis.baselines: checkpoints resume bit for bit, failures are noticed."""

from dataclasses import replace

import pytest
import torch

from controls import share_of_the_way
from emphasis.baselines import Learner, Problem, find, make, names
from emphasis.baselines.video import VideoMethod
from emphasis.models import build
from emphasis.training.checkpoint import load_checkpoint, save_checkpoint
from emphasis.training.loop import initial_state, train
from emphasis.training.methods import LearnerStack, passes
from emphasis.training.settings import ClipSolver, Execution, Schedule, Solver
from emphasis.training.videos import VideoTask

CPU = Execution(accelerator="cpu")
N, C, BATCH, ITERATIONS = 96, 3, 16, 60  # 6 steps an epoch, 10 epochs
NAMES = [name for name in names() if "feature_maps" not in find(name).needs]  # vectors have none
SOLVER = Solver(ITERATIONS, BATCH, 0.1, momentum=0.9, weight_decay=1e-3, schedule=Schedule("step", at=(40,)))
CLIPS = {"cae": 2}  # frames of a video, for methods that need them
OPTIONS = {
    "cae": {"width": 8},
    "co-teaching": {"forget_rate": 0.3},
    "d2l": {"window": 2, "neighbours": 8},
    "divide-mix": {"lambda_u": 0.0},  # 25, for much noise, keeps a network this small at chance
    "joint-optimization": {"window": 3},
    "loss-correction": {"backward": True},
    "mentornet-dd": {"share": 0.3, "steps": 20},
    "mentornet-pd": {"burn_in": 0.3},
    "pes": {"refine": 0.1},  # 0.035, of 20 epochs, is too short for a new layer to predict every class
}


@pytest.fixture(scope="module")
def task():
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(N) // 2 % C
    inputs = torch.randn(N, 4, generator=generator) + 4.0 * torch.nn.functional.one_hot(true, 4)
    labels = torch.where(torch.rand(N, generator=generator) < 0.15, (true + 1) % C, true)
    return VideoTask(inputs, labels[None], true, inputs, true, C, videos=torch.arange(N) // 2)


def fresh(name, task, fabric, solver=SOLVER, **more):
    true = task.true_labels
    problem = Problem(task.labels[0], C, 0, lambda rows: true[rows], CLIPS.get(name, 1))
    method = make(name, problem, **{**OPTIONS.get(name, {}), **more})
    nets = [build("mlp", (4,), C + method.extra_outputs, seed=s, hidden=[8]) for s in range(method.networks)]
    return initial_state(LearnerStack(Learner(method, *nets)), solver, fabric, CPU)


def go(state, task, fabric, solver=SOLVER, **more):
    method = state.module.network.method
    solver = ClipSolver(**vars(solver), clip=method.clip if isinstance(method, VideoMethod) else 1)
    train(state, task, [], [0], solver, fabric, evaluate_every=10, **more)


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stop", [29, 36])  # within an epoch, and where one begins
def test_a_checkpoint_resumes_bit_for_bit(tmp_path, task, fabric, name, stop):
    whole = fresh(name, task, fabric)
    go(whole, task, fabric)

    broken = fresh(name, task, fabric)

    def after(state):
        if state.iteration == stop:
            save_checkpoint(tmp_path / "run.pt", state, fabric, name, {})
            raise _StoppedError

    with pytest.raises(_StoppedError):
        go(broken, task, fabric, after_step=after)
    resumed = fresh(name, task, fabric)
    load_checkpoint(tmp_path / "run.pt", resumed, fabric, name)
    go(resumed, task, fabric)
    assert resumed.curves == whole.curves
    for (key, one), other in zip(whole.module.state_dict().items(), resumed.module.state_dict().values(), strict=True):
        assert torch.equal(one, other) or (one.isnan().all() and other.isnan().all()), key


@pytest.mark.parametrize("name", NAMES)
def test_every_method_learns_and_says_what_it_took(task, fabric, name):
    rate = 0.01 if name == "cae" else SOLVER.learning_rate  # its derivatives are large
    solver = replace(SOLVER, iterations=2 * ITERATIONS, learning_rate=rate, schedule=Schedule("step", at=(80,)))
    state = fresh(name, task, fabric, solver)
    before = torch.random.get_rng_state()
    go(state, task, fabric, solver)
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's random numbers are the caller's
    assert state.iteration == 2 * ITERATIONS
    assert share_of_the_way(state.curves["test_accuracy"][-1][0], 1 / C) > 0.5
    learner = state.module.network
    took = passes(learner, state.iteration, BATCH, N)
    assert took["networks_trained"] == learner.method.networks
    assert took["passes"] == 20.0 * learner.method.networks
    # DivideMix evaluates every batch of both networks without derivatives, and surveys nothing.
    assert (took["surveys"] > 0.0) == ("survey" in learner.method.needs or name == "divide-mix")


def test_a_second_look_at_a_batch_without_derivatives_is_counted(task, fabric):
    state = fresh("mixup-bootstrapping", task, fabric, warm=0.1, dynamic=0.0)
    go(state, task, fabric)
    # From the second of ten epochs on: all examples surveyed before each, and each of a step's seen once more.
    assert passes(state.module.network, ITERATIONS, BATCH, N)["surveys"] == 9.0 + 9.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stop", [1, 36])  # before a step, and before an epoch, none that begins anew
def test_a_network_that_diverges_ends_training_and_is_noted(task, fabric, name, stop):
    state = fresh(name, task, fabric)

    def ruin(state):
        if state.iteration == stop:
            next(iter(state.module.network.network.parameters())).data.fill_(torch.nan)

    ruin(state)
    go(state, task, fabric, after_step=ruin)
    assert state.diverged_at.tolist() == [stop]
    assert state.iteration == stop
    assert torch.tensor(state.curves["test_accuracy"][-1]).isnan().all()


def test_adams_eps_counts_from_where_a_network_was_started_anew(task, fabric):
    seen = []
    solver = Solver(ITERATIONS, BATCH, 0.01, name="adam", delta=1.0)
    state = fresh("joint-optimization", task, fabric, solver, phase=0.5)
    go(state, task, fabric, solver, after_step=lambda s: seen.append(s.optimizer.param_groups[0]["eps"]))
    assert seen[30:] == seen[:30]  # the second training begins after 30 steps
    assert seen[0] > 5.0 * seen[29]


def test_a_second_training_has_the_whole_schedule_and_the_first_its_first_rate(task, fabric):
    rates = []
    state = fresh("joint-optimization", task, fabric, phase=0.5)
    solver = Solver(ITERATIONS, BATCH, 0.1, momentum=0.9, schedule=Schedule("step", at=(30,)))
    state = fresh("joint-optimization", task, fabric, solver, phase=0.5)
    go(state, task, fabric, solver, after_step=lambda s: rates.append(round(s.optimizer.param_groups[0]["lr"], 4)))
    assert rates == [0.1] * 45 + [0.01] * 15


def test_a_method_without_phases_has_every_iterations_own_learning_rate(task, fabric):
    stack = fresh("elr", task, fabric).module
    for iterations in (60, 100, 1000, 6000):
        assert [stack.schedule(one, iterations) for one in range(iterations)] == list(range(iterations))


def test_the_mean_of_a_methods_own_loss_trains_as_the_weighting_does(task, fabric):
    """Symmetric cross-entropy by its loss, and by its derivative in a stack: the same network."""
    from emphasis.models.stacked import SingleNetwork
    from emphasis.training.settings import Objective
    from emphasis.weighting import SCE

    by_loss = fresh("symmetric-cross-entropy", task, fabric)
    go(by_loss, task, fabric)
    by_weight = initial_state(SingleNetwork(build("mlp", (4,), C, seed=0, hidden=[8])), SOLVER, fabric, CPU)
    train(by_weight, task, [Objective(SCE())], [0], SOLVER, fabric, evaluate_every=10)
    pairs = zip(by_loss.module.network.network.parameters(), by_weight.module.network.parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
