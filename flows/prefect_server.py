"""Prefect's server as `up` starts it: on SQLite, a transaction that may write takes the write lock as it begins.

Prefect begins most of them DEFERRED. One that reads first and writes then fails at once ("database is locked") where
another wrote in between, as the triggers of automations do at the end of every run on a busy machine. Such a failure
costs more than its statement: its cursor is left to the garbage collector, which resets it on the event loop's thread,
and waits there for the connection's mutex as long as that connection waits for the lock, 60 s, which nobody on the
stopped loop can give back. A deployment that was to start on an event in that time is never started (seen with 3.8.8).

Begun IMMEDIATE, a transaction waits its turn for some milliseconds instead.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from prefect.server.database.configurations import AioSqliteConfiguration


def take_the_write_lock_first() -> None:
    """Have every transaction of Prefect's server begin IMMEDIATE, in this process."""
    begin = AioSqliteConfiguration.begin_transaction

    @asynccontextmanager
    async def begin_immediate(
        self: AioSqliteConfiguration, session: Any, with_for_update: bool = False
    ) -> AsyncGenerator[Any, None]:
        async with begin(self, session, with_for_update=True) as transaction:
            yield transaction

    AioSqliteConfiguration.begin_transaction = begin_immediate  # type: ignore[method-assign]


if __name__ == "__main__":
    from prefect.cli import app

    take_the_write_lock_first()
    app()
