"""What a review finds, simulated with the true labels as the reviewer, and how well it estimates what remains.

Each task is a table with wrong labels that `emphasis audit` ranks. Then a reviewer looks at 5, 10 and 20 % of it,

    static         in the audit's order
    learned        in the order that is learned anew after every 25 decisions
    with draws     in the learned order, every tenth example drawn at random: what the page does
    confident      in confident learning's order, by out-of-fold probabilities of a network with cross-entropy
    random         in random order

and what the page estimates to remain is compared with what does remain: in 200 further reviews of the audits of seed 0
(`--intervals`), most of them in the audit's order, which takes less time.

    python benchmarks/review.py --data DATA [--seeds 3] [--tasks digits wine ...]
    python benchmarks/review.py --data DATA --intervals

Resumable: a line of results/review.jsonl for each task and seed, or of results/review_intervals.jsonl for each review,
and one file of each audit in runs/review. One core.
Needs the extras `experiments`, `sklearn`, `table` and `review`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lines import add_lines, read_lines
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

import emphasis
from emphasis import CCE
from emphasis.corruption import symmetric
from emphasis.datasets import load
from emphasis.experiments.runs.provenance import revision
from emphasis.experiments.studies.label_audit import audit_predictions
from emphasis.review.estimate import SHARE, drawn_examples, estimate_remaining, random_sequence
from emphasis.review.examples import Examples, read_examples
from emphasis.review.order import LearnedOrder
from emphasis.review.session import RELEARN_EVERY
from emphasis.sklearn import EmphasisClassifier

SHARES = (0.05, 0.1, 0.2)
REVIEWS = 2  # with draws, for each task and seed; 12 to 40 in the first results
INTERVALS = {"digits": (60, 4), "wine": (50, 6), "mnist": (50, 6), "clinc150": (40, 20)}  # reviews; every which learns
Data = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]  # inputs, true and given labels


def digits(_: Path, seed: int) -> Data:
    split = load("digits")
    return split.train_inputs, split.train_labels, symmetric(split.train_labels, 0.2, num_classes=10, seed=seed).labels


def wine(data: Path, seed: int) -> Data:
    frame = pd.read_csv(data / "wine_quality_white.csv")
    names, codes = np.unique(frame.pop("class"), return_inverse=True)
    return frame.to_numpy(), codes, symmetric(codes, 0.1, num_classes=len(names), seed=seed).labels


def mnist(data: Path, seed: int) -> Data:
    split = load("mnist", data)
    chosen = np.random.default_rng(0).permutation(len(split.train_labels))[:4000]
    x = PCA(64, random_state=0).fit_transform(split.train_inputs[chosen].reshape(4000, -1) / 255.0)
    y = split.train_labels[chosen]
    return x, y, symmetric(y, 0.2, num_classes=10, seed=seed).labels


def clinc150(data: Path, seed: int) -> Data:
    frame = pd.read_csv(data / "clinc150.csv")
    frame = frame[frame["split"] == "train"].groupby("intent").head(40)
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit_transform(frame["text"])
    x = TruncatedSVD(100, random_state=0).fit_transform(words)
    names, codes = np.unique(frame["intent"], return_inverse=True)
    return x, codes, symmetric(codes, 0.2, num_classes=len(names), seed=seed).labels


def cifar10n(data: Path, seed: int) -> Data:
    split = load("cifar10", data, human_labels=True)
    chosen = np.random.default_rng(seed).permutation(len(split.train_labels))[:10_000]
    x = PCA(128, random_state=0).fit_transform(split.train_inputs[chosen].reshape(10_000, -1) / 255.0)
    return x, split.train_labels[chosen], split.human_labels["worse_label"][chosen]


TASKS: dict[str, Callable[[Path, int], Data]] = {
    "digits": digits,
    "wine": wine,
    "mnist": mnist,
    "clinc150": clinc150,
    "cifar10n": cifar10n,
}


def audited(name: str, seed: int, options: argparse.Namespace) -> tuple[Examples, Any, Any]:
    """Return the audit of a task, which labels are wrong, and confident learning's order."""
    folder = options.runs / f"{name}-{seed}"
    x, true, given = TASKS[name](options.data, seed)
    file = folder / "order.npy"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"x{i}" for i in range(x.shape[1])]
        frame = pd.DataFrame(np.asarray(x, dtype=np.float32), columns=names).assign(
            label=[f"class {code:03d}" for code in given]
        )
        frame.to_parquet(folder / "table.parquet")
        emphasis.audit(folder / "table.parquet", label="label", keep=names, folder=folder / "audit", accelerator="cpu")
        np.save(file, confident_order(x, given, seed))
    examples = read_examples(folder / "audit")
    assert np.array_equal(examples.rows, np.arange(len(given)))
    return examples, true != given, np.load(file)


def confident_order(x: Any, given: Any, seed: int) -> Any:
    """Return confident learning's order by a cross-validated network with cross-entropy: suspects first."""
    p = np.empty((len(given), len(np.unique(given))))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(x, given):
        scaler = StandardScaler().fit(x[train])
        network = EmphasisClassifier(CCE(), random_state=seed).fit(scaler.transform(x[train]), given[train])
        p[test] = network.predict_proba(scaler.transform(x[test]))
    confident = audit_predictions(given, p)
    return np.lexsort((p[np.arange(len(given)), given], ~confident.suspects.suspect))


