"""What a person may choose, with bounds, units and descriptions.

Two kinds. `Settings` says where things are (servers, folders, names) and comes from the environment or `.env`:
`TRIBUTARY_HOME`, `TRIBUTARY_QUESTDB__HOST`, … Secrets live there and nowhere else. The others (`StatisticsRules`,
`CalibrationRules`, `Grid`, `Retention`) are what a run computes; flows take them as parameters, and the Prefect UI
makes its forms from them.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tributary_opt import schema


class _Choice(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# --- where things are ---------------------------------------------------------------------------------------


class QuestDBServer(_Choice):
    """How to reach a QuestDB server, over HTTP and over PostgreSQL's wire."""

    host: str = "127.0.0.1"
    http_port: int = Field(9000, ge=1, le=65535)
    pg_port: int = Field(8812, ge=1, le=65535)
    user: str | None = Field(None, description="User for HTTP, and for PostgreSQL's wire unless pg_user is set")
    password: SecretStr | None = Field(None, description="Its password")
    token: SecretStr | None = Field(None, description="Bearer token for HTTP instead of user and password")
    pg_user: str | None = Field(None, description="User for PostgreSQL's wire; empty: user, or admin")
    pg_password: SecretStr | None = Field(None, description="Its password; empty: password, or quest")
    tls: bool = Field(False, description="HTTPS, and TLS on PostgreSQL's wire")
    tls_verify: bool = Field(True, description="Check the server's certificate")
    connect_timeout_s: float = Field(5.0, gt=0, le=300)
    query_timeout_s: float = Field(600.0, gt=0, le=86_400)


class SourceTableName(_Choice):
    """A source table's name and, where they differ from ours, its columns' names (ours → theirs)."""

    table: str = ""
    columns: dict[str, str] = {}


class SourceTables(_Choice):
    """What the source tables and their columns are called; empty means our own names."""

    trades: SourceTableName = SourceTableName()
    orderbook_snapshots: SourceTableName = SourceTableName()
    markets: SourceTableName = SourceTableName()
    own_executions: SourceTableName = SourceTableName()

    @model_validator(mode="after")
    def _known_columns(self) -> SourceTables:
        for name, table in schema.READ_TABLES.items():
            unknown = set(getattr(self, name).columns) - set(table.names)
            if unknown:
                raise ValueError(f"source_tables.{name}.columns renames {sorted(unknown)}, not among {table.names}")
        return self


class MarketRule(_Choice):
    """Reference data for every market whose id matches a pattern; a row of `markets` goes before it."""

    pattern: str = Field(description="Shell pattern on market_id, such as KX* or *-2026-*")
    kind: Literal["price", "probability"] = "price"
    calendar: str = "24/7"
    tick_size: float | None = Field(None, gt=0)
    lot_size: float | None = Field(None, gt=0)
    taker_fee: float = Field(0.0, ge=0, lt=1)
    fee_kind: Literal["notional", "probability"] = Field(
        "notional", description="notional: a share of the notional; probability: taker_fee p (1 - p) per contract"
    )
    contract_multiplier: float = Field(1.0, gt=0)
    inverse: bool = False


class Runner(StrEnum):
    """Who runs a night's chunks."""

    THREAD = "thread"
    PROCESS = "process"
    DASK = "dask"


