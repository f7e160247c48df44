"""Imports point one way, and each room knows only what it needs (docs: the rooms are drawn in README.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "tributary_opt"


def imported(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, at its top or inside a function; `if TYPE_CHECKING` included."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def outside(path: Path) -> set[str]:
    """Top-level packages a file imports that are neither Python's nor ours."""
    tops = {name.partition(".")[0] for name in imported(path)}
    return tops - set(sys.stdlib_module_names) - {"tributary_opt", "flows", "__future__"}


def ours(path: Path) -> set[str]:
    """Rooms and modules of ours that a file imports: `tributary_opt.storage.questdb` counts as `storage`."""
    names = [name.split(".") for name in imported(path)]
    return {parts[1] for parts in names if parts[0] == "tributary_opt" and len(parts) > 1}


def test_only_flows_import_prefect() -> None:
    offenders = [p.name for p in files("tributary_opt") if any(t.startswith("prefect") for t in outside(p))]
    assert offenders == []


@pytest.mark.parametrize("path", files("tributary_opt/optimization"), ids=lambda p: p.name)
def test_optimization_knows_numpy_and_itself(path: Path) -> None:
    allowed = {"numpy", "pandas"} if path.name == "comparison.py" else {"numpy"}
    # A data frame or a picture of a frontier is for those who have the library; it is imported where it is asked for.
    allowed |= {"pandas", "matplotlib"} if path.name == "frontier.py" else set()
    assert outside(path) <= allowed
    assert ours(path) <= {"optimization"}


@pytest.mark.parametrize("path", files("tributary_opt/calibration"), ids=lambda p: p.name)
def test_calibration_knows_arrays_and_the_model(path: Path) -> None:
    assert outside(path) <= {"numpy", "pandas"}
    assert ours(path) <= {"calibration", "optimization", "schema", "settings"}


def test_only_storage_imports_database_clients() -> None:
    clients = {"questdb", "psycopg"}
    offenders = [p for p in files("tributary_opt", "flows") if outside(p) & clients and p.parent.name != "storage"]
    assert offenders == []


def test_only_source_and_storage_know_questdb_below_the_night() -> None:
    rooms = files("tributary_opt/market_data", "tributary_opt/calibration", "tributary_opt/optimization")
    knowing = {p.name for p in rooms if any(n.startswith("tributary_opt.storage.questdb") for n in imported(p))}
    assert knowing == {"source.py"}


def test_rooms_look_only_upstream() -> None:
    downstream = {
        "market_data": {"calibration", "optimization", "night", "precompute", "report", "cli", "schedule_book"},
        "storage": {"market_data", "calibration", "optimization", "night", "precompute", "report", "cli"},
        "sample_data": {"market_data", "calibration", "optimization", "storage", "night", "precompute"},
    }
    for room, forbidden in downstream.items():
        for path in files(f"tributary_opt/{room}"):
            assert ours(path).isdisjoint(forbidden), path


def test_the_schedule_book_loads_neither_prefect_nor_flows() -> None:
    asked = "import sys, tributary_opt.schedule_book; print({m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "tributary_opt" in loaded
    assert "'prefect'" not in loaded
    assert "'flows'" not in loaded


def test_core_never_imports_flows_at_its_top() -> None:
    for path in files("tributary_opt"):
        tree = ast.parse(path.read_text())
        tops = [n for n in tree.body if isinstance(n, ast.ImportFrom | ast.Import)]
        names = [n.module if isinstance(n, ast.ImportFrom) else n.names[0].name for n in tops]
        assert not any(str(name).startswith("flows") for name in names), path
