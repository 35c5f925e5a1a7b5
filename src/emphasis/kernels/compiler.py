"""Compilation of the kernels for the CPU: sources, options and levels of the instruction set.

This file imports neither torch nor the rest of the package, so that a build can load it by itself.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

_FOLDER = Path(__file__).parent
SOURCES = tuple(_FOLDER / name for name in ("rows.c", "steps_float.c", "steps_double.c"))
HEADERS = tuple(
    _FOLDER / f"{name}.h"
    for name in ("job", "lanes", "table", "sums", "statistics", "steps", "tiles", "soft", "binary")
)
FLAGS = (
    *("-O3", "-std=c11", "-shared", "-fPIC", "-fopenmp-simd"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"),
)
LEVELS = {
    "x86-64-v2": ("-march=x86-64-v2",),
    "x86-64-v3": ("-march=x86-64-v3",),
    "x86-64-v4": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
}
"""Options for the levels of x86-64. Other processors have one level, named after their architecture."""
SECONDS_TO_COMPILE = 40.0


def levels() -> tuple[str, ...]:
    """Return the levels of this machine's architecture, lowest first."""
    machine = platform.machine()
    return tuple(LEVELS) if machine in ("x86_64", "AMD64") else (machine,)


def library_name(level: str) -> str:
    """Return the file name of a level's library, which changes with the source."""
    return f"rows-{level}-{digest(b''.join(path.read_bytes() for path in (*SOURCES, *HEADERS)))}.so"


def digest(content: bytes) -> str:
    """Return a short checksum."""
    return hashlib.sha256(content).hexdigest()[:16]


def compiler_command() -> list[str] | None:
    """Return the command of the C compiler: $CC, or the first of cc, gcc and clang; None if there is none."""
    named = os.environ.get("CC", "").split()
    return named or next(([path] for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)


def compile_to(path: Path, level: str, compiler: list[str], *options: str) -> None:
    """Compile the kernels for a level of the instruction set.

    Args:
        path: File to write.
        level: Level of the instruction set, from `levels()`.
        compiler: Command of the compiler.
        *options: Further options of the compiler.

    Raises:
        OSError, subprocess.SubprocessError: The compiler does not exist, fails, or does not end in time.
    """
    flags = [*FLAGS, *LEVELS.get(level, ()), *options]
    static = ["-static"] if os.name == "nt" else []  # users of Windows may not have the library of gcc's threads
    command = [*compiler, *flags, *static, "-o", str(path), *map(str, SOURCES), "-lm", "-lpthread"]
    # A file and not a pipe, and a new session: children of a compiler that hangs may keep a pipe open.
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=messages, start_new_session=True
        )
        try:
            status = process.wait(SECONDS_TO_COMPILE)
        except BaseException:
            with suppress(OSError):
                process.kill() if os.name == "nt" else os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if status:
            messages.seek(0)
            raise subprocess.CalledProcessError(status, command, stderr=messages.read())
