from __future__ import annotations

import sys
from pathlib import Path

import pytest

from emphasis import datasets
from emphasis.datasets import DataNotFoundError, cache_dir, data_root


def test_an_argument_comes_before_the_environment_and_that_before_the_cache(tmp_path, monkeypatch, user_cache):
    assert data_root() == cache_dir() == user_cache
    (tmp_path / "environment").mkdir()
    monkeypatch.setenv("EMPHASIS_DATA", str(tmp_path / "environment"))
    assert data_root() == tmp_path / "environment"
    assert data_root(tmp_path) == data_root(str(tmp_path)) == tmp_path


def test_a_named_folder_that_does_not_exist_is_an_error_that_says_who_named_it(tmp_path, monkeypatch):
    with pytest.raises(DataNotFoundError, match=r"data folder .*absent"):
        data_root(tmp_path / "absent")
    monkeypatch.setenv("EMPHASIS_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataNotFoundError, match=r"EMPHASIS_DATA .*gone"):
        data_root()


@pytest.mark.parametrize(("platform", "expected"), [("linux", ".cache"), ("darwin", "Library/Caches")])
def test_without_xdg_the_cache_is_the_platforms(platform, expected, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_dir() == Path.home() / expected / "emphasis"


def test_on_windows_the_cache_is_local_application_data(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache_dir() == tmp_path / "emphasis"


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "vehicles10", "mnist", "imdb-vectors"])
def test_absent_data_is_an_error_that_names_root_files_and_both_cures(name, tmp_path):
    with pytest.raises(DataNotFoundError) as caught:
        datasets.load(name, tmp_path)
    message = str(caught.value)
    for part in (str(tmp_path), "looked for", "--data DIR", "EMPHASIS_DATA", "download=True"):
        assert part in message
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded, or begun


def test_a_mistyped_name_or_option_is_an_error_with_the_nearest_one():
    for match, name, options in [
        ("did you mean 'cifar10'", "cifar-10", {}),
        ("did you mean 'human_labels'.*it takes download, human_labels, exact_only", "cifar10", {"human_label": True}),
        ("labels=1 is not allowed; it must be true or false", "cifar10", {"human_labels": 1}),
        ("it must be a whole number", "digits", {"test_size": 1.5}),
        ("it must be a whole number", "digits", {"test_size": True}),
        ("it must be a number", "table", {"file": "x", "label": "y", "test_share": "0.2"}),
        ("it must be a list of texts", "table", {"file": "x", "label": "y", "drop": "a"}),
        ("it must be a text", "cifar100", {"labels": None}),
        ("table needs the option 'label'", "table", {"file": "x"}),
        ("'fine' .100 classes. or 'coarse'", "cifar100", {"labels": "finer"}),
    ]:
        with pytest.raises(ValueError, match=match):
            datasets.load(name, **options)


def test_options_lists_what_a_data_set_takes():
    assert datasets.options("digits") == {"test_size": 500, "seed": 0}
    assert datasets.options("table")["label"] is ...
    assert all(datasets.options(name) is not None for name in datasets.NAMES)


def test_options_reach_the_loader():
    assert len(datasets.load("digits", test_size=100).test_labels) == 100
