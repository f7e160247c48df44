"""What a schedule book reads and loads for one lookup, and that it stays with the files it was opened on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import exchange_calendars
import pyarrow.parquet as pq
import pytest
from book_release import AS_OF, NOW, market, publish

from tributary_opt import schema
from tributary_opt.market_data import calendars
from tributary_opt.schedule_book import BookError, ScheduleBook, clock
from tributary_opt.schedule_book.evidence import explain
from tributary_opt.settings import Grid
from tributary_opt.storage import parquet

SMALL = Grid(order_sizes_pct_adv=(1.0,), n_steps=4)
NAMES = ("ALPHA", "BETA", "GAMMA", "KAPPA", "OMEGA", "SIGMA")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six markets, two a row group; the last two of an exchange."""
    for name in ("_MARKETS_PER_ROW_GROUP", "_PARAMETERS_PER_ROW_GROUP"):
        monkeypatch.setattr(parquet, name, 2)
    made(tmp_path, "a" * 16, 50.0)
    return tmp_path


def made(root: Path, run_id: str, price: float) -> None:
    rows = (market(name, price=price, calendar="XNYS" if name in NAMES[-2:] else "24/7") for name in NAMES)
    publish(root, run_id, markets=tuple(rows), grid=SMALL)


@pytest.fixture
def groups_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Which row groups are read, of a file with how many columns: of parameters or of schedules."""
    seen: list[tuple[str, int]] = []
    real, whole = pq.ParquetFile.read_row_group, pq.ParquetFile.read

    def table(file: Any) -> str:
        return schema.TRAJECTORIES.name if "remaining" in file.schema_arrow.names else schema.PARAMETERS.name

    def one(file: Any, group: int, **how: Any) -> Any:
        seen.append((table(file), group))
        return real(file, group, **how)

    def everything(file: Any, **how: Any) -> Any:
        seen.append((table(file), -1))
        return whole(file, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", one)
    monkeypatch.setattr(pq.ParquetFile, "read", everything)
    return seen


def opened(root: Path) -> ScheduleBook:
    return ScheduleBook.open(root, clock=lambda: NOW)


def test_one_lookup_reads_one_row_group_of_each_table(root: Path, groups_read: list[tuple[str, int]]) -> None:
    book = opened(root)
    assert groups_read == []
    for urgency in (1.0, 1.5):
        book.schedule("GAMMA", 1_000.0, urgency=urgency)
    assert groups_read == [("ac_parameters", 1), ("ac_trajectories", 1)]
    book.schedule("KAPPA", 1_000.0, urgency=1.0)
    assert len(groups_read) == 2
    explain(book, "GAMMA")
    assert groups_read[2:] == [("ac_parameters", 1)]


def test_one_lookup_of_a_market_that_never_closes_loads_no_calendar_and_no_database(root: Path) -> None:
    code = """
import sys
from datetime import datetime
from tributary_opt.schedule_book import ScheduleBook
with ScheduleBook.open(sys.argv[1], clock=lambda: datetime.fromisoformat(sys.argv[2])) as book:
    assert book.schedule("ALPHA", 1000.0, urgency=1.0).params["source"] == "published"
    assert book.schedule("ALPHA", 900.0, urgency=1.0).params["source"] == "solved"
print(*sys.modules)
"""
    asked = [sys.executable, "-c", code, str(root), NOW.isoformat()]
    loaded = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    heavy = {"pandas", "exchange_calendars", "psycopg", "questdb", "requests", "pydantic", "prefect", "flows", "scipy"}
    assert {"numpy", "pyarrow"} <= set(loaded)
    assert not heavy & {name.partition(".")[0] for name in loaded}


def test_calendar_is_made_for_who_asks_for_its_market(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = exchange_calendars.get_calendar

    def counted(code: str, **how: Any) -> Any:
        asked.append(code)
        return real(code, **how)

    monkeypatch.setattr(exchange_calendars, "get_calendar", counted)
    for cache in (calendars.trading_calendar, clock._bounds):
        cache.cache_clear()
    book = opened(root)
    book.schedule("ALPHA", 1_000.0, urgency=1.0)
    assert asked == []
    gate = threading.Barrier(4)

    def age(_: int) -> float:
        gate.wait()
        return float(book.schedule("SIGMA", 1_000.0, urgency=1.0).params["age_hours"])

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(age, range(4))) == {0.0}
    assert set(asked) == {"XNYS"}


def test_threads_that_ask_at_once_share_what_is_read(root: Path, groups_read: list[tuple[str, int]]) -> None:
    book, gate = opened(root), threading.Barrier(8)

    def look(i: int) -> tuple[str, bytes]:
        gate.wait()
        t = book.schedule(NAMES[i % 4], 900.0, urgency=2.0)
        return t.params["market_id"], t.holdings.tobytes()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(look, range(8)))
    assert [name for name, _ in found] == [NAMES[i % 4] for i in range(8)]
    assert len(set(found)) == 4
    assert sorted(groups_read) == [(t.name, group) for t in schema.RELEASE_TABLES for group in (0, 1)]


@pytest.mark.parametrize("swept", [False, True], ids=["the next is published", "its own files are swept away"])
def test_book_that_has_read_nothing_yet_stays_with_its_release(root: Path, swept: bool) -> None:
    book = opened(root)
    made(root, "b" * 16, 80.0)
    if swept:
        for table in schema.RELEASE_TABLES:
            shutil.rmtree((root / parquet.release_file(table, AS_OF, "a" * 16)).parent)
    for size in (1_000.0, 900.0):
        t = book.schedule("OMEGA", size, urgency=1.0)
        assert (t.params["run_id"], t.params["price"]) == ("a" * 16, 50.0)
    assert set(book.parameters()["price"]) == {50.0}
    many = book.schedules(book.markets()[["market_id"]].assign(order_size=900.0, urgency=1.0))
    assert set(many["run_id"]) == {"a" * 16}
    assert explain(book, "ALPHA").set_index("name")["value"]["price"] == 50.0
    assert book.refresh()
    assert book.schedule("OMEGA", 900.0, urgency=1.0).params["price"] == 80.0


@pytest.mark.parametrize("table", schema.RELEASE_TABLES, ids=lambda t: t.name)
def test_file_of_another_run_is_found_when_it_is_opened(root: Path, table: schema.Table) -> None:
    made(root / "other", "b" * 16, 80.0)
    other = root / "other" / parquet.release_file(table, AS_OF, "b" * 16)
    (root / parquet.release_file(table, AS_OF, "a" * 16)).write_bytes(other.read_bytes())
    with pytest.raises(BookError, match=f"{table.name} of run a+ holds rows of run b+$"):
        opened(root)
