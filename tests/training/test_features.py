"""Features of videos, and the whole way of Section 4.3 on a small planted MARS: read, train, extract, rank."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from controls import share_of_the_way
from emphasis.baselines import Problem, VideoMethod
from emphasis.baselines.label_smoothing import LabelSmoothing
from emphasis.baselines.learner import DivergedError
from emphasis.datasets import Gallery
from emphasis.datasets.mars import load_mars
from emphasis.models import build
from emphasis.retrieval import evaluate_features, evaluate_rankings, mean_by_tracklet, normalized_rows
from emphasis.training.features import find, spread, tracklet_features
from planted_mars import SIDE, write_planted_mars


def batches(frames, tracklet, size):
    return [(frames[i : i + size], tracklet[i : i + size]) for i in range(0, len(frames), size)]


def images(tracklets):
    pixels = [np.asarray(Image.open(tracklets.path(i))) for i in range(len(tracklets.names))]
    return torch.from_numpy(np.stack(pixels))[:, None] / 255 - 0.5


@pytest.mark.parametrize("name", ["small-cnn", "googlenet-v2"])
def test_a_videos_feature_is_the_unit_mean_of_what_the_last_layer_sees(name):
    network = build(name, (3, 32, 32), 5, seed=0, dropout=0.5)
    frames = torch.randn(9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tracklet = np.array([0, 1, 2, 0, 1, 2, 2, 2, 2])
    found = tracklet_features(network, batches(frames, tracklet, 4), 3)
    assert network.training
    with torch.no_grad():
        own = network.eval().features(frames).double().numpy()
    expected = normalized_rows(np.stack([own[tracklet == number].mean(axis=0) for number in range(3)]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.shape == (3, 1024 if name == "googlenet-v2" else 128)
    np.testing.assert_array_equal(found, tracklet_features(network, batches(frames, tracklet, 4), 3))
    assert not network.training
    assert not network.fc._forward_pre_hooks


def test_any_network_with_a_last_linear_layer_will_do_and_frames_come_one_batch_at_a_time():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    frames, tracklet = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), np.arange(40) % 5
    alive = 0

    def streamed():
        nonlocal alive
        for batch in batches(frames, tracklet, 8):
            alive += 1
            yield batch
            alive -= 1  # the next is asked for only when this one is done with
            assert alive == 0

    found = tracklet_features(network, streamed(), 5)
    with torch.no_grad():
        hidden = network[:2](frames).numpy()
    np.testing.assert_allclose(found, normalized_rows(mean_by_tracklet([(hidden, tracklet)], 5)), atol=1e-6)


def test_a_network_without_a_linear_layer_or_with_nan_is_refused_and_left_as_it_was():
    with pytest.raises(ValueError, match=r"the network has no nn\.Linear layer"):
        tracklet_features(nn.Conv2d(1, 1, 1), [], 1)
    network = nn.Linear(2, 2)
    frames = torch.tensor([[1.0, float("nan")]])
    with pytest.raises(ValueError, match="1 of 1 videos are not finite"):
        tracklet_features(network, [(frames, np.array([0]))], 1)
    assert network.training
    assert not network._forward_pre_hooks


def test_training_finds_the_planted_persons_across_cameras(tmp_path):
    """Pixels and an untrained network find next to none, for cameras differ more than persons."""
    planted = write_planted_mars(tmp_path)
    mars = load_mars(tmp_path)
    train_frames, test_frames = images(mars.train), images(mars.test)
    labels = torch.from_numpy(mars.train.labels[mars.train.tracklet])
    network = build("small-cnn", (1, SIDE, SIDE), 40, seed=0, widths=[16, 32, 64])

    def score():
        features = tracklet_features(network, batches(test_frames, mars.test.tracklet, 100), len(mars.test))
        return evaluate_features(features, mars.test.person, mars.test.camera, mars.query)

    pixels = mean_by_tracklet([(test_frames.flatten(1).numpy(), mars.test.tracklet)], len(mars.test))
    by_pixels = evaluate_features(pixels, mars.test.person, mars.test.camera, mars.query)
    untrained = score()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        rows = torch.randint(len(labels), (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(network(train_frames[rows]), labels[rows]).backward()
        optimizer.step()
    trained = score()
    assert trained.unmatched == 0
    for control in (by_pixels, untrained):
        assert share_of_the_way(trained.mean_average_precision, control.mean_average_precision) > 0.3
        assert share_of_the_way(trained.cmc(1), control.cmc(1)) > 0.3

    with torch.no_grad():
        p = network.eval()(train_frames).softmax(1)[torch.arange(len(labels)), labels].numpy()
    means = {kind: p[planted.wrong == kind].mean() for kind in np.unique(planted.wrong)}
    assert means[""] > max(means[kind] for kind in ("background", "junk", "person"))


def literal_videos(frames, tracklet, number, chosen):
    """Return for each video the frames that are the first of `number` equal parts, one by one."""
    found = []
    for video in range(number):
        own = [frame for frame, its in zip(frames, tracklet, strict=True) if its == video]
        found.append(torch.stack([own[len(own) * part // chosen] for part in range(chosen)]))
    return torch.stack(found)


class Spread(VideoMethod):
    """Compares videos by three frames each, of which the first counts twice, and by the maps' largest values."""

    needs = frozenset({"feature_maps"})
    test_frames = 3

    def describe(self, features, maps):
        return torch.cat([features, maps.amax((2, 3))], 1)

    def videos(self, frames):
        assert not self.training
        return torch.cat([frames[:, 0], frames.mean(1)], 1)


