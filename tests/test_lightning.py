import inspect
import math
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

lightning = pytest.importorskip("lightning", reason="needs the extra lightning")

from controls import right_beyond_chance  # noqa: E402
from emphasis import CCE, DM, GCE, MAE, Relative, from_dict  # noqa: E402
from emphasis.lightning import EmphasisModule, _EpochMean  # noqa: E402
from emphasis.torch import emphasis_loss  # noqa: E402

# Lightning's advice on workers and loggers, and what its own imports deprecate.
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture(scope="module")
def data():
    X, y = load_digits(return_X_y=True)
    weight = np.random.default_rng(0).uniform(0.1, 2.0, len(y))
    tensors = torch.tensor(X / 16.0, dtype=torch.float32), torch.tensor(y), torch.tensor(weight, dtype=torch.float32)
    return TensorDataset(*tensors), TensorDataset(*tensors[:2])


def trainer(folder, **options):
    return lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **{"enable_checkpointing": False, **options},
    )


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("normalization", ["integral", "batch"])
def test_it_trains_as_a_loop_of_ones_own(data, tmp_path, weighted, normalization):
    loader = DataLoader(data[0 if weighted else 1], batch_size=256)
    weighting = DM(lam=0.5, beta=4)
    module = EmphasisModule(
        network(), weighting, normalization=normalization, optimizer=lambda p: torch.optim.SGD(p, 0.5)
    )
    trainer(tmp_path, max_epochs=2).fit(module, loader)

    twin = network()
    optimizer = torch.optim.SGD(twin.parameters(), 0.5)
    for _ in range(2):
        for x, y, *weight in loader:
            sample_weight = weight[0] if weight else None
            loss = emphasis_loss(twin(x), y, weighting, normalization=normalization, sample_weight=sample_weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for ours, expected in zip(module.network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("warm_up", [True, False])
def test_a_fifth_of_the_steps_are_trained_with_cross_entropy(data, tmp_path, warm_up):
    x, y = data[1].tensors
    loader = DataLoader(TensorDataset(x[:800], y[:800]), batch_size=80)
    options = {"optimizer": lambda p: torch.optim.SGD(p, 0.5), "warm_up": warm_up}

    class Watched(EmphasisModule):
        def on_validation_epoch_start(self):
            judged.append(self.loss.weighting)

    judged = []
    module = Watched(network(), **options)
    trainer(tmp_path, max_epochs=2, val_check_interval=2).fit(module, loader, loader)
    assert set(judged) == {Relative()}  # no switch in the figures of validation

    def loop(steps):
        twin = network()
        optimizer = torch.optim.SGD(twin.parameters(), 0.5)
        for step in range(steps):
            batch, labels = x[:800].split(80)[step % 10], y[:800].split(80)[step % 10]
            weighting = (CCE() if step < 4 else Relative(doubt=0.0)) if warm_up else Relative()
            optimizer.zero_grad()
            emphasis_loss(twin(batch), labels, weighting).backward()
            optimizer.step()
        return list(twin.parameters())

    for ours, expected in zip(module.network.parameters(), loop(20), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0.0, atol=1e-6)


def test_a_training_without_an_end_has_no_warm_up(data, tmp_path):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(data[1])

    class Stopping(EmphasisModule):
        def on_train_batch_end(self, *_):
            self.trainer.should_stop = True

    module, plain = (
        Stopping(network(), optimizer=lambda p: torch.optim.SGD(p, 0.5), warm_up=warm_up) for warm_up in (True, False)
    )
    for each in (module, plain):
        trainer(tmp_path, max_epochs=-1, min_epochs=0, min_steps=0).fit(each, DataLoader(Endless(), batch_size=80))
    for ours, expected in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0.0, atol=0.0)


def test_accuracies_are_those_of_the_network(data, tmp_path):
    loader = DataLoader(data[1], batch_size=500)
    module = EmphasisModule(network(), GCE(0.7), learning_rate=0.01)
    run = trainer(tmp_path, max_epochs=8)
    run.fit(module, loader, loader)
    x, y = data[1].tensors
    expected = (module.network(x).argmax(1) == y).float().mean().item()
    assert run.callback_metrics["val_accuracy"].item() == pytest.approx(expected, abs=1e-6)
    assert right_beyond_chance(module.network(x).argmax(1), y)
    (tested,) = run.test(module, loader, verbose=False)
    assert tested["test_accuracy"] == pytest.approx(expected, abs=1e-6)
    p = torch.cat(run.predict(module, loader))
    torch.testing.assert_close(p, module.network(x).softmax(1))


def test_a_checkpoint_goes_on(data, tmp_path):
    loader = DataLoader(data[1], batch_size=512)
    whole = EmphasisModule(network(), CCE())
    trainer(tmp_path, max_epochs=4).fit(whole, loader)
    half = EmphasisModule(network(), CCE())
    run = trainer(tmp_path, max_epochs=2)
    run.fit(half, loader)
    run.save_checkpoint(tmp_path / "half.ckpt")
    rest = EmphasisModule(network(), CCE())
    trainer(tmp_path, max_epochs=4).fit(rest, loader, ckpt_path=tmp_path / "half.ckpt")
    for ours, expected in zip(rest.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0.0, atol=0.0)
    loaded = EmphasisModule.load_from_checkpoint(tmp_path / "half.ckpt", network=network(), weighting=CCE())
    for ours, expected in zip(loaded.parameters(), half.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0.0, atol=0.0)


def logits_labels_and_weights(layout):
    """18 examples of which the first 4, a batch, count for nothing; logits are the inputs of an identity."""
    draw = torch.Generator().manual_seed(7)
    shape = {"binary": (18,), "binary, soft": (18,), "classes": (18, 5), "soft": (18, 5)}.get(layout, (18, 5, 3))
    logits = 3.0 * torch.randn(shape, generator=draw)
    per_example = shape[:1] + shape[2:]
    labels = torch.randint(2 if "binary" in layout else 5, per_example, generator=draw)
    weight = torch.rand(per_example, generator=draw)
    if "soft" in layout:
        labels = (
            torch.rand(shape, generator=draw) if "binary" in layout else torch.rand(shape, generator=draw).softmax(1)
        )
        weight[:4] = 0.0
    else:
        labels[:4], labels[9] = -100, -100
    return logits, labels, weight


@pytest.mark.parametrize(
    ("normalization", "weighting"),
    [
        *((normalization, w) for normalization in (None, "integral", "batch") for w in (CCE(), DM(lam=0.5, beta=4))),
        ("integral", DM(lam=0.5, beta=400)),
        ("batch", DM(lam=0.5, beta=400)),  # w reaches exp(154), more than float32 holds
    ],
)
@pytest.mark.parametrize("layout", ["classes", "soft", "binary", "binary, soft", "sequences", "sequences, soft"])
def test_an_epoch_of_validation_is_one_batch(layout, normalization, weighting, tmp_path):
    logits, labels, weight = logits_labels_and_weights(layout)
    class_weight = [0.5, 2.0] if "binary" in layout else [0.5, 1.0, 2.0, 0.0, 1.0]
    module = EmphasisModule(nn.Identity(), weighting, normalization=normalization, class_weight=class_weight)
    expected = emphasis_loss(
        logits.double(),
        labels.double() if "soft" in layout else labels,
        weighting,
        normalization=normalization,
        class_weight=torch.tensor(class_weight).double(),
        sample_weight=weight.double(),
    )
    for size in (4, 7, 18):
        run = trainer(tmp_path)
        loader = DataLoader(TensorDataset(logits, labels, weight), batch_size=size)
        (found,) = run.validate(module, loader, verbose=False)
        assert found["val_loss"] == pytest.approx(expected.item(), rel=2e-5)
        if "binary" in layout:
            right = (logits > 0.0) == (labels > 0.5)
        else:
            right = logits.argmax(1) == (labels.argmax(1) if "soft" in layout else labels)
        counted = torch.ones_like(right) if "soft" in layout else labels != -100
        assert found["val_accuracy"] == pytest.approx(right[counted].float().mean().item(), abs=1e-6)


@pytest.mark.parametrize("normalization", ["integral", "batch"])
def test_nothing_to_count_is_zero_and_a_figure_that_is_nan_stays_so(normalization, tmp_path):
    module = EmphasisModule(nn.Identity(), CCE(), normalization=normalization)
    logits, labels, weight = logits_labels_and_weights("classes")
    for nothing in ((torch.full_like(labels, -100), weight), (labels, torch.zeros_like(weight))):
        (found,) = trainer(tmp_path).test(
            module, DataLoader(TensorDataset(logits, *nothing), batch_size=4), verbose=False
        )
        assert found["test_loss"] == 0.0
    mean = module.figures["val_loss"]
    for value, log_total in ((1.0, 2.0), (math.nan, 0.0), (3.0, -math.inf)):
        mean.update(torch.tensor(value), torch.tensor(log_total))
    assert math.isnan(mean.compute())


def test_a_mean_over_ranks_is_that_of_all_batches():
    """As torchmetrics gathers states: one number of each rank, stacked."""
    draw = torch.Generator().manual_seed(0)
    values, logs = torch.rand(6, generator=draw), 200.0 * torch.rand(6, generator=draw)
    logs[3:] = -math.inf  # a rank of which nothing counts
    ranks = [_EpochMean(), _EpochMean()]
    for number, (value, log_total) in enumerate(zip(values, logs, strict=True)):
        ranks[number // 3].update(value, log_total)
    whole = _EpochMean()
    whole.mean, whole.log_total = (
        torch.stack([getattr(rank, name) for rank in ranks]) for name in ("mean", "log_total")
    )
    torch.testing.assert_close(whole.compute(), (values * logs.softmax(0)).sum())


def test_one_logit_trains_and_predicts_both_classes(data, tmp_path):
    x, y = data[1].tensors
    loader = DataLoader(TensorDataset(x, (y < 5).long()), batch_size=256)
    module = EmphasisModule(nn.Sequential(nn.Linear(64, 1), nn.Flatten(0)), GCE(0.7), learning_rate=0.05)
    run = trainer(tmp_path, max_epochs=6)
    run.fit(module, loader, loader)
    found = run.callback_metrics["val_accuracy"].item()
    p = torch.cat(run.predict(module, loader))
    torch.testing.assert_close(p[:, 1], module.network(x).sigmoid())
    torch.testing.assert_close(p.sum(1), torch.ones(len(x)))
    assert found == pytest.approx((p.argmax(1) == (y < 5)).float().mean().item())
    assert right_beyond_chance(p.argmax(1), y < 5)


@pytest.mark.parametrize("normalization", ["integral", "batch"])
@pytest.mark.parametrize("soft", [False, True])
def test_bfloat16_throughout(data, tmp_path, soft, normalization):
    """Weights, labels and logits are bfloat16 then; figures are not."""
    x, y = data[1].tensors
    labels = 0.9 * nn.functional.one_hot(y, 10) + 0.01 if soft else y
    loader = DataLoader(TensorDataset(x, labels), batch_size=200)
    options = {"normalization": normalization, "class_weight": [1.0] * 9 + [2.0]}
    module = EmphasisModule(network(), DM(lam=0.5, beta=4), learning_rate=0.01, **options)
    run = trainer(tmp_path, max_epochs=6, precision="bf16-true")
    run.fit(module, loader, loader)
    with torch.no_grad():
        logits = module.network(x.bfloat16()).float()
    assert module.network[0].weight.dtype == torch.bfloat16
    class_weight = torch.tensor(options["class_weight"])
    expected = emphasis_loss(
        logits, labels, DM(lam=0.5, beta=4), normalization=normalization, class_weight=class_weight
    ).item()
    assert run.callback_metrics["val_loss"].item() == pytest.approx(expected, rel=0.02)
    accuracy = (logits.argmax(1) == y).float().mean().item()
    assert run.callback_metrics["val_accuracy"].item() == pytest.approx(accuracy, abs=2e-3)
    assert right_beyond_chance(logits.argmax(1), y)


@pytest.mark.parametrize("weights_only", [None, True])
@pytest.mark.parametrize("weighting", [DM(lam=0.5, beta=4, vanishing=True), CCE() + 0.5 * GCE(0.7), "MAE"], ids=repr)
def test_a_checkpoint_asks_for_the_network_alone(weighting, weights_only, tmp_path):
    options = {"normalization": "batch", "max_margin": 9.0, "ignore_index": -1, "learning_rate": 0.03}
    module = EmphasisModule(network(), weighting, class_weight=np.linspace(0.5, 1.0, 10), **options)
    run = trainer(tmp_path, max_epochs=1)
    x, y = torch.randn(20, 64), torch.randint(10, (20,))
    run.fit(module, DataLoader(TensorDataset(x, y), batch_size=10))
    path = tmp_path / "module.ckpt"
    run.save_checkpoint(path)
    loaded = EmphasisModule.load_from_checkpoint(path, network=network(), weights_only=weights_only)
    assert loaded.loss.weighting == module.loss.weighting
    assert repr(loaded.loss) == repr(module.loss)
    assert loaded.loss.ignore_index == -1
    assert loaded.configure_optimizers().defaults["lr"] == 0.03
    for ours, expected in zip(loaded.state_dict().values(), module.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0.0, atol=0.0)
    other = EmphasisModule.load_from_checkpoint(path, network=network(), weighting=CCE())
    assert other.loss.weighting == CCE()
    with pytest.raises(TypeError, match="network"):
        EmphasisModule.load_from_checkpoint(path)


class OfWidth(EmphasisModule):
    """Makes its own network, and saves what it is made of."""

    def __init__(self, width, **options):
        super().__init__(nn.Linear(3, width), CCE(), **options)
        self.save_hyperparameters()


def test_what_cannot_be_saved_is_asked_for(tmp_path):
    x, y = torch.randn(8, 3), torch.randint(2, (8,))
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    for module in (EmphasisModule(nn.Linear(3, 2), lambda p: p * (1 - p)), OfWidth(2, learning_rate=0.5)):
        run = trainer(tmp_path, max_epochs=1)
        run.fit(module, loader)
        run.save_checkpoint(tmp_path / f"{type(module).__name__}.ckpt")
    path = tmp_path / "EmphasisModule.ckpt"
    with pytest.raises(TypeError, match="weighting"):
        EmphasisModule.load_from_checkpoint(path, network=nn.Linear(3, 2))
    assert EmphasisModule.load_from_checkpoint(path, network=nn.Linear(3, 2), weighting="MAE").loss.weighting == MAE()
    loaded = OfWidth.load_from_checkpoint(tmp_path / "OfWidth.ckpt")
    torch.testing.assert_close(loaded.network.weight, module.network.weight)
    assert loaded.configure_optimizers().defaults["lr"] == 0.5


@pytest.mark.skipif("trusted" not in inspect.signature(from_dict).parameters, reason="from_dict imports what is named")
def test_a_checkpoint_that_names_a_function_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "named_by_a_checkpoint.py").write_text("def w(p):\n    return p\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(EmphasisModule(nn.Linear(3, 2), CCE()), DataLoader(TensorDataset(torch.randn(4, 3), torch.arange(4) % 2)))
    run.save_checkpoint(tmp_path / "module.ckpt")
    content = torch.load(tmp_path / "module.ckpt")
    content["hyper_parameters"]["weighting"] = {"family": "function", "function": "named_by_a_checkpoint:w"}
    torch.save(content, tmp_path / "hostile.ckpt")
    with pytest.raises(ValueError, match="function"):
        EmphasisModule.load_from_checkpoint(tmp_path / "hostile.ckpt", network=nn.Linear(3, 2))
    assert "named_by_a_checkpoint" not in sys.modules


def test_images_of_labels_with_gaps(tmp_path):
    """Segmentation: logits (N, C, H, W), ignored pixels, class weights."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(8, 3, 6, 6, generator=draw), torch.randint(4, (8, 6, 6), generator=draw)
    y[:, :2] = -1
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    module = EmphasisModule(nn.Conv2d(3, 4, 1), "MAE", ignore_index=-1, class_weight=[1.0, 2.0, 1.0, 0.5])
    run = trainer(tmp_path, max_epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run.fit(module, loader, loader)
    expected = (module(x).argmax(1) == y)[y != -1].float().mean().item()
    assert run.callback_metrics["val_accuracy"].item() == pytest.approx(expected, abs=1e-6)
