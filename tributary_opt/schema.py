"""Every table, read or written: columns, types, units, meaning and keys.

The one place that says them. DDL, views, Arrow schemas, Parquet metadata and the checks of a source are made
from here; nothing else spells a column's type or unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = 6
"""Raised when a published table changes; stands in the pointer row and in every Parquet file."""

MAX_STEPS: Final = 1_000
"""Longest schedule a table holds; the step view unrolls this many. [steps]"""

ARROW_TYPES: Final[dict[str, pa.DataType]] = {
    "TIMESTAMP": pa.timestamp("us", tz="UTC"),
    "SYMBOL": pa.string(),
    "VARCHAR": pa.string(),
    "DOUBLE": pa.float64(),
    "INT": pa.int32(),
    "LONG": pa.int64(),
    "BOOLEAN": pa.bool_(),
    "DOUBLE[]": pa.list_(pa.float64()),
}


@dataclass(frozen=True)
class Column:
    """One column: its SQL type, its unit and what it means."""

    name: str
    type: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """A table we write: columns, designated timestamp, dedup keys, partitioning."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...]
    """Dedup keys; the designated timestamp comes first."""
    partition_by: str

    @property
    def timestamp(self) -> str:
        """The designated timestamp."""
        return self.keys[0]

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def ddl(self) -> str:
        """The CREATE TABLE statement."""
        columns = ",\n  ".join(f"{c.name} {c.type}" for c in self.columns)
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name} (\n  {columns}\n) TIMESTAMP({self.timestamp}) "
            f"PARTITION BY {self.partition_by} WAL DEDUP UPSERT KEYS({', '.join(self.keys)})"
        )

    def arrow_schema(self, metadata: dict[str, str] | None = None) -> pa.Schema:
        """The Arrow schema, units and meanings as field metadata, `metadata` on the whole."""
        fields = [
            pa.field(c.name, ARROW_TYPES[c.type], metadata={"unit": c.unit, "meaning": c.meaning}) for c in self.columns
        ]
        return pa.schema(fields, metadata=metadata)


@dataclass(frozen=True)
class SourceColumn:
    """A column of a source table: what it is called by default and which types will do."""

    name: str
    types: tuple[str, ...]
    required: bool
    meaning: str
    create_as: str
    """Type given where we create the table ourselves (demo, `load`)."""


@dataclass(frozen=True)
class SourceTable:
    """A table we read and do not own."""

    name: str
    meaning: str
    columns: tuple[SourceColumn, ...]
    keys: tuple[str, ...]
    partition_by: str = "DAY"

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    def ddl(self, name: str | None = None, rename: dict[str, str] | None = None) -> str:
        """The CREATE TABLE statement with which we would create it, dedup keys included."""
        rename = rename or {}
        columns = ",\n  ".join(f"{rename.get(c.name, c.name)} {c.create_as}" for c in self.columns)
        keys = ", ".join(rename.get(k, k) for k in self.keys)
        return (
            f"CREATE TABLE IF NOT EXISTS {name or self.name} (\n  {columns}\n) "
            f"TIMESTAMP({rename.get(self.keys[0], self.keys[0])}) "
            f"PARTITION BY {self.partition_by} WAL DEDUP UPSERT KEYS({keys})"
        )


_TEXT = ("SYMBOL", "VARCHAR", "STRING")
_NUMBER = ("DOUBLE", "FLOAT", "INT", "LONG", "SHORT")
_TIME = ("TIMESTAMP", "TIMESTAMP_NS")


def _source(
    name: str, types: tuple[str, ...], meaning: str, create_as: str = "DOUBLE", required: bool = False
) -> SourceColumn:
    return SourceColumn(name, types, required, meaning, create_as)


SIDES: Final = {"buy": ("buy", "BUY", "Buy", "B", "b"), "sell": ("sell", "SELL", "Sell", "S", "s")}
"""Words that name an aggressor; every other one is read as none."""

TRADES: Final = SourceTable(
    "trades",
    "one row a trade",
    (
        _source("timestamp", _TIME, "time of the trade, UTC", "TIMESTAMP", required=True),
        _source("market_id", _TEXT, "the market", "SYMBOL", required=True),
        _source("token_id", _TEXT, "the instrument within the market", "SYMBOL", required=True),
        _source("side", _TEXT, "the aggressor: buy, Buy, BUY, B or b; sell likewise; or null", "SYMBOL", required=True),
        _source("trade_id", (*_TEXT, "LONG", "UUID"), "unique within the market", "VARCHAR", required=True),
        _source("price", _NUMBER, "quote currency per contract", required=True),
        _source("size", _NUMBER, "contracts", required=True),
        _source("value", _NUMBER, "price times size"),
        _source("is_buyer_maker", ("BOOLEAN",), "the buyer's order was resting", "BOOLEAN"),
    ),
    ("timestamp", "market_id", "token_id", "trade_id"),
)