class Nearest(VideoMethod):
    """Compares videos by their most similar frames, a measure that no vector of a video has."""

    def compare(self, frames, first, last, query):
        assert not self.training
        unit = F.normalize(frames, dim=1)
        for one in query.tolist():
            own = unit[first[one] : last[one] + 1]
            yield torch.stack([(own @ unit[a : b + 1].T).max() for a, b in zip(first, last, strict=True)])[None]


@pytest.fixture
def watched():
    """A network, frames of 12 videos and what they show."""
    rng = np.random.default_rng(0)
    tracklet = np.repeat(np.arange(12), rng.integers(1, 8, 12))
    gallery = Gallery(person=np.arange(12) // 3 + 1, camera=np.arange(12) % 3 + 1, query=np.array([0, 4, 8, 11]))
    frames = torch.from_numpy(rng.normal(size=(len(tracklet), 1, 12, 12)).astype(np.float32))
    network = build("small-cnn", (1, 12, 12), 4, seed=0, widths=[4, 6]).eval()
    return network, frames, tracklet, gallery


def method(kind):
    return kind(Problem(torch.arange(4), 4))


def same(one, other):
    np.testing.assert_allclose(one.average_precision, other.average_precision, atol=1e-6)
    np.testing.assert_array_equal(one.first_match, other.first_match)


def test_persons_are_found_by_the_mean_unless_the_method_has_another_way(watched):
    network, frames, tracklet, gallery = watched
    about = gallery.person, gallery.camera, gallery.query
    parts = batches(frames, tracklet, 7)
    plain = evaluate_features(tracklet_features(network, parts, 12), *about)
    same(find(network, None, parts, gallery), plain)
    same(find(network, method(LabelSmoothing), parts, gallery), plain)
    with torch.no_grad():
        maps = network.body[:-1](frames)
        features = maps.mean((2, 3))
        described = torch.cat([features, maps.amax((2, 3))], 1)
    chosen = literal_videos(described, tracklet, 12, 3)
    expected = torch.cat([chosen[:, 0], chosen.mean(1)], 1).numpy()
    same(find(network, method(Spread), parts, gallery), evaluate_features(expected, *about))
    unit = F.normalize(features, dim=1).numpy()
    nearest = np.array(
        [[(unit[tracklet == q] @ unit[tracklet == t].T).max() for t in range(12)] for q in gallery.query]
    )
    same(find(network, method(Nearest), parts, gallery), evaluate_rankings([nearest], *about))


def test_a_video_without_a_frame_and_a_network_that_diverged_are_named(watched):
    network, frames, tracklet, gallery = watched
    for kind in (None, Spread, Nearest):
        way = kind and method(kind)
        kept = np.flatnonzero(tracklet != 5)
        with pytest.raises(ValueError, match=r"1 of 12 tracklets have no frame, tracklet 5 first"):
            find(network, way, batches(frames[kept], tracklet[kept], 7), gallery)
        broken = frames.clone()
        broken[3] = float("nan")
        with pytest.raises(DivergedError, match="NaN or infinite"):
            find(network, way, batches(broken, tracklet, 7), gallery)
    ways = {
        "videos": lambda frames: frames * math.nan,
        "compare": lambda frames, first, *_: iter([torch.full((4, len(first)), math.nan)]),
    }
    for name, nothing in ways.items():
        kind = type("Broken", (VideoMethod,), {name: lambda self, *given, f=nothing: f(*given), "test_frames": 3})
        with pytest.raises(DivergedError, match="NaN or infinite"):
            find(network, method(kind), batches(frames, tracklet, 7), gallery)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 9))
def test_frames_to_be_looked_at_are_the_first_of_equal_parts(lengths, number):
    first, length = np.cumsum([0, *lengths[:-1]]), np.array(lengths)
    expected = [
        [f + int(Fraction(part * n, number)) for part in range(number)] for f, n in zip(first, length, strict=True)
    ]
    np.testing.assert_array_equal(spread(first, length, number), expected)
