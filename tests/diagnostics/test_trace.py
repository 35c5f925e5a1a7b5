"""EmphasisTrace: what it writes is what the loss did, and a trace that was cut off goes on."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from emphasis.diagnostics.trace import EmphasisTrace, TraceError, read_trace
from emphasis.torch import EmphasisLoss
from emphasis.weighting import CCE, DM

N, C, BATCH = 50, 3, 16
W = DM(lam=0.5, beta=8)


def batches(seed=0, epochs=2):
    """Yield indices, logits and labels as a loop would."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, C, (N,), generator=generator)
    for _ in range(epochs):
        for rows in torch.randperm(N, generator=generator).split(BATCH):
            yield rows, 5.0 * torch.randn(len(rows), C, generator=generator), labels[rows]


def expected_p(logits, labels):
    return logits.double().softmax(1).gather(1, labels[:, None])[:, 0].numpy()


@pytest.mark.parametrize("weighting", [W, EmphasisLoss(W, normalization="batch")], ids=["weighting", "criterion"])
def test_rows_hold_margins_shares_and_predictions_of_every_example(tmp_path, weighting):
    subset = np.arange(N) < 20
    with EmphasisTrace(tmp_path, N, weighting, subsets={"first": subset}) as trace:
        for batch in batches():
            trace.record(*batch)
    read = read_trace(tmp_path)
    assert (read.about["rows"], read.about["num_classes"], trace.rows) == (2, C, 2)
    assert isinstance(read.margins[0], np.memmap)
    steps = []
    for number, (rows, logits, labels) in enumerate(batches()):
        row = number // 4
        p, at = expected_p(logits, labels), rows.numpy()
        np.testing.assert_allclose(1.0 / (1.0 + np.exp(-read.margins[row][at].astype(float))), p, rtol=0.01, atol=1e-6)
        weight = W(p)
        np.testing.assert_allclose(read.shares[row][at], weight / weight.mean(), rtol=2e-3)
        assert np.array_equal(read.predicted[row][at], logits.argmax(1).numpy())
        assert np.array_equal(read.labels[at], labels.numpy())
        inside = subset[at]
        steps.append(
            [
                weight.sum() ** 2 / (weight**2).sum() / len(at),
                weight.mean(),
                W.emphasis_variance(p),
                weight[inside].sum() / weight.sum(),
                inside.mean(),
            ]
        )
    assert read.columns == ["effective_share", "mean_weight", "emphasis_variance", "share of first", "part of first"]
    np.testing.assert_allclose(read.steps, steps, rtol=2e-4)


def test_recording_changes_neither_loss_nor_derivative_nor_random_numbers(tmp_path):
    _, logits, labels = next(batches())
    logits.requires_grad_()
    before, state = logits.detach().clone(), torch.random.get_rng_state()
    loss = EmphasisLoss(W)(logits, labels)
    EmphasisTrace(tmp_path, N, W).record(torch.arange(BATCH), logits, labels)
    loss.backward()
    assert torch.equal(logits.detach(), before)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = before.clone().requires_grad_()
    EmphasisLoss(W)(other, labels).backward()
    assert torch.equal(logits.grad, other.grad)


def test_what_was_not_seen_is_nan_and_ignored_labels_count_for_nothing(tmp_path):
    with EmphasisTrace(tmp_path, N, W) as trace:
        trace.record(torch.arange(4), torch.eye(4, C), torch.tensor([0, -100, 2, 0]))
    read = read_trace(tmp_path)
    assert np.flatnonzero(~np.isnan(read.margins[0])).tolist() == [0, 2, 3]
    assert read.labels[:5].tolist() == [0, -100, 2, 0, -100]
    p = expected_p(torch.eye(4, C)[[0, 2, 3]], torch.tensor([0, 2, 0]))
    assert read.steps[0, 1] == pytest.approx(W(p).mean(), rel=1e-5)
    assert read.shares[0][[0, 2, 3]] == pytest.approx(W(p) / W(p).mean(), rel=2e-3)