ORDERBOOK_SNAPSHOTS: Final = SourceTable(
    "orderbook_snapshots",
    "one row a look at the book",
    (
        _source("timestamp", _TIME, "time of the snapshot, UTC", "TIMESTAMP", required=True),
        _source("market_id", _TEXT, "the market", "SYMBOL", required=True),
        _source("token_id", _TEXT, "the instrument within the market", "SYMBOL", required=True),
        _source("best_bid", _NUMBER, "quote currency per contract; 0 or null: no bid", required=True),
        _source("best_ask", _NUMBER, "quote currency per contract; null, or 1 of a probability: no ask", required=True),
        _source("bid_size", _NUMBER, "contracts at the best bid"),
        _source("ask_size", _NUMBER, "contracts at the best ask"),
        _source("mid_price", _NUMBER, "not read: means nothing where a side is missing"),
        _source("spread", _NUMBER, "not read: means nothing where a side is missing"),
        _source("spread_bps", _NUMBER, "not read"),
        _source("bid_prices", (*_TEXT, "DOUBLE[]"), "JSON array, best first", "VARCHAR"),
        _source("bid_sizes", (*_TEXT, "DOUBLE[]"), "JSON array, best first", "VARCHAR"),
        _source("ask_prices", (*_TEXT, "DOUBLE[]"), "JSON array, best first", "VARCHAR"),
        _source("ask_sizes", (*_TEXT, "DOUBLE[]"), "JSON array, best first", "VARCHAR"),
        _source("total_bid_volume", _NUMBER, "contracts bid"),
        _source("total_ask_volume", _NUMBER, "contracts offered"),
    ),
    ("timestamp", "market_id", "token_id"),
)

MARKETS: Final = SourceTable(
    "markets",
    "reference data, one row an instrument; where a row was written twice the newest counts",
    (
        _source("updated_at", _TIME, "when the row was written", "TIMESTAMP"),
        _source("market_id", _TEXT, "the market", "SYMBOL", required=True),
        _source("token_id", _TEXT, "the instrument; null: every one of the market", "SYMBOL", required=True),
        _source("kind", _TEXT, "price | probability", "SYMBOL", required=True),
        _source("complement_token_id", _TEXT, "the token whose price and this one's add up to 1", "SYMBOL"),
        _source("resolution_time", _TIME, "when a probability becomes 0 or 1", "TIMESTAMP"),
        _source("calendar", _TEXT, "24/7 or an exchange's code", "SYMBOL"),
        _source("tick_size", _NUMBER, "smallest price step"),
        _source("lot_size", _NUMBER, "smallest size step, contracts"),
        _source("taker_fee", _NUMBER, "rate of the fee that a taker pays, in the sense of fee_kind"),
        _source("fee_kind", _TEXT, "notional: rate times p per contract; probability: rate times p (1 - p)", "SYMBOL"),
        _source("contract_multiplier", _NUMBER, "units of the underlying in one contract"),
        _source("inverse", ("BOOLEAN",), "settled in the underlying; refused", "BOOLEAN"),
    ),
    ("updated_at", "market_id", "token_id"),
    "YEAR",
)

OWN_EXECUTIONS: Final = SourceTable(
    "own_executions",
    "one row a parent order: one decision to trade, however many fills it had",
    (
        _source("decided_at", _TIME, "when it was decided; orders decided after as_of do not count", "TIMESTAMP", True),
        _source("order_id", (*_TEXT, "LONG", "UUID"), "unique", "VARCHAR", required=True),
        _source("market_id", _TEXT, "the market", "SYMBOL", required=True),
        _source("token_id", _TEXT, "the instrument; null: the market's first", "SYMBOL"),
        _source("side", _TEXT, "buy | sell", "SYMBOL", required=True),
        _source("size", _NUMBER, "contracts", required=True),
        _source("arrival_price", _NUMBER, "mid when it was decided", required=True),
        _source("average_price", _NUMBER, "of its fills, by size; a fee is in none of them", required=True),
        _source("duration", _NUMBER, "from the decision to the last fill, in trading days", required=True),
        _source("post_price", _NUMBER, "mid some time after the last fill"),
        _source("post_duration", _NUMBER, "from the decision to that mid, in trading days"),
        _source("adv", _NUMBER, "average daily volume at the time; null: tonight's"),
        _source("sigma", _NUMBER, "volatility at the time, price per root of a day; null: tonight's"),
        _source("epsilon", _NUMBER, "half-spread at the time; null: tonight's"),
    ),
    ("decided_at", "order_id"),
    "YEAR",
)

SOURCE_TABLES: Final = {table.name: table for table in (TRADES, ORDERBOOK_SNAPSHOTS, MARKETS)}
READ_TABLES: Final = SOURCE_TABLES | {OWN_EXECUTIONS.name: OWN_EXECUTIONS}
"""With the user's own orders, which nobody needs to have."""


# --- what we write ------------------------------------------------------------------------------------------


def _symbol(name: str, meaning: str, unit: str = "") -> Column:
    return Column(name, "SYMBOL", unit, meaning)


def _text(name: str, meaning: str) -> Column:
    return Column(name, "VARCHAR", "", meaning)


def _double(name: str, unit: str, meaning: str) -> Column:
    return Column(name, "DOUBLE", unit, meaning)


def _int(name: str, meaning: str, unit: str = "-") -> Column:
    return Column(name, "INT", unit, meaning)


def _long(name: str, meaning: str, unit: str = "-") -> Column:
    return Column(name, "LONG", unit, meaning)


def _time(name: str, meaning: str) -> Column:
    return Column(name, "TIMESTAMP", "UTC", meaning)


_MARKET = (_symbol("market_id", "the market"), _symbol("token_id", "the instrument within the market"))

PARAMETER_DRIFTS: Final = ("adv", "epsilon", "eta", "gamma", "sigma")
"""Parameters whose change against the release before is a z-score in the row. That of epsilon is the half-spread's; of
alpha the tape says nothing, so that nothing of it can drift."""

IMPACT_BUCKETS: Final = (5, 15, 30, 60)
"""Bucket lengths of the impact sums. [minutes]"""

IMPACT_BLOCK_MINUTES: Final = 120
"""Length of the clock blocks by which errors are clustered where there are too few days. [minutes]"""

