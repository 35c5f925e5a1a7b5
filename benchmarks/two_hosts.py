"""Two hosts for real: network namespaces joined by a virtual cable, torchrun with two nodes between them.

    sudo python benchmarks/two_hosts.py        # Linux, iproute2, root; about a minute

Runs examples/distributed_loop.py on two nodes of two processes each, with DDP and with FSDP, each node in a network
of its own that reaches the other over the cable alone; compares the trained parameters with those of one process;
removes what it set up. Prints, and writes to results/two_hosts.json, the largest difference.
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
from collections.abc import Iterator
from pathlib import Path

import torch

from emphasis.experiments.jobs import revision
from emphasis.files import write_text

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "distributed_loop.py"
SIDES = {f"emphasis-{side}-{os.getpid()}": f"10.213.7.{side}" for side in (1, 2)}
PORT = 29513


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


def on_two_hosts(processes: int, options: list[str]) -> str:
    """Run the example on both hosts, and return what it prints."""
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
    master = next(iter(SIDES.values()))
    nodes = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
             "--node-rank", str(number), "--nproc-per-node", str(processes), "--master-addr", master,
             "--master-port", str(PORT), str(EXAMPLE), *options],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number, name in enumerate(SIDES)
    ]  # fmt: skip
    said = [node.communicate(timeout=300)[0] for node in nodes]
    if any(node.returncode for node in nodes):
        raise SystemExit("\n".join(said))
    return said[0].strip().splitlines()[-1]


def traffic() -> int:
    """Return the bytes that have gone over the cable, from the first host."""
    name = next(iter(SIDES))
    counter = ["ip", "netns", "exec", name, "cat", "/sys/class/net/cable/statistics/tx_bytes"]
    return int(subprocess.run(counter, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="on each host (default: 2)")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="(default: 300)")
    parser.add_argument("--out", type=Path, default=Path("results/two_hosts.json"))
    options = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as folder, two_networks():
        alone, both = Path(folder, "alone"), Path(folder, "both")
        steps = ["--steps", str(options.steps), "--save"]
        subprocess.run([sys.executable, str(EXAMPLE), *steps, str(alone)], check=True)
        expected = torch.load(alone)
        for wrap, calls in (("ddp", 1), ("ddp", 3), ("fsdp", 1), ("fsdp", 3)):
            before = traffic()
            how = ["--wrap", wrap, "--accumulate", str(calls)]
            print(on_two_hosts(options.processes, [*steps, str(both), *how]), flush=True)
            found = torch.load(both)
            difference = max((found[name] - value).abs().max().item() for name, value in expected.items())
            runs.append({"wrap": wrap, "calls": calls, "difference": difference, "bytes_sent": traffic() - before})
    report = {
        "hosts": 2, "processes_each": options.processes, "steps": options.steps, "runs": runs,
        "largest_parameter": max(value.abs().max().item() for value in expected.values()),
        "machine": platform.machine(), "torch": torch.__version__, "revision": revision(),
    }  # fmt: skip
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
