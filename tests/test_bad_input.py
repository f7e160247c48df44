"""What bad source rows and tables come to: the stated outcome stands in each test's name.

A night over one table of markets with one thing wrong each, beside a sound one: whatever is wrong with a market, the
others have their rows and the night is published.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pytest
import questdb
from tick_tables import assert_same_rows, book, create, empty, load, send, trade

from tributary_opt import schema
from tributary_opt.market_data.source import SourceError
from tributary_opt.night import Choices, NightError, NightReport, run_night
from tributary_opt.settings import Grid, QuestDBServer, RiskLevel, Settings
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb

MONDAY, TUESDAY = datetime(2024, 3, 4, tzinfo=UTC), datetime(2024, 3, 5, tzinfo=UTC)
AS_OF = TUESDAY.date()
SMALL = Choices(grid=Grid(order_sizes_pct_adv=(1.0,), risk_levels=(RiskLevel(value=1.0),), n_steps=4))
INFINITY, HUGE, TINY = math.inf, 1e308, 1e-308


def sound(
    market: str | None, *, sides: tuple[str | None, str | None] = ("buy", "sell"), **more: Any
) -> tuple[list[dict], list[dict]]:
    """Ninety-six trades and looks at the book over two days; the same trade ids in every market."""
    trades, books = [], []
    for i in range(96):
        at = (MONDAY + timedelta(minutes=30 * i)).isoformat()
        price = 100.0 + 0.1 * math.sin(i)
        trades.append({**trade(at, market, price, 2.0, sides[i % 2]), "trade_id": str(i), **more})
        books.append({**book(at, market, price - 0.01, price + 0.01), **more})
    return trades, books


def night(db: QuestDB, home: Path, as_of: date | None = AS_OF, **kwargs: Any) -> NightReport:
    return run_night(Settings(home=home, questdb=db.server, _env_file=None), SMALL, as_of=as_of, **kwargs)


# --- one night over everything ------------------------------------------------------------------------------

IDS = [
    "it's", 'say "no"', "a;DROP TABLE trades", "back\\slash", "two\\\\", "line\nend", "tab\t", "%s", "{x}", "--",
    "/* */", "Zürich", "市場", "😀🚀", "e\u0301", "\u202eabc", "\uffee", "𝒳", " spaces ", "x" * 500, "NULL", "NaN",
]  # fmt: skip

BAD_TRADES: dict[str, tuple[list[tuple[float | None, float | None]], tuple[str, str | None], int]] = {
    # (price, size) added to a sound market's 96 trades, the verdict, the rows counted as bad
    "null": ([(None, 1.0), (100.0, None), (None, None)], ("ok", None), 3),
    "negative": ([(-1.0, 1.0), (100.0, -1.0)], ("ok", None), 2),
    "zero": ([(0.0, 1.0), (100.0, 0.0)], ("ok", None), 2),
    "infinite": ([(INFINITY, 1.0), (100.0, INFINITY), (-INFINITY, 1.0)], ("ok", None), 3),
    "huge": ([(HUGE, 1.0), (100.0, HUGE), (HUGE, HUGE)], ("ok", None), 3),
    "tiny": ([(TINY, 1.0), (100.0, TINY), (5e-324, 5e-324)], ("ok", None), 3),
    "five in a hundred": ([(0.0, 1.0)] * 5, ("ok", None), 5),
    "six in a hundred": ([(0.0, 1.0)] * 6, ("refused", "bad_source_rows"), 6),
    "all kinds": ([(v, 1.0) for v in (None, 0.0, -1.0, INFINITY, HUGE, TINY)], ("refused", "bad_source_rows"), 6),
}

BAD_BOOKS: dict[str, list[tuple[float | None, float | None]]] = {
    # (bid, ask) in place of a sound market's books: none has both sides
    "book of nulls": [(None, None)],
    "book of bids": [(99.0, None), (99.0, 0.0), (99.0, -1.0)],
    "book of asks": [(None, 101.0), (0.0, 101.0), (-99.0, 101.0)],
    "book of infinities": [(99.0, INFINITY), (-INFINITY, 101.0), (INFINITY, INFINITY)],
    "book beyond numbers": [(99.0, HUGE), (TINY, 101.0), (HUGE, HUGE)],
    "book crossed": [(101.0, 99.0)],
    "book locked": [(100.0, 100.0)],
}


@dataclass
class Outcome:
    """A night's report, and what lies in the database and in Parquet after it."""

    report: NightReport
    stored: pd.DataFrame
    published: pd.DataFrame
    by_bound_id: dict[str, int]
    log: str
    varchar: bool

    def row(self, market: str) -> dict[str, Any]:
        rows = self.report.parameters[self.report.parameters["market_id"] == market].to_dict("records")
        assert len(rows) == 1, market
        return rows[0]


