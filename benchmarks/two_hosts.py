"""Two hosts for real: network namespaces joined by a virtual cable, torchrun with two nodes between them.

    sudo python benchmarks/two_hosts.py        # Linux, iproute2, root; some ten minutes on two cores

Each host is in a network of its own that reaches the other over the cable alone; they share a folder.

    loop     examples/distributed_loop.py under torchrun, with DDP and with FSDP: its parameters beside one process's
    ranks    torchrun ... -m emphasis run, likewise: its lines and arrays beside those of as many ranks on one host,
             and its curves beside one process's
    sweep    emphasis run on each host, without torchrun, in one folder: its lines and arrays beside one process's

Removes what it set up. Prints, and writes to results/two_hosts.json, the differences.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kill_sweep import found_in

from emphasis.experiments.runs.provenance import revision
from emphasis.files import write_text
from emphasis.training.settings import STRATEGIES

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "distributed_loop.py"
SIDES = {f"emphasis-{side}-{os.getpid()}": f"10.213.7.{side}" for side in (1, 2)}
PORT = 29513
# A drop so small that it never comes: the networks train alone, and other ranks draw nothing else.
RECIPE = 'extends = "digits"\nname = "hosts"\nfigures = []\nseeds = 1\n[network]\ndropout = 1e-12\n'
OPTIONS = ["--no-progress", "--workers", "1", "--threads", "1", "--accelerator", "cpu", "--set", "evaluation.every=20"]


@contextlib.contextmanager
def two_networks() -> Iterator[None]:
    """Two namespaces, a cable between them, and no other way out; gone at the end."""
    first, second = SIDES
    try:
        for name in SIDES:
            ip("netns", "add", name)
        # The same name on both sides: gloo is told one.
        ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        for name, address in SIDES.items():
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("cable", "lo"):
                ip("-n", name, "link", "set", device, "up")
        yield
    finally:
        for name in SIDES:  # the cable goes with them
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def ip(*arguments: str) -> None:
    """Run `ip`, or end with what it says."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ip {' '.join(arguments)}: {done.stderr.strip()}; this needs root and network namespaces")


def on_two_hosts(commands: Sequence[list[str]]) -> list[str]:
    """Run a Python command on each host, and return what they print."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, command in zip(SIDES, commands, strict=True)
    ]
    said = [node.communicate(timeout=900)[0] for node in nodes]
    if any(node.returncode for node in nodes):
        raise SystemExit("\n".join(said))
    return said


def torchrun(processes: int, *what: str) -> list[list[str]]:
    """Return each host's command that starts so many processes of a program."""
    master = next(iter(SIDES.values()))
    where = ["--nproc-per-node", str(processes), "--master-addr", master, "--master-port", str(PORT)]
    return [["-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", rank, *where, *what] for rank in "01"]


def traffic() -> int:
    """Return the bytes that have gone over the cable, from the first host."""
    name = next(iter(SIDES))
    counter = ["ip", "netns", "exec", name, "cat", "/sys/class/net/cable/statistics/tx_bytes"]
    return int(subprocess.run(counter, capture_output=True, text=True, check=True).stdout)


def loops(base: Path, processes: int, steps: int) -> dict[str, Any]:
    """Return how far the example's parameters are from one process's."""
    alone, both = base / "alone.pt", base / "both.pt"
    arguments = [str(EXAMPLE), "--steps", str(steps), "--save"]
    subprocess.run([sys.executable, *arguments, str(alone)], check=True)
    expected = torch.load(alone)
    runs = []
    for wrap, calls in (("ddp", 1), ("ddp", 3), ("fsdp", 1), ("fsdp", 3)):
        before = traffic()
        said = on_two_hosts(torchrun(processes, *arguments, str(both), "--wrap", wrap, "--accumulate", str(calls)))
        print(said[0].strip().splitlines()[-1], flush=True)
        found = torch.load(both)
        difference = max((found[name] - value).abs().max().item() for name, value in expected.items())
        runs.append({"wrap": wrap, "calls": calls, "difference": difference, "bytes_sent": traffic() - before})
    largest = max(value.abs().max().item() for value in expected.values())
    return {"steps": steps, "runs": runs, "largest_parameter": largest}


def recipes(base: Path, processes: int, iterations: int) -> dict[str, Any]:
    """Return how a recipe's results on two hosts, as ranks and as a sweep, compare with those on one."""
    recipe = base / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")

    def command(folder: Path, *more: str) -> list[str]:
        how = [*OPTIONS, "--iterations", str(iterations), *more, "--out", str(folder)]
        return ["-m", "emphasis", "run", str(recipe), *how]

    def on_one_host(folder: Path, *arguments: str) -> dict[str, Any]:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return found_in(folder)

    def ranks(strategy: str) -> dict[str, Any]:
        both, one = base / strategy, base / f"{strategy}-on-one-host"
        how, before = ("--methods", "CCE", "DM 0.5/8 integral", "--strategy", strategy, "--devices"), traffic()
        on_two_hosts(torchrun(processes, *command(both, *how, str(processes))))
        sent, number = traffic() - before, str(2 * processes)
        local = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", number]
        same, found = on_one_host(one, *local, *command(one, *how, number)), found_in(both)
        apart = {}
        for row in found["lines"]:
            (expected,) = [line for line in alone["lines"] if line["method"] == row["method"]]
            pair = (np.array(line["curves"]["test_accuracy"]) for line in (row, expected))
            apart[row["method"]] = np.abs(np.subtract(*pair)).round(5).tolist()
        return {
            "strategy": strategy,
            "bytes_sent": sent,
            "ranks": [row["devices"] for row in found["lines"]],
            **{f"same_{name}_as_on_one_host": found[name] == same[name] for name in found},
            "evaluated_at": expected["curves"]["iteration"],
            "test_accuracy_from_one_process": apart,
        }

    alone = on_one_host(base / "alone", *command(base / "alone"))
    said = on_two_hosts([command(base / "sweep")] * 2)
    sweep = found_in(base / "sweep")
    return {
        "iterations": iterations,
        "ranks": [ranks(strategy) for strategy in STRATEGIES],
        "sweep": {
            "networks": len(sweep["lines"]),
            "found_taken_by_the_other": [" ".join(one.split()).count("another process is at it") for one in said],
            **{f"same_{name}_as_one_process": sweep[name] == alone[name] for name in alone},
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="on each host (default: 2)")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="of the example (default: 300)")
    parser.add_argument("--iterations", type=int, default=100, metavar="N", help="of the recipe (default: 100)")
    parser.add_argument("--out", type=Path, default=Path("results/two_hosts.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, two_networks():
        report = {
            "hosts": 2,
            "processes_each": options.processes,
            "loop": loops(Path(folder), options.processes, options.steps),
            "recipe": recipes(Path(folder), options.processes, options.iterations),
            "machine": platform.machine(),
            "torch": torch.__version__,
            "revision": revision(),
        }
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
