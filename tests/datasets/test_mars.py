import numpy as np
import pytest
import scipy.io

from emphasis.datasets import DamagedFileError, DataNotFoundError, UnsafeFileError
from emphasis.datasets.mars import load_mars
from planted_mars import write_planted_mars


@pytest.fixture
def planted(tmp_path):
    """Three training persons, two test persons, a distractor and a false detection; 9 + 10 tracklets."""
    write_planted_mars(tmp_path, train_persons=3, test_persons=2, distractors=1, junk=1)
    return tmp_path


def change(root, name, variable, edit):
    """Write a list of tracklets anew after `edit` has changed its rows."""
    path = root / "info" / name
    rows = scipy.io.loadmat(path)[variable]
    scipy.io.savemat(path, {variable: edit(rows)})


def put(row, column, value):
    def edit(rows):
        rows = rows.astype(np.int32)
        rows[row, column] = value
        return rows

    return edit


def test_the_official_lists(shared_data):
    mars = load_mars(shared_data)
    assert repr(mars.train) == "<Tracklets: 8298 of 509914 images, 625 persons>"
    assert repr(mars.test) == "<Tracklets: 12180 of 681089 images, 636 persons>"  # with -1 and 0
    assert (len(mars.query), mars.query[0], mars.query[-1]) == (1980, 4129, 12179)
    assert (np.sum(mars.test.person == -1), np.sum(mars.test.person == 0)) == (870, 3248)
    np.testing.assert_array_equal(np.unique(mars.train.labels), np.arange(625))
    for part in (mars.train, mars.test):
        assert part.first[0] == 0
        np.testing.assert_array_equal(np.unique(part.camera), np.arange(1, 7))
        np.testing.assert_array_equal(np.bincount(part.tracklet), part.last - part.first + 1)
    assert mars.missing == ()
    with pytest.raises(DataNotFoundError, match=r"train_name\.txt"):
        mars.train.path(0)


def test_the_images_of_each_tracklet_are_those_of_its_person_and_camera(planted):
    mars = load_mars(planted)
    assert (len(mars.train), len(mars.test), len(mars.query)) == (9, 10, 6)
    for part, name in ((mars.train, "bbox_train"), (mars.test, "bbox_test")):
        for image, tracklet in enumerate(part.tracklet):
            path = part.path(image)
            assert path.is_file()
            folder = "00-1" if part.person[tracklet] == -1 else f"{part.person[tracklet]:04d}"
            assert path.parent == planted / name / folder
            assert path.name.startswith(f"{folder}C{part.camera[tracklet]}")
            assert part.first[tracklet] <= image <= part.last[tracklet]
    np.testing.assert_array_equal(mars.train.labels, np.repeat([0, 1, 2], 3))
    assert (mars.test.person[mars.query] > 0).all()


