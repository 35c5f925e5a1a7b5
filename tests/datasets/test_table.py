from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings

from emphasis import datasets
from emphasis.datasets import DamagedFileError, DataNotFoundError

pd = pytest.importorskip("pandas")


def load(tmp_path, table, label="y", test=None, form="csv", **options):
    names = {"file": table} if test is None else {"file": table, "test_file": test}
    for key, content in names.items():
        path = tmp_path / f"{key}.{form}"
        content.to_csv(path, index=False) if form == "csv" else content.to_parquet(path)
        options[key] = path.name
    return datasets.load("table", tmp_path, label=label, **options)


def split_by_file(tmp_path, train, test, **options):
    return load(tmp_path, pd.DataFrame(train), test=pd.DataFrame(test), **options)


numbers = st.floats(-1e6, 1e6, width=32) | st.integers(-5, 5).map(float) | st.none()
rows = st.lists(st.tuples(numbers, st.sampled_from(["a", "b", "c", None]), st.booleans()), min_size=4, max_size=12)


@given(rows, rows, st.sampled_from(["csv", "parquet"]))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_and_categories_become_what_scikit_learns_slow_pipeline_makes_of_them(tmp_path, train, test, form):
    pytest.importorskip("pyarrow")
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    frames = []
    for part in (train, test):
        frame = pd.DataFrame(part, columns=["n", "c", "flag"])
        frame["n"] = frame["n"].astype(float)
        frame["y"] = ["no", "yes"] * (len(frame) // 2) + ["no"] * (len(frame) % 2)
        frames.append(frame)
    for column in (frames[0][name] for name in ("n", "c", "flag")):
        assume(column.nunique(dropna=False) > 1 and column.notna().any())  # other columns are left out
    split = load(tmp_path, frames[0], test=frames[1], form=form)

    scale = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    texts = [
        frame[["c", "flag"]].astype(object).where(frame[["c", "flag"]].notna(), "~missing").astype(str)
        for frame in frames
    ]
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(texts[0])
    scale.fit(frames[0][["n"]].to_numpy())
    for frame, text, inputs in zip(frames, texts, (split.train_inputs, split.test_inputs), strict=True):
        missing = [frame[["n"]].isna().to_numpy()] if frames[0]["n"].isna().any() else []
        expected = np.concatenate([scale.transform(frame[["n"]].to_numpy()), *missing, encode.transform(text)], axis=1)
        assert inputs.dtype == np.float32
        if frames[0]["n"].fillna(frames[0]["n"].median()).nunique() > 1:
            np.testing.assert_allclose(inputs, expected, rtol=2e-5, atol=1e-5)
        else:
            np.testing.assert_allclose(inputs[:, 1:], expected[:, 1:])
    np.testing.assert_array_equal(split.train_labels, frames[0]["y"] == "yes")


def people(count=40):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.integers(18, 90, count),
            "town": rng.choice(["Ulm", "Bern"], count),
            "pay": rng.normal(size=count),
            "y": np.arange(count) % 4 == 0,
        }
    )


