"""emphasis show draws families and methods."""

import pytest

from emphasis import baselines
from emphasis.cli.main import main
from emphasis.weighting import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_show_draws_every_family_in_any_case(family, capsys):
    assert main(["show", family.lower()]) == 0
    assert "emphasis mode" in capsys.readouterr().out


def test_show_takes_parameters_and_comparisons(capsys):
    assert main(["show", "DM", "--lam", "1", "--beta", "16", "--vanishing", "--vs", "GCE", "CCE"]) == 0
    out = capsys.readouterr().out
    assert all(text in out for text in ("DM(lam=1.0, beta=16.0, vanishing=True)", "GCE(q=0.7)", "CCE()"))


def test_show_draws_dm_beside_others_unless_told_otherwise(capsys):
    assert main(["show", "SCE"]) == 0
    out = capsys.readouterr().out
    assert "SCE(mu=0.1" in out
    assert "DM(lam=0.5" in out
    assert main(["show", "SCE", "--vs"]) == 0
    assert "DM(" not in capsys.readouterr().out


@pytest.mark.parametrize("method", [name for name in baselines.names() if baselines.find(name).has_view()])
def test_show_draws_the_methods_dm_is_compared_with(method, capsys):
    assert main(["show", method]) == 0
    out = capsys.readouterr().out
    assert f"{method}(" in out.lower()
    assert "DM(lam=0.5" in out


def test_show_says_from_where_on_a_method_pushes_the_label_down(capsys):
    """Label smoothing's gradient at the label, p - (1 - epsilon (C - 1) / C), is 0 at p = 0.91."""
    assert main(["show", "label-smoothing", "--epsilon", "0.1", "--num_classes", "10"]) == 0
    assert "decreases p beyond p = 0.91," in " ".join(capsys.readouterr().out.split())


def test_show_takes_negative_numbers(capsys):
    assert main(["show", "SCE", "--A", "-6"]) == 0
    assert "A=-6.0" in capsys.readouterr().out


def test_show_draws_to_a_file(tmp_path, capsys):
    assert main(["show", "DM", "--lam", "0.5", "--out", str(tmp_path / "edf.svg")]) == 0
    assert (tmp_path / "edf.svg").exists()
    assert "drawn to" in capsys.readouterr().out


def test_negative_numbers_in_scientific_notation_are_values(capsys):
    assert main(["show", "DM", "--lam", "0", "--beta", "-5e-1"]) == 0
    assert "DM(lam=0.0, beta=-0.5)" in capsys.readouterr().out