IMPACT_EXPONENTS: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Exponents of flow for which the sums of the power law are kept. [-]"""

IMPACT_RESPONSE: Final = ("n", "q", "r", "qq", "qr", "rr", "qqq", "qqr", "qrr", "qqqq", "qqqr", "qqrr")
"""Sums of the response: signed flow q and move r of the mid, by powers; what a line and its HC0 errors need."""

IMPACT_DIRECT: Final = ("m", "x", "y", "qq", "xy", "yy", "xxx", "xxy", "xyy", "qqqq", "xxxy", "xxyy")
"""The same of the direct cost y and of x = |q| over the m buckets with q ≠ 0; x² and x⁴ are q² and q⁴."""

IMPACT_POWER: Final = tuple(
    ("qr" if d == 1 else f"rq{10 * d:.0f}", {0.5: "x", 1.0: "qq"}.get(d, f"x{20 * d:.0f}")) for d in IMPACT_EXPONENTS
)
"""For each exponent d the sums of sign(q)·r·|q|^d and of |q|^(2d); two of the latter are among those above."""

IMPACT_BLOCK: Final = ("block_qr_qr", "block_qr_qq", "block_qq_qq")
"""Products of a block's own sums of qr and qq, summed over the blocks."""

IMPACT_UNCAPPED: Final = "q_uncapped"
"""Sum of q times the flow that it is within the cap: what the cap has taken from the slopes."""

IMPACT_COUNTS: Final = {"n": "pairs", "m": "signed", "blocks": "blocks"}
"""Sums that are counts: whole numbers in columns of their own, `impact_5m_pairs` and so on."""

IMPACT_SUMS: Final = tuple(
    name
    for name in dict.fromkeys(
        (*IMPACT_RESPONSE, *IMPACT_DIRECT, *sum(IMPACT_POWER, ()), *IMPACT_BLOCK, IMPACT_UNCAPPED)
    )
    if name not in IMPACT_COUNTS
)
"""What an `impact_*` array holds, in order: 37 sums. With `flow_squared` and `flow_size_squared` 150 doubles."""

IMPACT_MOMENTS: Final = (*IMPACT_COUNTS, *IMPACT_SUMS)
"""All of them."""

LEVELS: Final = ("_price", "_mid", "_cap", "_step")
"""Endings of the columns of market days that are no sums: missing, and not 0, where there is nothing."""

_IMPACT = (
    _double(
        "flow_cap",
        "contracts",
        "bound on the absolute signed flow of a 5-minute bucket in the impact sums, from the volume of earlier days, "
        "times the square root of its length for longer ones; null: no bound",
    ),
    _double(
        "flow_squared",
        "contracts^2",
        "squared signed flow of the 5-minute buckets in the impact sums, without the bound",
    ),
    *(
        column
        for minutes in IMPACT_BUCKETS
        for column in (
            _int(f"impact_{minutes}m_pairs", f"pairs of adjacent {minutes}-minute buckets both with a mid"),
            _int(f"impact_{minutes}m_signed", "of them with signed flow"),
            _int(
                f"impact_{minutes}m_blocks",
                f"{IMPACT_BLOCK_MINUTES // 60}-hour clock blocks with signed flow in such a pair",
            ),
            Column(
                f"impact_{minutes}m",
                "DOUBLE[]",
                "contracts^i price^j",
                f"sums over those pairs, in the order {', '.join(IMPACT_SUMS)}: r is the move of the last mid, q the "
                "signed flow between the two looks within flow_cap, x is |q|, y = sign(q) (average price of the "
                "trades of that sign - mid before); rqD is sign(q) r |q|^(D/10), xD is |q|^(D/10); block_* are "
                f"products of the sums of one block, summed over the blocks; {IMPACT_UNCAPPED} is q times the flow "
                "without flow_cap; null: no trade has a sign",
            ),
        )
    ),
)

