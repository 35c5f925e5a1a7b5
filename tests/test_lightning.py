import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

lightning = pytest.importorskip("lightning", reason="needs the extra lightning")

from emphasis import CCE, DM, GCE  # noqa: E402
from emphasis.lightning import EmphasisModule  # noqa: E402
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
        default_root_dir=folder, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        logger=False, **{"enable_checkpointing": False, **options},
    )  # fmt: skip


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


def test_accuracies_are_those_of_the_network(data, tmp_path):
    loader = DataLoader(data[1], batch_size=500)
    module = EmphasisModule(network(), GCE(0.7), learning_rate=0.01)
    run = trainer(tmp_path, max_epochs=8)
    run.fit(module, loader, loader)
    x, y = data[1].tensors
    expected = (module.network(x).argmax(1) == y).float().mean().item()
    assert run.callback_metrics["val_accuracy"].item() == pytest.approx(expected, abs=1e-6)
    assert expected > 0.85
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