def test_a_batch_without_emphasis_is_0_and_not_nan(tmp_path):
    with EmphasisTrace(tmp_path, 2, W) as trace:
        trace.record(torch.arange(2), torch.tensor([[50.0, 0.0], [0.0, 60.0]]), torch.tensor([0, 1]))
    read = read_trace(tmp_path)
    assert read.steps.tolist() == [[0.0, 0.0, 0.0]]
    assert read.shares[0].tolist() == [0.0, 0.0]


def test_one_logit_is_the_binary_form(tmp_path):
    z, labels = torch.tensor([1.5, -2.0]), torch.tensor([1, 0])
    with EmphasisTrace(tmp_path, 2, CCE()) as trace:
        trace.record(torch.arange(2), z, labels)
    assert read_trace(tmp_path).margins[0].tolist() == [1.5, 2.0]


def test_a_trace_goes_on_after_its_last_whole_row(tmp_path):
    done = list(batches(epochs=3))
    with EmphasisTrace(tmp_path / "whole", N, W) as whole:
        for batch in done:
            whole.record(*batch)
    killed = EmphasisTrace(tmp_path / "cut", N, W)
    for batch in done[:6]:
        killed.record(*batch)  # one row and a half
    (tmp_path / "cut" / "margin-00001.npy").write_bytes(b"half a file")  # as if it had been killed while writing
    assert read_trace(tmp_path / "cut").about["rows"] == 1
    with EmphasisTrace(tmp_path / "cut", N, W, resume=True) as again:
        for batch in done[4:]:
            again.record(*batch)
    one, other = read_trace(tmp_path / "whole"), read_trace(tmp_path / "cut")
    assert np.array_equal(np.stack(one.margins), np.stack(other.margins))
    assert np.array_equal(one.steps, other.steps)
    assert np.array_equal(one.labels, other.labels)


def test_class_and_sample_weights_are_part_of_the_weights_and_ignored_labels_are_the_criterions(tmp_path):
    rows, logits, labels = next(batches())
    labels[3] = -1
    criterion = EmphasisLoss(W, class_weight=torch.tensor([1.0, 10.0, 0.0]), ignore_index=-1)
    with EmphasisTrace(tmp_path, N, criterion) as trace:
        trace.record(rows.numpy(), logits, labels, sample_weight=1.0 + rows)
    read = read_trace(tmp_path)
    valid = (labels != -1).numpy()
    own = torch.tensor([1.0, 10.0, 0.0])[labels.clamp(min=0)].numpy() * (1.0 + rows.numpy())
    weight = (W(expected_p(logits, labels.clamp(min=0))) * own)[valid]
    np.testing.assert_allclose(read.shares[0][rows.numpy()][valid], weight / weight.mean(), rtol=2e-3)
    assert np.isnan(read.shares[0][rows.numpy()][~valid]).all()
    assert read.steps[0, 0] == pytest.approx(weight.sum() ** 2 / (weight**2).sum() / valid.sum(), rel=1e-4)


def test_an_epoch_that_leaves_examples_out_is_a_row_once_it_is_ended(tmp_path):
    generator = torch.Generator().manual_seed(0)
    with EmphasisTrace(tmp_path, N, W) as trace:
        for _ in range(3):
            for rows in torch.randperm(N, generator=generator).split(BATCH)[:-1]:  # drop_last
                trace.record(rows, torch.randn(len(rows), C, generator=generator), rows % C)
            trace.end_row()
            trace.end_row()  # of nothing: no row
    read = read_trace(tmp_path)
    assert [int(np.isfinite(row).sum()) for row in read.margins] == [48, 48, 48]


