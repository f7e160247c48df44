"""The report of a night in a real browser: Debian's chromium, headless."""

from __future__ import annotations

import base64
import gzip
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.offline
import pytest
from pages import NASTY, made_history, made_night
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tributary_opt import schema
from tributary_opt.night import NightReport
from tributary_opt.report import page as report
from tributary_opt.report.packed import Packer
from tributary_opt.settings import Grid, RiskLevel

LEVELS = (
    RiskLevel(value=0.0),
    RiskLevel(value=1.0),
    RiskLevel(value=40.0),
    RiskLevel(kind="lambda", value=1e-4),
)
GRID = Grid(order_sizes_pct_adv=(0.5, 1.0, 5.0), risk_levels=LEVELS, horizons=(1.0, 0.25), n_steps=20)
GRIDS = {
    "linear": GRID,
    "linear, midprice": GRID.model_copy(update={"permanent": "midprice"}),
    "power": GRID.model_copy(update={"impact_law": "power"}),
    "power, paper": GRID.model_copy(update={"impact_law": "power", "permanent": "paper"}),
    "capped": GRID.model_copy(update={"max_participation": 0.04, "max_slice": 0.2}),
    "power, capped": GRID.model_copy(update={"impact_law": "power", "max_slice": 0.2}),
}
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
    drawn(page, "c-frontier")
    found: list[list[float]] = page.evaluate("document.getElementById('c-frontier').data[1].y")
    return found


def drawn(page: Page, chart: str) -> None:
    """A chart is drawn when it is seen."""
    page.locator(f"#{chart}").scroll_into_view_if_needed()
    page.wait_for_selector(f"#{chart}[data-drawn=now]")


def search(page: Page, words: str, n: int) -> None:
    page.fill("#search", words)
    expect(page.locator("#markets tbody tr")).to_have_count(n)


def test_the_overview_says_what_changed(page: Page) -> None:
    assert page.inner_text("#changes").endswith("Recovered: 0 · Moved by 4 standard errors or more: 1")
    moves = page.locator("#movers tbody tr")
    expect(moves).to_have_count(20)
    page.click("#movers button[data-key=per_cent]")
    shown = [float(text) for text in page.locator("#movers tbody tr td:last-child").all_inner_texts()]
    assert shown == sorted(shown, reverse=True)


def test_the_overview_names_the_jumps_of_the_source(page: Page) -> None:
    assert "windows of 3 markets" in page.inner_text("#jumped")
    rows = page.locator("#jumps tbody tr")
    expect(rows).to_have_count(3)
    assert [text[:19] for text in page.locator("#jumps tbody tr td:last-child").all_inner_texts()] == [
        f"split on 2026-02-{day}" for day in (20, 15, 12)
    ]
    assert page.locator("#jumps tbody tr td:first-child").last.inner_text() == NASTY


def test_the_overview_counts_grades_refusals_and_seconds(page: Page, night: NightReport) -> None:
    facts = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('.facts div')]"
        ".map(e => [e.querySelector('dt').textContent, e.querySelector('dd').textContent]))"
    )
    p = night.parameters
    ok = p[p["status"] == "ok"]
    assert (facts["Markets"], facts["Calibrated"]) == (str(len(p)), str(len(ok)))
    assert facts["Refused"] == str(len(p) - len(ok))
    assert facts["Schedules"] == f"{len(night.trajectories):,}"
    drawn = page.eval_on_selector_all("#overview text", "found => found.map(e => e.textContent.trim())")
    for grade, n in ok["grade"].value_counts().items():
        assert {f"grade {grade}", f"{n:,}"} <= set(drawn)
    for reason, n in p.loc[p["status"] != "ok", "reason"].value_counts().items():
        assert {reason, f"{n:,}"} <= set(drawn)
    for step, took in night.timings.items():
        assert {step, f"{took:.1f}"} <= set(drawn)
    assert {"coverage", "two sided share", "signed share", "share [%]"} <= set(drawn)


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
    for chart in ("c-schedule", "c-history", "c-response", "c-cost", "c-profile", "c-laws"):
        drawn(page, chart)
        assert page.locator(f"#{chart} .main-svg").count() > 0, chart
    assert page.evaluate("document.getElementById('c-history').data[0].y.length") == 10
    assert page.inner_text("#left-out") == "Left out: 2026-02-01 (run 00): its file is gone."


