"""One market from tape to parameters, as six pictures: the plots of docs/calibration.md.

    python benchmarks/calibration_example.py [--home demo-data] [--market ID] --out calibration_example.png

The tape is that of the demo (`make demo`), ticks in QuestDB whose truth is known. What is drawn is what the night read
and calibrated. Without --market it is one whose own
tape says about nine tenths of what is known of its response, and its peers the rest.
"""

from __future__ import annotations

import argparse
import json
import os
from datetime import date
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from tributary_opt import schema
from tributary_opt.calibration.impact_evidence import ImpactEvidence
from tributary_opt.calibration.least_squares import t_quantile
from tributary_opt.calibration.parameters import together
from tributary_opt.market_data.calendars import trading_calendar
from tributary_opt.night import Choices, open_night
from tributary_opt.settings import CalibrationRules, from_environment

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(row: pd.Series, truth: pd.Series, impact: ImpactEvidence, i: int, day: date, out: Path) -> None:
    """The six panels of one market, the i-th of `impact`; `truth` is what its ticks were drawn from."""
    figure, axes = plt.subplots(2, 3, figsize=(16, 8.5), constrained_layout=True)
    unit = row["sigma"] / row["adv"]
    minutes, t = np.array(schema.IMPACT_BUCKETS), t_quantile(impact.n_effective[i] - 1)
    # Wrong aggressors corrected for, as far as the spread tells how many there are.
    slope, se = (row[[f"response_{m}m{of}" for m in minutes]].to_numpy(dtype=float) for of in ("", "_se"))

    ax = axes[0, 0]
    flow = np.linspace(-3, 3, 241) * impact.flow_rms[i, 0]
    share, bps = flow / row["adv"] * 100, 1e4 / row["price"]
    ax.plot(share, slope[0] * flow * bps, label="line, 95 %")
    band = np.abs(t[0] * se[0] * flow)
    ax.fill_between(share, (slope[0] * flow - band) * bps, (slope[0] * flow + band) * bps, alpha=0.2)
    power = np.sign(flow) * impact.prefactor[i, 0] * np.abs(flow) ** impact.exponent[i, 0]
    ax.plot(share, power * bps, label=f"power law, exponent {impact.exponent[i, 0]:.2f}, aggressors as given")
    ax.plot(share, truth["gamma"] * flow * bps, "k--", label="truth")
    ax.set(xlabel="signed flow in 5 minutes [% of ADV]", ylabel="move of the mid [bps]", title="Response curve")
    ax.legend()

    ax = axes[0, 1]
    ax.errorbar(minutes, slope / unit, t * se / unit, fmt="o", capsize=4, label="own tape, 95 %")
    half = 1.96 * row["response_log_sd"]
    low, high = row["response_units"] * np.exp(-half), row["response_units"] * np.exp(half)
    ax.axhspan(low, high, alpha=0.2, label="with the peers, 95 %")
    ax.axhline(truth["gamma"] / unit, color="k", ls="--", label="truth")
    ax.set(xscale="log", xticks=minutes, xticklabels=minutes, xlabel="bucket [min]", ylabel="response [σ/V]")
    ax.minorticks_off()
    ax.set_title("Response by bucket length")
    ax.legend()

    ax = axes[0, 2]
    hours = np.arange(24)
    for name in ("volume", "variance"):
        used, error = row[f"{name}_profile_used"], row[f"{name}_profile_error"]
        label = f"{name}: {used}" + ("" if np.isnan(error) else f", {error:.2f} of flat's error")
        ax.step(hours, np.asarray(row[f"{name}_profile"]) * 100, where="post", label=label)
    ax.step(hours, truth_by_hour(truth, day) * 100, "k--", where="post", label="truth, both")
    ax.set(xlabel="hour of the calendar's clock", ylabel="share of the day [%]", title="Profile", ylim=(0, None))
    ax.legend()

    ax = axes[1, 0]
    x = np.geomspace(low / 3, high * 3, 400)
    own_sd, own = se[0] / unit, slope[0] / unit
    for name, log_density in (
        ("own tape", -0.5 * ((x - own) / own_sd) ** 2),
        ("posterior", -0.5 * (np.log(x / row["response_units"]) / row["response_log_sd"]) ** 2),
    ):
        ax.plot(x, np.exp(log_density), label=name)
    ax.axvline(truth["gamma"] / unit, color="k", ls="--", label="truth")
    ax.set(xlabel="response [σ/V]", ylabel="density over its highest", title="Own tape and posterior")
    ax.legend()

    ax = axes[1, 1]
    prior = CalibrationRules().law
    b = np.geomspace(0.02, 1.0, 400)
    prior_sd = np.hypot(prior.b_level_sd, prior.b_market_sd)
    for name, middle, sd in (("prior", prior.b, prior_sd), ("this market", row["law_b"], row["law_b_sd"])):
        ax.plot(b, np.exp(-0.5 * (np.log(b / middle) / sd) ** 2), label=name)
    ax.set(xscale="log", xlabel="b [-]", ylabel="density over its highest")
    ax.set_title("b: moved by the response, no narrower")
    ax.legend()

    ax = axes[1, 2]
    share = np.geomspace(1e-3, 0.1, 100)
    size, eps = share * row["adv"], row["epsilon"]
    power = row["law_b"] * row["sigma"] * share ** row["alpha"]
    costs = {"law": eps + row["gamma_law"] * size / 2 + power, "square root": eps + 2 / 3 * row["sigma"] * share**0.5}
    costs |= {m: eps + row[f"gamma_{m}"] * size / 2 + row[f"eta_{m}"] * size for m in ("tape", "rule")}
    for name, cost in costs.items():
        ax.plot(share * 100, cost / row["price"] * 1e4, label=name)
    ax.set(xscale="log", yscale="log", xlabel="order over one day [% of ADV]", ylabel="cost [bps]")
    ax.set_title(f"Four laws: apart by {row['model_risk']:.1f} at 1 %")
    ax.legend()

    figure.suptitle(f"{row['market_id']}: grade {row['grade']} ({row['grade_reason']})", fontsize=10)
    figure.savefig(out, dpi=110)


