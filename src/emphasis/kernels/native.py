"""The kernels for the CPU: rows.c, compiled on first use and kept.

Any C compiler that knows gcc's options will do (gcc, clang); it takes about a second, once for each version of the
source. Where there is none, or with EMPHASIS_NATIVE=0 in the environment, `available()` is False and the loss is
computed by torch operators: slower, and as exact.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from emphasis.files import cache_dir
from emphasis.kernels import ExampleError
from emphasis.weighting.margin_table import MarginTable

State = tuple[Tensor, Tensor]

_SOURCES = [Path(__file__).with_name(name) for name in ("rows.c", "steps.h", "lanes.h")]
_FLAGS = (
    *("-O3", "-std=c11", "-shared", "-fPIC", "-fopenmp-simd"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"),
)
# By what torch itself has found the processor to be, so that a cache shared by several machines is safe.
_PROCESSORS = {
    "AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "AVX2": ("-march=x86-64-v3",),
}
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_REDUCTIONS = {"mean": 1, "sum": 0, "none": -1}
_BAD_LABEL, _NOT_FINITE = 1, 2
_log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """Return the compiled kernels, or None where they cannot be had."""
    if os.environ.get("EMPHASIS_NATIVE") == "0":
        return None
    compiler = compiler_command()
    if compiler is None:
        _log.info("no C compiler found: the loss runs on torch operators")
        return None
    try:
        library = ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        detail = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        _log.info("rows.c could not be compiled, the loss runs on torch operators: %s", detail)
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.emphasis_loss_and_derivative.argtypes = [pointer] * 8 + [size] * 4 + [number] * 4
    library.emphasis_batch.argtypes = library.emphasis_loss_and_derivative.argtypes
    library.emphasis_margins.argtypes = [pointer] * 5 + [size] * 4 + [number] * 2 + [pointer]
    library.emphasis_write.argtypes = [pointer] * 6 + [size] * 4 + [number] * 2
    return library


def compiler_command() -> str | None:
    """Return the C compiler: what $CC says, or the first there is; None if there is none."""
    return os.environ.get("CC") or next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)


def _compiled(compiler: str) -> Path:
    """Return the path of the shared library, compiling it if it is not there yet."""
    flags = [*_FLAGS, *_PROCESSORS.get(torch.backends.cpu.get_cpu_capability(), ())]
    text = "\n".join([source.read_text() for source in _SOURCES])
    key = _digest("\n".join([text, *flags, compiler, platform.machine(), platform.system()]).encode())
    try:
        folder = cache_dir() / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        # A library that is not whole would take the process down: its name says what must be in it.
        for kept in folder.glob(f"rows-{key}-*.so"):
            if kept.name == f"rows-{key}-{_digest(kept.read_bytes())}.so":
                return kept
        building = Path(tempfile.mkdtemp(dir=folder))
    except OSError:  # a home that cannot be written to: for this process alone, then
        folder = building = Path(tempfile.mkdtemp())
    try:
        new = building / "new.so"
        command = [*compiler.split(), *flags, "-o", str(new), str(_SOURCES[0]), "-lm", "-lpthread"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
        return new.replace(folder / f"rows-{key}-{_digest(new.read_bytes())}.so")
    finally:
        if building != folder:
            shutil.rmtree(building, ignore_errors=True)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def available() -> bool:
    """Return whether the kernels are there; compiles them on the first call."""
    return _library() is not None


def _raise_if(status: int, where: ctypes.c_int64) -> None:
    if status in (_BAD_LABEL, _NOT_FINITE):
        raise ExampleError(where.value, status == _BAD_LABEL)
    if status:
        raise MemoryError(f"the loss kernel failed with status {status}: no memory, or a dtype it was not built for")


def loss_and_derivative(
    logits: Tensor,
    labels: Tensor,
    factor: Tensor | None,
    table: MarginTable,
    ignore_index: int,
    out: Tensor | None,
    reduction: str,
    defer: bool,
    of_batch: bool = False,
) -> tuple[Tensor, float]:
    """Return the loss, and write its derivative to `out`.

    Args:
        logits: (outer, C, ...), contiguous: float32, bfloat16 or float16.
        labels: (outer, ...) int64, contiguous: in [0, C) or `ignore_index`.
        factor: Like the labels, float32 weights >= 0 of the examples, or None for 1.
        table: The weighting.
        ignore_index: Label of examples without loss and derivative.
        out: Like the logits; may be the logits; None for the loss alone.
        reduction: "mean" over the factors of the examples that count, "sum" or "none".
        defer: Leave the mean's division out of the derivative, to within a power of two: float16 could not hold it.
        of_batch: Divide the weights by their sum over the batch; "mean" and "sum" are the same then.

    Returns:
        The float32 loss, like the labels for "none" and () otherwise; and what `out` is still to be multiplied by.

    Raises:
        ExampleError: A label is not allowed, or a logit is not finite.
    """
    library = _library()
    assert library is not None
    outer, classes = logits.shape[:2]
    loss = torch.empty(labels.shape if reduction == "none" else ())
    still, where = ctypes.c_double(), ctypes.c_int64()
    compute = library.emphasis_batch if of_batch else library.emphasis_loss_and_derivative
    status = compute(
        logits.data_ptr(),
        None if out is None else out.data_ptr(),
        labels.data_ptr(),
        None if factor is None else factor.data_ptr(),
        table.address,
        loss.data_ptr(),
        ctypes.byref(still),
        ctypes.byref(where),
        outer,
        classes,
        labels.numel() // outer,
        ignore_index,
        DTYPES[logits.dtype],
        _REDUCTIONS[reduction],
        defer,
        torch.get_num_threads(),
    )
    if status:
        _raise_if(status, where)
    return loss, still.value


def margins(logits: Tensor, labels: Tensor, ignore_index: int, out: Tensor | None) -> tuple[Tensor, State]:  # noqa: ARG001
    """Return each example's margin (0 for ignored ones), and what `write_derivative` needs.

    Args:
        logits: (outer, C, ...), contiguous.
        labels: (outer, ...) int64, contiguous.
        ignore_index: Label of examples without loss and derivative.
        out: What `write_derivative` will be given; not written to here.

    Raises:
        ExampleError: A label is not allowed, or a logit is not finite.
    """
    library = _library()
    assert library is not None
    outer, classes = logits.shape[:2]
    margin, peak, total = (torch.empty(labels.shape) for _ in range(3))
    where = ctypes.c_int64()
    status = library.emphasis_margins(
        logits.data_ptr(),
        labels.data_ptr(),
        margin.data_ptr(),
        peak.data_ptr(),
        total.data_ptr(),
        outer,
        classes,
        labels.numel() // outer,
        ignore_index,
        DTYPES[logits.dtype],
        torch.get_num_threads(),
        ctypes.byref(where),
    )
    _raise_if(status, where)
    return margin, (peak, total)


def write_derivative(
    logits: Tensor, labels: Tensor, half: Tensor, state: State, ignore_index: int, out: Tensor
) -> None:
    """Write dz_y = -half, dz_j = half * q_j to `out`, which may be the logits; 0 for ignored examples.

    Args:
        logits: As given to `margins`.
        labels: As given to `margins`.
        half: Like the labels, float32, half the weights.
        state: What `margins` returned.
        ignore_index: As given to `margins`.
        out: Like the logits.
    """
    library = _library()
    assert library is not None
    outer, classes = logits.shape[:2]
    half = half.contiguous()
    status = library.emphasis_write(
        logits.data_ptr(),
        out.data_ptr(),
        labels.data_ptr(),
        half.data_ptr(),
        state[0].data_ptr(),
        state[1].data_ptr(),
        outer,
        classes,
        labels.numel() // outer,
        ignore_index,
        DTYPES[logits.dtype],
        torch.get_num_threads(),
    )
    _raise_if(status, ctypes.c_int64())


def scale(gradient: Tensor, factor: Tensor, still: float) -> Tensor:
    """Return gradient * factor * still in place; factor is one number, or one for each example with size 1 for C."""
    if factor.dim() == 0:
        number = factor.item() * still
        return gradient if number == 1.0 else gradient.mul_(number)
    return gradient.mul_(factor * still if still != 1.0 else factor)
