"""One market from tape to parameters, as six pictures: the plots of docs/calibration.md.

    python benchmarks/calibration_example.py --out calibration_example.png     (needs the [plot] extra)

A hundred synthetic markets, thirty days, whose truth is known; the picture is of one with a middling tape.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from calibration import tape

from tributary_opt import schema
from tributary_opt.calibration.impact_evidence import ImpactEvidence, moments
from tributary_opt.calibration.least_squares import t_quantile
from tributary_opt.calibration.parameters import calibrate
from tributary_opt.settings import CalibrationRules

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def draw(row: pd.Series, truth: pd.Series, impact: ImpactEvidence, i: int, days: pd.DataFrame, out: Path) -> None:
    """The six panels of one market, the i-th of `impact`; `days` are its market days."""
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
    ax.plot(share, truth["response"] * flow * bps, "k--", label="truth")
    ax.set(xlabel="signed flow in 5 minutes [% of ADV]", ylabel="move of the mid [bps]", title="Response curve")
    ax.legend()

    ax = axes[0, 1]
    ax.errorbar(minutes, slope / unit, t * se / unit, fmt="o", capsize=4, label="own tape, 95 %")
    half = 1.96 * row["response_log_sd"]
    low, high = row["response_units"] * np.exp(-half), row["response_units"] * np.exp(half)
    ax.axhspan(low, high, alpha=0.2, label="with the peers, 95 %")
    ax.axhline(truth["response"] / unit, color="k", ls="--", label="truth")
    ax.set(xscale="log", xticks=minutes, xticklabels=minutes, xlabel="bucket [min]", ylabel="response [σ/V]")
    ax.minorticks_off()
    ax.set_title("Response by bucket length")
    ax.legend()

    ax = axes[0, 2]
    places = {name: k for k, name in enumerate(schema.IMPACT_MOMENTS)}
    for k, length in enumerate(minutes):
        sums = moments(days, length).sum(axis=0)
        explained = np.array([sums[places[move]] ** 2 / sums[places[square]] for move, square in schema.IMPACT_POWER])
        line = ax.plot(schema.IMPACT_EXPONENTS, explained / explained.max(), "o-", ms=4)
        ax.axvline(impact.exponent[i, k], color=line[0].get_color(), ls=":")
        found = f"{impact.exponent[i, k]:.2f} ± {impact.exponent_se[i, k]:.2f}"
        line[0].set_label(f"{length} min: {impact.power_reason[i, k] or found}")
    ax.set(xlabel="exponent d of |flow|", ylabel="squared moves explained, over the most")
    ax.set_title("Profile of the exponent (truth: 1)")
    ax.legend()

    ax = axes[1, 0]
    x = np.geomspace(low / 3, high * 3, 400)
    own_sd, own = se[0] / unit, slope[0] / unit
    for name, log_density in (
        ("own tape", -0.5 * ((x - own) / own_sd) ** 2),
        ("posterior", -0.5 * (np.log(x / row["response_units"]) / row["response_log_sd"]) ** 2),
    ):
        ax.plot(x, np.exp(log_density), label=name)
    ax.axvline(truth["response"] / unit, color="k", ls="--", label="truth")
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("calibration_example.png"))
    out = parser.parse_args().out
    truth, measured, days = tape(0, 100, 30, 0.9)
    rows = calibrate(measured, CalibrationRules(), slice_days=5 / 1440)
    i = int((rows["response_own"] - 0.9).abs().idxmin())
    row = rows.iloc[i]
    draw(row, truth.iloc[i], measured.impact, i, days[days["market_id"] == row["market_id"]], out)
    names = [
        "sigma",
        "epsilon",
        "sign_accuracy",
        "response",
        "response_se",
        "response_units",
        "response_relative",
        "law_b",
        "alpha",
    ]
    names += ["eta", "eta_low", "eta_high", "gamma", "gamma_low", "gamma_high", "model_risk", "strength", "grade"]
    print(row[["market_id", *names]].to_string(float_format="{:.4g}".format))
    print(f"picture: {out}")


if __name__ == "__main__":
    main()
