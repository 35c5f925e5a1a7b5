"""Rows that repeat others are counted, held out together, and compared by label."""

import numpy as np
import pytest

from emphasis.datasets.copies import array_groups, column_hashes, copies_of, representatives, row_keys
from emphasis.datasets.table import TableOptions, load_table, prepare_table
from emphasis.tabular.cross_validation import splits

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

N = 200


def table(copies=60, seed=0):
    """Rows whose label is random, the last of which repeat the first, with the same labels except for the first two."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=N),
            "gaps": np.where(rng.random(N) < 0.3, np.nan, rng.normal(size=N)),
            "plan": rng.choice(["basic", "full"], N),
            "y": rng.permutation(["a", "b"] * (N // 2)),
        }
    )
    again = frame[:copies].copy()
    again.loc[:1, "y"] = again.loc[:1, "y"].map({"a": "b", "b": "a"})
    return pd.concat([frame, again], ignore_index=True)


def test_copies_and_contradictions_are_listed_and_held_out_together():
    prepared = prepare_table(table(), "y")
    first, second = prepared.report.lines()
    assert first == (
        "60 of 260 rows repeat the features of an earlier row (rows 200, 201, 202, 203, 204 and 55 more): equal rows "
        "are held out together"
    )
    labels = table()["y"]
    assert second == (
        f"equal rows have different labels in 2 cases, such as {labels[0]!r} in row 0 and {labels[200]!r} in row 200: "
        "used as given (look at them first)"
    )
    parts = splits(prepared.given, 5, 0, prepared.groups)
    assert sorted(np.concatenate([held for _, held in parts]).tolist()) == list(range(260))
    for training, held in parts:
        assert not set(prepared.groups[training]) & set(prepared.groups[held])
        assert 40 <= len(held) <= 64
        assert abs(prepared.given[held].mean() - 0.5) < 0.12


def test_copies_do_not_flatter_the_accuracy(tmp_path):
    from emphasis.tabular import fit_table

    repeated = pd.concat([table(0)] * 3, ignore_index=True)  # labels are random, and those of copies are equal
    fit = fit_table(
        repeated, label="y", folder=tmp_path / "fit", compare=False, calibrate=False, settings={"max_depth": 6}
    )
    predicted = next(iter(fit.probabilities.values())).argmax(1)
    assert abs((predicted == fit.given).mean() - 0.5) < 0.1  # 0.95 if copies are in other folds


def test_a_test_part_holds_no_copy_of_a_training_row(tmp_path):
    table().to_csv(tmp_path / "t.csv", index=False)
    split = load_table(tmp_path, lambda *_: None, file="t.csv", label="y")
    train, test = (set(map(bytes, part)) for part in (split.train_inputs, split.test_inputs))
    assert not train & test
    assert len(split.test_labels) == pytest.approx(52, abs=10)


def test_rows_that_are_equal_by_chance_are_no_copies():
    rng = np.random.default_rng(0)
    coarse = pd.DataFrame({name: rng.integers(0, 3, N) for name in "ab"} | {"y": rng.choice(["a", "b"], N)})
    prepared = prepare_table(coarse, "y", TableOptions())
    assert prepared.report.findings == ()
    assert prepared.groups.tolist() == list(range(N))


def test_folds_of_rows_that_differ_are_as_they_were_and_no_class_loses_all_its_rows():
    labels = np.array([0] * 30 + [1] * 30 + [2] * 3)
    apart = np.arange(63)
    for (training, held), (before, held_before) in zip(splits(labels, 5, 1, apart), splits(labels, 5, 1), strict=True):
        assert np.array_equal(training, before)
        assert np.array_equal(held, held_before)
    keys = np.r_[np.arange(60), [99] * 3]  # the only rows of class 2 repeat each other
    copies = copies_of(keys, labels)
    assert copies.repeats.tolist() == [61, 62]
    assert copies.groups.tolist() == list(range(63))
    keys = np.r_[np.arange(60), [0, 0, 1]]  # they repeat rows of another class as well
    copies = copies_of(keys, labels)
    assert copies.contradictions == ((0, 60), (1, 62))
    rows, group = representatives(copies.groups, labels)
    assert labels[rows[group[60]]] == 2
    for training, held in splits(labels, 5, 1, copies.groups):
        assert set(labels[training]) == {0, 1, 2}
        assert len({*held} & {0, 60, 61}) in (0, 3)


def test_equal_rows_of_any_type_have_equal_keys():
    frame = pd.DataFrame(
        {
            "f": [1.5, np.nan, 1.5, np.nan],
            "o": ["a", None, "a", None],
            "b": pd.array([True, None, True, None], dtype="boolean"),
            "d": pd.to_datetime(["2020-01-01", None] * 2),
            "m": [1, "x", 1, "x"],
        }
    )
    keys = row_keys(column_hashes(frame, list(frame.columns)))
    assert keys[0] == keys[2] != keys[1] == keys[3]
    assert row_keys(column_hashes(frame, ["f", "o"]))[0] != row_keys(column_hashes(frame, ["o", "f"]))[0]


def test_equal_rows_of_an_array_are_copies_unless_there_are_few_values():
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(60, 3)), np.arange(60) % 2
    repeated = np.concatenate([values, values[:20], [[0.0, 1.0, 2.0], [-0.0, 1.0, 2.0]]])
    groups = array_groups(repeated, np.resize(labels, 82))
    assert len(np.unique(groups)) == 61
    assert np.array_equal(groups[60:80], groups[:20])
    assert groups[80] == groups[81]
    few = rng.integers(0, 2, (200, 3)).astype(float)
    assert np.array_equal(array_groups(few, np.arange(200) % 2), np.arange(200))
