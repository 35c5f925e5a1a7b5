"""What `emphasis fit --engine dask` refuses, and what it is needed for."""

import pytest

from emphasis.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.parquet", "b.parquet", "--label", "y"], "several files are fitted as one table by --engine dask only"),
        (["a.parquet", "--label", "y", "--workers", "2"], "--workers is for --engine dask"),
        (["a.parquet", "--engine", "dask"], "name the column to predict: --label COLUMN"),
        (["a.csv", "--label", "y", "--engine", "dask"], "--engine dask reads Parquet files, and not a.csv"),
        (["a.parquet", "--label", "y", "--engine", "dask", "--model", "net"], "trains xgboost, and not net"),
        (
            ["a.parquet", "--label", "y", "--engine", "dask", "--tune"],
            "--tune is not supported by --engine dask; search",
        ),
        (["a.parquet", "--label", "y", "--engine", "dask", "--executor", "ray"], "cannot be combined"),
        ([".", "--executor", "slurm"], "--executor slurm is for tables"),
        (["a.parquet", "--label", "y", "--address", "10.0.0.1:6379"], "--address is for --executor ray"),
        (["a.parquet", "--label", "y", "--engine", "dask", "--text", "t"], "--text is not supported by --engine dask"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments, message, capsys):
    assert main(["fit", *arguments]) == 2
    assert message in capsys.readouterr().err
