"""The reader's commands, as a person types them or a script pipes them."""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from book_release import market, publish
from click.testing import Result
from typer.testing import CliRunner

from tributary_opt import schema
from tributary_opt.cli import app
from tributary_opt.schedule_book import ScheduleBook
from tributary_opt.settings import Grid
from tributary_opt.storage import parquet

EVER = ("--max-age", "1e9")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    publish(folder)
    return folder


def run(root: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [words[0], "--parquet", str(root), *words[1:]])


def test_markets_are_searched_and_piped_as_plain_lines(root: Path) -> None:
    found = run(root, "markets", "pai")
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    assert lines[0].split("\t")[:2] == ["market_id", "token_id"]
    assert [line.split("\t")[:2] for line in lines[1:]] == [["PAIR", "no"], ["PAIR", "yes"]]


def test_schedule_as_csv_and_json_is_the_same_and_adds_up(root: Path) -> None:
    ask = ("schedule", "ALPHA", "1234", "--urgency", "2", *EVER)
    csv = pd.read_csv(io.StringIO(run(root, *ask, "--csv").stdout))
    told = pd.DataFrame(json.loads(run(root, *ask, "--json").stdout))
    assert list(csv.columns) == [
        *("time", "trade", "left", "price", "market_id", "token_id", "side", "strategy", "risk_aversion"),
        *("expected_cost", "expected_cost_bps", "remainder", "status", "source", "run_id", "as_of", "grade"),
        *("age_hours", "warnings"),
    ]
    assert list(told.columns) == list(csv.columns)
    assert set(csv["run_id"]) == {"a" * 16}
    np.testing.assert_allclose(csv["trade"].sum(), 1234.0, rtol=1e-14)
    np.testing.assert_allclose(told["trade"], csv["trade"], rtol=1e-12)


def test_frontier_and_compare_give_a_row_a_point(root: Path) -> None:
    frontier = json.loads(run(root, "frontier", "ALPHA", "500", "--points", "5", *EVER, "--json").stdout)
    assert len(frontier) == 6
    compared = json.loads(run(root, "compare", "ALPHA", "500", "--urgency", "2", *EVER, "--json").stdout)
    assert [row["strategy"] for row in compared] == ["almgren_chriss", "twap", "market_order"]
    twap = json.loads(run(root, "schedule", "ALPHA", "480", "--strategy", "twap", *EVER, "--json").stdout)
    assert [row["trade"] for row in twap] == [10.0] * 48


def test_explain_goes_from_source_to_cost_and_knows_the_run_before(tmp_path: Path) -> None:
    publish(tmp_path, "0" * 16, date(2026, 3, 2), markets=(market("ALPHA", sigma=0.8),))
    walked = {"walk_size": 40.0, "walk_cost": 0.012, "walk_half_spreads": 1.2, "cost_walk_bps": 2.4}
    jump = "split on 2026-02-10: price x0.1, trade size x10"
    got = {
        "source_jump": jump,
        "sigma_source": "mids",
        "spread_source": "quoted",
        "method": "law",
        "sigma_drift_z": 2.5,
    }
    publish(tmp_path, markets=(market("ALPHA", **walked, **got),))
    found = pd.DataFrame(json.loads(run(tmp_path, "explain", "ALPHA", "--json").stdout)).set_index("name")
    assert list(found["stage"].drop_duplicates()) == [
        *("source", "statistics", "parameters", "verdict", "drift", "schedule", "cost")
    ]
    assert (found["stage"]["source_jump"], found["value"]["source_jump"]) == ("source", jump)
    assert (found["value"]["sigma"], found["before"]["sigma"]) == (1.0, 0.8)
    assert found["low"]["sigma"] == pytest.approx(1 - 0.196)
    assert found["unit"]["eta"] == "price/(contract/day)"
    assert {"kappa", "decay_time", "expected_cost_bps", "grade", "method"} <= set(found.index)
    assert (found["value"]["run_id"], found["before"]["run_id"]) == ("a" * 16, "0" * 16)
    assert found["change_pct"]["sigma"] == pytest.approx(25.0)
    for name in ("kappa", "decay_time", "half_life", "urgency", "order_size"):  # what the grid fixes
        assert found["before"][name] == found["value"][name]
    assert found["before"]["cost_sd_bps"] == pytest.approx(0.8 * found["value"]["cost_sd_bps"], rel=1e-12)
    assert found["change_pct"]["cost_sd_bps"] == pytest.approx(25.0)
    assert found["how"][["sigma", "epsilon", "eta", "gamma"]].tolist() == ["mids", "quoted", "law", "law"]
    assert found["how"][["alpha", "reference_rate", "adv"]].isna().all()
    assert {"grade_reason", "strength", "sigma_drift_z", "gamma_drift_z"} <= set(found.index)
    assert {name: (found["value"][name], found["unit"][name]) for name in walked} == {
        "walk_size": (40.0, "contracts"),
        "walk_cost": (0.012, "price"),
        "walk_half_spreads": (1.2, "-"),
        "cost_walk_bps": (2.4, "bps"),
    }