MARKET_DAYS: Final = Table(
    "ac_market_days",
    "sufficient statistics of one market on one trading day; sums add up over days",
    (
        _time("day", "the trading day, as its date's 00:00 UTC"),
        *_MARKET,
        _symbol("kind", "price | probability: decides what a missing ask looks like"),
        _symbol("folded_with", "the complementary token whose ticks are in the row too, in the mirror; empty: none"),
        _symbol("calendar", "whose day it is: 24/7 or an exchange's code"),
        _time("session_start", "first instant that counts"),
        _time("session_end", "first instant that no longer counts"),
        _int("statistics_version", "version of the code that shaped the row"),
        _symbol("settings_digest", "digest of the settings that shaped the row"),
        _symbol("source_digest", "digest of the source's count, first and newest stamp and sums on the day"),
        _long("n_trades", "trades with price > 0 and size > 0"),
        _long("n_bad_trades", "trades whose price or size is null, NaN, infinite, zero or negative; left out"),
        _double("volume", "contracts", "traded size"),
        _double("notional", "contracts price", "sum of price times size"),
        _double("buy_volume", "contracts", "size of trades whose aggressor bought, given or inferred"),
        _double("sell_volume", "contracts", "size of trades whose aggressor sold, given or inferred"),
        _double("buy_notional", "contracts price", "sum of price times size of the trades in buy_volume"),
        _double("sell_notional", "contracts price", "sum of price times size of the trades in sell_volume"),
        _long("n_signed", "trades with an aggressor, given or inferred"),
        _long("n_quote_rule", "of them inferred: the price lay above or below the last two-sided mid before the trade"),
        _long("n_tick_rule", "of them inferred: at that mid or without one, by the sign of the last change of price"),
        _double("effective_volume", "contracts", "size of signed trades with a two-sided mid before them"),
        _double(
            "effective_spread_volume", "contracts price", "their size times twice the signed distance from that mid"
        ),
        _long("n_quote_rule_fresh", "those of n_quote_rule half of a half-spread or more away from a fresh mid"),
        _long(
            "n_sides_compared",
            "trades with a given aggressor, half of a half-spread or more from a fresh mid: it moves by less than a "
            "fifth of its half-spread until then, at the day's pace of mids",
        ),
        _long("n_sides_contradicted", "of them on the other side of that mid than their aggressor says"),
        _double("compared_volume", "contracts", "size of the trades in n_sides_compared"),
        _double("compared_size_squared", "contracts^2", "sum of their squared sizes"),
        _double("contradicted_volume", "contracts", "size of the trades in n_sides_contradicted"),
        _double("size_squared", "contracts^2", "sum of squared sizes"),
        _double(
            "flow_size_squared",
            "contracts^2",
            "sum of the squared sizes of the signed trades whose flow is in the 5-minute impact sums",
        ),
        _time("first_trade_at", "first trade"),
        _time("last_trade_at", "last trade"),
        _double("open_price", "price", "first trade's price"),
        _double("high_price", "price", "highest trade's price"),
        _double("low_price", "price", "lowest trade's price"),
        _double("close_price", "price", "last trade's price"),
        _double(
            "price_step",
            "-",
            "last price of a 5-minute bar over that of the bar with trades before it, where it is farthest from 1; of "
            "two folded tokens the first one's; null below two bars",
        ),
        _double("size_step", "-", "mean trade size from that bar on over that before it"),
        _time("step_at", "first trade of that bar"),
        _int("active_hours", "clock hours with a trade", "h"),
        Column("volume_by_hour", "DOUBLE[]", "contracts", "traded size by hour 0-23 of the calendar's own clock"),
        _int("n_trade_bars", "5-minute bars with a trade"),
        _int("n_range_bars", "of them with 5 trades or more: those of the next three columns"),
        _double(
            "parkinson_variance", "price^2", "Parkinson's variance of such bars, corrected by their number of trades"
        ),
        _double("garman_klass_variance", "price^2", "Garman-Klass' variance of such bars, corrected likewise"),
        _double("rogers_satchell_variance", "price^2", "Rogers-Satchell's variance of such bars, corrected likewise"),
        _double("trade_variance", "price^2", "squared moves of the last trade's price from 5-minute bar to bar"),
        _double("trade_products", "price^2", "products of adjacent such moves: below 0 where trades bounce (Roll)"),
        _int("n_trade_products", "of them"),
        _double(
            "two_scale_variance",
            "price^2",
            "variance of the path behind the bounce, from the first price and last ones of bars",
        ),
        _double("two_scale_error", "price^4", "variance of that estimate"),
        _double(
            "noise_variance", "price^2", "variance of the bounce of one price, by the same estimator; a mean, no sum"
        ),
        _double("slow_scale_variance", "price^2", "likewise, from slower scales: behind bounce that persists"),
        _double("slow_scale_error", "price^4", "variance of that estimate"),
        _int("n_two_scale", "moves these were made from; 0: too few bars traded"),
        _double(
            "edge_squared_bars", "price^2", "EDGE's squared spread, signed, times the next column; where no book was"
        ),
        _int("n_edge_bars", "5-minute bars with a trade on a day for which EDGE was measured"),
        _long("n_snapshots", "looks at the book"),
        _long("n_two_sided", "looks with ask > bid > 0 (and ask < 1 of a probability)"),
        _long("n_one_sided", "looks with one side missing"),
        _long("n_crossed", "looks with ask <= bid: crossed or locked"),
        _long("n_empty", "looks with no side"),
        _time("first_snapshot_at", "first look"),
        _time("last_snapshot_at", "last look"),
        _double("quoted_seconds", "s", "time with a two-sided book, each look standing until the next or its cap"),
        _double("spread_seconds", "price s", "two-sided spread integrated over that time"),
        _double("spread_sum", "price", "sum of the two-sided spreads, a look each"),
        _double("mid_sum", "price", "sum of the two-sided mids, a look each"),
        _double("first_mid", "price", "first two-sided mid"),
        _time("first_mid_at", "time of it"),
        _double("last_mid", "price", "last two-sided mid"),
        _time("last_mid_at", "time of it"),
        _long("n_depth", "two-sided looks with sizes on both sides, on a day with trades"),
        _long("n_walked", "of them deep enough, on both sides, for an order of walk_pct_volume of the day's volume"),
        _double("walk_size", "contracts", "sum of that order's size over these looks"),
        _double(
            "walk_cost",
            "price",
            "sum over them of its cost per contract at once: half of its average price as a buy less that as a sale",
        ),
        _double("walk_half_spread", "price", "sum over them of half the two-sided spread"),
        _int("n_buckets", "5-minute buckets in the session"),
        _int("n_mid_buckets", "of them with a two-sided mid"),
        _double(
            "realised_variance",
            "price^2",
            "squared moves of mids: from first_mid to the last one of its 5-minute bucket, then from last to last",
        ),
        _double("two_scale_mid_variance", "price^2", "variance of that path behind the noise of single mids"),
        _double("two_scale_mid_error", "price^4", "variance of that estimate"),
        _double("slow_scale_mid_variance", "price^2", "likewise, from slower scales: behind noise that persists"),
        _double("slow_scale_mid_error", "price^4", "variance of that estimate"),
        _int("n_two_scale_mid", "moves these were made from; 0: too few buckets have a mid"),
        _double("bipower_variance", "price^2", "(pi/2) sum of products of adjacent absolute moves"),
        _double("realised_quarticity", "price^4", "sum of fourth powers of the moves"),
        Column("variance_by_hour", "DOUBLE[]", "price^2", "realised_variance by hour 0-23 of the calendar's own clock"),
        *_IMPACT,
    ),
    ("day", "market_id", "token_id"),
    "MONTH",
)

