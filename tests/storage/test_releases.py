"""Publishing: what becomes current and when, what a reader sees, what is kept, what is put right again."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings

from tributary_opt import schema
from tributary_opt.report.page import parameter_history
from tributary_opt.settings import QuestDBServer, Retention
from tributary_opt.storage import parquet, release_rows
from tributary_opt.storage import releases as module
from tributary_opt.storage.frames import canonical, table_digest, typed
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.releases import STEPS, Outcome, ReleaseError, Releases, Run

pytestmark = pytest.mark.questdb

MONDAY, TUESDAY, WEDNESDAY = date(2026, 1, 5), date(2026, 1, 6), date(2026, 1, 7)
N_STEPS = 4
VIEWS = ("ac_parameters_current", "ac_trajectories_current", "ac_steps_current")


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours catches it. The real one is in test_faults.py."""


@pytest.fixture(scope="module")
def migrated(questdb_server: QuestDBServer) -> Iterator[QuestDB]:
    """The run's QuestDB with our tables and views and nothing else."""
    with QuestDB(questdb_server) as db:
        for (view,) in db.rows("SELECT view_name FROM views()"):
            db.execute(f'DROP VIEW "{view}"')
        for table in db.tables():
            db.execute(f'DROP TABLE "{table}"')
        db.migrate()
        yield db


@pytest.fixture
def db(migrated: QuestDB, monkeypatch: pytest.MonkeyPatch) -> QuestDB:
    """Our tables, empty: truncated, which takes a twentieth of the time of making them anew. Rows go two at a time."""
    monkeypatch.setattr(release_rows, "ROWS_AT_ONCE", 2)
    for table in schema.TABLES:
        migrated.execute(f"TRUNCATE TABLE {table}")
    for table in schema.TABLES:
        migrated.wait(table)
    return migrated


@pytest.fixture
def releases(db: QuestDB, tmp_path: Path) -> Releases:
    """Nothing published yet."""
    return Releases(db, tmp_path / "parquet")


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


# --- the pointer rule ----------------------------------------------------------------------------------------


