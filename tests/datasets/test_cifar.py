from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from python2_pickle import python2_pickle

from emphasis import datasets
from emphasis.datasets import DamagedFileError, DataNotFoundError, UnsafeFileError, cifar
from emphasis.datasets.cifar_names import CIFAR10, CIFAR100_COARSE, CIFAR100_FINE

NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}


def made_up(name, per_batch=4):
    """{batch: (images (n, 3, 32, 32), {kind: labels})}, random, under the official names."""
    rng = np.random.default_rng(0)
    source = getattr(cifar, NAMES[name])
    batches = {}
    for batch, _ in source.batches:
        images = rng.integers(0, 256, (per_batch, 3, 32, 32), dtype=np.uint8)
        if name == "cifar10":
            labels = {"label": rng.integers(0, 10, per_batch)}
        else:  # four in five are vehicles: fine labels of coarse 18 and 19
            fine = np.array([8, 13, 48, 81, 0])[np.arange(per_batch) % 5]
            labels = {"fine": fine, "coarse": np.array([18, 18, 18, 19, 4])[np.arange(per_batch) % 5]}
        batches[batch] = images, labels
    return batches


def pickled(name, batches):
    keys = {"label": "labels", "fine": "fine_labels", "coarse": "coarse_labels"}
    return {
        batch: python2_pickle(
            {"data": images.reshape(len(images), -1)} | {keys[kind]: y.tolist() for kind, y in labels.items()}
        )
        for batch, (images, labels) in batches.items()
    }


def trust(name, monkeypatch, contents=None, archive=None):
    """Let the made-up files have the right md5."""
    source = getattr(cifar, NAMES[name])
    if contents is not None:
        digests = tuple((batch, hashlib.md5(content).hexdigest()) for batch, content in contents.items())
        source = replace(source, batches=digests)
    if archive is not None:
        digest = ("md5", hashlib.md5(archive.read_bytes()).hexdigest())
        source = replace(source, archive=replace(source.archive, digest=digest))
    monkeypatch.setattr(cifar, NAMES[name], source)


def write_folder(root, name, contents):
    folder = root / getattr(cifar, NAMES[name]).folder
    folder.mkdir()
    for batch, content in contents.items():
        (folder / batch).write_bytes(content)


def write_archive(root, name, contents, extra=()):
    source = getattr(cifar, NAMES[name])
    path = root / source.archive.name
    with tarfile.open(path, "w:gz") as tar:
        for member, content in [*((f"{source.folder}/{b}", c) for b, c in contents.items()), *extra]:
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def strip(images):
    file = io.BytesIO()
    rows = images.transpose(0, 2, 3, 1).reshape(-1, 32, 3)
    Image.fromarray(rows).save(file, "WEBP", lossless=True, exact=True)
    return np.frombuffer(file.getvalue(), np.uint8)


def write_compact(root, stem, batches, **more):
    (*train, test) = batches.values()
    for part, pairs in {"train": train, "test": [test]}.items():
        columns = {kind: np.concatenate([labels[kind] for _, labels in pairs]).astype(np.uint8) for kind in pairs[0][1]}
        strips = {f"strip{i:03d}": strip(images) for i, (images, _) in enumerate(pairs)}
        extra = {key: value[part] for key, value in more.items()}
        np.savez(root / f"{stem}_{part}.npz", **strips, **columns, **extra)


