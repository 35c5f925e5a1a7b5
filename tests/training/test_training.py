import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from controls import share_of_the_way
from emphasis.corruption import symmetric
from emphasis.datasets import load_digits
from emphasis.metrics import chance_ceiling, outcome
from emphasis.models import build
from emphasis.models.stacked import SingleNetwork, StackedMLP
from emphasis.training.batches import Batches
from emphasis.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from emphasis.training.fabric import make_fabric
from emphasis.training.loop import diverged_batch, initial_state, train
from emphasis.training.settings import Execution, Objective, Schedule, Solver
from emphasis.training.task import Task
from emphasis.weighting import CCE, DM, Beta
from forked import Program, free_port, succeed_together

PUBLISHED = DM(lam=0.5, beta=12)
CPU = Execution(accelerator="cpu")


def test_the_push_that_never_ends_and_its_two_cures_on_clean_digits(fabric):
    """The bare formula collapses without any label noise; max_margin and vanishing=True do not."""
    objectives = [
        Objective(CCE()),
        Objective(PUBLISHED, "batch", None),
        Objective(PUBLISHED, "integral", 16.6),
        Objective(DM(lam=0.5, beta=12, vanishing=True), "integral"),
    ]
    seeds = [0, 1]
    split = load_digits()
    labels = torch.from_numpy(split.train_labels)
    task = Task(
        torch.from_numpy(split.train_inputs),
        labels.expand(2, -1).contiguous(),
        labels,
        torch.from_numpy(split.test_inputs),
        torch.from_numpy(split.test_labels),
        10,
    )
    solver = Solver(iterations=700, batch_size=128, learning_rate=0.1, momentum=0.9)
    state = initial_state(StackedMLP([64, 48, 48, 10], seeds, len(objectives)), solver, fabric, CPU)
    train(state, task, objectives, seeds, solver, fabric, evaluate_every=50)

    accuracies = np.array(state.curves["test_accuracy"])
    shares = np.array(state.curves["largest_share"])
    outcomes = [outcome(accuracies[:, n], shares[:, n], 10, 500) for n in range(accuracies.shape[1])]
    assert outcomes[2:4] == ["collapsed"] * 2, accuracies[-1]
    assert outcomes[:2] + outcomes[4:] == ["learned"] * 6, accuracies[-1]
    for cured in (4, 5, 6, 7):  # of the same two seeds as cross-entropy
        assert share_of_the_way(accuracies[-1, cured], 0.1, accuracies[-1, cured % 2]) > 0.9
    assert all(math.isnan(value) for value in state.curves["p_noisy"][-1])  # there is no noisy example


def _tiny_task(seeds=2):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(40, 5, generator=generator)
    labels = torch.randint(3, (seeds, 40), generator=generator)
    return Task(inputs, labels, labels[0], inputs, labels[0], 3)


SOLVER = Solver(iterations=12, batch_size=8, learning_rate=0.1, momentum=0.9)
OBJECTIVES = [Objective(CCE()), Objective(PUBLISHED, "batch", 16.6)]


def _fresh(fabric, solver=SOLVER):
    return initial_state(StackedMLP([5, 6, 3], [0, 1], 2), solver, fabric, CPU)


def test_a_network_that_blows_up_is_named_and_leaves_the_others_alone(fabric):
    task = _tiny_task()
    alone, broken = _fresh(fabric), _fresh(fabric)
    next(broken.module.parameters()).data[2] = math.inf
    for state in (alone, broken):
        train(state, task, OBJECTIVES, [0, 1], SOLVER, fabric, evaluate_every=5)
    assert broken.diverged_at.tolist() == [-1, -1, 0, -1]
    curve = np.array(broken.curves["test_accuracy"])
    assert np.isnan(curve[:, 2]).all()
    others = [0, 1, 3]
    assert np.array_equal(curve[:, others], np.array(alone.curves["test_accuracy"])[:, others])
    assert np.isnan(broken.p[2]).all()
    pairs = zip(alone.module.parameters(), broken.module.parameters(), strict=True)
    assert all(torch.equal(a[others], b[others]) for a, b in pairs)


