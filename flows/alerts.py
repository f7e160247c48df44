"""Alerts: Prefect automations that call a webhook when a night failed, when none came, when a run's process is gone.

They are made from the settings and replaced by name where a setting has changed: doing it again changes nothing, not
even the time since which a night is missed, and one that somebody has paused stays so. The webhook's address is a
secret: it goes from the environment into a block of Prefect's, which masks it.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from flows.tasks import PUBLISHED
from tributary_opt.settings import Settings

FAILED: Final = "tributary: nightly failed"
CRASHED: Final = "tributary: run crashed"
STALE: Final = "tributary: no published night"
ZOMBIE: Final = "tributary: run without a process"
HEARTBEATS: Final = 5
"""Heartbeats that a run may miss before it counts as dead; with 3, a busy machine's healthy runs did. [-]"""

_BLOCK = "tributary-alerts"
_OF_A_RUN = """{
  "text": {{ ("%s: run " ~ flow_run.name ~ " is " ~ flow_run.state.name) | tojson }},
  "alert": {{ automation.name | tojson }},
  "flow_run": {{ flow_run.name | tojson }},
  "state": {{ flow_run.state.name | tojson }},
  "message": {{ (flow_run.state.message or "") | tojson }},
  "url": {{ flow_run | ui_url | tojson }},
  "occurred": "{{ event.occurred }}"
}"""
_OF_NONE = """{
  "text": "%s in the last %g hours: what execution systems read is old",
  "alert": {{ automation.name | tojson }},
  "occurred": "{{ event.occurred }}"
}"""


def ensure_alerts(client: SyncPrefectClient, settings: Settings, heartbeat_s: float) -> list[str]:
    """Make the automations what the settings say; without a webhook, take those away that would call it.

    Parameters
    ----------
    client : SyncPrefectClient
        Of the server that is to watch.
    settings : Settings
        `alerts_webhook` and `alerts_stale_hours`.
    heartbeat_s : float
        How often a flow run says that it lives, `PREFECT_FLOWS_HEARTBEAT_FREQUENCY` of the workers. [s]

    Returns
    -------
    list of str
        The names of the automations that are there now.
    """
    wanted = {ZOMBIE: _zombie(heartbeat_s)}
    if settings.alerts_webhook is not None:
        call = _webhook_block(client, settings.alerts_webhook)
        wanted |= {alert.name: alert for alert in _alerts(call, settings.alerts_stale_hours)}
    for name in (FAILED, CRASHED, STALE, ZOMBIE):
        there = client.read_automations_by_name(name)
        if there and name in wanted:
            mine = there.pop(0)
            # Replaced, it would forget since when nothing came: a machine started anew each day would never alert.
            if _said(mine) != _said(wanted[name]):
                client.update_automation(mine.id, wanted[name].model_copy(update={"enabled": mine.enabled}))
        elif name in wanted:
            client.create_automation(wanted[name])
        for other in there:
            client.delete_automation(other.id)
    return list(wanted)


def _said(automation: AutomationCore) -> dict[str, Any]:
    """What is ours to say of an automation; whether it is paused is the user's. Its events are a set, in no order."""
    return automation.model_dump(include=set(AutomationCore.model_fields) - {"enabled", "owner_resource"})


def _zombie(heartbeat_s: float) -> AutomationCore:
    # Not by force: a heartbeat may arrive after the event of the run's end, and a run that has ended stays as it is.
    return AutomationCore(
        name=ZOMBIE,
        description="A run has stopped saying that it lives: it is marked as crashed, which frees its slots.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=_ANY_RUN,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=HEARTBEATS * heartbeat_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="its process said nothing any more")],
    )


def _alerts(call: CallWebhook, stale_hours: float) -> list[AutomationCore]:
    def alert(
        name: str, said: str, payload: str, expect: set[str], within: timedelta = timedelta(0), **of: Any
    ) -> AutomationCore:
        posture = Posture.Proactive if within else Posture.Reactive
        trigger = EventTrigger(expect=expect, posture=posture, threshold=1, within=within, **of)
        calls = call.model_copy(update={"payload": payload})
        return AutomationCore(name=name, description=said, trigger=trigger, actions=[calls])

    nightly = _labels({"prefect.resource.role": "flow", "prefect.resource.name": "nightly"})
    ended = {"prefect.flow-run.Failed", "prefect.flow-run.TimedOut"}
    said = f"No release became current in {stale_hours:g} hours."
    none = _OF_NONE % ("no night was published", stale_hours)
    failed = _OF_A_RUN % "nightly failed"
    return [
        alert(FAILED, "A nightly run failed or timed out.", failed, ended, match=_ANY_RUN, match_related=nightly),
        alert(
            CRASHED,
            "A run of any flow lost its process.",
            _OF_A_RUN % "run crashed",
            {"prefect.flow-run.Crashed"},
            match=_ANY_RUN,
        ),
        alert(STALE, said, none, {PUBLISHED}, timedelta(hours=stale_hours)),
    ]


def _labels(labels: dict[str, str]) -> ResourceSpecification:
    return ResourceSpecification.model_validate(labels)


_ANY_RUN = _labels({"prefect.resource.id": "prefect.flow-run.*"})


def _webhook_block(client: SyncPrefectClient, url: SecretStr) -> CallWebhook:
    block = Webhook(method="POST", url=url, allow_private_urls=True)
    with temporary_settings({PREFECT_API_URL: str(client.api_url).rstrip("/")}):
        block_id = block.save(_BLOCK, overwrite=True)  # type: ignore[func-returns-value]
    return CallWebhook(block_document_id=block_id)  # type: ignore[arg-type]
