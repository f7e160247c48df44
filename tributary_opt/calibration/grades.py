"""A to D: how far to trust a row, from limits that are settings.

A grade is the worst of its criteria; `grade_reason` names those that decided it, with their figures. D is published and
flagged: its number stands on hardly any tape of its own.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tributary_opt.settings import GradeLimits

GRADES = "ABCD"

_CRITERIA: tuple[tuple[str, str, str, bool], ...] = (
    # limit, column, what to call it, whether more is better
    ("response_log_sd", "response_log_sd", "response known to a factor exp", False),
    ("sigma_log_sd", "sigma_log_sd", "relative error of sigma", False),
    ("epsilon_error", "epsilon_error", "relative error of epsilon", False),
    ("buckets", "response_n_signed", "buckets with flow and mids", True),
    ("signed_share", "signed_share", "share of the volume signed", True),
    ("data_age", "oldest_feed", "trading days old", False),
    ("model_risk", "model_risk", "laws apart by a factor", False),
    ("regret", "implied_regret", "implied regret", False),
)


def grade(parameters: pd.DataFrame, limits: GradeLimits) -> tuple[NDArray[np.object_], NDArray[np.object_]]:
    """Grade and reason of every row of `ac_parameters`; what is not known counts as the worst.

    The rule reads no response, so a market priced by it is C at best.
    """
    n = len(parameters)
    data_age, mid_age = (parameters[name].to_numpy(dtype=float) for name in ("data_age", "mid_age"))
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma_error, epsilon_error = (
            parameters[f"{name}_se"].to_numpy(dtype=float) / parameters[name].to_numpy(dtype=float)
            for name in ("sigma", "epsilon")
        )
    # Spread, volatility and response of a book that died are as old as its last look, however fresh trades are.
    oldest = np.where(np.isnan(mid_age), data_age, np.maximum(data_age, mid_age))
    figures = parameters.assign(sigma_log_sd=sigma_error, epsilon_error=epsilon_error, oldest_feed=oldest)
    by_rule = (parameters["method"] == "rule").to_numpy()
    scores, words = [np.where(by_rule, 2, 0)], [np.full(n, "by rule of thumb", dtype=object)]
    for limit, column, name, more in _CRITERIA:
        value = figures[column].to_numpy(dtype=float)
        bounds = np.array(getattr(limits, limit), dtype=float)
        within = value[:, None] >= bounds if more else value[:, None] <= bounds
        scores.append(np.where(within.any(axis=1), within.argmax(axis=1), 3))
        known = np.where(np.isfinite(value), np.char.mod("%.3g", value), "unknown")
        words.append(np.char.add(f"{name} ", known).astype(object))
    table = np.stack(scores)
    worst = table.max(axis=0) if n else np.zeros(0, dtype=int)
    letters = np.array(list(GRADES), dtype=object)[worst]
    why = np.full(n, "", dtype=object)
    for score, said_of in zip(table, words, strict=True):
        deciding = score == worst
        why = why + np.where(deciding & (why != ""), "; ", "") + np.where(deciding, said_of, "")
    return letters, np.where(worst > 0, why, "every limit of A is kept")
