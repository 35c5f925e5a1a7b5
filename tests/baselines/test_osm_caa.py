"""OSM+CAA against a literal one that goes pair by pair, and its limits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from emphasis.baselines import Problem, make
from video_steps import CHANNELS, CLASSES, exactly, fed, random, random_labels

SEEDS = st.integers(0, 10**6)


def osm_caa(**options):
    return make("osm-caa", Problem(torch.zeros(1, dtype=torch.int64), CLASSES), **options)


def literal_osm_caa(logits, features, labels, sigma, alpha, lam):
    """One pair after another, both ways round; weights and derivative told apart by hand."""
    n = len(labels)
    p = [(logits[i].exp() / logits[i].exp().sum())[labels[i]].item() for i in range(n)]
    f = [features[i] / features[i].norm() for i in range(n)]
    tops, bottoms = [logits.new_zeros(()), logits.new_zeros(())], [0.0, 0.0]
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            d = (f[i] - f[j]).norm()
            negative = int(labels[i] != labels[j])
            mined = max(0.0, alpha - d.item()) if negative else math.exp(-((d.item() / sigma) ** 2))
            weight = mined * min(p[i], p[j])
            tops[negative] = tops[negative] + weight * ((alpha - d).clamp(min=0.0) if negative else d) ** 2
            bottoms[negative] += weight
    means = [top / (2.0 * bottom) if bottom else top for top, bottom in zip(tops, bottoms, strict=True)]
    entropy = -sum(math.log(one) for one in p) / n
    return (1.0 - lam) * means[0] + lam * means[1] + entropy


@given(seed=SEEDS, n=st.integers(2, 8), sigma=st.floats(0.3, 3.0), alpha=st.floats(0.1, 2.0), lam=st.floats(0.0, 1.0))
@settings(max_examples=40, deadline=None)
def test_osm_caa_is_the_literal_loss_and_its_weights_are_constants(seed, n, sigma, alpha, lam):
    logits, labels = 2.0 * random(n, CLASSES, seed=seed), random_labels(n, seed)
    features = random(n, CHANNELS, seed=seed + 1).requires_grad_()
    method = osm_caa(sigma=sigma, alpha=alpha, lam=lam)
    found = method.loss(fed(labels, logits, features))
    expected = literal_osm_caa(logits, features, labels, sigma, alpha, lam)
    exactly(found, expected)
    gradients = [torch.autograd.grad(one + 0.0 * features.sum(), features)[0] for one in (found, expected)]
    exactly(*gradients)


def test_an_abnormal_example_takes_no_part_in_the_contrastive_loss():
    features, labels = random(7, CHANNELS), torch.tensor([0, 0, 1, 1, 2, 2, 0])
    p = torch.rand(7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p[-1] = 0.0
    method = osm_caa()
    features.requires_grad_()
    with_it = method.contrastive(features, labels, p)
    exactly(with_it, method.contrastive(features[:-1], labels[:-1], p[:-1]))
    (gradient,) = torch.autograd.grad(with_it, features)
    assert torch.equal(gradient[-1], torch.zeros(CHANNELS, dtype=torch.float64))


def test_pairs_in_their_limits():
    """A pair weighs itself away: alone it counts 1, whatever its weight; beyond the margin it counts 0."""
    ones, eye = torch.ones(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    same, other = torch.tensor([0, 0]), torch.tensor([0, 1])
    method = osm_caa(lam=0.5, alpha=1.2)
    exactly(method.contrastive(eye, same, 0.3 * ones), 0.5 * 2.0 / 2.0)  # d^2 = 2 between unit vectors at right angles
    assert method.contrastive(eye, other, ones) == 0.0  # d > alpha
    exactly(method.contrastive(eye.new_ones(2, 2), other, ones), 0.5 * 1.2**2 / 2.0)  # d = 0
    identical = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    loss = method.contrastive(identical, same, ones)
    assert loss == 0.0
    assert torch.autograd.grad(loss, identical)[0].isfinite().all()
    assert method.contrastive(eye[:1], same[:1], ones[:1]) == 0.0  # no pair
    assert method.contrastive(eye, same, 0.0 * ones) == 0.0  # nobody attends


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_nearer_positives_weigh_more_and_a_wide_mining_weighs_all_alike(seed):
    features, labels = random(6, CHANNELS, seed=seed), torch.zeros(6, dtype=torch.int64)
    p = torch.ones(6, dtype=torch.float64)
    squares = F.pdist(F.normalize(features)).square()
    wide = osm_caa(sigma=1e6, lam=0.0).contrastive(features, labels, p)
    exactly(wide, squares.mean() / 2.0)
    assert osm_caa(sigma=0.3, lam=0.0).contrastive(features, labels, p) < wide
    narrow = osm_caa(sigma=0.02, lam=0.0).contrastive(features, labels, p)
    assert narrow == pytest.approx(float(squares.min()) / 2.0, rel=0.05, abs=1e-3) or narrow == 0.0


def test_without_either_kind_of_pair_the_other_remains():
    logits, labels, features = random(8, CLASSES), random_labels(8), random(8, CHANNELS, seed=1)
    p = F.softmax(logits, 1).gather(1, labels[:, None]).squeeze(1)
    positive, negative, both = (osm_caa(lam=lam).contrastive(features, labels, p) for lam in (0.0, 1.0, 0.25))
    exactly(0.75 * positive + 0.25 * negative, both)
    distinct = torch.arange(3)
    assert osm_caa(lam=0.0).contrastive(features[:3], distinct, p[:3]) == 0.0
    method = osm_caa(lam=0.0)
    exactly(method.loss(fed(distinct, logits[:3], features[:3])), F.cross_entropy(logits[:3], distinct))
