"""What `fuzz.py` damages, and who reads it: a corpus of whole files, and for each kind one damage and its readers."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import json
import pickle
import random
import shutil
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import fuzz_mutations as damage
import numpy as np
import pandas as pd
import torch
from rich.console import Console

from emphasis.datasets.archives import read_members, read_npz
from emphasis.datasets.human_labels import load_human_labels, read_torch_arrays
from emphasis.datasets.mnist import read_idx
from emphasis.datasets.safe_pickle import loads
from emphasis.diagnostics.trace import EmphasisTrace
from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.reports.audit_page import audit_page
from emphasis.experiments.reports.paper_figures import FIGURES, draw_figure
from emphasis.experiments.reports.report import (
    audit_of_best,
    histograms_of,
    print_report,
    read_summary,
    render,
    write_report,
)
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import stored_recipe
from emphasis.experiments.studies.audit import audit_trace, has_changed
from emphasis.experiments.studies.audit_result import write_audit
from emphasis.tabular import fit_table, load_model
from emphasis.tabular.saved import checksum
from emphasis.weighting import DM

RECIPE = """
extends = "digits"
name = "fuzz"
seeds = 2
baseline = "CCE"
compare = ["DM"]
figures = ["curves", "fits", "probabilities", "emphasis", "modes"]
[solver]
iterations = 20
[noise]
kind = "symmetric"
rate = 0.4
[evaluation]
every = 10
trace = true
[[methods]]
name = "CCE"
weighting = { family = "CCE" }
[[methods]]
name = "DM"
group = "Derivative manipulation"
weighting = { family = "DM", lam = 0.5, beta = 8, vanishing = true }
normalization = "integral"
schedule = { lam = { start = 0, end = 1, shape = "cosine" } }
[[methods]]
name = "ELR"
training = { name = "elr", lam = 2.0 }
"""
SELDOM = 0.1  # share of the cases that are drawn as well, which takes long


def make_corpus(base: Path) -> None:
    """Write the whole files that are to be damaged."""
    base.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    batch = {"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": [1, 2, 3, 4], "names": ("a", "b")}
    for protocol in (0, 1, 2, 4):
        (base / f"batch-{protocol}.pickle").write_bytes(pickle.dumps(batch, protocol))
    labels = {name: rng.integers(0, 10, 40) for name in ("clean_label", "noisy_label", "worse_label")}
    torch.save(labels, base / "labels-0.pt")
    torch.save(labels, base / "labels-1.pt", _use_new_zipfile_serialization=False)
    np.savez_compressed(base / "arrays.npz", **labels, text=np.array(["a", "bc"]), flags=np.eye(3, dtype=bool))
    images = rng.integers(0, 256, (3, 28, 28), dtype=np.uint8)
    (base / "images.idx").write_bytes(b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes() + images.tobytes())
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        with tarfile.open(base / f"archive-{mode[2:]}.tar", mode) as archive:
            for name in ("train/pos/0_9.txt", "b" * 150, "ü"):
                info = tarfile.TarInfo(name)
                info.size = 600
                archive.addfile(info, io.BytesIO(rng.bytes(600)))
    (base / "recipe.toml").write_text(RECIPE)
    run(load_recipe(str(base / "recipe.toml")), base / "run", RunContext(threads=1))
    with EmphasisTrace(base / "trace", 40, DM(lam=0.5, beta=8), subsets={"first": np.arange(40) < 9}) as trace:
        for _ in range(4):
            order = torch.randperm(40)
            trace.record(order, torch.randn(40, 3), order % 3)
    table = pd.DataFrame(
        {"x": rng.normal(size=80), "kind": rng.choice(["a", "b"], 80), "class": rng.choice(["u", "v"], 80)}
    )
    table.to_csv(base / "table.csv", index=False)
    for model, settings in (("xgboost", {"n_estimators": 3}), ("net", {"max_epochs": 3, "hidden": (4,)})):
        fit_table(
            base / "table.csv", label="class", folder=base / f"fit-{model}", model=model, folds=2, settings=settings
        )


@dataclasses.dataclass(frozen=True)
class Case:
    """One damaged file, or a folder with one damaged file in it, in a folder of its own."""

    base: Path
    place: Path
    draw: random.Random

    def damaged(self, name: str, how: Callable[[bytes, random.Random], bytes]) -> bytes:
        """Return a file of the corpus, damaged."""
        return how((self.base / name).read_bytes(), self.draw)

    def folder(self, name: str, file: str, how: Callable[[bytes, random.Random], bytes]) -> Path:
        """Return a copy of a folder of the corpus with one of its files damaged."""
        copied = self.place / "folder"
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(self.base / name, copied)
        (copied / file).write_bytes(how((copied / file).read_bytes(), self.draw))
        return copied

    def seldom(self) -> bool:
        """Whether this case is one of those few that are drawn, too."""
        return self.draw.random() < SELDOM


def pickles(case: Case) -> None:
    if case.draw.random() < 0.6:
        found = loads(case.damaged(f"batch-{case.draw.choice((0, 1, 2, 4))}.pickle", damage.of_bytes), "batch")
        if isinstance(found, dict) and "data" in found:
            with contextlib.suppress(ValueError, TypeError):
                np.asarray(found["data"], np.uint8).sum()
            repr(found)
        return
    name = f"labels-{case.draw.randrange(2)}.pt"
    path = case.place / "labels.pt"
    path.write_bytes(case.damaged(name, damage.of_zip if name.endswith("0.pt") else damage.of_bytes))
    for column in read_torch_arrays(path).values():
        repr(column)


def npz(case: Case) -> None:
    if case.draw.random() < 0.5:
        path = case.place / "cifar10n.npz"
        path.write_bytes(case.damaged("arrays.npz", damage.of_zip))
        for array in read_npz(path).values():
            array.copy()
        load_human_labels(case.place, "cifar10", np.arange(40))
        return
    name = next((case.base / "run" / "cells").glob("*.npz")).name
    folder = case.folder("run", f"cells/{name}", damage.of_zip)
    found = audit_of_best(folder, read_summary(folder))
    if found is not None and case.seldom():
        audit_page(found)


def idx(case: Case) -> None:
    path = case.place / case.draw.choice(("images.idx", "images.idx.gz"))
    whole = (case.base / "images.idx").read_bytes()
    if path.suffix == ".gz":
        path.write_bytes(damage.of_bytes(gzip.compress(whole), case.draw))
    else:
        path.write_bytes(damage.of_bytes(whole, case.draw))
        whole = path.read_bytes()  # damaged, and with the checksum that it should have
    read_idx(path, hashlib.md5(whole).hexdigest())


def tar(case: Case) -> None:
    path = case.place / "archive.tar"
    path.write_bytes(case.damaged(f"archive-{case.draw.choice(('', 'gz', 'bz2', 'xz'))}.tar", damage.of_bytes))
    for _ in read_members(path, lambda _name: True):
        pass


def read_run(case: Case, folder: Path) -> None:
    """Read a folder of runs as every command that reads one does."""
    has_changed(folder, stored_recipe(folder))
    summary = read_summary(folder)
    print_report(summary, Console(file=io.StringIO(), width=case.draw.choice((20, 80, 200))))
    render(summary, "csv")
    histograms_of(folder)
    if case.seldom():
        write_report(folder, summary)
    if case.seldom():
        with contextlib.suppress(ValueError):  # it has not what the figure shows
            draw_figure(case.draw.choice(list(FIGURES)), str(folder))


def run_json(case: Case) -> None:
    read_run(case, case.folder("run", "run.json", damage.of_json))


def results(case: Case) -> None:
    if case.draw.random() < 0.5:
        name = case.draw.choice(sorted(path.name for path in (case.base / "run" / "cells").glob("*.jsonl")))
        read_run(case, case.folder("run", f"cells/{name}", damage.of_json_lines))
        return
    folder = case.folder("run", "results.jsonl", damage.of_json_lines)
    shutil.rmtree(folder / "cells")
    read_run(case, folder)


def resealed(content: bytes, draw: random.Random) -> bytes:
    """Return a damaged manifest, in half of the cases with the checksum that it then should have."""
    content = damage.of_json(content, draw)
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        manifest = json.loads(content)
        if draw.random() < 0.5:
            return json.dumps({**manifest, "checksum": checksum(manifest)}).encode()
    return content


def manifests(case: Case) -> None:
    model = case.draw.choice(("xgboost", "net"))
    if case.draw.random() < 0.9:
        folder = case.folder(f"fit-{model}", "model/manifest.json", resealed)
    else:
        folder = case.folder(f"fit-{model}", f"model/model.{'ubj' if model == 'xgboost' else 'pt'}", damage.of_bytes)
    found = load_model(folder)
    repr(found.weighting)
    found.predict(pd.read_csv(case.base / "table.csv"))


def traces(case: Case) -> None:
    if case.draw.random() < 0.6:
        folder = case.folder("trace", "trace.json", damage.of_json)
    else:
        name = case.draw.choice(sorted(path.name for path in (case.base / "trace").glob("*.npy")))
        folder = case.folder("trace", name, damage.of_bytes)
    found = audit_trace(folder)
    found.numbers  # noqa: B018
    if case.seldom():
        write_audit(found, folder, audit_page)


def recipes(case: Case) -> None:
    path = case.place / "recipe.toml"
    text = case.damaged("recipe.toml", damage.of_bytes)
    if case.draw.random() < 0.7:  # a value of the recipe, or a line more, that says something else
        lines = (case.base / "recipe.toml").read_text().splitlines()
        place = case.draw.choice([place for place, line in enumerate(lines) if "=" in line])
        key, _, before = lines[place].partition("=")
        key = key.strip() or "name"
        with contextlib.suppress(tomllib.TOMLDecodeError):
            before = tomllib.loads(f"value = {before}")["value"]
        value = damage.other(before, case.draw)
        said = (
            json.dumps(value)
            if not isinstance(value, dict)
            else "{" + ", ".join(f"{name} = {json.dumps(inner)}" for name, inner in value.items()) + "}"
        )
        lines[place : place + case.draw.choice((0, 1, 1, 1))] = [f"{key} = {said}"]
        text = "\n".join(lines).encode()
    path.write_bytes(text)
    load_recipe(str(path))


KINDS: dict[str, Callable[[Case], None]] = {
    "pickles": pickles,
    "npz": npz,
    "idx": idx,
    "tar": tar,
    "run.json": run_json,
    "results.jsonl": results,
    "manifests": manifests,
    "traces": traces,
    "recipes": recipes,
}
