from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from emphasis import datasets
from emphasis.datasets import DamagedFileError, DataNotFoundError
from emphasis.datasets.image_list import list_images, natural_size


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def plain(value, side=8):
    """A picture of one color, by which it is recognized."""
    return np.full((side, side, 3), value, np.uint8)


@pytest.fixture
def flat(tmp_path):
    """ROOT/CLASS/FILE: five pictures of each of two classes; 10 c + i is the color of picture i of class c."""
    for c, name in enumerate(["cat", "dog"]):
        for i in range(5):
            write(tmp_path / name / f"{i}.png", plain(10 * c + i))
    return tmp_path


def test_one_folder_per_class_is_cut_into_training_and_test_with_every_class_alike(flat):
    split, again, other = (datasets.load("image-folder", flat, size=4, test_share=0.4, seed=s) for s in (0, 0, 1))
    assert split.class_names == ("cat", "dog")
    assert split.train_inputs.shape == (6, 3, 4, 4)
    assert split.train_inputs.flags.c_contiguous
    for inputs, labels in ((split.train_inputs, split.train_labels), (split.test_inputs, split.test_labels)):
        np.testing.assert_array_equal(inputs[:, 0, 0, 0] // 10, labels)
        assert (np.diff(inputs[:, 0, 0, 0].astype(int)) > 0).all()
    np.testing.assert_array_equal(np.bincount(split.test_labels), [2, 2])
    np.testing.assert_array_equal(split.test_inputs, again.test_inputs)
    assert not np.array_equal(split.test_inputs, other.test_inputs)


def test_train_and_test_folders_are_taken_as_they_are(tmp_path):
    for part, count in (("train", 3), ("test", 2)):
        for c, name in enumerate("ab"):
            for i in range(count):
                write(tmp_path / "set" / part / name / f"{i}.jpg", plain(100 * c + 10 * count + i), quality=100)
    (tmp_path / "set" / "train" / "a" / "notes.txt").write_text("passed over")
    (tmp_path / "set" / "train" / "a" / "._0.jpg").write_text("passed over")
    (tmp_path / "set" / "train" / ".hidden").mkdir()
    split = datasets.load("image-folder", tmp_path, folder="set", size=8)
    np.testing.assert_allclose(split.train_inputs[:, 0, 0, 0], [30, 31, 32, 130, 131, 132], atol=1)
    np.testing.assert_allclose(split.test_inputs[:, 0, 0, 0], [20, 21, 120, 121], atol=1)
    np.testing.assert_array_equal(split.test_labels, [0, 0, 1, 1])


def test_images_of_their_own_size_are_unchanged_and_others_are_scaled_and_cut_in_the_middle(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    wide = np.concatenate([np.full((8, 4, 3), 255, np.uint8), pixels, np.full((8, 4, 3), 255, np.uint8)], axis=1)
    for name, picture in {"exact": pixels, "wide": wide, "large": plain(7, 64)}.items():
        write(tmp_path / "train" / name / "a.png", picture)
        write(tmp_path / "test" / name / "a.png", picture)
    split = datasets.load("image-folder", tmp_path, size=8)
    places = {name: split.train_inputs[i].transpose(1, 2, 0) for i, name in enumerate(split.class_names)}
    np.testing.assert_array_equal(places["exact"], pixels)
    np.testing.assert_array_equal(places["wide"], pixels)
    np.testing.assert_array_equal(places["large"], plain(7))


def test_every_mode_of_8_bits_becomes_rgb_or_grey_and_rotation_is_undone(tmp_path):
    color = Image.fromarray(plain(90))
    palette = color.convert("P")
    palette.info["transparency"] = bytes(256)
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    half = np.concatenate([plain(0)[:4], plain(200)[:4]])
    folder = tmp_path / "a"
    folder.mkdir()
    for name, image in {"1": color.convert("L"), "2": color.convert("RGBA"), "3": palette}.items():
        image.save(folder / f"{name}.png")
    Image.fromarray(half).save(folder / "4.png", exif=exif)
    write(tmp_path / "b" / "1.png", plain(5))
    write(tmp_path / "b" / "2.png", plain(5))
    for channels in (1, 3):
        split = datasets.load("image-folder", tmp_path, size=8, channels=channels, test_share=0.2)
        images = np.concatenate(
            [split.train_inputs[split.train_labels == 0], split.test_inputs[split.test_labels == 0]]
        )
        assert images.shape[1] == channels
        colors = sorted(images[:, 0, 0, 0].tolist())
        assert colors[-1] == 200
        np.testing.assert_allclose(colors[:-1], 90, atol=20)  # the web palette has no 90


def test_all_unreadable_images_are_listed_at_once(flat):
    whole = (flat / "cat" / "1.png").read_bytes()
    (flat / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    (flat / "dog" / "2.png").write_text("no image")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(flat / "dog" / "3.png")
    with pytest.raises(DamagedFileError, match=r"^3 of 10 images cannot be read") as caught:
        datasets.load("image-folder", flat)
    for name in ("1.png", "2.png", "3.png", "more than 8 bits"):
        assert name in str(caught.value)
    for i in range(20):
        (flat / "dog" / f"bad{i}.png").write_text("no image")
    with pytest.raises(DamagedFileError, match=r"^23 of 30 images .* and 13 more$"):
        datasets.load("image-folder", flat)


def test_unreadable_images_are_left_out_and_listed_if_asked(flat):
    (flat / "cat" / "1.png").write_bytes(b"no image")
    split = datasets.load("image-folder", flat, test_share=0.0, broken="skip", size=8)
    assert split.sources == tuple(f"{c}/{i}.png" for c in ("cat", "dog") for i in range(5) if (c, i) != ("cat", 1))
    np.testing.assert_array_equal(split.train_labels, [0] * 4 + [1] * 5)
    np.testing.assert_array_equal(split.train_inputs[:, 0, 0, 0], [0, 2, 3, 4, 10, 11, 12, 13, 14])
    (note,) = split.notes
    assert note.startswith("1 of 10 images cannot be read and were skipped: ")
    assert "1.png (cannot identify image file" in note
    for i in range(5):
        (flat / "cat" / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(DamagedFileError, match="5 of 10 images cannot be read, among them all of cat: "):
        datasets.load("image-folder", flat, broken="skip")


def test_nested_folders_are_read_and_what_is_skipped_is_noted(flat):
    write(flat / "dog" / "2024" / "june" / "9.JPG", plain(50))
    (flat / "dog" / "2024" / "again").symlink_to(flat / "dog")
    (flat / "dog" / "notes.txt").write_text("skipped")
    (flat / "dog" / ".cache").mkdir()
    write(flat / "dog" / ".cache" / "8.png", plain(60))
    (flat / "bird" / "nothing").mkdir(parents=True)
    write(flat / "loose.png", plain(70))
    split = datasets.load("image-folder", flat, test_share=0.0)
    assert split.class_names == ("cat", "dog")
    assert "dog/2024/june/9.JPG" in split.sources
    assert len(split.sources) == 11
    assert split.notes == (
        "1 folder without images skipped: bird",
        f"1 image in {flat.name}, outside of the folders of the classes: skipped",
        "1 file of other kinds skipped: 1 .txt",
    )


def test_a_table_lists_images_beside_it_with_labels_as_they_are_written(flat):
    write(flat / "loose.png", plain(70))
    lines = [
        "file;kind",
        "cat/0.png;None",
        "dog/1.png;01",
        f"{flat}/loose.png;01",
        "cat/2.png;None",
        ";01",
        "cat/3.png;",
    ]
    (flat / "list.csv").write_text("\n".join(lines))
    options = {"file": "list.csv", "label": "kind", "images": "file", "test_share": 0.0}
    split = datasets.load("image-table", flat, size=8, **options)
    assert split.class_names == ("01", "None")
    np.testing.assert_array_equal(split.train_labels, [1, 0, 0, 1])
    np.testing.assert_array_equal(split.train_inputs[:, 0, 0, 0], [0, 11, 70, 2])
    np.testing.assert_array_equal(split.rows, [0, 1, 2, 3])
    assert any("no image in row 4: skipped" in note for note in split.notes)
    with pytest.raises(ValueError, match=r"has no column 'fil' of images \(did you mean 'file'\?"):
        datasets.load("image-table", flat, **{**options, "images": "fil"})
    with pytest.raises(ValueError, match="names files that are not images: None, 01"):
        datasets.load("image-table", flat, **{**options, "images": "kind"})


def test_the_size_and_channels_of_a_list_suit_its_images(flat):
    images = list_images(flat)
    assert natural_size(images, 32) == (8, 3)
    assert natural_size(images, 4) == (4, 3)
    for name in images.names:
        write(flat / name, np.zeros((40, 60)))
    (flat / "cat" / "1.png").write_bytes(b"no image")
    assert natural_size(images, 64) == (40, 1)


def test_progress_counts_the_images(flat):
    told = []
    datasets.load("image-folder", flat, progress=lambda *report: told.append(report))
    assert told == [("reading images", done, 10) for done in range(1, 11)]


def test_folders_of_another_form_are_clear_errors(flat):
    for match, options in {
        "does not exist; name it with the option 'folder'": {"folder": "absent"},
        "size >= 1": {"size": 0},
        "channels 1 or 3": {"channels": 4},
        "test_share=1.0": {"test_share": 1.0},
        "cannot be drawn": {"test_share": 0.9},
        "has 0 folders": {"folder": "cat"},
    }.items():
        with pytest.raises((ValueError, DataNotFoundError), match=match):
            datasets.load("image-folder", flat, **options)
    (flat / "train").mkdir()
    with pytest.raises(ValueError, match="only one of the folders 'train' and 'test'"):
        datasets.load("image-folder", flat)


def test_a_class_that_only_the_test_part_has_is_an_error_and_one_it_lacks_is_not(tmp_path):
    for path in ("train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"):
        write(tmp_path / path, plain(1))
    with pytest.raises(ValueError, match=r"test has the class 'c', which the training part lacks"):
        datasets.load("image-folder", tmp_path)
    (tmp_path / "train" / "b").rename(tmp_path / "train" / "c")
    (tmp_path / "train" / "d").mkdir()
    write(tmp_path / "train" / "d" / "1.png", plain(1))
    split = datasets.load("image-folder", tmp_path)
    assert split.class_names == ("a", "c", "d")
    np.testing.assert_array_equal(split.test_labels, [0, 1])
