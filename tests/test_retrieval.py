import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from emphasis.datasets.mars import load_mars
from emphasis.retrieval import JUNK, RANKS, evaluate_features, evaluate_ranking, mean_by_tracklet, normalized_rows


def official(similarity, person, camera, own_person, own_camera):
    """One query as the official evaluation has it, entry by entry: average precision and the CMC curve."""
    good, junk = [], []
    for entry in range(len(person)):
        if person[entry] == JUNK or (person[entry] == own_person and camera[entry] == own_camera):
            junk.append(entry)
        elif person[entry] == own_person:
            good.append(entry)
    curve = [0] * len(person)
    average, old_recall, old_precision, found, seen = 0.0, 0.0, 1.0, 0, 0
    for entry in sorted(range(len(person)), key=lambda entry: -similarity[entry]):  # stable, like MATLAB's sort
        if entry in junk:
            continue
        if entry in good:
            found += 1
            curve[seen:] = [1] * len(curve[seen:])
        recall = found / len(good) if good else math.nan
        precision = found / (seen + 1)
        average += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
        seen += 1
        if found == len(good):
            break
    return average if good else math.nan, curve


def assert_equals_official(found, similarity, query, person, camera):
    averages, curves = zip(
        *(official(row, person, camera, person[q], camera[q]) for row, q in zip(similarity, query, strict=True)),
        strict=True,
    )
    np.testing.assert_allclose(found.average_precision, averages, atol=1e-12, rtol=0)
    matched = ~np.isnan(averages)
    assert found.unmatched == np.count_nonzero(~matched)
    if matched.any():
        assert found.mean_average_precision == pytest.approx(np.mean(np.array(averages)[matched]), abs=1e-12)
        curve = np.mean(np.array(curves)[matched], axis=0)
        np.testing.assert_allclose([found.cmc(k + 1) for k in range(len(person))], curve, atol=1e-12, rtol=0)


def test_judge_is_the_official_evaluation_with_junk_distractors_ties_and_queries_without_a_match():
    seen = dict.fromkeys(("junk", "distractor", "tie", "unmatched", "several"), 0)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        size = int(rng.integers(3, 40))
        person = rng.integers(-1, rng.integers(2, 8), size)
        person[0] = 1
        camera = rng.integers(1, rng.integers(2, 5), size)
        query = rng.choice(np.flatnonzero(person > 0), min(5, np.count_nonzero(person > 0)), replace=False)
        similarity = rng.integers(0, rng.integers(2, 50), (len(query), size)) / 7  # few values: ties
        found = evaluate_ranking(similarity, person[query], camera[query], person, camera)
        assert_equals_official(found, similarity, query, person, camera)
        seen["junk"] += (person == JUNK).any()
        seen["distractor"] += (person == 0).any()
        seen["tie"] += any(len(np.unique(row)) < size for row in similarity)
        seen["unmatched"] += found.unmatched > 0
        seen["several"] += (np.unique(person[person > 0], return_counts=True)[1] > 2).any()
    assert min(seen.values()) > 50, seen


@given(st.integers(0, 2**32 - 1))
def test_what_is_passed_over_could_as_well_not_be_there(seed):
    rng = np.random.default_rng(seed)
    person, camera = rng.integers(-1, 4, 30), rng.integers(1, 4, 30)
    person[0] = 1
    similarity = rng.random((1, 30))
    whole = evaluate_ranking(similarity, [1], [2], person, camera)
    kept = (person != JUNK) & ~((person == 1) & (camera == 2))
    rest = evaluate_ranking(similarity[:, kept], [1], [2], person[kept], camera[kept])
    np.testing.assert_array_equal(whole.average_precision, rest.average_precision)
    np.testing.assert_array_equal(whole.first_match, rest.first_match)


@given(st.integers(0, 2**32 - 1))
def test_a_rising_function_of_similarity_changes_nothing_and_the_sum_of_precisions_at_matches_is_never_less(seed):
    rng = np.random.default_rng(seed)
    person, camera = rng.integers(1, 4, 30), np.where(np.arange(30) < 3, 1, 2)
    person[3] = 1
    similarity = rng.random((1, 30))
    found = evaluate_ranking(similarity, [1], [1], person, camera)
    np.testing.assert_array_equal(
        evaluate_ranking(np.exp(3 * similarity), [1], [1], person, camera).first_match, found.first_match
    )
    kept = ~((person == 1) & (camera == 1))
    other = average_precision_score(person[kept] == 1, similarity[0, kept])
    assert found.average_precision[0] <= other + 1e-12
    if found.average_precision[0] == 1.0:
        assert other == pytest.approx(1.0)


def test_a_perfect_ranking_scores_one_and_the_worst_has_the_closed_form():
    person, camera = np.array([1, 1, 1, 2, 2, 0, -1]), np.array([1, 2, 3, 2, 3, 1, 1])
    best = evaluate_ranking(np.array([[9.0, 8, 7, 1, 1, 1, 8.5]]), [1], [1], person, camera)
    assert (best.mean_average_precision, best.cmc(1)) == (1.0, 1.0)
    worst = evaluate_ranking(
        np.array([[9.0, 1, 1, 5, 5, 5, 8.5]]), [1], [1], person, camera
    )  # matches at ranks 4 and 5
    assert worst.mean_average_precision == pytest.approx(((0 / 3 + 1 / 4) / 2 + (1 / 4 + 2 / 5) / 2) / 2)
    assert [worst.cmc(k) for k in (1, 3, 4, 99)] == [0, 0, 1, 1]