def review(
    order: LearnedOrder, wrong: Any, budget: int, sequence: Any, *, learns: bool, draws: bool
) -> tuple[Any, list[dict[str, Any]]]:
    """Return the number of errors found after each decision, and the estimates at 5, 10 and 20 %."""
    n = len(wrong)
    suspicion, reviewed, answers = order.static(), np.zeros(n, dtype=bool), {}
    queue, place, next_draw, drawn, found, estimates = np.argsort(-suspicion, kind="stable"), 0, 0, [], [], []
    for number in range(budget):
        if learns and number and number % RELEARN_EVERY == 0 and order.can_learn(answers):
            suspicion = order.probabilities(answers)
            queue, place = np.argsort(-suspicion, kind="stable"), 0
        while reviewed[queue[place]]:
            place += 1
        index = int(queue[place])
        if draws and number % SHARE == SHARE - 1:
            while reviewed[sequence[next_draw]]:
                next_draw += 1
            index = int(sequence[next_draw])
            drawn.append(index)
        reviewed[index], answers[index] = True, bool(wrong[index])
        found.append(answers[index])
        if draws and number + 1 in [round(share * n) for share in SHARES]:
            rest = estimate_remaining(suspicion, answers, drawn_examples(sequence, reviewed, drawn))
            truth = int(wrong[~reviewed].sum())
            estimates.append({**vars(rest), "truth": truth, "covered": bool(rest.low <= truth <= rest.high)})
    return np.cumsum(found), estimates


def simulate(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    began = time.process_time()
    examples, wrong, confident = audited(name, seed, options)
    order, n = LearnedOrder(examples), len(wrong)
    at = [round(share * n) for share in SHARES]
    sequence = random_sequence(n, seed)
    found = {
        "static": review(order, wrong, at[-1], sequence, learns=False, draws=False)[0],
        "learned": review(order, wrong, at[-1], sequence, learns=True, draws=False)[0],
        "confident": np.cumsum(wrong[confident[: at[-1]]]),
        "random": np.cumsum(wrong[sequence[: at[-1]]]),
    }
    estimates, drawn = [], []
    for number in range(REVIEWS):
        sequence = random_sequence(n, 1000 * seed + number)
        counts, of_review = review(order, wrong, at[-1], sequence, learns=number % 2 == 0, draws=True)
        estimates.append(of_review)
        if number % 2 == 0:
            drawn.append(counts)
    found["with draws"] = np.mean(drawn, axis=0)
    return {
        "examples": n,
        "wrong": int(wrong.sum()),
        "at": at,
        "found": {method: [float(counts[k - 1]) for k in at] for method, counts in found.items()},
        "estimates": estimates,
        "cpu_seconds": round(time.process_time() - began, 1),
        "revision": revision(),
    }


@cache
def first_audit(name: str, data: Path, runs: Path) -> tuple[LearnedOrder, Any]:
    """Return the order of the audit of seed 0, and which labels are wrong."""
    examples, wrong, _ = audited(name, 0, argparse.Namespace(data=data, runs=runs))
    return LearnedOrder(examples), wrong


def simulate_interval(name: str, number: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the estimates of one review of the audit of seed 0."""
    order, wrong = first_audit(name, options.data, options.runs)
    learns, n = number % INTERVALS[name][1] == 0, len(wrong)
    sequence = random_sequence(n, 77_000 + number)
    return {
        "learned": learns,
        "estimates": review(order, wrong, round(SHARES[-1] * n), sequence, learns=learns, draws=True)[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/review"))
    parser.add_argument("--out", type=Path, default=Path("results/review.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--intervals", action="store_true", help="simulate reviews for the interval alone")
    options = parser.parse_args()
    if options.intervals:
        out = options.out.with_name("review_intervals.jsonl")
        cells = [{"task": name, "review": k} for name, (count, _) in INTERVALS.items() for k in range(count)]
        for _ in add_lines(out, cells, lambda cell: simulate_interval(cell["task"], cell["review"], options)):
            pass
        report_coverage([line["estimates"] for line in read_lines(out)])
        return
    cells = [{"task": name, "seed": seed} for seed in range(options.seeds) for name in options.tasks]
    for result in add_lines(options.out, cells, lambda cell: simulate(cell["task"], cell["seed"], options)):
        print(result["task"], result["seed"], result["found"], result["cpu_seconds"], "s", flush=True)
    report(read_lines(options.out))


def report(results: list[dict[str, Any]]) -> None:
    """Print the share of all errors that is found, and how often the interval covers what remains."""
    for name in TASKS:
        of_task = [result for result in results if result["task"] == name]
        if not of_task:
            continue
        print(f"{name}: {len(of_task)} seeds, {of_task[0]['examples']:,} examples")
        for method in of_task[0]["found"]:
            shares = 100 * np.array([np.array(r["found"][method]) / r["wrong"] for r in of_task])
            cells = [f"{m:.1f} +- {s:.1f}" for m, s in zip(shares.mean(0), shares.std(0, ddof=1), strict=True)]
            print(f"  {method:12} {'  '.join(cells)} % of the errors")
    report_coverage([of_review for result in results for of_review in result["estimates"]])


def report_coverage(reviews: list[list[dict[str, Any]]]) -> None:
    """Print how often the interval covers what remains."""
    for place, share in enumerate(SHARES):
        covered = [of_review[place]["covered"] for of_review in reviews]
        print(f"after {100 * share:g} %: {sum(covered)} of {len(covered)} reviews' intervals cover the truth")


if __name__ == "__main__":
    main()
