from pathlib import Path

import pytest

from emphasis.experiments.recipe import RecipeError, load_recipe, parse_recipe, recipe_names
from emphasis.weighting import CCE, DM

TINY = (Path(__file__).parent / "tiny.toml").read_text()


def test_every_recipe_of_the_package_is_valid():
    for name in recipe_names():
        assert load_recipe(name).name == name


def test_digits_covers_what_it_promises():
    recipe = load_recipe("digits")
    assert (recipe.noise.rate, recipe.evaluation.seeds) == (0.4, 5)
    families = {type(method.objective.weighting).__name__ for method in recipe.methods}
    assert families == {"CCE", "MAE", "MSE", "GCE", "SCE", "Focal", "DM"}
    settings = {
        (m.objective.normalization, m.objective.max_margin, m.objective.weighting.vanishing)
        for m in recipe.methods
        if isinstance(m.objective.weighting, DM)
    }
    assert {("integral", 16.6, False), ("batch", 16.6, False), ("batch", None, False)} <= settings
    assert ("integral", "auto", True) in settings


def test_a_recipe_becomes_data():
    recipe = parse_recipe(TINY)
    assert recipe.network.hidden == (16,)
    assert recipe.methods[0].objective.weighting == CCE()
    assert recipe.methods[1].objective.max_margin is None
    assert recipe.methods[2].objective.max_margin == "auto"


def test_the_hash_follows_the_settings_and_not_the_texts():
    recipe = parse_recipe(TINY)
    assert parse_recipe(TINY.replace("Does it run?", "Why?")).config_hash() == recipe.config_hash()
    changed = recipe.changed(seeds=3, noise_rate=0.2, iterations=10)
    assert changed.config_hash() != recipe.config_hash()
    assert changed.command == "emphasis run tiny.toml --seeds 3 --noise-rate 0.2 --iterations 10"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate = 0.4", "rate = 1.4", r"noise: rate=1.4 is not allowed; use a number in \[0, 1\]"),
        ("rate = 0.4", 'rate = "much"', "noise: rate must be a number, got 'much'"),
        ("rate = 0.4", "rate = true", "noise: rate must be a number"),
        ("rate = 0.4", "", "the setting 'rate' is missing"),
        ("rate = 0.4", "rates = 0.4", "unknown setting 'rates'; did you mean 'rate'"),
        ("rate = 0.4", 'rate = 0.4\nkind = "pair"', "kind='pair' is not allowed; use \"symmetric\""),
        ("[noise]", "[noises]", "unknown setting 'noises'; did you mean 'noise'"),
        ("hidden = [16]", "hidden = 16", "hidden must be a list, got 16"),
        ("hidden = [16]", "hidden = [0]", "use widths >= 1"),
        ("hidden = [16]", "hidden = [1.5]", r"hidden\[0\] must be a whole number"),
        ("seeds = 2", "seeds = 0", "seeds=0 is not allowed"),
        ("momentum = 0.9", "momentum = 2", "momentum=2.0 is not allowed"),
        ('name = "digits"', 'name = "mnist"', "name='mnist' is not allowed; use \"digits\""),
        ('family = "CCE"', 'family = "CCEE"', "did you mean 'CCE'"),
        ("beta = 12 }", "betta = 12 }", "'DM': DM has no parameter 'betta'"),
        ('"batch"', '"rows"', "normalization='rows' is not allowed"),
        ('max_margin = "none"', 'max_margin = "never"', "max_margin='never' is not allowed"),
        ('weighting = { family = "CCE" }', "", "the setting 'weighting' is missing"),
        ('name = "Vanishing DM"', 'name = "CCE"', "give each its own name"),
        ('baseline = "CCE"', 'baseline = "MAE"', "use a method's name"),
        ("[network]", "[network", "not valid TOML"),
    ],
)
def test_mistakes_are_named(old, new, message):
    assert old in TINY
    with pytest.raises(RecipeError, match=message):
        parse_recipe(TINY.replace(old, new), "tiny")


def test_unknown_recipes_are_named(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'digits'"):
        load_recipe("digit")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(str(tmp_path / "none.toml"))
