"""Releases as Parquet: the same rows, in the same schema, for those who have nothing but files.

`<root>/<table>/as_of=YYYY-MM-DD/run_id=…/part-0.parquet`, and `current.json`, which names the current release. Every file
appears by a rename, whole and on disk, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tributary_opt import schema

MANIFEST = "current.json"
STAGING = ".staging"
_MARKETS_PER_ROW_GROUP = 100


def release_file(table: schema.Table, as_of: date, run_id: str) -> Path:
    """Where a release's file of a table lies, below the root."""
    return Path(table.name) / f"as_of={as_of:%Y-%m-%d}" / f"run_id={run_id}" / "part-0.parquet"


def write_release_file(root: Path, table: schema.Table, rows: pa.Table, as_of: date, run_id: str) -> Path:
    """Write one table of a release: to a staging name, to the disk, then by a rename. Returns the path below the root.

    `rows` are sorted by market; about a hundred markets share a row group, so that a lookup reads one. Doubles are not
    dictionary-encoded (bigger than raw, and five times slower).
    """
    target = root / release_file(table, as_of, run_id)
    staging = root / STAGING / f"{run_id}-{os.getpid()}-{table.name}.parquet"
    for folder in (target.parent, staging.parent):
        folder.mkdir(parents=True, exist_ok=True)
    text = [c.name for c in table.columns if c.type in ("SYMBOL", "VARCHAR")]
    doubles = [c.name if c.type == "DOUBLE" else f"{c.name}.list.element" for c in table.columns if "DOUBLE" in c.type]
    pq.write_table(
        rows,
        staging,
        row_group_size=_row_group_size(rows),
        compression="zstd",
        compression_level=1,
        use_dictionary=text,
        column_encoding=dict.fromkeys(doubles, "BYTE_STREAM_SPLIT"),
    )
    _sync(staging)
    os.replace(staging, target)
    _sync(target.parent)
    return target.relative_to(root)


def write_manifest(root: Path, content: dict[str, Any]) -> None:
    """Replace `current.json`, whole."""
    root.mkdir(parents=True, exist_ok=True)
    staging = root / f"{MANIFEST}.{os.getpid()}"
    staging.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    _sync(staging)
    os.replace(staging, root / MANIFEST)
    _sync(root)


def read_manifest(root: Path) -> dict[str, Any] | None:
    """What `current.json` says; None where there is none, or none that can be read."""
    try:
        content = json.loads((root / MANIFEST).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None


def read_market(root: Path, table: schema.Table, market_id: str) -> pa.Table:
    """One market's rows of a table of the current release, whole row groups of other markets left unread.

    Raises FileNotFoundError where nothing has been published below `root`.
    """
    manifest = read_manifest(root)
    if manifest is None:
        raise FileNotFoundError(f"no release below {root}: {MANIFEST} is missing or cannot be read; publish a night first")
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


def _row_group_size(rows: pa.Table) -> int:
    """Rows of about a hundred markets, never splitting the average market."""
    if not rows.num_rows:
        return 1
    n_markets = max(len(rows["market_id"].unique()), 1)
    return max(1, round(rows.num_rows / n_markets)) * _MARKETS_PER_ROW_GROUP


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
