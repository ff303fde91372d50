"""What is put around Prefect's application, around a small one of our own."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from tasks.services.hardening import Hardened, Message, Receive, Scope, Send, security_headers

DEPLOYMENT = "6271a14c-8975-4e29-8226-116c164970cf"
CREATE = f"/api/deployments/{DEPLOYMENT}/create_flow_run"
PREFECTS = {"detail": "Error creating flow run: Validation failed"}


class Server:
    """Answers like Prefect's: a deployment, its flow, and a refusal of what is posted."""

    def __init__(self, status: int = 409, flow: str = "finetune") -> None:
        self.status, self.flow = status, flow
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send({"type": "passed"})
            return
        path = scope["path"]
        scope["path"] = scope["root_path"] = "written by a router"
        answers: dict[str, object] = {
            f"/api/deployments/{DEPLOYMENT}": {"flow_id": "f1", "parameters": {"request": {"name": "kept"}, "other": 1}},
            "/api/flows/f1": {"name": self.flow},
        }
        assert (b"accept-encoding", b"gzip") not in scope["headers"] or scope["method"] == "POST"
        status, content = (200, answers[path]) if path in answers else (self.status, PREFECTS)
        message: Message = {"more_body": True}
        while scope["method"] == "POST" and message.get("more_body"):
            message = await receive()
            self.bodies.append(message["body"])
        await send({"type": "http.response.start", "status": status, "headers": [(b"x-frame-options", b"ALLOW")]})
        await send({"type": "http.response.body", "body": json.dumps(content).encode()})


def ask(
    server: Server, path: str, body: Mapping[str, Any] | None = None, host: str = "127.0.0.1:4200", local_only: bool = False
) -> tuple[int, dict[str, str], Any]:
    """Status, headers and content of one answer."""
    parts = [json.dumps(body).encode()[:9], json.dumps(body).encode()[9:]] if body is not None else [b""]
    messages = [
        {"type": "http.request", "body": part, "more_body": number + 1 < len(parts)} for number, part in enumerate(parts)
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    def describe(flow: str, parameters: Mapping[str, Any]) -> str | None:
        return f"{flow}: {json.dumps(parameters, sort_keys=True)}" if flow == "finetune" else None

    headers = [(b"host", host.encode()), (b"authorization", b"Basic x")]
    headers += [] if body is None else [(b"accept-encoding", b"gzip")]
    scope = {"type": "http", "method": "GET" if body is None else "POST", "path": path, "headers": headers, "query_string": b""}
    asyncio.run(Hardened(server, describe, local_only)(scope, receive, send))
    start = sent[0]
    return (
        start["status"],
        {name.decode(): value.decode() for name, value in start["headers"]},
        json.loads(b"".join(message["body"] for message in sent[1:])),
    )


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"parameters": {"request": {"name": 1}}}, 'finetune: {"other": 1, "request": {"name": 1}}'),
        ({"parameters": None}, 'finetune: {"other": 1, "request": {"name": "kept"}}'),
        ({}, 'finetune: {"other": 1, "request": {"name": "kept"}}'),
    ],
)
def test_a_refusal_is_described_by_what_was_asked(given: dict[str, Any], seen: str) -> None:
    server = Server()
    status, headers, content = ask(server, CREATE, given)
    assert (status, content) == (409, {"detail": seen})
    assert headers["content-length"] == str(len(json.dumps(content)))
    assert headers["x-frame-options"] == "DENY"
    assert json.loads(b"".join(server.bodies)) == given  # the application got it whole


@pytest.mark.parametrize(
    ("server", "path", "body"),
    [
        (Server(flow="another"), CREATE, {"parameters": {}}),
        (Server(status=201), CREATE, {"parameters": {}}),
        (Server(), "/api/flow_runs/", {"parameters": {}}),
        (Server(), CREATE.replace("6271", "7271"), {"parameters": {}}),
        (Server(), CREATE, {"parameters": "not a mapping"}),
    ],
)
def test_other_answers_stay_as_they_are(server: Server, path: str, body: dict[str, Any]) -> None:
    assert ask(server, path, body)[::2] == (server.status, PREFECTS)


def test_every_answer_has_the_headers_once() -> None:
    status, headers, _ = ask(Server(), "/api/flows/f1")
    assert status == 200
    assert {name: headers[name] for name in ("x-content-type-options", "x-frame-options", "referrer-policy")} == {
        "x-content-type-options": "nosniff", "x-frame-options": "DENY", "referrer-policy": "same-origin",
    }  # fmt: skip
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["connect-src"] == "'self' ws://127.0.0.1:4200 wss://127.0.0.1:4200"
    assert policy["default-src"] == "'self'"
    assert "http" not in headers["content-security-policy"]


@pytest.mark.parametrize("host", ["", "a b", "x; script-src *", "x\r\ny"])
def test_a_host_that_is_none_does_not_reach_the_policy(host: str) -> None:
    assert security_headers(host)["Content-Security-Policy"].endswith("connect-src 'self'")


@pytest.mark.parametrize(
    ("host", "answered"),
    [
        ("127.0.0.1:4200", True), ("localhost:4200", True), ("LOCALHOST", True), ("[::1]:4200", True), ("evil.example", False),
        ("127.0.0.1.evil.example:4200", False), ("", False),
    ],
)  # fmt: skip
def test_without_a_password_foreign_names_are_refused(host: str, answered: bool) -> None:
    status, _, content = ask(Server(), "/api/flows/f1", host=host, local_only=True)
    assert status == (200 if answered else 403)
    assert answered or "it has no password. Set one with PREFECT_SERVER_API_AUTH_STRING" in content["detail"]
    assert ask(Server(), "/api/flows/f1", host=host)[0] == 200


@pytest.mark.parametrize(
    ("kind", "host", "answer"),
    [
        ("lifespan", b"", "passed"),
        ("websocket", b"127.0.0.1:4200", "passed"),
        ("websocket", b"evil.example", "websocket.close"),
    ],
)
def test_other_connections(kind: str, host: bytes, answer: str) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(
        Hardened(Server(), lambda *_: None, local_only=True)({"type": kind, "headers": [(b"host", host)]}, receive, send)
    )
    assert [message["type"] for message in sent] == [answer]
