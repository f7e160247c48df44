"""The 1 % / 10 % rule for every market at once, and the refusals that go before it.

Almgren & Chriss (2001, §3.4): trading 1 % of the daily volume a day costs one spread more, selling 10 % of it moves
the price by one spread. A market that cannot be calibrated keeps its row, its evidence and a reason, but has no
parameters.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from tributary_opt import schema
from tributary_opt.optimization.rule import rule_parameters
from tributary_opt.settings import CalibrationRules

OK, REFUSED = "ok", "refused"


def calibrate(
    statistics: pd.DataFrame, reference: pd.DataFrame, rules: CalibrationRules, session_end: pd.Series
) -> pd.DataFrame:
    """Parameters of every market, or why it has none.

    Parameters
    ----------
    statistics : DataFrame
        One row a market, as `market_data.statistics.window_statistics` gives it.
    reference : DataFrame
        `ReferenceData.of` the same rows in the same order.
    rules : CalibrationRules
    session_end : Series of datetime64[us, UTC]
        End of each market's last trading day, same rows: what resolves before it is resolved.

    Returns
    -------
    DataFrame
        The columns of `ac_parameters` less as_of and run_id, one row for each of `statistics`. A refused row has a
        reason of `schema.PARAMETER_REASONS` and no eta, gamma, epsilon. A row depends on nothing but its own market.
    """
    out = statistics.drop(columns=["days_since_newest"])
    for name in _FROM_REFERENCE:
        out[name] = reference[name].to_numpy() if name != "resolution_time" else reference[name].array
    reasons = _refusals(statistics, reference, rules, session_end)

    price, sigma = out["price"].to_numpy(), out["sigma"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        impact = rule_parameters(out["adv"].to_numpy(), out["spread"].to_numpy(), sigma / price, price)
        # Of p (1 - p) on prediction venues, the same for both tokens; else of the notional.
        per_contract = np.where(out["fee_kind"] == "probability", price * (1.0 - price), price)
        epsilon = impact.epsilon + out["taker_fee"].to_numpy() * per_contract
    usable = impact.valid & np.isfinite(epsilon)
    beyond = _text("spread ", out["spread"], " and volume ", out["adv"], " give impact beyond any number")
    reasons.note("bad_source_rows", ~usable, beyond)

    ok = reasons.reason == ""
    out["status"] = _either(ok, OK, REFUSED)
    out["reason"] = _either(ok, None, reasons.reason)
    out["detail"] = _either(ok, None, reasons.detail)
    out["eta"] = np.where(ok, impact.eta, np.nan)
    out["gamma"] = np.where(ok, impact.gamma, np.nan)
    out["epsilon"] = np.where(ok, epsilon, np.nan)
    out["reference_rate"] = np.where(ok, impact.reference_rate, np.nan)
    out["method"] = _either(ok, "rule", None)
    columns = [name for name in schema.PARAMETERS.names if name not in ("as_of", "run_id")]
    return out[columns]


_FROM_REFERENCE = (
    "kind",
    "reference_source",
    "calendar",
    "tick_size",
    "lot_size",
    "taker_fee",
    "fee_kind",
    "contract_multiplier",
    "resolution_time",
    "complement_token_id",
)


class _Reasons:
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


def _refusals(
    statistics: pd.DataFrame, reference: pd.DataFrame, rules: CalibrationRules, session_end: pd.Series
) -> _Reasons:
    s, reasons = statistics, _Reasons(len(statistics))
    n_trades, n_bad = s["n_trades"].to_numpy(), s["n_bad_trades"].to_numpy()
    problem = reference["reference_problem"].astype(str)
    reasons.note("unsupported_contract", (problem != "").to_numpy(), problem)

    resolution = reference["resolution_time"]
    resolved = (resolution.notna() & (resolution.array <= session_end.array)).to_numpy()
    reasons.note("resolved", resolved, _text("resolution_time ", resolution, " is not after the last day used"))

    bad_share = n_bad / np.maximum(n_trades + n_bad, 1)
    reasons.note(
        "bad_source_rows",
        bad_share > rules.max_bad_share,
        _text("", s["n_bad_trades"], " of ", s["n_trades"] + s["n_bad_trades"], " trades have no usable price or size"),
    )
    reasons.note("no_trades", n_trades == 0, _text("no trade in ", s["n_days"], " trading days"))
    reasons.note(
        "stale",
        s["days_since_newest"].to_numpy() > rules.stale_after_days,
        _text("newest row ", s["days_since_newest"], f" trading days before as_of, more than {rules.stale_after_days}"),
    )
    reasons.note(
        "too_few_trades",
        n_trades < rules.min_trades,
        _text("", s["n_trades"], f" trades, fewer than {rules.min_trades}"),
    )
    reasons.note(
        "too_few_hours",
        s["active_hours"].to_numpy() < rules.min_active_hours,
        _text("trades in ", s["active_hours"], f" clock hours, fewer than {rules.min_active_hours}"),
    )
    price, spread = s["price"].to_numpy(), s["spread"].to_numpy()
    reasons.note(
        "no_two_sided_book",
        ~(np.isfinite(price) & np.isfinite(spread)),
        _text(
            "of ", s["n_snapshots"], " looks at the book none had both sides for any time, and trades show no spread"
        ),
    )

    probability = (reference["kind"] == "probability").to_numpy()
    tick = reference["tick_size"].to_numpy(dtype=float)
    tick = np.where(np.isnan(tick), np.where(probability, rules.probability_tick, 0.0), tick)
    room = np.where(probability, np.minimum(price, 1.0 - price), price)
    # A price is a whole number of ticks only to rounding: half a millionth of a tick decides nothing else.
    reasons.note(
        "price_at_bound",
        room <= (rules.bound_ticks + 1e-6) * tick,
        _text("price ", s["price"], f" is within {rules.bound_ticks:g} ticks of ", pd.Series(tick), " of its bound"),
    )
    reasons.note(
        "wide_spread",
        spread > rules.max_spread_share * room,
        _text("spread ", s["spread"], f" is more than {rules.max_spread_share:g} of ", pd.Series(room)),
    )
    sigma = s["sigma"].to_numpy()
    reasons.note(
        "no_volatility",
        ~(np.isfinite(sigma) & (sigma > 0)),
        _text(
            "neither mid nor trades moved in ", s["n_days_quoted"], " days with a book, ", s["n_days_traded"], " traded"
        ),
    )
    return reasons


def _either(holds: np.ndarray, this: object, that: object) -> np.ndarray:
    """`np.where` of texts and None."""
    out = np.empty(len(holds), dtype=object)
    out[:] = that
    out[holds] = this
    return out


def _text(*parts: str | pd.Series) -> pd.Series:
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
