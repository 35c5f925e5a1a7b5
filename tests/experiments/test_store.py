import json
import math
from dataclasses import replace

import numpy as np
import pytest

from emphasis.experiments.runs.store import (
    CELLS,
    RESULTS,
    RUN,
    FolderError,
    acquire,
    finished_rows,
    lines,
    probabilities,
    read_rows,
    remove_stale_files,
    rows_of_recipe,
    stored_recipe,
    write_job,
    write_results,
)
from emphasis.files import replacing
from synthetic import make_rows, plain, recipe


def test_a_folder_belongs_to_one_recipe(tmp_path):
    folder = tmp_path / "run"
    acquire(folder, recipe())
    acquire(folder, recipe().changed({"seeds": 3}))
    assert stored_recipe(folder).seeds == 3
    other = replace(recipe(), name="other")
    with pytest.raises(FolderError, match=r"holds runs of 'synthetic'; use another folder .*replace them .--force"):
        acquire(folder, other)
    for name in (RESULTS, "notes.txt", "curves.png", f"{CELLS}/a.jsonl"):
        (folder / name).write_text("{}")
    acquire(folder, other, force=True)
    assert sorted(path.name for path in folder.iterdir()) == [CELLS, "notes.txt", RUN]
    assert not list(folder.glob(f"{CELLS}/*.jsonl"))


def test_a_finished_job_leaves_no_lock_and_no_checkpoint_not_even_half_of_one(tmp_path):
    (tmp_path / CELLS).mkdir()
    for name in (
        "done.jsonl",
        "done.pt",
        ".done.partial.pt",
        "done.lock",
        "begun.pt",
        ".begun.partial.pt",
        "begun.lock",
    ):
        (tmp_path / CELLS / name).touch()
    remove_stale_files(tmp_path)
    left = sorted(path.name for path in (tmp_path / CELLS).iterdir())
    assert left == [".begun.partial.pt", "begun.lock", "begun.pt", "done.jsonl"]


def test_the_recipe_comes_back_as_it_was(tmp_path):
    for one in (recipe(), recipe(scaled=True)):
        acquire(tmp_path / one.name, one)
        assert [cell.key for cell in stored_recipe(tmp_path / one.name).cells()] == [cell.key for cell in one.cells()]
    with pytest.raises(FolderError, match=r"holds no run of emphasis \(run.json is missing\)"):
        stored_recipe(tmp_path)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FolderError, match=r"holds no run of emphasis; use another folder \(--out\)"):
        acquire(tmp_path, recipe(), force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_whose_owner_was_killed_while_claiming_it_can_be_claimed(tmp_path):
    (tmp_path / CELLS).mkdir()
    (tmp_path / ".run.partial.json").write_text('{"name"')
    acquire(tmp_path, recipe())
    assert stored_recipe(tmp_path).name == "synthetic"


def test_a_damaged_owner_file_counts_as_another_run(tmp_path):
    (tmp_path / RUN).write_text('{"name": ')
    with pytest.raises(FolderError, match="--force"):
        acquire(tmp_path, recipe())


def test_results_come_back_with_null_for_nan_in_the_recipes_order(tmp_path):
    acquire(tmp_path, recipe())
    rows = make_rows(recipe(), plain)
    rows[0]["final_test_accuracy"] = math.nan
    rows[1]["curves"]["p_clean"][0] = math.inf
    keys = [row["key"] for row in rows]
    arrays = {"keys": np.array(keys[8:]), "seeds": np.array([0, 1]), "p": np.arange(24.0).reshape(8, 3)}
    arrays |= {"noisy": np.eye(2, 3, dtype=bool), "index": np.tile(np.arange(3), (2, 1))}
    write_job(tmp_path, "b", list(reversed(rows[8:])), arrays)
    assert [row["key"] for row in rows_of_recipe(tmp_path, recipe())] == keys[8:]
    write_job(tmp_path, "a", rows[:8], {})
    found = rows_of_recipe(tmp_path, recipe())
    assert [row["key"] for row in found] == keys
    assert found[0]["final_test_accuracy"] is None
    assert found[1]["curves"]["p_clean"][0] is None
    write_results(tmp_path, found)
    assert read_rows(tmp_path / RESULTS) == found
    of_one = probabilities(tmp_path, found[11])
    assert of_one["p"].tolist() == [9.0, 10.0, 11.0]
    assert of_one["noisy"].tolist() == [False, True, False]


def test_lines_of_other_settings_do_not_count(tmp_path):
    acquire(tmp_path, recipe())
    write_job(tmp_path, "a", make_rows(recipe().changed({"solver.iterations": 7}), plain), {})
    assert len(finished_rows(tmp_path)) == 16
    assert rows_of_recipe(tmp_path, recipe()) == []


def test_damaged_lines_are_named(tmp_path):
    acquire(tmp_path, recipe())
    (tmp_path / CELLS / "a.jsonl").write_text("{")
    with pytest.raises(FolderError, match=r"a\.jsonl, line 1: not valid JSON.* delete the file and run again"):
        finished_rows(tmp_path)


def test_missing_probabilities_are_named(tmp_path):
    acquire(tmp_path, recipe())
    with pytest.raises(FolderError, match=r"a\.npz cannot be read"):
        probabilities(tmp_path, {**make_rows(recipe(), plain)[0], "job": "a"})


def test_every_line_is_json_by_the_letter(tmp_path):
    acquire(tmp_path, recipe())
    write_results(tmp_path, [{"x": math.nan, "curves": {"y": [1.0, -math.inf]}, "z": None}])
    text = (tmp_path / RESULTS).read_text()
    assert "NaN" not in text
    assert json.loads(text) == {"x": None, "curves": {"y": [1.0, None]}, "z": None}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def write():
        with replacing(tmp_path / "a.txt") as partial:
            partial.write_text("ne")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]


def test_what_a_killed_writer_left_half_written_is_no_result(tmp_path):
    """`files.replacing` writes beside the file, and a kill leaves that there."""
    from emphasis.experiments.recipes.load import load_recipe
    from emphasis.experiments.runs.store import CELLS, acquire, finished_rows

    folder = tmp_path / "run"
    acquire(folder, load_recipe("digits"))
    rows = make_rows(recipe(), plain)
    (folder / CELLS / "abc.jsonl").write_text(lines(rows[:1]))
    (folder / CELLS / ".def.partial.jsonl").write_text(lines(rows[1:2]) + '{"ke')
    assert set(finished_rows(folder)) == {rows[0]["key"]}
