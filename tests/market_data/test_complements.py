"""Complementary tokens: one series where reference data say so, each token's row the other's in the mirror."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from raw_days import raw_market_day
from tick_tables import assert_same_rows, book, load, market_days, observe, stored, trade

from tributary_opt.market_data.market_days import Window, in_order
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.market_data.statistics import window_statistics
from tributary_opt.night import Choices, run_night
from tributary_opt.settings import CalibrationRules, Grid, RiskLevel, Settings
from tributary_opt.storage.questdb import QuestDB

MONDAY = date(2024, 3, 4)
START, END = pd.Timestamp(MONDAY, tz="UTC"), pd.Timestamp("2024-03-05", tz="UTC")


def pair(no: str = "a:no", yes: str = "b:yes", **more: object) -> list[dict]:
    """Reference data of a market with two tokens; only the first says that there is another."""
    common = {"market_id": "M", "kind": "probability", "tick_size": 0.001, **more}
    return [{**common, "token_id": no, "complement_token_id": yes}]


def of(reference: list[dict], *tokens: str) -> list[str]:
    rows = pd.DataFrame({"market_id": "M", "token_id": list(tokens)})
    return list(ReferenceData(pd.DataFrame(reference)).of(rows)["folded_with"])


def test_tokens_are_folded_only_where_reference_data_say_so_and_agree() -> None:
    assert of(pair(), "a:no", "b:yes", "c") == ["b:yes", "a:no", ""]
    assert of(pair(kind="price"), "a:no", "b:yes") == ["", ""]
    (no,) = pair()
    yes = {**no, "token_id": "b:yes", "complement_token_id": None}
    assert of([no, yes], "a:no", "b:yes") == ["b:yes", "a:no"]
    assert of([no, {**yes, "complement_token_id": "c"}], "a:no", "b:yes", "c") == ["", "c", "b:yes"]
    assert of([no, {**yes, "kind": "price"}], "a:no", "b:yes") == ["", ""]
    assert of([no, {**yes, "calendar": "XNYS"}], "a:no", "b:yes") == ["", ""]
    assert of([{**no, "complement_token_id": "a:no"}], "a:no") == [""]
    assert of([no, {**no, "token_id": "c"}], "a:no", "b:yes", "c") == ["", "", ""]  # two say that it is theirs
    assert of([{"market_id": "M", "token_id": None, "kind": "probability"}], "a:no", "b:yes") == ["", ""]


def ticks(seed: int = 4, days: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trades and looks of two tokens of one market about 0.7 and 0.3; prices are whole thousandths."""
    rng = np.random.default_rng(seed)
    trades, books = [], []
    for token, centre, n in (("a:no", 0.3, 260), ("b:yes", 0.7, 340)):
        for i in range(n * days):
            at = (START + pd.Timedelta(int(rng.integers(86_400 * days)), "s")).isoformat()
            side = ("buy", "sell", None)[rng.integers(3)]
            price = round(centre + rng.integers(-30, 30) / 1000, 3)
            trades.append(
                {**trade(at, "M", price, float(rng.integers(1, 50)), side), "token_id": token, "trade_id": f"{i}"}
            )
            at = (START + pd.Timedelta(int(rng.integers(86_400 * days)), "s")).isoformat()
            bid, wide = round(centre + rng.integers(-30, 30) / 1000, 3), rng.integers(1, 6) / 1000
            ask = 1.0 if rng.random() < 0.05 else bid + wide
            books.append({**book(at, "M", 0.0 if rng.random() < 0.05 else bid, ask), "token_id": token})
    of_trades, of_books = (pd.DataFrame(rows) for rows in (trades, books))
    for frame in (of_trades, of_books):
        frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True).astype("datetime64[us, UTC]")
    # Of two looks or trades at one instant the later one is whichever token's comes last: no axis can settle that.
    of_trades, of_books = (frame.drop_duplicates("timestamp") for frame in (of_trades, of_books))
    return of_trades.sort_values("timestamp", kind="stable"), of_books.sort_values("timestamp", kind="stable")


