from __future__ import annotations

import pickle
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from emphasis.datasets import Gallery, Split, VideoSplit, holdout, load_digits, subset
from emphasis.datasets.split import draw_stratified, take_training


def numbered(labels, images=False):
    """A Split whose inputs are the row numbers, so that rows can be followed."""
    labels = np.asarray(labels, dtype=np.int64)
    rows = np.arange(len(labels))
    inputs = rows.astype(np.uint8).reshape(-1, 1, 1, 1) if images else rows.astype(np.float32)[:, None]
    other = 1 - labels.clip(0, 1)
    return Split(inputs, labels, inputs[:2], labels[:2], max(labels.max() + 1, 2), human_labels={"other": other})


labels_with_pairs = st.lists(st.integers(0, 4), min_size=1, max_size=40).map(lambda some: some + some)


@given(labels_with_pairs, st.floats(0.01, 0.99), st.integers(0, 5))
def test_holdout_parts_the_training_rows_and_keeps_labels_beside_them(labels, share, seed):
    split = numbered(labels)
    size = round(share * len(labels))
    if not 1 <= size <= len(labels) - len(set(labels)):
        with pytest.raises(ValueError, match="cannot be drawn"):
            holdout(split, share, seed)
        return
    cut, kept = holdout(split, share, seed)
    held = cut.test_inputs[:, 0].astype(int)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert len(held) == size
    np.testing.assert_array_equal(cut.train_inputs[:, 0], kept)
    for rows, got in ((kept, cut.train_labels), (held, cut.test_labels)):
        assert (np.diff(rows) > 0).all()
        np.testing.assert_array_equal(got, split.train_labels[rows])
    np.testing.assert_array_equal(cut.human_labels["other"], split.human_labels["other"][kept])
    assert set(cut.train_labels) == set(labels)


@given(labels_with_pairs, st.data())
def test_a_draw_takes_of_each_class_its_share_within_one(labels, data):
    labels = np.array(labels)
    size = data.draw(st.integers(1, max(len(labels) - len(set(labels)), 1)))
    expected = size * np.bincount(labels) / len(labels)
    drawn = np.bincount(labels[draw_stratified(labels, size, 0)], minlength=len(expected))
    assert drawn.sum() == size
    if (np.ceil(expected) < np.bincount(labels))[np.bincount(labels) > 0].all():
        assert (np.abs(drawn - expected) < 1.0).all()


def test_classes_of_one_example_stay_in_training_and_others_make_up_for_them():
    labels = np.array([0] * 10 + list(range(1, 11)))
    drawn = draw_stratified(labels, 9, 0)
    assert set(labels[drawn]) == {0}
    with pytest.raises(ValueError, match="each class needs two examples"):
        draw_stratified(np.arange(5), 1, 0)


