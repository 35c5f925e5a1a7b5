from __future__ import annotations

import numpy as np
import pytest

from emphasis.datasets import DamagedFileError, DataNotFoundError
from emphasis.datasets.probability_files import read_probabilities

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

P = np.random.default_rng(0).dirichlet([1, 1, 1], 5)
CLASSES = ("010", "10", "None")
ALL = np.arange(5)


def test_probabilities_are_read_from_all_kinds_of_files(tmp_path):
    np.save(tmp_path / "p.npy", P.astype(np.float32))
    np.savez(tmp_path / "p.npz", labels=np.arange(5), pred_probs=P, features=np.ones((5, 9)))
    np.savez(tmp_path / "one.npz", P)
    frame = pd.DataFrame(P, columns=CLASSES)
    frame[["None", "10", "010"]].assign(more="x").to_csv(tmp_path / "p.csv", index=False)
    frame.rename(columns="p_{}".format).to_parquet(tmp_path / "p.parquet")
    frame.set_axis(["a", "b", "c"], axis=1).to_csv(tmp_path / "order.csv", index=False, sep=";", decimal=",")
    for name in ("p.npy", "p.npz", "one.npz", "p.csv", "p.parquet", "order.csv"):
        np.testing.assert_allclose(read_probabilities(tmp_path / name, CLASSES, ALL, 5), P, rtol=1e-6, err_msg=name)
        some = read_probabilities(tmp_path / name, CLASSES, np.array([4, 1]), 5)
        np.testing.assert_allclose(some, P[[4, 1]], rtol=1e-6)
    np.testing.assert_allclose(
        read_probabilities(tmp_path / "p.npy", CLASSES, np.array([0, 1, 2, 4, 6]), 7), P, rtol=1e-6
    )


def test_rows_are_found_by_their_numbers(tmp_path):
    """As in the predictions of a fit that has left rows out."""
    frame = pd.DataFrame(P, columns=[f"p_{name}" for name in CLASSES]).assign(row=[7, 0, 3, 2, 9])
    frame.to_csv(tmp_path / "p.csv", index=False)
    np.testing.assert_allclose(read_probabilities(tmp_path / "p.csv", CLASSES, np.array([0, 9]), 20), P[[1, 4]])
    with pytest.raises(ValueError, match="has no probabilities of row 1;"):
        read_probabilities(tmp_path / "p.csv", CLASSES, np.array([0, 1]), 20)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (P[:3], "has 3 rows of probabilities, but the data 5"),
        (P[:, :2], r"shape \(5, 2\); the labels have 3 classes: 010, 10, None"),
        (P[0], r"shape \(3,\)"),
        (np.array([["a", "b", "c"]] * 5), "holds no numbers"),
    ],
)
def test_what_does_not_fit_is_named(array, match, tmp_path):
    np.save(tmp_path / "p.npy", array)
    with pytest.raises(ValueError, match=match):
        read_probabilities(tmp_path / "p.npy", CLASSES, ALL, 5)


def test_damaged_and_missing_files_are_named(tmp_path):
    with pytest.raises(DataNotFoundError, match="there is no file"):
        read_probabilities(tmp_path / "p.npy", CLASSES, ALL, 5)
    (tmp_path / "p.npy").write_bytes(b"no")
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    for name in ("p.npy", "objects.npy"):
        with pytest.raises(DamagedFileError, match="cannot be read"):
            read_probabilities(tmp_path / name, CLASSES, ALL, 5)
    np.savez(tmp_path / "p.npz", a=P, b=P)
    with pytest.raises(ValueError, match="holds 2 matrices; call one of them 'probabilities'"):
        read_probabilities(tmp_path / "p.npz", CLASSES, ALL, 5)
    pd.DataFrame(P, columns=["a", "b", "c"]).assign(d=1).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(ValueError, match="has no column for each class; name them 010, 10, None"):
        read_probabilities(tmp_path / "p.csv", CLASSES, ALL, 5)
