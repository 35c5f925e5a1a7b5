"""The recipes of the paper's tables state the figures that the paper prints."""

import math
import re
from fractions import Fraction

import pytest

from emphasis import DM
from emphasis.experiments.recipes.load import load_recipe

FINAL = "final_test_accuracy"


# The paper's tables, row by row as printed; the name is that of the recipe's method.
TABLE_1 = """
LS            63.7  58.8  50.1  24.7  63.0  62.3  61.6
Boot-hard     63.3  57.9  48.2  12.3  63.4  63.2  62.1
Forward       64.0  59.8  53.1  24.7  64.1  64.0  60.9
D2L           64.6  59.2  52.0  35.3  62.4  63.2  61.4
SL            66.8  60.0  53.7  41.5  65.6  65.1  63.1
CCE           70.0  60.4  53.2  42.1  66.4  64.7  60.3
GCE           63.6  62.4  58.6  50.6  62.8  62.2  58.7
MAE           8.2   6.4   7.3   5.2   7.3   6.3   7.3
MSE           28.0  24.6  21.3  18.0  24.5  24.3  23.0
CCE-DN        69.1  60.7  54.2  44.6  65.9  64.0  60.5
GCE-DN        65.8  62.5  58.3  48.4  64.1  62.1  60.3
MAE-DN        7.5   5.4   4.5   4.8   5.8   3.5   3.9
MSE-DN        25.8  28.4  27.0  26.5  27.4  23.9  25.3
DM beta=0     67.2  56.2  50.9  44.4  64.4  62.5  60.4
DM lam=0      70.1  60.9  55.2  44.6  65.5  63.1  60.6
DM lam=0.5    69.3  65.7  61.0  52.9  67.4  65.0  60.8
DM lam=1      69.2  63.4  54.7  43.9  67.5  65.8  63.3
"""


TABLE_2 = """
Forgetting    -     0.76  0.71  0.44
Self-paced    -     0.80  0.74  0.33
Focal Loss    -     0.77  0.74  0.40
Boot-soft     -     0.78  0.73  0.39
MentorNet PD  -     0.79  0.74  0.44
MentorNet DD  -     0.79  0.76  0.46
CCE           0.85  0.74  0.74  0.35
GCE           0.83  0.81  0.77  0.18
MAE           0.57  0.50  0.45  0.19
MSE           0.80  0.78  0.73  0.29
CCE-DN        0.84  0.75  0.76  0.18
GCE-DN        0.77  0.82  0.79  0.19
MAE-DN        0.10  0.10  0.10  0.19
MSE-DN        0.85  0.51  0.76  0.53
DM beta=0     0.86  0.66  0.56  0.18
DM lam=0      0.86  0.77  0.75  0.18
DM lam=0.5    0.86  0.83  0.80  0.57
"""


TABLE_3 = """
Boot-hard     68.9
D2L           69.5
Forward       69.8
SL            71.0
S-adaptation  70.3
Masking       71.1
Joint Optim.  72.2
MD-DYR-SH     71.0
CCE           71.7
CCE-DN        72.5
GCE           72.4
GCE-DN        64.5
MAE           39.7
MAE-DN        16.4
MSE           71.7
MSE-DN        69.9
DM            73.3
"""


TABLE_4 = """
          DRSA  CAE   OSM+CAA  CCE   GCE   MAE   MSE   DM
mAP       65.8  67.5  72.4     58.1  31.6  12.0  19.6  72.8
CMC-1     82.3  82.4  84.7     73.8  51.5  26.0  39.3  84.3
"""


TABLE_5 = """
          CCE   GCE   MAE   MSE   CCE-DN  GCE-DN  MAE-DN  MSE-DN  DM
r = 0     88.9  88.9  88.9  88.9  88.5    87.7    74.5    88.2    89.1
r = 0.2   87.7  88.6  88.6  88.5  87.2    85.5    72.8    87.0    88.7
r = 0.4   75.5  83.6  84.9  83.7  75.0    75.2    80.2    75.3    86.4
10:1      78.9  77.0  75.4  77.6  77.5    59.1    0.5     78.5    80.6
50:1      63.4  0.5   0.5   58.6  61.4    0.5     0.5     64.4    65.0
"""