@pytest.mark.parametrize("table", schema.RELEASE_TABLES, ids=lambda t: t.name)
@pytest.mark.parametrize("damage", ["cut short", "gone"])
def test_explain_outlives_damage_to_the_run_before(tmp_path: Path, table: schema.Table, damage: str) -> None:
    publish(tmp_path, "0" * 16, date(2026, 3, 2), markets=(market("ALPHA", sigma=0.8),))
    publish(tmp_path, markets=(market("ALPHA"),))
    path = tmp_path / parquet.release_file(table, date(2026, 3, 2), "0" * 16)
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-100])
    done = run(tmp_path, "explain", "ALPHA", "--json")
    assert done.exit_code == 0, done.stderr
    found = pd.DataFrame(json.loads(done.stdout)).set_index("name")
    assert found["value"]["sigma"] == 1.0
    if damage == "cut short":
        assert "the run before" in found["before"]["run_id"]
        assert found["before"].drop("run_id").isna().all()
    elif table is schema.TRAJECTORIES:
        assert (found["before"]["sigma"], found["before"]["kappa"]) == (0.8, None)


@pytest.fixture(scope="module")
def screens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What a terminal 80 columns wide shows of each command, line by line."""
    root = tmp_path_factory.mktemp("screens")
    hours = np.random.default_rng(3).dirichlet(np.full(24, 2.0))
    name = "KXPRESIDENT-2028-[WINNER]"
    publish(root, "0" * 16, date(2026, 3, 2), markets=(market(name, "yes", sigma=0.8),))
    publish(root, markets=(market(name, "yes", volume_profile=hours), market("GONE", status="refused", reason="stale")))
    asked = {
        "markets": [],
        "schedule": [name, "1000", "--urgency", "2", *EVER],
        "frontier": [name, "1000", "--points", "4", *EVER],
        "compare": [name, "1000", "--urgency", "3", *EVER],
        "explain": [name],
    }
    words = [[command, "--parquet", str(root), *rest] for command, rest in asked.items()]
    each = "for words in json.loads(sys.argv[1]):\n    app(words, standalone_mode=False)\n    print('@@', flush=True)"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    code = f"import json, sys\nfrom tributary_opt.cli import app\n{each}"
    env |= {"TERM": "xterm-256color"}
    running = subprocess.Popen([sys.executable, "-c", code, json.dumps(words)], stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # how Linux says that the other side has closed it
            break
        if not part:
            break
        seen += part
    assert running.wait() == 0, seen.decode()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", seen.decode()).replace("\r", "")
    return dict(zip(asked, [part.strip("\n").split("\n") for part in plain.split("@@")], strict=False))


def test_a_terminal_of_80_columns_shows_whole_words(screens: dict[str, list[str]]) -> None:
    assert len(screens) == 5
    for command, lines in screens.items():
        assert max(map(len, lines)) <= 80, command
        assert not any("…" in line for line in lines), command
    assert any("KXPRESIDENT-2028-[WINNER]" in line and "yes" in line for line in screens["markets"])
    assert any("GONE" in line and "stale" in line for line in screens["markets"])
    assert "not shown: " in " ".join(screens["markets"])
    headings = " ".join(screens["compare"])
    assert all(unit in headings for unit in ("cost [bps]", "± [bps]", "half-life [d]", "with the hours' volume"))
    names = [line.split()[1] for line in screens["compare"] if line.startswith("│")]
    assert names == ["almgren_chriss", "almgren_chriss_volume_time", "twap", "vwap", "market_order"]
    assert sum(line.startswith("│") for line in screens["schedule"]) == 48
    for command in ("schedule", "compare"):
        cells = [line.split("│")[2].strip() for line in screens[command] if line.startswith("│")]
        assert len({len(cell.partition(".")[2]) for cell in cells}) == 1, cells  # points below one another
    assert "cost" not in screens["explain"]  # a stage of which nothing is known
    assert screens["schedule"][0].startswith("KXPRESIDENT-2028-[WINNER]: sell 1000 contracts by almgren_chriss")
    sigma = next(line for line in screens["explain"] if line.strip().startswith("sigma "))
    assert sigma.split()[:3] == ["sigma", "1", "price/day^0.5"]
    assert "was 0.8, +25 %" in " ".join(" ".join(screens["explain"]).split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("schedule", "ALPA", "1", "--urgency", "1"), "nearest: 'ALPHA'"),
        (("schedule", "PAIR", "1", "--urgency", "1", *EVER), "several tokens"),
        (("schedule", "ALPHA", "1", *EVER), "exactly one of"),
        (("schedule", "ALPHA", "1e9", "--urgency", "1", *EVER), "the grid's largest"),
        (("schedule", "ALPHA", "1", "--urgency", "1", "--max-age", "0.001"), "of trading old"),
        (("explain", "'; DROP TABLE x; --"), "no market"),
        (("schedule", "ALPHA", "1", "--strategy", "pov", *EVER), "strategy must be one of"),
        (("schedule", "ALPHA", "1", "--urgency", "1", "--max-participation", "2", *EVER), "0.1 is 10 % of the volume"),
        (("schedule", "ALPHA", "4000", "--urgency", "1", "--max-participation", "0.001", *EVER), "shortest feasible"),
        (("frontier", "ALPHA", "1", "--strategy", "twap", *EVER), "has no risk level"),
        (("compare", "ALPHA", "1", "--decay-time", "0.0001", *EVER), "means an urgency of"),
        (
            ("schedule", "ALPHA", "900", "--cost-budget-bps", "1", *EVER),
            "expected_cost = 1: it can be from 5.776",
        ),
        (("markets", "--min-grade", "Z"), "a grade is one of A, B, C, D"),
        (("schedule", "alpha", "1", "--urgency", "1"), "nearest: 'ALPHA'"),
        (
            ("schedule", "ALPHA", "1", "--urgency", "1", "--start", "9999-12-31", *EVER),
            "the calendar 24/7 does not reach 9999-12-31",
        ),
        (
            ("schedule", "BETA", "1", "--urgency", "1", "--start", "2200-12-31", *EVER),
            "the calendar XNYS does not reach 2200-12-31",
        ),
        (
            ("schedule", "ALPHA", "900", "--cost-budget-bps", "6", "--lot-size", "100", *EVER),
            "the least expected cost in lots of 100 is 21.36 bps",
        ),
    ],
)
def test_error_is_one_line_with_the_remedy(root: Path, words: tuple[str, ...], said: str) -> None:
    found = run(root, *words)
    assert found.exit_code == 1
    assert said in found.stderr
    assert not re.match(r"refused: \w+(Refused|Error):", found.stderr)  # the words of the refusal, not our class's name
    assert len(found.stderr.strip().splitlines()) == 1
    assert found.stdout == ""


@pytest.mark.parametrize("words", ["markets", "schedule ALPHA 1 --urgency 1", "explain ALPHA", "runs"])
def test_wrong_setting_is_named_in_a_line(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIBUTARY_WORKERS", "many")
    found = CliRunner().invoke(app, words.split())
    assert found.exit_code == 1
    (line,) = found.stderr.strip().splitlines()
    assert "setting TRIBUTARY_WORKERS: " in line


def test_no_release_has_its_exit_code(tmp_path: Path) -> None:
    missing = run(tmp_path, "markets")
    assert (missing.exit_code, "current.json is missing" in missing.stderr) == (1, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nonsense", "No such command 'nonsense': see tributary-opt --help"),
        ("--loud", "No such option: --loud"),
        ("schedule ALPHA", "Missing argument"),
        ("schedule ALPHA ten", "number"),
        ("schedule ALPHA 1 --urgencyy 1", "--urgency): see tributary-opt schedule --help"),
        ("runs --limit 0", "--limit"),
        ("load /nowhere --table trades", "/nowhere"),
        ("load pyproject.toml --table shares", "'trades', 'orderbook_snapshots', 'markets'"),
    ],
)
def test_wrong_words_are_one_line_with_the_remedy_and_exit_code_2(words: str, said: str) -> None:
    found = CliRunner().invoke(app, words.split(), prog_name="tributary-opt")
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.startswith("refused: ")
    assert said in found.stderr
    assert re.search(r": see tributary-opt.* --help$", found.stderr.strip())
    assert len(found.stderr.strip().splitlines()) == 1


def test_json_and_csv_at_once_are_wrong_words(root: Path) -> None:
    both = run(root, "markets", "--json", "--csv")
    assert (both.exit_code, len(both.stderr.strip().splitlines())) == (2, 1)


def test_no_words_at_all_are_answered_with_the_commands() -> None:
    found = CliRunner().invoke(app, [])
    assert found.exit_code == 0
    assert all(name in found.stdout for name in ("night", "markets", "explain"))


@pytest.mark.parametrize("words", ["--help", "schedule --help", "version", "nonsense"])
def test_help_waits_for_nothing_heavy(words: str) -> None:
    code = "import sys\nfrom tributary_opt.cli import app\ntry:\n    app()\nfinally:\n    print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "typer" in loaded
    assert loaded.isdisjoint(
        {"numpy", "pandas", "pyarrow", "psycopg", "questdb", "exchange_calendars", "pydantic_settings"}
    )


def test_shell_completes_commands_and_market_ids(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIBUTARY_PARQUET", str(root))

    def completed(words: str) -> str:
        asked = {"_TRIBUTARY_OPT_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"tributary-opt {words}"}
        return CliRunner().invoke(app, [], prog_name="tributary-opt", env=asked).output

    assert "frontier" in completed("fron")
    assert "ALPHA" in completed("schedule AL")
    assert "BETA" not in completed("schedule AL")
    assert "almgren_chriss_volume_time" in completed("schedule ALPHA 1 --strategy almgren_chriss_v")


# --- the options of one order --------------------------------------------------------------------------------


def scheduled(root: Path, *options: str, market: str = "ALPHA", size: str = "900") -> pd.DataFrame:
    done = run(root, "schedule", market, size, *options, *EVER, "--json")
    assert done.exit_code == 0, done.output
    return pd.DataFrame(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("2026-03-04T10:00:00+02:00", "2026-03-04T08:00"),
        ("2026-03-04T10:00-05:00", "2026-03-04T15:00"),
        ("2026-03-04T10:00:00Z", "2026-03-04T10:00"),
        ("2026-03-04 10:00", "2026-03-04T10:00"),
        ("2026-03-04", "2026-03-04T00:00"),
    ],
)
def test_start_is_the_instant_that_is_written(root: Path, text: str, begins: str) -> None:
    times = scheduled(root, "--urgency", "1", "--start", text)["time"]
    assert pd.Timestamp(times[0]).tz_localize(None) == pd.Timestamp(begins)


@pytest.mark.parametrize("text", ["5", "20260304", "1772618400", "noon", "2026-03-04T10:00:00+99:00"])
def test_start_that_is_no_time_is_refused(root: Path, text: str) -> None:
    done = run(root, "schedule", "ALPHA", "900", "--urgency", "1", "--start", text, *EVER)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is no time: 2026-11-27T14:30 (UTC)" in done.stderr


ONE: list[tuple[tuple[str, ...], dict[str, Any]]] = [
    (("--urgency", "2", "--side", "buy"), {"urgency": 2.0, "side": "buy"}),
    (("--urgency", "2", "--lot-size", "50"), {"urgency": 2.0, "lot_size": 50.0}),
    (("--urgency", "2", "--horizon", "0.5"), {"urgency": 2.0, "horizon": 0.5}),
    (("--done-by", "0.8", "0.5"), {"done_by": (0.8, 0.5)}),
    (("--half-life", "0.3"), {"half_life": 0.3}),
    (("--decay-time", "0.4"), {"decay_time": 0.4}),
    (("--cost-budget-bps", "7"), {"cost_budget_bps": 7.0}),
    (("--risk-aversion", "1e-4", "--max-participation", "0.2"), {"risk_aversion": 1e-4, "max_participation": 0.2}),
    (("--strategy", "market_order"), {"strategy": "market_order"}),
    (("--urgency", "1", "--start", "2026-03-03T15:00:00.123457"), {"urgency": 1.0, "start": True}),
]


@pytest.mark.parametrize(("options", "ask"), ONE, ids=lambda v: " ".join(v) if isinstance(v, tuple) else "")
@pytest.mark.parametrize("form", ["--json", "--csv", "piped"])
def test_every_option_prints_what_the_book_answers_to_the_last_bit(
    root: Path, options: tuple[str, ...], ask: dict[str, Any], form: str
) -> None:
    if "start" in ask:
        ask = {**ask, "start": datetime(2026, 3, 3, 15, 0, 0, 123_457, tzinfo=UTC)}
    with ScheduleBook.open(root) as book:
        want = book.schedule("ALPHA", 937.0, max_age=1e9, **ask)
    done = run(root, "schedule", "ALPHA", "937", *options, *EVER, *([] if form == "piped" else [form]))
    assert done.exit_code == 0, done.output
    if form == "--json":
        told = pd.DataFrame(json.loads(done.stdout))
    else:
        sep = "," if form == "--csv" else "\t"
        told = pd.read_csv(io.StringIO(done.stdout), sep=sep, float_precision="round_trip", keep_default_na=False)
    for name, numbers in {"trade": want.trade_sizes, "left": want.holdings[1:]}.items():
        assert told[name].to_numpy(dtype=float).tobytes() == numbers.tobytes()
    assert told["price"].tolist() == want.params["slice_prices"].tolist()
    times = want.timestamps[:-1]
    if "start" in ask:
        assert told["time"].tolist() == [f"{t}Z" for t in times]
    else:
        assert told["time"].tolist() == times.tolist()
    first, p = told.iloc[0], want.params
    names = ("side", "status", "source", "run_id", "grade", "expected_cost")
    assert {name: first[name] for name in names} == {name: p[name] for name in names}
    assert (first["expected_cost_bps"], first["strategy"]) == (want.total_cost_estimate, want.strategy_name)
    if math.isfinite(want.risk_aversion):
        assert first["risk_aversion"] == want.risk_aversion
    assert (first["remainder"], first["as_of"]) == (p.get("remainder", 0.0), str(p["as_of"]))
    assert first["warnings"] == "; ".join(p["warnings"])
    assert done.stderr.splitlines() == [f"warning: {said}" for said in p["warnings"]]


def test_parameters_are_printed_to_the_last_digit(tmp_path: Path) -> None:
    seen = datetime(2026, 3, 3, 12, 0, 0, 123_457, tzinfo=UTC)
    publish(tmp_path, markets=(market("ALPHA", eta=1e-9 / 3, gamma=1.2e-14, sigma=math.pi, last_trade_at=seen),))
    (row,) = json.loads(run(tmp_path, "markets", "--json").stdout)
    assert (row["eta"], row["gamma"], row["sigma"], row["reason"]) == (1e-9 / 3, 1.2e-14, math.pi, None)
    csv = pd.read_csv(io.StringIO(run(tmp_path, "markets", "--csv").stdout), float_precision="round_trip")
    assert (csv["eta"][0], csv["gamma"][0], csv["sigma"][0]) == (1e-9 / 3, 1.2e-14, math.pi)
    explained = pd.DataFrame(json.loads(run(tmp_path, "explain", "ALPHA", "--json").stdout)).set_index("name")["value"]
    assert (explained["eta"], explained["gamma"]) == (1e-9 / 3, 1.2e-14)
    assert explained["last_trade_at"] == "2026-03-03T12:00:00.123457Z"
    assert explained["as_of"] == "2026-03-03T00:00:00.000000Z"
    with ScheduleBook.open(tmp_path) as book:
        compared = book.compare("ALPHA", 500.0, urgency=2.0, max_age=1e9)
    told = json.loads(run(tmp_path, "compare", "ALPHA", "500", "--urgency", "2", *EVER, "--json").stdout)
    assert [row["expected_cost"] for row in told] == compared["expected_cost"].tolist()
    assert [row["risk_aversion"] for row in told][-1] is None  # of a market order: JSON has no infinity


@pytest.mark.parametrize("form", ["--json", "--csv", "--min-grade=D"])
def test_output_that_cannot_be_written_is_said_in_a_line(root: Path, form: str) -> None:
    code = "from tributary_opt.cli import app\napp()"
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-c", code, "markets", "--parquet", str(root), form]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["refused: the output cannot be written: No space left on device"]


def test_a_grade_filter_lets_through_what_is_as_good(tmp_path: Path) -> None:
    grades = {"BEST": "A", "GOOD": "B", "FAIR": "C", "POOR": "D", "OLD": None}
    refused = market("GONE", status="refused", reason="stale", grade=None)
    made = (*(market(name, grade=grade) for name, grade in grades.items()), refused)
    publish(tmp_path, markets=made, grid=Grid(order_sizes_pct_adv=(1.0,)))
    for least, listed in {"A": 1, "B": 2, "C": 3, "D": 5}.items():
        found = json.loads(run(tmp_path, "markets", "--min-grade", least, "--json").stdout)
        assert {row["market_id"] for row in found} == set([*grades][:listed])
        for name in (*grades, "GONE"):
            done = run(tmp_path, "schedule", name, "100", "--urgency", "1", "--min-grade", least, *EVER)
            assert done.exit_code == (0 if name in [*grades][:listed] else 1)
