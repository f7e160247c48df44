"""Which markets cannot be calibrated, and why.

A market that cannot keeps its row, its evidence and a reason, but has no parameters. Peers may lend it impact and
volatility, never volume or price.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from tributary_opt import schema
from tributary_opt.settings import CalibrationRules


class Reasons:
    """For each market the first reason that holds, in the order in which they are noted."""

    def __init__(self, n: int):
        self.reason = np.full(n, "", dtype=object)
        self.detail = np.full(n, "", dtype=object)

    def note(self, reason: str, holds: np.ndarray, detail: pd.Series) -> None:
        if reason not in schema.PARAMETER_REASONS:
            raise ValueError(f"reason must be one of {schema.PARAMETER_REASONS}, got {reason!r}")
        fresh = np.asarray(holds, dtype=bool) & (self.reason == "")
        self.reason[fresh] = reason
        self.detail[fresh] = detail.to_numpy(dtype=object)[fresh]


def refusals(
    statistics: pd.DataFrame,
    reference: pd.DataFrame,
    rules: CalibrationRules,
    session_end: pd.Series,
) -> Reasons:
    """The first reason that holds for each market; its volatility is judged later, when the peers have spoken.

    Parameters
    ----------
    statistics : DataFrame
        One row a market, as `market_data.statistics.window_statistics` gives it.
    reference : DataFrame
        `ReferenceData.of` the same rows in the same order.
    rules : CalibrationRules
    session_end : Series of datetime64[us, UTC]
        End of each market's last trading day, same rows: what resolves before it is resolved.
    """
    s, reasons = statistics, Reasons(len(statistics))
    n_trades, n_bad = s["n_trades"].to_numpy(), s["n_bad_trades"].to_numpy()
    problem = reference["reference_problem"].astype(str)
    reasons.note("unsupported_contract", (problem != "").to_numpy(), problem)

    resolution = reference["resolution_time"]
    resolved = (resolution.notna() & (resolution.array <= session_end.array)).to_numpy()
    reasons.note("resolved", resolved, text("resolution_time ", resolution, " is not after the last day used"))

    bad_share = n_bad / np.maximum(n_trades + n_bad, 1)
    reasons.note(
        "bad_source_rows",
        bad_share > rules.max_bad_share,
        text("", s["n_bad_trades"], " of ", s["n_trades"] + s["n_bad_trades"], " trades have no usable price or size"),
    )
    reasons.note("no_trades", n_trades == 0, text("no trade in ", s["n_days"], " trading days"))
    reasons.note(
        "stale",
        s["days_since_newest"].to_numpy() > rules.stale_after_days,
        text("newest row ", s["days_since_newest"], f" trading days before as_of, more than {rules.stale_after_days}"),
    )
    jump = s["source_jump"].astype(str)
    reasons.note(
        "units_in_doubt",
        jump.str.contains(f"{schema.SUSPECTED}|{schema.MIXED}").to_numpy(),
        text("", jump, "; the next day with trades tells which unit volume is in"),
    )
    reasons.note(
        "too_few_trades",
        n_trades < rules.min_trades,
        text("", s["n_trades"], f" trades, fewer than {rules.min_trades}"),
    )
    reasons.note(
        "too_few_hours",
        s["active_hours"].to_numpy() < rules.min_active_hours,
        text("trades in ", s["active_hours"], f" clock hours, fewer than {rules.min_active_hours}"),
    )
    price, spread = s["price"].to_numpy(), s["spread"].to_numpy()
    reasons.note(
        "no_two_sided_book",
        ~(np.isfinite(price) & np.isfinite(spread)),
        text("of ", s["n_snapshots"], " looks at the book none had both sides for any time, and trades show no spread"),
    )

    probability = (reference["kind"] == "probability").to_numpy()
    tick = reference["tick_size"].to_numpy(dtype=float)
    tick = np.where(np.isnan(tick), np.where(probability, rules.probability_tick, 0.0), tick)
    room = np.where(probability, np.minimum(price, 1.0 - price), price)
    # A price is a whole number of ticks only to rounding: half a millionth of a tick decides nothing else.
    reasons.note(
        "price_at_bound",
        room <= (rules.bound_ticks + 1e-6) * tick,
        text("price ", s["price"], f" is within {rules.bound_ticks:g} ticks of ", pd.Series(tick), " of its bound"),
    )
    reasons.note(
        "wide_spread",
        spread > rules.max_spread_share * room,
        text("spread ", s["spread"], f" is more than {rules.max_spread_share:g} of ", pd.Series(room)),
    )
    return reasons


def text(*parts: str | pd.Series) -> pd.Series:
    """Texts of one row each, put together from words and columns."""
    columns = [p for p in parts if isinstance(p, pd.Series)]
    out = pd.Series("", index=range(len(columns[0])), dtype=object)
    for part in parts:
        if isinstance(part, str):
            out = out + part
        elif part.dtype.kind == "f":
            out = out + part.map("{:.6g}".format).to_numpy()
        else:
            out = out + part.astype(str).to_numpy()
    return out
