"""The executors side by side: equal results, killed processes, and what a job costs besides its training.

    sudo python benchmarks/executors.py        # Linux, iproute2, root; extras ray and slurm
    sudo python benchmarks/executors.py --networks 20 --kills 4 --driver-kills 1 --sizes 10 40     # scaled

Ray runs on two nodes of one core. Each node is in a network namespace that reaches the other over a virtual cable
alone, and does not see the folder of results. `slurm` are the processes that submitit starts where there is no Slurm.

    local, ray, slurm   `emphasis run` trains small networks on digits (dropout: one by one) while random workers and
                        drivers are killed. The moments are counted in networks that have finished since the last kill.
                        A command whose driver was killed is given again. Lines (but for seconds and revision) and
                        arrays must be those of a run of one process, each network recorded once.
    overhead            sweeps of trivial networks (one step) after a sweep that starts the workers: wall time and CPU
                        time of the driver per network, training included

Every part is written to results/executors.json when it has finished, and skipped when the script is started again.
Each job on slurm starts a process that imports PyTorch: seconds, which its networks share (`--per-job`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kill_sweep import found_in, is_alive
from two_hosts import SIDES, traffic, two_networks

from emphasis.experiments.runs.provenance import revision
from emphasis.files import write_text

OUT = Path(__file__).parents[1] / "results" / "executors.json"
RECIPE = """
extends = "digits"
name = "executors"
figures = []
seeds = {seeds}
network = {{ hidden = [8], dropout = 0.1 }}
solver = {{ iterations = {iterations} }}
evaluation = {{ trace = false }}
methods = [
    {{ name = "CCE", weighting = {{ family = "CCE" }} }},
    {{ name = "GCE 0.7", weighting = {{ family = "GCE", q = 0.7 }} }},
]
"""
OPTIONS = ["--no-progress", "--threads", "1", "--accelerator", "cpu", "--checkpoint-seconds", "0.05"]
HEAD, OTHER = SIDES
ADDRESS = f"{SIDES[HEAD]}:6379"
BETWEEN_KILLS = 12  # networks, at most
MEASURE = """
import executors, json, sys
print(json.dumps(executors.overhead(sys.argv[1], int(sys.argv[2]), [*map(int, sys.argv[3:])])))
"""


def inside(name: str) -> list[str]:
    """Return the beginning of a command that runs in a network."""
    return ["ip", "netns", "exec", name]


def pids_in(name: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
    return [int(pid) for pid in listed.stdout.split()]


@contextlib.contextmanager
def ray_cluster(hidden: Path) -> Iterator[None]:
    """Start two nodes of one core; the second has an empty folder in place of `hidden`. Both are gone at the end."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # of nodes and drivers alike
    with two_networks(), tempfile.TemporaryDirectory(prefix="ray-") as scratch:
        nodes: list[subprocess.Popen[bytes]] = []
        try:
            for name, where in ((HEAD, ["--head", "--port", "6379"]), (OTHER, ["--address", ADDRESS])):
                start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", "1", *where]
                start += ["--node-ip-address", SIDES[name], "--object-store-memory", str(200 * 2**20)]
                start += ["--temp-dir", scratch, "--include-dashboard=false"] if name == HEAD else []
                # `ip netns exec` has made a mount namespace as well, so that this is mounted for the node alone.
                hide = ["sh", "-c", f'mount -t tmpfs none "{hidden}" && exec "$@"', "sh"] if name == OTHER else []
                with Path(scratch, f"{name}.log").open("wb") as log:
                    nodes.append(subprocess.Popen([*inside(name), *hide, *start], stdout=log, stderr=log))
            status = [*inside(HEAD), sys.executable, "-c", WAIT_FOR_NODES, ADDRESS]
            subprocess.run(status, check=True, timeout=120)
            yield
        finally:
            for node in nodes:
                node.terminate()
            for name in SIDES:
                for pid in pids_in(name):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            for node in nodes:
                node.wait()


WAIT_FOR_NODES = """
import sys, time, ray
for _ in range(200):
    try:
        ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
        break
    except ConnectionError:
        time.sleep(1)
while ray.cluster_resources().get("CPU") != 2:
    time.sleep(0.5)
"""


