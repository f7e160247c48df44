"""Releases as Parquet: the same rows, in the same schema, for those who have nothing but files.

`<root>/<table>/as_of=YYYY-MM-DD/run_id=…/part-0.parquet`, and `current.json`, which names the current release. Every
file appears by a rename, whole and on disk, or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tributary_opt import schema

MANIFEST = "current.json"
STAGING = ".staging"
REPORTS = "reports"
"""Folder of the HTML reports, beside those of the tables."""
_MARKETS_PER_ROW_GROUP = 100
_PARAMETERS_PER_ROW_GROUP = 500
"""Of a table with a row a market: each of its many columns stands in the footer once for every row group, and a reader
reads the footer first."""


def release_file(table: schema.Table, as_of: date, run_id: str) -> Path:
    """Where a release's file of a table lies, below the root."""
    return Path(table.name) / f"as_of={as_of:%Y-%m-%d}" / f"run_id={run_id}" / "part-0.parquet"


def write_release_file(root: Path, table: schema.Table, rows: pa.Table, as_of: date, run_id: str) -> Path:
    """Write one table of a release: to a staging name, to the disk, then by a rename. Returns the path below the root.

    `rows` are sorted by market; a row group is some hundred markets, none of them cut in two: a lookup reads one.
    Doubles are not dictionary-encoded (bigger than raw, and five times slower). Every page has a checksum: a byte that
    turned on the disk is found by those who read it, and is no other number.
    """
    target = root / release_file(table, as_of, run_id)
    _make_folder(target.parent)
    text = [c.name for c in table.columns if c.type in ("SYMBOL", "VARCHAR")]
    doubles = [c.name if c.type == "DOUBLE" else f"{c.name}.list.element" for c in table.columns if "DOUBLE" in c.type]
    with (
        _staged(root, target, f"{run_id}-{table.name}.parquet") as staging,
        pq.ParquetWriter(
            staging,
            rows.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=text,
            column_encoding=dict.fromkeys(doubles, "BYTE_STREAM_SPLIT"),
            write_page_checksum=True,
        ) as writer,
    ):
        n_markets = _PARAMETERS_PER_ROW_GROUP if table is schema.PARAMETERS else _MARKETS_PER_ROW_GROUP
        for start, stop in _row_groups(rows, n_markets):
            writer.write_table(rows.slice(start, stop - start), row_group_size=stop - start)
    return target.relative_to(root)


def read_release_file(root: Path, table: schema.Table, as_of: date, run_id: str) -> pa.Table:
    """A release's rows of a table, in today's schema: columns that the file is too old to have are null.

    Raises FileNotFoundError where there is no file, `pyarrow.ArrowException` where there is none that can be read.
    """
    with pq.ParquetFile(root / release_file(table, as_of, run_id), page_checksum_verification=True) as file:
        return _in_todays_schema(table, file.read())


def release_file_parts(root: Path, table: schema.Table, as_of: date, run_id: str) -> Iterator[pa.Table]:
    """The same rows, a row group at a time."""
    with pq.ParquetFile(root / release_file(table, as_of, run_id), page_checksum_verification=True) as file:
        for i in range(file.num_row_groups):
            yield _in_todays_schema(table, file.read_row_group(i))


def write_page(root: Path, text: str, as_of: date, run_id: str) -> Path:
    """Write a run's report beside its Parquet, whole or not at all. Returns where it is."""
    target = root / REPORTS / f"as_of={as_of:%Y-%m-%d}" / f"run_id={run_id}" / "report.html"
    _make_folder(target.parent)
    with _staged(root, target, f"{run_id}-report.html") as staging:
        staging.write_text(text, encoding="utf-8", errors="replace")
    return target


def write_manifest(root: Path, content: dict[str, Any]) -> None:
    """Replace `current.json`, whole."""
    _make_folder(root)
    with _staged(root, root / MANIFEST, MANIFEST) as staging:
        staging.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_manifest(root: Path) -> dict[str, Any] | None:
    """What `current.json` says; None where there is none, or none that can be read."""
    try:
        content = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # not JSON, or not even UTF-8
        return None
    return content if isinstance(content, dict) else None


def read_market(root: Path, table: schema.Table, market_id: str) -> pa.Table:
    """One market's rows of a table of the current release, whole row groups of other markets left unread.

    Raises FileNotFoundError where nothing has been published below `root`.
    """
    manifest = read_manifest(root)
    if manifest is None:
        raise FileNotFoundError(
            f"no release below {root}: {MANIFEST} is missing or cannot be read; publish a night first"
        )
    with pq.ParquetFile(root / manifest["tables"][table.name]["path"]) as file:
        place = file.schema_arrow.get_field_index("market_id")
        groups = []
        for i in range(file.num_row_groups):
            bounds = file.metadata.row_group(i).column(place).statistics
            if bounds is None or not bounds.has_min_max or bounds.min <= market_id <= bounds.max:
                groups.append(i)
        rows = file.read_row_groups(groups)
    return rows.filter(pc.equal(rows["market_id"], market_id))


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_todays_schema(table: schema.Table, rows: pa.Table) -> pa.Table:
    wanted = table.arrow_schema(rows.schema.metadata)
    have = set(rows.column_names)
    columns = [rows[f.name].cast(f.type) if f.name in have else pa.nulls(rows.num_rows, f.type) for f in wanted]
    return pa.table(columns, schema=wanted)


def _row_groups(rows: pa.Table, n_markets: int) -> list[tuple[int, int]]:
    """First row and end of each row group."""
    if not rows.num_rows:
        return []
    market = rows["market_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    firsts = np.flatnonzero(np.diff(market, prepend=-1))[::n_markets].tolist()
    return list(zip(firsts, [*firsts[1:], rows.num_rows], strict=True))


@contextlib.contextmanager
def _staged(root: Path, target: Path, name: str) -> Iterator[Path]:
    """A name to write to; what was written is on the disk and renamed to the target at the end of the block."""
    staging = root / STAGING / f"{os.getpid()}-{name}"
    _make_folder(staging.parent)
    try:
        yield staging
        _sync(staging)
        os.replace(staging, target)
    finally:
        staging.unlink(missing_ok=True)
    _sync(target.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, each name on the disk: a file in a folder that a crash forgets is lost as well."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
