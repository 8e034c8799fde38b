"""The server over HTTP behind a proxy that serves it below a path, and which headers of a proxy count."""

import json
from typing import Any

import pytest
from conftest import job_of, text_of
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp_types.version import LATEST_MODERN_VERSION
from starlette.types import ASGIApp, Receive, Scope, Send
from test_http_access import ALICE, KNOWN, RT, HttpServer, served

from mcp_vega.server.context import AppContext

pytestmark = pytest.mark.anyio


class StrippingProxy:
    """A proxy that serves the server below /team/vega, and removes this prefix."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            prefix, path = "/team/vega", scope["path"]
            assert path.startswith(f"{prefix}/"), f"{path} is another application's"
            added = [(b"x-forwarded-prefix", prefix.encode()), (b"x-forwarded-proto", b"http")]
            scope = {**scope, "path": path.removeprefix(prefix), "headers": [*scope["headers"], *added]}
        await self._app(scope, receive, send)


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_behind_a_path_prefix_every_path_can_be_reached(app: AppContext, transport: str) -> None:
    async with served(app, transport, behind=StrippingProxy) as bare:
        server = HttpServer(f"{bare.url}/team/vega", transport)
        async with server.agent(ALICE) as agent:
            result = await agent.call_tool(RT, {"prompt": "a fox"})
            image = job_of(result)["images"][0]
            assert text_of(result).endswith(f"\nImage: {image['url']}")
        link = image["url"].removeprefix(server.url)
        path = f"/images/{image['id']}"
        assert link.partition("?")[0] == path
        assert (await server.ask("GET", link)).status_code == 200
        assert (await server.ask("GET", path, headers=KNOWN)).status_code == 200
        assert (await server.ask("GET", path)).status_code == 401
        assert (await server.ask("GET", "/health")).status_code == 200


async def test_behind_a_path_prefix_sse_can_send_notifications(app: AppContext) -> None:
    async with (
        served(app, "sse", behind=StrippingProxy) as server,
        Client(sse_client(f"{server.url}/team/vega/sse", headers=KNOWN), mode="legacy") as agent,
    ):
        assert agent.server_capabilities.resources
        assert agent.server_capabilities.resources.list_changed


async def url_of_a_picture(server: HttpServer, headers: dict[str, str] | list[tuple[str, str]]) -> str:
    """The URL of the picture in a result; the request has these additional headers."""
    name = {"name": RT, "arguments": {"prompt": "a fox", "seed": 7}}
    prefix = "io.modelcontextprotocol"
    meta: dict[str, Any] = {f"{prefix}/protocolVersion": LATEST_MODERN_VERSION, f"{prefix}/clientCapabilities": {}}
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**name, "_meta": meta}}
    common = {
        **KNOWN,
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": LATEST_MODERN_VERSION,
        "mcp-method": "tools/call",
        "mcp-name": RT,
    }
    more = headers if isinstance(headers, list) else [*headers.items()]
    answer = await server.ask(json=body, headers=[*common.items(), *more])
    result: dict[str, Any] = json.loads(answer.text.partition("data: ")[2] or answer.text)["result"]
    return result["_meta"]["mcp-vega/job"]["images"][0]["url"].rpartition("/images/")[0]


USELESS = [
    "//evil.example",
    "https://evil.example",
    "/vega//x",
    "/vega/../x",
    "/..",
    "/.",
    "/vega?x",
    "/vega#x",
    "/vega%2f..",
    "/vega\\x",
    "/ve ga",
    "/véga",
    "@evil.example",
    "vega",
    "/vega, /other",
    "/" + "x" * 5000,
    "/",
]


async def test_a_prefix_that_is_not_a_plain_path_is_ignored(app: AppContext) -> None:
    async with served(app, "http") as server:
        for prefix in USELESS:
            assert await url_of_a_picture(server, [("x-forwarded-prefix", prefix.encode("latin-1"))]) == server.url  # pyright: ignore[reportArgumentType]  httpx takes bytes
        two = [("x-forwarded-prefix", "/one"), ("x-forwarded-prefix", "/two")]
        assert await url_of_a_picture(server, two) == server.url
        assert await url_of_a_picture(server, {"x-forwarded-prefix": "/vega-2/~a.b/"}) == f"{server.url}/vega-2/~a.b"


async def test_a_prefix_opens_no_path_that_requires_a_token(app: AppContext) -> None:
    async with served(app, "http") as server:
        for prefix in ("/health", "/mcp", "/images/health"):
            headers = {"x-forwarded-prefix": prefix}
            assert (await server.ask("GET", "/images/0", headers=headers)).status_code == 401
            assert (await server.ask("POST", "/mcp", headers=headers)).status_code == 401
            assert (await server.ask("GET", f"{prefix}/mcp", headers=headers)).status_code == 401


async def test_a_host_that_a_proxy_forwards_is_ignored(app: AppContext) -> None:
    async with served(app, "http") as server:
        forwarded = {"x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}
        assert await url_of_a_picture(server, forwarded) == server.url


async def test_prefix_and_scheme_count_only_from_a_trusted_proxy(
    app: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"x-forwarded-prefix": "/vega", "x-forwarded-proto": "https", "x-forwarded-for": "203.0.113.9"}
    async with served(app, "http") as server:
        assert await url_of_a_picture(server, told) == f"{server.url.replace('http:', 'https:')}/vega"
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.7")
    async with served(app, "http") as server:
        assert await url_of_a_picture(server, told) == server.url