def workers_of(executor: str, driver: int, folder: Path) -> list[int]:
    """Return the processes that train networks of a driver."""
    if executor == "ray":
        return [pid for name in SIDES for pid in pids_in(name) if arguments(pid).startswith(b"ray::emphasis")]
    if executor == "slurm":
        started = b"submitit.core._submit\0" + os.fsencode(folder)
        return [pid for pid in all_pids() if started in arguments(pid)]
    return [pid for pid in all_pids() if parent(pid) == driver and b"spawn_main" in arguments(pid)]


def all_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def arguments(pid: int) -> bytes:
    with contextlib.suppress(OSError):  # it has just ended
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def command(executor: str, recipe: Path, folder: Path, workers: int = 2, per_job: int = 1) -> list[str]:
    run = [sys.executable, "-m", "emphasis", "run", str(recipe), *OPTIONS, "--out", str(folder)]
    if executor == "ray":
        return [*inside(HEAD), *run, "--executor", "ray", "--address", ADDRESS]
    several = ["--per-job", str(per_job)] if executor == "slurm" else []
    return [*run, "--workers", str(workers), "--executor", executor, *several]


def finished(folder: Path) -> int:
    """Return how many networks are stored."""
    return len(list((folder / "cells").glob("[!.]*.jsonl")))


def killed(
    executor: str, recipe: Path, folder: Path, victims: list[str], draw: random.Random, per_job: int
) -> dict[str, Any]:
    """Run to the end, killing the victims, "worker" or "driver", in turn; fewer if the run ends before."""
    log, began = folder.with_name(f"{folder.name}.log"), time.monotonic()
    counts = {"worker": 0, "driver": 0}
    waiting = list(victims)
    while True:
        with log.open("ab") as file:
            driver = subprocess.Popen(command(executor, recipe, folder, per_job=per_job), stdout=file, stderr=file)
        was_killed = False
        while waiting and not was_killed:
            goal = finished(folder) + draw.randint(1, BETWEEN_KILLS)
            while finished(folder) < goal and driver.poll() is None:
                time.sleep(0.002)
            found: list[int] = []
            while not found and driver.poll() is None:
                found = [pid for pid in workers_of(executor, driver.pid, folder) if is_alive(pid)]
            if driver.poll() is not None:
                break
            victim = waiting.pop(0)
            was_killed = victim == "driver"
            with contextlib.suppress(ProcessLookupError):  # it has just finished
                os.kill(driver.pid if was_killed else draw.choice(found), signal.SIGKILL)
                counts[victim] += 1
        code = driver.wait()
        if was_killed and code != 0:
            continue
        if code != 0:
            raise SystemExit(f"a command whose driver was not killed ended with {code}:\n{log.read_text()}")
        return {
            "worker_kills": counts["worker"],
            "driver_kills": counts["driver"],
            "started_again": " ".join(log.read_text().split()).count("starting again"),
            "seconds": round(time.monotonic() - began, 1),
        }


def same_lines(executor: str, base: Path, options: argparse.Namespace, alone: dict[str, Any]) -> dict[str, Any]:
    """Return how runs on an executor, left alone and with kills, compare with that of one process."""
    draw, runs = random.Random(options.seed), []
    left = ["worker"] * options.kills + ["driver"] * options.driver_kills
    draw.shuffle(left)
    quiet: list[list[str]] = [[]]
    while quiet or left:
        folder = base / f"{executor}-{len(runs)}"
        victims = quiet.pop() if quiet else left
        sent = traffic() if executor == "ray" else 0
        about = killed(executor, base / "recipe.toml", folder, victims, draw, options.per_job)
        left = left[len(left) and about["worker_kills"] + about["driver_kills"] :] if victims else left
        results = found_in(folder)
        runs.append(
            {
                **about,
                "networks": len(results["lines"]),
                **({"bytes_over_the_cable": traffic() - sent} if executor == "ray" else {}),
                **{f"same_{name}": results[name] == alone[name] for name in alone},
            }
        )
        print(executor, runs[-1], flush=True)
    good = all(run[f"same_{name}"] for run in runs for name in alone)
    total = {name: sum(run[name] for run in runs) for name in ("worker_kills", "driver_kills", "started_again")}
    return {"all_the_same": good, **total, "runs": runs}