def test_rows_sent_in_many_requests_are_one_release(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows whether they are sent at once or four at a time, schedules as arrays or as Arrow lists."""
    parameters, trajectories = made("x")
    trajectories.loc[1, "remaining"] = None
    lists = pa.array(trajectories["remaining"], pa.list_(pa.float64()))
    monkeypatch.setattr(release_rows, "ROWS_AT_ONCE", 4)
    in_lists = trajectories.assign(remaining=pd.arrays.ArrowExtensionArray(lists))
    outcome = releases.publish(a_run(MONDAY, "x"), parameters, in_lists)
    assert outcome.current
    stored = releases.read(schema.TRAJECTORIES, MONDAY, outcome.run_id)
    assert stored["remaining"].to_pylist() == lists.to_pylist()
    monkeypatch.undo()
    assert releases.publish(a_run(TUESDAY, "x"), parameters, trajectories).digests.keys() == outcome.digests.keys()
    again = releases.read(schema.TRAJECTORIES, TUESDAY, a_run(TUESDAY, "x").run_id)
    key = ["as_of", "run_id"]
    assert again.drop_columns(key).equals(stored.drop_columns(key))


def test_first_night_is_current_everywhere(releases: Releases, db: QuestDB) -> None:
    outcome = publish(releases, MONDAY)
    pointer = releases.current()
    assert pointer is not None
    assert (outcome.current, outcome.reason) == (True, "current")
    assert (pointer.run_id, pointer.as_of, pointer.reason) == (outcome.run_id, MONDAY, "night")
    assert seen(db) == whole(outcome.run_id)
    assert current_run(releases.root) == outcome.run_id
    assert releases.lag() is None


def test_before_the_first_night_there_is_nothing_current(releases: Releases) -> None:
    assert releases.current() is None
    assert releases.lag() is None
    assert not releases.repair()
    assert releases.runs().empty
    assert releases.maintain(Retention(), datetime.now(UTC)).empty
    with pytest.raises(ReleaseError, match="'0123' is unknown"):
        releases.rollback("0123")


def test_later_night_replaces_an_earlier_one(releases: Releases, db: QuestDB) -> None:
    publish(releases, MONDAY)
    outcome = publish(releases, TUESDAY)
    assert seen(db) == whole(outcome.run_id)
    assert current_run(releases.root) == outcome.run_id


def test_older_night_is_stored_and_leaves_tonight_current(releases: Releases, db: QuestDB) -> None:
    tonight = publish(releases, WEDNESDAY)
    before = pointers(db)
    backfill = publish(releases, MONDAY)
    assert (backfill.current, backfill.reason) == (False, f"complete, not current: {WEDNESDAY} is current already")
    assert pointers(db) == before
    assert seen(db) == whole(tonight.run_id)
    assert current_run(releases.root) == tonight.run_id
    row = releases.run(backfill.run_id)
    assert row is not None
    assert row["state"] == "complete"
    assert releases.read(schema.TRAJECTORIES, MONDAY, backfill.run_id).num_rows == 6
    for table in schema.RELEASE_TABLES:
        assert (releases.root / parquet.release_file(table, MONDAY, backfill.run_id)).is_file()


def test_new_run_of_the_same_day_moves_the_pointer(releases: Releases, db: QuestDB) -> None:
    publish(releases, MONDAY, "first")
    second = publish(releases, MONDAY, "second", n_markets=4)
    assert second.current
    assert seen(db) == whole(second.run_id, 4)
    assert current_run(releases.root) == second.run_id


@pytest.mark.parametrize("scope", ["partial", "parameters"])
def test_run_of_less_than_everything_is_never_current(releases: Releases, db: QuestDB, scope: str) -> None:
    tonight = publish(releases, MONDAY)
    outcome = publish(releases, TUESDAY, scope=scope)
    assert (outcome.current, outcome.reason) == (False, f"stored, not current: scope {scope}")
    assert seen(db) == whole(tonight.run_id)
    with pytest.raises(ReleaseError, match=f"is complete, scope {scope}: only a complete, whole run can be current"):
        releases.rollback(outcome.run_id)


def test_rollback_and_then_the_same_night_again(releases: Releases, db: QuestDB) -> None:
    monday, tuesday = publish(releases, MONDAY), publish(releases, TUESDAY)
    pointer = releases.rollback(monday.run_id)
    assert (pointer.run_id, pointer.as_of, pointer.reason) == (monday.run_id, MONDAY, "rollback")
    assert pointer == releases.current()
    assert seen(db) == whole(monday.run_id)
    assert current_run(releases.root) == monday.run_id

    again = publish(releases, TUESDAY)
    assert (again.run_id, again.current) == (tuesday.run_id, True)
    assert [(run_id, reason) for _, run_id, reason in pointers(db)] == [
        (monday.run_id, "night"),
        (tuesday.run_id, "night"),
        (monday.run_id, "rollback"),
        (tuesday.run_id, "night"),
    ]
    assert seen(db) == whole(tuesday.run_id)
    assert current_run(releases.root) == tuesday.run_id


def test_rollback_refuses_what_cannot_be_current(releases: Releases, db: QuestDB) -> None:
    with pytest.raises(Killed):
        publish(releases, MONDAY, on_step=killed_after("rows"))
    tonight = publish(releases, TUESDAY)
    before = pointers(db)
    with pytest.raises(ReleaseError, match="is running, scope whole"):
        releases.rollback(a_run(MONDAY, "").run_id)
    with pytest.raises(ReleaseError, match="is current already"):
        releases.rollback(tonight.run_id)
    with pytest.raises(ReleaseError, match="is unknown; `tributary-opt runs` lists them"):
        releases.rollback("'; DROP TABLE ac_published; --")
    assert pointers(db) == before


def test_published_at_rises_when_the_clock_goes_back(
    releases: Releases, db: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock(datetime):
        at = datetime(2026, 3, 1, tzinfo=UTC)

        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return cls.at

    monkeypatch.setattr(module, "datetime", Clock)
    publish(releases, MONDAY)
    Clock.at -= timedelta(hours=1)
    last = publish(releases, TUESDAY)
    assert releases.current() is not None
    releases.rollback(publish_id := a_run(MONDAY, "").run_id)
    stamps = [stamp for stamp, *_ in pointers(db)]
    first = datetime(2026, 3, 1, tzinfo=UTC)
    assert stamps == [first, first + timedelta(microseconds=1), first + timedelta(microseconds=2)]
    assert (current_run(releases.root), last.current) == (publish_id, True)


# --- the same run again --------------------------------------------------------------------------------------


def test_same_run_twice_is_one_release_with_the_same_rows(releases: Releases, db: QuestDB) -> None:
    def stored() -> list[pa.Table]:
        return [db.query(f"SELECT * FROM {t.name} ORDER BY {', '.join(t.keys)}") for t in schema.RELEASE_TABLES]

    first = publish(releases, MONDAY)
    rows, published, on_disk = stored(), pointers(db), files(releases.root)
    second = publish(releases, MONDAY)
    assert (second.run_id, second.current, second.reason) == (first.run_id, True, "already current")
    assert second.digests == first.digests
    assert stored() == rows
    assert pointers(db) == published
    assert files(releases.root) == on_disk
    assert db.rows("SELECT count() FROM ac_runs") == [(1,)]


@pytest.mark.parametrize("step", STEPS)
def test_run_killed_after_a_step_is_finished_by_the_next(releases: Releases, db: QuestDB, step: str) -> None:
    yesterday = publish(releases, MONDAY)
    with pytest.raises(Killed):
        publish(releases, TUESDAY, n_markets=4, on_step=killed_after(step))
    run_id = a_run(TUESDAY, "").run_id
    committed = STEPS.index(step) >= STEPS.index("pointer")
    row = releases.run(run_id)
    assert row is not None
    assert row["state"] == ("complete" if committed else "running")
    assert (row["finished_at"] is not None) == committed
    assert seen(db) == (whole(run_id, 4) if committed else whole(yesterday.run_id))
    assert current_run(releases.root) == (run_id if step == "manifest" else yesterday.run_id)

    assert releases.repair() == (step == "pointer")
    assert current_run(releases.root) == (run_id if committed else yesterday.run_id)
    again = publish(releases, TUESDAY, n_markets=4)
    assert (again.run_id, again.reason) == (run_id, "already current" if committed else "current")
    assert seen(db) == whole(run_id, 4)
    assert current_run(releases.root) == run_id
    assert len(pointers(db)) == 2
    assert db.rows("SELECT run_id, count() FROM ac_trajectories GROUP BY run_id ORDER BY count()") == [
        (yesterday.run_id, 6),
        (run_id, 8),
    ]


def test_row_of_a_run_says_what_it_made_and_forgets_the_failure_before(releases: Releases) -> None:
    run = a_run(MONDAY, "")
    releases.record(dataclasses.replace(run, state="failed", finished_at=datetime.now(UTC), error="no space"))
    publish(releases, MONDAY)
    row = releases.run(run.run_id)
    assert row is not None
    assert (row["state"], row["error"]) == ("complete", None)
    assert (row["n_markets"], row["n_ok"], row["n_refused"], row["n_trajectories"]) == (3, 3, 0, 6)
    assert (row["window_start"].date(), row["window_end"].date()) == (MONDAY - timedelta(days=29), MONDAY)
    assert json.loads(row["settings"]) == {"tag": ""}


def test_complete_run_stays_complete_whatever_a_repetition_says(releases: Releases) -> None:
    publish(releases, MONDAY)
    run = a_run(MONDAY, "")
    before = releases.run(run.run_id)
    releases.record(dataclasses.replace(run, state="failed", error="the repetition failed"))
    assert releases.run(run.run_id) == before


def test_night_in_which_every_market_is_refused_is_published(releases: Releases, db: QuestDB) -> None:
    parameters, trajectories = made("x")
    outcome = releases.publish(a_run(MONDAY, "x"), parameters.assign(status="refused"), trajectories.iloc[:0])
    assert outcome.current
    assert seen(db) == {("ac_parameters_current", outcome.run_id, 3)}
    assert current_run_counts(releases.root) == {"ac_parameters": 3, "ac_trajectories": 0}
    shutil.rmtree(releases.root)
    assert releases.repair()
    assert current_run_counts(releases.root) == {"ac_parameters": 3, "ac_trajectories": 0}


def current_run_counts(root: Path) -> dict[str, int]:
    manifest = json.loads((root / "current.json").read_text())
    return {name: pq.read_table(root / e["path"]).num_rows for name, e in manifest["tables"].items()}


# --- what is read back is what was written ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        ("UPDATE ac_parameters SET adv = 1.0 WHERE run_id = '{run}'", "ac_parameters holds other values"),
        ("UPDATE ac_trajectories SET status = NULL WHERE run_id = '{run}'", "ac_trajectories holds other values"),
        *(
            (f"UPDATE ac_trajectories SET kappa = 1.0 WHERE run_id = '{{run}}' AND market_id = '{market}'", "values")
            for market in ("M000", "M001", "M002")
        ),
        (
            "INSERT INTO ac_trajectories (as_of, run_id, market_id, token_id) VALUES ('2026-01-06', '{run}', 'Z', 'Z')",
            "ac_trajectories holds 7 rows of run {run}, which has 6",
        ),
    ],
)
def test_rows_that_changed_between_writing_and_verifying_are_not_published(
    releases: Releases, db: QuestDB, tamper: str, message: str
) -> None:
    yesterday = publish(releases, MONDAY)
    on_disk = files(releases.root)
    run_id = a_run(TUESDAY, "").run_id

    def on_step(step: str) -> None:
        if step == "rows":
            db.execute(tamper.format(run=run_id))

    with pytest.raises(ReleaseError, match=f"{message.format(run=run_id)}.*is not published"):
        publish(releases, TUESDAY, on_step=on_step)
    assert seen(db) == whole(yesterday.run_id)
    assert files(releases.root) == on_disk
    assert len(pointers(db)) == 1
    row = releases.run(run_id)
    assert row is not None
    assert row["state"] == "running"
    if tamper.startswith("UPDATE"):
        assert publish(releases, TUESDAY).current  # the same keys again: the right values replace the wrong ones
        assert seen(db) == whole(run_id)


def test_rows_that_changed_later_are_put_right_by_the_same_night(releases: Releases, db: QuestDB) -> None:
    outcome = publish(releases, MONDAY)
    good = db.query("SELECT * FROM ac_parameters")
    db.execute("UPDATE ac_parameters SET adv = 1.0")
    db.wait("ac_parameters")
    again = publish(releases, MONDAY)
    assert (again.run_id, again.reason) == (outcome.run_id, "already current")
    assert db.query("SELECT * FROM ac_parameters") == good


def test_second_host_that_publishes_is_noticed(
    releases: Releases, db: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = db.execute

    def outrun(sql: str, params: tuple[object, ...] = ()) -> None:
        execute(sql, params)
        if sql.startswith("INSERT INTO ac_published"):
            execute(sql, (params[0] + timedelta(seconds=1), params[1], "another", *params[3:]))  # type: ignore[operator]

    monkeypatch.setattr(db, "execute", outrun)
    with pytest.raises(ReleaseError, match="the pointer names another: something else publishes to this database"):
        publish(releases, MONDAY)


finite = st.floats(allow_nan=True, allow_infinity=False, allow_subnormal=True)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
symbol = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
stamp = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))
whole_number = {bits: st.integers(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) for bits in (32, 64)}
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
one_row = st.tuples(
    symbol,
    st.none() | symbol,
    st.none() | text,
    st.none() | finite,
    st.none() | whole_number[32],
    st.none() | whole_number[64],
    st.none() | stamp,
    st.none() | st.lists(finite, max_size=4),
)
many_rows = st.lists(one_row, min_size=1, max_size=6, unique_by=lambda row: row[0])


def all_types(rows: list[tuple[Any, ...]], run_id: str) -> pd.DataFrame:
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


@pytest.fixture
def types(db: QuestDB) -> Iterator[QuestDB]:
    db.create(ALL_TYPES)
    yield db
    db.execute("DROP TABLE all_types")


@hypothesis_settings(
    max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=many_rows)
@example(rows=[("", None, None, None, None, None, None, None)])
@example(rows=[("a", "", "", -0.0, 0, 0, datetime(1970, 1, 1), []), ("b", None, None, None, None, None, None, [-0.0])])
@example(rows=[("a", "x", "\0", 5e-324, 1, 2**63 - 1, None, [float("nan"), 1.0]), ("b", "x", "y", 0.3, 1, 1, None, [])])
def test_what_is_read_back_has_the_digest_of_what_was_written(
    types: QuestDB, tmp_path: Path, rows: list[tuple[Any, ...]]
) -> None:
    run_id = hashlib.sha256(repr(rows).encode()).hexdigest()
    frame = all_types(rows, run_id)
    types.send(ALL_TYPES, frame)
    types.wait("all_types")
    written = canonical(ALL_TYPES, frame)
    stored = canonical(ALL_TYPES, types.query(f"SELECT * FROM all_types WHERE run_id = '{run_id}'"))
    digest = table_digest(ALL_TYPES.columns, written)
    assert table_digest(ALL_TYPES.columns, stored) == digest
    assert release_rows.difference(types, ALL_TYPES, MONDAY, run_id, written) is None
    parquet.write_release_file(tmp_path, ALL_TYPES, stored.cast(ALL_TYPES.arrow_schema()), MONDAY, run_id)
    filed = parquet.read_release_file(tmp_path, ALL_TYPES, MONDAY, run_id)
    assert table_digest(ALL_TYPES.columns, filed) == digest
    assert filed.to_pylist() == written.to_pylist()


@hypothesis_settings(max_examples=50, deadline=None, derandomize=True)
@given(rows=many_rows, other=many_rows, seed=st.integers(0, 99))
def test_digest_is_of_the_rows_and_not_of_their_order(
    rows: list[tuple[Any, ...]], other: list[tuple[Any, ...]], seed: int
) -> None:
    def digest(values: list[tuple[Any, ...]]) -> str:
        return table_digest(ALL_TYPES.columns, canonical(ALL_TYPES, all_types(values, "r")))

    shuffled = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    assert digest(shuffled) == digest(rows)
    same = sorted(map(repr, other)) == sorted(map(repr, rows))
    assert (digest(other) == digest(rows)) == same


@pytest.mark.parametrize(
    ("place", "one", "other"),
    [
        (1, None, ""),
        (2, None, ""),
        (2, "a", "b"),
        (3, 0.0, -0.0),
        (3, 1.0, float(np.nextafter(1.0, 2.0))),
        (3, None, 0.0),
        (4, None, 0),
        (5, 2**53, 2**53 + 1),
        (6, None, datetime(1970, 1, 1)),
        (7, None, []),
        (7, [], [float("nan")]),
        (7, [0.0], [-0.0]),
    ],
)
def test_digest_tells_one_value_from_another(place: int, one: object, other: object) -> None:
    def digest(value: object) -> str:
        row: list[object] = ["m", "s", "v", 1.5, 1, 1, datetime(2026, 1, 5), [1.0]]
        row[place] = value
        rows = [tuple(row), ("n", "s", "v", 1.5, 1, 1, datetime(2026, 1, 5), [1.0])]
        return table_digest(ALL_TYPES.columns, canonical(ALL_TYPES, all_types(rows, "r")))

    assert digest(one) != digest(other)
    assert digest(one) == digest(one)


# --- the manifest --------------------------------------------------------------------------------------------


def _remove_tables(root: Path) -> None:
    manifest = json.loads((root / "current.json").read_text())
    (root / "current.json").write_text(json.dumps({**manifest, "tables": {}}))


def _other_tables(root: Path) -> None:
    """The right run beside the files of another: what a careless repair once could write."""
    manifest = json.loads((root / "current.json").read_text())
    wrong = json.loads((root / "yesterday.json").read_text())
    (root / "current.json").write_text(json.dumps({**manifest, "tables": wrong["tables"]}))


def _truncate(root: Path) -> None:
    path = root / json.loads((root / "current.json").read_text())["tables"]["ac_trajectories"]["path"]
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda root: (root / "current.json").unlink(),
    "empty": lambda root: (root / "current.json").write_bytes(b""),
    "half": lambda root: (root / "current.json").write_bytes((root / "current.json").read_bytes()[:50]),
    "not UTF-8": lambda root: (root / "current.json").write_bytes(b"\xff\xfe\0"),
    "not an object": lambda root: (root / "current.json").write_text("[]"),
    "lagging": lambda root: shutil.copy(root / "yesterday.json", root / "current.json"),
    "without tables": _remove_tables,
    "with another run's tables": _other_tables,
    "files missing": lambda root: shutil.rmtree(root / "ac_trajectories"),
    "file cut off": _truncate,
    "nothing left": lambda root: shutil.rmtree(root),
}


def test_manifest_and_files_are_put_right_by_the_next_command(
    releases: Releases, db: QuestDB, subtests: pytest.Subtests
) -> None:
    publish(releases, MONDAY)
    shutil.copy(releases.root / "current.json", releases.root / "yesterday.json")
    outcome = publish(releases, TUESDAY)
    before, published = files(releases.root), pointers(db)
    names = [n for n in before if n == "current.json" or outcome.run_id in n]
    for name, damage in DAMAGE.items():
        with subtests.test(name):
            damage(releases.root)
            assert releases.lag() is not None
            assert releases.repair()
            assert releases.lag() is None
            assert not releases.repair()
            assert current_run(releases.root) == outcome.run_id
            after = files(releases.root)
            assert {n: after[n] for n in names} == {n: before[n] for n in names}
            assert pointers(db) == published


def test_publishing_and_rolling_back_repair_what_lags(releases: Releases) -> None:
    monday = publish(releases, MONDAY)
    publish(releases, TUESDAY)
    (releases.root / "current.json").unlink()
    publish(releases, MONDAY, "backfill")  # does not become current, and still leaves the manifest right
    assert current_run(releases.root) == a_run(TUESDAY, "").run_id
    shutil.rmtree(releases.root)
    releases.rollback(monday.run_id)
    assert current_run(releases.root) == monday.run_id


def test_repair_keeps_out_of_a_publication_under_way(releases: Releases, db: QuestDB) -> None:
    publish(releases, MONDAY)
    repaired = []

    def on_step(step: str) -> None:
        if step == "pointer":  # the manifest names Monday, rightly so for a moment
            repaired.append(Releases(db, releases.root).repair())

    outcome = publish(releases, TUESDAY, on_step=on_step)
    assert repaired == [False]
    assert current_run(releases.root) == outcome.run_id


def test_damaged_release_does_not_keep_the_next_night_from_publishing(
    releases: Releases, db: QuestDB, caplog: pytest.LogCaptureFixture
) -> None:
    publish(releases, MONDAY)
    db.execute("UPDATE ac_parameters SET adv = 1.0")
    db.wait("ac_parameters")
    (releases.root / "current.json").unlink()
    assert not releases.repair()
    assert "current.json is missing or cannot be read, which cannot be repaired" in caplog.text
    assert not (releases.root / "current.json").exists()
    outcome = publish(releases, TUESDAY)
    assert current_run(releases.root) == outcome.run_id


# --- Parquet -------------------------------------------------------------------------------------------------


def test_parquet_holds_the_rows_of_the_tables_bit_for_bit(releases: Releases) -> None:
    outcome = publish(releases, MONDAY)
    run = a_run(MONDAY, "")
    for table in schema.RELEASE_TABLES:
        path = releases.root / parquet.release_file(table, MONDAY, outcome.run_id)
        file = pq.read_table(path)
        stored = releases.read(table, MONDAY, outcome.run_id)
        assert file.schema.equals(table.arrow_schema(), check_metadata=False)
        assert table_digest(table.columns, file) == table_digest(table.columns, stored) == outcome.digests[table.name]
        assert file.equals(stored)
        for column in table.columns:
            said = file.schema.field(column.name).metadata
            assert (said[b"unit"].decode(), said[b"meaning"].decode()) == (column.unit, column.meaning)
        assert {k.decode(): v.decode() for k, v in file.schema.metadata.items() if k != b"units"} == {
            "run_id": outcome.run_id,
            "as_of": "2026-01-05",
            "schema_version": str(schema.SCHEMA_VERSION),
            "package_version": run.package_version,
            "numpy_version": run.numpy_version,
        }
        assert pd.read_parquet(path)["run_id"].eq(outcome.run_id).all()  # another door, no partition columns in the way
    manifest = json.loads((releases.root / "current.json").read_text())
    assert (manifest["run_id"], manifest["as_of"]) == (outcome.run_id, "2026-01-05")
    assert {name: entry["rows"] for name, entry in manifest["tables"].items()} == {
        "ac_parameters": 3,
        "ac_trajectories": 6,
    }


def test_row_group_is_a_hundred_whole_markets_and_no_double_is_a_dictionary(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    per_market = rng.integers(1, 12, 250)
    names = np.array([f"M{i:03d}" for i in range(250)])
    n = int(per_market.sum())
    frame = rows_of(schema.TRAJECTORIES, n, 1).assign(
        market_id=np.repeat(names, per_market), token_id="t", strategy="twap", size_ix=range(n), risk_ix=0, horizon_ix=0
    )
    frame = frame.assign(as_of=pd.Timestamp(MONDAY, tz="UTC"), run_id="r").sample(frac=1, random_state=2)
    rows = canonical(schema.TRAJECTORIES, typed(schema.TRAJECTORIES, frame))
    path = parquet.write_release_file(tmp_path, schema.TRAJECTORIES, rows, MONDAY, "r")
    with pq.ParquetFile(tmp_path / path) as file:
        groups = [file.read_row_group(i)["market_id"].to_pylist() for i in range(file.num_row_groups)]
        doubles = [
            chunk
            for i in range(file.num_row_groups)
            for chunk in (file.metadata.row_group(i).column(j) for j in range(file.metadata.num_columns))
            if chunk.physical_type == "DOUBLE"
        ]
    assert [len(set(group)) for group in groups] == [100, 100, 50]
    assert list(itertools.chain(*groups)) == sorted(frame["market_id"])
    assert len(doubles) == 3 * sum("DOUBLE" in c.type for c in schema.TRAJECTORIES.columns)
    assert not [c for c in doubles if {"PLAIN_DICTIONARY", "RLE_DICTIONARY"} & set(c.encodings)]
    assert {c.compression for c in doubles} == {"ZSTD"}


def test_reader_keeps_the_file_it_has_open_while_it_is_replaced(tmp_path: Path) -> None:
    first, second = (canonical(ALL_TYPES, all_types([(name, *[None] * 7)], "r")) for name in ("old", "new"))
    for rows in (first, second):
        path = tmp_path / parquet.write_release_file(tmp_path, ALL_TYPES, rows, MONDAY, "r")
        if rows is first:
            reader = pq.ParquetFile(path)
    with reader:
        assert reader.read()["market_id"].to_pylist() == ["old"]
    assert pq.read_table(path)["market_id"].to_pylist() == ["new"]


def test_file_that_cannot_be_written_leaves_yesterday_current_and_nothing_behind(
    releases: Releases, db: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    yesterday = publish(releases, MONDAY)
    before = files(releases.root)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(releases, TUESDAY)
    monkeypatch.undo()
    assert files(releases.root) == before
    assert seen(db) == whole(yesterday.run_id)
    assert publish(releases, TUESDAY).current
    assert not list((releases.root / parquet.STAGING).iterdir())


def test_every_name_is_on_the_disk_before_the_pointer_moves(
    releases: Releases, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(parquet, "_sync", synced.append)
    steps: dict[str, set[Path]] = {}
    outcome = publish(releases, MONDAY, on_step=lambda step: steps.update({step: set(synced)}))
    for table in schema.RELEASE_TABLES:
        folder = (releases.root / parquet.release_file(table, MONDAY, outcome.run_id)).parent
        # The file, and each folder that got a new name in it.
        assert {folder, *itertools.islice(folder.parents, 3)} <= steps["parquet"]
    assert len([path for path in steps["parquet"] if path.suffix == ".parquet"]) == 2
    assert synced[-1] == releases.root


# --- views ---------------------------------------------------------------------------------------------------


def test_views_show_one_night_whole(releases: Releases, db: QuestDB) -> None:
    publish(releases, MONDAY)
    publish(releases, TUESDAY, "other")
    tonight = publish(releases, TUESDAY)
    publish(releases, MONDAY, "backfill")
    publish(releases, WEDNESDAY, scope="partial")
    with pytest.raises(Killed):
        publish(releases, WEDNESDAY, on_step=killed_after("parquet"))
    for table, view in zip(schema.RELEASE_TABLES, VIEWS[:2], strict=True):
        shown = db.query(f"SELECT * FROM {view}")
        assert shown.column_names == table.names
        assert canonical(table, shown) == releases.read(table, TUESDAY, tonight.run_id)

    steps = db.query("SELECT * FROM ac_steps_current").to_pandas().sort_values(["market_id", "strategy", "step"])
    _, trajectories = made(f"{TUESDAY}")
    trajectories = trajectories.sort_values(["market_id", "strategy"])
    assert steps["step"].tolist() == list(range(N_STEPS + 1)) * 6
    assert steps["time_days"].tolist() == [j / N_STEPS for j in range(N_STEPS + 1)] * 6
    assert steps["remaining"].tolist() == np.concatenate(list(trajectories["remaining"])).tolist()


def test_history_gives_what_was_current_at_any_time(releases: Releases, db: QuestDB) -> None:
    monday = publish(releases, MONDAY)
    tuesday = publish(releases, TUESDAY, n_markets=4)
    publish(releases, MONDAY, "backfill")
    releases.rollback(monday.run_id)
    shown = db.rows(
        "SELECT published_at, run_id, count() FROM ac_parameters_history GROUP BY published_at, run_id "
        "ORDER BY published_at"
    )
    assert [row[0] for row in shown] == [row[0] for row in pointers(db)]
    assert [row[1:] for row in shown] == [(monday.run_id, 3), (tuesday.run_id, 4), (monday.run_id, 3)]


# --- an older schema -----------------------------------------------------------------------------------------


def test_database_of_an_older_schema_is_brought_up_to_date_and_its_releases_stay_good(
    releases: Releases, db: QuestDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    for view in schema.VIEWS:
        db.execute(f"DROP VIEW {view}")
    for name in schema.TABLES:
        db.execute(f"DROP TABLE {name}")
    gone = {
        "ac_parameters": {"adv_se", "volume_profile", "method"},
        "ac_trajectories": {"half_life"},
        "ac_runs": {"error"},
    }
    with monkeypatch.context() as past:
        old = {
            name: dataclasses.replace(t, columns=tuple(c for c in t.columns if c.name not in gone.get(name, ())))
            for name, t in schema.TABLES.items()
        }
        past.setattr(schema, "TABLES", old)
        past.setattr(schema, "PARAMETERS", old["ac_parameters"])
        past.setattr(schema, "TRAJECTORIES", old["ac_trajectories"])
        past.setattr(schema, "RUNS", old["ac_runs"])
        past.setattr(schema, "RELEASE_TABLES", (old["ac_parameters"], old["ac_trajectories"]))
        db.migrate()
        monday, tuesday = publish(releases, MONDAY), publish(releases, TUESDAY)
        before = files(releases.root)

    done = db.migrate()
    assert sorted(line for line in done if "added" in line) == [
        "added column ac_parameters.adv_se DOUBLE",
        "added column ac_parameters.method SYMBOL",
        "added column ac_parameters.volume_profile DOUBLE[]",
        "added column ac_runs.error VARCHAR",
        "added column ac_trajectories.half_life DOUBLE",
    ]
    assert db.migrate() == []
    assert releases.lag() is None
    assert seen(db) == whole(tuesday.run_id)
    assert db.rows("SELECT count() FROM ac_parameters_current WHERE adv_se IS NULL") == [(3,)]  # the view has it too
    for table in schema.RELEASE_TABLES:
        rows = parquet.read_release_file(releases.root, table, TUESDAY, tuesday.run_id)
        assert rows.schema.names == table.names
        assert rows == releases.read(table, TUESDAY, tuesday.run_id)
        assert all(rows[name].null_count == rows.num_rows for name in gone[table.name])

    # What was published before can still be made current: its digest did not change with the schema, nor its file.
    releases.rollback(monday.run_id)
    assert current_run(releases.root) == monday.run_id
    after = files(releases.root)
    assert {n for n in before if n != "current.json"} <= after.keys()
    assert all(after[n] == before[n] for n in before if n != "current.json")
    shutil.rmtree(releases.root)
    assert releases.repair()
    assert current_run(releases.root) == monday.run_id
    wednesday = publish(releases, WEDNESDAY)
    assert db.rows("SELECT count() FROM ac_trajectories_current") == [(6,)]
    assert current_run(releases.root) == wednesday.run_id


# --- retention -----------------------------------------------------------------------------------------------

LATER = timedelta(days=2)


def partitions(db: QuestDB) -> list[str]:
    db.wait("ac_trajectories")
    return [name for (name,) in db.rows("SELECT name FROM table_partitions('ac_trajectories') ORDER BY name")]


def state_of_everything(db: QuestDB, root: Path) -> object:
    tables = [db.query(f"SELECT * FROM {name}").to_pylist() for name in sorted(schema.TABLES)]
    return repr(tables), files(root)


def test_thirty_nights_is_what_is_kept_by_default() -> None:
    assert Retention().trajectory_nights == 30


def test_trajectories_of_old_nights_go_and_parameters_stay(releases: Releases, db: QuestDB) -> None:
    days = [MONDAY + timedelta(days=i) for i in range(5)]
    runs = [publish(releases, day) for day in days]
    parameters = db.query("SELECT * FROM ac_parameters")
    now = datetime.now(UTC) + LATER

    before = state_of_everything(db, releases.root)
    planned = releases.maintain(Retention(trajectory_nights=3), now, dry_run=True)
    assert state_of_everything(db, releases.root) == before
    done = releases.maintain(Retention(trajectory_nights=3), now)
    assert done.equals(planned)
    assert set(done["why"]) == {"older than the nights kept"}
    assert list(done["action"]) == ["drop partition"] * 2 + ["delete files"] * 2

    assert partitions(db) == [str(day) for day in days[2:]]
    assert db.query("SELECT * FROM ac_parameters") == parameters
    assert sorted(p.name for p in (releases.root / "ac_trajectories").iterdir()) == [f"as_of={d}" for d in days[2:]]
    assert len(list((releases.root / "ac_parameters").glob("*/*/*.parquet"))) == 5
    assert seen(db) == whole(runs[-1].run_id)
    assert releases.maintain(Retention(trajectory_nights=3), now).empty

    with pytest.raises(ReleaseError, match=r"ac_trajectories no longer holds run \w+ as it was published \(0 rows\)"):
        releases.rollback(runs[0].run_id)
    assert releases.rollback(runs[2].run_id).as_of == days[2]
    # A night that was swept can be computed again.
    assert publish(releases, days[0]).reason.startswith("complete, not current")
    assert len(releases.read(schema.TRAJECTORIES, days[0], runs[0].run_id)) == 6


def test_reports_go_with_the_trajectories_of_their_night(releases: Releases) -> None:
    days = [MONDAY + timedelta(days=i) for i in range(4)]
    pages = [parquet.write_page(releases.root, "x", day, publish(releases, day).run_id) for day in days]
    with pytest.raises(Killed):
        publish(releases, days[3], "killed", on_step=killed_after("rows"))
    orphan = parquet.write_page(releases.root, "x", days[3], a_run(days[3], "killed").run_id)
    done = releases.maintain(Retention(trajectory_nights=3), datetime.now(UTC) + LATER)
    assert {name for name in done["name"] if name.startswith("reports/")} == {
        page.parent.relative_to(releases.root).as_posix() for page in (pages[0], orphan)
    }
    assert [page.exists() for page in (*pages, orphan)] == [False, True, True, True, False]


def test_the_reports_history_says_which_nights_it_could_not_read(
    releases: Releases, caplog: pytest.LogCaptureFixture
) -> None:
    days = [MONDAY, TUESDAY, WEDNESDAY]
    runs = [publish(releases, day).run_id for day in days]
    gone, torn, _ = (
        releases.root / parquet.release_file(schema.PARAMETERS, day, run) for day, run in zip(days, runs, strict=True)
    )
    gone.unlink()
    torn.write_bytes(torn.read_bytes()[:-100])
    history = parameter_history(releases, WEDNESDAY)
    assert set(history.rows["as_of"]) == {str(WEDNESDAY)}
    assert history.left_out == (
        f"{TUESDAY} (run {runs[1]}): its file cannot be read",
        f"{MONDAY} (run {runs[0]}): its file is gone",
    )
    assert all(any(said in line for line in caplog.messages) for said in history.left_out)


def test_current_run_and_all_that_is_younger_are_kept_however_old(releases: Releases, db: QuestDB) -> None:
    days = [MONDAY + timedelta(days=i) for i in range(5)]
    runs = [publish(releases, day) for day in days]
    releases.rollback(runs[1].run_id)
    releases.maintain(Retention(trajectory_nights=1), datetime.now(UTC) + LATER)
    assert partitions(db) == [str(day) for day in days[1:]]
    assert seen(db) == whole(runs[1].run_id)
    assert current_run(releases.root) == runs[1].run_id
    releases.rollback(runs[3].run_id)


def test_night_of_some_markets_does_not_push_a_whole_one_out(releases: Releases, db: QuestDB) -> None:
    runs = [publish(releases, day) for day in (MONDAY, TUESDAY)]
    for i in range(3):
        publish(releases, WEDNESDAY + timedelta(days=i), scope="partial")
    releases.maintain(Retention(trajectory_nights=2), datetime.now(UTC) + LATER)
    assert releases.rollback(runs[0].run_id).as_of == MONDAY


@pytest.mark.parametrize("step", ["rows", "parquet"])
def test_what_a_killed_run_left_is_swept(releases: Releases, db: QuestDB, step: str) -> None:
    good = publish(releases, MONDAY)
    with pytest.raises(Killed):
        publish(releases, MONDAY, "killed", on_step=killed_after(step))
    with pytest.raises(Killed):
        publish(releases, TUESDAY, on_step=killed_after(step))
    staged = releases.root / parquet.STAGING / "99999-dead.parquet"
    staged.parent.mkdir(exist_ok=True)
    staged.write_bytes(b"half")
    young = datetime.now(UTC)
    assert releases.maintain(Retention(), young).empty  # may be at work still
    now = young + LATER
    before = state_of_everything(db, releases.root)
    planned = releases.maintain(Retention(), now, dry_run=True)
    assert state_of_everything(db, releases.root) == before
    assert releases.maintain(Retention(), now).equals(planned)

    assert partitions(db) == [str(MONDAY)]  # nobody reads the killed run's rows beside the good ones
    assert not staged.exists()
    assert sorted(p.parent.name for p in releases.root.rglob("*.parquet")) == [f"run_id={good.run_id}"] * 2
    assert not list(releases.root.glob(f"*/as_of={TUESDAY}"))
    runs = releases.runs()
    assert dict(zip(runs["run_id"], runs["state"], strict=True)) == {
        good.run_id: "complete",
        a_run(MONDAY, "killed").run_id: "failed",
        a_run(TUESDAY, "").run_id: "failed",
    }
    assert seen(db) == whole(good.run_id)
    assert releases.maintain(Retention(), now).empty
    # Both can be run again.
    assert publish(releases, MONDAY, "killed").current
    assert publish(releases, TUESDAY).current


def test_rows_of_a_young_run_are_kept_beside_an_orphan(releases: Releases, db: QuestDB) -> None:
    with pytest.raises(Killed):
        publish(releases, MONDAY, "old", on_step=killed_after("rows"))
    db.execute("UPDATE ac_runs SET started_at = '2020-01-01'")
    with pytest.raises(Killed):
        publish(releases, MONDAY, "young", on_step=killed_after("rows"))
    done = releases.maintain(Retention(), datetime.now(UTC))
    assert list(done["action"]) == ["mark failed"]
    assert len(releases.read(schema.TRAJECTORIES, MONDAY, a_run(MONDAY, "young").run_id)) == 6


def test_files_of_a_run_the_database_does_not_know_are_left_alone(releases: Releases) -> None:
    publish(releases, MONDAY)
    strange = releases.root / "ac_parameters" / "as_of=2030-01-01" / "run_id=ffff" / "part-0.parquet"
    strange.parent.mkdir(parents=True)
    strange.write_bytes(b"another database's")
    assert releases.maintain(Retention(orphan_hours=0), datetime.now(UTC) + LATER).empty
    assert strange.exists()


# --- one at a time -------------------------------------------------------------------------------------------


def _publish_elsewhere(server: QuestDBServer, root: Path, tag: str, began: Event, go_on: Event) -> None:
    def on_step(step: str) -> None:
        if step == "rows":
            began.set()
            assert go_on.wait(60)

    with QuestDB(server) as db:
        publish(Releases(db, root), MONDAY, tag, on_step=on_step)


def test_of_two_publishing_processes_one_waits(releases: Releases, db: QuestDB) -> None:
    context = multiprocessing.get_context("spawn")
    go_on = context.Event()
    processes, began = {}, {}
    for tag in ("first", "second"):
        began[tag] = context.Event()
        args = (db.server, releases.root, tag, began[tag], go_on)
        processes[tag] = context.Process(target=_publish_elsewhere, args=args)
        processes[tag].start()
        if tag == "first":
            assert began["first"].wait(60)
    with pytest.raises(ReleaseError, match="another run held"), releases.lock(timeout_s=0):
        pass
    assert not began["second"].wait(2)
    assert pointers(db) == []
    go_on.set()
    for process in processes.values():
        process.join(60)
    assert [process.exitcode for process in processes.values()] == [0, 0]
    assert [run_id for _, run_id, _ in pointers(db)] == [a_run(MONDAY, tag).run_id for tag in ("first", "second")]
    assert seen(db) == whole(a_run(MONDAY, "second").run_id)
    assert current_run(releases.root) == a_run(MONDAY, "second").run_id


def test_lock_of_a_dead_process_is_free(releases: Releases, db: QuestDB) -> None:
    context = multiprocessing.get_context("spawn")
    began, never = context.Event(), context.Event()
    process = context.Process(target=_publish_elsewhere, args=(db.server, releases.root, "dead", began, never))
    process.start()
    assert began.wait(60)
    os.kill(process.pid or 0, 9)
    process.join(60)
    with releases.lock(timeout_s=0):
        pass
    assert publish(releases, MONDAY).current
