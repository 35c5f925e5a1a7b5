"""The page of `tune`: the recommended settings, the trials, and the reasons."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from emphasis.diagnostics.plots.audit import score_figure
from emphasis.diagnostics.plots.figures import edf_figure
from emphasis.diagnostics.plots.pages import chart, page_environment
from emphasis.diagnostics.plots.tune import TrialPoint, trials_figure
from emphasis.experiments.studies.audit_result import PAGE
from emphasis.experiments.studies.search import Trial
from emphasis.experiments.studies.tune import AUDIT, TUNE
from emphasis.experiments.studies.tuning_result import TuningResult, described, weighting_of
from emphasis.texts import inline_table
from emphasis.weighting import CCE

_AXIS = "weighting.beta"


def tune_page(tuned: TuningResult, command: Sequence[str] = ()) -> str:
    """Return the page as self-contained HTML.

    Args:
        tuned: The result of `tune`.
        command: The command that repeats it.
    """
    audit = tuned.audit
    return (
        page_environment("emphasis.experiments.reports")
        .get_template("tune.html.j2")
        .render(
            tuned=tuned,
            best=tuned.search.best,
            worst=min(trial.mean for trial in tuned.search.trials),
            described=described,
            weighting=inline_table(tuned.weighting.to_dict()),
            drawn=chart(lambda narrow: _trials(tuned, narrow)),
            density=chart(lambda narrow: edf_figure([tuned.best_weighting, CCE()], narrow=narrow)),
            scores=None
            if audit is None
            else chart(
                lambda narrow: score_figure(
                    audit.suspects.score,
                    {"others": ~audit.suspects.suspect, "suspects: outvoted labels": audit.suspects.suspect},
                    narrow=narrow,
                )
            ),
            command=shlex.join(command),
            tune_name=TUNE,
            audit_page=f"{AUDIT}/{PAGE}",
        )
    )


def _trials(tuned: TuningResult, narrow: bool) -> Any:
    """Return the trials' figure: along beta if it was searched, else along the trials' numbers."""
    search = tuned.search
    along = all(_AXIS in trial.settings for trial in search.trials)

    def tried(number: int, trial: Trial) -> TrialPoint:
        return TrialPoint(trial.settings[_AXIS] if along else number, trial.mean, trial.folds == tuned.folds)

    groups: dict[str, list[TrialPoint]] = {}
    for number, trial in enumerate(search.trials):
        form = "vanishing " if getattr(weighting_of(tuned.lam, trial.settings), "vanishing", False) else ""
        name = f"{form}DM, {trial.settings.get('normalization', 'integral')}"
        groups.setdefault(name, []).append(tried(number, trial))
    best = tried(search.trials.index(search.best), search.best)
    return trials_figure(
        dict(sorted(groups.items())),
        "beta" if along else "trial",
        best,
        float(np.nan_to_num(tuned.baseline.mean)),
        along,
        narrow=narrow,
    )