def on_axis_of(token: str, trades: pd.DataFrame, books: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every tick as a tick of one token, in plain pandas."""
    trades, books = trades.copy(), books.copy()
    other = trades["token_id"] != token
    trades.loc[other, "price"] = 1 - trades.loc[other, "price"]
    trades.loc[other, "side"] = trades.loc[other, "side"].map({"buy": "sell", "sell": "buy"})
    other = books["token_id"] != token
    bid, ask = books["best_bid"].copy(), books["best_ask"].copy()
    books.loc[other, "best_bid"] = np.where(ask[other] < 1, 1 - ask[other], 0.0)
    books.loc[other, "best_ask"] = np.where(bid[other] > 0, 1 - bid[other], 1.0)
    return trades, books


@pytest.mark.questdb
def test_row_of_either_token_is_what_all_ticks_make_on_its_axis(db: QuestDB) -> None:
    trades, books = ticks()
    trades["side"] = trades["side"].fillna("buy")  # whom a side is inferred from is a matter of one token's own ticks
    load(db, trades, books)
    rows = market_days(db, pair()).read(MONDAY).set_index("token_id")
    assert rows["folded_with"].to_dict() == {"a:no": "b:yes", "b:yes": "a:no"}
    # A look stands until the same token's next one: time is no sum over one series.
    of_time = ("quoted_seconds", "spread_seconds", "effective_volume", "effective_spread_volume")
    # Nor is it which of one token's mids its trades are held against.
    of_time += ("n_quote_rule_fresh", "n_sides_compared", "n_sides_contradicted")
    of_time += ("compared_volume", "compared_size_squared", "contradicted_volume")
    for token in ("a:no", "b:yes"):
        raw = raw_market_day(*on_axis_of(token, trades, books), START, END, probability=True)
        for name, expected in raw.items():
            if name in of_time or name == "flow_cap":
                continue
            found = rows.loc[token, name]
            if isinstance(expected, pd.Timestamp):
                assert found == expected, name
            else:
                np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=f"{token} {name}")


@pytest.mark.questdb
def test_parameters_of_both_tokens_are_identical_and_volume_is_counted_once(db: QuestDB, tmp_path: Path) -> None:
    trades, books = ticks(days=2)
    load(db, trades, books, pair(resolution_time=pd.Timestamp("2024-04-01", tz="UTC")))
    choices = Choices(
        calibration=CalibrationRules(max_spread_share=1.0),
        grid=Grid(order_sizes_pct_adv=(1.0,), risk_levels=(RiskLevel(value=1.0),), n_steps=4),
    )
    report = run_night(Settings(home=tmp_path, questdb=db.server, _env_file=None), choices, as_of=date(2024, 3, 5))
    no, yes = report.parameters.sort_values("token_id").to_dict("records")
    assert (no["status"], yes["status"]) == ("ok", "ok")
    assert (no["folded_with"], yes["folded_with"]) == ("b:yes", "a:no")
    for name in ("eta", "gamma", "sigma", "sigma_se", "sigma_prior", "epsilon", "spread", "adv", "n_trades"):
        assert no[name] == yes[name], name
    assert no["adv"] == trades["size"].sum() / 2
    assert no["price"] == 1 - yes["price"]
    assert report.run.source_trades == len(trades)
    assert report.run.source_snapshots == len(books)


@pytest.mark.questdb
def test_parameters_do_not_mind_which_token_is_called_yes(db: QuestDB) -> None:
    """p → 1 - p: the same ticks under swapped names."""
    trades, books = ticks()
    window = Window.of(MONDAY, 1, ["24/7"])

    def statistics(swap: dict[str, str]) -> pd.Series:
        db.execute("DROP TABLE IF EXISTS trades")
        db.execute("DROP TABLE IF EXISTS orderbook_snapshots")
        load(db, trades.replace({"token_id": swap}), books.replace({"token_id": swap}))
        rows = market_days(db, pair()).read(MONDAY)
        return window_statistics(in_order(rows, window), window).set_index("token_id").loc[swap.get("b:yes", "b:yes")]

    one, other = statistics({}), statistics({"a:no": "b:yes", "b:yes": "a:no"})
    for name in ("adv", "price", "spread", "sigma", "sigma_se", "sigma_two_scale", "effective_spread", "signed_share"):
        assert one[name] == pytest.approx(other[name], rel=1e-9), name


@pytest.mark.questdb
def test_token_without_ticks_has_the_row_of_its_complement_and_lone_tokens_keep_theirs(db: QuestDB) -> None:
    trades, books = ticks()
    only_yes = trades[trades["token_id"] == "b:yes"], books[books["token_id"] == "b:yes"]
    load(db, *only_yes)
    alone = market_days(db, [{"market_id": "M", "token_id": None, "kind": "probability"}]).read(MONDAY)
    folded = market_days(db, pair()).read(MONDAY).set_index("token_id")
    assert list(alone["token_id"]) == ["b:yes"]
    assert list(alone["folded_with"]) == [""]
    assert sorted(folded.index) == ["a:no", "b:yes"]
    (own,) = alone.to_dict("records")
    for name in ("volume", "notional", "realised_variance", "buy_volume", "open_price", "high_price", "spread_seconds"):
        assert folded.loc["b:yes", name] == pytest.approx(own[name], rel=1e-12), name
    assert folded.loc["a:no", "buy_volume"] == own["sell_volume"]


@pytest.mark.questdb
def test_pair_with_one_book_has_its_mids_and_signs_the_other_tokens_trades_by_ticks(db: QuestDB) -> None:
    """The limit that the module states: trades of no, without a book of its own, are signed by the tick rule."""
    trades, books = ticks()
    books = books[books["token_id"] == "b:yes"]
    load(db, trades, books)
    rows = market_days(db, pair()).read(MONDAY).set_index("token_id")
    db.execute("TRUNCATE TABLE trades")
    load(db, trades[trades["token_id"] == "b:yes"])
    (alone,) = (
        market_days(db, [{"market_id": "M", "token_id": None, "kind": "probability"}]).read(MONDAY).to_dict("records")
    )
    raw = raw_market_day(*on_axis_of("b:yes", trades, books), START, END, probability=True)
    for name in ("volume", "realised_variance", "n_mid_buckets", "first_mid", "open_price", "two_scale_variance"):
        assert rows.loc["b:yes", name] == pytest.approx(raw[name], rel=1e-9), name
    for name in ("n_quote_rule", "effective_volume", "effective_spread_volume", "n_sides_compared", "compared_volume"):
        assert rows.loc["b:yes", name] == pytest.approx(alone[name], rel=1e-9), name
    of_no = (trades["token_id"] == "a:no") & trades["side"].isna()
    assert 0 <= of_no.sum() - (rows["n_tick_rule"] - alone["n_tick_rule"]).iloc[0] <= 1  # its first trade has no tick
    mirrored = {"n_tick_rule": "n_tick_rule", "buy_volume": "sell_volume", "realised_variance": "realised_variance"}
    for name, other in mirrored.items():
        assert rows.loc["a:no", name] == rows.loc["b:yes", other]


@pytest.mark.questdb
def test_day_is_read_again_when_tokens_become_complements_and_only_then(db: QuestDB) -> None:
    trades, books = ticks()
    load(db, trades, books)
    apart = [{"market_id": "M", "token_id": None, "kind": "probability"}]
    observe(market_days(db, apart), MONDAY, 1)
    window = Window.of(MONDAY, 1, ["24/7"])
    assert market_days(db, apart).outdated(window) == []
    days = market_days(db, pair())
    assert days.outdated(window) == [MONDAY]
    assert observe(days, MONDAY, 1) == [MONDAY]
    assert days.outdated(window) == []
    rows = stored(days, MONDAY, 1)
    assert_same_rows(rows, days.read(MONDAY).sort_values("token_id", ignore_index=True))
    assert set(rows["folded_with"]) == {"a:no", "b:yes"}
