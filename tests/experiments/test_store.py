import json
import math

import numpy as np
import pytest

from emphasis.experiments.store import (
    CHECKPOINT,
    RESULTS,
    FolderError,
    Probabilities,
    claim,
    read_results,
    replacing,
    write_results,
)

CONFIG = {"noise": {"rate": 0.4}, "methods": [1]}


def test_a_folder_belongs_to_one_run(tmp_path):
    claim(tmp_path / "run", CONFIG, "a", force=False)
    claim(tmp_path / "run", CONFIG, "a", force=False)
    with pytest.raises(FolderError, match=r"noise.rate is 0.4 there and 0.2 here\); choose another --out"):
        claim(tmp_path / "run", {**CONFIG, "noise": {"rate": 0.2}}, "b", force=False)
    with pytest.raises(FolderError, match="methods differ"):
        claim(tmp_path / "run", {**CONFIG, "methods": [2]}, "b", force=False)
    (tmp_path / "run" / RESULTS).write_text("{}")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    claim(tmp_path / "run", {}, "b", force=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["notes.txt", "run.json"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FolderError, match="holds no run of emphasis; choose another --out"):
        claim(tmp_path, CONFIG, "a", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_owner_file_counts_as_another_run(tmp_path):
    (tmp_path / "run.json").write_text('{"config_hash": ')
    with pytest.raises(FolderError, match="--force"):
        claim(tmp_path, CONFIG, "a", force=False)


def test_results_come_back_with_null_for_nan(tmp_path):
    assert read_results(tmp_path) is None
    (tmp_path / CHECKPOINT).write_text("")
    probabilities = Probabilities(np.ones((1, 2), np.float32), np.zeros((1, 2), bool))
    write_results(tmp_path, [{"x": math.nan, "curves": {"y": [1.0, math.inf]}}], probabilities)
    rows, again = read_results(tmp_path)
    assert rows == [{"x": None, "curves": {"y": [1.0, None]}}]
    assert np.array_equal(again.p, probabilities.p)
    assert not (tmp_path / CHECKPOINT).exists()
    json.loads((tmp_path / RESULTS).read_text())
    (tmp_path / RESULTS).write_text("{")
    with pytest.raises(FolderError, match="--force to run again"):
        read_results(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def write():
        with replacing(tmp_path / "a.txt") as partial:
            partial.write_text("ne")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]