def test_the_folder_may_be_named_mars_and_lists_and_images_may_be_absent(planted, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    planted.rename(root / "mars")
    assert load_mars(root).train.path(0).is_file()
    (root / "mars" / "bbox_train").rename(root / "elsewhere")
    assert load_mars(root).train.folder is None
    (root / "mars" / "info" / "test_name.txt").unlink()
    mars = load_mars(root)
    assert (bool(mars.train.names), bool(mars.test.names), mars.test.folder) == (True, False, None)
    (root / "mars" / "info" / "query_IDX.mat").unlink()
    with pytest.raises(DataNotFoundError, match=r"MARS.*looked for query_IDX\.mat"):
        load_mars(root)


def test_missing_images_stop_or_are_left_out_with_their_tracklets_and_queries(planted):
    whole = load_mars(planted)
    row = whole.query[2]
    gone = [whole.test.path(i) for i in range(whole.test.first[row], whole.test.last[row] + 1)]
    gone.append(whole.test.path(whole.test.last[row] + 1))  # the first image of the next tracklet
    for path in gone:
        path.unlink()
    for path in (planted / "bbox_train" / "0003").iterdir():
        path.unlink()
    with pytest.raises(DataNotFoundError, match=r"0003/0003C1.* more; 1 whole folders: 0003; 3 of 9 .*missing='skip'"):
        load_mars(planted)
    left = load_mars(planted, missing="skip")
    assert len(left.missing) == 2
    assert f"lacks {len(gone)} of {len(whole.test.names)} images" in left.missing[1]
    assert (len(left.train), len(left.test), len(left.query)) == (6, 9, 5)
    assert len(left.test.names) == len(left.test.tracklet) == len(whole.test.names) - len(gone)
    np.testing.assert_array_equal(left.test.person, np.delete(whole.test.person, row))
    np.testing.assert_array_equal(left.query, [q - (q > row) for q in whole.query if q != row])
    assert all(left.test.path(i).is_file() for i in range(len(left.test.names)))
    for image, tracklet in enumerate(left.test.tracklet):
        assert left.test.first[tracklet] <= image <= left.test.last[tracklet]
    with pytest.raises(ValueError, match="missing='ignore' is not allowed"):
        load_mars(planted, missing="ignore")


def test_without_any_image_there_is_nothing_to_leave(planted):
    for path in (planted / "bbox_train").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DataNotFoundError, match="9 of 9 tracklets have no image"):
        load_mars(planted, missing="skip")


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("train", put(4, 1, 2), "row 5 of 9 has its last image before its first"),
        ("train", put(4, 0, 1), "row 5 of 9 does not begin where the row before it ends"),
        ("train", put(0, 0, 0), "row 1 of 9 does not begin"),
        ("train", put(8, 3, 7), "row 9 of 9 has a camera that is not 1 to 6"),
        ("train", put(8, 2, -1), "row 9 of 9 shows no person"),
        ("train", put(8, 2, -2), "row 9 of 9 has a person under -1"),
        ("test", put(9, 2, 5), r"row 10 of 10 shows a person of tracks_train_info\.mat"),
        ("test", lambda rows: rows[:, :3], r"an array of shape \(10, 3\), not \(tracklets, 4\)"),
        ("test", lambda rows: rows[:0], "is empty or not of whole numbers"),
        ("test", lambda rows: rows + 0.5, "not of whole numbers"),
        ("test", lambda rows: rows * np.nan, "not of whole numbers"),
        ("test", lambda rows: np.where(rows == 1, np.inf, rows), "not of whole numbers"),
        ("test", lambda rows: rows * 1e300, "not of whole numbers"),
        ("test", lambda rows: "tracks", "not of whole numbers"),
        ("train", lambda rows: rows[:-1], r"train_name\.txt names \d+ images, but tracks_train_info\.mat has \d+"),
        ("train", put(8, 2, 7), r"train_name\.txt: line .* is not of person 0007 and camera 3 as row 9 of"),
        ("train", put(8, 3, 1), r"train_name\.txt: line .* is not of person 0005 and camera 1 as row 9 of"),
    ],
)
def test_a_list_that_contradicts_itself_or_another_is_named(planted, name, edit, message):
    change(planted, f"tracks_{name}_info.mat", f"track_{name}_info", edit)
    with pytest.raises(DamagedFileError, match=message):
        load_mars(planted)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda rows: rows * 0, "row 1 of 6 is no row of the 10"),
        (lambda rows: rows + 10, "row 1 of 6 is no row of the 10"),
        (lambda rows: rows[:, ::-1], "row 2 of 6 does not follow"),
        (lambda rows: np.r_[1, rows[0]][None], r"row 1 of 7 is a row of tracks_test_info\.mat that shows no person"),
    ],
)
def test_queries_are_rising_rows_that_show_a_person(planted, edit, message):
    change(planted, "query_IDX.mat", "query_IDX", edit)
    with pytest.raises(DamagedFileError, match=message):
        load_mars(planted)


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("0001C1T0001F001/../../x.jpg", UnsafeFileError, "line 1, .* names a file in another folder"),
        ("x.jpg", DamagedFileError, "line 1, 'x.jpg', is not a name like"),
        ("\xe4.jpg", DamagedFileError, "is not a list of names"),
    ],
)
def test_names_are_of_the_official_form(planted, line, error, message):
    path = planted / "info" / "train_name.txt"
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]), encoding="utf-8")
    with pytest.raises(error, match=message):
        load_mars(planted)


def test_a_file_cut_off_anywhere_or_of_something_else_is_named(planted):
    path = planted / "info" / "tracks_test_info.mat"
    content = path.read_bytes()
    for length in {0, 1, 3, 4, 100, 127, 128, 136, 180, len(content) // 2, len(content) - 1}:
        path.write_bytes(content[:length])
        with pytest.raises(DamagedFileError, match=r"tracks_test_info\.mat .*get it again"):
            load_mars(planted)
    path.write_bytes((planted / "info" / "query_IDX.mat").read_bytes())
    with pytest.raises(DamagedFileError, match="holds no variable 'track_test_info'"):
        load_mars(planted)
