import subprocess
import sys

import pytest
import torch

from emphasis.models import NAMES, build, options_of

SHAPES = {"googlenet-v2": (3, 64, 64), "resnet50": (3, 64, 64), "mlp": (7,)}


def shape_of(name):
    """The smallest sensible example of a network."""
    return SHAPES.get(name, (3, 16, 16))


def batch_for(name, number=4):
    return torch.randn(number, *shape_of(name), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_alone_sets_the_parameters_and_no_global_generator_moves(name):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    first = build(name, shape_of(name), 5, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again, other = build(name, shape_of(name), 5, seed=7), build(name, shape_of(name), 5, seed=8)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    drawn = [key for key, value in first.state_dict().items() if value.ndim > 1]
    assert drawn
    assert all(not torch.equal(first.state_dict()[key], other.state_dict()[key]) for key in drawn)


def test_parameters_are_on_the_cpu_and_alike_whatever_the_default_device():
    with torch.device("meta"):
        model = build("mlp", (3,), 2, seed=0)
    expected = build("mlp", (3,), 2, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_logits_have_one_column_per_class_and_every_parameter_gets_a_gradient(name):
    model = build(name, shape_of(name), 5, seed=0)
    logits = model(batch_for(name))
    assert logits.shape == (4, 5)
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_in_training_only(name):
    model = build(name, shape_of(name), 5, seed=0, dropout=0.5)
    inputs = batch_for(name)
    plain = build(name, shape_of(name), 5, seed=0)
    with torch.no_grad():
        torch.manual_seed(0)
        assert not torch.equal(model(inputs), model(inputs))
        model.eval()
        plain.eval()
        torch.manual_seed(0)
        before = torch.get_rng_state()
        for target, value in zip(plain.state_dict().values(), model.state_dict().values(), strict=True):
            target.copy_(value)  # running statistics too, which the two passes moved
        assert torch.equal(model(inputs), model(inputs))
        assert torch.equal(model(inputs), plain(inputs))
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mlp"])
def test_channels_last_computes_the_same(name):
    model = build(name, shape_of(name), 5, seed=0).eval()
    images = batch_for(name)
    with torch.no_grad():
        expected = model(images)
        model = model.to(memory_format=torch.channels_last)
        outputs = model(images.contiguous(memory_format=torch.channels_last))
    assert (outputs - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "mlp"])
def test_activations_and_their_gradients_stay_channels_last(name):
    model = build(name, shape_of(name), 5, seed=0).to(memory_format=torch.channels_last)
    strayed = []

    def note(what, images):
        if images.ndim == 4 and images.stride(1) != 1:
            strayed.append(what)

    def hook(module, inputs, output):
        note(module, output)
        output.register_hook(lambda gradient: note((module, "gradient"), gradient))

    for module in model.modules():
        module.register_forward_hook(hook)
    model(batch_for(name).contiguous(memory_format=torch.channels_last)).square().sum().backward()
    assert not strayed


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {"mlp", "googlenet-v2", "resnet50"}])
def test_grey_images_of_28_by_28_are_taken(name):
    assert build(name, (1, 28, 28), 10, seed=0).eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("resnet57", (3, 32, 32), 10), {}, "did you mean 'resnet5"),
        (("small_cnn", (3, 32, 32), 10), {}, "did you mean 'small-cnn'"),
        (("resnet56", (3, 32, 32), 10), {"droput": 0.2}, "resnet56 has no option 'droput' (did you mean 'dropout'"),
        (("resnet56", (3, 32, 32), 10), {"depth": 20}, "no option 'depth'"),
        (("resnet56", (3, 32, 32), 10), {"dropout": 1.0}, "0 <= dropout < 1"),
        (("mlp", (3,), 10), {"dropout": float("nan")}, "dropout=nan"),
        (("resnet50", (3, 64, 64), 10), {"dropout": "0.2"}, "dropout='0.2'"),
        (("resnet56", (100,), 10), {}, "use the model 'mlp'"),
        (("small-cnn", (3, 4, 4), 10), {}, "at least 8 x 8"),
        (("googlenet-v2", (3, 225, 224), 10), {}, "multiples of 32"),
        (("googlenet-v1", (3, 32, 32), 10), {"batch_norm": "no"}, "batch_norm='no'"),
        (("mlp", (3,), 10), {"activation": "rleu"}, "did you mean 'relu'"),
        (("mlp", (3,), 10), {"hidden": [8, 0]}, "hidden=[8, 0]"),
        (("mlp", (3,), 10), {"hidden": 8}, "hidden=8"),
        (("small-cnn", (3, 32, 32), 10), {"widths": []}, "widths=[]"),
        (("mlp", (), 10), {}, "input_shape=()"),
        (("mlp", 3, 10), {}, "input_shape=3"),
        (("mlp", (0,), 10), {}, "input_shape=(0,)"),
        (("mlp", (3.0,), 10), {}, "input_shape=(3.0,)"),
        (("mlp", (3,), 1), {}, "num_classes=1"),
        (("mlp", (3,), True), {}, "num_classes=True"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, options, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        build(*arguments, seed=0, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, None])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed="):
        build("mlp", (3,), 2, seed=seed)


def test_options_are_listed_with_their_defaults():
    assert options_of("resnet44") == {"dropout": 0.0}
    assert options_of("mlp") == {"hidden": (64,), "activation": "relu", "dropout": 0.0}
    for name in NAMES:
        build(name, shape_of(name), 2, seed=0, **options_of(name))


def test_names_are_known_without_torch():
    code = "import sys, emphasis.models as m; assert 'resnet56' in m.NAMES; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_perceptron_is_a_plain_sequence_of_the_asked_layers():
    model = build("mlp", (100,), 2, seed=0, hidden=[8, 4], activation="sigmoid", dropout=0.2)
    kinds = [type(layer).__name__ for layer in model]
    assert kinds == ["Linear", "Sigmoid", "Linear", "Sigmoid", "Dropout", "Linear"]
    assert sum(p.numel() for p in model.parameters()) == 101 * 8 + 9 * 4 + 5 * 2
    assert [type(layer).__name__ for layer in build("mlp", (2, 3), 2, seed=0, hidden=[])] == ["Flatten", "Linear"]
