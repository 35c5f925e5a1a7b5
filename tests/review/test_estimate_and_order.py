"""What remains, by a random sample; the order learned from answers; and the sizes that a review must bear."""

import numpy as np
import pytest

from emphasis.review.decisions import DECISIONS, DecisionLog
from emphasis.review.estimate import drawn_examples, estimate_remaining, outlook, random_sequence
from emphasis.review.examples import Examples, read_examples, write_examples
from emphasis.review.neighbors import Neighbors
from emphasis.review.order import LearnedOrder
from emphasis.review.session import Filter, ReviewSession
from emphasis.review.views import TextViews


def made_up(n, classes, rate, seed=0, features=True):
    """Examples whose score tells wrong labels only roughly, and one class pair of which none is wrong."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    suggested = (labels + 1 + rng.integers(classes - 1, size=n)) % classes
    wrong = (rng.random(n) < rate) & (labels != 0)
    score = np.where(wrong, -1.0, 1.0) + 1.2 * rng.normal(size=n) - 1.5 * (labels == 0)
    vectors = rng.normal(size=(classes, 8))[np.where(wrong, suggested, labels)] + 0.5 * rng.normal(size=(n, 8))
    examples = Examples(
        title="made up",
        class_names=tuple(f"class {c}" for c in range(classes)),
        labels=labels,
        suggested=suggested,
        suspect=score < 0,
        score=score,
        sample_weight=1 / (1 + np.exp(-score)),
        rows=np.arange(n),
        features=vectors.astype(np.float16) if features else None,
    )
    return examples, wrong


def simulated(seed, learns):
    """Return the estimate after a review of 120 of 600 examples, and what remains."""
    examples, wrong = made_up(600, 4, 0.2, seed)
    order, sequence = LearnedOrder(examples), random_sequence(600, seed)
    suspicion, reviewed, answers, draws = order.static(), np.zeros(600, bool), {}, []
    for number in range(120):
        if learns and number in (50, 90):
            assert order.can_learn(answers)
            suspicion = order.probabilities(answers)
        rest = np.where(reviewed, -1.0, suspicion)
        index = int(rest.argmax()) if number % 10 < 9 else int(sequence[~reviewed[sequence]][0])
        if number % 10 == 9:
            draws.append(index)
        reviewed[index], answers[index] = True, bool(wrong[index])
    drawn = drawn_examples(sequence, reviewed, draws)
    assert len(drawn) >= len(draws)
    remaining = estimate_remaining(suspicion, answers, drawn)
    assert remaining.unreviewed == 480
    return remaining, int(wrong[~reviewed].sum())


def test_the_estimate_is_right_in_the_mean_and_its_interval_covers_what_remains():
    results = [simulated(seed, learns=False) for seed in range(200)]
    assert np.mean([remaining.low <= truth <= remaining.high for remaining, truth in results]) >= 0.95
    counts, truths = np.array([(remaining.count, truth) for remaining, truth in results]).T
    assert abs(counts.mean() - truths.mean()) < 3 * (counts - truths).std() / 200**0.5
    learned = [simulated(seed, learns=True) for seed in range(10)]
    assert sum(remaining.low <= truth <= remaining.high for remaining, truth in learned) >= 9


def test_nothing_remains_where_all_is_reviewed_and_no_draw_is_left_out():
    assert estimate_remaining(np.zeros(3), dict.fromkeys(range(3), True), np.arange(3)).high == 0.0
    nothing_known = estimate_remaining(np.linspace(0, 1, 50), {0: True}, np.arange(0))
    assert (nothing_known.low, nothing_known.high) == (0.0, 49.0)
    sequence = np.array([3, 1, 4, 0, 2])
    reviewed = np.array([True, True, False, True, False])
    assert drawn_examples(sequence, reviewed, []).tolist() == []
    assert drawn_examples(sequence, reviewed, [1]).tolist() == [3, 1]
    assert drawn_examples(sequence, reviewed, [0]).tolist() == [3, 1]  # 4 was withdrawn


def test_answers_find_more_than_the_audits_order_and_are_calibrated():
    gains, gaps = [], []
    for seed in range(2):
        examples, wrong = made_up(1500, 5, 0.2, seed)  # the audit suspects class 0, which is never wrong
        order = LearnedOrder(examples)
        static = wrong[examples.order[:300]].sum()
        suspicion, answers = order.static(), {}
        for number in range(300):
            if number and number % 50 == 0 and order.can_learn(answers):
                suspicion = order.probabilities(answers)
            rest = suspicion.copy()
            rest[list(answers)] = -1.0
            index = int(rest.argmax())
            answers[index] = bool(wrong[index])
        gains.append(sum(answers.values()) - static)
        suspicion = order.probabilities(answers)
        unreviewed = np.setdiff1d(np.arange(1500), list(answers))
        ahead = outlook(suspicion, unreviewed, 100)
        first = unreviewed[np.argsort(-suspicion[unreviewed])[:100]]
        gaps.append(ahead.finds - wrong[first].sum())
    assert min(gains) > 10
    assert abs(np.mean(gaps)) < 15
    assert not order.can_learn(dict.fromkeys(range(100), True))


def test_examples_are_read_as_written_and_damage_is_named(tmp_path):
    examples, _ = made_up(30, 3, 0.2)
    write_examples(examples, tmp_path)
    read = read_examples(tmp_path)
    assert np.array_equal(read.order, examples.order)
    assert np.array_equal(read.features, examples.features)
    manifest = tmp_path / "examples.json"
    good = manifest.read_text()
    for bad in (good[:40], "[]", good.replace('"format": 1', '"format": 9'), good.replace('"class 2"', "3")):
        manifest.write_text(bad)
        with pytest.raises(ValueError, match=r"examples\.json"):
            read_examples(tmp_path)
    manifest.write_text(good)
    (tmp_path / "examples.npz").write_bytes(b"other")
    with pytest.raises(ValueError, match="run the audit again"):
        read_examples(tmp_path)
    with pytest.raises(FileNotFoundError, match="run emphasis audit"):
        read_examples(tmp_path / "nowhere")


def test_a_hundred_thousand_suspects_of_a_thousand_classes(tmp_path):
    examples, _ = made_up(100_000, 1000, 0.9, features=False)
    session = ReviewSession(examples, TextViews(examples.keys), DecisionLog(tmp_path / DECISIONS))
    assert session.next_example("ada") == examples.order[0]
    session.decide("ada", [int(examples.order[0])], "suggestion")
    second = session.next_example("bob")
    assert second == examples.order[1] or second == examples.order[0]  # shown to both, to compare them
    chosen = Filter(given=7, query="77", suspects=True)
    matching = session.matching("ada", chosen)
    keys = np.array(examples.keys)[matching]
    assert len(matching)
    assert all("77" in key for key in keys)
    assert set(examples.labels[matching]) == {7}
    assert session.summary()["remaining"]["unreviewed"] == 99_999


def test_neighbors_are_the_nearest_of_a_class_without_suspects():
    examples, _ = made_up(400, 3, 0.2)
    neighbors = Neighbors(examples)
    vectors = np.asarray(examples.features, dtype=np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for index in (0, 17, 399):
        for label in range(3):
            candidates = np.flatnonzero((examples.labels == label) & ~examples.suspect)
            candidates = candidates[candidates != index]
            expected = candidates[np.argsort(-(vectors[candidates] @ vectors[index]))[:5]]
            assert set(neighbors.nearest(index, label)) == set(expected.tolist())
    indices, _ = neighbors.table
    assert not (indices == np.arange(400)[:, None]).any()
    assert Neighbors(made_up(50, 3, 0.2, features=False)[0]).nearest(0, 1) == []