class Settings(BaseSettings):
    """Where things are. Read from the environment (`TRIBUTARY_…`, `__` between levels) and from `.env`."""

    model_config = SettingsConfigDict(
        env_prefix="TRIBUTARY_", env_nested_delimiter="__", env_file=".env", extra="ignore", frozen=True
    )

    home: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("tributary-opt"),
        description="Folder for everything we keep: the embedded server's data, Parquet, locks",
    )
    questdb: QuestDBServer | None = Field(None, description="Server to publish to; empty: the embedded one")
    source: QuestDBServer | None = Field(None, description="Server with the ticks; empty: the one published to")
    parquet: Path | None = Field(None, description="Folder for Parquet; empty: parquet in home")
    source_tables: SourceTables = SourceTables()
    markets_file: Path | None = Field(None, description="Reference data as Parquet or CSV, instead of a table")
    executions_file: Path | None = Field(
        None, description="Own parent orders as Parquet or CSV, instead of a table; they update the impact law"
    )
    market_rules: tuple[MarketRule, ...] = Field(
        (), description="Reference data by market-id pattern, first match counts"
    )
    runner: Runner = Field(Runner.THREAD, description="Task runner of the flows: thread, process or dask")
    workers: int = Field(2, ge=1, le=256, description="Threads, processes or local Dask workers of the runner")
    dask_address: str | None = Field(None, description="Address of a running Dask scheduler; empty: a local cluster")
    markets_per_slice: int = Field(
        5_000, ge=1, le=100_000, description="Markets read from the source at a time; bounds memory"
    )
    embedded_http_port: int = Field(
        0, ge=0, le=65535, description="Port of the embedded server's HTTP; 0: any free one"
    )
    embedded_pg_port: int = Field(0, ge=0, le=65535, description="Port of its PostgreSQL wire; 0: any free one")
    embedded_memory_mb: int = Field(1_024, ge=256, le=65_536, description="Java heap of the embedded server")
    questdb_jar: Path | None = Field(None, description="The embedded server's jar, where it cannot be fetched")
    alerts_webhook: SecretStr | None = Field(
        None, description="Address that is called (POST, JSON) when a night fails or none comes; empty: nobody is"
    )
    alerts_stale_hours: float = Field(
        26.0, ge=0.005, le=1_000, description="No release became current for so long: alert [h]"
    )

    @field_validator("home", "parquet", "markets_file", "executions_file", "questdb_jar")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @property
    def parquet_root(self) -> Path:
        """Where Parquet releases lie."""
        return self.parquet or self.home / "parquet"

    @property
    def embedded_root(self) -> Path:
        """The embedded server's data directory."""
        return self.home / "questdb"


# --- what a run computes ------------------------------------------------------------------------------------


class StatisticsRules(_Choice):
    """What counts in a market day. A change here reads every day of the window again."""

    skip_open_minutes: int = Field(
        0, ge=0, le=720, description="Minutes left out after an exchange's open; not for 24/7 [min]"
    )
    skip_close_minutes: int = Field(
        0, ge=0, le=720, description="Minutes left out before an exchange's close; not for 24/7 [min]"
    )
    quote_cap_seconds: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="Longest time one look at the book stands for in the time-weighted spread [s]",
    )
    tick_rule: bool = Field(
        True,
        description="A trade without an aggressor, at the mid or before any book: signed by the last change of price; "
        "off leaves it unsigned",
    )
    flow_between_mids: bool = Field(
        True,
        description="A move of the mid is held against the trades between its two looks at the book; off: against "
        "those of the clock's interval, of which looks minutes apart miss a part",
    )
    flow_cap_pct_adv: float = Field(
        0.5,
        ge=0,
        le=100,
        description="Bound on the signed flow of a 5-minute bucket in the impact sums, as a share of the mean daily "
        "volume of the trading days just before; 0: none [%]",
    )
    flow_cap_trades: float = Field(
        20,
        ge=0,
        le=1_000_000,
        description="That bound is never below so many of the same days' mean trades: it is for outliers, and a few "
        "trades of a thin market are none [-]",
    )
    walk_pct_volume: float = Field(
        0.02,
        ge=0,
        le=100,
        description="Size of the order that is walked through every look with depth, as a share of the volume of its "
        "day; the default is a slice of 1 % of ADV in 48; 0: no order is walked [%]",
    )


class LawPrior(_Choice):
    """The default law before any tape: cost = half-spread + 1/2 permanent + b sigma |X/(V T)|^beta."""

    b: float = Field(0.142, gt=0, le=100, description="Prefactor of the temporary part (Almgren et al. 2005) [-]")
    b_level_sd: float = Field(
        0.75,
        gt=0,
        le=5,
        description="Log-sd of its level in all markets together: as far as the square-root laws are from it [-]",
    )
    b_market_sd: float = Field(0.3, ge=0, le=5, description="Log-sd from market to market [-]")
    beta: float = Field(0.60, ge=0.3, le=1, description="Exponent of the trading rate [-]")
    beta_sd: float = Field(0.04, gt=0, le=1, description="Its standard deviation [-]")
    permanent: float = Field(0.314, gt=0, le=100, description="Permanent prefactor, in sigma / V per contract [-]")
    permanent_level_sd: float = Field(0.8, gt=0, le=5, description="Log-sd of its level in all markets together [-]")
    permanent_market_sd: float = Field(0.6, ge=0, le=5, description="Log-sd from market to market [-]")
    temporary_follows: float = Field(
        0.5, ge=0, le=1, description="Power of a market's response, relative to its peers', by which b moves [-]"
    )
    permanent_follows: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Power of a market's response, relative to its peers', by which permanent moves [-]",
    )


