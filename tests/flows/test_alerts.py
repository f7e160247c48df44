"""Alerts as code: made, followed when a setting changes, left alone when none does."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import requests
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import AutomationCore
from pydantic import SecretStr

from flows.alerts import CRASHED, FAILED, STALE, ZOMBIE, _alerts, _said, ensure_alerts
from tributary_opt.settings import Settings

pytestmark = pytest.mark.prefect


def settings(**alerts: Any) -> Settings:
    return Settings(_env_file=None, **alerts)  # type: ignore[call-arg]


def seen(client: SyncPrefectClient) -> dict[str, dict[str, Any]]:
    """Every automation of ours as the server has it, with the time of its last change."""
    answer = requests.post(f"{client.api_url}automations/filter", json={}, timeout=30, proxies={"http": ""})
    found = [a for a in answer.json() if a["name"].startswith("tributary: ")]
    assert len({a["name"] for a in found}) == len(found)
    return {a["name"]: a for a in found}


def test_order_in_which_the_server_gives_its_events_is_no_change() -> None:
    """A set's order differs from one process to another: what differs by it alone was made anew."""
    (alert,) = (a for a in _alerts(CallWebhook(block_document_id=UUID(int=1)), 26.0) if a.name == FAILED)
    said = alert.model_dump(mode="json")
    events = sorted(said["trigger"]["expect"])
    assert len(events) == 2
    for order in (events, events[::-1]):
        said["trigger"]["expect"] = order
        assert _said(AutomationCore.model_validate(said)) == _said(alert)
    said["trigger"]["expect"] = events[:1]
    assert _said(AutomationCore.model_validate(said)) != _said(alert)


def test_alerts_follow_the_settings_and_nothing_else(prefect_server: None) -> None:
    client = get_client(sync_client=True)
    with_webhook = {"alerts_webhook": SecretStr("http://127.0.0.1:9/secret"), "alerts_stale_hours": 26.0}
    assert set(ensure_alerts(client, settings(**with_webhook), 60.0)) == {FAILED, CRASHED, STALE, ZOMBIE}
    first = seen(client)
    assert set(first) == {FAILED, CRASHED, STALE, ZOMBIE}
    assert first[STALE]["trigger"]["within"] == 26 * 3600
    assert "secret" not in str(first)

    ensure_alerts(client, settings(**with_webhook), 60.0)
    assert seen(client) == first, "the time since which a night is missed begins anew"

    client.pause_automation(first[FAILED]["id"])
    ensure_alerts(client, settings(**with_webhook | {"alerts_stale_hours": 100.0}), 60.0)
    changed = seen(client)
    assert changed[STALE]["trigger"]["within"] == 100 * 3600
    assert changed[STALE]["id"] == first[STALE]["id"]
    assert (changed[CRASHED], changed[ZOMBIE]) == (first[CRASHED], first[ZOMBIE])
    assert not changed[FAILED]["enabled"]

    ensure_alerts(client, settings(), 30.0)
    assert set(seen(client)) == {ZOMBIE}, "without a webhook there is nobody to call"
    assert seen(client)[ZOMBIE]["trigger"]["within"] == 5 * 30
