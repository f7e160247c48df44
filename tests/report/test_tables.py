"""Columns are described once: the page, the files and `explain` say the same."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from book_release import AS_OF, NOW, publish

from tributary_opt import schema
from tributary_opt.cli_book import _LABELS
from tributary_opt.report.tables import tables_page
from tributary_opt.schedule_book import ScheduleBook
from tributary_opt.schedule_book.evidence import explain
from tributary_opt.storage import parquet


def test_page_of_the_tables_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "tables.md"
    assert page.read_text(encoding="utf-8") == tables_page(), "python -m tributary_opt.report.tables > docs/tables.md"


def test_page_files_and_explain_say_the_same_of_a_column(tmp_path: Path) -> None:
    publish(tmp_path)
    page = tables_page()
    for table in schema.RELEASE_TABLES:
        for field in pq.read_schema(tmp_path / parquet.release_file(table, AS_OF, "a" * 16)):
            unit, meaning = (field.metadata[name].decode() for name in (b"unit", b"meaning"))
            assert f"| `{field.name}` | " in page
            assert meaning.replace("|", "\\|") in page
            column = next(c for c in table.columns if c.name == field.name)
            assert (column.unit, column.meaning) == (unit, meaning)
    told = explain(ScheduleBook.open(tmp_path, clock=lambda: NOW), "ALPHA")
    assert len(told) > 20
    for row in told.to_dict("records"):
        table = schema.TRAJECTORIES if row["stage"] == "schedule" else schema.PARAMETERS
        column = next(c for c in table.columns if c.name == row["name"])
        assert (row["unit"], row["meaning"]) == (column.unit, column.meaning)


def test_headings_on_a_terminal_have_the_units_of_the_columns() -> None:
    short = {"price/√d": "price/day^0.5", "1/cur.": "1/currency", "d": "day", "contracts/d": "contracts/day"}
    columns = {c.name: c for table in schema.RELEASE_TABLES for c in table.columns}
    checked = 0
    for name, label in _LABELS.items():
        unit = label.partition("[")[2].rstrip("]")
        if name in columns and unit:
            assert short.get(unit, unit) == columns[name].unit, label
            checked += 1
    assert checked >= 6


@pytest.mark.parametrize("table", schema.TABLES.values(), ids=lambda t: t.name)
def test_every_column_means_something(table: schema.Table) -> None:
    assert all(c.meaning.strip() for c in table.columns)
    assert all(c.unit.strip() for c in table.columns if c.type in ("DOUBLE", "DOUBLE[]"))
