"""A batch in parts, on ranks and in calls, teaches what the whole batch does."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from emphasis import CCE, DM, GCE
from emphasis.torch import Accumulation, EmphasisLoss, emphasis_loss
from forked import Program, succeed_together

PUBLISHED = DM(lam=0.5, beta=12)


def test_ranks_with_uneven_masks_and_batches_learn_as_one_process(tmp_path):
    """DDP and FSDP2 over gloo, one call or three, all normalizations and weights, of 1, 2 and 4 ranks: see ranks.py."""
    script = Path(__file__).with_name("ranks.py")
    worlds = ["1", "2", "4"]
    succeed_together([Program(script, rank, tmp_path, *worlds) for rank in range(int(worlds[-1]))])


@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=5),
    ignored=st.lists(st.booleans(), min_size=5, max_size=5),
    normalization=st.sampled_from([None, "integral", "batch"]),
    weighting=st.sampled_from([CCE(), GCE(0.7), PUBLISHED, DM(lam=0.5, beta=12, vanishing=True)]),
    weighted=st.booleans(),
    soft=st.booleans(),
)
def test_calls_of_a_step_add_up_to_one_batch(seed, sizes, ignored, normalization, weighting, weighted, soft):
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    model = nn.Linear(3, 4, dtype=torch.float64)
    x, trust = torch.randn(sum(sizes), 3, **draw) * 6, torch.rand(sum(sizes), **draw)
    labels = torch.randint(4, (sum(sizes),), generator=generator)
    labels[torch.cat([torch.full((size,), off) for size, off in zip(sizes, ignored, strict=False)])] = -100
    if soft:
        labels = torch.softmax(torch.randn(sum(sizes), 4, **draw), 1)
    trust = trust if weighted else torch.ones_like(trust)
    options = {"normalization": normalization}
    whole = EmphasisLoss(weighting, **options)(model(x), labels, sample_weight=trust)
    expected = torch.autograd.grad(whole, list(model.parameters()))

    accumulation = Accumulation()
    criterion = EmphasisLoss(weighting, process_group=accumulation, **options)
    with accumulation.step(model.parameters()):
        losses = [
            criterion(model(own), y, sample_weight=t)
            for own, y, t in zip(x.split(sizes), labels.split(sizes), trust.split(sizes), strict=True)
        ]
        for loss in losses:
            loss.backward()
    for ours, theirs in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(ours.grad, theirs, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(sum(losses).detach() * accumulation.factor, whole.detach(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("normalization", [None, "integral", "batch"])
def test_a_step_of_one_call_and_calls_outside_steps_are_the_plain_loss(normalization):
    torch.manual_seed(0)
    leaf, labels = nn.Parameter(3 * torch.randn(9, 4)), torch.arange(9) % 4
    expected = emphasis_loss(leaf, labels, PUBLISHED, normalization=normalization)
    (gradient,) = torch.autograd.grad(expected, leaf)
    accumulation = Accumulation()
    criterion = EmphasisLoss(PUBLISHED, normalization=normalization, process_group=accumulation)
    for _ in range(2):
        leaf.grad = None
        plain = criterion(leaf[:5], labels[:5])  # neither counted now nor in the next step
        with accumulation.step([leaf]):
            criterion(leaf, labels).backward()
        assert accumulation.factor == 1.0
        torch.testing.assert_close(leaf.grad, gradient, rtol=1e-6, atol=1e-8)
        own = emphasis_loss(leaf[:5], labels[:5], PUBLISHED, normalization=normalization)
        torch.testing.assert_close(plain, own, rtol=1e-6, atol=0.0)


def test_what_cannot_be_added_up_is_an_error():
    leaf, labels = nn.Parameter(torch.randn(6, 4)), torch.arange(6) % 4
    accumulation = Accumulation()
    criterion = EmphasisLoss(PUBLISHED, process_group=accumulation)
    with pytest.raises(RuntimeError, match="no call of the loss was counted"), accumulation.step([leaf]):
        EmphasisLoss(PUBLISHED, process_group=accumulation, reduction="sum")(leaf, labels).backward()
    with pytest.raises(RuntimeError, match="no parameter has a gradient"), accumulation.step([nn.Parameter(leaf)]):
        criterion(leaf, labels).backward()
    with (
        pytest.raises(RuntimeError, match="has not ended"),
        accumulation.step([leaf]),
        accumulation.step([leaf]),
    ):
        pass
    with accumulation.step([leaf]):
        loss = criterion(leaf, labels)
        loss.backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="count twice"):
            loss.backward()
        with pytest.raises(RuntimeError, match="count twice"):
            torch.autograd.grad(criterion(leaf.double(), labels), leaf, create_graph=True)[0].sum().backward()
    with pytest.raises(OverflowError, match="use float64"), accumulation.step([leaf]):
        huge = EmphasisLoss(DM(lam=0.5, beta=1000), normalization="batch", process_group=accumulation)
        for p in (0.9, 0.3):
            huge(torch.tensor([[p, 1 - p]]).log() + 0 * leaf[:1, :2], labels[:1]).backward()
    with pytest.raises(ZeroDivisionError), accumulation.step([leaf]):
        raise ZeroDivisionError
    leaf.grad = None
    with accumulation.step([leaf]):  # an error inside leaves nothing behind
        criterion(leaf, labels).backward()
    assert accumulation.factor == 1.0
    with pytest.raises(RuntimeError, match=r"count it only once"), accumulation.step([leaf]):
        torch.compile(criterion, backend="aot_eager")(leaf, labels).backward()
