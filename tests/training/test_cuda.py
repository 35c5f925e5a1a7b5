"""Training on a GPU: the CPU's steps, checkpoints that resume to the bit, streamed images, every method and network."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clothing_layout import digits
from controls import right_beyond_chance, share_of_the_way
from emphasis import models
from emphasis.baselines import Learner, Problem, find, make, names
from emphasis.cli.main import main
from emphasis.corruption import symmetric
from emphasis.datasets import ImageFiles, load_digits
from emphasis.diagnostics.trace import EmphasisTrace, read_trace
from emphasis.models import build
from emphasis.models.stacked import SingleNetwork, StackedMLP
from emphasis.sklearn import EmphasisClassifier
from emphasis.training.checkpoint import load_checkpoint, save_checkpoint
from emphasis.training.evaluation import evaluate
from emphasis.training.fabric import make_fabric
from emphasis.training.features import tracklet_features
from emphasis.training.loop import initial_state, train
from emphasis.training.methods import LearnerStack
from emphasis.training.settings import ClipSolver, Execution, Objective, Solver
from emphasis.training.task import Task
from emphasis.training.videos import VideoTask
from emphasis.weighting import CCE, DM, GCE, Measured, Ramp

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

PUBLISHED = DM(lam=0.5, beta=12)
OBJECTIVES = [Objective(CCE()), Objective(PUBLISHED, "batch", 16.6), Objective(GCE(0.7), "integral")]
SOLVER = Solver(iterations=24, batch_size=40, learning_rate=0.05, momentum=0.9, weight_decay=1e-3)
SEEDS = [0, 1]


@pytest.fixture
def repeatable(monkeypatch):
    """Convolutions that sum in the same order each time."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def vectors(seeds=2):
    split = load_digits()
    true = torch.from_numpy(split.train_labels)
    labels = torch.stack(
        [torch.from_numpy(symmetric(split.train_labels, 0.2, num_classes=10, seed=s).labels) for s in range(seeds)]
    )
    test = torch.from_numpy(split.test_inputs), torch.from_numpy(split.test_labels)
    return Task(torch.from_numpy(split.train_inputs), labels, true, *test, 10)


def images(number=200, files=None, augment=True):
    pixels, labels = digits(number)
    inputs = torch.from_numpy(pixels).movedim(3, 1).contiguous() if files is None else files
    labels = torch.from_numpy(labels)
    statistics = torch.full((3,), 0.4), torch.full((3,), 0.3)
    return Task(
        inputs,
        labels[None],
        labels,
        inputs[:50],
        labels[:50],
        10,
        statistics=statistics,
        augment=augment,
        crop=12 if augment else 0,
    )


def trained(device, stack, task, objectives, seeds, solver=SOLVER, precision="32-true", **more):
    execution = Execution(accelerator=device, precision=precision)
    fabric = make_fabric(execution)
    state = initial_state(stack, solver, fabric, execution)
    train(state, task.to(fabric.device), objectives, seeds, solver, fabric, **{"evaluate_every": 12, **more})
    return state, fabric


def parameters(state):
    return torch.cat([value.detach().cpu().double().flatten() for value in state.module.state_dict().values()])


def stack():
    return StackedMLP([64, 32, 10], SEEDS, len(OBJECTIVES))


def network(name="resnet20", shape=(3, 12, 12), **options):
    return SingleNetwork(build(name, shape, 10, seed=0, **options))


def test_a_stack_takes_the_cpus_steps():
    start = torch.cat([value.double().flatten() for value in stack().state_dict().values()])
    cpu, _ = trained("cpu", stack(), vectors(), OBJECTIVES, SEEDS)
    gpu, _ = trained("cuda", stack(), vectors(), OBJECTIVES, SEEDS)
    way = (parameters(cpu) - start).norm()
    assert way > 1.0
    assert (parameters(gpu) - parameters(cpu)).norm() / way < 1e-3
    assert gpu.evaluated_at == cpu.evaluated_at == [0, 12, 24]
    for name, curve in cpu.curves.items():
        np.testing.assert_allclose(gpu.curves[name], curve, atol=0.006)
    np.testing.assert_allclose(gpu.p, cpu.p, atol=1e-3)
    assert gpu.diverged_at.tolist() == [-1] * 6


