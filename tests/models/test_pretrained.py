"""Loading of parameters: the loaded network against functions of the file's own tensors, and faulty files."""

import importlib.util
import pickle

import pytest
import torch
import torch.nn.functional as F

from emphasis.models import PretrainedError, build, load_pretrained


def norm(state, name, x):
    return F.batch_norm(x, *(state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))


def scrambled(state, seed=3):
    """The same names and shapes with values as training leaves them: no statistic is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            values[name] = torch.tensor(17)
        elif name.endswith("running_var"):
            values[name] = 0.5 + torch.rand(value.shape, generator=generator)
        elif value.ndim > 1:
            values[name] = value + 0.01 * torch.randn(value.shape, generator=generator)
        else:
            values[name] = value + 0.2 * torch.randn(value.shape, generator=generator)
    return values


def torchvision_resnet50(state, x):
    """ResNet-50 v1.5 as a function of torchvision's names."""
    x = F.relu(norm(state, "bn1", F.conv2d(x, state["conv1.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        for number in range(blocks):
            name = f"layer{stage}.{number}"
            stride = 2 if stage > 1 and number == 0 else 1
            y = F.relu(norm(state, f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"])))
            y = F.relu(norm(state, f"{name}.bn2", F.conv2d(y, state[f"{name}.conv2.weight"], None, stride, 1)))
            y = norm(state, f"{name}.bn3", F.conv2d(y, state[f"{name}.conv3.weight"]))
            if number == 0:
                x = norm(
                    state,
                    f"{name}.downsample.1",
                    F.conv2d(x, state[f"{name}.downsample.0.weight"], None, stride),
                )
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def caffe_bn_inception(state, x):
    """BN-Inception as a function of the published PyTorch file's names, biases before norms included."""

    def conv(name, x, stride=1):
        weight = state[f"{name}.weight"]
        x = F.conv2d(x, weight, state[f"{name}.bias"], stride, weight.shape[-1] // 2)
        return F.relu(norm(state, f"{name}_bn", x))

    def halved(x):
        return F.max_pool2d(x, 3, 2, ceil_mode=True)

    x = halved(conv("conv1_7x7_s2", x, 2))
    x = halved(conv("conv2_3x3", conv("conv2_3x3_reduce", x)))
    for module in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        name = f"inception_{module}"
        stride = 2 if module in {"3c", "4e"} else 1
        three = conv(f"{name}_3x3", conv(f"{name}_3x3_reduce", x), stride)
        double = conv(f"{name}_double_3x3_1", conv(f"{name}_double_3x3_reduce", x))
        double = conv(f"{name}_double_3x3_2", double, stride)
        if stride == 2:
            x = torch.cat([three, double, halved(x)], 1)
            continue
        pooled = F.max_pool2d(x, 3, 1, 1) if module == "5b" else F.avg_pool2d(x, 3, 1, 1)
        x = torch.cat([conv(f"{name}_1x1", x), three, double, conv(f"{name}_pool_proj", pooled)], 1)
    return F.linear(x.mean((2, 3)), state["last_linear.weight"], state["last_linear.bias"])


def caffe_state(num_classes):
    """A state dict with the published file's names, from the columns of the paper's Figure 5."""
    rows = {
        "3a": (192, 64, 64, 64, 64, 96, 32),
        "3b": (256, 64, 64, 96, 64, 96, 64),
        "3c": (320, 0, 128, 160, 64, 96, 0),
        "4a": (576, 224, 64, 96, 96, 128, 128),
        "4b": (576, 192, 96, 128, 96, 128, 128),
        "4c": (576, 160, 128, 160, 128, 160, 128),
        "4d": (608, 96, 128, 192, 160, 192, 128),
        "4e": (608, 0, 128, 192, 192, 256, 0),
        "5a": (1056, 352, 192, 320, 160, 224, 128),
        "5b": (1024, 352, 192, 320, 192, 224, 128),
    }
    convolutions = {"conv1_7x7_s2": (3, 64, 7), "conv2_3x3_reduce": (64, 64, 1), "conv2_3x3": (64, 192, 3)}
    for module, (before, one, reduce3, three, reduce_double, double, projection) in rows.items():
        parts = {
            "1x1": (before, one, 1),
            "3x3_reduce": (before, reduce3, 1),
            "3x3": (reduce3, three, 3),
            "double_3x3_reduce": (before, reduce_double, 1),
            "double_3x3_1": (reduce_double, double, 3),
            "double_3x3_2": (double, double, 3),
            "pool_proj": (before, projection, 1),
        }
        convolutions |= {f"inception_{module}_{part}": sizes for part, sizes in parts.items() if sizes[1]}
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, (before, after, size) in convolutions.items():
        scale = (2 / (before * size * size)) ** 0.5
        state[f"{name}.weight"] = scale * torch.randn(after, before, size, size, generator=generator)
        state[f"{name}.bias"] = torch.zeros(after)
        state |= {f"{name}_bn.{part}": torch.ones(after) for part in ("weight", "running_var")}
        state |= {f"{name}_bn.{part}": torch.zeros(after) for part in ("bias", "running_mean")}
    state["last_linear.weight"] = torch.randn(num_classes, 1024, generator=generator) / 32
    state["last_linear.bias"] = torch.zeros(num_classes)
    return scrambled(state)


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def assert_computes(model, expected, images):
    with torch.no_grad():
        outputs = model.eval()(images)
    assert (outputs - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_resnet50_computes_what_torchvision_s_does_and_keeps_its_names(tmp_path, images):
    state = scrambled(build("resnet50", (3, 64, 64), 9, seed=0).state_dict())
    assert len(state) == 320  # as torchvision's, counters of batches included
    assert {"conv1.weight", "bn1.running_var", "layer3.5.bn2.bias", "layer1.0.downsample.0.weight"} <= state.keys()
    torch.save(state, tmp_path / "whole.pth")
    model = build("resnet50", (3, 64, 64), 9, seed=1)
    assert load_pretrained(model, tmp_path / "whole.pth") is True
    assert_computes(model, torchvision_resnet50(state, images), images)
    assert model.bn1.num_batches_tracked == 17


def test_files_of_old_versions_without_counters_load(tmp_path, images):
    state = scrambled(build("resnet50", (3, 64, 64), 9, seed=0).state_dict())
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model = build("resnet50", (3, 64, 64), 9, seed=1)
    assert load_pretrained(model, tmp_path / "old.pth")
    assert_computes(model, torchvision_resnet50(state, images), images)


def test_another_number_of_classes_keeps_the_new_head_alone(tmp_path, images):
    state = scrambled(build("resnet50", (3, 64, 64), 9, seed=0).state_dict())
    torch.save(state, tmp_path / "nine.pth")
    model = build("resnet50", (3, 64, 64), 4, seed=1)
    head = {f"fc.{part}": getattr(model.fc, part).detach().clone() for part in ("weight", "bias")}
    assert load_pretrained(model, tmp_path / "nine.pth") is False
    assert_computes(model, torchvision_resnet50(state | head, images), images)


def test_bn_inception_computes_what_the_published_file_does(tmp_path, images):
    state = caffe_state(6)
    torch.save(state, tmp_path / "caffe.pth")
    model = build("googlenet-v2", (3, 64, 64), 6, seed=0)
    assert load_pretrained(model, tmp_path / "caffe.pth")
    assert_computes(model, caffe_bn_inception(state, images), images)

    torch.save(model.state_dict(), tmp_path / "own.pth")
    again = build("googlenet-v2", (3, 64, 64), 6, seed=1)
    assert load_pretrained(again, tmp_path / "own.pth")
    assert_computes(again, caffe_bn_inception(state, images), images)


def small():
    return build("small-cnn", (3, 8, 8), 5, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("body.0.weight"), "misses body.0.weight"),
        (lambda s: s.pop("fc.bias"), "misses fc.bias"),
        (lambda s: s.update(surplus=torch.zeros(2)), "unexpected surplus"),
        (
            lambda s: s.update({"body.0.weight": torch.zeros(16, 1, 3, 3)}),
            "body.0.weight (file (16, 1, 3, 3), network (16, 3, 3, 3))",
        ),
        (lambda s: s.update({"fc.weight": torch.zeros(7, 64)}), "fc.weight (file (7, 64), network (5, 128))"),
        (lambda s: s.update({"fc.weight": torch.tensor(1.0)}), "fc.weight (file (), network (5, 128))"),
        (lambda s: s["body.0.weight"].view(-1)[3].fill_(float("nan")), "body.0.weight that is not finite"),
        (lambda s: s.update({f"extra{n}": torch.zeros(1) for n in range(9)}), "extra0, extra1, extra2 and 6 more"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_whole(tmp_path, change, message):
    state = {name: value.clone() for name, value in scrambled(small().state_dict()).items()}
    change(state)
    torch.save(state, tmp_path / "bad.pth")
    model = small()
    with pytest.raises(PretrainedError) as caught:
        load_pretrained(model, tmp_path / "bad.pth")
    assert message in str(caught.value)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in small().state_dict().items())


def test_a_file_cut_off_anywhere_or_no_state_dict_is_refused(tmp_path):
    torch.save(small().state_dict(), tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for size in (0, 1, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.pth").write_bytes(content[:size])
        with pytest.raises(PretrainedError, match="cut off"):
            load_pretrained(small(), tmp_path / "cut.pth")
    for noise in (b"hello", bytes(range(256)), b"\x80\x02]q\x00h\x07.", b"PK\x03\x04" + bytes(60)):
        (tmp_path / "noise.pth").write_bytes(noise)
        with pytest.raises(PretrainedError, match="not a file of tensors alone"):
            load_pretrained(small(), tmp_path / "noise.pth")
    for other in ([torch.zeros(2)], {"state_dict": small().state_dict()}, torch.zeros(3)):
        torch.save(other, tmp_path / "other.pth")
        with pytest.raises(PretrainedError, match="does not hold a state dict"):
            load_pretrained(small(), tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match=r"no file of parameters .*absent\.pth"):
        load_pretrained(small(), tmp_path / "absent.pth")


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_file_that_would_run_code_is_refused_without_running_it(tmp_path, write):
    write({"body.0.weight": Harmful(tmp_path / "ran")}, tmp_path / "harmful.pth")
    with pytest.raises(PretrainedError, match="not a file of tensors alone"):
        load_pretrained(small(), tmp_path / "harmful.pth")
    assert not (tmp_path / "ran").exists()


def test_safetensors_are_read_or_their_package_is_asked_for(tmp_path):
    path = tmp_path / "whole.safetensors"
    if importlib.util.find_spec("safetensors") is None:
        path.write_bytes(b"")
        with pytest.raises(ModuleNotFoundError, match="safetensors"):
            load_pretrained(small(), path)
        return
    from safetensors.torch import save_file

    state = scrambled(small().state_dict())
    save_file(state, path)
    model = small()
    assert load_pretrained(model, path)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(PretrainedError, match="safetensors"):
        load_pretrained(small(), path)