def overhead(executor: str, per_job: int, sizes: list[int]) -> list[dict[str, Any]]:
    """Return what sweeps of trivial networks take; run in a process of its own, for Ray on the first node."""
    from dataclasses import replace

    from emphasis.executors import ExecutorOptions
    from emphasis.experiments.recipes.load import load_recipe
    from emphasis.experiments.runs.context import RunContext
    from emphasis.experiments.runs.runner import run
    from emphasis.training.settings import Execution

    small = {"network.hidden": [8], "network.dropout": 0.1, "solver.iterations": 1, "dataset.train_size": 200}
    recipe = load_recipe("digits").limited([], ["CCE"]).changed({**small, "evaluation.trace": False})
    own = {"ray": {"address": ADDRESS}, "slurm": {"per_job": per_job}}.get(executor, {})
    chosen = ExecutorOptions(executor, **own)
    context = RunContext(execution=Execution("cpu"), threads=1, workers=2, executor=chosen, checkpoint_seconds=1e6)
    sweeps = []
    with tempfile.TemporaryDirectory() as folder:
        run(replace(recipe, seeds=4), Path(folder) / "warm-up", context)
        for size in sizes:
            began = time.process_time(), time.perf_counter()
            rows = run(replace(recipe, seeds=size), Path(folder) / str(size), context)
            cpu, wall = time.process_time() - began[0], time.perf_counter() - began[1]
            assert len(rows) == size
            sweeps.append(
                {
                    "networks": size,
                    "wall_ms_per_network": round(1000 * wall / size, 1),
                    "driver_cpu_ms_per_network": round(1000 * cpu / size, 1),
                    "load_average": round(os.getloadavg()[0], 1),
                }
            )
            print(executor, sweeps[-1], file=sys.stderr, flush=True)
    return sweeps


def measured(executor: str, per_job: int, sizes: list[int]) -> Any:
    """Return `overhead` in a process of its own."""
    run = [sys.executable, "-c", MEASURE, executor, str(per_job), *map(str, sizes)]
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
    within = inside(HEAD) if executor == "ray" else []
    done = subprocess.run([*within, *run], env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=200, metavar="N", help="of each run (default: 200)")
    parser.add_argument("--iterations", type=int, default=100, metavar="N", help="of each network (default: 100)")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="of workers (default: 20)")
    parser.add_argument("--driver-kills", type=int, default=5, metavar="N", help="of drivers (default: 5)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000], metavar="N", help="trivial networks")
    parser.add_argument("--per-job", type=int, default=25, metavar="N", help="networks of a job on slurm (default: 25)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (default: 0)")
    parser.add_argument("--only", nargs="+", choices=("local", "ray", "slurm"), default=["local", "ray", "slurm"])
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    report = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    about = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "ray": "2 nodes of 1 core in network namespaces, without a shared folder",
        "slurm": "processes of submitit, 2 at a time, without Slurm",
        "versions": {name: version(name) for name in ("torch", "ray", "submitit")},
    }
    if {name: report.get(name) for name in about} != about:
        report = about
    with tempfile.TemporaryDirectory(prefix="executors-") as folder:
        base = Path(folder)
        recipe = RECIPE.format(seeds=options.networks // 2, iterations=options.iterations)
        (base / "recipe.toml").write_text(recipe, encoding="utf-8")
        alone = None
        for executor in options.only:
            with ray_cluster(base) if executor == "ray" else contextlib.nullcontext():
                name = f"overhead_{executor}"
                if name not in report:
                    several = {"networks_per_job": options.per_job} if executor == "slurm" else {}
                    sweeps = measured(executor, options.per_job, options.sizes)
                    report[name] = {"revision": revision(), **several, "sweeps": sweeps}
                    write_text(options.out, json.dumps(report, indent=1) + "\n")
                name = f"results_{executor}"
                if name not in report:
                    if alone is None:
                        one = command("local", base / "recipe.toml", base / "alone", workers=1)
                        subprocess.run(one, check=True, stdout=subprocess.DEVNULL)
                        alone = found_in(base / "alone")
                    load = round(os.getloadavg()[0], 1)
                    compared = same_lines(executor, base, options, alone)
                    conditions = {"iterations": options.iterations, "seed": options.seed, "load_average": load}
                    conditions |= {"networks_per_job": options.per_job} if executor == "slurm" else {}
                    report[name] = {"revision": revision(), **conditions, **compared}
                    write_text(options.out, json.dumps(report, indent=1) + "\n")
                    if not compared["all_the_same"]:
                        raise SystemExit(f"runs on {executor} ended otherwise; seed {options.seed}")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
