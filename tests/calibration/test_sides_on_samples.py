"""Given sides of sample markets, from ticks in a server to what is believed of them."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from made_markets import FIRST_DAY, coin, event, ticks_of
from tick_tables import load, market_days, observe, stored, window

from tributary_opt.calibration.sides import believed
from tributary_opt.market_data.statistics import window_statistics
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb

N_DAYS = 3
DAYS = [FIRST_DAY + timedelta(days=i) for i in range(N_DAYS)]
EVENTS = [
    event(market_id=f"event {i:02d}", token_id="yes", sigma=sigma, spread=spread, gamma=0.0)
    for i, (sigma, spread) in enumerate((s, w) for s in (0.005, 0.01, 0.02, 0.03) for w in (0.003, 0.005, 0.01))
]
STALE = [coin(market_id="coin"), coin(market_id="wild", sigma=5.0)]
"""Their mids move by more than a spread from look to look: hardly a trade can be compared."""


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.2])
def test_share_of_wrong_sides_is_found_whatever_the_pace_of_the_mids(db: QuestDB, wrong: float) -> None:
    trades, books = ticks_of([*EVENTS, *STALE], N_DAYS)
    flipped = np.random.default_rng(4).random(len(trades)) < wrong
    side = trades["side"].astype(object)
    trades["side"] = side.where(~flipped, side.map({"buy": "sell", "sell": "buy"}))
    load(db, trades, books)
    days = market_days(db)
    observe(days, DAYS[-1])
    of = window_statistics(stored(days, DAYS[-1]), window("24/7", DAYS)).set_index("market_id")
    every = np.full(len(of), True)
    found = believed(of, np.where(every, "price", None), every, None)
    accuracy, compared = pd.Series(found.accuracy, of.index), of["sides_compared"]
    assert (compared[[m.market_id for m in STALE]] < 0.02 * of["n_trades"].max()).all()
    assert (compared[[m.market_id for m in EVENTS]] > 100).all()
    if wrong == 0.0:
        assert (accuracy == 1.0).all()
        assert of["sides_contradicted"].max() < 0.01
    else:
        assert (abs(accuracy - (1 - wrong)) < 4 * found.se).all()
        assert accuracy[[m.market_id for m in EVENTS]].mean() == pytest.approx(1 - wrong, abs=0.01)