def test_training_ends_early_once_every_network_has_diverged(fabric):
    solver = dataclasses.replace(SOLVER, iterations=10_000, learning_rate=1e38)
    state = initial_state(SingleNetwork(build("mlp", (5,), 3, seed=0, hidden=[6])), solver, fabric, CPU)
    task = _tiny_task(1)
    train(state, task, [Objective(CCE())], [0], solver, fabric, evaluate_every=5000)
    at = int(state.diverged_at[0])
    assert 0 < at < 10
    assert state.iteration == at
    assert math.isnan(state.curves["test_accuracy"][-1][0])
    assert diverged_batch(0, at, task, solver) == _indices([0], at - 1, 40, 8)[0].tolist()


def test_logits_spoilt_by_the_last_update_are_no_accuracy(fabric):
    """They are class 0 to argmax, and right about a tenth of the examples."""
    solver = dataclasses.replace(SOLVER, iterations=1, learning_rate=3e38)
    state = initial_state(SingleNetwork(build("mlp", (5,), 3, seed=0, hidden=[6])), solver, fabric, CPU)
    train(state, _tiny_task(1), [Objective(CCE())], [0], solver, fabric, evaluate_every=1)
    assert state.evaluated_at == [0, 1]
    assert state.diverged_at.tolist() == [1]
    assert math.isnan(state.curves["test_accuracy"][-1][0])
    assert math.isnan(state.curves["p_noisy"][-1][0])


def test_a_network_that_ends_where_it_was_evaluated_has_one_point_there(fabric):
    solver = dataclasses.replace(SOLVER, iterations=50, learning_rate=1e38)
    state = initial_state(SingleNetwork(build("mlp", (5,), 3, seed=0, hidden=[6])), solver, fabric, CPU)
    train(state, _tiny_task(1), [Objective(CCE())], [0], solver, fabric, evaluate_every=1, record_trace=True)
    assert len(set(state.evaluated_at)) == len(state.evaluated_at)
    assert {len(curve) for curve in state.curves.values()} == {len(state.evaluated_at)} == {len(state.trace)}