_Share = Annotated[float, Field(ge=0, le=1)]
_AtMost = Annotated[float, Field(ge=0, le=1_000_000)]
_Count = Annotated[float, Field(ge=0, le=1_000_000_000)]
Shares = tuple[_Share, _Share, _Share]
Maxima = tuple[_AtMost, _AtMost, _AtMost]
Counts = tuple[_Count, _Count, _Count]


class GradeLimits(_Choice):
    """What a market needs for a grade: three limits each, for A, B and C, the strictest first; D is what is left."""

    response_log_sd: Maxima = Field((0.25, 0.5, 1.0), description="Log-sd of the response, at most [-]")
    sigma_log_sd: Maxima = Field((0.05, 0.10, 0.25), description="Relative error of sigma, at most [-]")
    epsilon_error: Maxima = Field((0.10, 0.25, 0.50), description="Relative error of epsilon, at most [-]")
    buckets: Counts = Field((1_000, 200, 50), description="Buckets with signed flow behind the response, at least [-]")
    signed_share: Shares = Field((0.8, 0.5, 0.2), description="Share of the volume with an aggressor, at least [-]")
    data_age: Maxima = Field((0, 1, 2), description="Trading days since the newest row, at most [day]")
    model_risk: Maxima = Field((3, 6, 12), description="Dearest over cheapest law for the reference order, at most [-]")
    regret: Maxima = Field((0.05, 0.10, 0.25), description="Implied regret of the point estimate, at most [-]")

    @model_validator(mode="after")
    def _strictest_first(self) -> GradeLimits:
        for name in type(self).model_fields:
            given = list(getattr(self, name))
            if given != sorted(given, reverse=name in ("buckets", "signed_share")):
                raise ValueError(f"{name} must be given for A, B and C, the strictest first, got {tuple(given)}")
        return self


class CalibrationRules(_Choice):
    """From statistics to parameters: the window, the thresholds for a refusal, the law, the pool and the grades."""

    method: Literal["law", "tape", "rule"] = Field(
        "law",
        description="Which eta and gamma are published. law: literature, moved by the market's response; tape: direct "
        "cost and response; rule: 1 % / 10 % of the volume a spread. All three are computed",
    )
    reference_rate_pct: float = Field(
        1.0, gt=0, le=100, description="Trading rate at which the linear eta meets the law [% of ADV per day]"
    )
    half_life_days: float | None = Field(
        None,
        gt=0,
        le=3_660,
        description="Age at which a day counts for half in volume, spread, volatility, flow and moves; empty: all are "
        "the same [day]",
    )
    response_minutes: Literal[5, 15, 30, 60] = Field(5, description="Bucket length of the response that is used [min]")
    pool_min_markets: int = Field(10, ge=2, le=1_000_000, description="Fewer markets with an estimate are no pool [-]")
    sign_accuracy: Literal["measured"] | Annotated[float, Field(gt=0.5, le=1)] = Field(
        "measured",
        description="Share of the aggressors that are right; response and direct cost are corrected for the rest. "
        "measured: of given ones by fresh mids, of inferred ones by the literature, and its error counts [-]",
    )
    law: LawPrior = Field(LawPrior(), description="The default law before any tape, and how far a tape moves it")
    grades: GradeLimits = Field(GradeLimits(), description="What a market needs for each grade")
    lookback_days: int = Field(30, ge=1, le=366, description="Trading days in the window [day]")
    min_trades: int = Field(30, ge=1, le=1_000_000_000, description="Fewer trades in the window: too_few_trades [-]")
    min_active_hours: int = Field(20, ge=1, le=87_840, description="Fewer clock hours with a trade: too_few_hours [h]")
    stale_after_days: int = Field(
        2, ge=0, le=366, description="Newest row older than this before as_of: stale [trading day]"
    )
    bound_ticks: float = Field(
        2.0, ge=0, le=1_000_000, description="Price within this many ticks of its bound: price_at_bound [tick]"
    )
    probability_tick: float = Field(
        0.01, gt=0, lt=0.5, description="Tick of a probability whose reference data names none [price]"
    )
    sigma_prior_log_sd: float = Field(
        0.5,
        gt=0,
        le=10,
        description="How far the volatility of a probability may lie from what price and time to resolution say, as a "
        "standard deviation of log sigma [-]",
    )
    max_spread_share: float = Field(
        0.20, gt=0, le=1, description="Spread above this share of the price, or of min(p, 1 - p): wide_spread [-]"
    )
    max_bad_share: float = Field(
        0.05, ge=0, le=1, description="Share of trades with an impossible price or size above this: bad_source_rows [-]"
    )


