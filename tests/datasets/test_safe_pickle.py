from __future__ import annotations

import contextlib
import os
import pickle
import tracemalloc
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


class Made:
    """Pickled as a call, and what is then told to the object that it makes."""

    def __init__(self, function, arguments, state):
        self.how = function, arguments, state

    def __reduce__(self):
        return self.how


def dtype_of(code, state=(None, None, None, -1, -1, 0)):
    return Made(np.dtype, (code, False, True), (3, "|", *state))


def array_of(dtype, content, shape=(1,)):
    return Made(np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, shape, dtype, False, content))


OBJECT_FIELD = dtype_of("V8", (None, ("a",), {"a": (dtype_of("O8"), 0)}, 8, 1, 0))  # a pointer of chosen bytes
FAR_FIELD = dtype_of("V8", (None, ("a",), {"a": (dtype_of("i8"), 1 << 20)}, 8, 1, 0))  # read and written far beyond
PART = dtype_of("V8", ((dtype_of("u1"), (1 << 40,)), None, None, 8, 1, 0))
UNSAFE_FOR_MEMORY = {
    "object field": array_of(OBJECT_FIELD, b"A" * 8),
    "objects": array_of(dtype_of("O8"), b"A" * 8),
    "far field": array_of(FAR_FIELD, b"A" * 8),
    "subarray": array_of(PART, b"A" * 8),
    "fields of plain name": array_of(dtype_of("u1", (None, ("a",), {"a": (dtype_of("O8"), 0)}, 8, 1, 0)), b"A"),
    "too few bytes": array_of(dtype_of("u1"), b"A", (1 << 40,)),
    "length below 0": array_of(dtype_of("u1"), b"A", (-1, -1)),
    "dtype for content": array_of(b"A", dtype_of("u1")),
}


@pytest.mark.parametrize("made", UNSAFE_FOR_MEMORY.values(), ids=UNSAFE_FOR_MEMORY)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_arrays_whose_type_or_shape_numpy_would_believe_are_refused(made, protocol):
    content = pickle.dumps({"data": made}, protocol)
    with pytest.raises(DamagedFileError, match="batch is cut off or no pickle"):
        loads(content, "batch")


DEEP = 1_000_000
HUNGRY = {
    "deep tuple as a key": b"\x80\x02})" + b"\x85" * DEEP + b"Ns.",  # to hash it overflows the stack
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "a list that doubles": b"\x80\x02]q\x00" + b"".join(b"]q%c(h%ch%ce" % (k + 1, k, k) for k in range(40)) + b".",
    "a tuple that doubles": b"\x80\x02)q\x00" + b"".join(b"h%ch%c\x86q%c" % (k, k, k + 1) for k in range(40)) + b".",
    "text that claims to be long": b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b"a.",
    "a place in memory far away": b"\x80\x02Nr\xff\xff\xff\x7f",
    "the same bytes copied": b"\x80\x02]X\x10'\x00\x00"
    + b"a" * 10000
    + b"q\x000"
    + b"("
    + b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR" * 10000
    + b"e.",
    "an array without content": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR.",
}


@pytest.mark.parametrize("content", HUNGRY.values(), ids=HUNGRY)
def test_nothing_is_made_that_is_larger_or_deeper_than_plain_data(content):
    tracemalloc.start()
    with pytest.raises((DamagedFileError, UnsafeFileError)):
        loads(content, "batch")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * len(content) + 1_000_000


@pytest.mark.parametrize("instruction", [b"0", b"2", b"P1\n", b"ios\nsystem\n", b"o", b"\x81", b"\x92", b"\x82\x01"])
def test_instructions_that_plain_data_does_not_need_are_refused(instruction):
    with pytest.raises((UnsafeFileError, DamagedFileError), match=r"instruction|no pickle"):
        loads(b"\x80\x02(NN" + instruction + b".", "batch")
