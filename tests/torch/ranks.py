"""One of four ranks of tests/torch/test_distributed.py: python ranks.py RANK FOLDER WORLD...

Every case is tried on the first WORLD ranks, for each WORLD: they see parts of a batch, one process sees all of it.
"""

import contextlib
import copy
import itertools
import os
import pickle
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from emphasis import DM, Relative
from emphasis.torch import Accumulation, EmphasisLoss, linear_emphasis_loss

PUBLISHED = DM(lam=0.5, beta=12)
CLASSES = 4
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def make_model(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES)).to(dtype)


def make_parts(world, calls, dtype):
    """Inputs, labels and sample weights, [call][rank]: uneven, one rank with no label that counts, one with nothing."""
    generator = torch.Generator().manual_seed(1)
    parts = []
    for call in range(calls):
        row = []
        for rank in range(world):
            size = 0 if (call, rank) == (1, world - 1) else 5 + 3 * rank + 4 * call
            labels = torch.randint(CLASSES, (size,), generator=generator)
            labels[torch.rand(size, generator=generator) < 0.3 * (rank + call) / world] = -100
            if rank == 1 and call != 2:
                labels[:] = -100
            if call == 0 and calls > 1 and world > 1:  # the first call of a step may have no divisor
                labels[:] = -100
            x = 4.0 * torch.randn(size, 6, generator=generator, dtype=torch.float64)
            row.append((x.to(dtype), labels, torch.rand(size, generator=generator, dtype=torch.float64).to(dtype)))
        parts.append(row)
    return parts


def prepared(kind, model, group):
    if kind == "ddp":
        return DistributedDataParallel(model, process_group=group)
    mesh = DeviceMesh.from_group(group, "cpu")
    fully_shard(model[0], mesh=mesh)
    fully_shard(model[2], mesh=mesh)
    return fully_shard(model, mesh=mesh)


@contextlib.contextmanager
def quiet(kind, model, is_last):
    """Leave out the communication of every call but the last."""
    if kind == "ddp":
        with contextlib.nullcontext() if is_last else model.no_sync():
            yield
    else:
        model.set_requires_gradient_sync(is_last)
        yield


def full(gradient):
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


def compare(kind, group, normalization, calls, *options):
    # What `Relative` asks of a batch is a mean over its ranks, but over one call of a step alone.
    for weighting in (PUBLISHED, Relative()) if calls == 1 else (PUBLISHED,):
        compare_with(weighting, kind, group, normalization, calls, *options)


def compare_with(weighting, kind, group, normalization, calls, weighted, dtype, sync):
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    parts = make_parts(world, calls, dtype)
    class_weight = torch.tensor([1.0, 0.5, 3.0, 0.0], dtype=dtype) if weighted else None
    options = {"normalization": normalization, "class_weight": class_weight}
    torch.set_default_dtype(dtype)  # of class_weight

    def loss_of(criterion, model, x, labels, trust):
        return criterion(model(x), labels, sample_weight=trust if weighted else None)

    alone = make_model(dtype)
    whole = [torch.cat(every) for every in zip(*itertools.chain(*parts), strict=True)]
    total = loss_of(EmphasisLoss(weighting, **options), alone, *whole)
    total.backward()

    model = prepared(kind, make_model(dtype), group)
    over = Accumulation(group) if calls > 1 else group
    criterion = EmphasisLoss(weighting, process_group=over, **options)
    losses = torch.zeros((), dtype=dtype)
    with over.step(model.parameters()) if calls > 1 else contextlib.nullcontext():
        for number, row in enumerate(parts):
            with quiet(kind, model, sync or number == calls - 1):
                loss = loss_of(criterion, model, *row[rank])
                loss.backward()
            losses += loss.detach()
    torch.set_default_dtype(torch.float32)
    ours, theirs = (torch.cat([full(one.grad).flatten() for one in network.parameters()]) for network in (model, alone))
    error = (ours - theirs).abs().max() / theirs.abs().max()
    assert error <= TOLERANCE[dtype], (kind, world, normalization, calls, weighted, dtype, sync, error)
    if calls > 1:
        losses *= over.factor
    dist.all_reduce(losses, group=group)
    torch.testing.assert_close(losses / world, total.detach(), rtol=10 * TOLERANCE[dtype], atol=0.0)


