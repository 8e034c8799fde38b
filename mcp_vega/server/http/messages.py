"""Answers or repairs the messages that the SDK cannot read: an ASGI middleware, inside of AuthMiddleware."""

import json
from contextlib import suppress
from typing import Any

from mcp_types import INVALID_REQUEST
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_vega.job import new_id
from mcp_vega.server.client_info import SESSION_ID, TEXT_ONLY_CLIENTS
from mcp_vega.server.http.cancellation.middleware import with_first
from mcp_vega.server.http.forwarded import route_of
from mcp_vega.server.stdio.messages import Outcome, read_line, refused

# No handshake has more characters.
LONGEST_HANDSHAKE = 100_000


class MessageMiddleware:
    """Reads each message as the server over stdio does. If the SDK would not answer a request, this answers an error.

    For example, in sessions of protocols before 2026 the SDK only answers 202 if an id is neither text nor a whole
    number. `path` is the beginning of the paths to which messages are sent.

    A client that gets text alone also receives a session id with its name. Before the protocol of 2026, only
    `initialize` has the client's name, but a client sends the id in each later request. There are no other sessions.
    """

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Its body must come in one message."""
        is_message = scope["type"] == "http" and route_of(scope).startswith(self._path)
        # The SDK refuses messages of any other type.
        if not is_message or not Headers(scope=scope).get("content-type", "").startswith("application/json"):
            await self._app(scope, receive, send)
            return
        first = await receive()
        match list(read_line(first.get("body", b"").decode(errors="replace"))):
            case []:
                pass  # there is no message, or a notification that the SDK refuses
            case [str(message)]:
                first["body"] = message.encode()
                if (name := _name_in(message)) in TEXT_ONLY_CLIENTS:
                    send = _with_session(send, f"{new_id()}.{name}")
            case outcomes:
                await _answer(outcomes)(scope, receive, send)
                return
        await self._app(scope, with_first(first, receive), send)


def _name_in(message: str) -> Any:
    """The client's name in a handshake; None if the message is none."""
    if len(message) > LONGEST_HANDSHAKE or '"clientInfo"' not in message:
        return None
    data = None
    with suppress(ValueError):  # a number with thousands of digits
        data = json.loads(message)
    match data:
        case {"method": "initialize", "params": {"clientInfo": {"name": str() as name}}}:
            return name
        case _:
            return None


def _with_session(send: Send, session: str) -> Send:
    async def send_on(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            MutableHeaders(scope=message)[SESSION_ID] = session
        await send(message)

    return send_on


def _answer(outcomes: list[Outcome]) -> Response:
    ids = [json.loads(each).get("id") for each in outcomes if isinstance(each, str)]
    asked = next((each for each in ids if each is not None), None)
    several = refused(INVALID_REQUEST, "The request contains several messages", asked)
    error = next((each for each in outcomes if not isinstance(each, str)), several)
    return Response(error.model_dump_json(exclude_unset=True), 400, media_type="application/json")
