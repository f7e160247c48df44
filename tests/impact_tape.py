"""Market days from raw buckets, without the package's own sums: an oracle, and material for the tests of impact."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tributary_opt import schema

LENGTHS = (5, 15, 30, 60)


@dataclass
class Buckets:
    """The buckets of one market's day and one length, both ends of each move known."""

    q: np.ndarray
    r: np.ndarray
    y: np.ndarray
    block: np.ndarray
    flow: np.ndarray | None = None
    """What q was before its cap; None where it had none."""

    @property
    def signed(self) -> Buckets:
        keep = self.q != 0
        return Buckets(self.q[keep], self.r[keep], self.y[keep], self.block[keep])


def columns(b: Buckets | None, minutes: int) -> dict[str, object]:
    """The `impact_*` columns of a length; None: no trade had a sign."""
    of = dict.fromkeys(schema.IMPACT_COUNTS, 0) if b is None else moments(b)
    counts = {f"impact_{minutes}m_{called}": int(of[name]) for name, called in schema.IMPACT_COUNTS.items()}
    array = None if b is None else np.array([of[name] for name in schema.IMPACT_SUMS])
    return counts | {f"impact_{minutes}m": array}


def moments(b: Buckets) -> dict[str, float]:
    """What those columns hold, word by word from the schema's description."""
    q, r = b.q, b.r
    x, y = np.abs(b.signed.q), b.signed.y
    out: dict[str, float] = {"n": len(q), "m": len(x), "blocks": len(np.unique(b.signed.block))}
    for name in schema.IMPACT_RESPONSE[1:]:
        out[name] = float((q ** name.count("q") * r ** name.count("r")).sum())
    for name in schema.IMPACT_DIRECT[1:]:
        if set(name) <= {"x", "y"}:
            out[name] = float((x ** name.count("x") * y ** name.count("y")).sum())
    for tenths in (3, 4, 5, 6, 7, 8, 9):
        out[f"rq{tenths}"] = float((np.sign(q) * r * np.abs(q) ** (tenths / 10)).sum())
        if tenths != 5:
            out[f"x{2 * tenths}"] = float((np.abs(q) ** (tenths / 5)).sum())
    qr = [float((q * r)[b.block == k].sum()) for k in np.unique(b.block)]
    qq = [float((q * q)[b.block == k].sum()) for k in np.unique(b.block)]
    out["block_qr_qr"] = sum(v * v for v in qr)
    out["block_qr_qq"] = sum(v * w for v, w in zip(qr, qq, strict=True))
    out["block_qq_qq"] = sum(v * v for v in qq)
    out[schema.IMPACT_UNCAPPED] = float((q * (q if b.flow is None else b.flow)).sum())
    assert set(out) == set(schema.IMPACT_MOMENTS)
    return out


def market_day(
    day: int, buckets: Buckets | None, market: str = "M", *, hours: float = 24.0, lengths: Sequence[int] = LENGTHS
) -> dict[str, object]:
    """One row of `ac_market_days`, as far as impact is concerned: the same buckets at every length."""
    start = pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(days=day)
    row = {"day": start, "market_id": market, "token_id": "", "session_start": start}
    row["session_end"] = start + pd.Timedelta(hours=hours)
    for minutes in LENGTHS:
        row |= columns(buckets if minutes in lengths else None, minutes)
    return row


def frame(rows: Iterable[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows))


def draw(
    rng: np.random.Generator,
    n: int = 288,
    *,
    slope: float = 2e-5,
    exponent: float = 1.0,
    noise: float = 0.05,
    flow: float = 1_000.0,
    wrong: float = 0.0,
    half_spread: float = 0.01,
    eta: float = 3e-6,
) -> Buckets:
    """A day of buckets: flow t(4), moves slope·sign(q)|q|^exponent with noise t(4); a share of the signs is wrong."""
    q = flow * rng.standard_t(4, n)
    r = slope * np.sign(q) * np.abs(q) ** exponent + noise * rng.standard_t(4, n) / np.sqrt(2)
    y = half_spread + eta * np.abs(q) + noise * rng.standard_normal(n)
    seen = np.where(rng.random(n) < wrong, -q, q)
    return Buckets(seen, r, y, np.arange(n) * 12 // n)