PARAMETERS: Final = Table(
    "ac_parameters",
    "one market's parameters as of one day, or why it has none",
    (
        _time("as_of", "last trading day used, as its date's 00:00 UTC"),
        _symbol("run_id", "the run that made the row"),
        *_MARKET,
        _symbol("status", "ok | refused"),
        _symbol("reason", "why refused, from a closed list; null where ok"),
        _text("detail", "the figures behind the reason; where ok, why method is not the one chosen, else null"),
        _symbol("kind", "price | probability"),
        _symbol("reference_source", "where kind and calendar come from: markets | pattern | default"),
        _symbol("calendar", "24/7 or an exchange's code; a day is one of its trading days"),
        _double("day_hours", "h", "mean length of the trading days used: the day that adv, sigma and eta are of"),
        _double("tick_size", "price", "smallest price step; null where unknown"),
        _double("lot_size", "contracts", "smallest size step; null where unknown"),
        _double("taker_fee", "-", "rate of the fee that a taker pays"),
        _symbol("fee_kind", "notional: the rate is a share of price times size; probability: of p (1 - p) times size"),
        _double("contract_multiplier", "-", "currency a price of 1 is worth in one contract"),
        _time("resolution_time", "when a probability becomes 0 or 1; null where unknown"),
        _symbol("complement_token_id", "the token whose price and this one's add up to 1"),
        _symbol("folded_with", "that token where the row is made of both tokens' ticks; null: of its own alone"),
        _time("window_start", "first trading day of the market's window, which begins with its listing or newest jump"),
        _time("window_end", "last trading day of the window"),
        _int("n_days", "trading days of the market's window, those without a trade included", "day"),
        _int("n_days_traded", "of them with a trade", "day"),
        _int("n_days_quoted", "of them with a move of the two-sided mid to measure", "day"),
        _long("n_trades", "trades used"),
        _long("n_bad_trades", "trades left out for their price or size"),
        _long("n_snapshots", "looks at the book"),
        _double("two_sided_share", "-", "share of the looks that had both sides"),
        _double("one_sided_share", "-", "share of the looks that lacked a side"),
        _double("crossed_share", "-", "share of the looks that were crossed or locked"),
        _double("empty_share", "-", "share of the looks without a side"),
        _double("signed_share", "-", "share of the volume with an aggressor, given or inferred"),
        _symbol("side_method", "how aggressors are known: given | quote_rule | tick_rule | mixed; null where none is"),
        _double("inferred_share", "-", "share of the trades whose aggressor was inferred"),
        _double("coverage", "-", "share of the 5-minute buckets with a two-sided mid"),
        _int("active_hours", "clock hours with a trade", "h"),
        _time("last_trade_at", "newest trade"),
        _time("last_snapshot_at", "newest look at the book"),
        _double("adv", "contracts/day", "average daily volume over n_days"),
        _double("adv_se", "contracts/day", "its standard error, from day to day; null below two days"),
        _double("price", "price", "arrival price: the newest two-sided mid or trade's price, as price_source says"),
        _symbol("price_source", "mid | last_trade, where there is no mid or the newest trade is an hour newer"),
        _double("last_trade_price", "price", "newest trade's price"),
        _double("spread", "price", "the spread the parameters use"),
        _double("spread_se", "price", "its standard error, from day to day; null below two days"),
        _symbol("spread_source", "how it was measured: time_weighted_quoted | effective | edge | roll"),
        _int("n_days_spread", "days on which it was measured", "day"),
        _double("quoted_spread", "price", "time-weighted, of two-sided books; null without one"),
        _double(
            "effective_spread",
            "price",
            "of signed trades (side_method says how), by size: twice the signed distance from the mid before",
        ),
        _double("edge_spread", "price", "EDGE from 5-minute bars of days without a book; null where not above 0"),
        _double("roll_spread", "price", "Roll's from the last prices of 5-minute bars; null where not above 0"),
        _double("mean_spread", "price", "plain mean of the two-sided spreads, a look each"),
        _double("mean_mid", "price", "plain mean of the two-sided mids, a look each"),
        _double("sigma", "price/day^0.5", "volatility within sessions"),
        _double(
            "sigma_se",
            "price/day^0.5",
            "its standard error for the days to come: the moves, how days differ, and the time not covered",
        ),
        _symbol(
            "sigma_source",
            "how: realised_mid | two_scale_mid (noise taken off) | two_scale_trades | martingale_prior | pool",
        ),
        _double("sigma_covered", "-", "share of the window's session time that the prices behind sigma_measured span"),
        _double("sigma_measured", "price/day^0.5", "it before the peers' share, from this market alone"),
        _double("sigma_two_scale", "price/day^0.5", "from trades, their bounce taken out; null where not above 0"),
        _double("sigma_bipower", "price/day^0.5", "of mids, jumps left out"),
        _double("sigma_parkinson", "price/day^0.5", "Parkinson's, from trades; null on thin or bouncing tapes"),
        _double("sigma_garman_klass", "price/day^0.5", "Garman-Klass', from trades; null on thin or bouncing tapes"),
        _double("sigma_rogers_satchell", "price/day^0.5", "Rogers-Satchell's, from trades; null likewise"),
        _double("sigma_close_to_close", "price/day^0.5", "of last trades of 5-minute bars, their bounce included"),
        _double("sigma_prior", "price/day^0.5", "of a probability, by its price and the time to its resolution"),
        _double("sigma_prior_weight", "-", "weight of that prior in log sigma; 0 where there is none"),
        _double(
            "sigma_ceiling", "price/day^0.5", "sigma^2 times the time left is at most p (1 - p); sigma is not above it"
        ),
        _double("trades_per_bar", "-", "mean trades in a 5-minute bar that has any"),
        _double("overnight_sd", "price", "root mean square of the mid's move between sessions; null below one pair"),
        _double("epsilon", "price", "half-spread plus taker fee: fixed cost per contract"),
        _double("eta", "price/(contract/day)", "temporary impact of the trading rate"),
        _double("gamma", "price/contract", "permanent impact per contract"),
        _double("reference_rate", "contracts/day", "trading rate at which eta was matched to the law"),
        _double("alpha", "-", "exponent of the temporary law; the linear eta is its secant at reference_rate"),
        _double("alpha_se", "-", "its standard deviation"),
        _symbol("method", "how eta and gamma were set: law | tape | rule"),
        _symbol("strength", "what impact rests on: own_executions | own_tape | pool | prior | rule"),
        _symbol("grade", "A | B | C | D: how far to trust the row; null where refused"),
        _text("grade_reason", "the criteria that decided the grade, with their figures"),
        _double(
            "epsilon_se", "price", "standard error of epsilon, days as clusters; below 8 days with 0.4 between days"
        ),
        _double(
            "eta_se", "price/(contract/day)", "what the tape leaves open in eta; the prior's width is in the interval"
        ),
        _double(
            "gamma_se", "price/contract", "what the tape leaves open in gamma; the prior's width is in the interval"
        ),
        *(
            _double(
                f"{name}_{end}",
                unit,
                f"{quantile} % quantile of {name}"
                + (
                    "; the fee where edge or roll is within its error of 0" if (name, end) == ("epsilon", "low") else ""
                ),
            )
            for name, unit in (
                ("epsilon", "price"),
                ("eta", "price/(contract/day)"),
                ("gamma", "price/contract"),
                ("sigma", "price/day^0.5"),
            )
            for end, quantile in (("low", "2.5"), ("high", "97.5"))
        ),
        *(
            _double(f"{name}_{method}", unit, f"{name} by the {method} alone, whatever the method of the row")
            for method in ("law", "tape", "rule")
            for name, unit in (("eta", "price/(contract/day)"), ("gamma", "price/contract"))
        ),
        _double("law_b", "-", "b of the temporary law b sigma |X/(V T)|^alpha"),
        _double("law_b_sd", "-", "standard deviation of its logarithm"),
        _double("law_permanent", "-", "permanent prefactor, in sigma/V per contract"),
        _double("law_permanent_sd", "-", "standard deviation of its logarithm"),
        _int("own_orders", "own executions in this market that moved the law; two folded tokens share theirs"),
        _long("response_n", "pairs of adjacent buckets behind the response"),
        _long("response_n_signed", "those of them with signed flow, which the grade counts"),
        _int("response_clusters", "clusters behind its standard error: days, or blocks of two hours"),
        _int("response_minutes", "bucket length of the response", "min"),
        _long("sides_compared", "given aggressors held against a fresh mid"),
        _double("sides_contradicted", "-", "share of them, by size, on the other side of it; null: none was compared"),
        _double(
            "sign_accuracy",
            "-",
            "share of the aggressors held to be right: given ones by fresh mids, here and at the peers, inferred ones "
            "by the literature; or as stated",
        ),
        _double("sign_accuracy_se", "-", "its standard deviation; in the errors of response and direct cost"),
        _double("response", "price/contract", "the mid's response to signed flow, from this market's tape alone"),
        _double("response_se", "price/contract", "its standard error: clustered, and what is open of the aggressors"),
        *(
            column
            for minutes in IMPACT_BUCKETS
            for column in (
                _double(f"response_{minutes}m", "price/contract", f"the response by buckets of {minutes} minutes"),
                _double(f"response_{minutes}m_se", "price/contract", "its standard error, likewise"),
            )
        ),
        _double("response_r2", "-", "share of the moves' variance that flow explains"),
        _symbol(
            "response_reason",
            "why this tape shows no response: no_signed_flow | one_sided_flow | too_few_buckets | constant_flow | "
            "no_move | exact_fit | too_few_clusters | sides_doubtful; null where it does",
        ),
        _double(
            "response_exponent",
            "-",
            "d of r = P sign(q) |q|^d through the same buckets, from 0.3 to 1; of aggressors as given and flow within "
            "flow_cap; null without a response",
        ),
        _double("response_exponent_se", "-", "its standard error; null where it lies on a bound"),
        _double("response_prefactor", "price/contract^d", "P, likewise"),
        _double("response_prefactor_se", "price/contract^d", "its standard error"),
        _symbol(
            "response_exponent_reason",
            "why there is no exponent, or how far it is one: no_response (of no bend anything is known) | "
            "exponent_at_bound | as of response_reason; null where it is inside",
        ),
        _double("response_units", "-", "response with the peers', in units of sigma/V; median"),
        _double("response_log_sd", "-", "standard deviation of its logarithm"),
        _double("response_own", "-", "share of its precision that is the market's own, the rest is the pool's"),
        _double("response_relative", "-", "it over the peers' middle: what moves the law"),
        _double("direct_eta", "price/(contract/day)", "direct cost of the aggressors' rate, this tape alone"),
        _double("direct_eta_se", "price/(contract/day)", "its standard error, as of the response"),
        _symbol("direct_reason", "why there is none, as of the response"),
        _int("direct_minutes", "its bucket length, the nearest to a slice", "min"),
        *(
            _double(f"cost_{law}_bps", "bps", f"cost of 1 % of ADV over a day, half-spread and fee included, {said}")
            for law, said in (
                ("law", "by the default law"),
                ("tape", "by the tape's own linear impact"),
                ("rule", "by the 1 % / 10 % rule"),
                ("square_root", "by half-spread + 2/3 sigma sqrt(X/V)"),
            )
        ),
        _double("model_risk", "-", "dearest over cheapest of these"),
        _double("walk_size", "contracts", "mean size of the orders walked through the recorded books"),
        _double("walk_share", "-", "share of the looks with depth that hold such an order, on both sides"),
        _double("walk_cost", "price", "mean cost per contract of such an order at once, half-spread included"),
        _double("walk_half_spreads", "-", "it over the mean half-spread of the same looks; 1: the best level holds it"),
        _double("cost_walk_bps", "bps", "it with the fee; a single slice sent at once, so not among the laws"),
        _symbol("walk_reason", "why there is no walk: no_depth | too_thin (a tenth or more of the looks hold less)"),
        _double("log_kappa_sd", "-", "standard deviation of log kappa from sigma and eta"),
        _double("implied_regret", "-", "(c + 1/c)/2 - 1 at c = exp(log_kappa_sd): what a kappa wrong by c costs"),
        _int("data_age", "trading days from the newest source row to as_of", "day"),
        _int("mid_age", "trading days from the newest two-sided look at the book to as_of; null: there is none", "day"),
        *(
            _double(
                f"{name}_drift_z",
                "-",
                f"change of log {'half-spread, its fee aside,' if name == 'epsilon' else name} since the release "
                "before, in standard errors",
            )
            for name in PARAMETER_DRIFTS
        ),
        Column(
            "volume_profile",
            "DOUBLE[]",
            "-",
            "share of the volume by hour 0-23 of the calendar's own clock, on the first trading day after as_of",
        ),
        _symbol("volume_profile_used", "hour_of_week | hour_of_day | flat: which predicts a day left out best"),
        _double(
            "volume_profile_error",
            "-",
            "squared error of the day left out, used over flat (by hour where flat is used); null below 3 days",
        ),
        Column("volume_profile_week", "DOUBLE[]", "-", "share by weekday's hour, Monday's first; where that is used"),
        Column("variance_profile", "DOUBLE[]", "-", "share of the realised variance by hour 0-23, same clock"),
        _symbol("variance_profile_used", "hour_of_week | hour_of_day | flat, as of the volume"),
        _double("variance_profile_error", "-", "squared error of the day left out, as of the volume"),
        Column("variance_profile_week", "DOUBLE[]", "-", "share by weekday's hour, Monday's first; where that is used"),
        _text(
            "source_jump",
            "split, unit_change, size_unit_change (on its first day size_unit_suspected), price_gap or contract_roll "
            "that the window begins with, or begins after (within a day; of the newest one mixed_units); tick_change",
        ),
    ),
    ("as_of", "run_id", "market_id", "token_id"),
    "MONTH",
)

