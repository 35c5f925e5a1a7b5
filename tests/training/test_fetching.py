"""Training on images decoded on demand is training on the same images in memory, to the last bit."""

import dataclasses
import gc
import subprocess
import sys
import threading

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from PIL import Image

from clothing_layout import digits
from emphasis.baselines import Learner, Problem, make
from emphasis.datasets import DamagedFileError, ImageFiles
from emphasis.models import build
from emphasis.models.stacked import SingleNetwork
from emphasis.training.augmentation import center_crop, random_crop_flip
from emphasis.training.checkpoint import load_checkpoint, save_checkpoint
from emphasis.training.evaluation import evaluate
from emphasis.training.fetching import fetch
from emphasis.training.loop import initial_state, train
from emphasis.training.methods import LearnerStack
from emphasis.training.settings import Execution, Objective, Solver
from emphasis.training.task import Task
from emphasis.weighting import CCE

CPU = Execution(accelerator="cpu")
DEVICE = torch.device("cpu")
SOLVER = Solver(iterations=12, batch_size=8, learning_rate=0.05, momentum=0.9)  # an epoch of 5 steps
N = 40
BROKEN = (3, 17, 30)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Digits as JPEG files, and the same with three of them cut off."""
    base = tmp_path_factory.mktemp("digits")
    images, _ = digits(N)
    for part in ("whole", "broken"):
        (base / part).mkdir()
        for number, image in enumerate(images):
            path = base / part / f"{number}.jpg"
            Image.fromarray(image).save(path)
            if part == "broken" and number in BROKEN:
                path.write_bytes(path.read_bytes()[:300])
    names = [f"{number}.jpg" for number in range(N)]
    return ImageFiles(base / "whole", names, 12), ImageFiles(base / "broken", names, 12, skip_broken=True)


def make_task(inputs, test=None, **more):
    _, labels = digits(N)
    labels = torch.from_numpy(labels)
    noisy = torch.where(torch.arange(N) % 4 == 0, (labels + 1) % 10, labels)
    statistics = (torch.full((3,), 0.4), torch.full((3,), 0.3))
    test = inputs if test is None else test
    task = Task(inputs, noisy[None], labels, test, labels, 10, statistics=statistics, augment=True, crop=10)
    return dataclasses.replace(task, **more)


def in_memory(files):
    return torch.from_numpy(np.asarray(files))


def fresh(fabric, task, method=None):
    network = build("small-cnn", task.input_shape, 10, seed=0, widths=[4, 8], dropout=0.2)
    if method is None:
        return initial_state(SingleNetwork(network), SOLVER, fabric, CPU)
    learner = Learner(make(method, Problem(task.labels[0], 10)), network)
    return initial_state(LearnerStack(learner), SOLVER, fabric, CPU)


def go(state, task, fabric, method=None, **more):
    objectives = [] if method else [Objective(CCE())]
    train(state, task, objectives, [0], SOLVER, fabric, evaluate_every=5, record_trace=True, **more)
    return state


def assert_alike(one, other):
    for (name, a), b in zip(one.module.state_dict().items(), other.module.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    np.testing.assert_equal(one.curves, other.curves)
    assert one.evaluated_at == other.evaluated_at
    np.testing.assert_array_equal(np.stack(one.trace), np.stack(other.trace))
    assert one.broken == other.broken


@pytest.mark.parametrize("method", [None, "elr", "joint-optimization"])
def test_streamed_images_train_as_images_in_memory_do(files, fabric, method):
    """Without a method and with one that remembers examples, or looks at them between epochs."""
    whole, _ = files
    states = []
    for inputs in (whole, in_memory(whole)):
        task = make_task(inputs)
        states.append(go(fresh(fabric, task, method), task, fabric, method))
    assert_alike(*states)
    assert states[0].evaluated_at == [0, 5, 10, 12]


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_a_checkpoint_resumes_bit_for_bit_with_images_broken_and_decoded_ahead(tmp_path, files, fabric, stop):
    _, broken = files
    task = make_task(broken, eval_train_size=25)
    whole = go(fresh(fabric, task), task, fabric)

    class KilledError(Exception):
        pass

    def kill(state):
        if state.iteration == stop:
            save_checkpoint(tmp_path / "c.pt", state, fabric, "run", {})
            raise KilledError

    threads = threading.active_count()
    with pytest.raises(KilledError):
        go(fresh(fabric, task), task, fabric, after_step=kill)
    gc.collect()
    assert threading.active_count() == threads
    second = fresh(fabric, task)
    load_checkpoint(tmp_path / "c.pt", second, fabric, "run")
    assert_alike(go(second, task, fabric), whole)
    assert whole.broken == {f"{number}.jpg" for number in BROKEN}


@given(data=st.data())
def test_a_broken_image_is_replaced_by_the_next_whole_one_of_its_batch(files, data):
    _, broken = files
    whole = [row for row in range(N) if row not in BROKEN]
    rows = st.lists(st.integers(0, N - 1), min_size=5, max_size=5).filter(lambda rows: set(rows) - set(BROKEN))
    batches = data.draw(st.lists(st.lists(rows, min_size=2, max_size=2), max_size=5))
    index = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    index = data.draw(st.sampled_from([None, index]))
    places = [torch.tensor(batch) for batch in batches]
    if index is not None:  # so that the rows are those drawn
        places = [index.argsort(1).gather(1, some) for some in places]
    torch.set_num_threads(4)  # which decode
    found = list(fetch(broken, places, index, DEVICE))
    torch.set_num_threads(1)
    assert len(found) == len(batches)
    for batch, asked, got in zip(batches, places, found, strict=True):
        for k, drawn in enumerate(batch):
            expected = [next(row for row in (*drawn[b:], *drawn) if row in whole) for b in range(5)]
            taken = got.places[k] if index is None else index[k][got.places[k]]
            assert taken.tolist() == expected
            np.testing.assert_array_equal(got.inputs[k], np.asarray(broken[expected]))
        hurt = sorted(row for drawn in batch for row in drawn if row in BROKEN)
        assert sorted(int(name.split(".")[0]) for name in got.names) == hurt
        assert (got.broken is None) == (not hurt)
        if not hurt:
            assert torch.equal(got.places, asked)


def test_broken_images_count_nowhere_in_an_evaluation(files, fabric):
    _, broken = files
    kept = [row for row in range(N) if row not in BROKEN]
    task = make_task(broken)
    state = fresh(fabric, task)
    alone = make_task(in_memory(broken[kept]))
    labels = {name: getattr(task, name)[..., kept] for name in ("labels", "true_labels", "test_labels")}
    alone = dataclasses.replace(alone, **labels)
    found, expected = (evaluate(state.module, 1, one, np.array([True])) for one in (task, alone))
    for name, values in expected.curves.items():
        np.testing.assert_allclose(found.curves[name], values, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(found.p[:, kept], expected.p, rtol=1e-5)
    assert np.isnan(found.p[:, BROKEN]).all()
    assert (found.predicted[:, BROKEN] == -1).all()
    assert found.broken == {f"{number}.jpg" for number in BROKEN}
    nothing = dataclasses.replace(task, test_inputs=broken[list(BROKEN)], test_labels=task.test_labels[:3])
    with pytest.raises(DamagedFileError, match="none of 3 test images"):
        evaluate(state.module, 1, nothing, np.array([True]))


def test_a_look_at_some_training_examples_is_the_look_at_all_there(files, fabric):
    task = make_task(in_memory(files[0]))
    state = fresh(fabric, task)
    everything, some, more = (
        evaluate(state.module, 1, dataclasses.replace(task, eval_train_size=look), np.array([True]))
        for look in (0, 7, 1000)
    )
    places = [place * N // 7 for place in range(7)]
    np.testing.assert_allclose(some.p, everything.p[:, places], rtol=1e-5)
    np.testing.assert_array_equal(some.predicted, everything.predicted[:, places])
    assert some.curves["test_accuracy"] == everything.curves["test_accuracy"]
    np.testing.assert_array_equal(more.p, everything.p)


def test_a_broken_image_stops_training_unless_it_is_to_be_skipped(files, fabric):
    _, broken = files
    task = make_task(dataclasses.replace(broken, skip_broken=False), test=files[0])
    with pytest.raises(DamagedFileError, match=r"broken/\d+\.jpg cannot be read .*broken = \"skip\""):
        go(fresh(fabric, task), task, fabric)
    lost = make_task(dataclasses.replace(broken, names=["3.jpg"] * N), test=files[0])
    with pytest.raises(DamagedFileError, match=r"no image of a batch can be decoded, from 3\.jpg to 3\.jpg"):
        go(fresh(fabric, lost), lost, fabric)


@given(
    side=st.integers(1, 9),
    size=st.integers(1, 9),
    padding=st.integers(0, 2),
    seed=st.integers(0, 2**31),
)
def test_a_window_smaller_than_the_image_is_somewhere_in_it(side, size, padding, seed):
    images = torch.arange(1, 2 * side * side + 1).view(2, 1, side, side)
    generator = torch.Generator().manual_seed(seed)
    if size > side + 2 * padding:
        with pytest.raises(ValueError, match=f"size={size} is not allowed for images of {side} x {side}"):
            random_crop_flip(images, generator, padding=padding, size=size)
        return
    found = random_crop_flip(images, generator, padding=padding, size=size)
    assert found.shape == (2, 1, size, size)
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)
    for own, all_of_it in zip(found[:, 0], windows[:, 0], strict=True):
        candidates = all_of_it.reshape(-1, size, size)
        both = torch.cat([candidates, candidates.flip(2)])
        assert (both == own).flatten(1).all(1).any()
    if size <= side:
        middle = center_crop(images, size)
        assert middle.shape == (2, 1, size, size)
        margin = side - size
        assert torch.equal(middle, images[:, :, margin // 2 : side - (margin + 1) // 2, margin // 2 :][..., :size])


MEMORY = """
import resource, sys
import torch
from pathlib import Path
from emphasis.datasets import ImageFiles
from emphasis.models import build
from emphasis.models.stacked import SingleNetwork
from emphasis.training.fabric import make_fabric
from emphasis.training.loop import initial_state, train
from emphasis.training.settings import Execution, Objective, Solver
from emphasis.training.task import Task
from emphasis.weighting import CCE

base, steps = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
files = ImageFiles(base, sorted(path.name for path in base.iterdir()), 96)
labels = torch.arange(len(files)) % 10
statistics = (torch.full((3,), 0.4), torch.full((3,), 0.3))
options = {"statistics": statistics, "augment": True, "crop": 48, "eval_train_size": 8}
task = Task(files, labels[None], labels, files, labels, 10, **options)
execution, solver = Execution(accelerator="cpu"), Solver(steps, 32, 0.01)
fabric = make_fabric(execution)
network = build("small-cnn", task.input_shape, 10, seed=0, widths=[2, 2, 2])
state = initial_state(SingleNetwork(network), solver, fabric, execution)
found = []

def after_step(state):
    found.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20)

train(state, task, [Objective(CCE())], [0], solver, fabric, evaluate_every=50, after_step=after_step)
print(found[steps // 4], found[-1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_flat_over_a_hundred_steps(files):
    """Steps, evaluations and all: 120 batches are 100 MiB, of which some five are in memory."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(files[0].base), "120"], capture_output=True, text=True, check=True
    )
    before, after = map(float, done.stdout.split())
    assert after - before < 16
