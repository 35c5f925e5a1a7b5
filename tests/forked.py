"""Runs of `emphasis`, and programs, in processes that are forked from one that has imported everything.

Each then costs what it does, and not the seconds in which PyTorch and the rest are imported again. Processes that such
a run starts itself, its workers and further ranks, import everything as always.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from multiprocessing.connection import wait
from pathlib import Path

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
CONTEXT = multiprocessing.get_context(METHOD)
CONTEXT.set_forkserver_preload(
    [
        "sklearn.datasets",
        "sklearn.decomposition",
        "uvicorn",
        "emphasis.cli.progress",
        "emphasis.diagnostics.plots.themes",
        "emphasis.experiments.reports.report",
        "emphasis.experiments.runs.runner",
        "emphasis.review.server",
    ]
)


def _set_up(folder, environment, cores, outputs):
    """Give the process its folder, its environment, its share of the cores, and files for its output and errors."""
    os.chdir(folder)
    os.cpu_count = lambda: cores
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)


def _run(arguments, log, folder, environment, cores, own_session, prepare):
    if own_session:
        os.setsid()
    _set_up(folder, environment, cores, (log, log))
    from emphasis.cli.main import main

    if prepare:
        prepare()
    # The script that is installed, which Lightning starts again for further ranks.
    sys.argv = [str(Path(sys.executable).with_name("emphasis")), *arguments]
    sys.exit(main(arguments))


def print_jobs():
    """Have the process print the name of each job that it trains."""
    from emphasis.experiments.runs import train_job

    train = train_job.train_networks

    def printing(job, *rest, **more):
        print(f"TRAINS {job.name}", flush=True)
        return train(job, *rest, **more)

    train_job.train_networks = printing


def start(arguments, log, *, own_session=False, prepare=None):
    """Start the command `emphasis` with these arguments here, its output and errors at the end of the file `log`.

    prepare: A function of a module that can be imported, which the process calls first.
    """
    given = (arguments, str(Path(log).absolute()), str(Path.cwd()), dict(os.environ))
    given = (*given, os.cpu_count(), own_session, prepare)
    process = CONTEXT.Process(target=_run, args=given)
    process.start()
    return process


def _run_program(program, arguments, outputs, folder, environment, cores):
    _set_up(folder, environment, cores, outputs)
    if isinstance(program, Path):
        sys.argv = [str(program), *arguments]
        sys.path.insert(0, str(program.parent))
        warnings.simplefilter("error")
        runpy.run_path(str(program), run_name="__main__")
    else:
        sys.argv = ["-c", *arguments]
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})


class Program:
    """A program of Python that runs here: the text of one, or the path of a script, as with `python -W error`."""

    def __init__(self, program, *arguments, environment=None):
        self._folder = tempfile.TemporaryDirectory(prefix="forked-")
        self._outputs = [str(Path(self._folder.name, name)) for name in ("output", "errors")]
        environment = dict(os.environ if environment is None else environment)
        given = (program, tuple(map(str, arguments)), self._outputs, str(Path.cwd()), environment, os.cpu_count())
        self.process = CONTEXT.Process(target=_run_program, args=given)
        self.process.start()

    def completed(self, seconds=300.0):
        """Wait for its end; return what `subprocess.run` would."""
        with self._folder:
            code = end(self.process, seconds)
            output, errors = (Path(path).read_text() if Path(path).exists() else "" for path in self._outputs)
            return subprocess.CompletedProcess("program", code, output, errors)


def succeed_together(programs, seconds=300.0):
    """Wait until all programs have ended, none with an error; if one fails, the others do not wait for it."""
    deadline = time.monotonic() + seconds
    running = list(programs)
    while running and not any(program.process.exitcode for program in programs):
        if not wait([program.process.sentinel for program in running], max(0.0, deadline - time.monotonic())):
            break
        running = [program for program in running if program.process.is_alive()]
    for program in running:
        program.process.kill()
    done = [program.completed() for program in programs]
    assert not any(one.returncode for one in done), "\n".join(one.stderr for one in done)


def free_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def end(process, seconds=300.0):
    """Wait for a process, and return its exit code, negative if a signal has killed it."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"it has not ended in {seconds:g} s")
    return process.exitcode


def kill_after_a_checkpoint(arguments, folder, times=2):
    """Start the command so often, and kill -9 it each time it has written a checkpoint since."""
    seen = 0.0
    for _ in range(times):
        process = start(arguments, os.devnull)
        while process.is_alive():
            # Not those that are half written, whose names begin with a dot.
            written = max((path.stat().st_mtime for path in folder.glob("cells/[!.]*.pt")), default=0.0)
            if written > seen:
                break
            time.sleep(0.01)
        process.kill()
        assert end(process) == -9, "killed too late to test anything"
        seen = time.time()
