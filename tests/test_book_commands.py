"""The reader's commands, as a person types them or a script pipes them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from book_release import publish
from click.testing import Result
from typer.testing import CliRunner

from tributary_opt.cli import app

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
    assert list(csv.columns) == ["time", "trade", "left", "price"]
    np.testing.assert_allclose(csv["trade"].sum(), 1234.0, rtol=1e-14)
    np.testing.assert_allclose(told["trade"], csv["trade"], rtol=1e-12)


def test_frontier_and_compare_give_a_row_a_point(root: Path) -> None:
    frontier = json.loads(run(root, "frontier", "ALPHA", "500", "--points", "5", *EVER, "--json").stdout)
    assert len(frontier) == 6
    compared = json.loads(run(root, "compare", "ALPHA", "500", "--urgency", "2", *EVER, "--json").stdout)
    assert [row["strategy"] for row in compared] == ["almgren_chriss", "twap", "market_order"]


def test_explain_goes_from_source_to_cost_and_knows_the_run_before(tmp_path: Path) -> None:
    from datetime import date

    from book_release import market

    publish(tmp_path, "0" * 16, date(2026, 3, 2), markets=(market("ALPHA", sigma=0.8),))
    publish(tmp_path)
    found = pd.DataFrame(json.loads(run(tmp_path, "explain", "ALPHA", "--json").stdout)).set_index("name")
    assert list(found["stage"].drop_duplicates()) == ["source", "statistics", "parameters", "verdict", "schedule"]
    assert (found["value"]["sigma"], found["before"]["sigma"]) == (1.0, 0.8)
    assert found["low"]["sigma"] == pytest.approx(1 - 0.196)
    assert found["unit"]["eta"] == "price/(contract/day)"
    assert {"kappa", "decay_time", "expected_cost_bps", "grade", "method"} <= set(found.index)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("schedule", "ALPA", "1", "--urgency", "1"), "nearest: 'ALPHA'"),
        (("schedule", "PAIR", "1", "--urgency", "1", *EVER), "several tokens"),
        (("schedule", "ALPHA", "1", *EVER), "exactly one of"),
        (("schedule", "ALPHA", "1e9", "--urgency", "1", *EVER), "the grid's largest"),
        (("schedule", "ALPHA", "1", "--urgency", "1", "--max-age", "0.001"), "of trading old"),
        (("explain", "'; DROP TABLE x; --"), "no market"),
    ],
)
def test_error_is_one_line_with_the_remedy(root: Path, words: tuple[str, ...], said: str) -> None:
    found = run(root, *words)
    assert found.exit_code == 1
    assert said in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    assert found.stdout == ""


def test_wrong_words_and_no_release_have_their_exit_codes(root: Path, tmp_path: Path) -> None:
    assert run(root, "schedule", "ALPHA").exit_code == 2
    missing = run(tmp_path, "markets")
    assert (missing.exit_code, "current.json is missing" in missing.stderr) == (1, True)


def test_shell_completes_commands_and_market_ids(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIBUTARY_PARQUET", str(root))

    def completed(words: str) -> str:
        asked = {"_TRIBUTARY_OPT_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": f"tributary-opt {words}"}
        return CliRunner().invoke(app, [], prog_name="tributary-opt", env=asked).output

    assert "frontier" in completed("fron")
    assert "ALPHA" in completed("schedule AL")
    assert "BETA" not in completed("schedule AL")
