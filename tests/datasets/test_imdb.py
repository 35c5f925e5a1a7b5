from __future__ import annotations

import bz2
import hashlib
import io
import json
import tarfile
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from emphasis import datasets
from emphasis.datasets import (
    DamagedFileError,
    DataNotFoundError,
    UnsafeFileError,
    imdb,
    load_reviews,
    paragraph_vectors,
)

LABELS = {"pos": 1, "neg": 0}


def tree():
    """{path below aclImdb: content}: numbers whose order as texts is another, a text of two lines, and side files."""
    files = {}
    for part in ("train", "test"):
        for kind in ("pos", "neg"):
            for number in (0, 2, 10, 100):
                files[f"{part}/{kind}/{number}_{7 if kind == 'pos' else 2}.txt"] = (
                    f"{part} {kind} film {number}\né<br />".encode()
                )
        files[f"{part}/urls_pos.txt"] = b"http://example.org"
    files |= {f"train/unsup/{number}_0.txt": f"some film {number}".encode() for number in (3, 20)}
    return files | {"imdb.vocab": b"film", "README": b"read me", "train/labeledBow.feat": b"7 0:9"}


def write_tree(root, names=None):
    files = tree()
    for name in names or files:
        path = root / "aclImdb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])


def write_archive(root, monkeypatch, names=None, extra=()):
    files = tree()
    path = root / "aclImdb_v1.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in [*((f"aclImdb/{name}", files[name]) for name in names or files), *extra]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    digest = ("md5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(imdb, "ARCHIVE", replace(imdb.ARCHIVE, digest=digest))


def compact_rows():
    order = [("train", "pos"), ("train", "neg"), ("test", "pos"), ("test", "neg")]
    return [
        {"split": part, "label": LABELS[kind], "id": n, "rating": 1, "text": f"{part} {kind} film {n}\né<br />"}
        for part, kind in order
        for n in (0, 2, 10, 100)
    ]


def write_compact(root, rows):
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (root / "imdb.jsonl.bz2").write_bytes(bz2.compress(lines.encode()))


def as_tuple(reviews):
    labels = reviews.train_labels.tolist(), reviews.test_labels.tolist()
    return reviews.train_texts, reviews.test_texts, *labels, reviews.unlabelled_texts


def test_tree_archive_and_compact_file_give_the_same_in_the_same_order(tmp_path, monkeypatch):
    for form in "abc":
        (tmp_path / form).mkdir()
    write_tree(tmp_path / "a")
    write_archive(tmp_path / "b", monkeypatch)
    write_compact(tmp_path / "c", compact_rows())
    of_tree, of_archive, of_compact = (as_tuple(load_reviews(tmp_path / form)) for form in "abc")
    assert of_tree == of_archive
    assert of_tree[:4] == of_compact[:4]
    texts = [f"train {kind} film {number}\né<br />" for kind in ("pos", "neg") for number in (0, 2, 10, 100)]
    assert of_tree[0] == texts
    assert of_tree[2] == [1] * 4 + [0] * 4
    assert of_tree[4] == ["some film 3", "some film 20"]
    assert of_compact[4] == []


@given(st.permutations([(f"aclImdb/{name}", content) for name, content in tree().items()]))
def test_the_order_in_which_files_are_listed_does_not_matter(files):
    assert as_tuple(imdb._sorted(files)) == as_tuple(imdb._sorted(sorted(files)))


def test_the_compact_files_order_is_kept_within_training_and_test(tmp_path):
    rows = compact_rows()
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    write_compact(tmp_path, shuffled)
    reviews = load_reviews(tmp_path)
    assert reviews.train_texts == [row["text"] for row in shuffled if row["split"] == "train"]
    assert reviews.test_labels.tolist() == [row["label"] for row in shuffled if row["split"] == "test"]
    assert repr(reviews) == "<Reviews: 8 training, 8 test, 0 unlabeled>"