def test_parameters_of_the_last_nights_stand_with_their_intervals(page: Page, night: NightReport) -> None:
    search(page, "made-00003", 1)
    page.click("#markets tbody tr")
    drawn(page, "c-history")
    before = made_history(night).rows
    mine = before[before["market_id"] == "KX-MADE-00003"]
    tonight = night.parameters.set_index("market_id").loc["KX-MADE-00003"]
    traces = page.evaluate(
        "document.getElementById('c-history').data.map("
        "(t) => [t.name, t.x, t.y, t.error_y.array, t.error_y.arrayminus])"
    )
    assert [t[0] for t in traces] == ["sigma", "epsilon", "eta", "gamma"]
    for name, nights, values, above, below in traces:
        wanted = {of: [*mine[f"{name}{of}"], tonight[f"{name}{of}"]] for of in ("", "_low", "_high")}
        assert [f"{n}"[:10] for n in nights[:-1]] == list(mine["as_of"])
        np.testing.assert_allclose(values, wanted[""], rtol=1e-3)
        np.testing.assert_allclose(np.add(values, above), wanted["_high"], rtol=2e-3)
        np.testing.assert_allclose(np.subtract(values, below), wanted["_low"], rtol=2e-3)


def test_a_refused_market_shows_its_reason_and_no_frontier(page: Page) -> None:
    search(page, "made-00009", 1)
    page.click("#markets tbody tr")
    assert "too_few_trades · 4 trades, need 30" in page.inner_text("#verdict")
    assert page.is_hidden("#c-frontier")


def test_headings_sort_with_the_unknown_last(page: Page) -> None:
    search(page, "", 25)
    page.click("#markets button[data-key=sigma]")
    shown = page.evaluate("order.map((i) => M.sigma[i])")
    known = [v for v in shown if v == v]
    assert known == sorted(known, reverse=True)
    assert len(known) == 54
    assert np.isnan(shown[54:]).all()
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
    tips = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#markets button[data-key]')]"
        ".map(e => [e.dataset.key, e.title]))"
    )
    of_market = {c.name: c for c in schema.PARAMETERS.columns}
    assert {"eta", "sigma", "spread", "adv", "grade", "price"} <= set(tips)
    for name, said in tips.items():
        if name in of_market:
            c = of_market[name]
            assert said == c.meaning + (f" [{c.unit}]".replace("day^0.5", "√day") if c.unit else "")
    heads = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#figures thead th')].map(e => [e.textContent, e.title]))"
    )
    of = {c.name: c for c in schema.TRAJECTORIES.columns}
    for head, name in {
        "Strategy": "strategy",
        "Cost [bps]": "expected_cost_bps",
        "Risk [bps]": "cost_sd_bps",
        "Half done after [day]": "half_life",
        "Reckoned by": "cost_profile",
        "Published as": "status",
    }.items():
        assert heads[head] == of[name].meaning + (f" [{of[name].unit}]" if of[name].unit else "")
        assert head.endswith(f"[{of[name].unit}]") == ("[" in head)


def test_the_response_stands_with_its_band_for_each_bucket_length(page: Page, night: NightReport) -> None:
    search(page, "made-00002", 1)
    page.click("#markets tbody tr")
    drawn(page, "c-response")
    row = night.parameters.set_index("market_id").loc["KX-MADE-00002"]
    lines = page.evaluate("document.getElementById('c-response').data.map((t) => [t.xaxis || 'x', t.name, t.y[1]])")
    assert len(lines) == 4 * len(schema.IMPACT_BUCKETS)
    for panel, minutes in enumerate(schema.IMPACT_BUCKETS, 1):
        slope, se = row[f"response_{minutes}m"], row[f"response_{minutes}m_se"]
        axis = "x" if panel == 1 else f"x{panel}"
        low, high, middle, gamma = (y for x, _, y in lines if x == axis)
        # An edge next to 0 is a difference of what the page holds: the band by its middle and its half-width.
        found = [middle, (low + high) / 2, (high - low) / 2, gamma]
        wanted = np.array([slope, slope, 1.96 * se, row["gamma"]])
        np.testing.assert_allclose(found, wanted * 0.01 * row["adv"] / row["price"] * 1e4, rtol=1e-3)