@pytest.fixture(scope="module", params=["SYMBOL", "VARCHAR"])
def outcome(
    questdb_server: QuestDBServer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Outcome]:
    varchar = request.param == "VARCHAR"
    records: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    logger, kept = logging.getLogger("tributary_opt"), Kept(logging.INFO)
    level = logger.level
    logger.addHandler(kept)
    logger.setLevel(logging.INFO)
    home = tmp_path_factory.mktemp("bad")
    try:
        with QuestDB(questdb_server) as db:
            empty(db)
            create(db, varchar=varchar)
            load_everything(db, varchar=varchar)
            report = night(db, home, now=datetime(2024, 3, 10, tzinfo=UTC))
            bound = "SELECT count() FROM ac_trajectories_current WHERE market_id = %s"
            yield Outcome(
                report=report,
                stored=db.query("SELECT * FROM ac_parameters_current").to_pandas(),
                published=parquet(home, report),
                by_bound_id={m: db.rows(bound, (m,))[0][0] for m in [*IDS, "SOUND"]},
                log="\n".join(records),
                varchar=varchar,
            )
    finally:
        logger.removeHandler(kept)
        logger.setLevel(level)


def parquet(home: Path, report: NightReport) -> pd.DataFrame:
    files = [str(p) for p in (home / "parquet" / "ac_parameters").rglob("*.parquet") if report.run.run_id in str(p)]
    return ds.dataset(files).to_table().to_pandas()


def load_everything(db: QuestDB, *, varchar: bool) -> None:
    trades, books = sound("SOUND")
    for market in IDS:
        t, b = sound(market)
        trades, books = trades + t, books + b
    infinite: list[tuple[str, dict]] = []

    def add(table: str, row: dict) -> None:
        values = [row.get(c) for c in ("price", "size", "best_bid", "best_ask")]
        if any(v is not None and math.isinf(v) for v in values):
            infinite.append((table, row))  # our own client refuses to send one
        else:
            (trades if table == "trades" else books).append(row)

    for market, (rows, _, _) in BAD_TRADES.items():
        t, b = sound(market)
        trades, books = trades + t, books + b
        for i, (price, size) in enumerate(rows):
            at = (TUESDAY + timedelta(hours=3, seconds=i)).isoformat()
            add("trades", {**trade(at, market, price, size, "buy"), "trade_id": f"bad {i}"})
    for market, looks in BAD_BOOKS.items():
        t, b = sound(market)
        trades += t
        for i, look in enumerate(b):
            bid, ask = looks[i % len(looks)]
            add("orderbook_snapshots", {**look, "best_bid": bid, "best_ask": ask})
    t, b = sound("no side", sides=(None, None))
    trades, books = trades + t, books + b
    t, b = sound("strange side", sides=("BOUGHT", "SOLD"))
    trades, books = trades + t, books + b
    t, b = sound("no token", token_id=None)
    trades, books = trades + t, books + b
    for nameless in (None, ""):
        t, b = sound(nameless, token_id="nameless")
        trades, books = trades + t, books + b
    t, b = sound("flat")
    # A walk: of prices that go in circles the two scales say, rightly, that nothing moves.
    t = [{**one, "price": 100.0 + 0.1 * sum(math.sin(j * j) for j in range(i + 1))} for i, one in enumerate(t)]
    trades, books = trades + t, books + [{**look, "best_bid": 99.0, "best_ask": 101.0} for look in b]
    books += sound("only books")[1]
    t, b = sound("future")
    stamps = ("2099-01-01T00:00:00+00:00", "2024-03-11T00:00:00+00:00", "2024-03-10T00:00:00+00:00")
    trades += t + [{**trade(at, "future", 1e6, 1e6, "buy"), "trade_id": "later"} for at in stamps]
    books += [*b, book(stamps[0], "future", 1e6, 2e6)]
    if varchar:
        for market, token in (("nul\0market", "t"), ("nul token", "t\0")):
            t, b = sound(market, token_id=token)
            trades, books = trades + t, books + b

    t, b = sound("arrived late")
    send(db, "trades", t[::2])
    rng = np.random.default_rng(1)
    send(db, "trades", [trades[i] for i in rng.permutation(len(trades))])
    send(db, "orderbook_snapshots", [books[i] for i in rng.permutation(len(books))])
    send(db, "trades", t[::-1])  # half of them a second time
    send(db, "orderbook_snapshots", b)
    send(db, "orderbook_snapshots", b)
    conf = f"http::addr={db.server.host}:{db.server.http_port};auto_flush=off;"
    with questdb.Sender.from_conf(conf) as sender:
        for table, row in infinite:
            ids = {c: row[c] for c in ("market_id", "token_id", "side") if c in row}
            others = {c: v for c, v in row.items() if c not in ids and c != "timestamp" and v is not None}
            stamp = questdb.TimestampNanos(pd.Timestamp(row["timestamp"]).value)
            if varchar:
                sender.row(table, columns={**ids, **others}, at=stamp)
            else:
                sender.row(table, symbols=ids, columns=others, at=stamp)
    for table in ("trades", "orderbook_snapshots"):
        db.wait(table)
    # The server keeps them, though it shows NULL.
    kept = db.query("SELECT price FROM trades WHERE market_id = 'infinite'")["price"].to_numpy()
    assert np.isinf(kept).sum() == 2


