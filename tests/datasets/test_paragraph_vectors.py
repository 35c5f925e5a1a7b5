from __future__ import annotations

import numpy as np
import pytest

from emphasis.datasets import paragraph_vectors
from emphasis.datasets.paragraph_vectors import (
    ParagraphVectors,
    cached_paragraph_vectors,
    tokenize,
    train_paragraph_vectors,
)

TEXTS = ["A good film.", "A bad film!", "Good, good film.", "bad"] * 3
SETTINGS = ParagraphVectors(size=4, epochs=2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's GOOD!", ["it's", "good", "!"]),
        ("bad...<br /><br/>Café <BR>no", ["bad", ".", ".", ".", "café", "no"]),
        ("'quoted' 7/10", ["'", "quoted", "'", "7", "/", "10"]),
        ("<b>", ["<", "b", ">"]),
        (" \n\t", []),
    ],
)
def test_words_are_lower_case_and_marks_are_words(text, words):
    assert tokenize(text) == words


def test_one_worker_gives_the_same_vectors_every_time_and_another_seed_others():
    pytest.importorskip("gensim")
    vectors, again = (train_paragraph_vectors(TEXTS, SETTINGS) for _ in range(2))
    assert vectors.shape == (12, 4)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, again)
    assert not np.array_equal(vectors, train_paragraph_vectors(TEXTS, ParagraphVectors(size=4, epochs=2, seed=1)))


def test_no_common_word_is_a_clear_error():
    pytest.importorskip("gensim")
    with pytest.raises(ValueError, match="no word occurs 99 times in the 12 documents; lower min_count"):
        train_paragraph_vectors(TEXTS, ParagraphVectors(min_count=99))


@pytest.mark.parametrize(
    "wrong",
    [{"size": 0}, {"epochs": 0}, {"negative": 0}, {"min_count": 0}, {"workers": 0}, {"sample": 1.0}, {"sample": -1.0}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.* is not allowed"):
        ParagraphVectors(**wrong)


@pytest.fixture
def trainings(monkeypatch):
    """Replace training by something quick; the list has an entry for each."""
    calls = []

    def train(texts, settings, progress):
        calls.append(settings)
        return np.full((len(texts), settings.size), len(calls), dtype=np.float32)

    monkeypatch.setattr(paragraph_vectors, "train_paragraph_vectors", train)
    return calls


def test_vectors_are_trained_once_for_each_texts_and_settings(trainings, tmp_path):
    folder = tmp_path / "made" / "on demand"
    for _ in range(2):
        np.testing.assert_array_equal(cached_paragraph_vectors(TEXTS, SETTINGS, folder), np.full((12, 4), 1.0))
    others = [(TEXTS[::-1], SETTINGS), (TEXTS[1:], SETTINGS), (TEXTS, ParagraphVectors(size=4, epochs=3))]
    for texts, settings in others:
        cached_paragraph_vectors(texts, settings, folder)
    assert len(trainings) == 4
    assert len(list(folder.iterdir())) == 4  # and no partial files


@pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[:50], lambda c: c[:-8], lambda c: b"garbage" + c])
def test_a_damaged_cache_file_is_trained_anew(damage, trainings, tmp_path):
    cached_paragraph_vectors(TEXTS, SETTINGS, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        np.testing.assert_array_equal(cached_paragraph_vectors(TEXTS, SETTINGS, tmp_path), np.full((12, 4), 2.0))
    assert len(trainings) == 2
