"""Masking: its structures, its term, and what the prior does to the matrix that is learned."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch.nn import functional as F

from clouds import CLASSES, first_loss, learner, problem, train
from emphasis.baselines import Problem, Step, make
from emphasis.baselines.masking import structure_matrix, structure_of

SEEDS = (0, 1)
PAIR = structure_matrix("pair", CLASSES)
RULED_OUT = PAIR == 0.0


def test_masking_structures():
    assert structure_matrix("full", 3).tolist() == [[1.0] * 3] * 3
    assert PAIR.tolist() == [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]
    s = structure_of(torch.tensor([0.0, 0.05, 0.2]))
    torch.testing.assert_close(s, torch.tensor([0.0, 0.5, 1.0]), rtol=0.0, atol=1e-4)


def test_the_term_is_the_wasserstein_distance_of_the_drawn_structures_from_the_prior():
    """Entry by entry, by scipy's distance of two distributions on the line; the best critic of a GAN says no more."""
    given_, inputs, _ = problem(noise=0.3)
    one, base = (learner("masking", given_, structure="pair", weight=weight) for weight in (1.0, 0.0))
    with torch.no_grad():  # more alike than at first, and more spread out
        for method in (one.method, base.method):
            method.generator.bias.mul_(0.3)
            method.generator.weight.mul_(20.0)
        draws, terms = [], []
        for seed in range(50):
            torch.manual_seed(seed)
            draws.append(structure_of(one.method.transition().exp()))
            losses = []
            for now in (one, base):
                torch.manual_seed(seed)
                losses.append(now.loss(inputs, torch.arange(len(inputs)), 0.0))
            terms.append(float(losses[0] - losses[1]))
    drawn = torch.stack(draws).flatten(1).T.double().numpy()
    distances = [wasserstein_distance(values, [wanted]) for values, wanted in zip(drawn, PAIR.flatten(), strict=True)]
    assert np.mean(terms) == pytest.approx(sum(distances), rel=1e-4)


def test_a_structure_that_rules_nothing_out_leaves_the_noise_layer_alone():
    given_, inputs, _ = problem(noise=0.3)
    losses = [first_loss(learner("masking", given_, weight=weight), inputs) for weight in (5.0, 0.0)]
    assert torch.equal(*losses)


def noisy(truth, following, before, seed):
    """Labels of which a share is taken for the following class, and one for the class before."""
    luck = torch.rand(len(truth), generator=torch.Generator().manual_seed(seed))
    shift = torch.where(luck < before, 2, torch.where(luck < before + following, 1, 0))
    return (truth + shift) % CLASSES


def learned_matrix(method):
    with torch.no_grad():
        return torch.stack([method.transition().exp() for _ in range(50)]).mean(0)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_prior_keeps_out_what_it_rules_out_and_without_it_the_labels_decide(seed):
    """With the true classes known, the best matrix without a prior is that of the labels: counted, not trained."""
    truth = torch.arange(600) % CLASSES
    labels = noisy(truth, 0.25, 0.15, seed)
    logits = 20.0 * F.one_hot(truth, CLASSES).float()
    counted = torch.stack([F.one_hot(labels[truth == k], CLASSES).float().mean(0) for k in range(CLASSES)])
    found = {}
    for weight in (0.0, 0.1):
        method = make("masking", Problem(labels, CLASSES, seed), structure="pair", weight=weight)
        optimizer = torch.optim.SGD(method.parameters(), 0.3)
        torch.manual_seed(seed)
        for _ in range(500):
            optimizer.zero_grad()
            method.loss(Step(logits, labels, torch.arange(600), 0.0, lambda _: logits)).backward()
            optimizer.step()
        found[weight] = learned_matrix(method)
    torch.testing.assert_close(found[0.0], counted, rtol=0.0, atol=0.01)
    assert counted[RULED_OUT].min() > 0.07
    assert found[0.1][RULED_OUT].max() < 0.05  # the threshold of what is said to happen
    assert found[0.1][~RULED_OUT].min() > 0.05


def test_a_prior_that_is_right_leaves_the_network_what_it_learns_without():
    accuracy = {weight: [] for weight in (0.0, 0.3)}
    for seed in SEEDS:
        given_, inputs, truth = problem(seed, n=300)
        given_ = Problem(noisy(truth, 0.35, 0.0, seed), CLASSES, seed)
        for weight, found in accuracy.items():
            one = train(learner("masking", given_, seed, structure="pair", weight=weight), inputs, rate=0.05)
            found.append(float((one(inputs).argmax(1) == truth).float().mean()))
            assert learned_matrix(one.method)[RULED_OUT].max() < 0.05
    print(accuracy)  # shown where it fails
    assert np.mean(accuracy[0.3]) > np.mean(accuracy[0.0]) - 0.05
