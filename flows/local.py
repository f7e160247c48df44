"""A flow in this process, with an API server of its own for as long as it runs: the demo needs no server of yours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_LOGGING_LEVEL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)


@contextmanager
def own_server(log_level: str = "WARNING") -> Iterator[None]:
    """Flows run in this block talk to an API server that starts with the first of them and ends with the process."""
    with temporary_settings(
        updates={
            PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True,
            PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120,  # 20 by default: too few for a busy machine
            PREFECT_LOGGING_LEVEL: log_level,
        },
        restore_defaults={PREFECT_API_URL},
    ):
        yield
