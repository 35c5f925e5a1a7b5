"""How `speed.py` measures time and memory, and on what machine."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import platform
import random
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from speed_cases import Case, Contender, contenders

from emphasis.kernels.compiler import compiler_command
from emphasis.kernels.library import level
from emphasis.torch._fused import backend_on

SMALLEST_MEASURED = 8 * 10**6  # bytes of logits: the memory of less drowns in the allocator's own
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 3e-2}  # of gradients that should be the same


@dataclass(frozen=True)
class Timing:
    """What was timed of one contender.

    Attributes:
        calls: In each block.
        seconds: Per call, one number for each repeat.
    """

    calls: int
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def time_all(case: Case, rivals: Sequence[Contender], device: str, repeats: int, shortest: float) -> dict[str, Timing]:
    """Time all contenders in turn, a block of calls each, `repeats` times over.

    Args:
        case: What they do.
        rivals: The contenders, the reference first.
        device: Waited for before and after every block.
        repeats: How often.
        shortest: Seconds that a block lasts, at least.
    """
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    _check_gradients(case, rivals)  # which warms up as well
    calls = {rival.name: _calls(rival, synchronize, shortest) for rival in rivals}

    seconds: dict[str, list[float]] = {rival.name: [] for rival in rivals}
    order = random.Random(0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for rival in order.sample(rivals, len(rivals)):  # nobody always runs after the same one
                seconds[rival.name].append(_block(rival, calls[rival.name], synchronize))
    finally:
        gc.enable()
    return {name: Timing(calls[name], values) for name, values in seconds.items()}


def _calls(rival: Contender, synchronize: Callable[[], None], shortest: float) -> int:
    """Return how many calls last `shortest` seconds, at least."""
    calls = 1
    while True:
        once = _block(rival, calls, synchronize)
        if once * calls < 10 * shortest:  # it could be a short call and an interruption
            once = min(once, *(_block(rival, calls, synchronize) for _ in range(3)))
        if once * calls >= shortest:
            return calls
        calls = max(calls + 1, round(1.1 * shortest / once))


def _block(rival: Contender, calls: int, synchronize: Callable[[], None]) -> float:
    """Return the seconds per call."""
    rival.prepare()
    synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        rival.run()
    synchronize()
    return (time.perf_counter() - start) / calls


def _check_gradients(case: Case, rivals: Sequence[Contender]) -> None:
    """Raise RuntimeError if contenders that should compute the same do not."""
    known: dict[str, tuple[str, tuple[torch.Tensor | None, ...]]] = {}
    for rival in rivals:
        if rival.gradients is None:
            continue
        rival.prepare()
        gradients = rival.gradients()
        if rival.computes not in known:
            # A clone, for an in-place contender's gradient lies in what others overwrite.
            known[rival.computes] = rival.name, tuple(None if g is None else g.clone() for g in gradients)
        first, expected = known[rival.computes]
        for one, other in zip(gradients, expected, strict=True):
            if one is None or other is None:
                raise RuntimeError(f"{case.name}: {rival.name} or {first} has left no gradient")
            error = float((one.double() - other.double()).norm() / other.double().norm())
            if not error < _TOLERANCE[case.dtype]:
                raise RuntimeError(f"{case.name}: the gradient of {rival.name} is {error:.1g} away from {first}'s")


def ratios(timing: Timing, reference: Timing) -> dict[str, float]:
    """Return the ratio of times, repeat by repeat: median, least, greatest, mean and the mean's standard error."""
    each = [one / other for one, other in zip(timing.seconds, reference.seconds, strict=True)]
    error = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else float("nan")
    return {
        "ratio": statistics.median(each),
        "ratio_min": min(each),
        "ratio_max": max(each),
        "ratio_mean": statistics.mean(each),
        "ratio_error": error,
    }


# --- memory -----------------------------------------------------------------------------------------------------------


def extra_bytes(case: Case, contender: str, device: str, threads: int) -> int | None:
    """Return the most memory that one pass takes beyond what was there before it; None where it cannot be known."""
    if case.kind == "step" or case.logits_bytes < SMALLEST_MEASURED:
        return None
    if device == "cuda":
        return _extra_on_cuda(case, contender)
    if platform.system() != "Linux":
        return None
    # A process of its own: what others have left in the allocator's lists would be taken from there, unseen.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_extra_on_linux, case, contender, threads).result()


def _extra_on_linux(case: Case, contender: str, threads: int) -> int:
    torch.set_num_threads(threads)
    rival = next(one for one in contenders(case, "cpu") if one.name == contender)
    _warm_up(rival)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    rival.run()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def _extra_on_cuda(case: Case, contender: str) -> int:
    rival = next(one for one in contenders(case, "cuda") if one.name == contender)
    _warm_up(rival)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rival.run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _warm_up(rival: Contender) -> None:
    rival.prepare()
    rival.run()
    rival.prepare()
    gc.collect()


# --- the machine ------------------------------------------------------------------------------------------------------


def machine(device: str) -> dict[str, Any]:
    """Describe what the figures depend on; "-" stands for what this system does not tell."""
    described = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "L2 cache per core": _cache(2),
        "L3 cache": _cache(3),
        "memory": _memory(),
        "system": " ".join((platform.system(), platform.release().partition("-")[0], *platform.libc_ver())).strip(),
        "transparent huge pages": _huge_pages(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "vector instructions that torch uses": torch.backends.cpu.get_cpu_capability(),
        "C compiler": _compiler(),
        "kernels of emphasis": backend_on(torch.empty(1, 2, device=device)).name,
        "instruction set of the kernels": level() if device == "cpu" else "-",
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        described["GPU"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        described["CUDA"] = torch.version.cuda
    return described


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    name = found[1] if found else platform.processor() or platform.machine()
    return (
        f"{name} (a virtual machine's)" if re.search(r"^flags.*\bhypervisor\b", _read("/proc/cpuinfo"), re.M) else name
    )


def _cache(level: int) -> str:
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if _read(f"{folder}/level").strip() == str(level):
            return _read(f"{folder}/size").strip().replace("K", " KiB")
    return "-"


def _memory() -> str:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return f"{int(found[1]) / 2**20:.0f} GiB" if found else "-"


def _huge_pages() -> str:
    found = re.search(r"\[(\w+)\]", _read("/sys/kernel/mm/transparent_hugepage/enabled"))
    return found[1] if found else "-"


def _compiler() -> str:
    command = compiler_command()
    if command is None:
        return "none"
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "-"
    return done.stdout.splitlines()[0]