def test_damaged_unsafe_and_absent_forms_are_clear_errors(tmp_path, monkeypatch):
    with pytest.raises(DataNotFoundError, match=r"aclImdb/, aclImdb_v1\.tar\.gz, imdb\.jsonl\.bz2"):
        load_reviews(tmp_path)
    whole = compact_rows()
    compact = tmp_path / "imdb.jsonl.bz2"
    for rows, match in [
        ([row for row in whole if row["split"] == "train"], "its test part lacks"),
        ([row for row in whole if row["label"] or row["split"] == "test"], "its training part lacks"),
        ([*whole, {"split": "dev", "label": 1, "text": ""}], "split 'dev' and label 1"),
        ([*whole, {"split": "train", "label": 1}], "KeyError"),
        ([*whole, 3], "TypeError"),
    ]:
        write_compact(tmp_path, rows)
        with pytest.raises(DamagedFileError, match=match):
            load_reviews(tmp_path)
    write_compact(tmp_path, whole)
    for content in (compact.read_bytes()[:-30], b"no bz2", bz2.compress(b'{"split"'), bz2.compress(b"\xff\n")):
        compact.write_bytes(content)
        with pytest.raises(DamagedFileError, match="cut off or damaged"):
            load_reviews(tmp_path)
    write_archive(tmp_path, monkeypatch, extra=[("../evil", b"")])
    with pytest.raises(UnsafeFileError, match="evil"):
        load_reviews(tmp_path)
    archive = tmp_path / "aclImdb_v1.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(DamagedFileError, match="its md5 is"):
        load_reviews(tmp_path)
    write_tree(tmp_path)
    (tmp_path / "aclImdb/train/pos/5_9.txt").write_bytes(b"\xff")
    with pytest.raises(DamagedFileError, match=r"train/pos/5_9\.txt is damaged: it is not UTF-8"):
        load_reviews(tmp_path)


def test_download_fetches_the_archive_only_when_asked_and_needed(tmp_path, monkeypatch):
    asked = []

    def fetch(file, folder, progress):
        asked.append(file.url)
        write_archive(folder, monkeypatch)

    monkeypatch.setattr(imdb, "fetch", fetch)
    for _ in range(2):
        assert len(load_reviews(tmp_path, download=True).train_texts) == 8
    assert asked == ["https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"]


def test_vectors_are_of_all_reviews_in_order_trained_once_and_kept_in_the_cache(tmp_path, monkeypatch, user_cache):
    pytest.importorskip("gensim")
    write_tree(tmp_path)
    told = []
    options = {"size": 3, "epochs": 2, "sample": 0, "seed": 5}
    split = datasets.load("imdb-vectors", tmp_path, progress=lambda *report: told.append(report), **options)
    assert told == [("training paragraph vectors, epochs", epoch, 2) for epoch in (1, 2)]
    assert split.class_names == ("negative", "positive")
    reviews = load_reviews(tmp_path)
    np.testing.assert_array_equal(split.train_labels, reviews.train_labels)
    settings = paragraph_vectors.ParagraphVectors(size=3, epochs=2, sample=0.0, seed=5)
    texts = [*reviews.train_texts, *reviews.test_texts, *reviews.unlabelled_texts]
    vectors = paragraph_vectors.train_paragraph_vectors(texts, settings)
    np.testing.assert_array_equal(np.concatenate([split.train_inputs, split.test_inputs]), vectors[:16])
    assert [path.suffix for path in user_cache.iterdir()] == [".npy"]

    monkeypatch.setattr(paragraph_vectors, "train_paragraph_vectors", None)
    again = datasets.load("imdb-vectors", tmp_path, **options)
    np.testing.assert_array_equal(again.train_inputs, split.train_inputs)
    with pytest.raises(TypeError):  # other settings never meet the cached vectors
        datasets.load("imdb-vectors", tmp_path, **options | {"shuffle": False})


def test_a_setting_that_is_not_allowed_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="epochs=0 is not allowed"):
        datasets.load("imdb-vectors", tmp_path, epochs=0)


def test_the_real_reviews(shared_data):
    reviews = load_reviews(shared_data)
    assert np.bincount(reviews.train_labels).tolist() == [12_500, 12_498]
    assert np.bincount(reviews.test_labels).tolist() == [12_500, 12_500]
    assert reviews.train_texts[0].startswith("If you like adult comedy cartoons, like South Park")


@pytest.mark.parametrize(
    "line",
    [
        '{"split":' * 100_000,
        '{"split": "train", "label": [1], "text": "a"}',
        '{"split": "train", "label": 1, "text": ["a"]}',
        "[]",
        "3",
    ],
)
def test_a_line_that_is_no_review_is_a_clear_error(line, tmp_path):
    (tmp_path / "imdb.jsonl.bz2").write_bytes(bz2.compress(line.encode()))
    with pytest.raises(DamagedFileError, match="damaged"):
        load_reviews(tmp_path)


def test_no_more_is_unpacked_than_all_reviews_may_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("emphasis.datasets.imdb.LARGEST_TEXT", 1000)
    write_compact(tmp_path, compact_rows() * 9)
    with pytest.raises(DamagedFileError, match="unpacks to more than 1,000 bytes"):
        load_reviews(tmp_path)