def same(a, b):
    assert a.class_names == b.class_names
    for field in ("train_inputs", "train_labels", "test_inputs", "test_labels"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        assert getattr(a, field).dtype == getattr(b, field).dtype
        assert getattr(a, field).flags.c_contiguous


@pytest.mark.parametrize(
    ("name", "options"),
    [("cifar10", {}), ("cifar100", {"labels": "fine"}), ("cifar100", {"labels": "coarse"}), ("vehicles10", {})],
)
def test_folder_archive_and_compact_files_give_the_same(name, options, tmp_path, monkeypatch):
    stem = "cifar10" if name == "cifar10" else "cifar100"
    batches = made_up(stem, per_batch=8)
    contents = pickled(stem, batches)
    splits = []
    for form in ("folder", "archive", "compact"):
        root = tmp_path / form
        root.mkdir()
        if form == "folder":
            write_folder(root, stem, contents)
            trust(stem, monkeypatch, contents)
        elif form == "archive":
            trust(stem, monkeypatch, archive=write_archive(root, stem, contents))
        else:
            write_compact(root, stem, batches)
        splits.append(datasets.load(name, root, **options))
    same(splits[0], splits[1])
    same(splits[0], splits[2])
    if name != "vehicles10":
        images = np.concatenate([images for images, _ in batches.values()])
        np.testing.assert_array_equal(np.concatenate([splits[0].train_inputs, splits[0].test_inputs]), images)
        kind = options.get("labels", "label")
        labels = np.concatenate([labels[kind] for _, labels in batches.values()])
        np.testing.assert_array_equal(np.concatenate([splits[0].train_labels, splits[0].test_labels]), labels)
        assert splits[0].class_names == {"label": CIFAR10, "fine": CIFAR100_FINE, "coarse": CIFAR100_COARSE}[kind]
    else:
        assert splits[0].class_names == ("bicycle", "bus", "motorcycle", "streetcar")
        np.testing.assert_array_equal(splits[0].train_labels, [0, 1, 2, 3, 0, 1, 2])


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Official files of CIFAR-10, made up and trusted, as contents by name; the archive is at tmp_path."""
    contents = pickled("cifar10", made_up("cifar10"))
    trust("cifar10", monkeypatch, contents, write_archive(tmp_path, "cifar10", contents))
    return contents


def test_the_digests_are_the_official_ones():
    assert cifar.CIFAR10.archive.digest == ("md5", "c58f30108f718f92721af3b95e74349a")
    assert cifar.CIFAR100.archive.digest == ("md5", "eb9058c3a382ffc7106e4002c42a8d85")
    assert dict(cifar.CIFAR100.batches)["train"] == "16019d7e3df5f24257cddd939b257f8d"


def test_a_truncated_archive_fails_its_checksum_and_with_a_right_one_is_cut_off(official, tmp_path, monkeypatch):
    path = tmp_path / cifar.CIFAR10.archive.name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedFileError, match=r"cifar-10-python.tar.gz is damaged: its md5 is \w+, not"):
        datasets.load("cifar10", tmp_path)
    trust("cifar10", monkeypatch, archive=path)
    with pytest.raises(DamagedFileError, match="cut off"):
        datasets.load("cifar10", tmp_path)


def test_one_flipped_byte_in_archive_or_folder_fails_the_checksum(official, tmp_path):
    path = tmp_path / cifar.CIFAR10.archive.name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="its md5 is"):
        datasets.load("cifar10", tmp_path)
    batch = bytearray(official["data_batch_3"])
    batch[100] ^= 1
    write_folder(tmp_path, "cifar10", official | {"data_batch_3": batch})
    with pytest.raises(DamagedFileError, match="data_batch_3 is damaged: its md5 is"):
        datasets.load("cifar10", tmp_path)


def test_an_archive_or_folder_that_lacks_a_batch_says_which(official, tmp_path, monkeypatch):
    less = {name: content for name, content in official.items() if name != "data_batch_2"}
    trust("cifar10", monkeypatch, archive=write_archive(tmp_path, "cifar10", less))
    with pytest.raises(DamagedFileError, match="lacks cifar-10-batches-py/data_batch_2"):
        datasets.load("cifar10", tmp_path)
    write_folder(tmp_path, "cifar10", less)
    with pytest.raises(DamagedFileError, match="lacks data_batch_2: unpack"):
        datasets.load("cifar10", tmp_path)


class Evil:
    def __reduce__(self):
        import os

        return os.mkdir, ("evil",)


def test_a_batch_that_would_run_code_is_refused_and_runs_none(official, tmp_path, monkeypatch):
    import pickle

    monkeypatch.chdir(tmp_path)
    evil = official | {"data_batch_4": pickle.dumps({"data": Evil(), "labels": []}, 2)}
    trust("cifar10", monkeypatch, evil, write_archive(tmp_path, "cifar10", evil))
    with pytest.raises(UnsafeFileError, match=r"data_batch_4 is refused: it names \w+\.mkdir"):
        datasets.load("cifar10", tmp_path)
    assert not (tmp_path / "evil").exists()


def test_an_archive_with_a_name_that_climbs_out_is_refused_and_writes_nothing(official, tmp_path, monkeypatch):
    trust("cifar10", monkeypatch, archive=write_archive(tmp_path, "cifar10", official, [("../evil", b"x")]))
    before = set(tmp_path.parent.rglob("*"))
    with pytest.raises(UnsafeFileError, match=r"member '\.\./evil'"):
        datasets.load("cifar10", tmp_path)
    assert set(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        ({"data": np.zeros((2, 3072), np.uint8)}, "no batch of CIFAR-10"),
        ({"data": np.zeros((2, 99), np.uint8), "labels": [1, 2]}, "no batch of CIFAR-10"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, "2 images, but label has the shape"),
        ([1, 2], "no batch of CIFAR-10"),
    ],
)
def test_a_pickle_of_something_else_is_a_clear_error(batch, match, official, tmp_path, monkeypatch):
    other = official | {"test_batch": python2_pickle(batch)}
    trust("cifar10", monkeypatch, archive=write_archive(tmp_path, "cifar10", other))
    with pytest.raises(DamagedFileError, match=match):
        datasets.load("cifar10", tmp_path)


def test_exact_only_leaves_out_the_copies_from_both_parts(tmp_path):
    batches = made_up("cifar10")
    exact = {"train": np.arange(20) % 3 > 0, "test": np.array([True, False, True, True])}
    write_compact(tmp_path, "cifar10", batches, exact=exact)
    whole, cut = datasets.load("cifar10", tmp_path), datasets.load("cifar10", tmp_path, exact_only=True)
    np.testing.assert_array_equal(cut.train_inputs, whole.train_inputs[exact["train"]])
    np.testing.assert_array_equal(cut.train_labels, whole.train_labels[exact["train"]])
    np.testing.assert_array_equal(cut.test_inputs, whole.test_inputs[exact["test"]])


def test_damaged_compact_files_are_clear_errors(tmp_path):
    write_compact(tmp_path, "cifar10", made_up("cifar10"))
    path = tmp_path / "cifar10_train.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFileError, match=r"cifar10_train\.npz is damaged"):
        datasets.load("cifar10", tmp_path)
    with np.load(io.BytesIO(whole)) as file:
        columns = {name: file[name] for name in file.files}
    for wrong, match in [
        ({"strip000": np.zeros(50, np.uint8)}, "damaged"),
        ({"label": np.zeros(3, np.uint8)}, "20 images"),
    ]:
        np.savez(path, **(columns | wrong))
        with pytest.raises(DamagedFileError, match=match):
            datasets.load("cifar10", tmp_path)
    del columns["label"]
    np.savez(path, **columns)
    with pytest.raises(DamagedFileError, match="label"):
        datasets.load("cifar10", tmp_path)
    path.write_bytes(whole)
    (tmp_path / "cifar10_test.npz").unlink()
    with pytest.raises(DataNotFoundError, match=r"cifar10_test\.npz"):
        datasets.load("cifar10", tmp_path)


def test_download_fetches_the_archive_only_when_asked_and_needed(tmp_path, monkeypatch):
    contents = pickled("cifar10", made_up("cifar10"))
    asked = []

    def fetched(file, folder, progress):
        asked.append(file.url)
        trust("cifar10", monkeypatch, archive=write_archive(folder, "cifar10", contents))

    monkeypatch.setattr(cifar, "download", fetched)
    with pytest.raises(DataNotFoundError):
        datasets.load("cifar10", tmp_path)
    assert asked == []
    for _ in range(2):
        assert len(datasets.load("cifar10", tmp_path, download=True).train_labels) == 20
    assert asked == ["https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"]


@pytest.mark.parametrize("kind", ["fine", "coarse"])
def test_human_labels_of_cifar100_are_of_the_kind_asked_for(kind, tmp_path):
    write_compact(tmp_path, "cifar100", made_up("cifar100"))
    names = {"fine": ("clean_label", "noisy_label"), "coarse": ("clean_coarse_label", "noisy_coarse_label")}
    true = {k: datasets.load("cifar100", tmp_path, labels=k).train_labels for k in names}
    columns = {clean: true[k] for k, (clean, _) in names.items()} | {
        noisy: true[k][::-1] for k, (_, noisy) in names.items()
    }
    np.savez(tmp_path / "cifar100n.npz", **columns)
    human = datasets.load("cifar100", tmp_path, labels=kind, human_labels=True).human_labels
    assert list(human) == [names[kind][1]]
    np.testing.assert_array_equal(human[names[kind][1]], true[kind][::-1])


def test_the_real_vehicles(shared_data):
    split = datasets.load("vehicles10", shared_data)
    assert split.train_inputs.shape == (5000, 3, 32, 32)
    np.testing.assert_array_equal(np.bincount(split.train_labels), [500] * 10)
    np.testing.assert_array_equal(np.bincount(split.test_labels), [100] * 10)
    assert split.class_names == (
        "bicycle",
        "bus",
        "lawn_mower",
        "motorcycle",
        "pickup_truck",
        "rocket",
        "streetcar",
        "tank",
        "tractor",
        "train",
    )


def test_the_real_cifar10_with_human_labels(shared_data):
    split = datasets.load("cifar10", shared_data, human_labels=True, exact_only=True)
    counts = np.full(10, 5000)
    counts[[3, 4, 5, 6, 7, 8]] -= [1, 5, 6, 7, 15, 803]
    np.testing.assert_array_equal(np.bincount(split.train_labels), counts)
    assert len(split.test_labels) == 10_000 - 173
    wrong = {name: (labels != split.train_labels).mean() for name, labels in split.human_labels.items()}
    published = {"aggre_label": 0.0901, "worse_label": 0.4021}
    published |= {"random_label1": 0.1723, "random_label2": 0.1812, "random_label3": 0.1764}
    assert wrong == pytest.approx(published, abs=0.005)  # published for all 50,000
    # The channel means everyone uses are those of the whole, exact set; 1.7 % of the images are left out here.
    np.testing.assert_allclose(split.channel_statistics()[0], [0.4914, 0.4822, 0.4465], atol=2e-3)
