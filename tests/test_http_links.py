"""The server over HTTP for browsers, which send no token: links to pictures, signing in, and callers with names."""

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from conftest import LOOK_SECONDS, TLS, Sandbox, Time, app_over, begun, job_of, text_of, until
from pydantic import SecretStr
from test_http_access import ALICE, BOB, CALLERS, KNOWN, RT, HttpServer, served
from test_http_prefix import StrippingProxy

from mcp_vega.errors import InvalidSettings
from mcp_vega.job import OPERATOR
from mcp_vega.parameters import VegaRTParameters
from mcp_vega.redaction import redacted
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.callers import Caller, name_of
from mcp_vega.server.http.access.tokens import caller_with, callers_of
from mcp_vega.server.http.limits import DEFAULT_LIMITS
from mcp_vega.settings import Settings

pytestmark = pytest.mark.anyio

PAGE = {"x-mcp-vega": "1", "sec-fetch-site": "same-origin"}
DAY = 86_400
NO_PAUSE = replace(DEFAULT_LIMITS, wrong_token_seconds=0)
PAGE_KEY = "x-mcp-vega-page"
SIGN_IN, SIGN_OUT = "/gallery/sign-in", "/gallery/sign-out"
# A path where nothing is: only a request that is let in gets 404.
NOTHING = "/gallery/nothing"


def callers(*entries: str) -> list[Caller]:
    return callers_of([SecretStr(each) for each in entries])


async def link_to_a_picture(server: HttpServer, token: str = ALICE, prompt: str = "a fox") -> str:
    """The path and query of the link in a result."""
    async with server.agent(token) as agent:
        result = await agent.call_tool(RT, {"prompt": prompt})
    url: str = job_of(result)["images"][0]["url"]
    assert text_of(result).endswith(f"\nImage: {url}")
    return url.removeprefix(server.url)


async def sign_in(server: HttpServer, token: str = ALICE, **headers: str) -> httpx.Response:
    return await server.ask("POST", SIGN_IN, json={"token": token}, headers={**PAGE, **headers})


async def cookie_of(server: HttpServer, token: str = ALICE) -> dict[str, str]:
    """The headers that a browser has after signing in with a token: the cookie, and the key of the page."""
    answer = await sign_in(server, token)
    assert answer.status_code == 204
    return {"cookie": answer.headers["set-cookie"].partition(";")[0], PAGE_KEY: answer.headers[PAGE_KEY]}


def refused(answer: httpx.Response, status: int, code: str = "") -> bool:
    return answer.status_code == status and f"({code})." in answer.text