def test_a_convolutional_network_takes_the_cpus_steps():
    """As far as tensor cores round alike; where crops are drawn, the devices draw their own."""
    task, few = images(augment=False), Solver(4, 40, 0.01, momentum=0.9)
    cpu, _ = trained("cpu", network(shape=(3, 16, 16)), task, OBJECTIVES[1:2], [0], few)
    gpu, _ = trained("cuda", network(shape=(3, 16, 16)), task, OBJECTIVES[1:2], [0], few)
    start = torch.cat([value.double().flatten() for value in network(shape=(3, 16, 16)).state_dict().values()])
    assert (parameters(gpu) - parameters(cpu)).norm() / (parameters(cpu) - start).norm() < 0.1


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("kind", ["stack", "images", "dropout", "method"])
def test_a_checkpoint_resumes_to_the_bit(tmp_path, kind, precision, repeatable):
    def begin():
        execution = Execution(accelerator="cuda", precision=precision)
        fabric = make_fabric(execution)
        if kind == "stack":
            own, task, objectives, seeds = stack(), vectors(), OBJECTIVES, SEEDS
        elif kind == "method":
            own, task, objectives, seeds = learner("elr", images().to(fabric.device)), images(), [], [0]
        else:
            options = {"name": "mlp", "hidden": [16], "dropout": 0.3} if kind == "dropout" else {}
            own, task, objectives, seeds = network(**options), images(), OBJECTIVES[:1], [0]
        return initial_state(own, SOLVER, fabric, execution), task.to(fabric.device), objectives, seeds, SOLVER, fabric

    class KilledError(Exception):
        pass

    def kill(state):
        if state.iteration == 17:
            save_checkpoint(tmp_path / "c.pt", state, arguments[-1], "run", {})
            raise KilledError

    arguments = whole, *_ = begin()
    train(*arguments, evaluate_every=12, record_trace=True)
    arguments = begin()
    with pytest.raises(KilledError):
        train(*arguments, evaluate_every=12, record_trace=True, after_step=kill)
    torch.rand(3, device="cuda")  # whatever else draws in between
    arguments = second, *_ = begin()
    load_checkpoint(tmp_path / "c.pt", second, arguments[-1], "run")
    train(*arguments, evaluate_every=12, record_trace=True)
    assert torch.equal(parameters(second), parameters(whole))
    np.testing.assert_equal(second.curves, whole.curves)
    assert np.array_equal(np.stack(second.trace), np.stack(whole.trace))


def test_training_leaves_the_devices_generator_alone():
    torch.cuda.manual_seed(1)
    before = torch.cuda.get_rng_state()
    trained("cuda", network("mlp", hidden=[16], dropout=0.3), images(), OBJECTIVES[:1], [0])
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_every_precision_learns(precision):
    solver = Solver(iterations=300, batch_size=128, learning_rate=0.1, momentum=0.9)
    state, _ = trained(
        "cuda",
        SingleNetwork(build("mlp", (64,), 10, seed=0, hidden=[32])),
        vectors(1),
        [Objective(PUBLISHED, "integral")],
        [0],
        solver,
        precision,
        evaluate_every=300,
    )
    assert share_of_the_way(state.curves["test_accuracy"][-1][0], 0.1) > 0.5


