"""Prefect's server as `up` starts it: what it changes in Prefect, on a SQLite file of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration

from flows.prefect_server import take_the_write_lock_first


def read_write_with_another_between(path: Path) -> str:
    """A transaction reads and then writes; another connection tries to write in between. Who was locked out?"""

    async def transaction() -> str:
        config = AioSqliteConfiguration(connection_url=f"sqlite+aiosqlite:///{path}")
        session = await config.session(await config.engine())
        async with session, config.begin_transaction(session):
            await session.execute(sa.text("SELECT count(*) FROM bucket"))
            with sqlite3.connect(path, timeout=0.0) as other:
                try:
                    other.execute("INSERT INTO bucket VALUES (2)")
                    other.commit()
                except sqlite3.OperationalError:
                    await session.execute(sa.text("INSERT INTO bucket VALUES (1)"))
                    return "the other"
            try:
                await session.execute(sa.text("INSERT INTO bucket VALUES (1)"))
            except sa.exc.OperationalError:
                return "the transaction"
        return "nobody"

    return asyncio.run(transaction())


def test_a_transaction_that_reads_first_is_not_locked_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "prefect.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE bucket (x)")
    # Where this fails, Prefect has mended it: flows/prefect_server.py can go.
    assert read_write_with_another_between(path) == "the transaction"

    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)
    take_the_write_lock_first()
    assert read_write_with_another_between(path) == "the other"
    with sqlite3.connect(path) as db:
        assert sorted(db.execute("SELECT x FROM bucket")) == [(1,), (2,)]
