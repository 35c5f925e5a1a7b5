"""What methods compute in a step stays on the device, and takes few operations."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from emphasis.baselines import Problem, Step, make
from emphasis.baselines._instance_matching import InstanceMatching

CLASSES, WIDTH = 5, 8


class Operations(TorchDispatchMode):
    """Counts the operations that are dispatched; `_local_scalar_dense` reads a number for the host."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def step_of(method, n=20, progress=0.9):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, CLASSES, generator=generator, requires_grad=True)
    return Step(logits, method.labels, torch.arange(n), progress, lambda inputs: inputs)


@pytest.mark.parametrize("name", ["mentornet-pd", "mentornet-dd"])
def test_a_step_of_mentornet_reads_nothing_back(name):
    labels = torch.arange(20) % CLASSES
    method = make(name, Problem(labels, CLASSES, annotate=lambda rows: labels[rows]))
    if name == "mentornet-dd":
        method.updated.fill_(1)
    method.loss(step_of(method))
    with Operations() as operations:
        method.loss(step_of(method))
    assert operations.counts
    assert "aten::_local_scalar_dense" not in operations.counts


def test_mentornet_dd_counts_its_updates_anew_after_a_checkpoint_is_loaded():
    labels = torch.arange(20) % CLASSES
    problem = Problem(labels, CLASSES, annotate=lambda rows: labels[rows])
    trained, other = make("mentornet-dd", problem), make("mentornet-dd", problem)
    trained.updated.fill_(2)
    torch.manual_seed(0)
    expected = trained.loss(step_of(trained))
    other.loss(step_of(other))  # has read that it had no update
    other.load_state_dict(trained.state_dict())
    torch.manual_seed(0)
    assert torch.equal(other.loss(step_of(other)), expected)


def moved_one_by_one(classes, features, labels, momentum):
    for example, label in zip(features, labels.tolist(), strict=True):
        classes[label] = F.normalize(momentum * classes[label] + (1.0 - momentum) * example, dim=0)
    return classes


@pytest.mark.parametrize("labels", [[0], [3, 3, 3], [0, 1, 2, 3, 4], [4, 0, 4, 4, 1, 0, 2, 4]])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_instance_matching_moves_classes_as_one_example_after_another_would(labels, momentum):
    labels = torch.tensor(labels)
    matching = InstanceMatching(CLASSES, WIDTH, momentum=momentum)
    generator = torch.Generator().manual_seed(1)
    expected = matching.classes.clone()
    for _ in range(3):
        features = F.normalize(torch.randn(len(labels), WIDTH, generator=generator), dim=1)
        logits = matching(features, labels)
        torch.testing.assert_close(logits, features @ expected.T / 0.1)
        expected = moved_one_by_one(expected, features, labels, momentum)
        torch.testing.assert_close(matching.classes, expected)


def test_instance_matching_takes_as_many_operations_as_the_most_frequent_class_has_examples():
    counts = []
    for classes in (5, 500):
        labels = torch.arange(classes).repeat(2)
        matching = InstanceMatching(classes, WIDTH)
        with Operations() as operations:
            matching(torch.ones(len(labels), WIDTH), labels)
        counts.append(sum(operations.counts.values()))
    assert counts[0] == counts[1]
