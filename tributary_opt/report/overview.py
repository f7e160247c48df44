"""The overview of a night as one small picture: an SVG that stands in a line of markdown."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tributary_opt.night import NightReport

_OK, _REFUSED = "#0072B2", "#D55E00"  # Okabe and Ito's


_QUALITY = ("coverage", "two_sided_share", "signed_share")
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def overview_chart(night: NightReport) -> str:
    """Markets by grade or refusal beside the time by step, as a markdown image with the SVG in it."""
    verdicts, steps = _verdicts(night.parameters), _steps(night)
    figure = Figure(figsize=(9.0, 0.8 + 0.3 * max(len(verdicts), len(steps), 2)), layout="constrained")
    _bars(figure.add_subplot(1, 2, 1), verdicts, "markets", "{:,.0f}")
    _bars(figure.add_subplot(1, 2, 2), steps, "seconds", "{:,.1f}")
    said = "Markets by grade or reason of refusal, and seconds by step"
    return f"![{said}](data:image/svg+xml;base64,{base64.b64encode(_svg(figure)).decode()})"


def overview_svg(night: NightReport) -> str:
    """The same with the data quality, as an SVG element for a page: in the colour of its text, on its background."""
    verdicts, steps, p = _verdicts(night.parameters), _steps(night), night.parameters
    figure = Figure(figsize=(13.0, 0.9 + 0.27 * max(len(verdicts), len(steps), 6)), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _bars(left, verdicts, "markets", "{:,.0f}")
    _bars(right, steps, "seconds", "{:,.1f}")
    boxes = []
    for name in _QUALITY:
        values = 100.0 * p.loc[p["status"] == "ok", name].dropna() if name in p else pd.Series(dtype=float)
        if len(values):
            q = values.quantile(list(_QUANTILES)).to_numpy()
            stats = dict(zip(("whislo", "q1", "med", "q3", "whishi"), q, strict=True))
            boxes.append({"label": name.replace("_", " "), "fliers": [], **stats})
    if boxes:
        line = {"color": _OK, "linewidth": 1.5}
        middle.bxp(
            boxes, boxprops=line, whiskerprops=line, capprops=line, medianprops={"color": _REFUSED, "linewidth": 2}
        )
    middle.set_ylim(-2, 102)
    middle.set_ylabel("share [%]")
    middle.spines[["top", "right"]].set_visible(False)
    titles = ("Markets by grade or refusal", "Data quality: quartiles, 5 and 95 %", "Time by step")
    for axes, title in zip((left, middle, right), titles, strict=True):
        axes.set_title(title, loc="left", fontweight="bold", fontsize=11)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": night.run.run_id}):
        text = _svg(figure, transparent=True).decode()
    return text[text.index("<svg") :].replace("#000000", "currentColor").replace("fill: #000", "fill: currentColor")


def _verdicts(p: pd.DataFrame) -> list[tuple[str, float, str]]:
    ok = p[p["status"] == "ok"]
    grades: pd.Series = ok["grade"].value_counts().sort_index() if "grade" in p else pd.Series(dtype=int)
    bars: list[tuple[str, float, str]] = [(f"grade {k}", int(n), _OK) for k, n in grades.items()]
    bars = bars or [("calibrated", len(ok), _OK)]
    refused = p.loc[p["status"] != "ok", "reason"].value_counts()
    return bars + [(str(k), int(n), _REFUSED) for k, n in refused.items()]


def _steps(night: NightReport) -> list[tuple[str, float, str]]:
    return [(name, s, _OK) for name, s in night.timings.items()]


def _svg(figure: Figure, **options: Any) -> bytes:
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None}, **options)
    return svg.getvalue()


def _bars(axes: Axes, rows: list[tuple[str, float, str]], unit: str, form: str) -> None:
    drawn = axes.barh([row[0] for row in rows], [row[1] for row in rows], color=[row[2] for row in rows])
    axes.bar_label(drawn, labels=[form.format(row[1]) for row in rows], padding=3)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
