"""The encoding of a table's columns and the calibration of probabilities as nodes of an ONNX graph, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from emphasis.datasets.table_encoder import Column, DateColumn, LevelsColumn, NumericColumn
from emphasis.datasets.table_features import DATE_PARTS, aliases
from emphasis.errors import EmphasisValueError
from emphasis.tabular.calibration import LEAST, Calibration

_DAYS_BEFORE_1970 = 719468  # since March 1 of year 0
_DAYS_OF_400_YEARS = 146097


class Graph:
    """Nodes and constants of an ONNX graph under construction.

    Attributes:
        nodes: Nodes in the order in which they are computed.
        constants: Initializers.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: Any) -> str:
        """Add a constant, and return its name."""
        name = f"emphasis/constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, operator: str, *inputs: str | float, domain: str = "", **attributes: Any) -> str:
        """Add a node, whose inputs are names or numbers in float64, and return the name of its output."""
        names = [value if isinstance(value, str) else self.constant(np.float64(value)) for value in inputs]
        output = f"emphasis/value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], domain=domain, **attributes))
        return output

    def cast(self, value: str, to: int = TensorProto.DOUBLE) -> str:
        """Add a conversion to another type."""
        return self.add("Cast", value, to=to)


def column_input(column: Column) -> onnx.ValueInfoProto:
    """Return the input of a column: (N, 1) texts of categories, numbers, or days since 1970 of dates."""
    kind = TensorProto.STRING if isinstance(column, LevelsColumn) else TensorProto.DOUBLE
    return helper.make_tensor_value_info(column.name, kind, ["N", 1])


def add_column(graph: Graph, column: Column) -> list[str]:
    """Add the encoding of a column, and return the names of its features, each of shape (N, 1 or more).

    Raises:
        EmphasisValueError: The column is a column of text, whose encoding has no equivalent in ONNX.
    """
    if isinstance(column, NumericColumn):
        return _add_numbers(graph, column, column.name)
    if isinstance(column, LevelsColumn):
        return [_add_levels(graph, column)]
    if isinstance(column, DateColumn):
        return _add_dates(graph, column)
    raise EmphasisValueError(
        f"the column {column.name!r} holds text, whose encoding cannot be exported; fit without it to export the model"
    )


def _add_numbers(graph: Graph, column: NumericColumn, value: str) -> list[str]:
    absent = graph.add("IsNaN", value)
    scaled = graph.add("Div", graph.add("Where", absent, column.median, value), column.scale)
    standardized = graph.add("Div", graph.add("Sub", scaled, column.mean), column.deviation)
    return [standardized, graph.cast(absent)] if column.gaps else [standardized]


def _add_levels(graph: Graph, column: LevelsColumn) -> str:
    code_of = {"" if level is None else level: code for code, level in enumerate(column.levels)}
    known = aliases([level for level in column.levels if level is not None])
    code_of |= {text: code_of[level] for text, level in known.items()}
    code_of.setdefault("", -2)  # a missing value is not another value
    codes = graph.add(
        "LabelEncoder",
        column.name,
        domain="ai.onnx.ml",
        keys_strings=list(code_of),
        values_int64s=list(code_of.values()),
        default_int64=-1,
    )
    numbers = [*range(len(column.levels)), *((-1,) if column.others else ())]
    return graph.cast(graph.add("Equal", codes, graph.constant(np.array(numbers))))


def _add_dates(graph: Graph, column: DateColumn) -> list[str]:
    from emphasis.datasets.table_encoder import as_timestamp

    first = as_timestamp(column.first)
    offset = (first - as_timestamp("1970-01-01")) / (as_timestamp("1970-01-02") - as_timestamp("1970-01-01"))
    values = dict(zip(DATE_PARTS, _date_parts(graph, column.name, float(offset)), strict=True))
    features = [_add_numbers(graph, part, values[part.name])[0] for part in column.parts]
    return [*features, graph.cast(graph.add("IsNaN", column.name))] if column.gaps else features


