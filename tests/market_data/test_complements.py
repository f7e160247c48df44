"""Complementary tokens: one series where reference data say so, each token's row the other's in the mirror."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from raw_days import raw_market_day
from tick_tables import assert_same_rows, book, create, load, market_days, observe, stored, trade

from tributary_opt.market_data.market_days import Window, in_order
from tributary_opt.market_data.markets import ReferenceData
from tributary_opt.market_data.statistics import window_statistics
from tributary_opt.night import Choices, run_night
from tributary_opt.settings import CalibrationRules, Grid, RiskLevel, Settings
from tributary_opt.storage.questdb import QuestDB

MONDAY = date(2024, 3, 4)
START, END = pd.Timestamp(MONDAY, tz="UTC"), pd.Timestamp("2024-03-05", tz="UTC")


OF_TIME = ("quoted_seconds", "spread_seconds")
"""A look stands until the same token's next one: time is no sum over one series."""

OF_FIRST = ("price_step", "size_step", "step_at")
"""Where the price changed most, as a ratio, is told on the first token's axis."""


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


def ticks(seed: int = 4, days: int = 1, *, still: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trades and looks of two tokens of one market about 0.7 and 0.3; prices are whole thousandths.

    `still`: mids move little and spreads are wide, so that a mid stays fresh for minutes.
    """
    moves, width = (1, 10) if still else (30, 1)
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
            bid, wide = round(centre + rng.integers(-moves, moves) / 1000, 3), width * rng.integers(1, 6) / 1000
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


def assert_row(found: pd.Series, raw: dict, what: str) -> None:
    for name, expected in raw.items():
        if name in OF_FIRST and what.startswith("b:yes"):
            continue
        if isinstance(expected, pd.Timestamp):
            assert found[name] == expected, name
        elif name not in (*OF_TIME, "flow_cap"):
            np.testing.assert_allclose(found[name], expected, rtol=1e-9, atol=1e-12, err_msg=f"{what} {name}")


@pytest.mark.questdb
@pytest.mark.parametrize("still", [False, True])
def test_row_of_either_token_is_what_all_ticks_make_on_its_axis(db: QuestDB, still: bool) -> None:
    trades, books = ticks(still=still)
    load(db, trades, books)
    rows = market_days(db, pair()).read(MONDAY).set_index("token_id")
    assert rows["folded_with"].to_dict() == {"a:no": "b:yes", "b:yes": "a:no"}
    for token in ("a:no", "b:yes"):
        raw = raw_market_day(*on_axis_of(token, trades, books), START, END, probability=True)
        assert min(raw["n_quote_rule"], raw["n_tick_rule"]) > 0
        assert min(raw["n_quote_rule_fresh"], raw["n_sides_compared"], raw["n_sides_contradicted"]) > 0 or not still
        assert_row(rows.loc[token], raw, token)


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
@pytest.mark.parametrize("with_book", ["a:no", "b:yes"])
def test_trades_of_a_token_without_a_book_are_held_against_the_mids_of_its_complement(
    db: QuestDB, with_book: str
) -> None:
    trades, books = ticks(still=True)
    books = books[books["token_id"] == with_book]
    load(db, trades, books)
    rows = market_days(db, pair()).read(MONDAY).set_index("token_id")
    without = trades[trades["token_id"] != with_book]
    for token in ("a:no", "b:yes"):
        raw = raw_market_day(*on_axis_of(token, trades, books), START, END, probability=True)
        assert raw["n_tick_rule"] < without["side"].isna().sum() / 4  # by ticks they all went, token by token
        assert raw["n_sides_compared"] > 0
        assert_row(rows.loc[token], raw, token)


@pytest.mark.questdb
def test_row_does_not_say_on_which_token_the_tape_was_written(db: QuestDB) -> None:
    trades, books = ticks()
    found = {}
    for name, (of_trades, of_books) in {
        "mixed": (trades, books),
        "no": on_axis_of("a:no", trades, books),
        "yes": on_axis_of("b:yes", trades, books),
    }.items():
        if name != "mixed":
            token = {"no": "a:no", "yes": "b:yes"}[name]
            of_trades, of_books = of_trades.assign(token_id=token), of_books.assign(token_id=token)
        for table in ("trades", "orderbook_snapshots"):
            db.execute(f"DROP TABLE IF EXISTS {table}")
        load(db, of_trades, of_books)
        rows = market_days(db, pair()).read(MONDAY).set_index("token_id").loc[["a:no", "b:yes"]]
        found[name] = rows.drop(columns=["source_digest", *OF_TIME])
    for name in ("no", "yes"):
        pd.testing.assert_frame_equal(found[name], found["mixed"], rtol=1e-9, atol=1e-12)


def crowd() -> tuple[pd.DataFrame, pd.DataFrame, list[dict]]:
    """Ticks of pairs and of markets that do not fold, with and without sides, and what reference data say of them."""
    trades, books, reference = [], [], []
    for seed, kind in enumerate(("pair", "three tokens", "token missing", "no complement named")):
        for sides in ("given", "some"):
            market = f"{seed}{sides} {kind}"
            lone = {"market_id": market, "token_id": None, "kind": "probability"}
            reference += pair(market_id=market) if kind != "no complement named" else [lone]
            t, b = (table.assign(market_id=market) for table in ticks(seed=seed))
            if sides == "given":
                t["side"] = t["side"].fillna("sell")
            if kind in ("three tokens", "token missing"):
                third = "c" if kind == "three tokens" else None
                t["token_id"] = t["token_id"].where(np.arange(len(t)) % 5 > 0, third)
            trades.append(t)
            books.append(b)
    return pd.concat(trades), pd.concat(books), reference


@pytest.mark.questdb
def test_markets_that_fold_and_that_do_not_leave_each_other_alone(db: QuestDB, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which are asked about by ranges of ids, in which the others lie."""
    trades, books, reference = crowd()
    load(db, trades.sort_values("timestamp"), books.sort_values("timestamp"))
    keys = ["market_id", "token_id"]
    monkeypatch.setattr("tributary_opt.market_data.source._LONGEST_IN_LIST", 0)
    crowded = market_days(db, reference).read(MONDAY).sort_values(keys, ignore_index=True)
    alone = []
    for market in sorted(set(trades["market_id"])):
        for table in ("trades", "orderbook_snapshots"):
            db.execute(f"DROP TABLE {table}")
        load(db, trades[trades["market_id"] == market], books[books["market_id"] == market])
        alone.append(market_days(db, reference).read(MONDAY))
    together = pd.concat(alone, ignore_index=True).sort_values(keys, ignore_index=True)
    assert len(crowded) == 2 * (2 + 3 + 3 + 2)
    assert_same_rows(*(rows.drop(columns="source_digest") for rows in (crowded, together)))


@pytest.mark.questdb
@pytest.mark.parametrize("third", ["c", None, "a\0"])
def test_ticks_of_a_third_token_or_without_one_leave_sides_to_be_inferred_token_by_token(
    db: QuestDB, third: str | None
) -> None:
    trades, books = ticks(still=True)
    trades["token_id"] = trades["token_id"].where(np.arange(len(trades)) % 5 > 0, third)
    create(db, varchar=True)
    load(db, trades, books)
    plain = [{"market_id": "M", "token_id": None, "kind": "probability"}]
    apart = market_days(db, plain).read(MONDAY).set_index("token_id").loc[["a:no", "b:yes"]]
    rows = market_days(db, plain + pair()).read(MONDAY).set_index("token_id").loc[["a:no", "b:yes"]]
    for name in ("n_quote_rule", "n_tick_rule", "effective_volume", "n_sides_compared", "compared_volume"):
        assert rows[name].to_list() == pytest.approx([apart[name].sum()] * 2, rel=1e-12), name


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
