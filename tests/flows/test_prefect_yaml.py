"""prefect.yaml against the code it names."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flows import tasks
from tributary_opt.settings import GradeLimits

pytestmark = pytest.mark.prefect

ROOT = Path(__file__).parents[2]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
BY_NAME = {deployment["name"]: deployment for deployment in DEPLOYMENTS}


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, _, name = deployment["entrypoint"].rpartition(".")
    flow = getattr(importlib.import_module(module), name)
    assert isinstance(flow, Flow)
    return flow


@pytest.fixture(params=DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def deployment(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def test_the_deployments_are_those_of_the_design() -> None:
    assert list(BY_NAME) == [
        "nightly",
        "nightly-on-demand",
        "recalibrate",
        "precompute",
        "backfill",
        "maintenance",
        "desk-orders",
    ]


def test_every_deployment_says_what_it_is(deployment: dict[str, Any]) -> None:
    assert deployment["description"]
    assert "tributary" in deployment["tags"]
    assert deployment["work_pool"]["name"] == "tributary"
    assert deployment["enforce_parameter_schema"] is True
    assert deployment["concurrency_limit"]["limit"] == 1
    assert "pull" not in deployment


def test_the_night_is_scheduled_in_utc_and_never_twice_at_once() -> None:
    assert BY_NAME["nightly"]["schedules"] == [{"slug": "nightly", "cron": "30 2 * * *", "timezone": "UTC"}]
    assert BY_NAME["nightly"]["concurrency_limit"]["collision_strategy"] == "CANCEL_NEW"
    others = {d["concurrency_limit"]["collision_strategy"] for name, d in BY_NAME.items() if name != "nightly"}
    assert others == {"ENQUEUE"}


def test_the_desk_starts_on_our_event() -> None:
    (trigger,) = BY_NAME["desk-orders"]["triggers"]
    assert trigger["expect"] == [tasks.PUBLISHED]
    assert set(trigger["parameters"]) == set(flow_of(BY_NAME["desk-orders"]).parameters.required or [])


def test_maintenance_removes_by_schedule_and_only_says_by_hand() -> None:
    (schedule,) = BY_NAME["maintenance"]["schedules"]
    assert (schedule["slug"], schedule["parameters"]) == ("maintenance", {"dry_run": False})
    assert flow_of(BY_NAME["maintenance"]).parameters.properties["dry_run"]["default"] is True


def test_parameters_fit_the_flow(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    sets = [deployment.get("parameters", {}), *[s.get("parameters", {}) for s in deployment.get("schedules", [])]]
    for given in sets:
        assert set(given) <= set(flow.parameters.properties)
        required = dict.fromkeys(flow.parameters.required or [], "2026-03-02")
        flow.validate_parameters({**required, **given})


def numbers_of(field: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The numbers that a field of a form takes, in a list or a choice too; an enum is a list to choose from."""
    for part in field.get("anyOf", []) + field.get("prefixItems", []):
        yield from numbers_of(part)
    if isinstance(field.get("items"), dict):
        yield from numbers_of(field["items"])
    if field.get("type") in ("integer", "number") and "enum" not in field:
        yield field


def test_every_field_of_a_form_is_described_and_bounded(deployment: dict[str, Any]) -> None:
    form = parameter_schema(flow_of(deployment).fn).model_dump()
    for name, field in form["properties"].items():
        assert field.get("description"), f"{name} has no line under Args:"
        assert field.get("title")
        assert "default" in field or name in form["required"]
    models = {k: v for k, v in form["definitions"].items() if v.get("type") == "object"}
    for model, definition in models.items():
        assert definition["additionalProperties"] is False, f"{model} takes a mistyped field in silence"
        for name, field in definition["properties"].items():
            assert field.get("description"), f"{model}.{name} has no description"
            assert "default" in field or name in definition.get("required", [])
            numbers = list(numbers_of(field))
            for bounds in ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}):
                assert all(bounds & set(number) for number in numbers), f"{model}.{name} lacks one of {bounds}"
            if numbers:
                assert re.search(r"\[[^\]]+\]$", field["description"]), f"{model}.{name} has no unit"
    assert not {"password", "token", "host", "path", "url"} & {n.lower() for n in form["properties"]}


@pytest.mark.parametrize(
    "wrong",
    [
        {"response_log_sd": (-1.0, 0.5, 1.0)},
        {"regret": (0.1, float("nan"), 0.3)},
        {"signed_share": (1.5, 0.5, 0.2)},
        {"buckets": (50, 200, 1_000)},  # looser for A than for C
        {"model_risk": (12, 6, 3)},
        {"model_risk": (3, 6)},
    ],
)
def test_limits_of_grades_are_bounded_and_ordered(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        GradeLimits.model_validate(wrong)
