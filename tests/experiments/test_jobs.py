"""Which cells train together, and what their data and noise are."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from emphasis.datasets import Split, load_digits
from emphasis.experiments.recipes.load import load_recipe, recipe_names
from emphasis.experiments.recipes.settings import Dataset, Network, Noise
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.data import check_names, corrupted, make_task
from emphasis.experiments.runs.jobs import make_jobs
from emphasis.experiments.runs.provenance import _described_revision, revision
from emphasis.experiments.runs.train_job import make_stack
from emphasis.models import build
from emphasis.models.stacked import SingleNetwork, StackedMLP

DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize("name", ["digits", "table5", "table7", "table9"])
def test_every_cell_is_in_one_job_and_jobs_share_their_settings(name):
    cells = list(load_recipe(name).cells())
    jobs = make_jobs(cells)
    assert sorted(cell.key for job in jobs for cell in job.cells) == sorted({cell.key for cell in cells})
    for job in jobs:
        assert len(job.cells) == len(job.objectives) * len(job.seeds)
        assert all(cell.shared() == job.cells[0].shared() for cell in job.cells)
        for number, cell in enumerate(job.cells):
            assert cell.objective == job.objectives[number // len(job.seeds)]
            assert cell.seed == job.seeds[number % len(job.seeds)]


def test_perceptrons_are_stacked_and_other_networks_are_not():
    stacked = make_jobs(list(load_recipe("table5").cells()))
    assert len(stacked) == 5
    stack = make_stack(stacked[0], (100,), 2)
    assert isinstance(stack, StackedMLP)
    assert stack.num_networks == len(stacked[0].cells)
    alone = make_jobs(list(load_recipe("table9").scaled_down().cells()))
    assert all(len(job.cells) == 1 for job in alone)
    assert isinstance(make_stack(alone[0], (3, 32, 32), 10), SingleNetwork)


def test_what_is_left_of_a_half_finished_recipe_keeps_the_product_form():
    cells = list(load_recipe("digits").cells())
    rest = [cell for cell in cells if not (cell.method == "CCE" and cell.seed < 3) and cell.method != "MAE"]
    jobs = make_jobs(rest)
    assert sorted(cell.key for job in jobs for cell in job.cells) == sorted(cell.key for cell in rest)
    assert {job.seeds for job in jobs} == {(0, 1, 2, 3, 4), (3, 4)}


def test_hidden_layers_left_out_are_the_same_in_a_stack_and_alone():
    cell = next(load_recipe("digits").cells())
    sizes = []
    for options in ({}, {"dropout": 0.1}):
        (job,) = make_jobs([dataclasses.replace(cell, network=Network("mlp", options))])
        sizes.append(sum(parameter.numel() for parameter in make_stack(job, (64,), 10).parameters()))
    assert sizes[0] == sizes[1]
    for options, match in (({"dropot": 0.1}, "did you mean 'dropout'"), ({"hidden": [0]}, "hidden")):
        (job,) = make_jobs([dataclasses.replace(cell, network=Network("mlp", options))])
        with pytest.raises(ValueError, match=match):
            make_stack(job, (64,), 10)


def test_perceptrons_take_images_flattened_and_stay_alone_where_images_are_cropped():
    cell = next(load_recipe("digits").cells())
    (job,) = make_jobs([cell])
    assert make_stack(job, (1, 4, 4), 10)(torch.zeros(1, 2, 1, 4, 4)).shape == (1, 2, 10)
    cropped = dataclasses.replace(cell, dataset=dataclasses.replace(cell.dataset, name="mnist", augment=True))
    (job,) = make_jobs([cropped])
    assert isinstance(make_stack(job, (1, 28, 28), 10), SingleNetwork)


def test_names_are_checked_before_anything_is_loaded():
    cell = next(load_recipe("digits").cells())
    for changes, match in (
        ({"network": Network("resnet57")}, "resnet56"),
        ({"network": Network("mlp", {"hiden": [3]})}, "no option 'hiden'.*hidden"),
        ({"dataset": Dataset("digit")}, "digits"),
        ({"dataset": Dataset("digits", options={"test": 3})}, "no option 'test'.*test_size"),
    ):
        with pytest.raises(ValueError, match=match):
            check_names([dataclasses.replace(cell, **changes)])


def test_a_dropout_rate_takes_a_perceptron_out_of_the_stack():
    cell = next(load_recipe("digits").cells())
    network = dataclasses.replace(cell.network, options={**cell.network.options, "dropout": 0.5})
    (job,) = make_jobs([dataclasses.replace(cell, network=network)])
    assert isinstance(make_stack(job, (64,), 10), SingleNetwork)


def _split(images=False):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 60)
    inputs = (
        rng.integers(256, size=(120, 3, 4, 4), dtype=np.uint8) if images else rng.random((120, 5), dtype=np.float32)
    )
    human = np.where(rng.random(120) < 0.3, 1 - labels, labels)
    return Split(inputs, labels, inputs[:20], labels[:20], 2, human_labels={"worse_label": human})


def test_noise_depends_on_the_seed_and_changes_only_labels():
    cell = dataclasses.replace(next(load_recipe("digits").cells()), noise=Noise("symmetric", 0.3))
    split = _split()
    task = make_task(cell, split, [0, 1])
    assert task.index is None
    assert torch.equal(task.inputs, torch.from_numpy(split.train_inputs))
    assert task.noisy.float().mean(1).tolist() == pytest.approx([0.3, 0.3])
    assert not torch.equal(task.labels[0], task.labels[1])
    assert torch.equal(make_task(cell, split, [1]).labels[0], task.labels[1])


def test_a_ratio_of_positives_to_negatives_keeps_every_positive():
    cell = dataclasses.replace(next(load_recipe("digits").cells()), noise=Noise("pn_ratio", ratio=10.0))
    task = make_task(cell, _split(), [0, 1])
    assert task.num_train == 66
    assert task.labels.sum(1).tolist() == [60, 60]
    assert torch.equal(task.labels, task.true_labels[task.index])
    assert not task.noisy.any()
    assert not torch.equal(task.index[0], task.index[1])


def test_a_ratio_of_positives_to_negatives_needs_two_classes():
    split = load_digits()
    with pytest.raises(ValueError, match="needs two classes, the data has 10"):
        corrupted(split, Noise("pn_ratio", ratio=10.0), 0)


def test_human_labels_are_what_people_gave():
    split = _split()
    found = corrupted(split, Noise("human", labels="worse_label"), seed=0)
    assert np.array_equal(found.labels, split.human_labels["worse_label"])
    rates = [(found.labels[split.train_labels == c] != c).mean() for c in (0, 1)]
    np.testing.assert_allclose(1 - np.diag(found.transition_matrix), rates)
    np.testing.assert_allclose(found.transition_matrix.sum(axis=1), 1.0)
    with pytest.raises(ValueError, match="use one of: worse_label"):
        corrupted(split, Noise("human", labels="aggre_label"), seed=0)


def test_images_bring_their_channel_statistics():
    cell = next(load_recipe("table8").cells())
    task = make_task(cell, _split(images=True), [0])
    assert task.augment
    prepared = task.prepared(task.inputs[None])
    assert prepared.shape == (1, 120, 3, 4, 4)
    np.testing.assert_allclose(prepared.mean((0, 1, 3, 4)), 0.0, atol=1e-5)
    np.testing.assert_allclose(prepared.var((0, 1, 3, 4), correction=0), 1.0, atol=1e-5)


@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not beside the repository")
def test_human_labels_of_cifar10_have_the_published_noise_rate():
    from emphasis.experiments.runs.data import load_split

    cell = next(load_recipe("cifar10n").cells())
    split = load_split(cell.dataset, cell.noise, RunContext(DATA))
    assert corrupted(split, cell.noise, 0).realized_rate == pytest.approx(0.4021, abs=5e-5)


def _networks():
    """One cell for each distinct network of the recipes."""
    cells = {}
    for name in recipe_names():
        for cell in load_recipe(name).cells():
            cells.setdefault((cell.network.name, str(cell.network.options)), cell)
    return list(cells.values())


@pytest.mark.parametrize("cell", _networks(), ids=lambda cell: f"{cell.network.name}-{cell.network.options}")
def test_every_recipes_network_can_be_built_and_run(cell, tmp_path):
    if name := cell.network.options.get("pretrained"):
        torch.save(build(cell.network.name, (3, 224, 224), 1000, seed=1).state_dict(), tmp_path / name)
    shape = {"mlp": (100,), "resnet50": (3, 64, 64), "googlenet-v2": (3, 64, 64)}.get(cell.network.name, (3, 32, 32))
    stack = make_stack(make_jobs([cell])[0], shape, 10, tmp_path).eval()
    with torch.no_grad():
        assert stack(torch.zeros(1, 2, *shape)).shape == (1, 2, 10)


def test_a_copy_without_its_repository_is_told_its_revision(monkeypatch):
    monkeypatch.setenv("PATH", "")  # no git
    monkeypatch.delenv("EMPHASIS_REVISION", raising=False)
    _described_revision.cache_clear()  # of a test before
    assert revision() is None
    _described_revision.cache_clear()
    monkeypatch.setenv("EMPHASIS_REVISION", "3b4994e")
    assert revision() == "3b4994e"
