"""Manifest and Parquet: what they hold, what is put right again, releases of an older schema."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from nights import (
    ALL_TYPES,
    MONDAY,
    TUESDAY,
    WEDNESDAY,
    a_run,
    all_types,
    current_run,
    files,
    pointers,
    publish,
    rows_of,
    seen,
    whole,
)

from tributary_opt import schema
from tributary_opt.storage import parquet
from tributary_opt.storage.frames import canonical, table_digest, typed
from tributary_opt.storage.migration import migrate
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.releases import Releases

pytestmark = pytest.mark.questdb


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
    assert manifest["settings"] == run.settings
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
        migrate(db)
        monday, tuesday = publish(releases, MONDAY), publish(releases, TUESDAY)
        before = files(releases.root)

    done = migrate(db)
    assert sorted(line for line in done if "added" in line) == [
        "added column ac_parameters.adv_se DOUBLE",
        "added column ac_parameters.method SYMBOL",
        "added column ac_parameters.volume_profile DOUBLE[]",
        "added column ac_runs.error VARCHAR",
        "added column ac_trajectories.half_life DOUBLE",
    ]
    assert migrate(db) == []
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