def _date_parts(graph: Graph, date: str, first: float) -> tuple[str, str, str, str, str]:
    """Add the date's year, month, day and weekday in the Gregorian calendar, and the days since the first date."""

    def floor(value: str, divisor: float = 1.0) -> str:
        return graph.add("Floor", graph.add("Div", value, divisor))

    def times(value: str, factor: float) -> str:
        return graph.add("Mul", value, factor)

    def minus(value: str, other: str | float) -> str:
        return graph.add("Sub", value, other)

    def plus(value: str, other: str | float) -> str:
        return graph.add("Add", value, other)

    # Years are counted from March, so that a leap day is the last of its year, in cycles of 400 years.
    day_number = plus(floor(date), float(_DAYS_BEFORE_1970))
    cycle = floor(day_number, _DAYS_OF_400_YEARS)
    day_of_cycle = minus(day_number, times(cycle, _DAYS_OF_400_YEARS))
    leap = plus(minus(floor(day_of_cycle, 36524), floor(day_of_cycle, 1460)), day_of_cycle)
    year_of_cycle = floor(minus(leap, floor(day_of_cycle, 146096)), 365)
    days = plus(times(year_of_cycle, 365), minus(floor(year_of_cycle, 4), floor(year_of_cycle, 100)))
    day_of_year = minus(day_of_cycle, days)
    month_from_march = floor(plus(times(day_of_year, 5), 2.0), 153)
    day = plus(minus(day_of_year, floor(plus(times(month_from_march, 153), 2.0), 5)), 1.0)
    in_next_year = graph.cast(graph.add("GreaterOrEqual", month_from_march, 10.0))
    month = minus(plus(month_from_march, 3.0), times(in_next_year, 12))
    year = plus(plus(times(cycle, 400), year_of_cycle), in_next_year)
    from_monday = plus(floor(date), 3.0)
    weekday = minus(from_monday, times(floor(from_monday, 7), 7))
    return year, month, day, weekday, minus(date, first)


def add_calibration(graph: Graph, calibration: Calibration, p: str) -> str:
    """Add the calibration of probabilities (N, C), and return the name of the result."""
    curves = calibration.curves
    add_curve: Callable[[Graph, Any, str], str] = _add_sigmoid if calibration.method == "sigmoid" else _add_line
    columns = [1] if len(curves) == 1 else range(len(curves))
    calibrated = []
    for k, curve in zip(columns, curves, strict=True):
        column = graph.add("Gather", p, graph.constant(np.array([k])), axis=1)
        calibrated.append(add_curve(graph, curve, _log_odds(graph, column)) if curve else column)
    if len(curves) == 1:
        return graph.add("Concat", graph.add("Sub", 1.0, calibrated[0]), calibrated[0], axis=1)
    separate = graph.add("Concat", *calibrated, axis=1)
    return graph.add("Div", separate, graph.add("ReduceSum", separate, graph.constant(np.array([1])), keepdims=1))


def _log_odds(graph: Graph, p: str) -> str:
    inside = graph.add("Min", graph.add("Max", p, LEAST), 1.0 - LEAST)
    return graph.add("Sub", graph.add("Log", inside), graph.add("Log", graph.add("Sub", 1.0, inside)))


def _add_sigmoid(graph: Graph, curve: Any, x: str) -> str:
    slope, intercept = curve
    exponent = graph.add("Add", graph.add("Mul", x, slope), intercept)
    inside = graph.add("Min", graph.add("Max", exponent, -500.0), 500.0)
    return graph.add("Div", 1.0, graph.add("Add", 1.0, graph.add("Exp", inside)))


def _add_line(graph: Graph, curve: Any, x: str) -> str:
    """Add a linear interpolation as computed by `numpy.interp`."""
    abscissas, ordinates = (np.asarray(part, np.float64) for part in curve)
    inside = graph.add("Min", graph.add("Max", x, abscissas[0]), abscissas[-1])
    if len(abscissas) == 1:
        return graph.add("Add", graph.add("Mul", inside, 0.0), ordinates[0])
    widths = np.diff(abscissas)
    slopes = np.divide(np.diff(ordinates), widths, out=np.zeros_like(widths), where=widths > 0)
    passed = graph.cast(graph.add("GreaterOrEqual", inside, graph.constant(abscissas[None, 1:-1])))
    count = graph.add("ReduceSum", passed, graph.constant(np.array([1])), keepdims=1)
    segment = graph.cast(count, TensorProto.INT64)
    left, low, slope = (
        graph.add("Gather", graph.constant(values), segment) for values in (abscissas[:-1], ordinates[:-1], slopes)
    )
    return graph.add("Add", low, graph.add("Mul", slope, graph.add("Sub", inside, left)))
