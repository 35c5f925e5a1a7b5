from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from emphasis.datasets import DamagedFileError, DataNotFoundError, UnsafeFileError, human_labels
from emphasis.datasets.human_labels import load_human_labels

TRUE = np.arange(40) % 10
FILES = {"cifar10": ("cifar10n.npz", "CIFAR-10_human.pt"), "cifar100": ("cifar100n.npz", "CIFAR-100_human.pt")}
NOISY = {
    "cifar10": ("aggre_label", "worse_label", "random_label1", "random_label2", "random_label3"),
    "cifar100-fine": ("noisy_label",),
    "cifar100-coarse": ("noisy_coarse_label",),
}
KINDS = list(NOISY)


@pytest.fixture(autouse=True)
def any_file_is_official(monkeypatch, request):
    """Let files that are made up pass for the official ones, but where a test is about that."""
    if "digest" not in request.node.name:
        monkeypatch.setattr(human_labels, "check_digest", lambda path, digest: None)


def columns(kind):
    """What a file holds, the true labels included."""
    rng = np.random.default_rng(0)
    clean = {"cifar10": ["clean_label"]}.get(kind, ["clean_label", "clean_coarse_label"])
    noisy = NOISY["cifar10"] if kind == "cifar10" else ("noisy_label", "noisy_coarse_label")
    return {name: TRUE.copy() for name in clean} | {name: rng.integers(0, 10, 40) for name in noisy}


def write(root, kind, content, form):
    compact, official = FILES[kind.partition("-")[0]]
    if form == "compact":
        np.savez(root / compact, **{name: column.astype(np.uint8) for name, column in content.items()})
        return root / compact
    torch = pytest.importorskip("torch")
    folder = root / "data" if form == "in folder data" else root
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / official, _use_new_zipfile_serialization=form != "old format")
    return folder / official


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["compact", "official", "in folder data", "old format"])
def test_both_forms_give_the_noisy_labels_by_name(kind, form, tmp_path):
    content = columns(kind)
    write(tmp_path, kind, content, form)
    got = load_human_labels(tmp_path, kind, TRUE)
    assert tuple(got) == NOISY[kind]
    for name, labels in got.items():
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, content[name])


@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
def test_an_official_file_of_an_older_or_newer_numpy_is_read(module, tmp_path):
    path = write(tmp_path, "cifar10", columns("cifar10"), "official")
    rewrite_names(path, module)
    assert set(load_human_labels(tmp_path, "cifar10", TRUE)) == set(NOISY["cifar10"])


def rewrite_names(path, module):
    """Put `module` in the place of numpy's private module in the pickle inside a torch file."""
    import zipfile

    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            renamed = content.replace(b"cnumpy._core.multiarray\n", f"c{module}.multiarray\n".encode())
            assert name.endswith("data.pkl") <= (module.encode() in renamed)
            file.writestr(name, renamed if name.endswith("data.pkl") else content)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_other_images_are_refused(kind, tmp_path):
    write(tmp_path, kind, columns(kind), "compact")
    for other in (TRUE[::-1], TRUE[:-1]):
        with pytest.raises(DamagedFileError, match=r"belongs to other images.*clean_(coarse_)?label is not"):
            load_human_labels(tmp_path, kind, other)


def test_a_lacking_or_short_column_is_named(tmp_path):
    content = columns("cifar10")
    write(tmp_path, "cifar10", {name: c for name, c in content.items() if name != "worse_label"}, "compact")
    with pytest.raises(DamagedFileError, match="lacks 'worse_label'; it holds clean_label"):
        load_human_labels(tmp_path, "cifar10", TRUE)
    write(tmp_path, "cifar10", content | {"worse_label": TRUE[1:]}, "compact")
    with pytest.raises(DamagedFileError, match="worse_label has the shape"):
        load_human_labels(tmp_path, "cifar10", TRUE)


def test_labels_outside_of_the_classes_are_refused_by_the_split(tmp_path):
    write(tmp_path, "cifar10", columns("cifar10") | {"worse_label": TRUE + 1}, "compact")
    from emphasis.datasets import Split

    human = load_human_labels(tmp_path, "cifar10", TRUE)
    images = np.zeros((40, 3, 1, 1), np.uint8)
    with pytest.raises(ValueError, match=r"human_labels\['worse_label'\] reach from 1 to 10"):
        Split(images, TRUE, images, TRUE, 10, human_labels=human)


@pytest.mark.parametrize("form", ["compact", "official", "old format"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_file_is_a_clear_error(form, share, tmp_path):
    path = write(tmp_path, "cifar10", columns("cifar10"), form)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(DamagedFileError, match="damaged"):
        load_human_labels(tmp_path, "cifar10", TRUE)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "cifar10", {"clean_label": Evil()}, "official")
    with pytest.raises(UnsafeFileError, match=r"human\.pt is refused"):
        load_human_labels(tmp_path, "cifar10", TRUE)
    np.savez("cifar10n.npz", clean_label=np.array([Evil()]))
    with pytest.raises(DamagedFileError, match=r"clean_label\.npy is of type object, not of numbers"):
        load_human_labels(tmp_path, "cifar10", TRUE)
    assert not Path("evil").exists()


def test_an_absent_file_is_an_error_that_names_both_forms_and_their_source(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"cifar-10-100n.*cifar100n.npz, CIFAR-100_human.pt"):
        load_human_labels(tmp_path, "cifar100-fine", TRUE)


def test_an_official_file_must_have_its_digest(tmp_path):
    path = write(tmp_path, "cifar10", columns("cifar10"), "official")
    with pytest.raises(DamagedFileError, match=r"human\.pt is damaged: its sha256 is .*, not 873e69c3"):
        load_human_labels(tmp_path, "cifar10", TRUE)
    assert path.exists()


def test_tensors_and_objects_of_torch_are_no_labels(tmp_path):
    torch = pytest.importorskip("torch")
    write(tmp_path, "cifar10", {"clean_label": torch.zeros(3)}, "official")
    with pytest.raises(UnsafeFileError, match="is refused: it names torch"):
        load_human_labels(tmp_path, "cifar10", TRUE)
