"""Suspects: the ranking is by the mean margin, whatever was not seen, and planted mistakes are found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emphasis.diagnostics.plots.audit import emphasis_by_evaluation, score_figure, training_figure
from emphasis.diagnostics.suspects import find_suspects, margin_of, precision_recall
from emphasis.weighting import DM, Uniform

C = 4


def planted(seed, n=80, looks=6, rate=0.25):
    """Return margins and predictions of a network that prefers the true class, labels, and which are wrong."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, C, n)
    wrong = rng.random(n) < rate
    labels = np.where(wrong, (true + rng.integers(1, C, n)) % C, true)
    margins = np.where(wrong, -3.0, 3.0) + rng.normal(size=(looks, n))
    predicted = np.where(rng.random((looks, n)) < 0.8, true, rng.integers(0, C, (looks, n)))
    predicted[: looks // 2 + 1] = true  # the majority
    return margins.astype(np.float16), predicted, labels, wrong, true


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_planted_mistakes_are_the_suspects_and_the_true_class_is_suggested(seed):
    margins, predicted, labels, wrong, true = planted(seed)
    found = find_suspects(margins, predicted, labels, C)
    assert np.array_equal(found.suspect, wrong)
    assert (found.suggested[wrong] == true[wrong]).all()
    assert found.noise_rate == pytest.approx(wrong.mean())
    assert np.array_equal(np.sort(found.order), np.arange(len(labels)))
    assert (np.diff(found.score[found.order]) >= 0.0).all()
    assert wrong[found.order[: wrong.sum()]].all()
    np.testing.assert_allclose(found.sample_weight, 1.0 / (1.0 + np.exp(-found.score)))


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_looks_at_which_an_example_was_not_seen_count_for_nothing(seed):
    margins, predicted, labels, _, _ = planted(seed)
    rng = np.random.default_rng(seed + 1)
    unseen = rng.random(margins.shape) < 0.4
    unseen[0] = False
    holes = np.where(unseen, np.nan, margins)
    junk = np.where(unseen, rng.integers(0, C, margins.shape), predicted)
    found = find_suspects(holes, junk, labels, C)
    np.testing.assert_allclose(found.score, np.nanmean(holes.astype(np.float64), 0))
    for example in range(0, len(labels), 7):
        own = predicted[~unseen[:, example], example]
        others = own[own != labels[example]]
        counts = np.bincount(others, minlength=C)
        assert found.suggested[example] == (counts.argmax() if len(others) else labels[example])
        assert found.suspect[example] == (counts.max(initial=0) > (own == labels[example]).sum())


def test_a_label_that_no_other_outvotes_is_no_suspect_however_low_its_score():
    margins = [np.full(3, -1.0)] * 3
    predicted = [np.array([2, 0, 0]), np.array([2, 0, 2]), np.array([2, 2, 2])]
    found = find_suspects(margins, predicted, np.array([2, 2, 2]), C)
    assert found.suspect.tolist() == [False, True, False]
    assert found.suggested.tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    ("margins", "predicted", "said"),
    [
        ([], [], "one at least"),
        ([np.zeros(3)], [], "as many rows"),
        ([np.zeros(2)], [np.zeros(2, int)], "3 labels"),
        ([np.array([0.0, np.inf, 0.0])], [np.zeros(3, int)], "a margin is infinite"),
        ([np.zeros(3)], [np.array([0, C, 0])], r"the class 4 was predicted; classes are in \[0, 4\)"),
        ([np.zeros(3)], [np.array([0, -1, 0])], "the class -1 was predicted"),
        ([np.array([0.0, np.nan, 0.0])], [np.zeros(3, int)], "1 of 3 examples were never seen, the first of them 1"),
    ],
)
def test_what_does_not_fit_together_is_said(margins, predicted, said):
    with pytest.raises(ValueError, match=said):
        find_suspects(margins, predicted, np.array([0, 1, 2]), C)


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=20))
def test_margins_of_probabilities_rise_and_are_finite(values):
    p = np.sort(np.array(values, dtype=np.float16))
    margin = margin_of(p)
    assert np.isfinite(margin).all()
    assert (np.diff(margin) >= 0.0).all()
    inside = (p > 1e-6) & (p < 0.999)
    np.testing.assert_allclose(1.0 / (1.0 + np.exp(-margin[inside])), p[inside].astype(np.float64), rtol=1e-3)


def test_no_labels_at_all_are_refused():
    with pytest.raises(ValueError, match="no labels to rank"):
        find_suspects([np.zeros(0)], [np.zeros(0, int)], np.zeros(0, int), C)


def test_precision_and_recall():
    suspect, wrong = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 1], bool)
    assert precision_recall(suspect, wrong) == (0.5, pytest.approx(1 / 3))
    assert np.isnan(precision_recall(np.zeros(4, bool), wrong)[0])
    assert np.isnan(precision_recall(suspect, np.zeros(4, bool))[1])


def test_emphasis_by_evaluation_is_the_weights_share_and_the_effective_sample_size():
    rng = np.random.default_rng(0)
    margins = rng.normal(size=(5, 200)) * 4
    subset = rng.random(200) < 0.3
    margins[2, :50] = np.nan
    w = DM(lam=0.5, beta=8)
    shares, effective = emphasis_by_evaluation(margins, subset, w)
    for row, share, size in zip(margins, shares, effective, strict=True):
        seen = ~np.isnan(row)
        weight = w(1.0 / (1.0 + np.exp(-row[seen])))
        assert share == pytest.approx(weight[subset[seen]].sum() / weight.sum(), rel=1e-9)
        assert size == pytest.approx(weight.sum() ** 2 / (weight**2).sum() / seen.sum(), rel=1e-9)
    flat_shares, flat = emphasis_by_evaluation(margins[:1], subset, Uniform())
    assert flat_shares[0] == pytest.approx(subset.mean())
    assert flat[0] == pytest.approx(1.0)
    none, nothing = emphasis_by_evaluation(np.full((1, 200), 30.0), subset, w)  # beyond the largest margin
    assert (none[0], nothing[0]) == (0.0, 0.0)


def test_figures_have_a_stack_for_each_group_and_a_panel_for_the_emphasis():
    margins, predicted, labels, wrong, _ = planted(1)
    found = find_suspects(margins, predicted, labels, C)
    figure = score_figure(found.score, {"others": ~wrong, "suspects": wrong})
    heights = [sum(bar.get_height() for bar in bars) for bars in figure.axes[0].containers]
    assert heights == [(~wrong).sum(), wrong.sum()]
    assert len(training_figure(range(6), margins, wrong, DM()).axes) == 2
    assert len(training_figure(range(6), margins, wrong, None).axes) == 1
    assert len(training_figure(range(6), margins, np.zeros(80, bool), DM()).axes[0].lines) == 1
