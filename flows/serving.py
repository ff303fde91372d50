"""The Prefect server of `tuneflow up`: Prefect's own application, hardened. `python -m flows.serving` runs it."""

import json
import os
from collections.abc import Mapping
from typing import Any

import uvicorn
from prefect.server.api.server import create_app as prefect_app
from prefect.settings import get_current_settings
from prefect.utilities.schema_tools.hydration import HydrationContext, HydrationError, hydrate

from flows.reading import parse_request
from tasks.errors import RequestError
from tasks.services.hardening import Application, Hardened
from tasks.services.programs import LOCAL_ONLY

_FLOW = "finetune"
_GRACE_SECONDS = 5  # for open connections when the server is asked to end


def create_app() -> Application:
    """Prefect's API, UI and services, with our headers and our words for a request that is refused."""
    return Hardened(prefect_app(final=True), describe, local_only=bool(os.environ.get(LOCAL_ONLY)))


def describe(flow: str, parameters: Mapping[str, Any]) -> str | None:
    """What is wrong with the parameters of `finetune`; None for other flows, and where nothing is."""
    if flow != _FLOW:
        return None
    filled = _fill(parameters)
    if filled is None:
        return None
    request = filled.get("request")
    if not isinstance(request, dict):
        return "The parameter request is missing: it holds keys and values such as name, base_model and data."
    try:
        parse_request(request, "request")
    except RequestError as error:
        return str(error)
    return None


def _fill(parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values that the UI's form stands for; None where some are known to the server alone."""
    try:
        filled: dict[str, Any] = hydrate(dict(parameters), HydrationContext(raise_on_error=True))
        json.dumps(filled)  # a template or a variable that is not filled in is no JSON
    except (HydrationError, TypeError, ValueError):
        return None
    return filled


def main() -> None:
    """Serve as `prefect server start` does, on PREFECT_SERVER_API_HOST and _PORT."""
    server = get_current_settings().server
    uvicorn.run(
        create_app(),
        host=server.api.host,
        port=server.api.port,
        timeout_keep_alive=server.api.keepalive_timeout,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=server.logging_level.lower(),
    )


if __name__ == "__main__":
    main()
