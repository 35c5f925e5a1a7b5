from __future__ import annotations

import gzip
import hashlib
import lzma
import tracemalloc

import numpy as np
import pytest

from emphasis import datasets
from emphasis.datasets import DamagedFileError, DataNotFoundError, mnist


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def as_official(split):
    return {
        "train-images-idx3-ubyte": idx(split.train_inputs[:, 0]),
        "train-labels-idx1-ubyte": idx(split.train_labels.astype(np.uint8)),
        "t10k-images-idx3-ubyte": idx(split.test_inputs[:, 0]),
        "t10k-labels-idx1-ubyte": idx(split.test_labels.astype(np.uint8)),
    }


@pytest.fixture
def official(monkeypatch):
    """The contents of made-up official files, which pass for the real ones."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8), np.arange(7, dtype=np.uint8)
    arrays = [images[:4], labels[:4], images[4:], labels[4:]]
    contents = {name: idx(array) for name, array in zip(mnist.FILES, arrays, strict=True)}
    digests = {name: (hashlib.md5(content).hexdigest(), "") for name, content in contents.items()}
    monkeypatch.setattr(mnist, "FILES", digests)
    return contents


@pytest.mark.parametrize("form", ["{}", "{}.gz", "MNIST/raw/{}", "MNIST/raw/{}.gz", "dotted"])
def test_official_files_are_read_where_and_as_people_have_them(form, official, tmp_path):
    for name, content in official.items():
        path = tmp_path / (name.replace("-idx", ".idx") if form == "dotted" else form.format(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if form.endswith(".gz") else content)
    split = datasets.load("mnist", tmp_path)
    assert split.train_inputs.shape == (4, 1, 28, 28)
    assert split.train_inputs.flags.c_contiguous
    assert split.train_inputs.flags.writeable
    np.testing.assert_array_equal(split.test_labels, [4, 5, 6])
    assert as_official(split) == official


def test_a_truncated_corrupted_or_absent_file_is_a_clear_error(official, tmp_path):
    for name, content in official.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(DamagedFileError, match=r"t10k-images-idx3-ubyte\.gz is cut off"):
        datasets.load("mnist", tmp_path)
    other = bytearray(official["t10k-images-idx3-ubyte"])
    other[-1] ^= 1
    path.write_bytes(gzip.compress(other))
    with pytest.raises(DamagedFileError, match="md5 of its content is"):
        datasets.load("mnist", tmp_path)
    path.unlink()
    with pytest.raises(DataNotFoundError, match=r"looked for mnist\.bin\.xz, t10k-images-idx3-ubyte\.gz:"):
        datasets.load("mnist", tmp_path)


def test_download_fetches_only_what_is_lacking(official, tmp_path, monkeypatch):
    for name in list(official)[:2]:
        (tmp_path / name).write_bytes(official[name])
    asked = []

    def fetch(file, folder, progress):
        asked.append(file.url)
        (folder / file.name).write_bytes(gzip.compress(official[file.name.removesuffix(".gz")]))
        return folder / file.name

    monkeypatch.setattr(mnist, "fetch", fetch)
    assert as_official(datasets.load("mnist", tmp_path, download=True)) == official
    assert [url.rpartition("/")[2] for url in asked] == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]


@pytest.mark.parametrize("damage", [lambda c: c[:-50], lambda c: b"no xz", lambda c: lzma.compress(b"x" * 1000)])
def test_a_damaged_compact_file_is_a_clear_error(damage, tmp_path):
    whole = lzma.compress(bytes(785 * 60_010), preset=0)
    (tmp_path / "mnist.bin.xz").write_bytes(damage(whole))
    with pytest.raises(DamagedFileError, match=r"mnist\.bin\.xz is damaged"):
        datasets.load("mnist", tmp_path)


def test_the_real_compact_file_rebuilds_the_official_files_bit_for_bit(shared_data):
    split = datasets.load("mnist", shared_data)
    assert {name: hashlib.md5(content).hexdigest() for name, content in as_official(split).items()} == {
        name: md5 for name, (md5, _) in mnist.FILES.items()
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08",
        b"\0\0\x08\x01\xff\xff\xff\xff" + bytes(40),
        b"\0\0\x08\x03" + bytes(4),
        b"\0\0\x09\x01\0\0\0\x01a",
        b"\0\0\x08\xff" + bytes(40),
        b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03abcde",
    ],
)
def test_a_file_that_is_no_array_of_bytes_is_a_clear_error_although_its_md5_is_right(content, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="is not an idx file of bytes"):
        mnist.read_idx(path, hashlib.md5(content).hexdigest())


def test_no_more_is_unpacked_than_a_data_set_may_hold(official, tmp_path):
    for name, content in official.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    bomb = bytes(1 << 28)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bomb, 1))
    tracemalloc.start()
    with pytest.raises(DamagedFileError, match="md5 of its content"):
        datasets.load("mnist", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * (1 << 26)
    for name in official:
        (tmp_path / f"{name}.gz").unlink()
    (tmp_path / "mnist.bin.xz").write_bytes(lzma.compress(bomb, preset=0))
    with pytest.raises(DamagedFileError, match="unpacks to more than 67,108,864 bytes"):
        datasets.load("mnist", tmp_path)
