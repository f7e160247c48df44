"""The demo's sample: filled once, whole, whatever interrupts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tributary_opt.demo import fill_if_empty
from tributary_opt.settings import Settings
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb

N_TOKENS, N_DAYS = 6, 3


def counts(db: QuestDB) -> list[int]:
    return [db.rows(f"SELECT count() FROM {name}")[0][0] for name in ("trades", "orderbook_snapshots", "markets")]


def quiet(step: str, done: int, total: int) -> None:
    pass


def test_fill_that_was_interrupted_is_completed_by_the_next(db: QuestDB, tmp_path: Path) -> None:
    def interrupt(step: str, done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    settings = Settings(home=tmp_path, _env_file=None)
    with pytest.raises(KeyboardInterrupt):
        fill_if_empty(db, settings, interrupt, N_TOKENS, N_DAYS)
    part = counts(db)
    assert part[0] > 0
    assert fill_if_empty(db, settings, quiet, 40, 30)  # of the size that was begun with
    whole = counts(db)
    assert whole[0] > 2 * part[0]
    assert whole[2] == part[2]
    assert db.rows("SELECT count_distinct(timestamp_floor('d', timestamp)) FROM trades") == [(N_DAYS,)]
    assert not fill_if_empty(db, settings, quiet, N_TOKENS, N_DAYS)
    assert counts(db) == whole

    for name in ("trades", "orderbook_snapshots", "markets"):
        db.execute(f"DROP TABLE {name}")
    assert fill_if_empty(db, settings, quiet, N_TOKENS, N_DAYS)
    assert counts(db) == whole, "an uninterrupted fill has the same rows"
