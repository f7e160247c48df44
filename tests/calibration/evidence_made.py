"""Impact evidence by hand: what is not named is not known."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from numpy.typing import ArrayLike

from tributary_opt import schema
from tributary_opt.calibration.impact_evidence import ImpactEvidence


def evidence(n_markets: int, **columns: ArrayLike) -> ImpactEvidence:
    """Evidence of so many markets; a column is one value for each market, the same in every bucket length."""
    shape = (n_markets, len(schema.IMPACT_BUCKETS))
    for name in ("n_effective", "n_direct_effective"):
        columns.setdefault(name, columns.get("n_clusters", np.zeros(n_markets)))
    columns.setdefault("n_direct", columns.get("n", np.zeros(n_markets)))
    arrays: dict[str, object] = {}
    for field in fields(ImpactEvidence):
        empty = np.zeros(shape) if field.name.startswith("n") else np.full(shape, np.nan)
        arrays[field.name] = np.ones(shape) if field.name.endswith("uncapped") else empty
        if field.name in columns:
            arrays[field.name] = np.repeat(np.asarray(columns[field.name], dtype=float)[:, None], shape[1], axis=1)
        elif field.name.endswith("reason") or field.name == "cluster":
            arrays[field.name] = np.full(shape, "", dtype=object)
    if "flow_variance" not in columns:
        arrays["flow_variance"] = np.square(arrays["flow_rms"])
    arrays |= {"buckets": schema.IMPACT_BUCKETS}
    arrays |= {name: np.full(n_markets, "", dtype=object) for name in ("market_id", "token_id")}
    return ImpactEvidence(**arrays)  # type: ignore[arg-type]
