from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from python2_pickle import python2_pickle

from emphasis.datasets import DamagedFileError, UnsafeFileError
from emphasis.datasets.safe_pickle import loads

arrays = hnp.arrays(
    st.sampled_from([np.uint8, np.int64, np.float32, np.dtype(">u4")]),
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=1),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(max_codepoint=255)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(arrays, plain, st.sampled_from([0, 1, 2, 3, 4, "python 2"]))
def test_what_was_pickled_comes_back(array, value, protocol):
    content = {"data": array, "labels": value}
    pickled = python2_pickle(content) if protocol == "python 2" else pickle.dumps(content, protocol)
    back = loads(pickled, "it")
    assert back["labels"] == value
    assert back["data"].dtype == array.dtype.newbyteorder("=")  # as numpy itself reads it
    np.testing.assert_array_equal(back["data"], array)


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"data": [np.zeros(3), evil]}])
@pytest.mark.parametrize(
    ("function", "name"), [(os.system, "system"), (eval, "eval"), (os.mkdir, "mkdir"), (getattr, "getattr")]
)
def test_a_pickle_that_calls_a_function_is_refused_by_name_and_calls_nothing(
    function, name, wrap, protocol, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    argument = {"system": "touch evil", "eval": "__import__('pathlib').Path('evil').touch()", "mkdir": "evil"}.get(
        name, "evil"
    )
    arguments = (argument, "upper") if name == "getattr" else (argument,)
    content = pickle.dumps(wrap(Calls(function, *arguments)), protocol, fix_imports=False)
    expected = "_frombuffer|" + name if protocol == 5 else name
    with pytest.raises(UnsafeFileError, match=rf"batch is refused: it names \S+\.({expected}),"):
        loads(content, "batch")
    assert not Path("evil").exists()
    pickle.loads(content)  # the proof that it is dangerous elsewhere
    assert Path("evil").exists() == (name != "getattr")


def test_the_stand_in_for_encode_encodes_as_latin1_only():
    content = pickle.dumps(Calls(__import__("_codecs").encode, "text", "rot13"), 2)
    with pytest.raises(DamagedFileError, match="rot13"):
        loads(content, "batch")


WHOLE = python2_pickle({"data": np.arange(60, dtype=np.uint8).reshape(2, 30), "labels": [3, 4]})


@given(st.integers(0, len(WHOLE) - 1))
def test_a_truncated_pickle_is_a_clear_error_wherever_it_ends(length):
    with pytest.raises(DamagedFileError, match="batch is cut off or no pickle"):
        loads(WHOLE[:length], "batch")


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_corrupted_pickle_is_read_or_refused_but_never_another_error(place, byte):
    corrupted = bytearray(WHOLE)
    corrupted[place] = byte
    with contextlib.suppress(DamagedFileError, UnsafeFileError):
        loads(bytes(corrupted), "batch")
