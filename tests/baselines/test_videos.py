"""Methods for videos: their losses against literal ones, their limits, and what they learn."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from controls import share_of_the_way
from emphasis.baselines import Baseline, Learner, Problem, VideoMethod, make
from emphasis.baselines.drsa import overlap
from emphasis.models import build
from video_steps import CHANNELS, CLASSES, exactly, fed, random, random_labels

SEEDS = st.integers(0, 10**6)

# --- DRSA


def drsa(labels, clip, seed=0, **options):
    given_ = Problem(labels, CLASSES, seed, clip=clip)
    method = make("drsa", given_, **{"attentions": 3, "hidden": 4, "width": 6, **options})
    method.prepare(nn.Linear(CHANNELS, CLASSES))
    return method.double()


def literal_drsa(method, maps, labels, clip):
    """The part of the loss that trains the network: sums over frames, attention models, positions, one by one."""
    n, _, height, width = maps.shape
    places = [(row, column) for row in range(height) for column in range(width)]
    k_all, hidden = method.attentions, method.hidden
    first, second = method.spatial[0], method.spatial[2]
    w = first.weight[:, :, 0, 0].reshape(k_all, hidden, CHANNELS)
    b, u = first.bias.reshape(k_all, hidden), second.weight[:, :, 0, 0]
    v = method.temporal.weight[:, :, 0]
    diversity, outs = 0.0, []
    for frame in range(n):
        attention = []
        for k in range(k_all):
            scores = [u[k] @ (w[k] @ maps[frame, :, i, j] + b[k]).clamp(min=0.0) for i, j in places]
            total = sum(score.exp() for score in scores)
            attention.append([score.exp() / total for score in scores])
            gated = sum(s * maps[frame, :, i, j] for s, (i, j) in zip(attention[k], places, strict=True))
            outs.append(method.enhance.weight @ gated)
        for k in range(k_all):
            for other in range(k_all):
                shared = sum((a * c).sqrt() for a, c in zip(attention[k], attention[other], strict=True))
                diversity = diversity + (shared - (1.0 if k == other else 0.0)) ** 2 / n
    mean = sum(outs) / len(outs)
    std = (sum((out - mean) ** 2 for out in outs) / len(outs) + method.standardize.eps).sqrt()
    unit = [(out - mean) / std for out in outs]
    unit = [out / out.norm() for out in unit]
    x = [unit[k_all * frame : k_all * (frame + 1)] for frame in range(n)]
    matching, classes = 0.0, method.matching.classes.clone()
    for start in range(0, n, clip):
        frames, parts = range(start, start + clip), []
        for k in range(k_all):
            total = sum((v[k] @ x[frame][k]).exp() for frame in frames)
            parts.append(sum((v[k] @ x[frame][k]).exp() / total * x[frame][k] for frame in frames))
        video = torch.cat(parts)
        video = video / video.norm()
        scores = (method.matching.classes @ video / method.matching.temperature).exp()
        label = labels[start]
        matching = matching - (scores[label] / scores.sum()).log() / (n // clip)
        moved = method.matching.momentum * classes[label] + (1.0 - method.matching.momentum) * video.detach()
        classes[label] = moved / moved.norm()
    return matching + method.lam * diversity, classes


@given(
    seed=SEEDS,
    videos=st.integers(1, 3),
    clip=st.integers(2, 3),
    height=st.integers(1, 3),
    width=st.integers(1, 2),
    lam=st.floats(0.0, 3.0),
    momentum=st.floats(0.0, 0.9),
    temperature=st.floats(0.05, 2.0),
)
@settings(max_examples=15, deadline=None)
def test_drsa_is_the_literal_loss_and_moves_the_classes(seed, videos, clip, height, width, lam, momentum, temperature):
    labels = random_labels(videos, seed).repeat_interleave(clip)
    method = drsa(labels, clip, seed, lam=lam, momentum=momentum, temperature=temperature)
    method.matching.classes.copy_(F.normalize(random(*method.matching.classes.shape, seed=seed + 2), dim=1))
    maps = random(len(labels), CHANNELS, height, width, seed=seed).requires_grad_()
    logits = random(len(labels), CLASSES, seed=seed + 1)
    weights = [maps, *method.parameters()]
    expected, classes = literal_drsa(method, maps, labels, clip)
    gradients = torch.autograd.grad(expected, weights)
    found = method.loss(fed(labels, logits, maps=maps))
    exactly(found, expected + F.cross_entropy(logits, labels))
    exactly(method.matching.classes, classes)
    for one, other in zip(torch.autograd.grad(found, weights), gradients, strict=True):
        exactly(one, other)


@given(seed=SEEDS, k=st.integers(1, 6), places=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_diversity_lies_between_that_of_disjoint_and_of_identical_attentions(seed, k, places):
    attention = F.softmax(5.0 * random(2, k, places, seed=seed), 2)
    q = overlap(attention.log())
    assert (q >= 0.0).all()
    assert (q <= k * (k - 1) + 1e-9).all()
    identical = attention[:, :1].expand(-1, k, -1)
    exactly(overlap(identical.log()), torch.full((2,), float(k * (k - 1))))
    hellinger = 0.5 * (attention.sqrt()[:, :, None] - attention.sqrt()[:, None]).square().sum(3)  # squared
    exactly(q, ((1.0 - hellinger) * (1.0 - torch.eye(k))).square().sum((1, 2)))


def test_attentions_that_share_no_position_have_no_overlap_and_finite_derivatives():
    scores = torch.full((1, 3, 6), -2000.0, requires_grad=True)
    with torch.no_grad():
        for k in range(3):
            scores[0, k, 2 * k : 2 * k + 2] = 0.0
    q = overlap(F.log_softmax(scores, 2))
    assert float(q.detach()) == pytest.approx(0.0, abs=1e-12)
    q.sum().backward()
    assert scores.grad.isfinite().all()


def test_attentions_sum_to_one_and_videos_are_unit_vectors_that_the_order_of_frames_does_not_change():
    labels = torch.zeros(8, dtype=torch.int64)
    method = drsa(labels, 4)
    maps = random(8, CHANNELS, 3, 2)
    x, log_attention = method.attend(maps)
    exactly(log_attention.exp().sum(2), torch.ones(8, 3))
    exactly(x.norm(dim=2), torch.ones(8, 3))
    frames = method.describe(None, maps)
    assert torch.equal(frames, x.flatten(1))
    videos = method.videos(frames.reshape(2, 4, -1))
    exactly(videos.norm(dim=1), torch.ones(2))
    exactly(method.videos(frames.reshape(2, 4, -1)[:, [2, 0, 3, 1]]), videos)
    alike = frames[:1].expand(5, -1)[None]
    exactly(method.videos(alike), F.normalize(frames[:1]))
    with torch.no_grad():
        method.temporal.weight.zero_()  # no frame stands out: the mean
    exactly(method.videos(frames.reshape(2, 4, -1)), F.normalize(frames.reshape(2, 4, -1).mean(1)))


def test_a_class_forgets_all_but_its_latest_video_without_momentum():
    labels = torch.tensor([1, 1, 1, 1])
    method = drsa(labels, 2, momentum=0.0)
    maps = random(4, CHANNELS, 2, 2)
    method.loss(fed(labels, random(4, CLASSES), maps=maps))
    latest = method.videos(method.describe(None, maps)[None, 2:])[0].detach()
    exactly(method.matching.classes[1], latest)
    assert not method.matching.classes[[0, 2]].any()


def test_what_does_not_consist_of_clips_is_refused():
    labels = torch.zeros(5, dtype=torch.int64)
    method = drsa(labels, 2)
    with pytest.raises(ValueError, match="5 frames does not consist of clips of 2"):
        method.loss(fed(labels, random(5, CLASSES), maps=random(5, CHANNELS, 1, 1)))


def test_a_network_without_maps_is_told_so():
    method = make("drsa", Problem(torch.zeros(4, dtype=torch.int64), CLASSES, clip=2))
    with pytest.raises(ValueError, match="no global average pool"):
        Learner(method, build("mlp", (4,), CLASSES, seed=0, hidden=[8]))


# --- in a loop

CLIP, VIDEOS = 4, 12


def tiny_videos():
    """Videos of a bright place per person, which every fourth frame does not show."""
    generator = torch.Generator().manual_seed(0)
    people = torch.arange(VIDEOS) % CLASSES
    frames = 0.3 * torch.randn(VIDEOS, CLIP, 3, 8, 8, generator=generator)
    for video, person in enumerate(people.tolist()):
        frames[video, : CLIP - 1, person, 2 * person : 2 * person + 3] += 2.0
    return frames.flatten(0, 1), people.repeat_interleave(CLIP)


def learner(name, labels, **options):
    return Learner(
        make(name, Problem(labels, CLASSES, 0, clip=CLIP), **options),
        build("small-cnn", (3, 8, 8), CLASSES, seed=0, widths=[8, 12]),
    )


def steps(one, frames, number):
    optimizer = torch.optim.SGD(one.parameters(), 0.05, momentum=0.9)
    losses = []
    for step in range(number):
        loss = one.loss(frames, torch.arange(len(frames)), step / number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


OPTIONS = {"osm-caa": {}, "drsa": {"attentions": 2, "hidden": 4, "width": 8}, "cae": {"width": 16}}
OF_CLIPS = ["drsa", "cae"]


@torch.no_grad()
def similarities(one, frames):
    """Of all videos to all, as the method has them."""
    method = one.eval().method
    one(frames)
    described = method.describe(
        one.features() if "features" in method.needs else None, one.maps() if "feature_maps" in method.needs else None
    )
    if type(method).compare is not VideoMethod.compare:
        first = torch.arange(0, len(frames), CLIP)
        return torch.cat(list(method.compare(described, first, first + CLIP - 1, torch.arange(VIDEOS))))
    videos = F.normalize(method.videos(described.reshape(VIDEOS, CLIP, -1)), dim=1)
    return videos @ videos.T


@pytest.mark.parametrize("name", OPTIONS)
def test_training_lowers_the_loss_and_tells_people_apart(name):
    frames, labels = tiny_videos()
    one = learner(name, labels, **OPTIONS[name])
    losses = steps(one, frames, 60)
    assert losses[-1] < 0.5 * losses[0]
    shown = torch.arange(len(frames)) % CLIP < CLIP - 1
    assert share_of_the_way(float((one(frames).argmax(1) == labels)[shown].float().mean()), 1 / CLASSES) > 0.5
    nearest = similarities(one, frames).fill_diagonal_(-math.inf).argmax(1)
    assert share_of_the_way(float((labels[::CLIP][nearest] == labels[::CLIP]).float().mean()), 1 / CLASSES) > 0.5


@pytest.mark.parametrize("name", OPTIONS)
def test_every_parameter_has_a_derivative_but_what_a_softmax_takes_off(name):
    frames, labels = tiny_videos()
    one = learner(name, labels, **OPTIONS[name])
    for _ in range(2):  # at first the classes have no features, and nothing matches
        one.zero_grad()
        one.loss(frames, torch.arange(len(frames)), 0.0).backward()
    for key, parameter in one.named_parameters():
        assert parameter.grad is not None, key
        size = parameter.grad.abs().max()
        assert size < 1e-6 if (name, key) == ("cae", "method.key.1.bias") else size > 0.0, key


@pytest.mark.parametrize("name", OPTIONS)
def test_half_precision_comes_near(name):
    frames, labels = tiny_videos()
    losses = []
    for enabled in (False, True):
        one = learner(name, labels, **OPTIONS[name])
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for _ in range(2):
                one.zero_grad()
                loss = one.loss(frames, torch.arange(len(frames)), 0.0)
                loss.backward()
        losses.append(float(loss.detach()))
        assert all(parameter.grad.isfinite().all() for parameter in one.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("name", OF_CLIPS)
def test_the_classifier_learns_beside_and_does_not_reach_the_network(name):
    frames, labels = tiny_videos()
    one = learner(name, labels, **OPTIONS[name])
    logits = one.network(frames)
    body = list(one.network.body.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(logits, labels), [*body, one.network.fc.weight], allow_unused=True)
    assert all(gradient is None for gradient in gradients[:-1])
    assert gradients[-1].abs().max() > 0.0


@pytest.mark.parametrize("name", OF_CLIPS)
def test_a_methods_layers_follow_from_the_seed_alone(name):
    frames, labels = tiny_videos()
    first = learner(name, labels, **OPTIONS[name])
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    again = learner(name, labels, **OPTIONS[name])
    assert torch.equal(torch.random.get_rng_state(), before)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    steps(first, frames, 3)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    assert steps(first, frames, 2) == steps(again, frames, 2)


def test_a_video_method_in_the_old_style_warns_and_works():
    with pytest.warns(DeprecationWarning, match=r"Old\(Baseline\) with describe is deprecated; use VideoMethod"):

        class Old(Baseline):
            def describe(self, features, maps):
                return 2 * features

    method = Old(Problem(torch.zeros(4, dtype=torch.int64), CLASSES, clip=2))
    assert isinstance(method, VideoMethod)
    assert method.clip == 2
    assert torch.equal(method.videos(torch.ones(3, 2, 4)), torch.ones(3, 4))


def test_clip_of_another_method_warns():
    class Plain(Baseline):
        pass

    method = Plain(Problem(torch.zeros(4, dtype=torch.int64), CLASSES, clip=3))
    assert not isinstance(method, VideoMethod)
    with pytest.warns(DeprecationWarning, match=r"Baseline\.clip is deprecated; use VideoMethod\.clip"):
        assert method.clip == 3
