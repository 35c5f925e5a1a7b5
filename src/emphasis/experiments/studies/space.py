"""The space of a search: which settings are varied, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emphasis.experiments.recipes.convert import RecipeError
from emphasis.texts import toml_value

if TYPE_CHECKING:
    import optuna

_PARTS = ("weighting", "training", "solver", "network")


@dataclass(frozen=True)
class Vary:
    """A setting to vary: among `choices` if they are given, otherwise in a range.

    Attributes:
        name: PART.KEY of a method: weighting.KEY, training.KEY, solver.KEY, network.KEY, or normalization.
        choices: Values to choose from.
        low: Lower end of the range.
        high: Upper end of the range.
        log: Whether the range is searched on a logarithmic scale.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def suggest(self, trial: optuna.Trial) -> Any:
        """Return a value for a trial; values of a range have three digits, as they are printed."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        return float(f"{trial.suggest_float(self.name, self.low, self.high, log=self.log):.3g}")


DEFAULT_SPACE = (  # for DM: the emphasis modes 0, 1/3, 1/2 and 2/3, and the betas of Table 9 and Figures 6 to 11
    Vary("weighting.lam", (0.0, 0.5, 1.0, 2.0)),
    Vary("weighting.beta", low=0.5, high=24.0),
)


def parse_vary(text: str) -> Vary:
    """Return the setting that a text describes: "weighting.beta=4,8,12", "weighting.beta=0.5:24" or "...:log".

    Raises:
        RecipeError: If the text has neither form.
    """
    name, _, values = text.partition("=")
    part, _, key = name.partition(".")
    if not values or not (name == "normalization" or (part in _PARTS and key)):
        raise RecipeError(
            f"--vary {text!r} is not understood; use PART.KEY=A,B,C or PART.KEY=LOW:HIGH[:log], with a part of "
            f"{', '.join(_PARTS)}, such as weighting.beta=0.5:24"
        )
    if ":" not in values:
        return Vary(name, tuple(toml_value(value) for value in values.split(",")))
    ends = values.split(":")
    log = ends[2:] == ["log"]
    try:
        low, high = float(ends[0]), float(ends[1])
    except ValueError:
        low, high = 1.0, 0.0
    if not (low < high < math.inf) or len(ends) > 2 + log or (log and low <= 0.0):
        raise RecipeError(f"--vary {text!r}: {values!r} is no range; use LOW:HIGH with LOW < HIGH, or LOW:HIGH:log > 0")
    return Vary(name, low=low, high=high, log=log)
