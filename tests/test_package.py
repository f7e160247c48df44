"""What `import tributary_opt` gives, and what it must not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tributary_opt

HEAVY = ("prefect", "questdb", "psycopg", "pandas", "pyarrow", "pydantic", "scipy")


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "statement",
    [
        "from tributary_opt import generate_ac_trajectory",
        "import tributary_opt; tributary_opt.optimization",
        "import tributary_opt.optimization",
        "from tributary_opt.optimization import closed_form, rule, strategies, trajectory",
        "import tributary_opt as t; t.generate_ac_trajectory(1e3, 9, t.calibrate_ac_params(5e4, 0.02, 0.05, 0.5))",
    ],
)
def test_numerical_api_needs_numpy_alone(statement: str) -> None:
    modules = loaded_by(statement)
    assert "numpy" in modules
    assert modules.isdisjoint(HEAVY)


def test_names_are_loaded_when_they_are_asked_for() -> None:
    assert loaded_by("import tributary_opt; tributary_opt.__version__").isdisjoint({*HEAVY, "numpy"})
    assert set(tributary_opt.__all__) <= set(dir(tributary_opt))


def test_comparison_loads_pandas_and_nothing_else_heavy() -> None:
    modules = loaded_by("from tributary_opt import StrategyComparison")
    assert "pandas" in modules
    assert modules.isdisjoint({"prefect", "questdb", "psycopg"})


def test_package_exports_the_numerical_api() -> None:
    for name in (
        "AlmgrenChrissParams",
        "ExecutionTrajectory",
        "calibrate_ac_params",
        "generate_ac_trajectory",
        "generate_twap_trajectory",
        "generate_market_order_trajectory",
        "ExecutionStrategy",
        "StrategyComparison",
    ):
        assert getattr(tributary_opt, name) is not None
        assert name in tributary_opt.__all__
    from tributary_opt.optimization.almgren_chriss import (
        AlmgrenChrissParams,
        ExecutionTrajectory,
        calibrate_ac_params,
        generate_ac_trajectory,
    )

    for item in (AlmgrenChrissParams, ExecutionTrajectory, calibrate_ac_params, generate_ac_trajectory):
        assert getattr(tributary_opt, item.__name__) is item
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tributary_opt.nothing


def test_every_name_a_room_promises_is_there() -> None:
    from tributary_opt import optimization

    for module in (tributary_opt, optimization):
        for name in module.__all__:
            assert getattr(module, name) is not None


def test_version_is_a_version() -> None:
    assert tributary_opt.__version__[0].isdigit()
