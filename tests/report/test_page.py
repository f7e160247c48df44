"""The report of a night in a real browser: Debian's chromium, headless."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pages import NASTY, made_history, made_night
from playwright.sync_api import Browser, Page, sync_playwright

from tributary_opt import schema
from tributary_opt.night import NightReport
from tributary_opt.report import page as report
from tributary_opt.settings import Grid, RiskLevel

GRID = Grid(
    order_sizes_pct_adv=(0.5, 1.0, 5.0),
    risk_levels=(
        RiskLevel(value=0.0),
        RiskLevel(value=1.0),
        RiskLevel(value=40.0),
        RiskLevel(kind="lambda", value=1e-4),
    ),
    horizons=(1.0, 0.25),
    n_steps=20,
)
SAID: list[str] = []
"""What the page said on its console, and asked for; a test that leaves anything here fails."""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def night() -> NightReport:
    return made_night(60, GRID)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        missing = "no chromium for the report's tests: apt-get install chromium"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(browser: Browser, night: NightReport, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page, open: it has asked for itself and nothing else."""
    path = report.write(tmp_path_factory.mktemp("parquet"), night, made_history(night))
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.on("console", lambda message: SAID.append(message.text))
    page.on("pageerror", lambda error: SAID.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("data:", "blob:")) else SAID.append(r.url))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=all]")
    assert [path.as_uri()] == SAID
    SAID.clear()
    yield page
    page.close()


@pytest.fixture
def page(opened: Page) -> Iterator[Page]:
    yield opened
    assert SAID == []


def frontier(page: Page) -> list[list[float]]:
    found: list[list[float]] = page.evaluate("document.getElementById('c-frontier').data[1].y")
    return found


def search(page: Page, words: str, n: int) -> None:
    page.fill("#search", words)
    page.wait_for_function(f"document.querySelector('#markets tbody').rows.length === {n}")


def test_search_choose_and_see_the_frontier_change(page: Page) -> None:
    search(page, "made-00002", 1)
    page.click("#markets tbody tr")
    assert page.inner_text("#h-detail") == "KX-MADE-00002"
    first = frontier(page)
    search(page, "made-00003", 1)
    page.click("#markets tbody tr")
    assert page.inner_text("#h-detail") == "KX-MADE-00003"
    assert len(frontier(page)) == len(GRID.risk_levels)
    assert frontier(page) != first
    second = frontier(page)
    page.select_option("#size", "2")
    assert frontier(page) != second
    for chart in ("c-schedule", "c-history", "c-profile", "c-response"):
        assert page.locator(f"#{chart} .main-svg").count() > 0, chart
    assert page.evaluate("document.getElementById('c-history').data[0].y.length") == 10
    assert page.inner_text("#left-out") == "Left out: 2026-02-01 (run 00): its file is gone."


def test_a_refused_market_shows_its_reason_and_no_frontier(page: Page) -> None:
    search(page, "made-00009", 1)
    page.click("#markets tbody tr")
    assert "too_few_trades · 4 trades, need 30" in page.inner_text("#verdict")
    assert page.is_hidden("#c-frontier")


def test_headings_sort_with_the_unknown_last(page: Page) -> None:
    search(page, "", 25)
    page.click("#markets button[data-key=sigma]")
    shown = page.evaluate("order.map((i) => M.sigma[i])")
    known = [v for v in shown if v is not None]
    assert known == sorted(known, reverse=True)
    assert len(known) == 54
    assert shown[54:] == [None] * 6
    assert page.get_attribute("#markets th:has(button[data-key=sigma])", "aria-sort") == "descending"
    page.click("#markets button[data-key=market_id]")


def test_the_table_works_by_keyboard(page: Page) -> None:
    search(page, "made", 25)
    page.focus("#markets tbody tr")
    for _ in range(25):
        page.keyboard.press("ArrowDown")
    assert page.inner_text("#page") == "page 2 of 3"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    wanted = page.evaluate("document.activeElement.cells[0].textContent")
    page.keyboard.press("Enter")
    assert page.inner_text("#h-detail") == wanted
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_market_id_that_is_html_stays_text(page: Page) -> None:
    search(page, "drop table", 1)
    page.click("#markets tbody tr")
    assert page.inner_text("#h-detail") == NASTY
    assert page.title() != "owned"
    assert page.locator("img").count() == 0


