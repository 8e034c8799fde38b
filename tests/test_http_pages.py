"""The server over HTTP as web pages use it: requests of browsers before other requests, and what pages may read."""

import json
from typing import Any

import httpx
import pytest
from conftest import TLS, job_of
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from test_http_access import KNOWN, RT, served

from mcp_vega.server.context import AppContext
from mcp_vega.server.http.limits import HttpLimits

pytestmark = pytest.mark.anyio

PAGE = "https://pages.example"
ALLOWED = [PAGE, "http://pages.example:8080", "http://localhost:5173", "http://127.0.0.1:6274"]
FOREIGN = ["https://evil.example", "https://pages.example.evil.example", "null", "https://pages.example@evil.example"]


def preflight(origin: str, method: str = "POST", **more: str) -> dict[str, Any]:
    """The request that Chromium sends before a request of a page: no token, sorted header names in lower case."""
    asked = "authorization,content-type,mcp-method,mcp-name,mcp-protocol-version"
    headers = {
        "accept": "*/*",
        "access-control-request-method": method,
        "access-control-request-headers": asked,
        "origin": origin,
        "sec-fetch-mode": "cors",
        "sec-fetch-site": "cross-site",
        "sec-fetch-dest": "empty",
        **more,
    }
    return {"method": "OPTIONS", "headers": headers}


def may_read(answer: httpx.Response, origin: str) -> bool:
    """Whether a browser lets this page read the answer. No other page may read any of it."""
    given = {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}
    allowed = given.pop("access-control-allow-origin", None)
    assert allowed in (None, origin)
    assert "access-control-allow-credentials" not in given
    if allowed:
        assert "Origin" in answer.headers["vary"]
        exposed = given["access-control-expose-headers"].split(", ")
        assert {"Mcp-Session-Id", "WWW-Authenticate"} <= set(exposed)
    else:
        assert given == {}
    return allowed is not None


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_a_browser_learns_what_an_allowed_page_may_send(app: AppContext, transport: str) -> None:
    paths = ["/mcp"] if transport == "http" else ["/sse", "/messages/?session_id=0"]
    async with served(app, transport, "pages.example") as server:
        for path in (*paths, "/images/0", "/health"):
            for origin in ALLOWED:
                answer = await server.ask(path=path, **preflight(origin))
                assert answer.status_code == 200
                assert answer.headers["access-control-allow-origin"] == origin
                assert answer.headers["vary"].startswith("Origin")
                assert "access-control-allow-credentials" not in answer.headers
                assert "access-control-allow-private-network" not in answer.headers
                methods = answer.headers["access-control-allow-methods"].split(", ")
                assert {"GET", "POST", "DELETE"} <= set(methods)
                names = answer.headers["access-control-allow-headers"].lower().split(", ")
                assert {"authorization", "content-type", "mcp-session-id", "mcp-protocol-version"} <= set(names)
                assert {"last-event-id", "mcp-method", "mcp-name"} <= set(names)


async def test_only_allowed_pages_get_permission_to_use_this_machine(
    app: AppContext,
) -> None:
    local = {"access-control-request-private-network": "true"}
    async with served(app, "http", "pages.example") as server:
        answer = await server.ask(**preflight(PAGE, **local))
        assert answer.headers["access-control-allow-private-network"] == "true"
        for origin in FOREIGN:
            answer = await server.ask(**preflight(origin, **local))
            assert (answer.status_code, may_read(answer, origin)) == (403, False)


async def test_a_page_that_is_not_allowed_can_read_nothing(app: AppContext) -> None:
    async with served(app, "http", "pages.example") as server:
        for origin in FOREIGN:
            for method, path in (("OPTIONS", "/mcp"), ("POST", "/mcp"), ("GET", "/images/0"), ("GET", "/health")):
                sent = preflight(origin) if method == "OPTIONS" else {"headers": {**KNOWN, "origin": origin}}
                asked: dict[str, Any] = {**sent, "method": method, "path": path}
                answer = await server.ask(**asked)
                assert not may_read(answer, origin)
                assert answer.status_code == (200 if path == "/health" else 403)


PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
READABLE: dict[str, tuple[int, str, dict[str, Any]]] = {
    "up": (200, "ok", {"method": "GET", "path": "/health"}),
    "no token": (401, "(missing_token)", {}),
    "a wrong token": (401, "(invalid_token)", {"headers": {"authorization": "Bearer guessed"}}),
    "another host": (421, "(host_not_allowed)", {"headers": {**KNOWN, "host": "other.example"}}),
    "a large body": (413, "(request_too_large)", {"headers": KNOWN, "content": b"x" * 1_100_000}),
    "large headers": (413, "(request_too_large)", {"headers": {**KNOWN, "x-long": "x" * 20_000}}),
    "no picture": (404, "(unknown_image)", {"method": "GET", "path": "/images/0", "headers": KNOWN}),
    "the SDK's words": (406, "Not Acceptable", {"headers": {**KNOWN, "accept": "text/html"}, "json": PING}),
    "no such path": (404, "Not Found", {"method": "GET", "path": "/nothing", "headers": KNOWN}),
}


async def test_an_allowed_page_can_read_every_answer(app: AppContext) -> None:
    async with served(app, "http", "pages.example") as server:
        for status, words, sent in READABLE.values():
            asked: dict[str, Any] = {**sent, "headers": {**sent.get("headers", {}), "origin": PAGE}}
            answer = await server.ask(**asked)
            assert (answer.status_code, may_read(answer, PAGE)) == (status, True)
            assert words in answer.text
    async with served(app, "http", "pages.example", limits=HttpLimits(connections=0)) as full:
        answer = await full.ask(headers={**KNOWN, "origin": PAGE})
        assert (answer.status_code, may_read(answer, PAGE)) == (503, True)


async def test_an_allowed_page_can_draw_and_download_the_picture(app: AppContext) -> None:
    seen: list[httpx.Response] = []
    async with served(app, "http", "pages.example") as server:
        async with (
            create_mcp_http_client(headers={**KNOWN, "origin": PAGE}) as http,
            Client(streamable_http_client(server.endpoint, http_client=http)) as page,
        ):

            async def note(response: Any) -> None:
                seen.append(response)

            http.event_hooks["response"].append(note)
            image = job_of(await page.call_tool(RT, {"prompt": "a fox"}))["images"][0]
        answer = await server.ask("GET", f"/images/{image['id']}", headers={**KNOWN, "origin": PAGE})
        assert answer.content
        assert [may_read(each, PAGE) for each in (*seen, answer)] == [True] * (len(seen) + 1)
        assert seen


async def test_an_allowed_page_can_follow_a_session_over_sse(app: AppContext) -> None:
    async with (
        served(app, "sse", "pages.example") as server,
        httpx.AsyncClient(trust_env=False, verify=TLS, headers={**KNOWN, "origin": PAGE}) as http,
        http.stream("GET", server.endpoint) as stream,
    ):
        assert may_read(stream, PAGE)
        events = (line.removeprefix("data: ") async for line in stream.aiter_lines() if line.startswith("data: "))
        path = await anext(events)
        answer = await http.post(server.url + path, json={"jsonrpc": "2.0", "id": 7, "method": "ping"})
        assert (answer.status_code, may_read(answer, PAGE)) == (202, True)
        assert json.loads(await anext(events))["id"] == 7
