"""Damaged and hostile files, read as the commands read them: none may crash, end in a traceback, or have code run.

    python benchmarks/fuzz.py                          # 20,000 files, about half an hour on two cores
    python benchmarks/fuzz.py --kinds tar --number 500
    python benchmarks/fuzz.py --kinds tar --only 123 --seed 0    # one of them again, with its traceback

Each file is a whole one that was damaged: bytes changed, cut off, put in and doubled; values of JSON and TOML replaced
by others, names of code among them; checksums put right again. What may happen is that it is read, or that it is
refused by an `EmphasisError` in one line. Processes read many files each and say which one they are at, so that a crash
or a file without end is known, and the next process goes on behind it. An audit hook of Python's sees what is imported
and started. Prints, and writes to results/fuzz.json, what became of how many, with the seeds that make them again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import random
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import fuzz_mutations
import fuzz_readers
import numpy as np
import torch

from emphasis.errors import EmphasisError
from emphasis.experiments.runs.provenance import revision
from emphasis.files import write_text

BATCH = 400  # files that one process reads, unless it ends before
PATIENCE = 120.0  # seconds for one file
STARTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "subprocess.Popen",
    "socket.connect",
    "pty.spawn",
)
FORBIDDEN = (fuzz_mutations.PLANTED, "this", "antigravity")
FAULTS = ("crash by signal", "traceback", "foreign import", "something started", "more than one line", "no end")


class Watch:
    """Sees, through Python's audit hook, modules imported from elsewhere, and whatever is started."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        roots = {Path(sys.prefix), Path(sys.base_prefix), Path(fuzz_readers.__file__).parents[1]}
        self.roots = tuple(str(root.resolve()) for root in roots)
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS:
            self.seen.append(f"something started: {event} {arguments!r:.200}")
        elif event == "import" and str(arguments[0]).partition(".")[0] in FORBIDDEN:
            self.seen.append(f"foreign import: {arguments[0]}")

    def told(self, modules: set[str]) -> str:
        """Return what was seen since the last time, "" if nothing was; `modules` are those known before."""
        for name in set(sys.modules) - modules:
            origin = getattr(getattr(sys.modules[name], "__spec__", None), "origin", None)
            known = origin in (None, "built-in", "frozen") or str(Path(origin).resolve()).startswith(self.roots)
            if not known:
                self.seen.append(f"foreign import: {name} from {origin}")
        found, self.seen = self.seen, []
        return found[0] if found else ""


def outcome(kind: str, number: int, seed: int, base: Path, place: Path, watch: Watch) -> tuple[str, str]:
    """Damage one file, read it, and return what became of it: "read", "refused", or a fault and what it was."""
    case = fuzz_readers.Case(base, place, random.Random(f"{seed} {kind} {number}"))
    modules = set(sys.modules)
    try:
        with contextlib.redirect_stdout(None), np.errstate(all="ignore"):
            fuzz_readers.KINDS[kind](case)
        found = "read", ""
    except EmphasisError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        found = ("refused", "") if len(lines) == 1 else ("more than one line", str(error))
    except Exception:  # what must not be
        found = "traceback", traceback.format_exc()
    seen = watch.told(modules)
    return (seen.partition(":")[0], seen) if seen else found


def work(kind: str, first: int, last: int, seed: int, base: Path) -> None:
    """Read the files `first` to `last` of a kind, and print of each when it begins and how it ended."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    watch = Watch()
    with tempfile.TemporaryDirectory() as place:
        for number in range(first, last):
            print(json.dumps({"begins": number}), flush=True)
            what, said = outcome(kind, number, seed, base, Path(place), watch)
            print(json.dumps({"ended": number, "what": what, "said": said[-3000:]}), flush=True)


class Reader:
    """A process that reads a batch of files, and what it has said so far."""

    def __init__(self, kind: str, first: int, last: int, seed: int, base: Path) -> None:
        self.kind, self.last, self.at, self.since = kind, last, first, time.monotonic()
        command = [sys.executable, __file__, "--work", str(first), str(last), "--kinds", kind, "--seed", str(seed)]
        self.process = subprocess.Popen([*command, "--corpus", str(base)], stdout=subprocess.PIPE, text=True)

    def line(self) -> dict[str, Any] | None:
        """Return the next thing that it says, None at the end."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        said = json.loads(text) if text.endswith("\n") else None
        self.at, self.since = (said or {}).get("begins", self.at), time.monotonic()
        return said


