"""The report of a night of many markets: seconds to make, size, and seconds until it can be used in chromium.

python benchmarks/report.py [--markets 5000]

5,000 markets on two idle cores with AVX-512: written in 0.9 s, 7.0 MB, the table usable after 0.38 s, a search 0.05
s, the first market's charts 1.2 s (plotly is read first). On slower cores usable after 1.05 s.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "report"))
from pages import made_history, made_night

from tributary_opt.report import page as report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markets", type=int, default=5_000)
    night = made_night(parser.parse_args().markets)
    history = made_history(night)
    with tempfile.TemporaryDirectory() as root:
        start = time.perf_counter()
        path = report.write(Path(root), night, history)
        print(f"written in {time.perf_counter() - start:.1f} s, {path.stat().st_size / 1e6:.1f} MB")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto("about:blank")
            start = time.perf_counter()
            page.goto(path.as_uri(), wait_until="commit")
            page.wait_for_selector("html[data-ready]")
            print(f"table usable after {time.perf_counter() - start:.2f} s")
            page.wait_for_selector("html[data-ready=all]")
            print(f"overview whole after {time.perf_counter() - start:.2f} s")
            for words, what in (("made-00002", "search"), ("made-00003", "search again")):
                start = time.perf_counter()
                page.fill("#search", words)
                page.wait_for_selector(f"#markets tbody tr:nth-child(1) >> text=KX-{words.upper()}")
                print(f"{what}: {time.perf_counter() - start:.2f} s")
            start = time.perf_counter()
            page.click("#markets tbody tr")
            page.wait_for_selector("#c-schedule .main-svg")
            print(f"the first market's charts, plotly read first: {time.perf_counter() - start:.2f} s")
            browser.close()


if __name__ == "__main__":
    main()
