"""DM in one's own loop over several processes (needs the extras torch and experiments).

    torchrun --nproc-per-node 2 examples/distributed_loop.py
    torchrun --nproc-per-node 2 examples/distributed_loop.py --wrap fsdp --accumulate 3
    python examples/distributed_loop.py                       # the same numbers, up to rounding, in one process

Trains a small network on scikit-learn's digits, 40 % of whose training labels are wrong, with the emphasis of each
batch normalized over all processes and accumulated calls, and prints the accuracy on clean test labels. On CPUs the
processes talk over gloo, on GPUs over nccl.
"""

import argparse
import contextlib
import os
import sys

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from emphasis import DM
from emphasis.corruption import symmetric
from emphasis.torch import Accumulation, EmphasisLoss


def start() -> torch.device:
    """Join the other processes that torchrun started, or be the only one; return this one's device."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if on_gpu else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def wrapped(model: nn.Module, how: str, device: torch.device) -> nn.Module:
    """Return the model, the same on all processes, with its gradients averaged over them."""
    if how == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@contextlib.contextmanager
def synchronized(model: nn.Module, last: bool):
    """Let the gradients of a step's last call alone be sent, with those of the calls before."""
    if isinstance(model, DistributedDataParallel):
        with contextlib.nullcontext() if last else model.no_sync():
            yield
    else:
        model.set_requires_gradient_sync(last)
        yield


def train(model, x, labels, steps: int, calls: int) -> None:
    """Train with batches of 128, each cut into `calls` micro-batches and those over the processes."""
    rank, world = dist.get_rank(), dist.get_world_size()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    whole = Accumulation(dist.group.WORLD)
    criterion = EmphasisLoss(DM(lam=0.5, beta=8), normalization="batch", process_group=whole)
    generator = torch.Generator().manual_seed(0)  # all processes draw the same batch, and each takes its part
    for _ in range(steps):
        batch = torch.randint(len(x), (128,), generator=generator).to(x.device)
        optimizer.zero_grad()
        with whole.step(model.parameters()):
            for call in range(calls):
                mine = batch[call::calls][rank::world]
                with synchronized(model, last=call == calls - 1):
                    criterion(model(x[mine]), labels[mine]).backward()
        optimizer.step()


def main() -> None:
    """Train, and print on the first process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wrap", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--accumulate", type=int, default=1, metavar="N", help="calls in a step (default: 1)")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="of the optimizer (default: 300)")
    parser.add_argument("--save", metavar="FILE", help="write the trained parameters there")
    options = parser.parse_args()

    device = start()
    images, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(images / 16.0, labels, test_size=500, stratify=labels, random_state=0)
    noisy = torch.from_numpy(symmetric(y, noise_rate=0.4, seed=0).labels).to(device)
    x, x_test = (torch.tensor(part, dtype=torch.float32, device=device) for part in (x, x_test))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)).to(device)
    model = wrapped(network, options.wrap, device)
    train(model, x, noisy, options.steps, options.accumulate)

    with torch.no_grad():  # every process takes part: with fsdp none has the whole network
        right = (model(x_test).argmax(1).cpu() == torch.from_numpy(y_test)).float().mean().item()
        values = {
            name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in network.named_parameters()
        }
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} processes, {options.wrap}, {options.accumulate} calls a step: {right:.1%}")
        if options.save:
            torch.save({name: value.detach().cpu() for name, value in values.items()}, options.save)
    dist.barrier()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort an ordinary exit ("terminate called without an active exception")
