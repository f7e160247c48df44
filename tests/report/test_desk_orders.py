"""One desk's orders of the day, from a release's Parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pages import DAY, NASTY, made_night

from tributary_opt import schema
from tributary_opt.report.desk_orders import desk_orders, write_desk_orders
from tributary_opt.settings import Desk, Grid
from tributary_opt.storage.parquet import write_release_file

RUN = "0123456789abcdef"


GRID = Grid(order_sizes_pct_adv=(1.0, 2.0), n_steps=6)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("parquet"), GRID)


def published(root: Path, grid: Grid) -> Path:
    solved = made_night(12, grid).trajectories
    rows = solved.assign(as_of=pd.Timestamp(DAY, tz="UTC"), run_id=RUN)[schema.TRAJECTORIES.names]
    table = pa.Table.from_pandas(rows, schema=schema.TRAJECTORIES.arrow_schema(), preserve_index=False)
    write_release_file(root, schema.TRAJECTORIES, table.replace_schema_metadata(None), DAY, RUN)
    return root


def test_orders_add_up_to_what_was_published(root: Path, tmp_path: Path) -> None:
    orders = desk_orders(root, DAY, RUN, Desk(order_size_pct_adv=2.0, urgency=3.0, side="buy"))
    night = made_night(12, GRID)
    p = night.parameters[night.parameters["status"] == "ok"].set_index("market_id")
    ok = orders.groupby("market_id")["contracts"].sum()
    t = night.trajectories
    point = (t["strategy"] == "almgren_chriss") & np.isclose(t["adv_fraction"], 0.02) & np.isclose(t["urgency"], 3.0)
    fit = t.loc[point & (t["status"] == "ok") & (t["horizon_ix"] == 0), "market_id"]
    assert sorted(ok.index) == sorted(fit)
    assert 5 <= len(ok) < point.sum()  # the others' dearest slice would leave the range of their price
    np.testing.assert_allclose(ok, 0.02 * p.loc[ok.index, "adv"], rtol=1e-12)
    one = orders[orders["market_id"] == orders["market_id"].iloc[-1]]
    assert list(one["slice"]) == [1, 2, 3, 4, 5, 6]
    assert (np.diff(one["contracts"]) < 0).all()  # urgent: the most at first
    assert set(orders["side"]) == {"buy"}
    path = write_desk_orders(tmp_path, orders, DAY, RUN)
    pd.testing.assert_frame_equal(pd.read_csv(path), orders.reset_index(drop=True), check_dtype=False, rtol=1e-12)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_desk_trades_its_own_markets_and_is_told_of_those_without_an_order(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    orders = desk_orders(root, DAY, RUN, Desk(markets=(NASTY, "KX-MADE-00004", "KX-MADE-00009", "unknown")))
    assert {"KX-MADE-00004"} <= set(orders["market_id"]) <= {NASTY, "KX-MADE-00004"}
    assert "KX-MADE-00009, unknown: run 0123456789abcdef has no schedule" in caplog.text


def test_a_release_under_caps_gives_orders_that_keep_them(tmp_path: Path) -> None:
    orders = desk_orders(published(tmp_path, GRID.model_copy(update={"max_slice": 0.2})), DAY, RUN, Desk())
    whole = orders.groupby("market_id")["contracts"]
    assert whole.ngroups > 5
    assert (whole.max() <= 0.2 * whole.sum() * (1 + 1e-12)).all()


def test_what_the_grid_does_not_have_is_refused_with_what_it_has(root: Path) -> None:
    with pytest.raises(ValueError, match=r"adv_fraction 0.03 of ADV is not in the grid .*: take one of 0.01, 0.02"):
        desk_orders(root, DAY, RUN, Desk(order_size_pct_adv=3.0))
    with pytest.raises(ValueError, match="urgency 2"):
        desk_orders(root, DAY, RUN, Desk(urgency=2.0))