def test_what_cannot_be_is_refused(tmp_path):
    trace = EmphasisTrace(tmp_path / "t", N, W)
    rows, logits, labels = next(batches())
    for indices, said in ((rows + N, "indices reach from"), (rows - N, "indices reach from")):
        with pytest.raises(ValueError, match=said):
            trace.record(indices, logits, labels)
    with pytest.raises(ValueError, match="label 7 is not in"):
        trace.record(rows, logits, torch.full_like(labels, 7))
    with pytest.raises(ValueError, match="are NaN or infinite; the network has diverged"):
        trace.record(rows, torch.full_like(logits, torch.nan), labels)
    with pytest.raises(ValueError, match=r"need indices \(N,\)"):
        trace.record(rows[:-1], logits, labels)
    with pytest.raises(ValueError, match="num_examples=0"):
        EmphasisTrace(tmp_path / "u", 0, W)
    with pytest.raises(ValueError, match=r"subset 'odd' has shape \(3,\)"):
        EmphasisTrace(tmp_path / "u", N, W, subsets={"odd": [True, False, True]})
    trace.record(rows, logits, labels)
    trace.close()
    with pytest.raises(TraceError, match="holds a trace already"):
        EmphasisTrace(tmp_path / "t", N, W)
    with pytest.raises(TraceError, match="with num_examples = 50, not 51"):
        EmphasisTrace(tmp_path / "t", N + 1, W, resume=True)
    with pytest.raises(TraceError, match=r"with weighting = .*CCE"):
        EmphasisTrace(tmp_path / "t", N, CCE(), resume=True)
    again = EmphasisTrace(tmp_path / "t", N, W, resume=True)
    for _ in range(2):  # nothing of what was refused remains
        with pytest.raises(ValueError, match="logits of 2 classes, but the rows before are of 3"):
            again.record(rows, logits[:, :2], labels % 2)
    with pytest.raises(ValueError, match="must be integers"):
        again.record(rows, logits, labels.float())


def test_damage_is_named(tmp_path):
    with pytest.raises(TraceError, match="holds no trace"):
        read_trace(tmp_path)
    with EmphasisTrace(tmp_path, N, lambda p: 1.0 - p) as trace:  # a function that no file can name
        for batch in batches(epochs=1):
            trace.record(*batch)
    about = tmp_path / "trace.json"
    assert isinstance(json.loads(about.read_text())["weighting"], str)
    path = tmp_path / "margin-00000.npy"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(TraceError, match=r"margin-00000\.npy cannot be read"):
        _ = read_trace(tmp_path).margins
    about.write_text(about.read_text()[:20])
    with pytest.raises(TraceError, match=r"trace\.json: not valid JSON"):
        read_trace(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 9}, r"is of format 9, this version reads 1"),
        ({"num_classes": 10**9}, "'num_classes' is missing or invalid"),
        ({"rows": True}, "'rows' is missing"),
        ({"columns": [1]}, "'columns' is missing"),
        ({"weighting": None}, "'weighting' is missing"),
        ({"num_examples": N + 1}, r"margin-00000\.npy does not match trace\.json"),
        ({"rows": 2}, r"margin-00001\.npy cannot be read"),
        ({"columns": ["a"]}, r"steps-00000\.npy does not match trace\.json"),
        ({"num_classes": 2}, r"labels\.npy holds the label 2"),
    ],
)
def test_a_trace_that_contradicts_itself_is_named(change, said, tmp_path):
    with EmphasisTrace(tmp_path, N, W) as trace:
        for batch in batches(epochs=1):
            trace.record(*batch)
    about = json.loads((tmp_path / "trace.json").read_text())
    (tmp_path / "trace.json").write_text(json.dumps({**about, **change}))
    with pytest.raises(TraceError, match=said):
        read = read_trace(tmp_path)
        _ = read.margins, read.steps, read.labels


def test_a_million_examples_take_one_row_of_memory(tmp_path):
    n = 1_000_000
    trace = EmphasisTrace(tmp_path, n, W)
    network = nn.Linear(4, 10)
    for start in range(0, n, 100_000):
        rows = torch.arange(start, start + 100_000)
        with torch.no_grad():
            logits = network(torch.randn(len(rows), 4))
        trace.record(rows, logits, rows % 10)
    assert trace.rows == 1
    assert not trace._row
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("*-00000.npy")}
    assert sum(sizes.values()) < 6.1 * n
