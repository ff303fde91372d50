"""What our server puts around Prefect's: headers that keep the browser at home, and refusals in our own words."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from tasks.services.spec import is_loopback

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Describe = Callable[[str, Mapping[str, Any]], str | None]

_CREATE_RUN = re.compile(r"(/.*)?/deployments/([0-9a-f-]{36})/create_flow_run")
_HOST = re.compile(r"[\w.-]+(:\d+)?|\[[0-9a-f:]+\](:\d+)?", re.IGNORECASE)
_CONFLICT = 409
_POLICY = {
    "default-src": "'self'",
    # The graph of a run is drawn by a library that makes functions from text.
    "script-src": "'self' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
_OTHERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Hardened:
    """An ASGI application around another.

    Args:
        app: Prefect's.
        describe: says what is wrong with the parameters of a flow by name; None leaves Prefect's words.
        local_only: answer to loopback names alone, so that no site can point a name of its own at this machine.
    """

    def __init__(self, app: Application, describe: Describe, local_only: bool = False) -> None:
        self._app, self._describe, self._local_only = app, describe, local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        host = _header(scope, b"host")
        if self._local_only and not is_loopback(re.sub(r":\d+$", "", host.lower())):
            await _refuse(scope, host, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        guarded = _with_headers(send, security_headers(host))
        found = _CREATE_RUN.fullmatch(scope["path"]) if scope["method"] == "POST" else None
        if found:
            await self._create_run(scope, receive, guarded, found[1] or "", found[2])
        else:
            await self._app(scope, receive, guarded)

    async def _create_run(self, scope: Scope, receive: Receive, send: Send, root: str, deployment: str) -> None:
        """Pass the request on; where it was refused for its parameters, answer in our words."""
        sent: list[bytes] = []
        held: list[Message] = []

        async def listen() -> Message:
            message = await receive()
            sent.append(message.get("body", b""))
            return message

        async def hold(message: Message) -> None:
            if held or (message["type"] == "http.response.start" and message["status"] == _CONFLICT):
                held.append(message)
            else:
                await send(message)

        # A copy, since routers write into it and the answer below needs it as it came.
        await self._app({**scope}, listen, hold)
        if not held:
            return
        text = await self._sentence(scope, root, deployment, b"".join(sent))
        for message in _answer(_CONFLICT, {"detail": text}) if text else held:
            await send(message)

    async def _sentence(self, scope: Scope, root: str, deployment: str, body: bytes) -> str | None:
        try:
            given = json.loads(body or b"{}").get("parameters") or {}
            known = await self._get(scope, f"{root}/deployments/{deployment}")
            flow = await self._get(scope, f"{root}/flows/{known['flow_id']}")
            return self._describe(flow["name"], {**known["parameters"], **given})
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # what cannot be read is left to Prefect's own words

    async def _get(self, scope: Scope, path: str) -> Any:
        """What the application itself answers to a GET of the same caller."""
        # Not what a browser adds: the answer must be neither packed nor shortened.
        kept = [(name, value) for name, value in scope["headers"] if name in (b"host", b"authorization")]
        inner = {**scope, "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": kept}
        inner["state"] = dict(scope.get("state", {}))
        parts: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            parts.append(message.get("body", b""))

        await self._app(inner, receive, send)
        return json.loads(b"".join(parts))


def security_headers(host: str) -> dict[str, str]:
    """The headers of every answer; `host` is the name by which the page was asked for."""
    # Not all browsers count a page's own WebSockets as 'self'.
    sockets = f" ws://{host} wss://{host}" if _HOST.fullmatch(host) else ""
    policy = {**_POLICY, "connect-src": f"'self'{sockets}"}
    return {"Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()), **_OTHERS}


def _with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    names = {name for name, _ in added}

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [each for each in message.get("headers", ()) if each[0].lower() not in names]
            message = {**message, "headers": [*kept, *added]}
        await send(message)

    return sending


async def _refuse(scope: Scope, host: str, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    text = (
        f"This server answers to 127.0.0.1 and localhost alone, not to {host!r}: it has no password. Set one with "
        f"PREFECT_SERVER_API_AUTH_STRING and start the services again."
    )
    for message in _answer(403, {"detail": text}):
        await send(message)


def _answer(status: int, content: Mapping[str, Any]) -> list[Message]:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
