"""The compiled kernels for the CPU as a shared library: shipped with the package, or compiled on first use and kept.

A wheel holds one library for each level of the instruction set; a checkout holds none, and any C compiler that knows
gcc's options (gcc, clang) makes it in a few seconds, once for each version of the source. Where neither is to be had,
or with EMPHASIS_NATIVE=0 in the environment, the loss runs on torch operators: slower, and as exact. Speed is optional,
so nothing here raises.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch

from emphasis.files import cache_dir

_FOLDER = Path(__file__).parent
BUILT = _FOLDER / "built"
SOURCES = tuple(_FOLDER / name for name in ("rows.c", "steps_float.c", "steps_double.c"))
_HEADERS = tuple(_FOLDER / name for name in ("job.h", "lanes.h", "table.h", "steps.h", "soft.h"))
FLAGS = (
    *("-O3", "-std=c11", "-shared", "-fPIC", "-fopenmp-simd"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"),
)
LEVELS = {
    "x86-64-v4": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "x86-64-v3": ("-march=x86-64-v3",),
    "x86-64-v2": ("-march=x86-64-v2",),
}
"""Options for each level of x86-64's instruction set; other processors have one level without a name."""
# By what torch itself uses of the processor, so that a cache shared by several machines is safe.
_LEVEL_OF_TORCH = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}
_FUNCTIONS = {  # p: pointer, s: 64-bit integer, i: int
    "emphasis_supports": "i",
    "emphasis_labels": "ppppppppssssiiiii",
    "emphasis_targets": "ppppppppppssiiiii",
    "emphasis_binary": "ppppppppppssiiii",
    "emphasis_margins": "ppppppssssii",
    "emphasis_write": "ppppppssssii",
}
_KINDS = {"p": ctypes.c_void_p, "s": ctypes.c_int64, "i": ctypes.c_int}
_SECONDS_TO_COMPILE = 40.0
_log = logging.getLogger("emphasis")


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Return the kernels, or None where they cannot be had: then a warning has said why, and what to do."""
    if os.environ.get("EMPHASIS_NATIVE") == "0":
        return None
    shipped = BUILT / library_name(level())
    try:
        if shipped.is_file():
            return _opened(shipped)
        return _compiled()
    # Whatever goes wrong with an optional library (no home, a compiler that hangs, a disk that is full, a file that is
    # no library), the answer is the same.
    except Exception as error:
        _log.warning(
            "The loss runs on torch operators, which is slower, because its compiled kernels cannot be used: %s. "
            "Install a C compiler (gcc or clang), or name one in the environment variable CC; EMPHASIS_NATIVE=0 turns "
            "the kernels off, and this warning with them.",
            _reason(error),
        )
        return None


def level() -> str | None:
    """Return the level of the instruction set to use, None where there is one alone."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    return _LEVEL_OF_TORCH.get(torch.backends.cpu.get_cpu_capability(), "x86-64-v2")


def library_name(of: str | None) -> str:
    """Return the file name of a level's library, which changes with the source."""
    return f"rows-{of or platform.machine()}-{_digest(_source())}.so"


def compiler_command() -> list[str] | None:
    """Return the C compiler: what $CC says, or the first there is; None if there is none."""
    named = os.environ.get("CC", "").split()
    return named or next(([found] for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def compile_to(path: Path, of: str | None, compiler: list[str]) -> None:
    """Compile the kernels for a level of the instruction set.

    Raises:
        OSError, subprocess.SubprocessError: There is no such compiler, it fails, or it does not end.
    """
    command = [*compiler, *FLAGS, *LEVELS.get(of or "", ()), "-o", str(path), *map(str, SOURCES), "-lm", "-lpthread"]
    # Into a file, not a pipe, and in a session of its own: a compiler that hangs may have children that hold a pipe.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        try:
            status = process.wait(_SECONDS_TO_COMPILE)
        except BaseException:
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if status:
            said.seek(0)
            raise subprocess.CalledProcessError(status, command, stderr=said.read())


def _opened(path: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(path))
    for name, kinds in _FUNCTIONS.items():
        getattr(found, name).argtypes = [_KINDS[kind] for kind in kinds]
    return found


def _compiled() -> ctypes.CDLL:
    """Return the library from the cache, or compile it."""
    compiler = compiler_command()
    if compiler is None:
        raise FileNotFoundError("there is no C compiler")
    key = _digest("\n".join([library_name(level()), *compiler, *FLAGS]).encode())
    try:
        folder = cache_dir() / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        # A library that is not whole would take the process down, so its name says what must be in it.
        for kept in folder.glob(f"rows-{key}-*.so"):
            if kept.name == f"rows-{key}-{_digest(kept.read_bytes())}.so":
                return _opened(kept)
        with tempfile.TemporaryDirectory(dir=folder) as building:
            new = Path(building) / "new.so"
            compile_to(new, level(), compiler)
            opened = _opened(new)  # before it is kept: a folder that is noexec holds nothing
            new.replace(folder / f"rows-{key}-{_digest(new.read_bytes())}.so")
            return opened
    except (OSError, RuntimeError, AttributeError):
        # No home, or one that cannot be written to or run from, or a file there that is no such library: for this
        # process alone, then. What is open stays open without its file.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as building:
            new = Path(building) / "new.so"
            compile_to(new, level(), compiler)
            return _opened(new)


def _source() -> bytes:
    return b"\n".join(path.read_bytes() for path in (*SOURCES, *_HEADERS))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return f"{error.cmd[0]} failed ({lines[-1] if lines else f'exit status {error.returncode}'})"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{error.cmd[0]} did not end within {error.timeout:.0f} seconds"
    return str(error) or type(error).__name__
