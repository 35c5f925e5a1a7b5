"""Registries name things without importing them, and agree with the code that they name."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import emphasis.baselines
from emphasis.baselines import Baseline, VideoMethod, aum, cae, drsa, elr, mentornet_dd, mentornet_pd, osm_caa
from emphasis.baselines.registry import METHODS
from emphasis.datasets import DATASETS
from emphasis.models.registry import MODELS
from emphasis.registry import Registry, _options_in_source
from emphasis.tabular.models import MODELS as TABULAR_MODELS
from emphasis.weighting import FAMILIES

REGISTRIES = {registry.kind: registry for registry in (METHODS, DATASETS, MODELS)}
ENTRIES = [(kind, name) for kind, registry in REGISTRIES.items() for name in registry]


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_options_in_the_source_are_those_of_the_imported_thing(kind, name):
    registry = REGISTRIES[kind]
    module, _, attribute = registry._paths[name].partition(":")
    expected = {option: default is ... for option, default in registry.options(name).items()}
    in_source = _options_in_source(module, attribute)
    assert in_source == expected or (in_source is None and name.startswith("resnet"))
    assert registry.required_options(name) == expected


def test_every_method_of_the_package_is_registered_once():
    folder = Path(emphasis.baselines.__file__).parent
    defined = set()
    for file in folder.glob("[!_]*.py"):
        module = f"emphasis.baselines.{file.stem}"
        members = vars(__import__(module, fromlist=["_"])).values()
        defined |= {
            value
            for value in members
            if inspect.isclass(value) and issubclass(value, Baseline) and value.__module__ == module
        }
    registered = list(METHODS.values())
    assert set(registered) == defined - {Baseline, VideoMethod}
    assert len(registered) == len(set(registered))


def test_checking_names_and_options_imports_nothing():
    code = """
import sys
from emphasis.baselines import check_options, names
from emphasis.datasets import DATASETS
from emphasis.models.registry import MODELS
for name in names():
    check_options(name, {"forget_rate": 0.2} if name == "co-teaching" else {})
    try:
        check_options(name, {"no such option": 1})
    except ValueError as error:
        assert "has no option" in str(error), error
    else:
        raise AssertionError(name)
for name in MODELS:
    MODELS.check(name)
assert "torch" not in sys.modules
assert not [name for name in sys.modules if name.startswith("emphasis.baselines.") and "registry" not in name]
assert not [name for name in sys.modules if name.startswith("emphasis.models.") and "registry" not in name]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


SHAPES = Registry(
    "shape", {"text": "textwrap:TextWrapper", "wrap": "textwrap:wrap", "loads": "json:loads"}, ", or none"
)


def test_a_registry_is_a_mapping_of_the_things_themselves():
    import json
    import textwrap

    assert list(SHAPES) == ["text", "wrap", "loads"] == list(SHAPES.names)
    assert SHAPES["loads"] is json.loads
    assert SHAPES.find("wrap") is textwrap.wrap
    assert "texts" not in SHAPES
    assert ["text"] not in SHAPES
    assert len(SHAPES) == 3
    assert SHAPES.options("loads")["cls"] is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SHAPES.find("txt"), "unknown shape 'txt' (did you mean 'text'?); known: text, wrap, loads, or none"),
        (lambda: FAMILIES.find("GEC"), "unknown family 'GEC' (did you mean 'GCE'?); known: CCE, MAE"),
        (
            lambda: TABULAR_MODELS.find("forest"),
            "unknown model 'forest'; known: xgboost, lightgbm, catboost, net, linear",
        ),
        (lambda: SHAPES.check(3), "unknown shape 3; known: text"),
        (lambda: SHAPES.check_options("loads", {"clss": 1}), "loads has no option 'clss' (did you mean 'cls'?)"),
        (lambda: METHODS.check_options("co-teaching", {}), "co-teaching needs the option 'forget_rate'; it takes"),
        (lambda: DATASETS.check_options("table", {"file": "a.csv"}), "table needs the option 'label'; it takes file"),
    ],
)
def test_unknown_names_and_options_are_named(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (aum, "Aum", "AUM"),
        (cae, "Cae", "CAE"),
        (drsa, "Drsa", "DRSA"),
        (elr, "Elr", "ELR"),
        (mentornet_dd, "MentornetDd", "MentorNetDD"),
        (mentornet_pd, "MentornetPd", "MentorNetPD"),
        (osm_caa, "OsmCaa", "OSMCAA"),
    ],
)
def test_old_class_names_warn_and_give_the_new_class(module, old, new):
    with pytest.warns(DeprecationWarning, match=rf"{module.__name__}\.{old} is deprecated; use .*{new}"):
        assert getattr(module, old) is getattr(module, new)
    with pytest.raises(AttributeError, match="has no attribute 'Never'"):
        module.Never  # noqa: B018
