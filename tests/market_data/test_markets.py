"""Where reference data come from, and what makes a market's unusable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tributary_opt.market_data.markets import REFERENCE_COLUMNS, ReferenceData, read_markets_file
from tributary_opt.settings import MarketRule


def instruments(*keys: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(keys), columns=["market_id", "token_id"])


def of(reference: ReferenceData, *keys: tuple[str, str]) -> list[dict]:
    return reference.of(instruments(*keys)).to_dict("records")


def row(market: str, token: str | None = None, **more: object) -> dict:
    return {"market_id": market, "token_id": token, "kind": "price", **more}


def test_market_nobody_described_is_a_price_around_the_clock() -> None:
    (found,) = of(ReferenceData(), ("M", "t"))
    assert set(found) == {"market_id", "token_id", *REFERENCE_COLUMNS}
    assert (found["kind"], found["calendar"], found["contract_multiplier"], found["taker_fee"]) == (
        "price",
        "24/7",
        1.0,
        0.0,
    )
    assert (found["reference_source"], found["reference_problem"], found["inverse"]) == ("default", "", False)
    assert np.isnan(found["tick_size"])
    assert found["resolution_time"] is pd.NaT
    assert found["complement_token_id"] is None


def test_own_row_goes_before_the_markets_row_before_the_first_pattern_before_the_default() -> None:
    rows = pd.DataFrame([row("A", tick_size=0.1), row("A", "yes", tick_size=0.2)])
    rules = (MarketRule(pattern="A*", tick_size=0.3), MarketRule(pattern="*B", tick_size=0.4, kind="probability"))
    found = of(ReferenceData(rows, rules), ("A", "yes"), ("A", "no"), ("AB", ""), ("B", ""), ("C", ""))
    assert [f["tick_size"] for f in found[:4]] == [0.2, 0.1, 0.3, 0.4]
    assert [f["reference_source"] for f in found] == ["markets", "markets", "pattern", "pattern", "default"]
    assert [f["kind"] for f in found] == ["price", "price", "price", "probability", "price"]
    assert found[2]["complement_token_id"] is None


def test_newest_row_of_an_instrument_counts_whatever_the_order() -> None:
    stamps = pd.to_datetime(["2024-01-02", "2024-01-03", "2024-01-01"], utc=True)
    rows = pd.DataFrame([row("A", tick_size=t) for t in (2.0, 3.0, 1.0)]).assign(updated_at=stamps)
    assert of(ReferenceData(rows), ("A", ""))[0]["tick_size"] == 3.0


def test_missing_values_of_a_row_are_the_defaults() -> None:
    rows = pd.DataFrame(
        [row("A", kind=None, calendar=None, taker_fee=None, contract_multiplier=None, inverse=None, tick_size=None)]
    )
    (found,) = of(ReferenceData(rows), ("A", "t"))
    assert (found["kind"], found["calendar"], found["taker_fee"], found["contract_multiplier"]) == (
        "price",
        "24/7",
        0.0,
        1.0,
    )
    assert (found["reference_problem"], found["reference_source"]) == ("", "markets")


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"kind": "binary"}, "kind must be price or probability, got binary"),
        (
            {"calendar": "NOWHERE"},
            "calendar must be '24/7' or a code of exchange_calendars such as XNYS, got 'NOWHERE'",
        ),
        ({"tick_size": 0.0}, "tick_size must lie from 1e-30 to 1e+30, got 0.0"),
        ({"tick_size": -0.01}, "tick_size must lie from 1e-30 to 1e+30, got -0.01"),
        ({"lot_size": np.inf}, "lot_size must lie from 1e-30 to 1e+30, got inf"),
        ({"taker_fee": -0.1}, "taker_fee must lie from 0 to 1, got -0.1"),
        ({"taker_fee": 2.0}, "taker_fee must lie from 0 to 1, got 2.0"),
        ({"fee_kind": "maker"}, "fee_kind must be notional or probability, got maker"),
        (
            {"fee_kind": "probability", "kind": "price"},
            "fee_kind probability is for kind probability: p (1 - p) means nothing for other prices",
        ),
        ({"contract_multiplier": 0.0}, "contract_multiplier must lie from 1e-30 to 1e+30, got 0.0"),
        ({"contract_multiplier": 1e308}, "contract_multiplier must lie from 1e-30 to 1e+30, got 1e+308"),
        ({"contract_multiplier": "many"}, "contract_multiplier must lie from 1e-30 to 1e+30, got nan"),
        (
            {"inverse": True},
            "inverse contract: its size is no amount of the underlying, so price times size is no notional",
        ),
    ],
)
def test_unusable_reference_data_are_named_and_cost_no_other_market(bad: dict, problem: str) -> None:
    found = of(ReferenceData(pd.DataFrame([row("A", **bad), row("B")])), ("A", "t"), ("B", "t"))
    assert [f["reference_problem"] for f in found] == [problem, ""]
    assert found[0]["calendar"] == "24/7"
    assert found[0]["kind"] == "price"


def test_row_order_and_repetition_of_the_asked_instruments_are_kept() -> None:
    reference = ReferenceData(pd.DataFrame([row(m, tick_size=float(i + 1)) for i, m in enumerate("ABC")]))
    keys = [("C", "x"), ("A", ""), ("Z", ""), ("B", "y"), ("C", "x")]
    found = reference.of(instruments(*keys))
    assert list(zip(found["market_id"], found["token_id"], strict=True)) == keys
    np.testing.assert_array_equal(found["tick_size"], [3.0, 1.0, np.nan, 2.0, 3.0])
    assert len(reference.of(instruments())) == 0


def test_calendars_are_those_that_may_be_in_use() -> None:
    rows = pd.DataFrame([row("A", calendar="XLON"), row("B", calendar="NOWHERE"), row("C", calendar=None)])
    assert ReferenceData(rows, (MarketRule(pattern="*", calendar="XNYS"),)).calendars() == ["24/7", "XLON", "XNYS"]
    assert ReferenceData().calendars() == ["24/7"]


def test_ids_in_a_csv_file_stay_as_they_are_written(tmp_path: Path) -> None:
    token = "71321045679252212594626385532706912750332728571942532289631379312455583992563"
    path = tmp_path / "markets.csv"
    path.write_text(
        "market_id,token_id,kind,calendar,tick_size,resolution_time,inverse\n"
        f"007,{token},probability,,0.001,2026-03-18T18:00:00Z,false\n"
        "42,,price,XNYS,,,true\n"
    )
    reference = ReferenceData(read_markets_file(path))
    first, second, other = of(reference, ("007", token), ("42", "anything"), ("7", token))
    assert (first["kind"], first["calendar"], first["tick_size"]) == ("probability", "24/7", 0.001)
    assert first["resolution_time"] == pd.Timestamp("2026-03-18T18:00Z")
    assert (second["calendar"], second["inverse"], second["reference_source"]) == ("XNYS", True, "markets")
    assert second["resolution_time"] is pd.NaT
    assert other["reference_source"] == "default"


@pytest.mark.parametrize("dictionary", [False, True])
def test_parquet_file_is_read_whatever_its_encoding(tmp_path: Path, dictionary: bool) -> None:
    texts = {
        "market_id": ["A", "B"],
        "token_id": ["a", None],
        "kind": ["probability", None],
        "calendar": [None, "XNYS"],
    }
    table = pa.table({k: pa.array(v).dictionary_encode() if dictionary else pa.array(v) for k, v in texts.items()})
    table = table.append_column("resolution_time", pa.array([1_700_000_000, None], pa.timestamp("s")))
    pq.write_table(table.append_column("not ours", pa.array([1, 2])), tmp_path / "markets.parquet")
    first, second = of(ReferenceData(read_markets_file(tmp_path / "markets.parquet")), ("A", "a"), ("B", "b"))
    assert (first["kind"], first["calendar"]) == ("probability", "24/7")
    assert (second["kind"], second["calendar"]) == ("price", "XNYS")
    assert first["resolution_time"] == pd.Timestamp(1_700_000_000, unit="s", tz="UTC")


def test_file_without_a_required_column_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "markets.csv").write_text("market_id,kind\nA,price\n")
    with pytest.raises(ValueError, match=r"markets.csv has no column token_id; reference data need"):
        read_markets_file(tmp_path / "markets.csv")
