"""Runs of `emphasis` in processes that can be killed, forked from one that has imported everything.

Each then costs what it does, and not the seconds in which PyTorch and the rest are imported again. Processes that such
a run starts itself, its workers and further ranks, import everything as always.
"""

import multiprocessing
import os
import sys
import time
from pathlib import Path

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
CONTEXT = multiprocessing.get_context(METHOD)
CONTEXT.set_forkserver_preload(
    [
        "sklearn.datasets",
        "emphasis.cli.progress",
        "emphasis.diagnostics.plots.themes",
        "emphasis.experiments.reports.report",
        "emphasis.experiments.runs.runner",
    ]
)


def _run(arguments, log, folder, environment, own_session, prepare):
    if own_session:
        os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
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
    given = (arguments, str(Path(log).absolute()), str(Path.cwd()), dict(os.environ), own_session, prepare)
    process = CONTEXT.Process(target=_run, args=given)
    process.start()
    return process


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