TABLE_6 = """
Baseline       44.7  0.1
L2             51.5  0.4
Dropout        46.7  0.5
Dropout+L2     52.8  0.4
DM             55.7  0.3
DM+L2          59.3  0.2
DM+Dropout     54.3  0.4
DM+L2+Dropout  58.3  0.3
"""


TABLE_7 = """
                            CCE   GCE   MAE   MSE   DM
SGD (lr 0.01)               64.6  68.8  39.3  58.4  82.0
SGD + Momentum (lr 0.01)    61.7  80.7  64.7  76.7  83.8
Nesterov (lr 0.01)          57.3  80.0  63.9  76.8  84.0
Adam (lr 0.01, delta 0.1)   39.3  75.7  57.5  66.8  78.2
Adam (lr 0.005, delta 0.1)  44.3  72.6  60.8  67.9  80.8
Adam (lr 0.005, delta 1)    52.0  67.7  37.3  58.5  79.2
"""


TABLE_8 = """
          Baseline  L2    Dropout  Dropout+L2  DM    DM+L2  DM+Dropout  DM+L2+Dropout
r = 0     75.4      76.4  77.9     78.7        83.8  84.4   84.5        84.7
r = 0.4   42.3      44.8  41.6     47.4        45.8  55.7   48.8        58.1
"""


# Emphasis mode, beta, best and final test accuracy, accuracy on the corrupted and on the intact training set.
TABLE_9 = """
r = 0.2  CCE         0     -    86.5  76.8  95.7  80.6
r = 0.2  DM beta=0   None  0    83.5  58.1  50.6  60.2
r = 0.2  DM lam=0    0     2    84.9  76.4  85.3  80.5
r = 0.2  DM lam=0.5  1/3   12   89.4  87.8  81.5  95.0
r = 0.2  DM lam=1    1/2   16   87.3  86.7  78.4  93.8
r = 0.2  DM lam=2    2/3   24   85.8  85.5  76.0  91.4
r = 0.4  CCE         0     -    82.8  60.9  83.0  64.4
r = 0.4  DM beta=0   None  0    71.8  44.9  31.3  45.8
r = 0.4  DM lam=0    0     1    78.4  65.6  63.3  66.6
r = 0.4  DM lam=0.5  1/3   12   85.1  79.9  67.7  85.7
r = 0.4  DM lam=1    1/2   16   84.7  83.3  60.3  88.9
r = 0.4  DM lam=2    2/3   20   52.7  52.7  35.4  53.6
r = 0.6  CCE         0     -    69.5  37.2  84.1  40.5
r = 0.6  DM beta=0   None  0    69.9  57.9  40.1  58.6
r = 0.6  DM lam=0    0     0.5  72.3  53.9  42.1  55.1
r = 0.6  DM lam=0.5  1/3   12   77.5  58.5  55.5  62.6
r = 0.6  DM lam=1    1/2   12   71.9  70.0  41.0  73.9
r = 0.6  DM lam=2    2/3   12   80.2  72.5  44.9  75.4
r = 0.8  CCE         0     -    36.1  16.1  54.3  18.4
r = 0.8  DM beta=0   None  0    44.4  28.2  20.6  28.8
r = 0.8  DM lam=0    0     0.5  46.2  21.3  27.8  23.1
r = 0.8  DM lam=0.5  1/3   8    51.6  22.4  46.1  24.4
r = 0.8  DM lam=1    1/2   8    35.5  31.5  19.8  32.3
r = 0.8  DM lam=2    2/3   12   33.0  32.8  14.2  32.6
"""


