"""Images decoded on demand are the images in memory, whatever is asked of them."""

import threading
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from clothing_layout import digits
from emphasis import datasets
from emphasis.datasets import DamagedFileError, ImageFiles, holdout
from emphasis.datasets.image_files import read_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """ROOT/CLASS/FILE of 40 digits, some of them no squares."""
    base = tmp_path_factory.mktemp("digits")
    for number, (image, label) in enumerate(zip(*digits(40), strict=True)):
        path = base / str(label) / f"{number}.{'png' if number % 2 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).resize((20 + number % 3, 20)).save(path)
    return base


@pytest.mark.parametrize("channels", [1, 3])
def test_a_streamed_folder_is_the_folder_in_memory_to_the_pixel(folder, channels):
    options = {"size": 12, "channels": channels, "test_share": 0.3}
    memory = datasets.load("image-folder", folder, **options)
    stream = datasets.load("image-folder", folder, stream=True, **options)
    assert isinstance(stream.train_inputs, ImageFiles)
    for own, other in ((stream, memory), (holdout(stream, 0.2)[0], holdout(memory, 0.2)[0])):
        assert (own.train_inputs.shape, own.train_inputs.dtype) == (other.train_inputs.shape, other.train_inputs.dtype)
        np.testing.assert_array_equal(np.asarray(own.train_inputs), other.train_inputs)
        np.testing.assert_array_equal(np.asarray(own.test_inputs), other.test_inputs)
        np.testing.assert_array_equal(own.train_labels, other.train_labels)
        assert own.sources == other.sources
        np.testing.assert_array_equal(own.channel_statistics(), other.channel_statistics())  # of less than the sample


@given(data=st.data())
def test_rows_are_taken_as_of_an_array(data):
    files = ImageFiles(None, [str(n) for n in range(9)], 4)
    rows = data.draw(
        st.one_of(
            st.lists(st.integers(-9, 8)).map(lambda rows: np.array(rows, dtype=np.int64)),
            st.lists(st.booleans(), min_size=9, max_size=9).map(np.array),
            st.slices(9),
        )
    )
    assert list(files[rows].names) == np.array(files.names)[rows].tolist()
    assert files[rows].shape == (len(files[rows]), 3, 4, 4)


def test_a_sample_is_spread_evenly_and_lacks_what_is_broken(folder, tmp_path):
    files = datasets.load("image-folder", folder, stream=True, size=8, test_share=0.0).train_inputs
    np.testing.assert_array_equal(files.sample(100), np.asarray(files))
    np.testing.assert_array_equal(files.sample(3), np.asarray(files[[0, 20, 39]]))  # 19.5 is rounded to even
    names = [f"{n}.jpg" for n in range(4)]
    for name in names:
        Image.fromarray(digits(1)[0][0]).save(tmp_path / name)
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:200])
    assert len(ImageFiles(tmp_path, names, 8, skip_broken=True).sample(4)) == 3
    with pytest.raises(DamagedFileError, match=r"2\.jpg cannot be read"):
        ImageFiles(tmp_path, names, 8).sample(4)
    with pytest.raises(DamagedFileError, match="none of 1 images"):
        ImageFiles(tmp_path, names[2:3], 8, skip_broken=True).sample(4)


def test_what_is_broken_is_an_error_that_names_the_file(tmp_path):
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "text.jpg").write_text("no image")
    files = ImageFiles(tmp_path, ["deep.png", "text.jpg", "absent.jpg"], 8)
    for row, match in enumerate((r"deep\.png.*more than 8 bits", r"text\.jpg.*identify", r"absent\.jpg.*No such file")):
        with pytest.raises(DamagedFileError, match=match):
            files.read(row)


def test_an_image_of_too_many_pixels_is_refused_in_every_thread_and_filters_of_warnings_stay(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    failures, filters = [], list(warnings.filters)

    def read():
        try:
            read_image(tmp_path / "large.png", 8, 1, center_crop=False)
        except Exception as error:
            failures.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 4
    assert all("pixels" in failure for failure in failures)
    assert list(warnings.filters) == filters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="30 x 30 pixels are more than 500"):
            read_image(tmp_path / "large.png", 8, 1, center_crop=False)


def test_files_that_change_have_another_stamp(folder, tmp_path):
    image = Image.fromarray(digits(1)[0][0])
    image.save(tmp_path / "a.png")
    files = ImageFiles(tmp_path, ["a.png"], 8)
    before = files.fingerprint()
    assert files.fingerprint() == before
    image.resize((40, 40)).save(tmp_path / "a.png")
    assert files.fingerprint() != before


@pytest.mark.parametrize("stream", [False, True])
def test_broken_images_stop_or_are_skipped(folder, stream):
    with pytest.raises(ValueError, match="broken='mend' is not allowed"):
        datasets.load("image-folder", folder, broken="mend", stream=stream)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(touched) (w) file closefile showpage\n"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_file_of_each_kind_that_is_meant_is_read_whatever_it_is_called(kind, tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (9, 9), (200, 100, 50)).save(path, kind)
    assert read_image(path, 4, 3, center_crop=False).shape == (3, 4, 4)


@pytest.mark.parametrize("kind", ["PPM", "PCX", "TGA", "ICNS", "PDF", "JPEG2000", "EPS"])
def test_a_file_of_another_kind_is_refused_whatever_it_is_called(kind, tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    if kind == "EPS":
        path.write_bytes(EPS)
        monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("a program was started"))
    else:
        Image.new("RGB", (16, 16)).save(path, kind)
    with pytest.raises(DamagedFileError, match=r"image .*image\.png cannot be read \(cannot identify image file"):
        ImageFiles(tmp_path, ("image.png",), 8).read(0)
