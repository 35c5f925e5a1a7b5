"""decisions.jsonl: nothing that was saved is lost, reviewers agree or not, and labels come out as decided."""

import json
import math
import signal
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from decided import decided
from emphasis.errors import EmphasisFileNotFoundError
from emphasis.json_files import JSONFileError
from emphasis.review.decisions import DECISIONS, Decision, DecisionLog, Decisions, decision_from_dict


def test_a_file_that_was_cut_off_anywhere_keeps_its_complete_lines_and_goes_on(tmp_path):
    log = DecisionLog(tmp_path / DECISIONS)
    log.append([decided("a", "bee"), decided("b", "ant", comment="zwei\nZeilen \u2028 \udcff")])
    whole = log.path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in (*range(first, len(whole), 37), len(whole) - 1):
        log.path.write_bytes(whole[:length])
        assert [one.example for one in Decisions.read(log.path)] == ["a"]
        DecisionLog(log.path).append([decided("c", "bee")])
        assert [one.example for one in Decisions.read(log.path)] == ["a", "c"]
    log.path.write_bytes(whole[: first // 2])
    DecisionLog(log.path).append([decided("c", "bee")])
    assert [one.example for one in Decisions.read(log.path)] == ["c"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    log = DecisionLog(tmp_path / DECISIONS)
    log.append([decided("a", "bee")])
    good = log.path.read_bytes()
    for bad in (b"{", b"[]", b"{}", b"[" * 100_000, good.replace(b'"other"', b'"burn"').rstrip(), b"\xff\xfe"):
        log.path.write_bytes(good + bad + b"\n" + good)
        with pytest.raises(JSONFileError, match="line 2"):
            Decisions.read(log.path)
    with pytest.raises(EmphasisFileNotFoundError):
        Decisions.read(tmp_path / "nowhere.jsonl")


def test_another_process_is_followed_and_two_that_write_at_once_lose_nothing(tmp_path):
    path = tmp_path / DECISIONS
    program = (
        "import sys; from pathlib import Path; from emphasis.review.decisions import Decision, DecisionLog\n"
        "log = DecisionLog(Path(sys.argv[1]))\n"
        "for number in range(40):\n"
        "    log.append([Decision(example=str(number), action='keep', before='x', after='x', reviewer=sys.argv[2])])\n"
        "    print(number, flush=True)"
    )
    log, seen = DecisionLog(path), []
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", program, path, name], stdout=subprocess.PIPE, text=True)
            )
            for name in ("ada", "bob")
        )
        for said in first.stdout:  # each decision that is reported as saved is in the file
            seen += log.refresh()
            assert said.strip() in {one.example for one in seen if one.reviewer == "ada"}
        second.stdout.read()
    assert first.returncode == second.returncode == 0
    seen += log.refresh()
    assert sorted((one.reviewer, int(one.example)) for one in seen) == [
        (name, number) for name in ("ada", "bob") for number in range(40)
    ]


def test_a_writer_that_is_killed_leaves_what_it_reported(tmp_path):
    path = tmp_path / DECISIONS
    program = (
        "import itertools, sys; from pathlib import Path; from emphasis.review.decisions import Decision, DecisionLog\n"
        "log = DecisionLog(Path(sys.argv[1]))\n"
        "for number in itertools.count(int(sys.argv[2])):\n"
        "    log.append([Decision(example=str(number), action='keep', before='x', after='x')])\n"
        "    print(number, flush=True)"
    )
    reported = -1
    for _ in range(3):
        command = [sys.executable, "-c", program, path, str(reported + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(20):
                reported = int(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().split()
        reported = int(rest[-1]) if rest else reported
        assert process.returncode == -signal.SIGKILL
        assert {int(one.example) for one in Decisions.read(path)} >= set(range(reported + 1))


def test_the_latest_decision_counts_and_the_majority_decides():
    decisions = Decisions(
        [
            decided("a", "bee"), decided("a", "ant"),
            decided("b", "bee"), decided("b", "bee", reviewer="bob"), decided("b", "cat", reviewer="cyd"),
            decided("c", "bee"), decided("c", "cat", reviewer="bob"),
            decided("d", ""), decided("d", "bee", reviewer="bob"),
            decided("e", ""),
            decided("f", "bee"), Decision(example="f", action="withdraw", before="ant", after="", reviewer="ada"),
            decided("g", "bee"), decided("g", "cat", reviewer="bob"), decided("g", "cat", reviewer="ada", settles=True),
        ]
    )  # fmt: skip
    outcomes = {key: (outcome.label, outcome.status) for key, outcome in decisions.outcomes().items()}
    assert outcomes == {
        "a": ("ant", "confirmed"),
        "b": ("bee", "corrected"),
        "c": ("ant", "disputed"),
        "d": ("bee", "corrected"),
        "e": ("ant", "unsure"),
        "g": ("cat", "corrected"),
    }
    labels, weight = decisions.apply(list("abcdefz"), ["ant"] * 7, trust=3.0)
    assert labels == ["ant", "bee", "ant", "bee", "ant", "ant", "ant"]
    assert weight.tolist() == [3, 3, 1, 3, 1, 1, 1]
    with pytest.raises(ValueError, match="about other data"):
        decisions.apply(["a"], ["dog"])
    assert decisions.apply(["b"], ["bee"])[0] == ["bee"]  # applied already


def test_kappa_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    first = rng.integers(3, size=200)
    second = np.where(rng.random(200) < 0.3, rng.integers(3, size=200), first)
    names = ("ant", "bee", "")
    decisions = Decisions(
        [
            decided(str(index), names[answer], reviewer=who)
            for who, answers in (("ada", first), ("bob", second))
            for index, answer in enumerate(answers)
        ]
    )
    (pair,) = decisions.agree()
    assert pair.kappa == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    assert pair.both == 200
    assert pair.observed == pytest.approx((first == second).mean())
    assert pair.disagreements == tuple(map(str, np.flatnonzero(first != second)))
    same = Decisions([decided("a", "ant"), decided("a", "ant", reviewer="bob")]).agree()[0]
    assert math.isnan(same.kappa)
    assert Decisions([decided("a", "ant"), decided("b", "ant", reviewer="bob")]).agree()[0].both == 0


def test_files_of_several_reviewers_are_merged_by_time(tmp_path):
    for name, time in (("ada", "2026-01-02"), ("bob", "2026-01-01")):
        DecisionLog(tmp_path / f"{name}.jsonl").append([decided("a", "bee", reviewer=name, time=time)])
    merged = Decisions.read(tmp_path / "ada.jsonl", tmp_path / "bob.jsonl", tmp_path / "ada.jsonl")
    assert [one.reviewer for one in merged] == ["bob", "ada"]
    assert merged.to_frame()["after"].tolist() == ["bee", "bee"]
    assert isinstance(merged[:1], Decisions)


@pytest.mark.parametrize("change", [{"example": 3}, {"drawn": "yes"}, {"action": "burn"}, {"comment": "x" * 20_000}])
def test_a_decision_of_a_wrong_kind_is_refused(change):
    record = {"example": "a", "action": "keep", "before": "x", "after": "x", "unknown": [1]}
    assert decision_from_dict(json.loads(json.dumps(record))).reviewer == ""
    with pytest.raises(ValueError, match=next(iter(change))):
        decision_from_dict(record | change)
