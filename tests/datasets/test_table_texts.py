"""Columns of free text: which are found, what is learned from them, and texts of every sort."""

import numpy as np
import pandas as pd
import pytest
from made_up_texts import text_table

from emphasis.datasets.table import TableOptions, load_table, prepare_table
from emphasis.datasets.table_encoder import TableEncoder
from emphasis.datasets.table_report import TableError
from emphasis.datasets.table_texts import NgramLearner, count_ngrams


def fitted(texts):
    return NgramLearner().fit(pd.Series(texts, dtype=object), "body")


def test_a_column_of_free_text_is_learned_from_beside_the_others_and_listed():
    table, _ = text_table()
    prepared = prepare_table(table, "topic")
    assert prepared.kinds == {"pages": "number", "body": "text"}
    (line,) = prepared.report.lines()
    assert line == (
        f"the column 'body' holds {table.body.nunique()} different texts of several words: learned from as text, by "
        "its words and parts of words (leave it out with drop=...)"
    )
    names = prepared.encoder.feature_names
    assert names[:2] == ["pages", "body: component 1"]
    features = prepared.encoder.transform(prepared.frame)
    assert features.shape == (len(table), len(names))
    own = features[:, 1:]
    assert np.allclose((own**2).sum(1), own.shape[1], rtol=1e-4)
    assert prepare_table(table, "topic", TableOptions.of(drop=["body"])).features == ["pages"]


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        ([f"Mr. John Smith the {n}." for n in range(40)], "names"),
        ([f"this is what customer number {n} wrote to us" for n in range(40)], "text"),
        ([f"这是第{n}位顾客写给我们的信" for n in range(40)], "text"),
        ([f"นี่คือสิ่งที่ลูกค้าคนที่{n}เขียนถึงเรา" for n in range(40)], "text"),
        ([f"это то что нам написал покупатель номер {n}" for n in range(40)], "text"),
        (["this is what half of them wrote", "this is what the others wrote"] * 20, "category"),
    ],
)
def test_free_text_is_told_from_names_and_categories_in_any_script(texts, kind):
    table = pd.DataFrame({"x": np.arange(40) % 7, "t": texts, "y": ["a", "b"] * 20})
    assert prepare_table(table, "y").kinds["t"] == kind
    assert prepare_table(table, "y", TableOptions.of(text="t")).kinds["t"] == "text"


def test_options_about_text_that_do_not_fit_are_listed_together():
    table, _ = text_table()
    options = TableOptions.of(text=["bodi", "topic", "pages"], categorical=["pages"])
    with pytest.raises(TableError) as raised:
        prepare_table(table, "topic", options)
    assert [str(problem) for problem in raised.value.problems[1:]] == [
        "the column 'topic' cannot be both text and the label",
        "the column 'pages' cannot be both text and a category",
    ]
    assert "no column 'bodi' (did you mean 'body'?)" in raised.value.problems[0]


def test_only_training_rows_decide_which_ngrams_matter(tmp_path):
    """Rows that are held out change nothing that is learned."""
    table, _ = text_table()
    table.to_csv(tmp_path / "t.csv", index=False)
    changed = table.copy()
    split = load_table(tmp_path, lambda *_: None, file="t.csv", label="topic", seed=3)
    held_out = np.setdiff1d(np.arange(len(table)), split.rows)
    changed.loc[held_out, "body"] = [f"unheard words of another row {n}" for n in range(len(held_out))]
    changed.to_csv(tmp_path / "t.csv", index=False)
    again = load_table(tmp_path, lambda *_: None, file="t.csv", label="topic", seed=3)
    np.testing.assert_array_equal(split.train_inputs, again.train_inputs)
    assert (split.test_inputs != again.test_inputs).any()