def test_the_training_part_is_standardised_and_the_test_part_by_the_same_numbers(tmp_path):
    table = people()
    split = load(tmp_path, table, test_share=0.25, seed=3)
    assert (len(split.train_labels), len(split.test_labels)) == (30, 10)
    assert split.class_names == ("False", "True")
    assert abs(split.test_labels.mean() - 0.25) < 0.1
    numbers = split.train_inputs[:, [0, 3]].astype(float)
    np.testing.assert_allclose(numbers.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(numbers.std(axis=0), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(split.train_inputs[:, 1] + split.train_inputs[:, 2], 1.0)
    again, other = (load(tmp_path, table, test_share=0.25, seed=seed) for seed in (3, 4))
    np.testing.assert_array_equal(split.test_inputs, again.test_inputs)
    assert not np.array_equal(split.test_inputs, other.test_inputs)


def test_a_missing_number_is_the_median_and_marked(tmp_path):
    train = {"n": [1.0, 2.0, None, 9.0, 2.0], "y": [0, 1, 0, 1, 0]}
    split = split_by_file(tmp_path, train, {"n": [None, 2.0], "y": [0, 1]})
    assert split.train_inputs.shape == (5, 2)
    np.testing.assert_array_equal(split.train_inputs[:, 1], [0, 0, 1, 0, 0])
    assert split.train_inputs[2, 0] == split.train_inputs[1, 0]
    np.testing.assert_array_equal(split.test_inputs[0], split.train_inputs[2])
    # Where the training part misses none there is no mark to learn from, only the median.
    whole = split_by_file(tmp_path, {"n": [1.0, 2.0, 9.0], "y": [0, 1, 0]}, {"n": [None, 9.0], "y": [0, 1]})
    np.testing.assert_array_equal(whole.test_inputs, whole.train_inputs[1:])


def test_a_missing_category_is_a_level_and_an_unseen_one_all_zeros(tmp_path):
    train = {"c": ["b", None, "a", "b"], "y": [0, 1, 0, 1]}
    split = split_by_file(tmp_path, train, {"c": ["a", "z", None], "y": [0, 1, 0]})
    np.testing.assert_array_equal(split.train_inputs, [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(split.test_inputs, [[1, 0, 0], [0, 0, 0], [0, 0, 1]])


def test_a_constant_column_is_left_out_and_not_needed_and_extreme_units_do_not_overflow(tmp_path):
    train = {"k": [0.1] * 3, "big": [1e308, -1e308, 1e300], "small": [1e-300, 2e-300, 3e-300], "y": [0, 1, 0]}
    split = split_by_file(tmp_path, train, {name: values[:2] for name, values in train.items() if name != "k"})
    assert split.notes == ("the column 'k' is '0.1' in every row: ignored",)
    np.testing.assert_allclose(split.train_inputs.std(axis=0), 1.0, rtol=1e-6)
    kept = split_by_file(tmp_path, train, {name: values[:2] for name, values in train.items()}, keep=["k"])
    np.testing.assert_array_equal(kept.train_inputs[:, 0], 0.0)
    with pytest.raises(ValueError, match="'small' reaches 1e\\+20 outside the training part"):
        split_by_file(tmp_path, train, {"big": [0, 0], "small": [1e20, 0], "y": [0, 1]})


def test_numbers_that_are_names_are_categories_when_asked_whatever_is_missing(tmp_path):
    train = {"code": [10, 2, 10, 7], "y": [0, 1, 0, 1]}
    split = split_by_file(tmp_path, train, {"code": [2, None], "y": [0, 1]}, categorical=["code"])
    np.testing.assert_array_equal(split.train_inputs, [[0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(split.test_inputs, [[1, 0, 0], [0, 0, 0]])  # 2.0 there is 2 here


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", "a", "b", "a"], ("a", "b")),
        ([10, 2, 10, 2], ("2", "10")),
        ([1.0, 0.0, 1.0, 0.0], ("0.0", "1.0")),
        (["010", "10", "010", "10"], ("010", "10")),
        (["None", "NA", "None", "NA"], ("NA", "None")),
        ([True, False, True, False], ("False", "True")),
        (["-1", "x", "-1", "x"], ("-1", "x")),
    ],
)
def test_labels_of_any_type_are_classes_in_sorted_order(values, names, tmp_path):
    split = split_by_file(tmp_path, {"n": [1, 2, 3, 4], "y": values}, {"n": [1, 2], "y": values[:2]})
    assert split.class_names == names
    np.testing.assert_array_equal(split.train_labels, [names.index(str(value)) for value in values])


def test_columns_can_be_dropped_and_marks_mean_missing(tmp_path):
    table = people().assign(name=[f"person {i}" for i in range(40)], pay=["?", *"1" * 20, *"2" * 19])
    split = load(tmp_path, table, drop=["name", "town"], missing=["?"], test_share=0.1, seed=1)
    assert split.train_inputs.shape[1] in (2, 3)
    assert not any(name.startswith("person") for name in split.class_names)


def test_unfit_tables_are_clear_errors(tmp_path):
    good = people()
    for match, table, options in [
        (r"has no column 'Y' \(did you mean 'y'\?\); it has 'age', 'town', 'pay', 'y'", good, {"label": "Y"}),
        (r"has no column 'twn' \(did you mean 'town'", good, {"drop": ["twn"]}),
        ("label column 'y' cannot be dropped", good, {"drop": ["y"]}),
        ("no column besides the label", good, {"drop": ["age", "town", "pay"]}),
        ("'y' is '1' in every row", good.assign(y=1), {}),
        ("'y' is empty in 1 of 40 rows", good.assign(y=[None, *"ab" * 19, "a"]), {"unlabeled": "error"}),
        ("'y' is empty in every row", good.assign(y=None), {}),
        ("'y' holds 0.125: classes are texts or whole numbers", good.assign(y=np.arange(40) / 8), {}),
        ("'y' has 40 distinct values in 40 rows", good.assign(y=range(40)), {}),
        ("no column besides the label 'y'.*'pay' is empty", good[["y"]].assign(pay=np.nan), {}),
        ("rare_classes='no' is not allowed", good, {"rare_classes": "no"}),
        ("'pay' holds inf in 1 row;", good.assign(pay=[np.inf] + [1.0] * 39), {}),
        ("'pay' holds -inf in", good.assign(pay=[-np.inf] + [1.0] * 39), {}),
        ("test_share=-0.1", good, {"test_share": -0.1}),
        ("has no rows", good[:0], {}),
        ("fewer than 2 classes are left", good[3:5], {}),
    ]:
        with pytest.raises(ValueError, match=match):
            load(tmp_path, table, **options)


def test_parquet_brings_types_of_its_own_of_which_lists_and_repeated_columns_are_clear_errors(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table([[1, 2], [3, 4], [0, 1]], names=["n", "n", "y"]), tmp_path / "twice.parquet")
    with pytest.raises(ValueError, match=r"Multiple matches for .*n|two columns 'n'"):
        datasets.load("table", tmp_path, file="twice.parquet", label="y")
    with pytest.raises(ValueError, match="'odd' holds lists"):
        load(tmp_path, people().assign(odd=[[1, 2]] * 40), form="parquet")
    nullable = people().assign(age=pd.array([None, *range(39)], dtype="Int64"), town=pd.Categorical(["u", "v"] * 20))
    assert np.isfinite(load(tmp_path, nullable, form="parquet").train_inputs).all()


def test_a_test_table_that_does_not_match_is_a_clear_error(tmp_path):
    train = people()
    for match, test in [
        ("has no column 'age'", train.drop(columns="age")),
        ("has the label 'maybe', which the training table lacks", train.assign(y="maybe")),
        ("'age' holds numbers in the training table, and texts, such as 'old'", train.assign(age="old")),
        ("'pay' holds inf", train.assign(pay=np.inf)),
    ]:
        with pytest.raises(ValueError, match=match):
            load(tmp_path, train, test=test)
    assert len(load(tmp_path, train, test=train.assign(more=1)).test_labels) == 40


def test_absent_and_damaged_files_are_clear_errors(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"absent.csv' does not exist"):
        datasets.load("table", tmp_path, file="absent.csv", label="y")
    for name, content in {
        "a.csv": b"",
        "b.csv": b'x,y\n"1',
        "c.csv": "x,y\n\u00e9\u00e8\u00e0,1\n".encode() + b"\xff,1\n",
        "d.parquet": b"PAR1 no",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DamagedFileError, match=f"{name}' cannot be read"):
            datasets.load("table", tmp_path, file=name, label="y")
