"""CAE for videos: competitive snippet-similarity aggregation and co-attentive snippet embedding.

Source: D. Chen et al., Video Person Re-identification with Competitive Snippet-similarity Aggregation and Co-attentive
Snippet Embedding, CVPR 2018.

Two parts are from the abstract of the paper: the best similarities of snippets count, and an LSTM learns the query from
the whole probe snippet, which is also used for the gallery's snippet. The rest is that of the authors' release,
dapengchen123/video_reid. The release has no LSTM: its layer for queries takes the features of frames, and every snippet
is weighted by its own query; code that weights the gallery's snippet by the probe's query exists, with separate keys,
but is not called. Further differences of the release: the network also gets optical flow; pairs of videos are drawn,
and the first ones of all pairs are compared with the second ones, whereas here all videos of a batch are compared in
both orders; the classifier has two outputs, which is equivalent to their difference; the weights of pairs sum to 1 /
10, and their loss has the weight 100; and in evaluation a snippet that ends at the end of a longer video is ignored.
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

_AT_ONCE = {"cpu": 2**20, "cuda": 2**24}  # numbers in each array of `compare`; on the CPU these fit into the cache


class CAE(VideoMethod):
    """Embeds pairs of snippets of `clip` frames by the query of the first, and compares videos by the best pairs.

    With x_t the features of frame t, B batch normalization, and products and softmax by channel,

        values        v_t = B(W_v x_t), divided by its L2 norm;
        keys          k_t = B(W_k x_t);
        query         q = mean over t of B(W_q h_t), h_t the outputs of an LSTM over the x_t of the snippet;
        embedding     e(q, s) = sum_t a_t v_t, a_t = softmax over the frames t of s of q k_t;
        similarity    P = sigmoid(w . B((e(q, s) - e(q, s'))^2) + b) of the probe s with query q and the gallery's s';
        verification  L_ver = (mean of -log P + negatives mean of -log(1 - P)) / (1 + negatives);
        matching      L_id = mean over frames of -log softmax(V v_t / temperature)_y, V as in `InstanceMatching`;
        loss          L_id + lam L_ver.

    The first mean of L_ver is over the ordered pairs of snippets in a batch that show the same person, and the second
    over the others; L_ver is 0 if there are not pairs of both kinds.

    A batch should show persons more than once (in a recipe, solver.videos = 2), as L_ver is 0 otherwise. The
    derivatives are large: the release has a learning rate of 1e-3, and batches of pairs of videos.

    Snippets of a video begin every `stride` frames; a short one is filled with its last frame. Of the n pairs of
    snippets of a query and another video, the floor(top (n - 1)) + 1 most similar count, by the mean of their P.

    The last linear layer of the network is not used for this. It is trained separately by the cross-entropy of each
    frame, the derivative of which does not reach the rest of the network, so that there are predictions.

    Args:
        problem: The labels, with `clip` frames of each video. Released: 8.
        width: Width of values, keys and queries, >= 1. Released: 128.
        stride: Number of frames between the starts of snippets in evaluation, >= 1. Released: 4.
        top: Share of pairs that count, in [0, 1]; 1 for the mean and 0 for the best. Released: 0.2.
        lam: Weight of the verification loss, >= 0. Released: 10.
        negatives: Weight of the mean over pairs of different persons, relative to those of the same person, >= 0.
            Released: 3.
        momentum: Momentum of the class vectors, in [0, 1). Released: 0.5.
        temperature: Temperature of the matching loss, > 0. Released: 1 / 30.

    Raises:
        ValueError: A parameter is out of range, or the examples are not videos.
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
        """Create the layers for the features of a network, the inputs of its last linear layer."""
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
        """Return the sum of both losses and the cross-entropy of the last layer, and update the class vectors.

        Raises:
            ValueError: The batch does not consist of at least two whole clips.
        """
        videos, rest = divmod(len(step.labels), self.clip)
        if rest or videos < 2:
            raise EmphasisValueError(
                f"a batch of {len(step.labels)} frames does not consist of clips of {self.clip} frames, "
                "two or more; use a larger multiple of it (in a recipe, solver.batch_size)"
            )
        features = step.features.reshape(videos, self.clip, -1)
        values, keys = self._values(features), self._keys(features)
        # (V, V, width): embeddings of the videos of the columns by the queries of the rows.
        embedded = attend(self._queries(features).unsqueeze(1), keys, values)
        probes = embedded.diagonal().T.unsqueeze(1)
        others = ~torch.eye(videos, dtype=torch.bool, device=embedded.device)
        persons = step.labels[:: self.clip]
        alike = (persons.unsqueeze(1) == persons)[others]
        verified = verification(self._logits((probes - embedded)[others]), alike, self.negatives)
        matched = F.cross_entropy(self.matching(values.flatten(0, 1), step.labels), step.labels)
        classified = F.cross_entropy(step.logits, step.labels)
        return matched + self.lam * verified + classified

    def compare(self, frames: Tensor, first: Tensor, last: Tensor, query: Tensor) -> Iterator[Tensor]:
        """Yield the similarities of each query to all videos minus 1, (1, T): P - 1 is precise where P is near 1.

        Q queries and T videos of n snippets each need Q T n^2 clip width exponentials, and ten times as many memory
        accesses: for MARS, with 1,980 queries, 12,180 videos and 13 snippets on average, 4 * 10^12.
        """
        order = torch.argsort(last - first, stable=True)  # videos with the same number of snippets are adjacent
        frame_indices, counts = snippets(first[order], last[order], self.clip, self.stride)
        groups = torch.stack(torch.unique_consecutive(counts, return_counts=True), 1).tolist()
        rank = torch.argsort(order)
        values, keys = self._values(frames), self._keys(frames)
        snippets_of = torch.split(frame_indices, counts.tolist())
        at_once = _AT_ONCE.get(frames.device.type, _AT_ONCE["cuda"])
        for position in rank[query].tolist():
            probe_frames = snippets_of[position]
            queries = self._queries(frames[probe_frames]).unsqueeze(1)
            probe = attend(queries, keys[probe_frames].unsqueeze(1), values[probe_frames].unsqueeze(1))
            distances = [
                torch.sigmoid(-self._logits(probe - attend(queries, keys[part], values[part])))
                for part in torch.split(frame_indices, max(1, at_once // (queries.numel() * self.clip)))
            ]
            parts = torch.split(torch.cat(distances, 1), [number * videos for number, videos in groups], 1)
            best = [
                mean_of_least(part.reshape(len(probe_frames), videos, number).transpose(0, 1).flatten(1), self.top)
                for part, (number, videos) in zip(parts, groups, strict=True)
            ]
            yield -torch.cat(best)[rank].unsqueeze(0)

    def _values(self, features: Tensor) -> Tensor:
        return F.normalize(_by_frame(self.value, features), dim=-1)

    def _keys(self, features: Tensor) -> Tensor:
        return _by_frame(self.key, features)

    def _queries(self, features: Tensor) -> Tensor:
        """Return the queries of snippets, (V, width), from features (V, clip, D)."""
        return _by_frame(self.query, self.lstm(features)[0]).mean(1)

    def _logits(self, differences: Tensor) -> Tensor:
        """Return the logits of P, (...), from differences of embeddings (..., width)."""
        return _by_frame(self.verify, differences.square()).squeeze(-1)


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return e(q, s), (..., width), from queries (..., width) and keys and values (..., clip, width)."""
    return (F.softmax(query.unsqueeze(-2) * keys, -2) * values).sum(-2)


def verification(logits: Tensor, alike: Tensor, negatives: float) -> Tensor:
    """Return L_ver, a scalar, from the logits of P of pairs, (n,), and whether each shows the same person, (n,)."""
    losses = F.binary_cross_entropy_with_logits(logits, alike.to(logits.dtype), reduction="none")
    same, different = (torch.where(kind, losses, 0.0).sum() / kind.sum().clamp_min(1) for kind in (alike, ~alike))
    both = alike.any() & ~alike.all()  # with one kind only, all would move apart or together
    return both * (same + negatives * different) / (1.0 + negatives)


def snippets(first: Tensor, last: Tensor, clip: int, stride: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the frames of snippets, (S, clip), and the number of snippets of each video, (T,), >= 1.

    Args:
        first: Index of the first frame of each video, (T,).
        last: Index of the last frame of each video, (T,).
        clip: Number of frames of a snippet.
        stride: Number of frames between the starts of snippets.
    """
    counts = (last - first + 1 - clip).clamp_min(0) // stride + 1
    video = torch.repeat_interleave(counts)
    number = torch.arange(len(video), device=first.device) - (counts.cumsum(0) - counts)[video]
    begin = first[video] + stride * number
    frames = begin.unsqueeze(1) + torch.arange(clip, device=first.device)
    return torch.minimum(frames, last[video].unsqueeze(1)), counts


def mean_of_least(distances: Tensor, share: float) -> Tensor:
    """Return the mean of the floor(share (n - 1)) + 1 smallest numbers of each row, (m,), from (m, n)."""
    kept = int(share * (distances.shape[1] - 1) + 1e-9) + 1  # 0.29 * 100 is slightly less than 29
    return distances.topk(kept, 1, largest=False, sorted=False).values.mean(1)


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    linear = nn.Linear(inputs, outputs, bias=False)  # the normalization would remove a bias
    nn.init.kaiming_normal_(linear.weight, mode="fan_out")
    return nn.Sequential(linear, nn.BatchNorm1d(outputs))


def _by_frame(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs of a layer with all axes but the last combined to one, for batch normalization."""
    outputs: Tensor = layer(inputs.flatten(0, -2))
    return outputs.reshape(*inputs.shape[:-1], -1)


__getattr__ = renamed(__name__, {"Cae": "CAE"})