def test_a_network_that_blows_up_is_named_and_leaves_the_others_alone():
    spoilt = stack()
    spoilt.weights[0].data[2] = math.inf
    alone, _ = trained("cuda", stack(), vectors(), OBJECTIVES, SEEDS)
    broken, _ = trained("cuda", spoilt, vectors(), OBJECTIVES, SEEDS)
    assert broken.diverged_at.tolist() == [-1, -1, 0, -1, -1, -1]
    others = [0, 1, 3, 4, 5]
    assert np.isnan(np.array(broken.curves["test_accuracy"])[:, 2]).all()
    np.testing.assert_allclose(broken.p[others], alone.p[others], atol=1e-4)


def test_a_schedule_and_a_measured_noise_rate_work():
    objective = Objective(DM(lam=0.5, beta=4), "batch", 16.6, {"lam": Measured(), "beta": Ramp(0, 8)})
    state, _ = trained("cuda", StackedMLP([64, 32, 10], [0]), vectors(1), [objective], [0], evaluate_every=6)
    assert state.diverged_at.tolist() == [-1]
    assert len(state.evaluated_at) == 5


def test_streamed_images_train_to_the_bits_of_images_in_memory(tmp_path, repeatable):
    """Decoded into pinned memory and copied while the network works: a buffer taken too early would show."""
    pixels, _ = digits(200)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    files = ImageFiles(tmp_path, [f"{number}.png" for number in range(200)], 16)
    kept, _ = trained("cuda", network(), images(), OBJECTIVES[1:2], [0])
    streamed, _ = trained("cuda", network(), images(files=files), OBJECTIVES[1:2], [0])
    assert torch.equal(parameters(streamed), parameters(kept))
    np.testing.assert_equal(streamed.curves, kept.curves)  # NaN equals NaN here