def test_night_is_published_whatever_its_markets_hold(outcome: Outcome) -> None:
    assert outcome.report.outcome is not None
    assert outcome.report.outcome.current
    assert len(outcome.report.trajectories) == 5 * (outcome.report.parameters["status"] == "ok").sum()
    numbers = outcome.report.parameters.select_dtypes("number").to_numpy(dtype=float)
    assert not np.isinf(numbers).any()


@pytest.mark.parametrize("market", BAD_TRADES)
def test_trades_without_a_usable_price_or_size_are_counted_left_out_and_refuse_above_five_in_a_hundred(
    outcome: Outcome, market: str
) -> None:
    _, (status, reason), n_bad = BAD_TRADES[market]
    row, like = outcome.row(market), outcome.row("SOUND")
    assert row["status"] == status
    if reason is not None:
        assert row["reason"] == reason
    # Five in a hundred and one is under the threshold of 5 %.
    assert (row["n_bad_trades"], row["n_trades"]) == (n_bad, 96)
    # Not sigma: every market's leans on its peers, and the pool adds them up in an order.
    for name in ("adv", "last_trade_price", "sigma_measured", "sigma_parkinson", "spread", "volume_profile"):
        np.testing.assert_array_equal(row[name], like[name])


@pytest.mark.parametrize("market", BAD_BOOKS)
def test_book_without_two_sides_is_refused_as_such(outcome: Outcome, market: str) -> None:
    row = outcome.row(market)
    assert (row["status"], row["reason"]) == ("refused", "no_two_sided_book")
    assert "of 96 looks at the book none had both sides" in row["detail"]
    assert (row["n_snapshots"], row["two_sided_share"]) == (96, 0.0)
    expected = {"book of nulls": "empty", "book crossed": "crossed", "book locked": "crossed"}.get(market, "one_sided")
    if market in ("book of infinities", "book beyond numbers"):
        assert row["empty_share"] == pytest.approx(1 / 3)
        assert row["one_sided_share"] == pytest.approx(2 / 3)
    else:
        assert row[f"{expected}_share"] == 1.0


@pytest.mark.parametrize("market", ["no side", "strange side"])
def test_trade_without_a_known_side_is_signed_by_book_or_tick_and_the_row_says_so(
    outcome: Outcome, market: str
) -> None:
    row, like = outcome.row(market), outcome.row("SOUND")
    assert (row["status"], row["side_method"], like["side_method"]) == ("ok", "quote_rule", "given")
    assert (row["inferred_share"], like["inferred_share"], like["signed_share"]) == (row["signed_share"], 0.0, 1.0)
    assert row["signed_share"] > 0.9
    assert row["adv"] == like["adv"]


def test_missing_token_is_an_instrument_of_its_own(outcome: Outcome) -> None:
    row = outcome.row("no token")
    assert (row["status"], row["token_id"]) == ("ok", "")


def test_rows_without_a_market_are_left_out_counted_and_logged(outcome: Outcome) -> None:
    assert "nameless" not in set(outcome.report.parameters["token_id"])
    # Null and the empty text, 48 trades and 48 looks a day of each.
    assert "2024-03-04, 24/7: 192 rows without a market_id are left out" in outcome.log
    assert "2024-03-05, 24/7: 192 rows without a market_id are left out" in outcome.log


