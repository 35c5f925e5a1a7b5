"""The compiled kernels for the CPU as a shared library: shipped with the package, or compiled on first use and kept.

A wheel holds one library for each level of the instruction set; a checkout holds none, and any C compiler that knows
gcc's options (gcc, clang) makes it in a few seconds, once for each version of the source. Where neither is to be had,
or with EMPHASIS_NATIVE=0 in the environment, the loss runs on torch operators: slower, and as exact. Speed is optional,
so nothing here raises.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import subprocess
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch

from emphasis.files import cache_dir
from emphasis.kernels import compiler

BUILT = Path(__file__).parent / "built"
# By what torch itself uses of the processor, so that a cache shared by several machines is safe.
_LEVEL_OF_TORCH = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}
_FUNCTIONS = {  # p: pointer, s: 64-bit integer, i: int
    "emphasis_supports": "i",
    "emphasis_labels": "ppppppppssssiiiii",
    "emphasis_targets": "ppppppppppssiiiii",
    "emphasis_binary": "ppppppppppssiiii",
    "emphasis_margins": "ppppppppppssssii",
    "emphasis_write": "ppppppssssii",
}
_KINDS = {"p": ctypes.c_void_p, "s": ctypes.c_int64, "i": ctypes.c_int}
_log = logging.getLogger("emphasis")


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Return the kernels, or None where they cannot be had: then a warning has said why, and what to do."""
    if os.environ.get("EMPHASIS_NATIVE") == "0":
        return None
    try:
        shipped = BUILT / compiler.library_name(level())
        if shipped.is_file():
            with suppress(OSError, AttributeError):  # made for another C library, say
                return opened(shipped)
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


def level() -> str:
    """Return the level of the instruction set to use."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return platform.machine()
    return _LEVEL_OF_TORCH.get(torch.backends.cpu.get_cpu_capability(), "x86-64-v2")


def opened(path: Path) -> ctypes.CDLL:
    """Return a library whose functions know what they take."""
    found = ctypes.CDLL(str(path))
    for name, kinds in _FUNCTIONS.items():
        getattr(found, name).argtypes = [_KINDS[kind] for kind in kinds]
    return found


def _compiled() -> ctypes.CDLL:
    """Return the library from the cache, or compile it."""
    command = compiler.compiler_command()
    if command is None:
        raise FileNotFoundError("there is no C compiler")
    key = compiler.digest("\n".join([compiler.library_name(level()), *command, *compiler.FLAGS]).encode())
    try:
        folder = cache_dir() / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        # A library that is not whole would take the process down, so its name says what must be in it.
        for kept in folder.glob(f"rows-{key}-*.so"):
            if kept.name == f"rows-{key}-{compiler.digest(kept.read_bytes())}.so":
                return opened(kept)
        with tempfile.TemporaryDirectory(dir=folder) as building:
            new = Path(building) / "new.so"
            compiler.compile_to(new, level(), command)
            found = opened(new)  # before it is kept: a folder that is noexec holds nothing
            new.replace(folder / f"rows-{key}-{compiler.digest(new.read_bytes())}.so")
            return found
    except (OSError, RuntimeError, AttributeError):
        # No home, or one that cannot be written to or run from, or a file there that is no such library: for this
        # process alone, then. What is open stays open without its file.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as building:
            new = Path(building) / "new.so"
            compiler.compile_to(new, level(), command)
            return opened(new)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return f"{error.cmd[0]} failed ({lines[-1] if lines else f'exit status {error.returncode}'})"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{error.cmd[0]} did not end within {error.timeout:.0f} seconds"
    return str(error) or type(error).__name__