def nothing_to_learn(group):
    """One rank with nothing to learn, then all; one rank with no example: no NaN, no rank left waiting."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    for normalization in (None, "batch"):
        model = DistributedDataParallel(make_model(torch.float32), process_group=group)
        criterion = EmphasisLoss(PUBLISHED, normalization=normalization, process_group=group)
        x, labels = torch.randn(10, 6), torch.arange(10) % CLASSES
        for count in (1, world):
            loss = criterion(model(x), torch.full_like(labels, -100) if rank < count else labels)
            loss.backward()
            assert loss.isfinite()
        own = slice(0, 10 if rank else 0)
        loss = criterion(model(x[own]), labels[own])
        loss.backward()
        assert loss.isfinite()
        assert (loss > 0) == bool(rank)
    copy.deepcopy(criterion)
    with contextlib.suppress(TypeError):
        pickle.dumps(criterion)
        raise AssertionError("a process group was pickled")


def last_layer(group):
    """The last layer and the loss in one, its tokens spread over ranks and calls."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    parts = make_parts(world, 3, torch.float64)
    for normalization in (None, "batch"):
        weight = make_model(torch.float64)[2].weight.detach()
        hidden = [[4.0 * x.tanh().repeat(1, 2)[:, :8] for x, _, _ in row] for row in parts]
        alone = weight.clone().requires_grad_()
        labels = torch.cat([y for row in parts for _, y, _ in row])
        linear_emphasis_loss(
            torch.cat(list(itertools.chain(*hidden))), alone, labels, PUBLISHED, normalization=normalization
        ).backward()
        over, ours = Accumulation(group), nn.Parameter(weight.clone())
        with over.step([ours]):
            for row, inputs in zip(parts, hidden, strict=True):
                linear_emphasis_loss(
                    inputs[rank], ours, row[rank][1], PUBLISHED, normalization=normalization, process_group=over
                ).backward()
        dist.all_reduce(ours.grad, group=group)
        torch.testing.assert_close(ours.grad / world, alone.grad, rtol=1e-12, atol=1e-12)


def last_layer_of_relative(group):
    """The same for the default, whose means are over the ranks, and over one call alone."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    (parts,) = make_parts(world, 1, torch.float64)
    for normalization in ("integral", "batch"):
        weight = make_model(torch.float64)[2].weight.detach()
        hidden = [4.0 * x.tanh().repeat(1, 2)[:, :8] for x, _, _ in parts]
        alone, ours = (nn.Parameter(weight.clone()) for _ in range(2))
        settings = {"normalization": normalization, "class_weight": torch.tensor([1.0, 0.5, 3.0, 0.1])}
        labels = torch.cat([y for _, y, _ in parts])
        linear_emphasis_loss(torch.cat(hidden), alone, labels, **settings).backward()
        linear_emphasis_loss(
            hidden[rank], ours, parts[rank][1], process_group=group, chunk_size=3, **settings
        ).backward()
        dist.all_reduce(ours.grad, group=group)
        torch.testing.assert_close(ours.grad / world, alone.grad, rtol=1e-12, atol=1e-12)


def main(rank: int, folder: Path, worlds: list[int]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", rank=rank, world_size=max(worlds), store=dist.FileStore(str(folder / "store"), max(worlds))
    )
    groups = {world: dist.new_group(list(range(world))) for world in worlds}
    for world, group in groups.items():
        if rank < world:
            for kind, normalization, calls in itertools.product(("ddp", "fsdp"), (None, "integral", "batch"), (1, 3)):
                compare(kind, group, normalization, calls, False, torch.float64, True)
                compare(kind, group, normalization, calls, True, torch.float64, calls == 1)
                compare(kind, group, normalization, calls, True, torch.float32, True)
            last_layer(group)
            last_layer_of_relative(group)
            if world > 1:
                nothing_to_learn(group)
    dist.barrier()


if __name__ == "__main__":
    rank, folder, *worlds = sys.argv[1:]
    main(int(rank), Path(folder), list(map(int, worlds)))
    os._exit(0)  # gloo's threads sometimes abort an ordinary exit ("terminate called without an active exception")