def _image_task(seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (48, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(3, (1, 48), generator=generator)
    statistics = (torch.full((3,), 0.5), torch.full((3,), 0.25))
    return Task(images, labels, labels[0], images[:20], labels[0, :20], 3, statistics=statistics, augment=True)


class _Net(nn.Module):
    """Convolution, batch normalization and dropout: everything that has state or draws."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 3)
            )

    def forward(self, inputs):
        return self.layers(inputs)


ADAM = Solver(
    iterations=12,
    batch_size=8,
    learning_rate=0.01,
    name="adam",
    delta=0.1,
    schedule=Schedule("inv", gamma=0.1, power=1),
)


def _image_state(fabric):
    return initial_state(SingleNetwork(_Net()), ADAM, fabric, CPU)


@pytest.mark.parametrize("kind", ["stack", "images"])
def test_a_checkpoint_resumes_bit_for_bit(tmp_path, fabric, kind):
    """Crops, dropout, batch statistics, Adam's moments and the schedule go on as if nothing had happened."""
    if kind == "stack":
        task, fresh, arguments = _tiny_task(), _fresh, (OBJECTIVES, [0, 1], SOLVER)
    else:
        task, fresh, arguments = _image_task(), _image_state, ([Objective(CCE())], [0], ADAM)
    whole, first, second = fresh(fabric), fresh(fabric), fresh(fabric)
    train(whole, task, *arguments, fabric, evaluate_every=5, record_trace=True)

    class KilledError(Exception):
        pass

    def kill(state):
        if state.iteration == 7:
            save_checkpoint(tmp_path / "c.pt", state, fabric, "run", {"seconds": 1.5})
            raise KilledError

    with pytest.raises(KilledError):
        train(first, task, *arguments, fabric, evaluate_every=5, record_trace=True, after_step=kill)
    torch.rand(3)  # whatever else draws in between
    assert load_checkpoint(tmp_path / "c.pt", second, fabric, "run") == {"seconds": 1.5}
    train(second, task, *arguments, fabric, evaluate_every=5, record_trace=True)
    for (name, a), b in zip(whole.module.state_dict().items(), second.module.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    np.testing.assert_equal(second.curves, whole.curves)  # NaN equals NaN here
    assert second.evaluated_at == whole.evaluated_at == [0, 5, 10, 12]
    assert np.array_equal(np.stack(second.trace), np.stack(whole.trace))


def test_training_leaves_the_global_generator_alone(fabric):
    before = torch.get_rng_state()
    train(_image_state(fabric), _image_task(), [Objective(CCE())], [0], ADAM, fabric, evaluate_every=12)
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_is_that_of_the_network_in_evaluation_mode(fabric):
    task, state = _image_task(), _image_state(fabric)
    train(state, task, [Objective(CCE())], [0], ADAM, fabric, evaluate_every=6, record_trace=True)
    network = state.module.module.network.eval()
    inputs = (task.inputs / 255 - 0.5) / 0.25
    with torch.no_grad():
        p = network(inputs).softmax(1).gather(1, task.labels[0][:, None])[:, 0]
        right = (network(inputs[:20]).argmax(1) == task.test_labels).double().mean()
    np.testing.assert_allclose(state.p[0], p, rtol=1e-5, atol=1e-7)
    assert state.curves["test_accuracy"][-1] == [pytest.approx(float(right))]
    assert state.trace[-1].dtype == np.float16
    np.testing.assert_allclose(state.trace[-1][0], p, atol=1e-3)


def test_a_seed_that_trains_on_some_rows_sees_only_those(fabric):
    """As with a ratio of positives to negatives: the rest of the inputs may be anything."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(40, 5, generator=generator)
    true = torch.randint(3, (40,), generator=generator)
    index = torch.stack([torch.randperm(40, generator=generator)[:16].sort().values for _ in range(2)])
    unused = torch.ones(40, dtype=torch.bool)
    unused[index.flatten()] = False
    assert unused.any()
    poisoned = inputs.clone()
    poisoned[unused] = 1e30
    states = []
    for x in (inputs, poisoned):
        task = Task(x, true[index], true, inputs, true, 3, index=index)
        state = _fresh(fabric)
        train(state, task, OBJECTIVES, [0, 1], SOLVER, fabric, evaluate_every=12)
        states.append(state)
        assert state.p.shape == (4, 16)
    assert states[0].curves["fit_true"] == states[1].curves["fit_true"] == states[0].curves["fit_noisy"]
    assert np.array_equal(states[0].p, states[1].p)


def test_bfloat16_learns_what_float32_does(fabric):
    split = load_digits()
    labels = torch.from_numpy(symmetric(split.train_labels, 0.2, num_classes=10, seed=0).labels)
    task = Task(
        torch.from_numpy(split.train_inputs),
        labels[None],
        torch.from_numpy(split.train_labels),
        torch.from_numpy(split.test_inputs),
        torch.from_numpy(split.test_labels),
        10,
    )
    solver = Solver(iterations=300, batch_size=128, learning_rate=0.1, momentum=0.9)
    final = {}
    for precision in ("32-true", "bf16-mixed"):
        execution = dataclasses.replace(CPU, precision=precision)
        own = make_fabric(execution)
        network = build("mlp", (64,), 10, seed=0, hidden=[32])
        state = initial_state(SingleNetwork(network), solver, own, execution)
        train(state, task, [Objective(PUBLISHED, "integral")], [0], solver, own, evaluate_every=300)
        final[precision] = state.curves["test_accuracy"][-1][0]
    assert final["32-true"] > chance_ceiling(10, len(split.test_labels))
    assert share_of_the_way(final["bf16-mixed"], 0.1, final["32-true"]) > 0.9


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_a_checkpoint_cut_short_is_refused(tmp_path, fabric, kept):
    path = tmp_path / "c.pt"
    save_checkpoint(path, _fresh(fabric), fabric, "run", {})
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_checkpoint(path, _fresh(fabric), fabric, "run")


def test_every_flipped_bit_is_found(tmp_path, fabric):
    """Or it changes nothing: a checkpoint that is accepted gives the parameters that were saved."""
    path = tmp_path / "c.pt"
    whole = _fresh(fabric)
    train(whole, _tiny_task(), OBJECTIVES, [0, 1], SOLVER, fabric, evaluate_every=5)
    save_checkpoint(path, whole, fabric, "run", {})
    content = bytearray(path.read_bytes())
    refused = 0
    for place in np.random.default_rng(0).integers(len(content), size=60).tolist():
        content[place] ^= 1 << (place % 8)
        path.write_bytes(content)
        content[place] ^= 1 << (place % 8)
        state = _fresh(fabric)
        before = {name: value.clone() for name, value in state.module.state_dict().items()}
        try:
            load_checkpoint(path, state, fabric, "run")
            wanted = whole.module.state_dict()
        except CheckpointError:
            refused += 1
            wanted = before
        assert all(torch.equal(value, wanted[name]) for name, value in state.module.state_dict().items())
    assert refused > 30


def test_another_runs_checkpoint_is_refused(tmp_path, fabric):
    save_checkpoint(tmp_path / "c.pt", _fresh(fabric), fabric, "run", {})
    with pytest.raises(CheckpointError, match="another run"):
        load_checkpoint(tmp_path / "c.pt", _fresh(fabric), fabric, "other")
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.pt", _fresh(fabric), fabric, "run")


def _indices(seeds, iteration, num_examples, batch_size):
    return Batches(seeds, num_examples, batch_size, torch.device("cpu")).indices(iteration).numpy()


def test_batches_cover_an_epoch_without_repetition_and_depend_on_seed_and_iteration_alone():
    epoch = np.concatenate([_indices([7, 8], i, 20, 6) for i in range(3)], axis=1)
    assert epoch.shape == (2, 18)
    assert all(len(set(row)) == 18 for row in epoch.tolist())
    assert np.array_equal(_indices([8], 1, 20, 6)[0], epoch[1, 6:12])
    assert not np.array_equal(_indices([7], 0, 20, 6), _indices([7], 3, 20, 6))
    batches = Batches([7, 8], 20, 6, torch.device("cpu"))
    for iteration in (0, 1, 4, 2):  # back an epoch as well, as after a resume
        assert np.array_equal(batches.indices(iteration), _indices([7, 8], iteration, 20, 6))
    with pytest.raises(ValueError, match="use a smaller one"):
        Batches([0], 5, 6, torch.device("cpu"))


def test_objective_and_execution_settings_are_checked():
    with pytest.raises(ValueError, match="normalization"):
        Objective(CCE(), "sum")
    with pytest.raises(ValueError, match="max_margin"):
        Objective(CCE(), max_margin="never")
    with pytest.raises(ValueError, match="infinite integral"):
        Objective(Beta(alpha=0, eta=2), "integral")
    with pytest.raises(ValueError, match="accelerator"):
        Execution(accelerator="tpu9")
    with pytest.raises(ValueError, match="precision"):
        Execution(precision="8")


@pytest.mark.filterwarnings("error")
def test_the_login_node_of_a_cluster_gives_no_warning(tmp_path, monkeypatch):
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert make_fabric(Execution(accelerator="cpu")).world_size == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")  # said once in a process
@pytest.mark.parametrize("kind", ["stack", "images"])
def test_a_step_on_a_gpu_waits_for_nothing(kind):
    """Between evaluations the host reads nothing back; torch raises if it does."""
    execution = Execution(accelerator="cuda")
    gpu = make_fabric(execution)
    if kind == "stack":
        task, stack, solver, arguments = _tiny_task(), StackedMLP([5, 6, 3], [0, 1], 2), SOLVER, (OBJECTIVES, [0, 1])
    else:
        task, stack, solver, arguments = _image_task(), SingleNetwork(_Net()), ADAM, ([Objective(CCE())], [0])
    state = initial_state(stack, solver, gpu, execution)

    def after_step(current):
        torch.cuda.set_sync_debug_mode("error" if 2 <= current.iteration < 5 else "default")

    try:
        train(state, task.to(gpu.device), *arguments, solver, gpu, evaluate_every=6, after_step=after_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert state.iteration == solver.iterations


@pytest.mark.parametrize("script", ["two_devices.py", "two_ranks.py"])
def test_two_devices_take_the_step_of_one_and_go_on_from_a_checkpoint_to_the_same_bits(tmp_path, script):
    """Gradients to 1e-6, DDP and FSDP, batch norm and uneven parts, every method, stacks: see the scripts."""
    ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0", "WORLD_SIZE": "2"}
    path = Path(__file__).with_name(script)
    succeed_together(
        [Program(path, tmp_path, environment=os.environ | ranks | {"LOCAL_RANK": rank}) for rank in ("0", "1")]
    )


def test_a_rank_ends_with_its_exit_code_and_all_that_it_has_written():
    """The threads of a process group that DistributedDataParallel has used abort some processes at their end."""
    program = """if True:
        import atexit, os, torch
        from emphasis import process
        process.end_if_rank(1)  # no rank yet
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
        torch.distributed.init_process_group("gloo", rank=0, world_size=1)
        module = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 2))
        module(torch.ones(4, 3)).sum().backward()
        atexit.register(print, "at exit", end="")
        print("written", end=" ")
        process.end_if_rank(143)
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "written at exit", "")
