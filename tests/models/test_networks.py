"""The networks against the published figures, by arithmetic of their own."""

import pytest
import torch
from torch import nn

from emphasis.models import build
from emphasis.models.resnet import BasicBlock


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def outputs_of(model, names, images):
    """Shapes (channels, height, width) that the named parts of the body give out."""
    shapes = {}
    for name in names:
        part = model.body.get_submodule(name)
        part.register_forward_hook(lambda module, inputs, output, name=name: shapes.update({name: output.shape[1:]}))
    with torch.no_grad():
        model.eval()(images)
    return {name: tuple(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("depth", "published_millions", "exact"),
    [(20, 0.27, 269_722), (32, 0.46, 464_154), (44, 0.66, 658_586), (56, 0.85, 853_018), (110, 1.7, 1_727_962)],
)
def test_cifar_resnets_have_the_published_size(depth, published_millions, exact):
    n = (depth - 2) // 6
    convolutions = 9 * (
        3 * 16
        + 2 * n * 16 * 16  # 2n convolutions in each stage
        + 16 * 32
        + (2 * n - 1) * 32 * 32
        + 32 * 64
        + (2 * n - 1) * 64 * 64
    )
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    linear = 64 * 10 + 10
    model = build(f"resnet{depth}", (3, 32, 32), 10, seed=0)
    assert count(model) == convolutions + norms + linear == exact
    assert exact / 1e6 == pytest.approx(published_millions, abs=0.006 if depth < 110 else 0.06)
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == depth


def test_cifar_resnets_halve_resolution_twice():
    model = build("resnet20", (3, 32, 32), 10, seed=0)
    shapes = outputs_of(model, [str(number) for number in range(11)], torch.zeros(1, 3, 32, 32))
    expected = [(16, 32, 32)] * 4 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3 + [(64,)]
    assert list(shapes.values()) == expected


@pytest.mark.parametrize(("channels", "out_channels", "stride"), [(16, 16, 1), (16, 32, 2), (32, 64, 2)])
def test_the_shortcut_has_no_parameters_and_is_subsampling_with_zeros(channels, out_channels, stride):
    block = BasicBlock(channels, out_channels, stride)
    assert count(block) == 9 * (channels + out_channels) * out_channels + 4 * out_channels
    images = torch.rand(2, channels, 8, 8)
    shortcut = block.shortcut(images)
    assert shortcut.shape == (2, out_channels, 8 // stride, 8 // stride)
    assert torch.equal(shortcut[:, :channels], images[:, :, ::stride, ::stride])
    assert not shortcut[:, channels:].any()
    nn.init.zeros_(block.second[1].weight)
    assert torch.equal(block(images), shortcut)


def test_convolutions_start_from_he_s_distribution():
    model = build("resnet56", (3, 32, 32), 10, seed=0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == 64:
            size = module.weight.numel()
            variance = 2 / (9 * 64)
            # The variance of `size` normal draws has a relative standard error of sqrt(2 / size).
            assert abs(module.weight.var().item() / variance - 1) < 5 * (2 / size) ** 0.5
            assert abs(module.weight.mean().item()) < 5 * (variance / size) ** 0.5


def test_the_small_network_has_the_size_it_states():
    model = build("small-cnn", (3, 32, 32), 10, seed=0)
    convolutions = 9 * (3 * 16 + 16 * 32 + 32 * 64 + 64 * 128)
    assert count(model) == convolutions + 2 * (16 + 32 + 64 + 128) + 128 * 10 + 10 == 98_970
    assert model.features(torch.zeros(2, 3, 32, 32)).shape == (2, 128)
    assert build("small-cnn", (3, 32, 32), 10, seed=0, widths=[8, 9]).fc.in_features == 9


def test_the_fast_network_has_the_size_it_states_and_halves_the_image_in_each_block():
    model = build("fast-resnet", (3, 32, 32), 10, seed=0)
    blocks = sum(
        9 * (before * after + 2 * after**2) + 6 * after for before, after in ((64, 128), (128, 256), (256, 512))
    )
    assert count(model) == 27 * 64 + 128 + blocks + 512 * 10 + 10 == 7_753_802
    assert model.body[1](torch.zeros(2, 64, 32, 32)).shape == (2, 128, 16, 16)
    assert model.features(torch.zeros(2, 3, 32, 32)).shape == (2, 512)


# Szegedy et al. 2015, Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj; input channels; output channels
GOOGLENET = {
    "3a": (64, 96, 128, 16, 32, 32, 192, 256),
    "3b": (128, 128, 192, 32, 96, 64, 256, 480),
    "4a": (192, 96, 208, 16, 48, 64, 480, 512),
    "4b": (160, 112, 224, 24, 64, 64, 512, 512),
    "4c": (128, 128, 256, 24, 64, 64, 512, 512),
    "4d": (112, 144, 288, 32, 64, 64, 512, 528),
    "4e": (256, 160, 320, 32, 128, 128, 528, 832),
    "5a": (256, 160, 320, 32, 128, 128, 832, 832),
    "5b": (384, 192, 384, 48, 128, 128, 832, 1024),
}


@pytest.mark.parametrize("batch_norm", [False, True])
def test_googlenet_s_modules_have_the_size_that_the_published_table_gives(batch_norm):
    model = build("googlenet-v1", (3, 32, 32), 10, seed=0, batch_norm=batch_norm)
    per_channel = 2 if batch_norm else 1  # scale and shift, or a bias
    total = 3 * 192 * 9 + per_channel * 192 + 1024 * 10 + 10
    for name, (one, reduce3, three, reduce5, five, pool, before, after) in GOOGLENET.items():
        weights = before * (one + reduce3 + reduce5 + pool) + 9 * reduce3 * three + 25 * reduce5 * five
        size = weights + per_channel * (one + reduce3 + three + reduce5 + five + pool)
        assert one + three + five + pool == after
        assert count(model.body.get_submodule(name)) == size
        total += size
    assert count(model) == total


def test_googlenet_pools_nothing_before_3a():
    shapes = outputs_of(build("googlenet-v1", (3, 32, 32), 10, seed=0), GOOGLENET, torch.zeros(1, 3, 32, 32))
    side = {"3": 32, "4": 16, "5": 8}
    assert shapes == {name: (row[-1], side[name[0]], side[name[0]]) for name, row in GOOGLENET.items()}


def test_bn_inception_s_modules_give_the_published_shapes():
    # Ioffe & Szegedy 2015, Figure 5; 608 and 1,056 are the sums of its columns where its output column says 576, 1,024.
    published = {
        "conv1_7x7_s2": (64, 112),
        "pool1": (64, 56),
        "conv2_3x3": (192, 56),
        "pool2": (192, 28),
        "3a": (256, 28),
        "3b": (320, 28),
        "3c": (576, 14),
        "4a": (576, 14),
        "4b": (576, 14),
        "4c": (608, 14),
        "4d": (608, 14),
        "4e": (1056, 7),
        "5a": (1024, 7),
        "5b": (1024, 7),
    }
    model = build("googlenet-v2", (3, 224, 224), 10, seed=0)
    shapes = outputs_of(model, published, torch.zeros(1, 3, 224, 224))
    assert shapes == {name: (channels, side, side) for name, (channels, side) in published.items()}
    assert model.features(torch.zeros(2, 3, 64, 64)).shape == (2, 1024)


def test_bn_inception_has_the_published_size_less_the_biases_before_its_norms():
    model = build("googlenet-v2", (3, 224, 224), 1000, seed=0)
    biases = sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    assert count(model) + biases == 11_295_240


def test_resnet50_has_the_published_size():
    convolutions, norms, before = 3 * 64 * 49, 64, 64
    for blocks, width in [(3, 64), (4, 128), (6, 256), (3, 512)]:
        after = 4 * width
        convolutions += before * after  # the one projection
        norms += after
        for _ in range(blocks):
            convolutions += before * width + 9 * width * width + width * after
            norms += 2 * width + after
            before = after
    model = build("resnet50", (3, 224, 224), 1000, seed=0)
    assert count(model) == convolutions + 2 * norms + 2048 * 1000 + 1000 == 25_557_032
    assert model.eval().features(torch.zeros(1, 3, 64, 64)).shape == (1, 2048)