def in_clips(task):
    """The same, class by class, two of them after each other a video."""
    rows = torch.argsort(task.true_labels, stable=True)
    inputs, labels, true = task.inputs[rows], task.labels[:, rows], task.true_labels[rows]
    changed = {**vars(task), "inputs": inputs, "labels": labels, "true_labels": true}
    return VideoTask(**changed, videos=torch.arange(len(rows)) // 2)


def learner(name, task):
    options = {
        "co-teaching": {"forget_rate": 0.3},
        "d2l": {"window": 2, "neighbours": 8},
        "joint-optimization": {"window": 3},
        "loss-correction": {"backward": True},
        "mentornet-dd": {"share": 0.3, "steps": 20},
        "mentornet-pd": {"burn_in": 0.3},
    }
    true = task.true_labels.cpu()
    clip = 2 if isinstance(task, VideoTask) else 1
    problem = Problem(task.labels[0].cpu(), task.num_classes, 0, lambda rows: true[rows], clip)
    method = make(name, problem, **options.get(name, {}))
    outputs = task.num_classes + method.extra_outputs
    nets = [build("mlp", task.input_shape, outputs, seed=s, hidden=[32]) for s in range(method.networks)]
    return LearnerStack(Learner(method, *nets))


@pytest.mark.parametrize("name", [name for name in names() if "feature_maps" not in find(name).needs])
def test_every_method_learns(name):
    task, solver = vectors(1), Solver(200, 50, 0.05, momentum=0.9)
    if name == "cae":
        task, solver = in_clips(task), ClipSolver(**vars(solver), clip=2)
    state, _ = trained("cuda", learner(name, task), task, [], [0], solver, evaluate_every=100)
    assert state.iteration == 200
    assert share_of_the_way(state.curves["test_accuracy"][-1][0], 0.1) > 0.3


@pytest.mark.parametrize("name", models.NAMES)
def test_every_network_computes_what_it_does_on_the_cpu(name):
    shape = (3, 64, 64) if name in ("resnet50", "googlenet-v2") else (3, 32, 32)
    net = build(name, shape, 10, seed=0).eval()
    inputs = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = net(inputs)
        got = net.to("cuda", memory_format=torch.channels_last)(inputs.cuda()).cpu()
    assert (got - expected).norm() / expected.norm() < 3e-2


def test_an_evaluation_is_the_cpus():
    task, one = vectors(), stack()
    found = [evaluate(one.to(device), 6, task.to(torch.device(device)), np.ones(6, bool)) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(found[1].p, found[0].p, rtol=1e-4)
    for name, curve in found[0].curves.items():
        np.testing.assert_allclose(found[1].curves[name], curve, atol=0.003)


def test_features_of_videos_are_the_cpus():
    net = build("small-cnn", (3, 16, 16), 10, seed=0)
    frames = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    batches = [(frames[:25], np.arange(25) // 5), (frames[25:], np.arange(25, 40) // 5)]
    expected = tracklet_features(net, batches, 8)
    np.testing.assert_allclose(tracklet_features(net.cuda(), batches, 8), expected, atol=2e-3)


def test_a_trace_is_the_cpus_and_reads_nothing_back(tmp_path):
    generator = torch.Generator().manual_seed(0)
    logits, labels = 3.0 * torch.randn(60, 10, generator=generator), torch.randint(10, (60,), generator=generator)
    for device in ("cpu", "cuda"):
        subsets = {"even": torch.arange(60) % 2 == 0}
        with EmphasisTrace(tmp_path / device, 60, PUBLISHED, subsets=subsets) as trace:
            for step in range(6):
                rows = torch.arange(10 * step, 10 * step + 10)
                given = rows.to(device), logits[rows].to(device), labels[rows].to(device)
                try:  # the first brings the subsets over, the last writes the row
                    torch.cuda.set_sync_debug_mode("error" if device == "cuda" and 0 < step < 5 else "default")
                    trace.record(*given)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
    cpu, cuda = (read_trace(tmp_path / device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(cuda.margins[0], cpu.margins[0], atol=1e-2)
    np.testing.assert_allclose(cuda.shares[0], cpu.shares[0], rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(cuda.steps, cpu.steps, rtol=1e-4)
    assert np.array_equal(cuda.predicted[0], cpu.predicted[0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_estimator_is_the_cpus_and_leaves_the_devices_generator_alone(dtype):
    split = load_digits()
    inputs, labels = split.train_inputs[:600].astype(dtype), split.train_labels[:600]
    settings = {"max_epochs": 8, "learning_rate": 0.01, "random_state": 0, "class_weight": "balanced"}
    torch.cuda.manual_seed(1)
    before = torch.cuda.get_rng_state()
    found = [
        EmphasisClassifier(PUBLISHED, device=device, **settings).fit(inputs, labels, np.ones(600))
        for device in ("cpu", "cuda")
    ]
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert next(found[1].network_.parameters()).is_cuda
    given = split.test_inputs.astype(dtype)
    rtol = 1e-6 if dtype is np.float64 else 1e-2
    np.testing.assert_allclose(found[1].predict_proba(given), found[0].predict_proba(given), rtol=rtol, atol=rtol)
    assert right_beyond_chance(found[1].predict(given), split.test_labels)
    drops = EmphasisClassifier(PUBLISHED, device="auto", dropout=0.3, early_stopping=True, **settings)
    assert right_beyond_chance(drops.fit(inputs, labels).predict(given), split.test_labels)
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_emphasis_run_trains_on_the_gpu_and_says_so(tmp_path):
    recipe = Path(__file__).parents[1] / "experiments" / "tiny.toml"
    for device in ("cpu", "cuda"):
        how = ["--no-progress", "--workers", "1", "--accelerator", device, "--out", str(tmp_path / device)]
        assert main(["run", str(recipe), *how]) == 0
    cpu, cuda = (
        [json.loads(line) for line in (tmp_path / device / "results.jsonl").read_text().splitlines()]
        for device in ("cpu", "cuda")
    )
    for one, other in zip(cpu, cuda, strict=True):
        assert other["device"] == torch.cuda.get_device_name()
        assert one["key"] == other["key"]
        near = 0.03 if one["method"] == "CCE" else 0.3  # DM at this learning rate goes where rounding sends it
        assert other["final_test_accuracy"] == pytest.approx(one["final_test_accuracy"], abs=near)