TRAJECTORY_STATUSES: Final = (
    "ok",
    "twap_eta_tilde",
    "price_out_of_range",
    "infeasible",
    "not_converged",
    "beyond_convexity",
    "over_cap",
)

TRAJECTORIES: Final = Table(
    "ac_trajectories",
    "one execution schedule with its cost and risk; the same for a buy and a sell",
    (
        _time("as_of", "last trading day used, as its date's 00:00 UTC"),
        _symbol("run_id", "the run that made the row"),
        *_MARKET,
        _symbol(
            "strategy",
            "almgren_chriss | almgren_chriss_volume_time (with a cap both are almgren_chriss_capped) | twap | vwap | "
            "market_order",
        ),
        _int("size_ix", "place of the order size in the grid"),
        _int("risk_ix", "place of the risk level in the grid; -1 for a strategy without one"),
        _int("horizon_ix", "place of the horizon in the grid"),
        _symbol("status", " | ".join(TRAJECTORY_STATUSES)),
        _symbol("calendar", "24/7 or an exchange's code; a day is one of its trading days"),
        _double("day_hours", "h", "mean length of the trading days used: the day that adv, sigma and eta are of"),
        _double("order_size", "contracts", "size of the order"),
        _double("adv_fraction", "-", "order size over one day of average volume"),
        _double("risk_aversion", "1/currency", "lambda; null for the market order, whose lambda is infinite"),
        _double("urgency", "-", "kappa times the horizon; null for the market order"),
        _double(
            "horizon",
            "day",
            "time the schedule takes, from the start of the first trading day after as_of; slices last horizon/n_steps",
        ),
        _double("horizon_asked", "day", "the grid's horizon; `horizon` is shorter where the market resolves before"),
        _int("n_steps", "slices of equal length"),
        _double(
            "kappa",
            "1/day",
            "decay rate of the holdings under mean coefficients, 1/T* under the power law; null for the market order",
        ),
        _double("decay_time", "day", "1/kappa; null where kappa is 0 or infinite"),
        _double("half_life", "day", "time at which half of the order is done, on this path"),
        _double(
            "eta_tilde",
            "price/(contract/day)",
            "eta - gamma tau/2 of the row's tau; eta under midprice; null under the power law",
        ),
        _symbol("permanent", "convention of the permanent impact: paper | midprice"),
        _symbol("impact_law", "temporary impact: linear | power"),
        _double("alpha", "-", "exponent of the power law; null under the linear one"),
        _symbol(
            "cost_profile",
            "what cost and risk are reckoned with: clock (the same in every slice) | volume (impact falls with the "
            "slice's share of the horizon's volume, risk follows its share of the variance)",
        ),
        _double("max_participation", "-", "cap: share of the slice's expected volume; null where none is kept"),
        _double("max_slice", "-", "cap: share of the order; null where none is kept"),
        _double("expected_cost", "currency", "expected shortfall against the arrival price"),
        _double("cost_variance", "currency^2", "variance of the shortfall"),
        _double("expected_cost_bps", "bps", "expected cost over the arrival notional"),
        _double("cost_sd_bps", "bps", "standard deviation of the cost over the arrival notional"),
        _double("buy_price", "price", "average price a buyer is expected to pay"),
        _double("sell_price", "price", "average price a seller is expected to get"),
        Column(
            "remaining",
            "DOUBLE[]",
            "contracts",
            "held at 0, tau, ..., horizon: n_steps + 1 values, from order_size to 0; null where nothing is feasible",
        ),
    ),
    ("as_of", "run_id", "market_id", "token_id", "strategy", "size_ix", "risk_ix", "horizon_ix"),
    "DAY",
)