# ---- links ----


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_the_link_in_a_result_opens_its_picture_for_a_day(
    sandbox: Sandbox, tmp_path: Path, transport: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, served(app, transport) as server:
        link = await link_to_a_picture(server)
        for method in ("GET", "HEAD"):
            answer = await server.ask(method, link)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
            age = re.fullmatch("private, max-age=([0-9]+), immutable", answer.headers["cache-control"])
            assert age
            assert DAY < int(age[1]) <= DAY + 3600
            assert answer.headers["referrer-policy"] == "no-referrer"
        time.let_pass(days=1)
        answer = await server.ask("GET", link)
        kept = int(answer.headers["cache-control"].split("=")[1].split(",")[0])
        assert 0 < kept <= 3600
        time.let_pass(hours=1)
        answer = await server.ask("GET", link)
        assert refused(answer, 403, "link_expired")
        assert "Next: Ask check_job for a new link." in answer.text
        assert refused(await server.ask("GET", link.replace("signature=", "signature=x")), 403, "invalid_link")
        signature = link.rpartition("=")[2]
        assert len(signature) > 40
        assert signature not in answer.text
        assert signature not in redacted(caplog.text)


async def test_a_link_stays_the_same_for_an_hour(sandbox: Sandbox, tmp_path: Path) -> None:
    time = Time(sandbox)
    time.let_pass(seconds=3600 - time.now().timestamp() % 3600)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, served(app, "http") as server:
        first = await link_to_a_picture(server)
        (job,) = await app.service.store.latest(1)

        async def again() -> str:
            async with server.agent(ALICE) as agent:
                result = await agent.call_tool("check_job", {"request_id": job.request_id})
            return job_of(result)["images"][0]["url"].removeprefix(server.url)

        time.let_pass(minutes=50)
        assert await again() == first
        time.let_pass(minutes=10)
        assert await again() != first


OTHER = "0" * 32
# How path, expiry and signature of a link are changed, and the answer to that.
CHANGED: dict[str, tuple[str, int, str]] = {
    "another picture": ("/images/{other}?expires={expires}&signature={signature}", 403, "invalid_link"),
    "no picture": (f"/images/{OTHER}?expires={{expires}}&signature={{signature}}", 403, "invalid_link"),
    "a later end": ("{path}?expires={later}&signature={signature}", 403, "invalid_link"),
    "the end in other digits": ("{path}?expires=0{expires}&signature={signature}", 403, "invalid_link"),
    "an end that is not a number": ("{path}?expires=never&signature={signature}", 403, "invalid_link"),
    "two ends": ("{path}?expires={later}&expires={expires}&signature={signature}", 403, "invalid_link"),
    "no end": ("{path}?signature={signature}", 403, "invalid_link"),
    "another signature": ("{path}?expires={expires}&signature={changed}", 403, "invalid_link"),
    "half a signature": ("{path}?expires={expires}&signature={half}", 403, "invalid_link"),
    "a signature beyond ASCII": ("{path}?expires={expires}&signature=%ff%00é", 403, "invalid_link"),
    "no signature": ("{path}?expires={expires}", 403, "invalid_link"),
    "neither": ("{path}", 401, "missing_token"),
    "a slash more": ("{path}/?expires={expires}&signature={signature}", 401, "missing_token"),
    "a slash more at first": ("/{path}?expires={expires}&signature={signature}", 401, "missing_token"),
    "the path of MCP": ("/mcp?expires={expires}&signature={signature}", 401, "missing_token"),
    "the gallery": ("/gallery/nothing?expires={expires}&signature={signature}", 401, "missing_token"),
}


async def test_a_link_that_was_changed_opens_nothing(app: AppContext) -> None:
    async with served(app, "http") as server:
        link, other = await link_to_a_picture(server), await link_to_a_picture(server, prompt="an owl")
        path, expires, signature = re.fullmatch(r"(/images/\w+)\?expires=(\d+)&signature=([\w-]+)", link).groups()  # pyright: ignore[reportOptionalMemberAccess]
        parts = {
            "other": other.split("/")[2].partition("?")[0],
            "path": path,
            "expires": expires,
            "later": str(int(expires) + 3600),
            "signature": signature,
            "changed": ("B" if signature[0] == "A" else "A") + signature[1:],
            "half": signature[:20],
        }
        for what, (pattern, status, code) in CHANGED.items():
            answer = await server.ask("GET", pattern.format(**parts))
            assert refused(answer, status, code), (what, answer.status_code, answer.text)
        assert (await server.ask("GET", f"{path}/preview?{link.partition('?')[2]}")).status_code not in (401, 403)


# What is sent together with a valid link, and the answer.
BESIDE: list[tuple[str, dict[str, str], int]] = [
    ("POST", {}, 401),
    ("DELETE", {}, 401),
    ("GET", {"host": "evil.example"}, 421),
    ("GET", {"origin": "https://evil.example"}, 403),
    ("GET", {"authorization": "Bearer guessed"}, 401),
    ("GET", {"authorization": f"Bearer {BOB}"}, 404),
    ("GET", KNOWN, 200),
    ("GET", {"cookie": "mcp_vega=1.guessed"}, 200),
]


async def test_a_valid_link_does_not_change_how_the_rest_of_the_request_is_checked(app: AppContext) -> None:
    async with served(app, "http") as server:
        link = await link_to_a_picture(server)
        answers = [(await server.ask(method, link, headers=headers)).status_code for method, headers, _ in BESIDE]
        assert answers == [status for _, _, status in BESIDE]
        kept = (await server.ask("GET", link, headers=KNOWN)).headers["cache-control"]
        assert kept == "private, max-age=31536000, immutable", "the header opened it, not the link"


async def test_without_tokens_a_url_without_a_signature_opens_and_one_with_a_wrong_signature_does_not(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, served(app, "http", callers=()) as server:
        link = await link_to_a_picture(server)
        for path in (link, link.partition("?")[0]):
            assert (await server.ask("GET", path)).status_code == 200
        assert refused(await server.ask("GET", f"{link}x"), 403, "invalid_link")
        assert (await server.ask("GET", f"{link}x", headers=KNOWN)).status_code == 200, "the header counts alone"
        time.let_pass(hours=25)
        assert refused(await server.ask("GET", link), 403, "link_expired")
        assert (await server.ask("GET", link.partition("?")[0])).status_code == 200


async def test_neither_a_link_nor_a_cookie_shows_whose_it_is(app: AppContext) -> None:
    async with served(app, "http", callers=callers(f"alice:{ALICE}", BOB)) as server:
        for token in (ALICE, BOB):
            hashes = [hashlib.sha256(f"{before}{token}".encode()) for before in ("", "mcp-vega ")]
            secret = re.compile("|".join(["alice", token, *(each.hexdigest()[:16] for each in hashes)]))
            for said in (await link_to_a_picture(server, token), *(await cookie_of(server, token)).values()):
                assert not secret.search(said), said
                assert re.search(r"(^|=|=\d+\.)[\w-]{43}$", said)


async def test_all_servers_that_share_a_ledger_open_the_same_links(sandbox: Sandbox, tmp_path: Path) -> None:
    async with (
        app_over(sandbox.url, tmp_path) as one,
        app_over(sandbox.url, tmp_path) as other,
        served(one, "http") as here,
        served(other, "sse") as there,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(cookie_of, there)  # draws the signing key at the same time
        link = await link_to_a_picture(here)
        assert (await there.ask("GET", link)).status_code == 200


async def test_when_a_token_is_removed_its_links_and_cookies_become_invalid(app: AppContext) -> None:
    async with served(app, "http", callers=callers("alice:first", "alice:second", "bob:third")) as server:
        links = {token: await link_to_a_picture(server, token) for token in ("first", "second")}
        cookies = {token: await cookie_of(server, token) for token in ("first", "second")}
        for headers in cookies.values():
            assert (await server.ask("GET", NOTHING, headers=headers)).status_code not in (401, 403)
    async with served(app, "http", callers=callers("alice:second", "bob:first", "bob:third")) as server:
        assert refused(await server.ask("GET", links["first"]), 403, "invalid_link")
        assert (await server.ask("GET", links["second"])).status_code == 200
        # Each server has its own port, so its cookie has its own name.
        seen = [await with_cookie(server, headers) for headers in cookies.values()]
        assert [status == 401 for status in seen] == [True, False]


async def with_cookie(server: HttpServer, headers: dict[str, str]) -> int:
    """The status that another server answers with to a browser that signed in here."""
    cookie = f"mcp_vega_{urlsplit(server.url).port}={headers['cookie'].partition('=')[2]}"
    return (await server.ask("GET", NOTHING, headers={**PAGE, **headers, "cookie": cookie})).status_code


async def test_until_the_ledger_works_the_process_signs_with_a_key_of_its_own(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home, time = tmp_path / "home", Time(sandbox)
    home.write_text("a file instead of the folder")
    async with (
        app_over(sandbox.url, tmp_path / "pictures", home=home, **time.clocks) as app,
        served(app, "http") as server,
    ):
        early = await cookie_of(server)
        assert (await server.ask("GET", NOTHING, headers=early)).status_code == 404
        time.let_pass(minutes=1)
        await server.ask("GET", NOTHING, headers=early)
        assert sum("Until the ledger works again, new links" in each for each in caplog.messages) == 1
        home.unlink()
        time.let_pass(minutes=1)
        link, late = await link_to_a_picture(server), await cookie_of(server)
        assert (await server.ask("GET", NOTHING, headers=early)).status_code not in (401, 403)
        async with (
            app_over(sandbox.url, tmp_path / "pictures", home=home, **time.clocks) as other,
            served(other, "http") as there,
        ):
            assert (await there.ask("GET", link)).status_code == 200
            seen = [await with_cookie(there, each) for each in (early, late)]
            assert [status == 401 for status in seen] == [True, False]


# ---- signing in ----


async def test_a_browser_that_a_person_signed_in_with_can_look_at_the_gallery_and_nothing_else(
    app: AppContext, sandbox: Sandbox
) -> None:
    async with served(app, "http") as server:
        path = (await link_to_a_picture(server)).partition("?")[0]
        cookie = await cookie_of(server)
        for method in ("GET", "HEAD"):
            answer = await server.ask(method, path, headers=cookie)
            assert (answer.status_code, answer.headers["cache-control"]) == (
                200,
                "private, max-age=31536000, immutable",
            )
        for method, route in (("GET", NOTHING), ("DELETE", NOTHING), ("GET", "/images/0")):
            assert (await server.ask(method, route, headers={**cookie, **PAGE})).status_code == 404
        bobs = await cookie_of(server, BOB)
        assert (await server.ask("GET", path, headers=bobs)).status_code == 404
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": RT, "arguments": {"prompt": "x"}}}
        before = sandbox.paid_requests
        for route in ("/mcp", "//mcp", "/mcp/", "/%2fmcp", "/gallery%2f..%2f..%2fmcp/", "/sse", "/messages/", "/x"):
            for method in ("GET", "POST", "DELETE"):
                answer = await server.ask(method, route, json=body, headers={**cookie, "accept": "application/json"})
                listed = route.startswith("/gallery")
                assert answer.status_code == (404 if listed and method == "GET" else 403 if listed else 401), route
        for method, route in (("POST", path), ("DELETE", path), ("GET", "/gallery"), ("GET", "//gallery/nothing")):
            assert refused(await server.ask(method, route, headers={**cookie, **PAGE}), 401, "missing_token")
        assert sandbox.paid_requests == before


async def test_over_sse_a_cookie_opens_no_stream(app: AppContext) -> None:
    async with served(app, "sse") as server:
        cookie = await cookie_of(server)
        for method, route in (("GET", "/sse"), ("GET", "//sse"), ("POST", "/messages/"), ("POST", "/messages")):
            assert refused(await server.ask(method, route, headers=cookie), 401, "missing_token")
        assert (await server.ask("GET", NOTHING, headers=cookie)).status_code == 404


async def test_a_cookie_that_the_server_did_not_make_counts_as_none(sandbox: Sandbox, tmp_path: Path) -> None:
    time = Time(sandbox)
    async with app_over(sandbox.url, tmp_path, **time.clocks) as app, served(app, "http") as server:
        known = await cookie_of(server)
        good = known["cookie"]
        name, value = good.split("=")
        link = await link_to_a_picture(server)
        path, query = link.split("?")
        signature = query.rpartition("=")[2]
        expires, mac = value.split(".")
        wrong: list[Any] = [
            f"{name}={int(expires) + 1}.{mac}",
            f"{name}={value[:-1]}",
            f"{name}=",
            f"other={value}",
            f"{good}; {good}",
            f"{name}=x; {good}",
            f"{name}={query[8:18]}.{signature}",
        ]
        for cookie in wrong:
            answer = await server.ask("GET", NOTHING, headers={**known, "cookie": cookie})
            assert refused(answer, 401, "missing_token"), cookie
        several = [("cookie", good), *known.items()]
        assert (await server.ask("GET", NOTHING, headers=several)).status_code == 401  # pyright: ignore[reportArgumentType]
        for bearer, code in (("Bearer guessed", "invalid_token"), ("Basic x", "missing_token")):
            answer = await server.ask("GET", NOTHING, headers={**known, "authorization": bearer})
            assert refused(answer, 401, code)
        assert refused(await server.ask("GET", f"{path}?expires={expires}&signature={mac}"), 403, "invalid_link")
        time.let_pass(days=30, seconds=-60)
        beside = {**known, "cookie": f"theme=dark; {good}"}
        assert (await server.ask("GET", NOTHING, headers=beside)).status_code == 404
        time.let_pass(seconds=60)
        assert refused(await server.ask("GET", NOTHING, headers=known), 401, "missing_token")


async def test_a_cookie_that_another_port_receives_neither_lists_nor_changes_anything(app: AppContext) -> None:
    # Browsers send a cookie to every port of its host, so other programs on these ports may know it.
    async with served(app, "http") as server:
        path = (await link_to_a_picture(server)).partition("?")[0]
        picture = f"/gallery/pictures/{path.rpartition('/')[2]}"
        known, bobs = await cookie_of(server), await cookie_of(server, BOB)
        own: dict[str, str] = {PAGE_KEY: known["cookie"].rpartition(".")[2]}
        for key in ({}, bobs, {PAGE_KEY: ""}, {PAGE_KEY: "1"}, own):
            headers = {**PAGE, **key, "cookie": known["cookie"]}
            for method, route in (("GET", "/gallery/pictures"), ("GET", "/gallery/state"), ("DELETE", picture)):
                assert refused(await server.ask(method, route, headers=headers), 401, "missing_token"), key
        twice: Any = [*known.items(), (PAGE_KEY, known[PAGE_KEY])]
        assert refused(await server.ask("GET", picture, headers=twice), 401, "missing_token")
        assert refused(await server.ask("GET", picture, headers={PAGE_KEY: known[PAGE_KEY]}), 401, "missing_token")
        assert (await server.ask("GET", path, headers={"cookie": known["cookie"]})).status_code == 200
        assert (await server.ask("GET", picture, headers=known)).status_code == 200


async def test_the_cookie_has_the_strictest_attributes_that_the_url_allows(app: AppContext) -> None:
    async with served(app, "http") as server:
        port = urlsplit(server.url).port
        plain = (await sign_in(server)).headers["set-cookie"]
        over_tls = (await sign_in(server, **{"x-forwarded-proto": "https"})).headers["set-cookie"]
        below = (await sign_in(server, **{"x-forwarded-prefix": "/vega"})).headers["set-cookie"]
        both = {"x-forwarded-prefix": "/vega", "x-forwarded-proto": "https", "host": "localhost"}
        below_over_tls = (await sign_in(server, **both)).headers["set-cookie"]
        value = r"[0-9]+\.[\w-]{43}"
        common = "HttpOnly; Max-Age=2592000"
        assert re.fullmatch(f"mcp_vega_{port}={value}; {common}; Path=/; SameSite=lax", plain)
        assert re.fullmatch(f"__Host-mcp_vega_{port}={value}; {common}; Path=/; SameSite=lax; Secure", over_tls)
        assert re.fullmatch(f"mcp_vega_{port}={value}; {common}; Path=/vega; SameSite=lax", below)
        assert re.fullmatch(f"__Secure-mcp_vega={value}; {common}; Path=/vega; SameSite=lax; Secure", below_over_tls)
        # A cookie for TLS counts only if it came over TLS.
        for proto, status in (("https", 401), ("http", 404)):
            headers = {"cookie": plain.partition(";")[0], "x-forwarded-proto": proto}
            assert (await server.ask("GET", "/images/0", headers=headers)).status_code == status


async def test_behind_a_path_prefix_a_browser_can_sign_in_and_out(app: AppContext) -> None:
    async with (
        served(app, "http", behind=StrippingProxy) as bare,
        httpx.AsyncClient(trust_env=False, verify=TLS, base_url=f"{bare.url}/team/vega", headers=PAGE) as browser,
    ):
        assert (await browser.get(NOTHING)).status_code == 401
        browser.headers[PAGE_KEY] = (await browser.post(SIGN_IN, json={"token": ALICE})).headers[PAGE_KEY]
        assert len(browser.cookies) == 1
        assert (await browser.get(NOTHING)).status_code == 404
        assert (await browser.post("/mcp", json={})).status_code == 401
        assert (await browser.post(SIGN_OUT)).status_code == 204
        assert len(browser.cookies) == 0
        assert (await browser.get(NOTHING)).status_code == 401


BODIES: list[dict[str, Any]] = [
    {"json": {"token": "guessed"}},
    {"json": {"token": ""}},
    {"json": {"token": [ALICE]}},
    {"json": [ALICE]},
    {"content": b'{"token": "\\ud800"}'},
    {"content": b"\xff"},
    {"content": b"[" * 10_000},
    {"data": {"token": ALICE}},
    {},
]


@pytest.mark.parametrize("known", [CALLERS, ()], ids=["tokens", "no tokens"])
async def test_signing_in_with_a_wrong_token_says_so(app: AppContext, known: Sequence[Caller]) -> None:
    async with served(app, "http", callers=known, limits=NO_PAUSE) as server:
        for body in BODIES:
            answer = await server.ask("POST", SIGN_IN, headers=PAGE, **body)
            assert refused(answer, 401, "invalid_token")
            assert "set-cookie" not in answer.headers
        for token in (f"{'x' * 20_000}", " " * 20_000 + ALICE):
            assert refused(await sign_in(server, token), 413, "request_too_large")
        assert (await sign_in(server, f" {ALICE}\n")).status_code == (204 if known else 401)
        assert (await server.ask("GET", SIGN_IN, headers=KNOWN)).status_code == 405


async def test_a_wrong_token_has_to_wait_and_delays_nobody_else(app: AppContext) -> None:
    slow = replace(DEFAULT_LIMITS, wrong_token_seconds=3600)
    answered: list[int] = []
    async with served(app, "http", limits=slow) as server, anyio.create_task_group() as tasks:

        async def guess() -> None:
            with anyio.move_on_after(3600):
                answered.append((await sign_in(server, "guessed")).status_code)

        for _ in range(20):
            tasks.start_soon(guess)
        for _ in range(5):
            await cookie_of(server)
            await anyio.sleep(LOOK_SECONDS)
        assert not answered
        tasks.cancel_scope.cancel()


# The headers of a request that changes something, and whether it is allowed.
WRITES: list[tuple[dict[str, str], bool]] = [
    ({"x-mcp-vega": "1", "sec-fetch-site": "same-origin"}, True),
    ({"x-mcp-vega": "1", "sec-fetch-site": "same-origin", "origin": "{own}"}, True),
    ({"x-mcp-vega": "1", "origin": "{own}"}, True),
    ({}, False),
    ({"x-mcp-vega": "1"}, False),
    ({"x-mcp-vega": "0", "sec-fetch-site": "same-origin"}, False),
    ({"sec-fetch-site": "same-origin", "origin": "{own}"}, False),
    ({"x-mcp-vega": "1", "sec-fetch-site": "same-site", "origin": "{own}"}, False),
    ({"x-mcp-vega": "1", "sec-fetch-site": "cross-site"}, False),
    ({"x-mcp-vega": "1", "sec-fetch-site": "none", "origin": "{own}"}, False),
    ({"x-mcp-vega": "1", "origin": "http://127.0.0.1:1"}, False),
    ({"x-mcp-vega": "1", "origin": "http://127.0.0.1"}, False),
    ({"x-mcp-vega": "1", "origin": "http://localhost:1"}, False),
    ({"x-mcp-vega": "1", "sec-fetch-site": "same-origin", "origin": "https://evil.example"}, False),
    ({"x-mcp-vega": "1", "origin": "null"}, False),
]


@pytest.mark.parametrize("who", ["cookie", "header", "nobody", "no tokens"])
async def test_only_the_gallerys_own_page_can_change_anything(app: AppContext, who: str) -> None:
    async with served(app, "http", callers=() if who == "no tokens" else CALLERS) as server:
        identity = {"cookie": await cookie_of(server), "header": KNOWN}[who] if who in ("cookie", "header") else {}
        refusal = "origin_not_allowed|cross_site_request"
        for headers, allowed in WRITES:
            headers = {name: value.format(own=server.url) for name, value in headers.items()} | identity  # noqa: PLW2901
            for method in ("POST", "DELETE"):
                answer = await server.ask(method, NOTHING, headers=headers)
                if not allowed:
                    assert answer.status_code == 403, (headers, answer.text)
                    assert re.search(refusal, answer.text)
                else:
                    assert answer.status_code == (401 if who == "nobody" else 404)
            answer = await server.ask("POST", SIGN_OUT, headers=headers)
            assert answer.status_code == (204 if allowed else 403)


async def test_no_cache_keeps_an_answer_and_no_browser_another_callers_picture(app: AppContext) -> None:
    async with served(app, "http") as server:
        link = await link_to_a_picture(server)
        path = link.partition("?")[0]
        known = await cookie_of(server)
        one = f"/gallery/pictures/{path.rpartition('/')[2]}"
        for route in (
            "/gallery/pictures",
            "/gallery/state",
            one,
            NOTHING,
            "/gallery/pictures/",
            "/images/0",
            "/health",
        ):
            answer = await server.ask("GET", route, headers=known)
            assert answer.headers["cache-control"] == "no-store", route
        foreign = {**known, "origin": "https://evil.example"}
        for headers in (known, foreign, {}):
            for route in (one, path, link, "/", "/icon.png"):
                answer = await server.ask("GET", route, headers=headers)
                assert answer.headers["x-content-type-options"] == "nosniff", route
                assert answer.is_success or answer.headers["cache-control"] == "no-store", route
        for headers in (known, KNOWN):
            for route in (path, f"{path}/preview"):
                assert {"Authorization", "Cookie"} <= {
                    *(await server.ask("GET", route, headers=headers)).headers["vary"].split(", ")
                }
        assert "Cookie" not in (await server.ask("GET", link, headers=known)).headers["vary"], (
            "the link opens it for everybody"
        )


# The headers of a browser's request that reads, and whether it is answered.
READS: list[tuple[dict[str, str], bool]] = [
    ({}, True),
    ({"sec-fetch-site": "same-origin"}, True),
    ({"sec-fetch-site": "none"}, True),
    ({"sec-fetch-site": "same-site", "origin": "http://localhost:5173"}, True),
    ({"sec-fetch-site": "same-site"}, False),
    ({"sec-fetch-site": "cross-site"}, False),
    ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, False),
]


@pytest.mark.parametrize("known", [CALLERS, ()], ids=["tokens", "no tokens"])
async def test_a_page_of_another_site_cannot_start_a_search(app: AppContext, known: Sequence[Caller]) -> None:
    async with served(app, "http", callers=known) as server:
        link = await link_to_a_picture(server)
        for headers, allowed in READS:
            for method in ("GET", "HEAD"):
                answer = await server.ask(method, "/gallery/pictures?q=fox", headers={**KNOWN, **headers})
                assert answer.status_code == (200 if allowed else 403), headers
        assert (await server.ask("GET", link, headers={"sec-fetch-site": "cross-site"})).status_code == 200


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_the_page_contains_no_data_so_anybody_may_have_it(app: AppContext, transport: str) -> None:
    async with served(app, transport) as server:
        for path in ("/", "/icon.png"):
            for method in ("GET", "HEAD"):
                assert (await server.ask(method, path)).status_code not in (401, 403)
            assert (await server.ask("POST", path)).status_code == 401
            assert (await server.ask("GET", path, headers={"host": "evil.example"})).status_code == 421
        for path in ("//", "/index.html", "/icon.png/", "/gallery/", "/images/"):
            assert (await server.ask("GET", path)).status_code == 401


# ---- callers with names ----


async def test_jobs_and_pictures_stay_with_a_name_when_its_token_changes(app: AppContext) -> None:
    async with served(app, "http", callers=callers("alice:first", "bob:third")) as server:
        link = await link_to_a_picture(server, "first")
    async with served(app, "http", callers=callers("alice:first", "alice:second", "bob:third")) as server:
        for token in ("first", "second"):
            assert await seen(server, token, link) == (200, 1)
        assert await seen(server, "third", link) == (404, 0)
    async with served(app, "http", callers=callers("alice:second", "bob:first")) as server:
        assert await seen(server, "second", link) == (200, 1)
        assert await seen(server, "first", link) == (404, 0)
    async with served(app, "http", callers=callers("second")) as server:
        assert await seen(server, "second", link) == (404, 0)


async def seen(server: HttpServer, token: str, link: str) -> tuple[int, int]:
    """The status of a request for a picture with this token, and how many jobs its owner has."""
    async with server.agent(token) as agent:
        jobs = ((await agent.call_tool("check_job", {})).meta or {}).get("mcp-vega/jobs", [])
    headers = {"authorization": f"Bearer {token}"}
    return (await server.ask("GET", link.partition("?")[0], headers=headers)).status_code, len(jobs)


async def test_the_operators_token_shows_everything_with_the_paths_of_the_files(app: AppContext) -> None:
    job = await begun(app.service, VegaRTParameters(prompt="a fox"), "alice")
    job = await until(lambda: _finished(app, job.local_id))
    async with served(app, "http", callers=[caller_with("key", OPERATOR), *callers("alice:first")]) as server:
        assert await seen(server, "key", f"/images/{job.images[0].id}") == (200, 1)
        async with server.agent("key") as agent:
            told = job_of(await agent.call_tool("check_job", {"request_id": job.request_id}))["images"][0]
        assert told["path"] == str(job.images[0].path)
        assert (await server.ask("GET", told["url"].removeprefix(server.url))).status_code == 200
        assert (await server.ask("GET", "/images/0")).status_code == 401
        assert "Max-Age" not in (await sign_in(server, "key")).headers["set-cookie"], "the cookie ends with the browser"
        cookie = await cookie_of(server, "key")
        assert (await server.ask("GET", f"/images/{job.images[0].id}", headers=cookie)).status_code == 200


async def _finished(app: AppContext, local_id: str) -> Any:
    job = await app.service.get(local_id)
    return job if job.images else None


@pytest.mark.parametrize(
    ("said", "owners"),
    [
        ("alice:one, bob:two, three", ["alice", "bob", None]),
        ("alice:one,alice:two,alice:one", ["alice", "alice"]),
        (" \"alice:one\" , bob : 'two' ", ["alice", "bob"]),
        ("zoë@b.example:a:b:c", ["zoë@b.example"]),
        ("A.b+c-d_e:one", ["A.b+c-d_e"]),
    ],
)
def test_tokens_may_have_names(said: str, owners: list[str | None]) -> None:
    settings = Settings.from_environment({"MCP_VEGA_AUTH_TOKENS": said})
    found = callers_of(settings.auth_tokens)
    assert [name_of(each.owner) for each in found] == owners
    assert "one" not in repr(found)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("good, :secret", "in entry 2, the part before the first colon is not a valid name"),
        ("a b:secret", "not a valid name"),
        ("sec/ret:secret", "not a valid name"),
        (f"{'secret' * 11}:secret", "not a valid name"),
        (f"{'0a' * 16}:secret", "not a valid name"),
        (f"{'0A' * 16}:secret", "not a valid name"),
        ("alice:", "in entry 1, its token is empty"),
        ("alice:sécret", "cannot be sent"),
        ("sécret", "cannot be sent"),
        ("alice:secret,bob:secret", "in entry 2, its token already belongs to another caller"),
        ("secret,bob:secret", "another caller"),
        ("alice:secret,secret", "another caller"),
    ],
)
def test_tokens_that_are_ambiguous_are_refused_without_being_shown(said: str, why: str) -> None:
    settings = Settings.from_environment({"MCP_VEGA_AUTH_TOKENS": said})
    with pytest.raises(InvalidSettings, match="MCP_VEGA_AUTH_TOKENS cannot be used: in entry") as error:
        callers_of(settings.auth_tokens)
    assert why in error.value.text
    assert not re.search("s[eé]c", error.value.text)


def test_a_caller_without_a_name_is_known_by_a_hash() -> None:
    (caller,) = callers(ALICE)
    assert re.fullmatch("[0-9a-f]{32}", caller.owner)
    assert (name_of(caller.owner), name_of(OPERATOR), name_of("alice")) == (None, None, "alice")
