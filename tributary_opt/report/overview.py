"""The overview of a night as one small picture: an SVG that stands in a line of markdown."""

from __future__ import annotations

import base64
import io

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tributary_opt.night import NightReport

_OK, _REFUSED = "#0072B2", "#D55E00"  # Okabe and Ito's


def overview_chart(night: NightReport) -> str:
    """Markets by grade or refusal beside the time by step, as a markdown image with the SVG in it."""
    p = night.parameters
    ok = p[p["status"] == "ok"]
    grades: pd.Series = ok["grade"].value_counts().sort_index() if "grade" in p else pd.Series(dtype=int)
    bars: list[tuple[str, float, str]] = [(f"grade {k}", int(n), _OK) for k, n in grades.items()]
    bars = bars or [("calibrated", len(ok), _OK)]
    bars += [(str(k), int(n), _REFUSED) for k, n in p.loc[p["status"] != "ok", "reason"].value_counts().items()]
    steps = [(name, s, _OK) for name, s in night.timings.items()]

    figure = Figure(figsize=(9.0, 0.8 + 0.3 * max(len(bars), len(steps), 2)), layout="constrained")
    _bars(figure.add_subplot(1, 2, 1), bars, "markets", "{:,.0f}")
    _bars(figure.add_subplot(1, 2, 2), steps, "seconds", "{:,.1f}")
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    said = "Markets by grade or reason of refusal, and seconds by step"
    return f"![{said}](data:image/svg+xml;base64,{base64.b64encode(svg.getvalue()).decode()})"


def _bars(axes: Axes, rows: list[tuple[str, float, str]], unit: str, form: str) -> None:
    drawn = axes.barh([row[0] for row in rows], [row[1] for row in rows], color=[row[2] for row in rows])
    axes.bar_label(drawn, labels=[form.format(row[1]) for row in rows], padding=3)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