RUNS: Final = Table(
    "ac_runs",
    "one run: what it used, what it made, how it ended",
    (
        _time("as_of", "last trading day used, as its date's 00:00 UTC"),
        _symbol("run_id", "16 hex digits of the digest of everything that decides the rows"),
        _symbol("state", "running | complete | failed"),
        _symbol("scope", "whole | partial (some markets only; never current) | parameters (no trajectories)"),
        _time("started_at", "start"),
        _time("finished_at", "end; null while running"),
        _time("window_start", "first trading day of the longest window"),
        _time("window_end", "last trading day used"),
        _long("source_trades", "trades in the window"),
        _long("source_snapshots", "looks at the book in the window"),
        _long("future_rows", "source rows stamped after the last complete day; ignored"),
        _long("own_orders", "own executions read, decided up to as_of"),
        _long("own_orders_refused", "of them left out: a value breaks a rule, is far out, or has no units"),
        _text("own_orders_reasons", "how many for which reason, as JSON; null where none was left out"),
        _int("days_read", "trading days read from ticks by this run; the others were known", "day"),
        _int("n_markets", "markets seen in the window"),
        _int("n_ok", "markets with parameters"),
        _int("n_refused", "markets without"),
        _long("n_trajectories", "schedules"),
        _text("parameters_digest", "SHA-256 of the parameter rows"),
        _text("trajectories_digest", "SHA-256 of the trajectory rows"),
        _text("input_digest", "SHA-256 of the window's market-day rows"),
        _text("reference_digest", "SHA-256 of the reference data of the markets seen"),
        _text("settings", "the settings that decide the rows, as JSON"),
        _text("package_version", "version of tributary-opt"),
        _text("source_digest", "SHA-256 of the package's source files"),
        _text("numpy_version", "version of numpy"),
        _text("server_version", "version of the QuestDB written to"),
        _text("parquet_path", "where the Parquet lies, below its root"),
        _text("timings", "seconds by step, as JSON"),
        _text("error", "what went wrong; null otherwise"),
    ),
    ("as_of", "run_id"),
    "YEAR",
)