def test_market_with_nul_in_an_id_is_left_out_counted_and_logged(outcome: Outcome) -> None:
    """No SYMBOL can hold it, so that no row of ours could: a VARCHAR source may have such markets."""
    ids = set(outcome.report.parameters["market_id"]) | set(outcome.report.parameters["token_id"])
    assert not [i for i in ids if "\0" in i or i == "nul token"]
    assert outcome.log.count("192 rows with NUL in an id are left out") == (2 if outcome.varchar else 0)


def test_mid_that_never_moved_and_market_without_trades_say_so(outcome: Outcome) -> None:
    flat = outcome.row("flat")
    assert (flat["status"], flat["sigma_source"], flat["grade"]) == ("ok", "two_scale_trades", "D")  # its trades move
    assert outcome.row("only books")["reason"] == "no_trades"


def test_rows_stamped_in_the_future_are_counted_and_ignored(outcome: Outcome) -> None:
    """The night ran on 10 March: rows of that very day are not used yet, and not counted as wrong."""
    assert outcome.report.plan.future_rows == 3
    row, like = outcome.row("future"), outcome.row("SOUND")
    for name in ("status", "adv", "price", "n_trades", "n_snapshots", "last_trade_at"):
        assert row[name] == like[name]


def test_rows_out_of_order_and_sent_twice_are_the_same_rows(outcome: Outcome) -> None:
    assert_like_sound(outcome, "arrived late")


def assert_like_sound(outcome: Outcome, market: str) -> None:
    drop = ["market_id", "token_id"]
    rows = outcome.report.parameters
    mine, like = (rows[rows["market_id"] == m].drop(columns=drop).reset_index(drop=True) for m in (market, "SOUND"))
    assert_same_rows(mine, like)


@pytest.mark.parametrize("market", IDS, ids=ascii)
def test_any_text_is_a_market_id_from_ticks_to_published_rows(outcome: Outcome, market: str) -> None:
    """Equal trade ids in every market do not mix them."""
    assert_like_sound(outcome, market)
    assert outcome.row(market)["status"] == "ok"
    assert (outcome.stored["market_id"] == market).sum() == 1
    assert (outcome.published["market_id"] == market).sum() == 1
    assert outcome.by_bound_id[market] == outcome.by_bound_id["SOUND"] == 5


# --- tables -------------------------------------------------------------------------------------------------


def test_no_tables_is_refused_and_says_what_to_do(db: QuestDB, tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"table trades is missing: create it, or name yours in TRIBUTARY_SOURCE_TABLES"
    ):
        night(db, tmp_path)
    db.execute(schema.TRADES.ddl())
    with pytest.raises(SourceError, match="table orderbook_snapshots is missing"):
        night(db, tmp_path)


@pytest.mark.parametrize(("table", "column"), [("trades", "side"), ("orderbook_snapshots", "best_ask")])
def test_missing_column_is_refused_by_name(db: QuestDB, tmp_path: Path, table: str, column: str) -> None:
    create(db)
    db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    db.wait(table)
    with pytest.raises(SourceError, match=f"table {table} has no column {column}: add it, or name yours in"):
        night(db, tmp_path)


def test_missing_column_that_nothing_reads_is_no_matter(db: QuestDB, tmp_path: Path) -> None:
    load(db, *sound("M"))
    for table, column in (("trades", "value"), ("orderbook_snapshots", "bid_sizes")):
        db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        db.wait(table)
    assert night(db, tmp_path).parameters["status"].tolist() == ["ok"]


@pytest.mark.parametrize("column", ["price", "side"])
def test_column_of_a_wrong_type_is_refused_by_name(db: QuestDB, tmp_path: Path, column: str) -> None:
    wrong = {"price": "VARCHAR", "side": "DOUBLE"}[column]
    right = {"price": "DOUBLE", "side": "SYMBOL"}[column]
    create(db)
    db.execute("DROP TABLE trades")
    db.execute(schema.TRADES.ddl().replace(f"  {column} {right}", f"  {column} {wrong}"))
    with pytest.raises(SourceError, match=f"column {column} of table trades is {wrong}, must be one of"):
        night(db, tmp_path)


