"""Clothing1M's layout: what is there is read; every fault is named and counted, and stops it or is skipped."""

import shutil

import numpy as np
import pytest
from PIL import Image

from clothing_layout import PARTS, write_layout
from emphasis import datasets
from emphasis.datasets import DamagedFileError, DataNotFoundError, clothing1m, holdout, subset

SMALL = {"resize": 32, "size": 28, "complete": False}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    return root, *write_layout(root / "clothing1m")


@pytest.fixture
def copy(whole, tmp_path):
    """A copy to spoil: its folder, and the keys of each part."""
    shutil.copytree(whole[0], tmp_path / "copy")
    return tmp_path / "copy" / "clothing1m", whole[1]


def load(root, **options):
    return datasets.load("clothing1m", root, **{**SMALL, **options})


def test_noisy_labels_are_trained_on_and_clean_ones_judge(whole):
    root, keys, true = whole
    split = load(root)
    given = dict(line.split() for line in (root / "clothing1m" / "noisy_label_kv.txt").read_text().splitlines())
    assert split.train_labels.tolist() == [int(given[key]) for key in keys["noisy_train"]]
    assert 0.1 < (split.train_labels != true["noisy_train"]).mean() < 0.4
    assert split.test_labels.tolist() == true["clean_test"]
    assert load(root, test="val").test_labels.tolist() == true["clean_val"]
    assert split.train_inputs.shape == (PARTS["noisy_train"], 3, 32, 32)
    assert (split.num_classes, len(split.class_names), split.crop) == (14, 14, 28)
    assert list(split.sources) == keys["noisy_train"]
    assert split.notes == ()
    assert "ImageFiles: 60 in" in repr(split.train_inputs)


def test_an_image_is_squeezed_to_a_square_and_not_read_before_it_is_asked_for(whole):
    root, keys, _ = whole
    split = load(root)
    for inputs, part in ((split.train_inputs, "noisy_train"), (split.test_inputs, "clean_test")):
        with Image.open(root / "clothing1m" / keys[part][7]) as image:
            expected = np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(inputs.read(7), expected.transpose(2, 0, 1))


def test_the_folder_itself_is_found_too_and_parts_are_cut_further(whole):
    root, _, _ = whole
    split = load(root / "clothing1m")
    assert len(split.train_labels) == 60
    rest, kept = holdout(split, 0.25)
    np.testing.assert_array_equal(np.asarray(rest.train_inputs), np.asarray(split.train_inputs)[kept])
    small = subset(split, 20)
    assert len(small.train_inputs) == len(small.train_labels) == 20


def _lines(base, name, change):
    path = base / name
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))


def test_every_fault_is_named_and_counted_at_once_or_left_out(copy):
    base, keys = copy
    train, test = keys["noisy_train"], keys["clean_test"]
    _lines(
        base,
        "noisy_label_kv.txt",
        lambda lines: [
            *(line for line in lines if not line.startswith((train[0], train[1], train[2]))),
            f"{train[1]} 14",
            f"{train[2]} 3",
            f"{train[2]} 4",
            "what is this",
            f"{train[9]} three",
        ],
    )
    _lines(base, "noisy_train_key_list.txt", lambda lines: [*lines, train[5], train[5], "", "images/../../etc/x.jpg"])
    _lines(base, "clean_val_key_list.txt", lambda lines: [*lines, test[0]])
    (base / train[4]).unlink()
    shutil.rmtree(base / "images" / "7")
    gone = [key for part in keys.values() for key in part if key.startswith("images/7/")]
    with pytest.raises(DamagedFileError) as caught:
        load(base)
    for text in (
        f"1 labels of noisy_label_kv.txt outside 0 to 13 ({train[1]} 14)",
        f"1 keys of noisy_label_kv.txt with two labels ({train[2]} 4)",
        f"2 lines of noisy_label_kv.txt that are no key and label (what is this, {train[9]} three)",
        f"1 keys of noisy_train_key_list.txt without a label ({train[0]})",
        f"2 keys listed again in noisy_train_key_list.txt ({train[5]}, {train[5]})",
        "2 lines of noisy_train_key_list.txt that are no image's (, images/../../etc/x.jpg)",
        f"1 keys listed again in clean_test_key_list.txt ({test[0]})",
        "1 folders that do not exist (images/7)",
        f"{sum(key in train for key in gone) + 1} images of noisy_train_key_list.txt that do not exist",
        " more)",
        'missing = "skip"',
    ):
        assert text in str(caught.value)
    split = load(base, missing="skip")
    left = [key for key in train if key not in (*gone, train[0], train[1], train[2], train[4])]
    assert list(split.sources) == left
    assert len(split.test_labels) == len([key for key in test if key not in (*gone, test[0])])
    (note,) = split.notes
    assert "1 folders that do not exist (images/7)" in note
    assert note.endswith("They are skipped.")


@pytest.mark.parametrize("name", clothing1m.LINES)
def test_a_list_that_is_absent_or_cut_short_stops_it_in_any_case(copy, name):
    base, _ = copy
    whole = (base / name).read_bytes()
    number = whole.count(b"\n")
    for missing in ("stop", "skip"):
        with pytest.raises(DamagedFileError, match=f"{name} has {min(number, 13)} lines, not "):
            (base / name).write_bytes(b"".join(whole.splitlines(keepends=True)[:13]))
            load(base, missing=missing, complete=True)
        (base / name).write_bytes(whole)
    (base / name).write_bytes(whole[:-9])  # in the middle of the last line
    with pytest.raises(DamagedFileError, match=name):
        load(base)
    for content, match in ((b"", "not 14|is empty"), (b"\xff\xfe\n" * 14, "is no text")):
        (base / name).write_bytes(content)
        with pytest.raises(DamagedFileError, match=f"{name} .*{match}"):
            load(base, missing="skip")
    (base / name).unlink()
    with pytest.raises(DamagedFileError, match=f"{name} is not there"):
        load(base, missing="skip")


def test_the_whole_of_it_is_asked_for_unless_said_otherwise(whole):
    with pytest.raises(DamagedFileError, match=r"noisy_train_key_list.txt has 60 lines, not 1,000,000; .*complete = f"):
        datasets.load("clothing1m", whole[0])


def test_nothing_left_is_an_error_and_nothing_there_says_where_it_was_looked_for(copy, tmp_path):
    base, _ = copy
    shutil.rmtree(base / "images")
    with pytest.raises(
        DamagedFileError, match=r"folders that do not exist \(images\).*there are no examples left to train on"
    ):
        load(base, missing="skip")
    with pytest.raises(DataNotFoundError, match=r"Clothing1M is not in .*clothing1m/noisy_train_key_list.txt"):
        load(tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"test": "train"}, {"size": 33}, {"size": 0}, {"missing": "no"}, {"broken": "mend"}, {"complete": "no"}],
)
def test_options_are_checked(whole, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}=.* is not allowed"):
        load(whole[0], **options)