PUBLISHED: Final = Table(
    "ac_published",
    "the pointer, append-only: the newest row of a dataset names its current run",
    (
        _time("published_at", "when the run became current"),
        _symbol("dataset", "ac"),
        _symbol("run_id", "the current run"),
        _time("as_of", "its day"),
        _int("schema_version", "version of the tables"),
        _symbol("reason", "night | rollback"),
    ),
    ("published_at", "dataset"),
    "YEAR",
)

TABLES: Final = {table.name: table for table in (MARKET_DAYS, PARAMETERS, TRAJECTORIES, RUNS, PUBLISHED)}
RELEASE_TABLES: Final = (PARAMETERS, TRAJECTORIES)
"""The tables that a release consists of."""

_CURRENT = "(ac_published WHERE dataset = 'ac' LATEST ON published_at PARTITION BY dataset)"

VIEWS: Final[dict[str, str]] = {
    "ac_parameters_current": (
        f"SELECT p.* FROM ac_parameters p JOIN {_CURRENT} c ON p.as_of = c.as_of AND p.run_id = c.run_id"
    ),
    "ac_trajectories_current": (
        f"SELECT t.* FROM ac_trajectories t JOIN {_CURRENT} c ON t.as_of = c.as_of AND t.run_id = c.run_id"
    ),
    "ac_steps_current": (
        "SELECT t.as_of, t.run_id, t.market_id, t.token_id, t.strategy, t.size_ix, t.risk_ix, t.horizon_ix, "
        "t.status, t.order_size, t.risk_aversion, s.x - 1 AS step, (s.x - 1) * t.horizon / t.n_steps AS time_days, "
        "t.remaining[s.x::int] AS remaining "
        f"FROM ac_trajectories_current t CROSS JOIN long_sequence({MAX_STEPS + 1}) s WHERE s.x <= t.n_steps + 1"
    ),
    "ac_parameters_history": (
        "SELECT c.published_at, p.* FROM ac_parameters p JOIN ac_published c "
        "ON p.as_of = c.as_of AND p.run_id = c.run_id"
    ),
}
"""Views for SQL users, replaced whenever the schema is brought up to date."""

SUSPECTED, MIXED = "size_unit_suspected", "mixed_units"
"""Names in `source_jump` of what leaves the units of the newest day in doubt: sizes in another unit, or odd ones; and a
jump within that day."""

PARAMETER_REASONS: Final = (
    "unsupported_contract",
    "resolved",
    "bad_source_rows",
    "no_trades",
    "stale",
    "units_in_doubt",
    "too_few_trades",
    "too_few_hours",
    "no_two_sided_book",
    "price_at_bound",
    "wide_spread",
    "no_volatility",
)
"""Why a market is refused, complete. Where several hold, the first of this order stands in the row."""
