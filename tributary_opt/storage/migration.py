"""Tables and views of ours, brought up to date: what is missing is added, whatever else differs is refused."""

from __future__ import annotations

import logging
from typing import Final

from tributary_opt import schema
from tributary_opt.storage.questdb import QuestDB, QuestDBQueryError, insistent
from tributary_opt.storage.shapes import SchemaMismatch, differences

log = logging.getLogger(__name__)

_PAST: Final = {"create": "created", "add": "added", "replace": "replaced"}
_RACED: Final = ("already exists", "duplicate column", "table busy")


class _Raced(Exception):
    """Somebody else altered the table first."""


def migrate(db: QuestDB, *, dry_run: bool = False) -> list[str]:
    """Bring all of our tables and views up to date; what was done (or with `dry_run` would be), a line each.

    Missing tables are created, missing columns added, views whose text changed replaced. Nothing is changed
    anywhere where one table differs in another way.

    Raises
    ------
    SchemaMismatch
        For another type, designated timestamp or set of dedup keys, for a column the schema does not know, for a
        table without WAL: the exact differences and what to do.
    """
    if dry_run:
        return [f"{verb} {what}" for verb, what, _ in _outstanding(db)]
    what = f"{db!r}: tables change while they are brought up to date"
    return insistent(lambda: _migrate(db), _Raced, timeout_s=10.0, what=what)


def _migrate(db: QuestDB) -> list[str]:
    done = []
    altered = set()
    for verb, what, sql in _outstanding(db):
        _change(db, sql)
        done.append(f"{_PAST[verb]} {what}")
        log.info("%s", done[-1])
        if sql.startswith("ALTER TABLE"):
            altered.add(sql.split()[2])
    for name in altered:
        db.wait(name)
    return done


def _outstanding(db: QuestDB) -> list[tuple[str, str, str]]:
    """What is to be done, in order: verb, object and SQL."""
    kinds = dict(db.rows("SELECT table_name, table_type FROM tables()"))
    shapes = {name: db.describe(name) for name in schema.TABLES if kinds.get(name) == "T"}
    wrong = [f"{name} is a view" for name in schema.TABLES if kinds.get(name, "T") != "T"]
    wrong += [f"{name} is a table, must be a view" for name in schema.VIEWS if kinds.get(name, "V") != "V"]
    for name, shape in shapes.items():
        wrong += differences(schema.TABLES[name], shape)
    if wrong:
        raise SchemaMismatch(f"{db!r} does not fit schema version {schema.SCHEMA_VERSION}: {'; '.join(wrong)}")

    steps = []
    for name, table in schema.TABLES.items():
        if name not in shapes:
            steps.append(("create", f"table {name}", table.ddl()))
            continue
        for column in table.columns:
            if column.name not in shapes[name].columns:
                # One statement a column: the server refuses several for a table with WAL.
                sql = f"ALTER TABLE {name} ADD COLUMN {column.name} {column.type}"
                steps.append(("add", f"column {name}.{column.name} {column.type}", sql))
    views = {name: tuple(rest) for name, *rest in db.rows("SELECT view_name, view_sql, view_status FROM views()")}
    for name, sql in schema.VIEWS.items():
        if views.get(name) != (sql, "valid"):
            verb = "replace" if name in views else "create"
            steps.append((verb, f"view {name}", f"CREATE OR REPLACE VIEW {name} AS ({sql})"))
    return steps


def _change(db: QuestDB, sql: str) -> None:
    try:
        db.execute(sql)
    except QuestDBQueryError as error:
        if any(sign in str(error) for sign in _RACED):  # somebody else does the same at this moment
            raise _Raced from error
        raise
