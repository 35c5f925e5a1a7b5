"""How the kernels for the CPU are compiled: sources, options, levels of the instruction set.

Imports neither torch nor the rest of the package, so that a build can load this file alone.
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
    _FOLDER / name for name in ("job.h", "lanes.h", "table.h", "sums.h", "statistics.h", "steps.h", "tiles.h", "soft.h")
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
"""Options for each level of x86-64's instruction set; another processor has one level, named like its architecture."""
SECONDS_TO_COMPILE = 40.0


def levels() -> tuple[str, ...]:
    """Return the levels of this machine's architecture, the lowest first."""
    machine = platform.machine()
    return tuple(LEVELS) if machine in ("x86_64", "AMD64") else (machine,)


def library_name(level: str) -> str:
    """Return the file name of a level's library, which changes with the source."""
    return f"rows-{level}-{digest(b''.join(path.read_bytes() for path in (*SOURCES, *HEADERS)))}.so"


def digest(content: bytes) -> str:
    """Return a short checksum."""
    return hashlib.sha256(content).hexdigest()[:16]


def compiler_command() -> list[str] | None:
    """Return the C compiler: what $CC says, or the first there is; None if there is none."""
    named = os.environ.get("CC", "").split()
    return named or next(([found] for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def compile_to(path: Path, level: str, compiler: list[str], *options: str) -> None:
    """Compile the kernels for a level of the instruction set, with further options if there are any.

    Raises:
        OSError, subprocess.SubprocessError: There is no such compiler, it fails, or it does not end.
    """
    flags = [*FLAGS, *LEVELS.get(level, ()), *options]
    static = ["-static"] if os.name == "nt" else []  # gcc's threads on Windows are a library that users lack
    command = [*compiler, *flags, *static, "-o", str(path), *map(str, SOURCES), "-lm", "-lpthread"]
    # Into a file, not a pipe, and in a session of its own: a compiler that hangs may have children that hold a pipe.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        try:
            status = process.wait(SECONDS_TO_COMPILE)
        except BaseException:
            with suppress(OSError):
                process.kill() if os.name == "nt" else os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if status:
            said.seek(0)
            raise subprocess.CalledProcessError(status, command, stderr=said.read())
