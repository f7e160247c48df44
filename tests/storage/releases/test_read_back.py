"""What is read back is what was written, or nothing is published."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from nights import (
    ALL_TYPES,
    MONDAY,
    TUESDAY,
    a_run,
    all_types,
    files,
    pointers,
    publish,
    seen,
    whole,
)

from tributary_opt.storage import parquet, release_rows
from tributary_opt.storage.frames import canonical, table_digest
from tributary_opt.storage.questdb import QuestDB
from tributary_opt.storage.releases import ReleaseError, Releases

pytestmark = pytest.mark.questdb


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


finite = st.floats(allow_nan=True, allow_infinity=False, allow_subnormal=True)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
symbol = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
stamp = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1))
whole_number = {bits: st.integers(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) for bits in (32, 64)}
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
