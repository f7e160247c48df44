"""Nights that are published in these tests, and what a reader sees of them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from tributary_opt import schema
from tributary_opt.storage.frames import typed
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.releases import Outcome, Releases, Run

MONDAY, TUESDAY, WEDNESDAY = date(2026, 1, 5), date(2026, 1, 6), date(2026, 1, 7)
N_STEPS = 4
VIEWS = ("ac_parameters_current", "ac_trajectories_current", "ac_steps_current")


NAMED = {"status", "reason", "detail", "method", "adv", "adv_se", "sigma", "eta", "gamma", "epsilon", "volume_profile"}


@contextlib.contextmanager
def few_columns_of_parameters() -> Iterator[None]:
    """`ac_parameters` less most of its columns: keys, one of every type, and what these tests name.

    Publishing knows a column by its type only, and of a hundred and fifty nearly all are DOUBLE; whole rows are
    published in test_night.py and test_crashes.py.
    """
    whole = schema.PARAMETERS.columns
    others = {c.type: c.name for c in whole if c.name not in NAMED}
    keep = {*schema.PARAMETERS.keys, *NAMED, *others.values()}
    object.__setattr__(schema.PARAMETERS, "columns", tuple(c for c in whole if c.name in keep))
    try:
        yield
    finally:
        object.__setattr__(schema.PARAMETERS, "columns", whole)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours catches it. The real one is in test_crashes.py."""


def rows_of(table: schema.Table, n: int, seed: int) -> pd.DataFrame:
    """Rows of a release table less as_of and run_id: every type, a fifth of the values missing."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for c in table.columns:
        missing = rng.random(n) < 0.2
        if c.type in ("SYMBOL", "VARCHAR"):
            texts = rng.choice(["", "a'b", "x;y", "\\", "ok", "é"], n)
            columns[c.name] = pd.Series(texts, dtype=object).mask(missing, None)
        elif c.type == "DOUBLE":
            columns[c.name] = np.where(missing, np.nan, rng.normal(size=n) * 10.0 ** rng.integers(-9, 9, n))
        elif c.type in ("INT", "LONG"):
            columns[c.name] = pd.array(rng.integers(0, 1_000, n), dtype="Int64")
            columns[c.name][missing] = pd.NA
        elif c.type == "TIMESTAMP":
            stamps = pd.Timestamp("2025-12-31", tz="UTC") + pd.to_timedelta(rng.integers(0, 10**12, n), unit="us")
            columns[c.name] = pd.Series(stamps).mask(missing)
        elif c.type == "DOUBLE[]":
            columns[c.name] = [None if gone else rng.normal(size=24) for gone in missing]
    return pd.DataFrame(columns).drop(columns=["as_of", "run_id"])


def made(tag: str, n_markets: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Parameters and trajectories of a night, other ones for another tag."""
    seed = int(hashlib.sha256(tag.encode()).hexdigest()[:8], 16)
    markets = [f"M{i:03d}" for i in range(n_markets)]
    parameters = rows_of(schema.PARAMETERS, n_markets, seed).assign(market_id=markets, token_id="yes", status="ok")
    n = 2 * n_markets
    trajectories = rows_of(schema.TRAJECTORIES, n, seed + 1).assign(
        market_id=np.repeat(markets, 2),
        token_id="yes",
        strategy=["almgren_chriss", "twap"] * n_markets,
        size_ix=0,
        risk_ix=0,
        horizon_ix=0,
        n_steps=N_STEPS,
        horizon=1.0,
        remaining=list(np.random.default_rng(seed).random((n, N_STEPS + 1))),
    )
    return parameters, trajectories


def a_run(as_of: date, tag: str, scope: str = "whole") -> Run:
    """A run's row; the tag stands for everything that decides its rows."""
    return Run(
        as_of=as_of,
        run_id=hashlib.sha256(f"{as_of}{tag}{scope}".encode()).hexdigest()[:16],
        scope=scope,
        window_start=as_of - timedelta(days=29),
        started_at=datetime.now(UTC),
        settings={"tag": tag},
        input_digest="i",
        reference_digest="r",
        package_version="0.1.0",
        source_digest="s",
        numpy_version="2.4.0",
        server_version="9.3.4",
    )


def publish(
    releases: Releases,
    as_of: date,
    tag: str = "",
    scope: str = "whole",
    n_markets: int = 3,
    on_step: Callable[[str], None] = lambda step: None,
) -> Outcome:
    return releases.publish(a_run(as_of, tag, scope), *made(f"{as_of}{tag}", n_markets), on_step=on_step)


def killed_after(step: str) -> Callable[[str], None]:
    def on_step(done: str) -> None:
        if done == step:
            raise Killed

    return on_step


def pointers(db: QuestDB) -> list[tuple[datetime, str, str]]:
    return db.rows("SELECT published_at, run_id, reason FROM ac_published ORDER BY published_at")


def seen(db: QuestDB) -> set[tuple[str, str, int]]:
    """What the views show: view, run and number of rows."""
    return {(v, *row) for v in VIEWS for row in db.rows(f"SELECT run_id, count() FROM {v} GROUP BY run_id")}


def whole(run_id: str, n_markets: int = 3) -> set[tuple[str, str, int]]:
    return set(zip(VIEWS, itertools.repeat(run_id), (n_markets, 2 * n_markets, 2 * n_markets * (N_STEPS + 1))))


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def current_run(root: Path) -> str:
    """The run that a reader of nothing but files finds, its files checked against the manifest."""
    manifest = json.loads((root / "current.json").read_text())
    for entry in manifest["tables"].values():
        path = root / entry["path"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
        assert pq.read_table(path).num_rows == entry["rows"]
        assert set(pq.read_table(path)["run_id"].to_pylist()) == {manifest["run_id"]}
    return str(manifest["run_id"])


ALL_TYPES = schema.Table(
    "all_types",
    "one column of each type",
    (
        schema.Column("as_of", "TIMESTAMP", "", ""),
        schema.Column("run_id", "SYMBOL", "", ""),
        schema.Column("market_id", "SYMBOL", "", ""),
        schema.Column("s", "SYMBOL", "", ""),
        schema.Column("v", "VARCHAR", "", ""),
        schema.Column("d", "DOUBLE", "", ""),
        schema.Column("i", "INT", "", ""),
        schema.Column("l", "LONG", "", ""),
        schema.Column("t", "TIMESTAMP", "", ""),
        schema.Column("a", "DOUBLE[]", "", ""),
    ),
    ("as_of", "run_id", "market_id"),
    "DAY",
)


def all_types(rows: list[tuple[Any, ...]], run_id: str) -> pd.DataFrame:
    """Rows of that table: market_id, s, v, d, i, l, t, a."""
    names = ("market_id", "s", "v", "d", "i", "l", "t", "a")
    values = dict(zip(names, zip(*rows, strict=True), strict=True))
    frame = pd.DataFrame(
        {
            **{name: pd.Series(values[name], dtype=object) for name in ("market_id", "s", "v")},
            "d": pd.Series(values["d"], dtype=float),
            "i": pd.array(values["i"], dtype="Int64"),
            "l": pd.array(values["l"], dtype="Int64"),
            "t": pd.Series(values["t"], dtype="datetime64[us]"),
            "a": pd.Series([None if a is None else np.array(a, dtype=float) for a in values["a"]], dtype=object),
        }
    )
    return typed(ALL_TYPES, frame.assign(as_of=pd.Timestamp(MONDAY, tz="UTC"), run_id=run_id))
