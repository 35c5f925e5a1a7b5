"""The command `export`."""

from __future__ import annotations

import argparse

from emphasis.cli.options import Command, path_argument
from emphasis.texts import visible

_DESCRIPTION = """\
Write the model of a fit as one ONNX file that takes the columns of a table and returns the label
and the probability of each class, without emphasis or Python. It contains the encoding of the
columns, the model and its calibration, and is compared with the model by onnxruntime before it is
written: their probabilities differ by 1e-5 at most. Models that use columns of text cannot be
exported."""

_EXAMPLES = """\
examples:
  emphasis export runs/customers
  emphasis export runs/customers --out churn.onnx"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=path_argument, metavar="FOLDER", help="folder that `emphasis fit` wrote, such as runs/customers"
    )
    parser.add_argument("--to", choices=("onnx",), default="onnx", help="format (default: onnx)")
    parser.add_argument(
        "--out", type=path_argument, metavar="FILE", help="file to write (default: FOLDER/model/model.onnx)"
    )


def _export(options: argparse.Namespace) -> None:
    from emphasis.tabular.onnx_export import export_onnx

    exported = export_onnx(options.model, options.out)
    options.result = {
        "file": str(exported.path),
        "inputs": exported.inputs,
        "outputs": exported.outputs,
        "difference": exported.difference,
    }
    print(f"Written to {exported.path}; probabilities differ by at most {exported.difference:.1e}")
    for title, values in (("inputs, each of shape (N, 1)", exported.inputs), ("outputs", exported.outputs)):
        print(f"{title}:")
        for name, description in values.items():
            print(visible(f"  {name}: {description}"))


COMMANDS = [
    Command(
        name="export",
        summary="write a fitted model as an ONNX file",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        add_options=_add_options,
        handler=_export,
        extras=("export", "fit"),
        json_keys={
            "file": "file of the exported model",
            "inputs": "what each input holds, by name",
            "outputs": "what each output holds, by name",
            "difference": "largest difference of its probabilities from those of the model",
        },
    ),
]