def test_every_fault_of_a_table_is_told_at_once(db: QuestDB, tmp_path: Path) -> None:
    create(db)
    for column in ("price", "size"):
        db.execute(f"ALTER TABLE trades DROP COLUMN {column}")
    db.wait("trades")
    with pytest.raises(SourceError, match=r"no column price: .*; table trades has no column size"):
        night(db, tmp_path)


@pytest.mark.parametrize("as_of", [None, AS_OF])
def test_empty_tables_are_a_night_without_a_market_and_refused(db: QuestDB, tmp_path: Path, as_of: date | None) -> None:
    create(db)
    with pytest.raises(NightError, match=r"no trade before today in the source|no market has a row in the window"):
        night(db, tmp_path, as_of=as_of)


def test_day_without_rows_is_a_day_without_trades(db: QuestDB, tmp_path: Path) -> None:
    load(db, *sound("M"))
    row = night(db, tmp_path, as_of=date(2024, 3, 7)).parameters.iloc[0]
    assert (row["status"], row["n_days"], row["n_days_traded"]) == ("ok", 4, 2)
    assert row["adv"] == 48.0
    later = night(db, tmp_path, as_of=date(2024, 3, 8)).parameters.iloc[0]
    assert (later["status"], later["reason"]) == ("refused", "stale")


def test_day_before_every_row_is_a_night_without_a_market_and_refused(db: QuestDB, tmp_path: Path) -> None:
    load(db, *sound("M"))
    with pytest.raises(NightError, match="no market has a row in the window"):
        night(db, tmp_path, as_of=date(2020, 1, 1))


def test_day_that_is_not_over_is_refused(db: QuestDB, tmp_path: Path) -> None:
    load(db, *sound("M"))
    with pytest.raises(
        NightError, match=r"as_of must be a day that is over, before 2024-03-05 \(UTC\), got 2024-03-05"
    ):
        night(db, tmp_path, now=TUESDAY + timedelta(hours=12))


def test_rows_twice_in_a_table_without_dedup_keys_count_twice(db: QuestDB, tmp_path: Path) -> None:
    """Nothing tells a repeated row from a second fill there; `load` refuses such a table."""
    trades, books = sound("M")
    create(db)
    db.execute("DROP TABLE trades")
    db.execute(schema.TRADES.ddl().split(" DEDUP")[0])
    send(db, "trades", trades + trades)
    send(db, "orderbook_snapshots", books)
    row = night(db, tmp_path).parameters.iloc[0]
    assert (row["n_trades"], row["adv"]) == (192, 192.0)


def test_only_rows_of_the_future_are_no_trades_before_today(db: QuestDB, tmp_path: Path) -> None:
    load(db, [trade("2099-01-01T00:00:00Z", "M", 1.0, 1.0)], [book("2099-01-01T00:00:00Z", "M", 1.0, 2.0)])
    with pytest.raises(NightError, match="no trade before today in the source"):
        night(db, tmp_path, as_of=None)


def test_reference_data_that_cannot_be_used_refuse_their_market_alone(db: QuestDB, tmp_path: Path) -> None:
    """Short texts in VARCHAR columns too, which a plain export of the server gives as nulls."""
    for market in ("A", "B", "C", "D"):
        load(db, *sound(market))
    ddl = schema.MARKETS.ddl().replace(" SYMBOL", " VARCHAR")
    db.execute(ddl)
    written = {
        "A": ("binary", "24/7", 0.0),
        "B": ("price", "NOPE", 0.0),
        "C": ("price", "24/7", -1.0),
        "D": ("price", "24/7", 0.01),
    }
    common = {"updated_at": "2020-01-01"}
    markets = [
        {**common, "market_id": m, "token_id": m, "kind": kind, "calendar": calendar, "taker_fee": fee}
        for m, (kind, calendar, fee) in written.items()
    ]
    send(db, "markets", markets)
    rows = night(db, tmp_path).parameters.set_index("market_id")
    assert rows["status"].to_dict() == {"A": "refused", "B": "refused", "C": "refused", "D": "ok"}
    assert set(rows.loc[["A", "B", "C"], "reason"]) == {"unsupported_contract"}
    assert rows["reference_source"].unique().tolist() == ["markets"]
    assert "got binary" in rows.loc["A", "detail"]
    assert "got 'NOPE'" in rows.loc["B", "detail"]
    assert rows.loc["D", "epsilon"] == pytest.approx(0.01 + 0.01 * rows.loc["D", "price"])