def test_light_and_dark_by_the_button_and_by_the_system(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-theme=dark]")
    page.click("#theme")
    page.wait_for_selector("html[data-theme=light]")
    page.emulate_media(color_scheme="light", media="print")
    assert page.is_hidden("#search")
    page.emulate_media(media="screen")


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages whose charts nobody looks at: reading plotly's script takes longer than all the rest."""
    monkeypatch.setattr(plotly.offline, "get_plotlyjs", lambda: "window.Plotly = { react() {} };")


@pytest.mark.usefixtures("without_charts")
def test_paper_has_two_hundred_rows_and_says_which(browser: Browser, tmp_path: Path) -> None:
    page = browser.new_page()
    page.goto(report.write(tmp_path, made_night(230, solved=False)).as_uri())
    page.wait_for_selector("html[data-ready=all]")
    assert page.is_hidden("#printed")

    def printed() -> tuple[int, str]:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        found = page.locator("#markets tbody tr").count(), page.inner_text("#printed")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        return found

    page.click("#next")
    assert printed() == (200, "First 200 of 230 markets, in the order of their names.")
    assert page.inner_text("#page") == "page 2 of 10"
    assert page.locator("#markets tbody tr").count() == 25
    page.click("#markets button[data-key=adv]")
    page.select_option("#status", "refused")
    page.fill("#search", "made-001")
    assert printed() == (10, "10 markets, of 230 those with “made-001” and status refused, by ADV, falling.")
    assert len(page.pdf(prefer_css_page_size=True)) > 10_000
    page.close()


def test_an_order_walked_through_the_book_stands_beside_the_laws_and_not_among_them(
    page: Page, night: NightReport
) -> None:
    search(page, "made-00002", 1)
    page.click("#markets tbody tr")
    drawn(page, "c-laws")
    bars = page.evaluate("(({ x, y, marker }) => [y, x, marker.color])(document.getElementById('c-laws').data[0])")
    row = night.parameters.set_index("market_id").loc["KX-MADE-00002"]
    of = dict(zip(bars[0], zip(bars[1], bars[2], strict=True), strict=True))
    names = ["default law", "this tape, linear", "1 % / 10 % rule", "square root", "one slice at once"]
    assert list(of) == names
    assert of["one slice at once"][0] == pytest.approx(row["cost_walk_bps"], rel=1e-4)
    assert of["one slice at once"][1] not in [of[name][1] for name in names[:-1]]
    said = page.inner_text("#walk")
    assert f"contracts at once cost {row['walk_cost']:.4g} a contract [price]" in said
    assert f"{row['walk_half_spreads']:.3g} half-spreads" in said


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("law", GRIDS)
def test_the_page_computes_what_python_published(browser: Browser, tmp_path: Path, law: str) -> None:
    """Every row of the night, whatever the law, the convention and the caps of its grid; by hours of 24/7 and XNYS."""
    night = made_night(15, GRIDS[law])
    page = browser.new_page()
    page.goto(report.write(tmp_path, night).as_uri())
    page.wait_for_selector("html[data-ready]")
    columns = ["expected_cost", "cost_variance", "expected_cost_bps", "cost_sd_bps", "half_life", "urgency"]
    rows = night.trajectories.reset_index(drop=True)
    key = ["market_id", "strategy", "size_ix", "risk_ix", "horizon_ix"]
    got: list[Any] = page.evaluate(
        """([text, columns]) => JSON.parse(text).map((r) => {
          const i = M.market_id.indexOf(r.market_id), all = strategies(i, r.size_ix, r.horizon_ix);
          const s = all && all.of[r.strategy].at(grid.risk_levels[Math.max(0, r.risk_ix)]);
          return [statusOf(i, r.strategy, r.size_ix, r.risk_ix, r.horizon_ix), s && all.of[r.strategy].profile,
            s && [...columns.map((c) => s[c]), ...model.holdings(s.shares)]];
        })""",
        [rows[key].to_json(orient="records"), columns],
    )
    page.close()
    assert [g[0] for g in got] == rows["status"].to_list()
    solved = rows["status"] != "infeasible"
    assert solved.mean() > 0.6
    assert [g[2] is not None for g in got] == solved.to_list()
    rows, got = rows[solved], [g for g in got if g[2] is not None]
    assert [g[1] for g in got] == rows["cost_profile"].to_list()
    assert set(rows["cost_profile"]) == {"clock", "volume"}
    found = np.array([[np.nan if v is None else v for v in g[2]] for g in got])
    # By hours the page knows the profile to a single's digits; a capped schedule is found by bisection.
    close = {"clock": 1e-9, "volume": 2e-6}
    for how, rtol in close.items():
        mine = (rows["cost_profile"] == how).to_numpy()
        held = np.stack(rows["remaining"][mine].to_list()) / rows["order_size"].to_numpy()[mine, None]
        np.testing.assert_allclose(found[mine, : len(columns)], rows.loc[mine, columns], rtol=rtol, atol=1e-300)
        np.testing.assert_allclose(found[mine, len(columns) :], held, rtol=0, atol=rtol)


