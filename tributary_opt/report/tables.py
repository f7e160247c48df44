"""docs/tables.md, from `schema`: `python -m tributary_opt.report.tables > docs/tables.md`."""

from __future__ import annotations

from tributary_opt import schema


def tables_page() -> str:
    """Every published table and view with its columns, types, units and meanings, as Markdown."""
    lines = [
        "# Tables",
        "",
        "Made from `tributary_opt/schema.py` by `python -m tributary_opt.report.tables > docs/tables.md`; a test holds",
        "the two together. The Parquet files carry the same words as field metadata (`unit`, `meaning`), and",
        "`tributary-opt explain` prints them. Prices and costs are in quote currency, times in trading days, sizes in",
        "contracts.",
        "",
        f"Schema version {schema.SCHEMA_VERSION}.",
    ]
    for table in schema.TABLES.values():
        lines += ["", f"## {table.name}", "", f"A row: {table.meaning}. Keys: {', '.join(table.keys)}.", ""]
        lines += ["| column | type | unit | meaning |", "|---|---|---|---|"]
        lines += [f"| `{c.name}` | {c.type} | {_cell(c.unit)} | {_cell(c.meaning)} |" for c in table.columns]
    lines += ["", "## Views", ""]
    lines += [f"- `{name}`" for name in schema.VIEWS]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(tables_page(), end="")