def fuzz(kinds: list[str], number: int, seed: int, base: Path, at_once: int) -> dict[str, Any]:
    """Return, for each kind, what became of so many files, and of each fault the first few."""
    waiting = [(kind, first, min(first + BATCH, number)) for first in range(0, number, BATCH) for kind in kinds]
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    faults: list[dict[str, Any]] = []
    running: dict[Any, Reader] = {}
    watched = selectors.DefaultSelector()

    def note(kind: str, at: int, what: str, said: str) -> None:
        counts[kind][what] += 1
        if what in FAULTS:
            faults.append({"kind": kind, "number": at, "what": what, "said": said})
            print(f"{what}: --kinds {kind} --only {at} --seed {seed}\n{said}", flush=True)

    while waiting or running:
        while waiting and len(running) < at_once:
            reader = Reader(*waiting.pop(0), seed, base)
            running[reader.process.stdout] = reader
            watched.register(reader.process.stdout, selectors.EVENT_READ)
        for key, _ in watched.select(timeout=1.0):
            reader = running[key.fileobj]
            said = reader.line()
            if said is None:
                watched.unregister(key.fileobj)
                del running[key.fileobj]
                code = reader.process.wait()
                if code:
                    what = "no end" if time.monotonic() - reader.since > PATIENCE else "crash by signal"
                    note(reader.kind, reader.at, what, f"the process ended with {code}")
                    if reader.at + 1 < reader.last:
                        waiting.insert(0, (reader.kind, reader.at + 1, reader.last))
            elif "ended" in said:
                note(reader.kind, said["ended"], said["what"], said["said"])
        for reader in running.values():
            if time.monotonic() - reader.since > PATIENCE:
                note(reader.kind, reader.at, "no end", f"more than {PATIENCE:.0f} s")
                reader.process.kill()
                reader.since = time.monotonic()
    return {"kinds": {kind: dict(sorted(found.items())) for kind, found in counts.items()}, "faults": faults[:50]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=list(fuzz_readers.KINDS), default=list(fuzz_readers.KINDS))
    parser.add_argument("--number", type=int, default=2223, metavar="N", help="files of each kind (default: 2223)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes at once (default: 2)")
    parser.add_argument("--only", type=int, metavar="N", help="this file alone, with its traceback")
    parser.add_argument("--out", type=Path, default=Path("results/fuzz.json"))
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.kinds[0], *options.work, options.seed, options.corpus)
        return
    with tempfile.TemporaryDirectory() as folder:
        base = options.corpus or Path(folder) / "corpus"
        if not base.exists():
            fuzz_readers.make_corpus(base)
        if options.only is not None:
            place = Path(folder) / "case"
            place.mkdir()
            print(*outcome(options.kinds[0], options.only, options.seed, base, place, Watch()))
            return
        began = time.monotonic()
        found = fuzz(options.kinds, options.number, options.seed, base, options.workers)
    whole = Counter[str]()
    for counts in found["kinds"].values():
        whole.update(counts)
    report = {
        "n": sum(whole.values()),
        "seed": options.seed,
        **{what: whole[what] for what in ("read", "refused", *FAULTS)},
        **found,
        "seconds": round(time.monotonic() - began),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "revision": revision(),
    }
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    print(json.dumps({name: value for name, value in report.items() if name != "faults"}, indent=1))
    if found["faults"]:
        raise SystemExit(f"{len(found['faults'])} faults")


if __name__ == "__main__":
    main()