class RiskLevel(_Choice):
    """One level of the grid's risk axis."""

    kind: Literal["urgency", "lambda"] = Field(
        "urgency", description="urgency: kappa times the horizon, without a unit; lambda: risk aversion in 1/currency"
    )
    value: float = Field(
        ge=0,
        le=1e300,
        allow_inf_nan=False,
        description="0 is TWAP; larger trades sooner [1/currency, or - for an urgency]",
    )


Percent = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Horizon = Annotated[float, Field(gt=0, le=30, allow_inf_nan=False)]


class Grid(_Choice):
    """Which schedules are computed for every market."""

    order_sizes_pct_adv: tuple[Percent, ...] = Field(
        (0.1, 0.5, 1.0, 2.0, 5.0, 10.0), min_length=1, max_length=50, description="Order sizes [% of ADV]"
    )
    risk_levels: tuple[RiskLevel, ...] = Field(
        tuple(RiskLevel(kind="urgency", value=v) for v in (0.0, 0.5, 1.0, 3.0, 10.0)),
        min_length=1,
        max_length=50,
        description="Risk levels, from patient to urgent",
    )
    horizons: tuple[Horizon, ...] = Field((1.0,), min_length=1, max_length=20, description="Horizons [trading day]")
    n_steps: int = Field(48, ge=1, le=schema.MAX_STEPS, description="Slices of a schedule [-]")
    impact_law: Literal["linear", "power"] = Field(
        "linear", description="Temporary impact of the trading rate: linear, or a power law that meets it at 1 % of ADV"
    )
    alpha: float = Field(
        0.5, ge=0.3, le=1, description="Exponent of the power law, for markets whose parameters hold none [-]"
    )
    permanent: Literal["by_law", "paper", "midprice"] = Field(
        "by_law",
        description="paper: a trade does not pay its own permanent move; midprice: it pays half of it; "
        "by_law: paper for the linear law, midprice for the power law",
    )
    max_participation: float | None = Field(
        None, gt=0, le=1, description="Largest share of the volume expected in a slice; empty: no cap [-]"
    )
    max_slice: float | None = Field(
        None, gt=0, le=1, description="Largest share of the order in a slice; empty: none [-]"
    )
    resolution_buffer_minutes: float = Field(
        60.0, ge=0, le=43_200, allow_inf_nan=False, description="Schedules end this long before a resolution [min]"
    )

    @property
    def convention(self) -> Literal["paper", "midprice"]:
        """The permanent-impact convention that `permanent` comes to."""
        if self.permanent == "by_law":
            return "paper" if self.impact_law == "linear" else "midprice"
        return self.permanent

    @property
    def capped(self) -> bool:
        """Whether slices have a largest size."""
        return self.max_participation is not None or self.max_slice is not None


class Desk(_Choice):
    """Whose orders the example of a consumer writes, and which."""

    name: str = Field("desk", pattern="^[A-Za-z0-9_-]{1,64}$", description="Name of its folder, in letters and digits")
    markets: tuple[str, ...] = Field((), description="Only these market ids; empty means all")
    side: Literal["buy", "sell"] = Field("sell", description="Side of every order")
    order_size_pct_adv: Percent = Field(1.0, description="Order size, one of the release's grid [% of ADV]")
    urgency: float = Field(
        1.0, ge=0, le=1e300, allow_inf_nan=False, description="kappa times the horizon, one of the release's grid [-]"
    )


class Retention(_Choice):
    """What maintenance keeps."""

    trajectory_nights: int = Field(
        30, ge=1, le=3_660, description="Nights whose trajectories and HTML reports are kept; parameters stay [-]"
    )
    orphan_hours: float = Field(
        24.0, ge=0, le=87_840, description="Age from which an unfinished run's files are swept [h]"
    )


def from_environment() -> Settings:
    """Settings as the environment and `.env` have them. ValueError: the setting that is wrong, and why, in a line."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = "__".join(str(part) for part in first["loc"]).upper()
        raise ValueError(f"setting TRIBUTARY_{name}: {first['msg']}") from None