def rows_of(text):
    """Return the cells of a table, two spaces apart."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.strip("\n").splitlines()]


def by_row(text, scale=1):
    """Return the figures of a table that has its methods as rows."""
    return {
        name: [math.nan if v == "-" else round(scale * float(v), 1) for v in values] for name, *values in rows_of(text)
    }


def by_column(text):
    """Return the figures of a table that has its methods as columns, and the names of its rows."""
    methods, *rows = rows_of(text)
    return {m: [float(row[1 + i]) for row in rows] for i, m in enumerate(methods)}, [row[0] for row in rows]


def stated(recipe, metric=FINAL):
    """Return all figures of a recipe, those it quotes included."""
    quoted = {row.name: row.values for row in recipe.reported} if metric == recipe.metric else {}
    return {name: list(values) for name, values in {**recipe.paper.get(metric, {}), **quoted}.items()}


def same(ours, paper):
    assert ours.keys() == paper.keys()
    for name in paper:
        assert ours[name] == pytest.approx(paper[name], abs=0, rel=0, nan_ok=True), name
    return True


@pytest.mark.parametrize(
    ("name", "text", "scale"), [("table1", TABLE_1, 1), ("table2", TABLE_2, 100), ("table3", TABLE_3, 1)]
)
def test_tables_1_to_3_are_the_papers(name, text, scale):
    recipe = load_recipe(name)
    assert same(stated(recipe, recipe.metric), by_row(text, scale))


def test_table_4_is_the_papers():
    recipe = load_recipe("table4")
    paper, _ = by_column(TABLE_4)
    assert same(stated(recipe, "final_mean_average_precision"), {name: values[:1] for name, values in paper.items()})
    assert same(stated(recipe, "final_cmc_1"), {name: values[1:] for name, values in paper.items()})


@pytest.mark.parametrize(("name", "text"), [("table5", TABLE_5), ("table7", TABLE_7), ("table8", TABLE_8)])
def test_tables_5_7_and_8_are_the_papers(name, text):
    recipe = load_recipe(name)
    paper, columns = by_column(text)
    # "when the result is 0.5, the trained model is non-meaningful as IMDB has only two classes"
    assert same(stated(recipe), {m: [50.0 if v == 0.5 else v for v in values] for m, values in paper.items()})
    assert recipe.condition_names == columns


def test_table_6_is_the_papers():
    recipe = load_recipe("table6")
    paper = by_row(TABLE_6)
    assert same(stated(recipe), {name: values[:1] for name, values in paper.items()})
    assert same({k: list(v) for k, v in recipe.paper_spread.items()}, {name: v[1:] for name, v in paper.items()})
    assert recipe.seeds == 5


@pytest.mark.parametrize("name", ["table9", "figure5"])
def test_table_9_is_the_papers(name):
    recipe = load_recipe(name)
    metrics = ("best_test_accuracy", FINAL, "final_fit_noisy", "final_fit_true")
    cells = {(cell.condition, cell.method): cell.objective for cell in recipe.cells()}
    rows = rows_of(TABLE_9)
    for condition, method, mode, beta, *figures in rows:
        assert [recipe.paper_value(metric, method, condition) for metric in metrics] == list(map(float, figures))
        weighting = cells[condition, method].weighting
        expected = () if mode == "None" else (float(Fraction(mode)),)
        assert weighting.modes == pytest.approx(expected, abs=1e-15)
        if method != "CCE":
            assert weighting.beta == float(beta)
    for metric in metrics:
        assert set(recipe.paper[metric]) == {row[1] for row in rows}


def test_where_the_paper_leaves_beta_open_table_9_decides():
    best = {(c, m): float(beta) for c, m, _, beta, *_ in rows_of(TABLE_9) if m not in ("CCE", "DM beta=0")}
    cells = [cell for cell in load_recipe("table2").cells() if (cell.condition, cell.method) in best]
    assert len(cells) == 3 * 2
    assert all(cell.objective.weighting.beta == best[cell.condition, cell.method] for cell in cells)


@pytest.mark.parametrize(("number", "rate"), [(6, 0.2), (7, 0.4), (8, 0.6), (9, 0.8)])
def test_figures_6_to_9_try_the_papers_betas(number, rate):
    recipe = load_recipe(f"figure{number}")
    tried = {}
    for cell in recipe.cells():
        assert (cell.noise.kind, cell.noise.rate) == ("symmetric", rate)
        if isinstance(cell.objective.weighting, DM):
            tried.setdefault(cell.objective.weighting.lam, []).append(cell.objective.weighting.beta)
    assert tried == {0.0: [0.5, 1, 2, 4], 0.5: [4, 8, 12, 16], 1.0: [8, 12, 16, 20], 2.0: [12, 16, 20, 24]}
    assert f"{round(100 * rate)} %" in recipe.title
    best = {(m, float(b)) for c, m, _, b, *_ in rows_of(TABLE_9) if c == f"r = {rate}" and m[:6] == "DM lam"}
    assert best <= {(f"DM lam={lam:g}", beta) for lam, betas in tried.items() for beta in betas}