def test_tooltips_say_what_the_schema_says(page: Page) -> None:
    search(page, "made-00002", 1)
    page.click("#markets tbody tr")
    tips = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#columns th')].map(e => [e.textContent, e.title]))"
    )
    assert tips == {c.name: c.meaning for c in schema.PARAMETERS.columns if c.name not in ("as_of", "run_id")}
    (eta,) = (c for c in schema.PARAMETERS.columns if c.name == "eta")
    assert page.get_attribute("#markets button[data-key=eta]", "title") == f"{eta.meaning} [{eta.unit}]"


def test_light_and_dark_by_the_button_and_by_the_system(page: Page) -> None:
    def theme() -> str:
        return str(page.evaluate("document.documentElement.dataset.theme"))

    page.emulate_media(color_scheme="dark")
    assert theme() == "dark"
    page.click("#theme")
    assert theme() == "light"
    page.emulate_media(color_scheme="light", media="print")
    assert page.is_hidden("#search")
    page.emulate_media(media="screen")


def test_the_page_computes_what_python_published(page: Page, night: NightReport) -> None:
    """Every Almgren-Chriss, TWAP and market-order row of the night, to 1e-9."""
    rows = night.trajectories[night.trajectories["strategy"].isin(["almgren_chriss", "twap", "market_order"])]
    wanted = rows[["market_id", "strategy", "size_ix", "risk_ix", "horizon_ix", "order_size"]].to_json(orient="records")
    got: list[Any] = page.evaluate(
        """(text) => JSON.parse(text).map((r) => {
          const m = market(M.market_id.indexOf(r.market_id)),
            args = [grid.horizons[r.horizon_ix], grid.n_steps, permanent];
          const size = grid.order_sizes_pct_adv[r.size_ix] / 100 * M.adv[M.market_id.indexOf(r.market_id)];
          const s = r.strategy === "twap" ? model.twap(m, size, ...args) : r.strategy === "market_order"
            ? model.atOnce(m, size, ...args) : model.ac(m, size, grid.risk_levels[r.risk_ix], ...args);
          return [s.expected_cost, s.cost_variance, s.expected_cost_bps, s.cost_sd_bps,
            ...model.holdings(s.shares).map((h) => h * size)];
        })""",
        wanted,
    )
    figures = rows[["expected_cost", "cost_variance", "expected_cost_bps", "cost_sd_bps"]].to_numpy()
    python = np.column_stack([figures, np.stack(rows["remaining"].to_list())])
    assert len(rows) == 54 * 3 * 2 * (4 + 1 + 1)
    scale = rows["order_size"].to_numpy()[:, None]
    np.testing.assert_allclose(np.array(got)[:, :4], python[:, :4], rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(np.array(got)[:, 4:] / scale, python[:, 4:] / scale, rtol=1e-9, atol=1e-13)


def test_vwap_follows_the_hours(page: Page) -> None:
    hours = [h + 1.0 for h in range(24)]
    got = page.evaluate(
        """(hours) => {
          const m = {eta: 1, gamma: 0, sigma: 1, epsilon: 0, price: 1, contract_multiplier: 1};
          return model.vwap(m, 1, hours, 1, 48, "paper").shares;
        }""",
        hours,
    )
    np.testing.assert_allclose(got, np.repeat(hours, 2) / (2 * sum(hours)), rtol=1e-12)


def test_the_file_is_whole_small_and_asks_for_nothing(night: NightReport, tmp_path: Path) -> None:
    text = report.render(made_night(2_000, GRID, solved=False))
    assert len(text.encode()) < 12e6
    path = report.write(tmp_path, night)
    assert path == tmp_path / "reports" / "as_of=2026-03-04" / "run_id=0123456789abcdef" / "report.html"
    assert not list((tmp_path / ".staging").iterdir())
    text = path.read_text()
    assert "default-src 'none'" in text
    start = text.index('id="data">') + len('id="data">')
    data = json.loads(text[start : text.index("</script>", start)])
    assert data["markets"]["market_id"][0] == NASTY
    assert len(data["history"]["nights"]) == 1