def truth_by_hour(truth: pd.Series, day: date) -> np.ndarray:
    """Share of the next session's trades in each hour of the calendar's clock; moves follow it too."""
    calendar = trading_calendar(truth["calendar"])
    (session,) = calendar.sessions_after(day, 1)
    weights = np.append(0.0, np.cumsum(json.loads(truth["profile"])))
    minutes = pd.date_range(session.start, session.end, freq="min")
    done = np.interp(np.linspace(0, 1, len(minutes)), np.linspace(0, 1, len(weights)), weights / weights[-1])
    hour = calendar.hour_of_day(minutes[:-1].tz_localize(None).to_numpy())
    return np.bincount(hour, weights=np.diff(done), minlength=24)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=Path("demo-data"))
    parser.add_argument("--market")
    parser.add_argument("--out", type=Path, default=Path("calibration_example.png"))
    asked = parser.parse_args()
    os.environ["TRIBUTARY_HOME"] = str(asked.home.absolute())
    settings, choices = from_environment(), Choices()
    if not (asked.home / "parquet" / "current.json").exists():
        parser.error(f"there is no demo in {asked.home}: make it first, by `make demo` or `tributary-opt demo`")
    truths = pd.read_parquet(asked.home / "sample" / "truth.parquet").set_index(["market_id", "token_id"])
    with open_night(settings) as night:
        as_of = night.releases.current().as_of
        seen = [night.measure(choices, as_of, chunk) for chunk in night.chunks(choices, as_of)]
        rows = pd.concat([part.parameters for part in night.calibrate(choices, as_of, seen)], ignore_index=True)
    impact = together([part.measured for part in seen]).impact
    usable = (rows["status"] == "ok") & rows["folded_with"].isna() & (rows["response"] > 0)
    chosen = (rows["response_own"].where(usable) - 0.9).abs().idxmin()
    if asked.market:
        chosen = rows.index[rows["market_id"] == asked.market][0]
    row = rows.loc[chosen]
    draw(row, truths.loc[(row["market_id"], row["token_id"])], impact, int(chosen), as_of, asked.out)
    names = ["n_trades", "sigma", "sigma_se", "epsilon", "epsilon_se", "sign_accuracy", "response", "response_se"]
    names += ["response_units", "response_relative", "law_b", "alpha", "eta", "eta_low", "eta_high"]
    names += ["gamma", "gamma_low", "gamma_high", "model_risk", "strength", "grade"]
    print(row[["market_id", *names]].to_string(float_format="{:.4g}".format))
    print(f"picture: {asked.out}")


if __name__ == "__main__":
    main()