def test_the_same_seed_draws_the_same_rows_and_another_seed_others():
    split = load_digits()
    (_, kept), (_, again), (_, other) = (holdout(split, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(kept, again)
    assert not np.array_equal(kept, other)


@given(labels_with_pairs, st.data())
def test_subset_keeps_every_class_in_proportion_and_the_test_part_whole(labels, data):
    split = numbered(labels, images=True)
    size = data.draw(st.integers(len(set(labels)), len(labels)))
    cut = subset(split, size)
    assert len(cut.train_labels) == size
    assert set(cut.train_labels) == set(labels)
    np.testing.assert_array_equal(cut.train_labels, split.train_labels[cut.train_inputs.ravel()])
    assert cut.test_inputs is split.test_inputs
    for wrong in (len(set(labels)) - 1, len(labels) + 1):
        with pytest.raises(ValueError, match="train_size"):
            subset(split, wrong)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_outside_of_0_to_1_is_refused(share):
    with pytest.raises(ValueError, match="share="):
        holdout(load_digits(), share)


@given(st.integers(0, 2**32 - 1), st.integers(1, 2500))
def test_channel_statistics_are_those_of_the_pixels_as_floats(seed, count):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, rng.integers(2, 257, 3)[None, :, None, None], (count, 3, 2, 2)).astype(np.uint8)
    labels = np.zeros(count, np.int64)
    mean, std = Split(images, labels, images[:1], labels[:1], 2).channel_statistics()
    np.testing.assert_allclose(mean, (images / 255.0).mean(axis=(0, 2, 3)), rtol=1e-12, atol=1e-15)
    pixels = (images / 255.0).std(axis=(0, 2, 3))
    constant = images.min(axis=(0, 2, 3)) == images.max(axis=(0, 2, 3))
    np.testing.assert_allclose(std, np.where(constant, 1.0, pixels), rtol=1e-12)


def test_vectors_have_no_channel_statistics():
    with pytest.raises(ValueError, match="no channels"):
        load_digits().channel_statistics()


def test_parts_that_do_not_fit_are_refused():
    good = numbered([0, 1, 0, 1])
    inputs, labels = good.train_inputs, good.train_labels
    for match, arguments in {
        "test inputs": (inputs, labels, np.zeros((2, 2), np.float32), labels[:2], 2),
        "use \\(N, D\\) float32": (inputs.astype(np.float64), labels, inputs[:2].astype(np.float64), labels[:2], 2),
        "train_labels are": (inputs, labels[1:], inputs[:2], labels[:2], 2),
        "test_labels are": (inputs, labels, inputs[:2], labels[:2].astype(np.int32), 2),
        "num_classes=1": (inputs, labels, inputs[:2], labels[:2], 1),
        "class_names": (inputs, labels, inputs[:2], labels[:2], 2, ("a",)),
        "human_labels\\['h'\\]": (inputs, labels, inputs[:2], labels[:2], 2, (), {"h": labels[1:]}),
        "NaN": (inputs * np.float32("nan"), labels, inputs[:2], labels[:2], 2),
    }.items():
        with pytest.raises(ValueError, match=match):
            Split(*arguments)


def test_a_split_travels_to_another_process():
    split = pickle.loads(pickle.dumps(load_digits()))
    np.testing.assert_array_equal(split.train_inputs, load_digits().train_inputs)
    assert repr(split) == "<Split: 1297 + 500 examples of 10 classes, inputs (64,) float32>"


@given(labels_with_pairs.map(lambda some: some * 5), st.integers(2, 5), st.integers(0, 5))
def test_folds_of_whole_classes_part_the_training_rows(labels, folds, seed):
    labels = [label for label in labels for _ in range(folds)]  # so that every class divides evenly
    split = numbered(labels)
    held = [holdout(split, 1 / folds, seed, fold)[0].test_inputs[:, 0].astype(int) for fold in range(folds)]
    assert sorted(np.concatenate(held)) == list(range(len(labels)))
    np.testing.assert_array_equal(held[0], holdout(split, 1 / folds, seed)[0].test_inputs[:, 0])


@given(labels_with_pairs, st.floats(0.05, 0.5), st.integers(0, 5), st.integers(0, 1))
def test_every_fold_is_a_cut_like_the_first(labels, share, seed, fold):
    size = round(share * len(labels))
    if not 1 <= size <= len(labels) - len(set(labels)):
        return
    (first, _), (cut, kept) = holdout(numbered(labels), share, seed), holdout(numbered(labels), share, seed, fold)
    assert sorted([*kept, *cut.test_inputs[:, 0].astype(int)]) == list(range(len(labels)))
    np.testing.assert_array_equal(
        np.bincount(cut.test_labels, minlength=5), np.bincount(first.test_labels, minlength=5)
    )


def test_a_fold_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match=r"fold=5 is not allowed; a share of 0\.2 has the folds 0 to 4"):
        holdout(numbered([0] * 20), 0.2, 0, 5)


def test_videos_and_galleries_that_do_not_fit_are_refused():
    images, labels = np.zeros((6, 1, 4, 4), np.uint8), np.array([0, 0, 1, 1, 1, 1])
    gallery = Gallery(person=np.array([3, 3, 4]), camera=np.array([1, 2, 1]), query=np.array([0]))
    video = np.array([0, 0, 1, 2, 2, 2])
    split = VideoSplit(images, labels, images, video, 2, videos=video, gallery=gallery)
    assert split.gallery is gallery
    left = take_training(split, np.array([1, 2, 5]))
    assert left.videos.tolist() == [0, 1, 2]
    for changed, message in (
        ({"videos": video[::-1].copy()}, "videos are not in order; all frames of a video must follow each other"),
        ({"videos": video[1:]}, "5 videos were given for 6 training inputs"),
        ({"test_labels": video[::-1].copy()}, "test_labels are not in order"),
        ({"test_labels": np.minimum(video, 1)}, "test_labels are not each of the gallery's 3 videos"),
        ({"test_labels": video + 1}, "test_labels are not each of the gallery's 3 videos"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(split, **changed)
    with pytest.raises(ValueError, match="not for videos, whose frames would be on both sides"):
        holdout(split)