def test_queries_without_a_match_are_left_out_and_counted_and_alone_they_have_no_score():
    person, camera = np.array([1, 1, 2]), np.array([1, 2, 1])
    found = evaluate_ranking(np.array([[3.0, 2, 1], [1, 2, 3]]), [1, 2], [1, 1], person, camera)
    assert (found.unmatched, found.mean_average_precision, found.cmc(1)) == (1, 1.0, 1.0)
    assert math.isnan(found.average_precision[1])
    assert found.first_match.tolist() == [1, 0]
    alone = evaluate_ranking(np.array([[1.0, 2, 3]]), [2], [1], person, camera)
    for score in (lambda: alone.mean_average_precision, lambda: alone.cmc(1)):
        with pytest.raises(ValueError, match="none of 1 queries has a match"):
            score()


def test_the_official_lists_with_planted_features(shared_data):
    """Of each of two persons' videos out of three the feature is the person's own; the rest is noise."""
    mars = load_mars(shared_data)
    person, camera, query = mars.test.person, mars.test.camera, mars.query
    rng = np.random.default_rng(0)
    known = rng.random(len(person)) < 2 / 3
    features = rng.normal(size=(len(person), 32))
    features[known] += 3 * rng.normal(size=(person.max() + 1, 32))[person[known]]
    found = evaluate_features(features, person, camera, query)
    assert found.unmatched == 0
    some = rng.choice(len(query), 20, replace=False)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for place in some:
        row = query[place]
        expected, curve = official((unit @ unit[row]).tolist(), person, camera, person[row], camera[row])
        assert found.average_precision[place] == pytest.approx(expected, abs=1e-12)
        assert found.first_match[place] == curve.index(1) + 1
    assert np.mean(found.average_precision[known[query]]) > 10 * np.mean(found.average_precision[~known[query]])
    assert all(0.3 < found.cmc(rank) < 1 for rank in RANKS)


def test_retrieve_is_judge_of_cosines_whatever_the_lengths_and_blocks_of_queries():
    rng = np.random.default_rng(1)
    person, camera = rng.integers(-1, 20, 300), rng.integers(1, 4, 300)
    query = np.flatnonzero(person > 0)[:150]
    features = rng.normal(size=(300, 8)) * np.exp(rng.normal(size=(300, 1)) * 20)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    found = evaluate_features(features, person, camera, query)
    whole = evaluate_ranking(unit[query] @ unit.T, person[query], camera[query], person, camera)
    np.testing.assert_allclose(found.average_precision, whole.average_precision, atol=1e-12, rtol=0)
    np.testing.assert_array_equal(found.first_match, whole.first_match)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_the_mean_by_tracklet_does_not_depend_on_how_the_frames_come(seed, size):
    rng = np.random.default_rng(seed)
    tracklet = np.concatenate([np.arange(7), rng.integers(0, 7, 50)])
    features = rng.normal(size=(len(tracklet), 3)).astype(np.float32)
    order = rng.permutation(len(tracklet))
    parts = [(features[order[i : i + size]], tracklet[order[i : i + size]]) for i in range(0, len(order), size)]
    expected = [features[tracklet == number].astype(np.float64).mean(axis=0) for number in range(7)]
    np.testing.assert_allclose(mean_by_tracklet(parts, 7), expected, atol=1e-14)


def test_normalised_rows_have_length_one_in_their_precision_and_zeros_stay():
    large = np.array([[3e30, 4e30], [3e-30, 4e-30], [0, 0]], np.float32)  # whose squares float32 cannot hold
    unit = normalized_rows(large)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: evaluate_ranking(np.zeros((2, 3)), [1], [1], [1, 2, 3], [1, 1, 1]),
            r"similarity \(2, 3\) .* do not match",
        ),
        (lambda: evaluate_ranking(np.zeros((1, 3)), [1], [1], [1, 2, 3], [1, 1]), "do not match"),
        (
            lambda: evaluate_ranking(np.array([[1.0, np.nan]]), [1], [1], [1, 1], [1, 2]),
            "query 0 and gallery entry 1 is NaN",
        ),
        (
            lambda: evaluate_ranking(np.zeros((1, 2)), [0], [1], [0, 0], [1, 2]),
            "query 0 has person=0; a query must show a person",
        ),
        (lambda: evaluate_ranking(np.zeros((1, 2)), [1], [1], [1, 1], [1, 2]).cmc(0), "rank=0 is not allowed"),
        (lambda: evaluate_features(np.zeros((2, 2)), [1, 1], [1, 2], []), "there are no queries"),
        (lambda: normalized_rows(np.zeros(3)), r"features of shape \(3,\)"),
        (
            lambda: normalized_rows(np.array([[1.0], [np.nan], [np.inf]])),
            "2 of 3 videos are not finite, those of video 1",
        ),
        (lambda: mean_by_tracklet([(np.zeros((2, 1)), np.array([0, 2]))], 2), "tracklet 2 is not allowed; there are 2"),
        (lambda: mean_by_tracklet([(np.zeros((2, 1)), np.array([0, -1]))], 2), "tracklet -1 is not allowed"),
        (lambda: mean_by_tracklet([(np.zeros((2, 1)), np.array([1, 1]))], 3), "2 of 3 tracklets have no frame, .* 0"),
        (lambda: mean_by_tracklet([(np.zeros((2, 1)), np.array([1]))], 2), r"features \(2, 1\) and tracklets \(1,\)"),
        (lambda: mean_by_tracklet([], 1), "1 of 1 tracklets have no frame"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
