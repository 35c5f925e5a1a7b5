"""D2L and the local intrinsic dimensionality that it decides by."""

import math

import pytest
import torch

from clouds import learner, problem
from emphasis.baselines.d2l import mean_lid, turning_point


@pytest.mark.parametrize("dimension", [1, 2, 4, 8])
def test_lid_of_a_flat_manifold_is_its_dimension(dimension):
    generator = torch.Generator().manual_seed(dimension)
    points = torch.rand(2560, dimension, generator=generator, dtype=torch.float64)
    embedding = torch.linalg.qr(torch.randn(20, dimension, generator=generator, dtype=torch.float64)).Q
    features = points @ embedding.T + 3.0  # turned and moved: distances are what they were
    assert mean_lid(features, 20) == pytest.approx(dimension, rel=0.25)
    torch.testing.assert_close(mean_lid(features, 20), mean_lid(100.0 * features, 20))  # and scale says nothing


def test_lid_of_points_that_coincide_is_0():
    assert mean_lid(torch.ones(200, 3), 20) == 0.0


def test_turning_point_is_two_deviations_above_the_mean():
    recent = torch.tensor([1.0, 2.0, 3.0])
    limit = 2.0 + 2.0 * math.sqrt(2.0 / 3.0)
    assert not turning_point(recent, limit - 1e-3)
    assert turning_point(recent, limit + 1e-3)


def test_d2l_judges_from_the_epoch_that_its_release_judges_from():
    """init_epoch + epoch_win of train_models.py: after epoch 10 for MNIST, 15 for CIFAR-10, 25 for CIFAR-100."""
    given_, inputs, _ = problem(n=200)
    for first, judged in ((5, 10), (10, 15), (20, 25), (None, 11)):
        one = learner("d2l", given_, window=5, first=first, neighbours=5)
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("emphasis.baselines.d2l.mean_lid", lambda _features, _k: 4.0)
            patch.setattr("emphasis.baselines.d2l.turning_point", lambda _recent, _lid: True)
            for epoch in range(judged + 1):
                assert not one.method.turned
                one.begin_epoch(epoch, epoch / 150, optimizer, lambda rows: [inputs[rows]])
        assert one.method.turned


def test_d2l_turns_goes_back_and_lets_predictions_in():
    given_, inputs, _ = problem(n=200, noise=0.3)
    one = learner("d2l", given_, window=2, neighbours=10)
    optimizer = torch.optim.SGD(one.parameters(), 0.1, momentum=0.9)
    lids = iter([5.0, 4.0, 4.1, 4.0, 9.0, 8.0])
    import emphasis.baselines.d2l as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "mean_lid", lambda _features, _k: next(lids))
        for epoch in range(7):
            if epoch == 5:
                kept = {k: v.clone() for k, v in one.kept.state_dict().items()}
                with torch.no_grad():
                    for parameter in one.network.parameters():
                        parameter.add_(1.0)
            one.begin_epoch(epoch, epoch / 10, optimizer, lambda rows: [inputs[rows]])
            if epoch == 5:
                assert bool(one.method.turned)
                for name, value in one.network.state_dict().items():
                    torch.testing.assert_close(value, kept[name])
                assert float(one.method.alpha) == pytest.approx(math.exp(-0.5 * 9.0 / 4.0))
    assert float(one.method.alpha) == pytest.approx(math.exp(-0.6 * 8.0 / 4.0))
    assert int(one.examples_evaluated) == 6 * 200
