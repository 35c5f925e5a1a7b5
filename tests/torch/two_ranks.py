"""One rank of test_two_ranks_with_uneven_masks_learn_as_one_process: python two_ranks.py RANK FOLDER NORMALIZATION."""

import contextlib
import copy
import os
import pickle
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from emphasis import DM
from emphasis.torch import EmphasisLoss


def main(rank: int, folder: Path, normalization: str | None) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
    torch.manual_seed(0)
    model = nn.Linear(6, 4, dtype=torch.float64)
    x, labels = torch.randn(20, 6, dtype=torch.float64) * 4, torch.arange(20) % 4
    labels[2:9] = -100  # rank 0 keeps 3 of its 10, rank 1 all
    alone = nn.Linear(6, 4, dtype=torch.float64)
    alone.load_state_dict(model.state_dict())
    weighting = DM(lam=0.5, beta=12)

    distributed = DistributedDataParallel(model)
    mine = slice(10 * rank, 10 * rank + 10)
    criterion = EmphasisLoss(weighting, normalization=normalization, process_group=dist.group.WORLD)
    loss = criterion(distributed(x[mine]), labels[mine])
    loss.backward()
    total = EmphasisLoss(weighting, normalization=normalization)(alone(x), labels)
    total.backward()
    for ours, theirs in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-12)
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    torch.testing.assert_close(mean / 2, total.detach())

    # One rank with nothing to learn, then both: no NaN, no rank left waiting.
    for count in (1, 2):
        empty = torch.full_like(labels[mine], -100) if rank < count else labels[mine]
        loss = criterion(distributed(x[mine]), empty)
        loss.backward()
        assert loss.isfinite()
    # One rank with no example at all: the other neither waits nor errs, and learns from its own.
    own = mine if rank else slice(0, 0)
    loss = criterion(distributed(x[own]), labels[own])
    loss.backward()
    assert loss.isfinite()
    assert (loss > 0) == bool(rank)
    copy.deepcopy(criterion)
    with contextlib.suppress(TypeError):
        pickle.dumps(criterion)
        raise AssertionError("a process group was pickled")
    dist.barrier()


if __name__ == "__main__":
    rank, folder, normalization = sys.argv[1:]
    main(int(rank), Path(folder), None if normalization == "None" else normalization)
    os._exit(0)  # gloo's threads sometimes abort an ordinary exit ("terminate called without an active exception")
