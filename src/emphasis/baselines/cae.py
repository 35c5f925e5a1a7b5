"""Competitive snippet-similarity aggregation and co-attentive snippet embedding, "CAE", for videos.

Source: D. Chen et al., Video Person Re-identification with Competitive Snippet-similarity Aggregation and Co-attentive
Snippet Embedding, CVPR 2018.

From the paper's abstract: the best of the snippets' similarities count; an LSTM learns the query from the whole probe
snippet, and the gallery's snippet shares it. All else is the authors' release's, dapengchen123/video_reid. There, no
LSTM is left, and its layer for queries sees the frames' features; every snippet is weighted by its own query, as what
weights the gallery's by the probe's is there, with keys of its own, but is never called. Further differences: its
network sees optical flow besides; it draws pairs of videos and compares the first ones of all pairs with the second
ones, where here every video of the batch is compared with every other, both ways round; its classifier has two outputs,
which come to the difference of one; it weights pairs so that their sum is 1 / 10, and their loss by 100; at test it
leaves out a snippet that ends where a longer video ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.baselines._instance_matching import InstanceMatching
from emphasis.baselines.protocol import Need, Problem, Step, check_range, check_whole
from emphasis.baselines.video import VideoMethod
from emphasis.deprecation import renamed
from emphasis.errors import EmphasisValueError
from emphasis.models.layers import detach_input, last_linear

_AT_ONCE = {"cpu": 2**20, "cuda": 2**24}  # numbers in each of a few arrays of `compare`: on the CPU they fit its cache


class CAE(VideoMethod):
    """Snippets of `clip` frames, embedded in pairs by what the first one asks for, and videos compared by the best.

    With x_t the features of frame t, B batch normalization, and products and softmax channel by channel,

        values        v_t = B(W_v x_t), divided by its L2 norm;
        keys          k_t = B(W_k x_t);
        query         q = mean over t of B(W_q h_t), h_t the outputs of an LSTM over the snippet's x_t;
        embedding     e(q, s) = sum_t a_t v_t, a_t = softmax over the frames t of s of q k_t;
        similarity    P = sigmoid(w . B((e(q, s) - e(q, s'))^2) + b) of probe s, whose query q is, and gallery s';
        verification  L_ver = (mean of -log P + negatives mean of -log(1 - P)) / (1 + negatives);
        matching      L_id = mean over frames of -log softmax(V v_t / temperature)_y, V as in `InstanceMatching`;
        loss          L_id + lam L_ver.

    The first mean of L_ver is over the batch's ordered pairs of snippets of one person, the second over those of two;
    without both kinds it is 0.

    A batch should show persons more than once (in a recipe, solver.videos = 2), for else it verifies nothing. The
    derivatives are large: released with a learning rate of 1e-3, and pairs of videos alone.

    A video's snippets begin every `stride` frames; one that is shorter is filled with its last frame. Of the n pairs of
    a query's snippets and another video's, the floor(top (n - 1)) + 1 most similar count, by the mean of their P.

    The network's last linear layer is no part of this. It is trained beside, by the cross-entropy of each frame, whose
    derivative ends there, so that the network still predicts.

    Args:
        problem: The labels, with `clip` frames of each video. Released: 8.
        width: Of values, keys and queries, >= 1. Released: 128.
        stride: Frames from one snippet to the next at test, >= 1. Released: 4.
        top: The share of pairs that count, in [0, 1]; 1 is the mean, 0 the best. Released: 0.2.
        lam: Of the verification, >= 0. Released: 10.
        negatives: Weight of all pairs of two persons, those of one having 1, >= 0. Released: 3.
        momentum: Of the classes' features, in [0, 1). Released: 0.5.
        temperature: > 0. Released: 1 / 30.

    Raises:
        ValueError: A parameter is out of bounds, or the examples are no videos.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"features"})

    def __init__(
        self,
        problem: Problem,
        *,
        width: int = 128,
        stride: int = 4,
        top: float = 0.2,
        lam: float = 10.0,
        negatives: float = 3.0,
        momentum: float = 0.5,
        temperature: float = 1 / 30,
    ) -> None:
        super().__init__(problem)
        check_whole("width", width, 1)
        check_whole("stride", stride, 1)
        check_range("top", top, 0.0, 1.0)
        check_range("lam", lam, 0.0, float("inf"), ends="[)")
        check_range("negatives", negatives, 0.0, float("inf"), ends="[)")
        self.matching = InstanceMatching(problem.num_classes, width, momentum=momentum, temperature=temperature)
        self.check_clip("cae", "(in a recipe, solver.clip; released: 8)")
        self.width, self.stride, self.top, self.lam, self.negatives = width, stride, top, lam, negatives
        self.seed = problem.seed

    def prepare(self, network: nn.Module) -> None:
        """Make the layers for the network's features, as many of them as its last linear layer sees."""
        last, width = last_linear(network), self.width
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            self.value, self.key = _layer(last.in_features, width), _layer(last.in_features, width)
            self.lstm, self.query = nn.LSTM(last.in_features, width, batch_first=True), _layer(width, width)
            score = nn.Linear(width, 1)
            nn.init.normal_(score.weight, std=1e-3)
            nn.init.zeros_(score.bias)
            self.verify = nn.Sequential(nn.BatchNorm1d(width), score)
        detach_input(last)

    def loss(self, step: Step) -> Tensor:
        """Return both losses and the last layer's cross-entropy, and move the classes' features.

        Raises:
            ValueError: The batch does not consist of whole clips, or of one alone, which has no pair.
        """
        videos, rest = divmod(len(step.labels), self.clip)
        if rest or videos < 2:
            raise EmphasisValueError(
                f"a batch of {len(step.labels)} frames does not consist of clips of {self.clip} frames, "
                "two or more; use a larger multiple of it (in a recipe, solver.batch_size)"
            )
        features = step.features.reshape(videos, self.clip, -1)
        values, keys = self._values(features), self._keys(features)
        # (V, V, width): of each video's frames in the columns, weighted by the queries of the rows.
        embedded = attend(self._queries(features).unsqueeze(1), keys, values)
        own = embedded.diagonal().T.unsqueeze(1)
        others = ~torch.eye(videos, dtype=torch.bool, device=embedded.device)
        persons = step.labels[:: self.clip]
        alike = (persons.unsqueeze(1) == persons)[others]
        verified = verification(self._logits((own - embedded)[others]), alike, self.negatives)
        matched = F.cross_entropy(self.matching(values.flatten(0, 1), step.labels), step.labels)
        beside = F.cross_entropy(step.logits, step.labels)
        return matched + self.lam * verified + beside

    def compare(self, frames: Tensor, first: Tensor, last: Tensor, query: Tensor) -> Iterator[Tensor]:
        """Yield the similarities (1, T) of each query to all videos, less 1: P near 1 has few digits, P - 1 all.

        Q queries and T videos of n snippets each take Q T n^2 clip width exponentials, and some ten times as many
        numbers to or from memory: for MARS, where these are 1,980, 12,180, 13 on average, 8 and 128, 4 * 10^12.
        """
        order = torch.argsort(last - first, stable=True)  # videos of as many snippets follow each other
        places, counts = cut(first[order], last[order], self.clip, self.stride)
        groups = torch.stack(torch.unique_consecutive(counts, return_counts=True), 1).tolist()
        rank = torch.argsort(order)
        values, keys = self._values(frames), self._keys(frames)
        owns = torch.split(places, counts.tolist())
        at_once = _AT_ONCE.get(frames.device.type, _AT_ONCE["cuda"])
        for place in rank[query].tolist():
            own = owns[place]
            asked = self._queries(frames[own]).unsqueeze(1)
            probe = attend(asked, keys[own].unsqueeze(1), values[own].unsqueeze(1))
            distances = [
                torch.sigmoid(-self._logits(probe - attend(asked, keys[part], values[part])))
                for part in torch.split(places, max(1, at_once // (asked.numel() * self.clip)))
            ]
            parts = torch.split(torch.cat(distances, 1), [number * videos for number, videos in groups], 1)
            best = [
                mean_of_least(part.reshape(len(own), videos, number).transpose(0, 1).flatten(1), self.top)
                for part, (number, videos) in zip(parts, groups, strict=True)
            ]
            yield -torch.cat(best)[rank].unsqueeze(0)

    def _values(self, features: Tensor) -> Tensor:
        return F.normalize(_by_frame(self.value, features), dim=-1)

    def _keys(self, features: Tensor) -> Tensor:
        return _by_frame(self.key, features)

    def _queries(self, features: Tensor) -> Tensor:
        """Return q of snippets, (V, width), from features (V, clip, D)."""
        return _by_frame(self.query, self.lstm(features)[0]).mean(1)

    def _logits(self, differences: Tensor) -> Tensor:
        """Return the logits of P, (...), from differences of embeddings (..., width)."""
        return _by_frame(self.verify, differences.square()).squeeze(-1)


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return e(q, s), (..., width), from queries (..., width) and keys and values (..., clip, width)."""
    return (F.softmax(query.unsqueeze(-2) * keys, -2) * values).sum(-2)


def verification(logits: Tensor, alike: Tensor, negatives: float) -> Tensor:
    """Return L_ver, a number, from the logits of P of pairs (n,) and whether each is of one person (n,)."""
    losses = F.binary_cross_entropy_with_logits(logits, alike.to(logits.dtype), reduction="none")
    one, two = (torch.where(kind, losses, 0.0).sum() / kind.sum().clamp_min(1) for kind in (alike, ~alike))
    both = alike.any() & ~alike.all()  # with one alone, all would be pushed apart, or together
    return both * (one + negatives * two) / (1.0 + negatives)


def cut(first: Tensor, last: Tensor, clip: int, stride: int) -> tuple[Tensor, Tensor]:
    """Return the places of each snippet's frames, (S, clip), and how many snippets each video has, (T,), all >= 1.

    Args:
        first: (T,) the place of each video's first frame.
        last: (T,) that of its last one, which belongs to it.
        clip: Frames of a snippet.
        stride: Frames from one snippet to the next.
    """
    counts = (last - first + 1 - clip).clamp_min(0) // stride + 1
    video = torch.repeat_interleave(counts)
    number = torch.arange(len(video), device=first.device) - (counts.cumsum(0) - counts)[video]
    begin = first[video] + stride * number
    places = begin.unsqueeze(1) + torch.arange(clip, device=first.device)
    return torch.minimum(places, last[video].unsqueeze(1)), counts


def mean_of_least(distances: Tensor, share: float) -> Tensor:
    """Return the mean of each row's floor(share (n - 1)) + 1 least, (m,), from (m, n)."""
    kept = int(share * (distances.shape[1] - 1) + 1e-9) + 1  # 0.29 * 100 is a little less than 29
    return distances.topk(kept, 1, largest=False, sorted=False).values.mean(1)


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    linear = nn.Linear(inputs, outputs, bias=False)  # which the normalization would take off again
    nn.init.kaiming_normal_(linear.weight, mode="fan_out")
    return nn.Sequential(linear, nn.BatchNorm1d(outputs))


def _by_frame(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return a layer's outputs where batch normalization is to count all axes but the last as one."""
    outputs: Tensor = layer(inputs.flatten(0, -2))
    return outputs.reshape(*inputs.shape[:-1], -1)


__getattr__ = renamed(__name__, {"Cae": "CAE"})
