"""Networks of timm, through a stand-in for the package, which needs torchvision and is rarely installed."""

import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import emphasis
from emphasis.extras import MissingExtraError
from emphasis.models import PretrainedError, build

SHAPE = (1, 8, 8)


class Tiny(nn.Module):
    """A network as timm's: a body, a last layer that `pretrained_cfg` names, and features for `num_classes` of 0."""

    def __init__(self, num_classes, in_chans, side=None):
        super().__init__()
        self.pretrained_cfg = {"classifier": "fc"}
        self.side, self.body = side, nn.Conv2d(in_chans, 6, 3)
        self.fc = nn.Linear(6, num_classes) if num_classes else nn.Identity()
        self.num_features = 6

    def forward(self, x):
        return self.fc(self.body(x).relu().mean((2, 3)))


@pytest.fixture(autouse=True)
def created(monkeypatch):
    """The arguments of each network that was created."""
    calls = []

    def create_model(name, *, pretrained, num_classes, in_chans, **sizes):
        if name == "tinycnn" and sizes:
            raise TypeError("__init__() got an unexpected keyword argument 'img_size'")
        calls.append({"name": name, "pretrained": pretrained, "classes": num_classes, "channels": in_chans, **sizes})
        return Tiny(num_classes, in_chans, side=sizes.get("img_size"))

    timm = ModuleType("timm")
    timm.list_models = lambda: ["tinycnn", "tinyvit"]
    timm.is_model = lambda name: name in timm.list_models()
    timm.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", timm)
    return calls


def test_parameters_are_random_by_the_seed_and_never_downloaded(created):
    ours, again, other = (build("timm:tinycnn", SHAPE, 3, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(ours.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert created == [{"name": "tinycnn", "pretrained": False, "classes": 3, "channels": 1}] * 3
    assert ours(torch.zeros(2, *SHAPE)).shape == (2, 3)


def test_a_transformer_is_told_the_size_of_the_images(created):
    assert build("timm:tinyvit", SHAPE, 3, seed=0).side == (8, 8)
    assert created[-1]["img_size"] == (8, 8)


def test_a_local_file_gives_all_parameters_but_those_of_a_last_layer_for_other_classes(tmp_path):
    torch.manual_seed(5)
    trained = Tiny(10, 1)
    save_file(trained.state_dict(), tmp_path / "ten.safetensors")
    same = build("timm:tinycnn", SHAPE, 10, seed=0, pretrained=str(tmp_path / "ten.safetensors"))
    for name, value in same.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name])
    three = build("timm:tinycnn", SHAPE, 3, seed=0, pretrained=str(tmp_path / "ten.safetensors"))
    assert torch.equal(three.body.weight, trained.body.weight)
    assert torch.equal(three.fc.weight, build("timm:tinycnn", SHAPE, 3, seed=0).fc.weight)


def test_files_that_do_not_fit_are_named(tmp_path):
    state = Tiny(3, 1).state_dict()
    wrong = {
        "differs in body.weight": state | {"body.weight": torch.zeros(6, 3, 3, 3)},
        "differs in body.bias": {name: value for name, value in state.items() if name != "body.bias"},
        "differs in extra": state | {"extra": torch.zeros(1)},
        "body.bias that is not finite": state | {"body.bias": torch.full((6,), torch.nan)},
    }
    for message, content in wrong.items():
        save_file(content, tmp_path / "wrong.safetensors")
        with pytest.raises(PretrainedError, match=message):
            build("timm:tinycnn", SHAPE, 3, seed=0, pretrained=str(tmp_path / "wrong.safetensors"))
    with pytest.raises(ValueError, match=r"timm has no network 'tinycn'.*did you mean 'tinycnn'"):
        build("timm:tinycn", SHAPE, 3, seed=0)


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match="'timm'"):
        build("timm:tinycnn", SHAPE, 3, seed=0)


def test_images_are_fitted_by_a_network_of_timm_and_by_its_features(tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for kind, brightness in (("dark", 40), ("light", 200)):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(12):
            pixels = np.uint8(brightness + rng.integers(-30, 30, (8, 8)))
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{number}.png")
    save_file(Tiny(5, 1).state_dict(), tmp_path / "local.safetensors")
    options = {"folds": 2, "compare": False, "accelerator": "cpu", "weights": tmp_path / "local.safetensors"}
    for name, how in (
        ("trained", {"network": "timm:tinycnn", "iterations": 40}),
        ("probe", {"features": "timm:tinycnn", "size": 8, "channels": 1}),
    ):
        result = emphasis.fit(tmp_path / "photos", folder=tmp_path / name, **how, **options)
        assert next(iter(result.scores["methods"].values()))["accuracy"]["value"] > 0.9, name
        assert set(result.model.predict([tmp_path / "photos" / "dark" / "0.png"])) == {"dark"}
    (features,) = (tmp_path / "cache" / "emphasis" / "features").iterdir()
    assert np.load(features).shape == (24, 6)
