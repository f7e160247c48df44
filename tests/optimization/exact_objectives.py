"""The least objectives of the exactness tests' random problems: `python tests/optimization/exact_objectives.py`.

Solving 1,600 problems in 50 digits takes most of a minute and gives the same numbers every time. They stand in
exact_objectives.json with a digest of the problems they belong to; the tests solve every twentieth again. On a machine
whose powers have other last bits the problems are others, and all are solved.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from kkt_oracle import mp, random_problems, solve_exactly

from tributary_opt.optimization.problem import Problem

COUNT, STEPS, SEED = 200, 6, 11
KINDS: dict[str, dict[str, bool]] = {
    "closed form": {"power": False, "capped": False, "varying": False},
    "riccati": {"power": False, "capped": False, "varying": True},
    "linear, capped": {"power": False, "capped": True, "varying": True},
    "power law": {"power": True, "capped": False, "varying": True},
    "power law, capped": {"power": True, "capped": True, "varying": True},
    "everything": {"power": True, "capped": True, "varying": True, "spreads": True},
    "linear, spreads": {"power": False, "capped": True, "varying": True, "spreads": True},
    "no risk": {"power": True, "capped": True, "varying": True, "riskless": True},
}
_FILE = Path(__file__).with_suffix(".json")


def problems_of(kind: str) -> Problem:
    """The random problems of a kind."""
    return random_problems(np.random.default_rng(SEED), COUNT, STEPS, **KINDS[kind])


def digest(problems: Problem) -> str:
    arrays = (problems.order_size, problems.impact, problems.slice_sd, problems.risk_aversion, problems.exponent)
    arrays += (problems.spread, problems.cap)
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:16]


def least_objectives(kind: str, problems: Problem) -> list[Any]:
    """The least objectives, stored or solved."""
    found = json.loads(_FILE.read_text())[kind]
    if found["problems"] == digest(problems):
        return [mp.mpf(v) for v in found["objectives"]]
    return [solve_exactly(problems.take(i)).objective for i in range(COUNT)]


if __name__ == "__main__":
    table = {}
    for name in KINDS:
        drawn = problems_of(name)
        best = [mp.nstr(solve_exactly(drawn.take(i)).objective, 30) for i in range(COUNT)]
        table[name] = {"problems": digest(drawn), "objectives": best}
    _FILE.write_text(json.dumps(table, indent=1) + "\n")