def test_the_file_is_whole_small_and_asks_for_nothing(night: NightReport, tmp_path: Path) -> None:
    text = report.render(made_night(2_000, GRID, solved=False))
    assert len(text.encode()) < 6e6
    path = report.write(tmp_path, night)
    assert path == tmp_path / "reports" / "as_of=2026-03-04" / "run_id=0123456789abcdef" / "report.html"
    assert not list((tmp_path / ".staging").iterdir())
    text = path.read_text()
    assert "default-src 'none'" in text
    assert NASTY[:20] not in text  # it travels packed


@pytest.mark.usefixtures("without_charts")
def test_a_night_without_markets_or_schedules_has_a_page(browser: Browser, tmp_path: Path) -> None:
    night = made_night(12, solved=False)
    nobody = replace(night, parameters=night.parameters.iloc[:0], before=None)
    for of in (night, nobody):
        page = browser.new_page()
        page.goto(report.write(tmp_path, of).as_uri())
        page.wait_for_selector("html[data-ready]")
        assert page.inner_text("#count") == f"{len(of.parameters)} of {len(of.parameters)} markets"
        page.close()


def test_the_page_holds_the_numbers_of_the_night(page: Page, night: NightReport) -> None:
    """What it computes with to the bit, the rest to five digits; texts and what is missing as they are."""
    p = night.parameters.sort_values(["market_id", "token_id"]).reset_index(drop=True)
    for name in ("eta", "sigma", "alpha", "reference_rate", "n_trades"):
        np.testing.assert_array_equal(column(page, name), p[name].to_numpy(dtype=float), err_msg=name)
    np.testing.assert_allclose(column(page, "response_se"), p["response_se"].to_numpy(), rtol=5e-6)
    for name in ("market_id", "grade", "reason"):
        assert page.evaluate(f"M.{name}") == [None if pd.isna(v) else v for v in p[name]], name


def column(page: Page, name: str) -> Any:
    return np.array(page.evaluate(f"Array.from(M.{name})"), dtype=float)


def test_packing_keeps_what_it_says() -> None:
    values = np.array([0.0, -1.5, np.pi, 1e-30, 123456.789, np.nan])
    pack = Packer()
    places = [pack.add(values), pack.add(values, 23), pack.add(values, 11), pack.add(np.array([1e300, np.nan]), 11)]
    assert [place["kind"] for place in places] == ["f8", "f4", "f4", "f8"]
    whole = gzip.decompress(base64.b64decode(pack.packed({})))
    body = whole[4 + int.from_bytes(whole[:4], "little") :]
    for place, rtol in zip(places[:3], (0.0, 2**-24, 2**-12), strict=True):
        size = {"f8": 8, "f4": 4}[place["kind"]]
        planes = np.frombuffer(body, np.uint8, place["n"] * size, place["at"]).reshape(size, -1)
        found = np.ascontiguousarray(planes.T).view("<" + place["kind"]).ravel().astype(float)
        np.testing.assert_allclose(found, values, rtol=rtol)
