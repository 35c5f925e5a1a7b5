"""CAE against a literal one that goes pair by pair and frame by frame; and its limits."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from emphasis.baselines import Problem, make
from emphasis.baselines import cae as module
from emphasis.baselines._instance_matching import InstanceMatching
from emphasis.baselines.cae import attend, mean_of_least, snippets, verification
from video_steps import exactly, fed, random

CLASSES, FEATURES, WIDTH = 3, 4, 5
SEEDS = st.integers(0, 10**6)


def people(videos, clip, seed=0):
    """The label of each frame of videos of `CLASSES` persons."""
    drawn = torch.randint(CLASSES, (videos,), generator=torch.Generator().manual_seed(seed))
    return drawn.repeat_interleave(clip)


def cae(labels, clip, seed=0, **options):
    """The method in float64, with normalizations that have seen something and parameters of ordinary size."""
    method = make("cae", Problem(labels, CLASSES, seed, clip=clip), **{"width": WIDTH, **options})
    method.prepare(nn.Linear(FEATURES, CLASSES))
    method.double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(method.state_dict().items()):
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                value.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
        method.matching.classes.copy_(F.normalize(method.matching.classes, dim=1))
    return method


# --- the literal method


def normalized(norm, rows):
    """Batch normalization of rows, by what they are in training and by what was seen in evaluation."""
    mean, variance = norm.running_mean, norm.running_var
    if norm.training:
        mean = sum(rows) / len(rows)
        variance = sum((row - mean) ** 2 for row in rows) / len(rows)
    return [(row - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias for row in rows]


def literal_layer(layer, rows):
    return normalized(layer[1], [layer[0].weight @ row for row in rows])


def literal_lstm(lstm, frames):
    hidden = cell = torch.zeros(WIDTH, dtype=torch.float64)
    outputs = []
    for x in frames:
        gates = lstm.weight_ih_l0 @ x + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ hidden + lstm.bias_hh_l0
        i, f, g, o = (gates[part * WIDTH : (part + 1) * WIDTH] for part in range(4))
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return outputs


def literal_parts(method, snippets):
    """Values, keys and queries of snippets, each a list of the features of its frames."""
    frames = [x for snippet in snippets for x in snippet]
    clip = len(snippets[0])
    values = [v / v.norm() for v in literal_layer(method.value, frames)]
    keys = literal_layer(method.key, frames)
    read = literal_layer(method.query, [h for snippet in snippets for h in literal_lstm(method.lstm, snippet)])
    grouped = [[rows[at : at + clip] for at in range(0, len(rows), clip)] for rows in (values, keys, read)]
    return grouped[0], grouped[1], [sum(rows) / clip for rows in grouped[2]]


def literal_embedding(query, keys, values):
    channels = []
    for c in range(WIDTH):
        total = sum((query[c] * k[c]).exp() for k in keys)
        channels.append(sum((query[c] * k[c]).exp() / total * v[c] for k, v in zip(keys, values, strict=True)))
    return torch.stack(channels)


def literal_loss(method, features, labels, logits, clip):
    snippets = [list(features[at : at + clip]) for at in range(0, len(labels), clip)]
    persons = labels[::clip].tolist()
    values, keys, queries = literal_parts(method, snippets)
    differences, alike = [], []
    for i, query in enumerate(queries):
        for j, person in enumerate(persons):
            if i != j:
                own, other = (literal_embedding(query, keys[of], values[of]) for of in (i, j))
                differences.append((own - other) ** 2)
                alike.append(person == persons[i])
    norm, score = method.verify
    p = [(score.weight[0] @ row + score.bias[0]).sigmoid() for row in normalized(norm, differences)]
    one = [-one.log() for one, same in zip(p, alike, strict=True) if same]
    two = [-(1.0 - one).log() for one, same in zip(p, alike, strict=True) if not same]
    verified = 0.0
    if one and two:
        weighted = sum(one) / len(one) + method.negatives * sum(two) / len(two)
        verified = weighted / (1.0 + method.negatives)

    before = method.matching.classes
    matched, classes = 0.0, before.clone()
    for value, label in zip([v for snippet in values for v in snippet], labels.tolist(), strict=True):
        scores = (before @ value / method.matching.temperature).exp()
        matched = matched - (scores[label] / scores.sum()).log() / len(labels)
        moved = method.matching.momentum * classes[label] + (1.0 - method.matching.momentum) * value.detach()
        classes[label] = moved / moved.norm()
    return matched + method.lam * verified + F.cross_entropy(logits, labels), classes


def literal_snippets(frames, clip, stride):
    """The frames of each snippet of one video."""
    if len(frames) <= clip:
        return [[frames[min(at, len(frames) - 1)] for at in range(clip)]]
    return [frames[at : at + clip] for at in range(0, len(frames) - clip + 1, stride)]


def literal_similarity(method, one, other):
    """The mean P of the most similar pairs of snippets of a query and another video."""
    found = []
    for probe in one:
        (values,), (keys,), (query,) = literal_parts(method, [probe])
        own = literal_embedding(query, keys, values)
        for snippet in other:
            (values,), (keys,), _ = literal_parts(method, [snippet])
            norm, score = method.verify
            (row,) = normalized(norm, [(own - literal_embedding(query, keys, values)) ** 2])
            found.append(float((score.weight[0] @ row + score.bias[0]).sigmoid()))
    found.sort(reverse=True)
    kept = found[: math.floor(method.top * (len(found) - 1)) + 1]
    return sum(kept) / len(kept)


@given(
    seed=SEEDS,
    videos=st.integers(2, 4),
    clip=st.integers(2, 3),
    lam=st.floats(0.0, 20.0),
    negatives=st.floats(0.0, 5.0),
    momentum=st.floats(0.0, 0.9),
    temperature=st.floats(0.03, 2.0),
)
@settings(max_examples=12, deadline=None)
def test_it_is_the_literal_loss_and_moves_the_classes(seed, videos, clip, lam, negatives, momentum, temperature):
    labels = people(videos, clip, seed)
    method = cae(labels, clip, seed, lam=lam, negatives=negatives, momentum=momentum, temperature=temperature)
    features = random(len(labels), FEATURES, seed=seed + 1).requires_grad_()
    logits = random(len(labels), CLASSES, seed=seed + 2)
    weights = [features, *method.parameters()]
    expected, classes = literal_loss(method, features, labels, logits, clip)
    gradients = torch.autograd.grad(expected, weights, allow_unused=True, materialize_grads=True)
    found = method.loss(fed(labels, logits, features))
    exactly(found, expected)
    exactly(method.matching.classes, classes)
    for one, other in zip(torch.autograd.grad(found, weights), gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@given(
    seed=SEEDS,
    lengths=st.lists(st.integers(1, 7), min_size=2, max_size=4),
    clip=st.integers(2, 3),
    stride=st.integers(1, 4),
    top=st.floats(0.0, 1.0),
    at_once=st.sampled_from([1, 40, 10**6]),
)
@settings(max_examples=40, deadline=None)
def test_videos_are_as_similar_as_the_literal_best_of_their_snippets(seed, lengths, clip, stride, top, at_once):
    method = cae(people(2, clip), clip, seed, stride=stride, top=top).eval()
    features = random(sum(lengths), FEATURES, seed=seed + 1)
    first = torch.tensor([0, *lengths[:-1]]).cumsum(0)
    last = first + torch.tensor(lengths) - 1
    query = torch.tensor([len(lengths) - 1, 0])
    videos = [
        literal_snippets(list(features[a : b + 1]), clip, stride)
        for a, b in zip(first.tolist(), last.tolist(), strict=True)
    ]
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(module._AT_ONCE, "cpu", at_once)  # how many are compared together changes nothing
        found = torch.cat(list(method.compare(features, first, last, query)))
        expected = [[literal_similarity(method, videos[q], video) for video in videos] for q in query.tolist()]
    exactly(1.0 + found, torch.tensor(expected, dtype=torch.float64))


# --- attention


@given(seed=SEEDS, clip=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_weights_sum_to_one_and_none_stand_out_for_a_query_of_0(seed, clip):
    query, keys, values = (
        random(WIDTH, seed=seed),
        random(clip, WIDTH, seed=seed + 1),
        random(clip, WIDTH, seed=seed + 2),
    )
    exactly(attend(query, keys, torch.ones_like(values)), torch.ones(WIDTH))
    exactly(attend(torch.zeros_like(query), keys, values), values.mean(0))
    exactly(attend(query, keys + random(WIDTH, seed=seed), values), attend(query, keys, values))  # no frame's own
    sharp = attend(1e12 * torch.sign(query), keys, values)  # the frame that most has what is asked for, by channel
    exactly(sharp, values.gather(0, (torch.sign(query) * keys).argmax(0, keepdim=True))[0])


def embeddings(method, features):
    """e(q_i, s_j) of all i and j."""
    return attend(method._queries(features).unsqueeze(1), method._keys(features), method._values(features))


@torch.no_grad()
def test_both_snippets_are_weighted_by_the_probes_query():
    method = cae(people(2, 3), 3).eval()
    features = random(2, 3, FEATURES, seed=1)
    found = embeddings(method, features)
    values, keys, queries = literal_parts(method, [list(snippet) for snippet in features])
    for probe in range(2):
        for of in range(2):
            exactly(found[probe, of], literal_embedding(queries[probe], keys[of], values[of]))
    assert (found[0, 1] - found[1, 1]).abs().max() > 1e-3  # who asks changes what is seen,
    first, last = torch.tensor([0, 3]), torch.tensor([2, 5])
    there, back = method.compare(features.flatten(0, 1), first, last, torch.tensor([0, 1]))
    assert abs(float(there[0, 1] - back[0, 0])) > 1e-6  # and how alike two are
    exactly(torch.cat([there[:, 0], back[:, 1]]), method._logits(torch.zeros(2, WIDTH).double()).sigmoid() - 1.0)


def test_the_lstm_sees_the_order_of_frames_and_only_through_it_does_it_count():
    method = cae(people(1, 4), 4).eval()
    features = random(1, 4, FEATURES, seed=1)
    turned = features.flip(1)
    query = method._queries(features)
    assert (method._queries(turned) - query).abs().max() > 1e-3
    exactly(attend(query, method._keys(turned), method._values(turned)), embeddings(method, features)[:, 0])


# --- snippets and the best of their pairs


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 3))
@settings(deadline=None)
def test_snippets_are_those_cut_one_by_one(lengths, clip, stride, gap):
    first = torch.tensor([0, *(length + gap for length in lengths[:-1])]).cumsum(0)
    places, counts = snippets(first, first + torch.tensor(lengths) - 1, clip, stride)
    expected = [
        literal_snippets(list(range(begin, begin + length)), clip, stride)
        for begin, length in zip(first.tolist(), lengths, strict=True)
    ]
    assert counts.tolist() == [len(video) for video in expected]
    assert places.tolist() == [snippet for video in expected for snippet in video]


@given(seed=SEEDS, n=st.integers(1, 60), percent=st.integers(0, 100))
@example(seed=0, n=101, percent=29)  # 0.29 * 100 is a little less than 29
@settings(deadline=None)
def test_the_best_are_those_up_to_the_percentile_and_all_or_one_in_the_limits(seed, n, percent):
    distances = random(3, n, seed=seed)
    found = mean_of_least(distances, percent / 100)
    for row, mean in zip(distances.numpy(), found, strict=True):
        limit = np.percentile(row, percent)  # as the authors' evaluation has it
        exactly(mean, row[row <= limit + 1e-12].mean())
    exactly(mean_of_least(distances, 1.0), distances.mean(1))
    exactly(mean_of_least(distances, 0.0), distances.amin(1))
    exactly(mean_of_least(distances[:, :1], percent / 100), distances[:, 0])


def test_a_video_of_one_snippet_has_that_snippets_similarity_whatever_the_share():
    features = random(6, FEATURES, seed=1)
    first, last, query = torch.tensor([0, 3]), torch.tensor([2, 5]), torch.tensor([0])
    found = [
        next(cae(people(2, 3), 3, top=top).eval().compare(features, first, last, query)) for top in (0.0, 0.2, 1.0)
    ]
    exactly(found[0], found[1])
    exactly(found[0], found[2])


def test_similarities_near_one_stay_apart():
    """In float32 P itself would be 1 for both."""
    method = cae(people(2, 2), 2).float().eval()
    with torch.no_grad():
        method.verify[1].bias.fill_(25.0)
    first = torch.arange(0, 6, 2)
    (found,) = method.compare(random(6, FEATURES).float(), first, first + 1, torch.tensor([0]))
    assert (1.0 + found == 1.0).all()
    assert len(found.unique()) == 3
    assert (found < 0.0).all()


# --- verification and matching


@given(seed=SEEDS, n=st.integers(2, 30), negatives=st.floats(0.0, 5.0))
@settings(max_examples=30, deadline=None)
def test_each_kind_of_pair_has_its_weight_however_many_there_are(seed, n, negatives):
    logits = random(n, seed=seed)
    alike = torch.arange(n) < 1 + seed % (n - 1)
    found = verification(logits, alike, negatives)
    one, two = F.softplus(-logits[alike]).mean(), F.softplus(logits[~alike]).mean()
    exactly(found, (one + negatives * two) / (1.0 + negatives))
    exactly(verification(logits.repeat(2), alike.repeat(2), negatives), found)
    more = torch.cat([logits, *[logits[~alike]] * 3]), torch.cat([alike, alike.new_zeros(3 * int((~alike).sum()))])
    exactly(verification(*more, negatives), found)
    for kind in (True, False):
        assert verification(logits, torch.full((n,), kind), negatives) == 0.0
    logits[0] = torch.nan
    assert verification(logits, torch.zeros(n, dtype=torch.bool), negatives).isnan()  # it never passes silently


def test_matching_starts_even_and_comes_to_know_the_classes():
    matching = InstanceMatching(CLASSES, WIDTH, momentum=0.0)
    examples = F.normalize(torch.eye(CLASSES, WIDTH) + 0.1)
    labels = torch.arange(CLASSES)
    assert not matching(examples, labels).any()
    exactly(matching.classes, examples)
    assert (matching(examples, labels).argmax(1) == labels).all()
    for name, value in (("momentum", 1.0), ("temperature", 0.0)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            InstanceMatching(CLASSES, WIDTH, **{name: value})


@pytest.mark.parametrize("frames", [5, 2])
def test_what_does_not_consist_of_several_clips_is_refused(frames):
    labels = torch.zeros(frames, dtype=torch.int64)
    method = cae(labels, 2)
    with pytest.raises(ValueError, match=f"a batch of {frames} frames does not consist of clips of 2 frames, two or"):
        method.loss(fed(labels, random(frames, CLASSES), random(frames, FEATURES)))