def test_counts_are_remembered_and_every_text_is_counted_once(monkeypatch):
    from emphasis.datasets import table_texts

    texts = ["one two three", "", "two words", "one two three"]
    counted = []
    monkeypatch.setattr(table_texts, "count_ngrams", lambda t: (counted.extend(t), count_ngrams(t))[1])
    count = table_texts.remembered_counts()
    assert (count(texts) != count_ngrams(texts)).nnz == 0
    assert (count(texts[::-1]) != count_ngrams(texts[::-1])).nnz == 0
    assert sorted(counted) == sorted(set(texts))


HOSTILE = [
    "",
    " \t\n",
    "word",
    "x",
    "?",
    "a" * 100_000,
    "long " * 20_000,
    "שלום עולם, מה שלומך היום",
    "السلام عليكم ورحمة الله",
    "नमस्ते दुनिया कैसे हो",
    "今天天气很好我们去公园吧",
    "👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u202eright to left\u202c",
    "\ufdfa" * 500,
    "\ud800 half a pair, \x00 and \x1b[31m",
    "<script>alert(1)</script> '; DROP TABLE reviews; -- {{7*7}} %s %n",
    '=HYPERLINK("http://example.org")',
]


def test_texts_of_every_sort_become_finite_vectors():
    column = fitted(HOSTILE * 2)
    vectors = column.encode(pd.Series([*HOSTILE, None], dtype=object))
    assert vectors.dtype == np.float64
    assert np.isfinite(vectors).all()
    assert vectors[:, -1].tolist() == [float(not (text or "").strip()) for text in [*HOSTILE, None]]
    written = column.encode(pd.Series(["Caf\u00e9 \ufb01ne", "  cafe\u0301   FINE "]))
    np.testing.assert_array_equal(*written)
    unknown = column.encode(pd.Series(["ξ"]))
    assert not unknown.any()


@pytest.mark.parametrize("texts", [[""] * 30, [None] * 30, ["same words"] * 30, ["one"] + [""] * 29, ["only one row"]])
def test_texts_that_hold_next_to_nothing_are_learned_from_as_well(texts):
    column = fitted(texts)
    vectors = column.encode(pd.Series(texts, dtype=object))
    assert vectors.shape == (len(texts), len(column.feature_names))
    assert vectors.shape[1] >= 1
    assert np.isfinite(vectors).all()


def test_nested_values_are_named():
    with pytest.raises(TableError, match="'body' holds lists, bytes or other nested values; leave it out with drop"):
        fitted([b"bytes"] * 30)


def test_what_was_learned_is_saved_as_arrays_and_checked():
    table, _ = text_table()
    encoder = prepare_table(table, "topic").encoder
    content, arrays = encoder.to_dict(), encoder.arrays()
    assert set(arrays) == {"0 hashes", "0 idf", "0 components"}
    again = TableEncoder.from_dict(content, arrays)
    np.testing.assert_array_equal(again.transform(table), encoder.transform(table))
    assert again.feature_names == encoder.feature_names
    for change in (
        {"0 hashes": arrays["0 hashes"][::-1]},
        {"0 hashes": arrays["0 hashes"].astype(np.int64)},
        {"0 hashes": np.maximum(arrays["0 hashes"], 2**21)},
        {"0 idf": arrays["0 idf"][1:]},
        {"0 components": arrays["0 components"].T},
    ):
        with pytest.raises(ValueError, match="'body' has an invalid description"):
            TableEncoder.from_dict(content, arrays | change)
    with pytest.raises(KeyError):
        TableEncoder.from_dict(content)


def test_equal_rows_are_known_by_their_texts_and_not_by_the_last_digit_of_a_vector():
    table, _ = text_table()
    encoder = prepare_table(table, "topic").encoder
    features = encoder.transform(table)
    known = encoder.identify(table, features)
    features[:, 1:] *= np.float32(1 + 1e-6)
    np.testing.assert_array_equal(encoder.identify(table, features), known)
    assert len(np.unique(known, axis=0)) == len(table.drop_duplicates(["pages", "body"]))
    assert encoder.identify(table.assign(body=table.body + "!"), features)[0, 1:].tolist() != known[0, 1:].tolist()
