"""The compiled kernels for the CPU as a shared library, which is part of the package or compiled on first use.

A wheel contains a library for each level of the instruction set. In a checkout a C compiler with gcc's options, such as
gcc or clang, compiles it in a few seconds, once for each version of the source. Without either, or with
EMPHASIS_NATIVE=0 in the environment, the loss uses torch operators, which are slower and equally exact. No error is
raised.
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
# The instruction sets that torch uses, so that several machines can share a cache.
_LEVEL_OF_TORCH = {"AVX512": "x86-64-v4", "AVX2": "x86-64-v3"}
_FUNCTIONS = {  # p: pointer, s: 64-bit integer, i: int
    "emphasis_supports": "i",
    "emphasis_labels": "ppppppppssssiiiii",
    "emphasis_targets": "ppppppppppssiiiii",
    "emphasis_binary": "pppppppppppssiiii",
    "emphasis_margins": "ppppppppppssssii",
    "emphasis_write": "ppppppssssii",
}
_KINDS = {"p": ctypes.c_void_p, "s": ctypes.c_int64, "i": ctypes.c_int}
_log = logging.getLogger("emphasis")


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Return the kernels, or None where they are not available, which a warning has explained."""
    if os.environ.get("EMPHASIS_NATIVE") == "0":
        return None
    try:
        shipped = BUILT / compiler.library_name(level())
        if shipped.is_file():
            with suppress(OSError, AttributeError):  # built for another C library, for example
                return opened(shipped)
        return _compiled()
    # The library is optional, whatever fails: there is no home folder, a compiler hangs, or the disk is full.
    except Exception as error:
        _log.warning(
            "The loss uses torch operators, which are slower, because its compiled kernels cannot be used: %s. "
            "Install a C compiler (gcc or clang), or name one in the environment variable CC; EMPHASIS_NATIVE=0 "
            "disables the kernels and this warning.",
            _reason(error),
        )
        return None


def level() -> str:
    """Return the level of the instruction set to use."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return platform.machine()
    return _LEVEL_OF_TORCH.get(torch.backends.cpu.get_cpu_capability(), "x86-64-v2")


def opened(path: Path) -> ctypes.CDLL:
    """Open a library and declare the arguments of its functions."""
    opened_library = ctypes.CDLL(str(path))
    for name, kinds in _FUNCTIONS.items():
        getattr(opened_library, name).argtypes = [_KINDS[kind] for kind in kinds]
    return opened_library


def _compiled() -> ctypes.CDLL:
    """Return the library from the cache, or compile it."""
    command = compiler.compiler_command()
    if command is None:
        raise FileNotFoundError("there is no C compiler")
    key = compiler.digest("\n".join([compiler.library_name(level()), *command, *compiler.FLAGS]).encode())
    try:
        folder = cache_dir() / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        # A truncated library would crash the process, so its name contains a checksum.
        for kept in folder.glob(f"rows-{key}-*.so"):
            if kept.name == f"rows-{key}-{compiler.digest(kept.read_bytes())}.so":
                return opened(kept)
        with tempfile.TemporaryDirectory(dir=folder) as building:
            new = Path(building) / "new.so"
            compiler.compile_to(new, level(), command)
            compiled = opened(new)  # fails in a folder mounted noexec, which then caches nothing
            new.replace(folder / f"rows-{key}-{compiler.digest(new.read_bytes())}.so")
            return compiled
    except (OSError, RuntimeError, AttributeError):
        # There is no cache folder that can be written to and executed from: compile for this process only. An open
        # library stays open without its file.
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
