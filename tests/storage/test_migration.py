"""Tables and views made, and brought up to date, on a real QuestDB."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from any_rows import arrays, rows_of_every_type, stamps

from tributary_opt import schema
from tributary_opt.storage.migration import migrate
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.shapes import SchemaMismatch

pytestmark = pytest.mark.questdb


def test_migration_creates_everything_and_then_nothing(db: QuestDB) -> None:
    planned = migrate(db, dry_run=True)
    assert db.tables() == []
    done = migrate(db)
    assert [line.partition(" ")[2] for line in done] == [line.partition(" ")[2] for line in planned]
    assert planned[0] == "create table ac_market_days"
    assert len(done) == len(schema.TABLES) + len(schema.VIEWS)
    assert db.tables() == sorted(schema.TABLES)
    for name, table in schema.TABLES.items():
        shape = db.describe(name)
        assert list(shape.columns) == table.names
        assert (shape.timestamp, shape.keys, shape.wal) == (table.timestamp, frozenset(table.keys), True)
    assert db.query("SELECT * FROM ac_steps_current").schema.field("remaining").type == pa.float64()
    assert migrate(db) == []


def test_table_of_an_older_schema_gets_the_missing_columns_and_keeps_its_rows(db: QuestDB) -> None:
    lacking = ("detail", "adv_se", "n_days", "volume_profile", "resolution_time", "kind")
    older = schema.Table(
        "ac_parameters",
        "",
        tuple(c for c in schema.PARAMETERS.columns if c.name not in lacking),
        schema.PARAMETERS.keys,
        schema.PARAMETERS.partition_by,
    )
    db.create(older)
    frame = rows_of_every_type(schema.PARAMETERS, 20)
    db.send(older, frame[older.names])
    db.wait("ac_parameters")

    done = migrate(db)

    assert [line for line in done if "ac_parameters." in line] == [
        f"added column ac_parameters.{c.name} {c.type}" for c in schema.PARAMETERS.columns if c.name in lacking
    ]
    assert db.columns("ac_parameters") == {
        **db.columns("ac_parameters"),
        **{c.name: c.type for c in schema.PARAMETERS.columns},
    }
    read = db.query(f"SELECT {', '.join(schema.PARAMETERS.names)} FROM ac_parameters").to_pandas()
    assert read[list(lacking)].isna().all().all()
    assert read["eta"].equals(frame["eta"])
    db.send(schema.PARAMETERS, frame)  # the same keys: the rows are replaced
    db.wait("ac_parameters")
    assert db.rows("SELECT count(), count(detail) FROM ac_parameters") == [(20, frame["detail"].count())]
    assert migrate(db) == []


def _with(name: str, type_: str) -> tuple[schema.Column, ...]:
    return tuple(schema.Column(c.name, type_ if c.name == name else c.type, "", "") for c in schema.RUNS.columns)


@pytest.mark.parametrize(
    ("ddl", "difference"),
    [
        (
            schema.Table("ac_runs", "", _with("n_ok", "LONG"), schema.RUNS.keys, "YEAR").ddl(),
            r"ac_runs\.n_ok is LONG, must be INT: RENAME TABLE ac_runs",
        ),
        (
            schema.RUNS.ddl().partition(" DEDUP")[0],
            r"dedup keys \(none\), must have \(as_of, run_id\): "
            r"run ALTER TABLE ac_runs DEDUP ENABLE UPSERT KEYS\(as_of, run_id\)",
        ),
        (
            schema.RUNS.ddl().replace("KEYS(as_of, run_id)", "KEYS(as_of)"),
            r"dedup keys \(as_of\), must have \(as_of, run_id\)",
        ),
        (
            schema.RUNS.ddl().replace("TIMESTAMP(as_of)", "TIMESTAMP(started_at)").partition(" DEDUP")[0],
            r"designated timestamp started_at, must be as_of",
        ),
        (
            schema.RUNS.ddl().replace("(\n", "(\n  novelty DOUBLE,\n", 1),
            r"ac_runs\.novelty is not in the schema: a newer tributary-opt wrote it",
        ),
        (schema.RUNS.ddl().partition(" WAL")[0] + " BYPASS WAL", r"ac_runs has no WAL"),
        ("CREATE VIEW ac_runs AS (SELECT 1 x FROM long_sequence(1))", "ac_runs is a view"),
        ("CREATE TABLE ac_steps_current (x INT)", "ac_steps_current is a table, must be a view"),
    ],
    ids=["type", "no-keys", "other-keys", "timestamp", "unknown-column", "no-wal", "view", "table-for-view"],
)  # fmt: skip
def test_other_differences_are_refused_by_name_and_nothing_is_changed(db: QuestDB, ddl: str, difference: str) -> None:
    db.execute(ddl)
    before = db.rows("SELECT table_name FROM tables()")
    with pytest.raises(SchemaMismatch, match=difference):
        migrate(db)
    assert db.rows("SELECT table_name FROM tables()") == before


def test_the_remedy_for_missing_keys_works(db: QuestDB) -> None:
    db.execute(schema.RUNS.ddl().partition(" DEDUP")[0])
    with pytest.raises(SchemaMismatch) as caught:
        migrate(db)
    db.execute(str(caught.value).rpartition("run ")[2])
    db.wait("ac_runs")
    migrate(db)


def test_changed_view_is_replaced(db: QuestDB) -> None:
    migrate(db)
    db.execute("CREATE OR REPLACE VIEW ac_steps_current AS (SELECT 1 x FROM long_sequence(1))")
    # Views that were dropped and made again a moment ago may still be called invalid, and are then replaced as well.
    assert "replaced view ac_steps_current" in migrate(db)
    assert "remaining" in db.query("SELECT * FROM ac_steps_current").column_names


def test_simultaneous_migrations_agree(db: QuestDB) -> None:
    older = schema.Table("ac_runs", "", schema.RUNS.columns[:2], schema.RUNS.keys, schema.RUNS.partition_by)
    db.create(older)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: migrate(db), range(4)))
    assert migrate(db) == []


def test_views_show_the_run_that_the_pointer_names(db: QuestDB) -> None:
    migrate(db)
    frame = rows_of_every_type(schema.TRAJECTORIES, 4)
    frame["as_of"] = stamps(1)[0]
    frame["run_id"] = pd.Categorical(["old", "old", "new", "new"])
    frame["n_steps"] = pd.array([3] * 4, dtype="Int32")
    frame["remaining"] = arrays(*[np.array([3.0, 2.0, 1.0, 0.0])] * 4)
    db.send(schema.TRAJECTORIES, frame)
    pointer = rows_of_every_type(schema.PUBLISHED, 2).assign(
        dataset=pd.Categorical(["ac"] * 2), run_id=pd.Categorical(["old", "new"]), as_of=stamps(1)[0]
    )
    for table, rows in ((schema.PUBLISHED, pointer), (schema.TRAJECTORIES, frame)):
        db.send(table, rows)
        db.wait(table.name)
    assert set(db.query("SELECT run_id FROM ac_trajectories_current")["run_id"].to_pylist()) == {"new"}
    steps = db.query("SELECT step, remaining FROM ac_steps_current WHERE size_ix = " + str(frame["size_ix"].iloc[2]))
    assert sorted(steps["remaining"].to_pylist(), reverse=True)[:4] == sorted([3.0, 2.0, 1.0, 0.0], reverse=True)
