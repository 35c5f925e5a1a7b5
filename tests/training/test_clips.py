"""Batches of clips: frames of one video in a row, videos of one person in a row, a function of seed and step alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emphasis.training.batches import Batches, clips
from emphasis.training.settings import ClipSolver, Solver, clip_length
from emphasis.training.task import Task
from emphasis.training.videos import VideoTask

CPU = torch.device("cpu")


@st.composite
def videos(draw):
    """Videos of 1 to 9 frames and their persons, frame by frame."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    persons = draw(st.lists(st.integers(0, 4), min_size=len(lengths), max_size=len(lengths)))
    return np.repeat(np.arange(len(lengths)) * 3, lengths), np.repeat(persons, lengths)


@settings(max_examples=60, deadline=None)
@given(videos(), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**20))
def test_an_epoch_shows_every_video_once_a_frame_from_each_part_persons_together(data, clip, together, seed):
    video, person = data
    length, draw = clips(video, person, clip, together)
    places = draw(np.random.default_rng(seed)).reshape(-1, together, clip)
    assert places.size == length
    shown = video[places]
    assert (shown == shown[:, :, :1]).all()  # a clip is of one video
    assert (person[places] == person[places][:, :1, :1]).all()  # and those of one group of one person
    for row in places.reshape(-1, clip):  # frame i is of the i-th of `clip` equal parts
        own = np.flatnonzero(video == video[row[0]])
        part = (row - own[0] + np.array([[0.0], [1.0]])) * clip / len(own)
        assert ((part[0] < np.arange(clip) + 1) & (part[1] > np.arange(clip))).all()
    times = np.bincount(shown[:, :, 0].ravel() // 3, minlength=len(np.unique(video)))
    first = np.unique(video, return_index=True)[1]
    for label in np.unique(person):
        own = times[person[first] == label]
        wanted = -(-len(own) // together) * together
        assert own.sum() == wanted
        assert own.max() - own.min() <= 1
    assert (draw(np.random.default_rng(seed)) == places.ravel()).all()


def test_all_frames_of_a_part_are_drawn_equally_often():
    video = np.zeros(6, np.int64)
    _, draw = clips(video, video, 2)
    drawn = np.stack([draw(np.random.default_rng(seed)) for seed in range(3000)])
    for number in (0, 1):
        counts = np.bincount(drawn[:, number] - 3 * number, minlength=3)
        assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def task(**changed):
    given = {
        "inputs": torch.zeros(12, 2),
        "labels": torch.arange(12)[None] // 6,
        "true_labels": torch.arange(12) // 6,
        "test_inputs": torch.zeros(1, 2),
        "test_labels": torch.zeros(1, dtype=torch.int64),
        "num_classes": 2,
        "videos": torch.arange(12) // 3,
    }
    kind = Task if changed.get("videos", True) is None else VideoTask
    arguments = {**given, **changed}
    return kind(**{name: value for name, value in arguments.items() if value is not None})


def test_batches_are_whole_clips_and_go_on_alike_wherever_one_begins():
    solver = ClipSolver(iterations=9, batch_size=8, learning_rate=0.1, clip=2, videos=2)
    batches = task().batches([5], solver, CPU)
    assert batches.per_epoch == 1
    shown = [batches.indices(step) for step in range(4)]
    for batch in shown:
        video = batch.reshape(2, 2, 2) // 3
        assert (video == video[:, :, :1]).all()
        assert (video // 2 == video[:, :1, :1] // 2).all()
    assert torch.equal(task().batches([5], solver, CPU).indices(3), shown[3])
    assert not all(torch.equal(shown[0], other) for other in shown[1:])
    plain = Solver(iterations=9, batch_size=8, learning_rate=0.1)
    assert torch.equal(task().batches([5], plain, CPU).indices(0), Batches([5], 12, 8, CPU).indices(0))


@pytest.mark.parametrize(
    ("changed", "seeds", "message"),
    [
        ({"videos": None}, [0], "solver.clip=2 and solver.videos=1 are for videos, but this data set has no videos"),
        ({"labels": torch.zeros(2, 12, dtype=torch.int64)}, [0, 1], "clips of videos need a network that trains alone"),
        ({"index": torch.arange(12)[None]}, [0], "no noise that leaves examples out"),
    ],
)
def test_clips_of_what_are_no_videos_or_of_stacked_networks_are_refused(changed, seeds, message):
    with pytest.raises(ValueError, match=message):
        task(**changed).batches(seeds, ClipSolver(iterations=1, batch_size=4, learning_rate=1.0, clip=2), CPU)


def test_a_batch_that_is_no_whole_number_of_clips_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=10 is not allowed; use a multiple of clip \* videos = 6"):
        ClipSolver(iterations=1, batch_size=10, learning_rate=1.0, clip=3, videos=2)
    with pytest.raises(ValueError, match="clip=0 is not allowed"):
        ClipSolver(iterations=1, batch_size=10, learning_rate=1.0, clip=0)
    with pytest.raises(ValueError, match="batch_size=16 exceeds the 8 training examples"):
        task().batches([0], ClipSolver(iterations=1, batch_size=16, learning_rate=1.0, clip=2), CPU)


def test_a_solver_that_draws_examples_one_by_one_is_a_plain_one():
    settings = {"iterations": 1, "batch_size": 6, "learning_rate": 1.0, "momentum": 0.5}
    assert ClipSolver(**settings).simplified() == Solver(**settings)
    clips_of_three = ClipSolver(**settings, clip=3)
    assert clips_of_three.simplified() is clips_of_three
    assert (clip_length(clips_of_three), clip_length(Solver(**settings))) == (3, 1)


def test_videos_stay_on_the_cpu_when_a_task_moves():
    moved = task().to(torch.device("meta"))
    assert isinstance(moved, VideoTask)
    assert moved.inputs.device.type == "meta"
    assert moved.videos.device.type == "cpu"
