"""A failure before anything was sent to the API, as at a proxy, is never charged. A later one may be charged."""

import ssl
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream
from conftest import API, HISTORY, KEY, api_that_draws, app_over, job_of, text_of
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from mcp.client import Client
from pydantic import SecretStr

from mcp_vega import errors
from mcp_vega.cli.api_client import open_client
from mcp_vega.errors import Charged
from mcp_vega.job import State
from mcp_vega.sandbox.painter import paint
from mcp_vega.segmind.api_key import ApiKey
from mcp_vega.segmind.client import Endpoints, SegmindClient
from mcp_vega.segmind.http import RetryPolicy, TimeLimits
from mcp_vega.segmind.parsing import Generation
from mcp_vega.server.app import build_server
from mcp_vega.settings import Settings
from mcp_vega.storage.ledger.spending import Limits

pytestmark = pytest.mark.anyio

ENDPOINTS = Endpoints(API, API + HISTORY)
BODY = {"prompt": "a fox", "seed": 1, "base64": False}
JPEG = paint("a fox", 1)
ONCE = RetryPolicy(retry_seconds=0)
REPEATING = RetryPolicy(first_pause=0)
TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"
STEP = "Check the proxy that HTTPS_PROXY or ALL_PROXY names"

Answer = Callable[[SocketStream], Awaitable[None]]


class Listener:
    """A server on this machine that reads the headers of a request, records them, and answers as a function says."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.port = 0
        self.heads: list[bytes] = []

    async def handle(self, stream: SocketStream) -> None:
        async with stream:
            self.heads.append(await head_of(stream))
            await self.answer(stream)


async def head_of(stream: ByteStream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive()
    return head


@asynccontextmanager
async def listening(answer: Answer) -> AsyncGenerator[Listener]:
    listener = Listener(answer)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as server, anyio.create_task_group() as tasks:
        listener.port = server.extra(SocketAttribute.local_port)  # noqa: S610  not a database
        tasks.start_soon(server.serve, listener.handle)
        yield listener
        tasks.cancel_scope.cancel()


def saying(data: bytes) -> Answer:
    """Send these bytes and close the connection."""

    async def answer(stream: SocketStream) -> None:
        if data:
            await stream.send(data)

    return answer


async def never(stream: SocketStream) -> None:  # noqa: ARG001  it never answers
    await anyio.sleep_forever()


def refusing(status: str) -> Answer:
    return saying(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno".encode())


@asynccontextmanager
async def behind(
    proxy: Listener, monkeypatch: pytest.MonkeyPatch, policy: RetryPolicy = ONCE
) -> AsyncGenerator[SegmindClient]:
    """The client as the command opens it, with a proxy in its environment."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://ada:pass-4711@127.0.0.1:{proxy.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with open_client(Settings.from_environment({"SEGMIND_API_KEY": KEY, "SEGMIND_BASE_URL": API}), policy) as it:
        yield it


# ---- a proxy that passes nothing on ----

CUT_OFF: list[tuple[str, bytes, str]] = [
    ("closes", b"", "RemoteProtocolError"),
    ("closes within its answer", b"HTTP/1.1 200 Conn", "RemoteProtocolError"),
    ("closes after its status", b"HTTP/1.1 200 OK\r\n", "RemoteProtocolError"),
    ("answers rubbish", b"\x00\x01 nothing of HTTP\r\n\r\n", "RemoteProtocolError"),
    ("answers as another protocol", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "RemoteProtocolError"),
    ("closes the tunnel", TUNNEL, "it was closed before TLS was set up"),
    (
        "opens a tunnel to no TLS",
        TUNNEL + b"HTTP/1.1 400 Bad Request\r\n\r\n",
        "it was closed before TLS was set up",
    ),
]


@pytest.mark.parametrize(("data", "name"), [each[1:] for each in CUT_OFF], ids=[each[0] for each in CUT_OFF])
async def test_if_a_proxy_breaks_off_nothing_was_sent(monkeypatch: pytest.MonkeyPatch, data: bytes, name: str) -> None:
    async with listening(saying(data)) as proxy, behind(proxy, monkeypatch) as client:
        for call in (client.generate("segmind-vega", BODY), client.submit("segmind-vega", BODY), client.credits()):
            with pytest.raises(errors.Unreachable) as caught:
                await call
            assert caught.value.charged is Charged.NO
            assert caught.value.what == f"No connection to the API could be made through the proxy: {name}"
            assert caught.value.next_step.startswith(STEP)
        assert len(proxy.heads) == 3
        assert all(head.startswith(b"CONNECT api.example:443 HTTP/1.1\r\n") for head in proxy.heads)


@pytest.mark.parametrize(
    ("status", "repeated"),
    [
        ("407 Proxy Authentication Required", False),
        ("403 Forbidden", False),
        ("302 Found", False),
        ("502 Bad Gateway", True),
        ("503 Service Unavailable", True),
    ],
)
async def test_a_proxys_refusal_is_quoted_and_retried_only_if_it_may_pass(
    monkeypatch: pytest.MonkeyPatch, status: str, *, repeated: bool
) -> None:
    for route in ("generate", "submit", "credits"):
        async with listening(refusing(status)) as proxy, behind(proxy, monkeypatch, REPEATING) as client:
            with pytest.raises(errors.Unreachable) as caught:
                await getattr(client, route)(*(() if route == "credits" else ("segmind-vega", BODY)))
        assert caught.value.charged is Charged.NO
        assert caught.value.what == f"No connection to the API could be made through the proxy: “{status}”"
        assert caught.value.next_step.startswith(STEP)
        assert len(proxy.heads) == (REPEATING.attempts if repeated else 1)


async def test_a_proxys_words_are_made_harmless_and_only_the_proxy_gets_its_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "mcp_vega")
    said = f"407 Charged: yes {KEY} \x0b” " + "x" * 500
    async with listening(saying(f"HTTP/1.1 {said}\r\n\r\n".encode())) as proxy, behind(proxy, monkeypatch) as client:
        with pytest.raises(errors.Unreachable) as caught:
            await client.generate("segmind-vega", BODY)
    assert b"Proxy-Authorization: Basic" in proxy.heads[0]
    assert len(caught.value.text.splitlines()) == 3
    assert len(caught.value.what) < 250
    assert KEY not in caught.value.text
    shown = "".join(traceback.format_exception(caught.value)) + caught.value.text + repr(caught.value) + caplog.text
    assert not any(secret in shown for secret in ("ada", "pass-4711", "YWRhOnBhc3MtNDcxMQ"))


@pytest.mark.parametrize(
    "limits", [{"drawing_read": 0.05, "read": 0.05}, {"drawing": 0.5, "asking": 0.5}, {"reaching": 0.5}]
)
async def test_if_a_proxy_hangs_nothing_was_sent(monkeypatch: pytest.MonkeyPatch, limits: dict[str, float]) -> None:
    policy = RetryPolicy(retry_seconds=0, limits=TimeLimits(**limits))
    async with listening(never) as proxy, behind(proxy, monkeypatch, policy) as client:
        client.prepare()
        for call in (client.generate("segmind-vega", BODY), client.credits()):
            with pytest.raises(errors.Unreachable, match="through the proxy: no answer in time"):
                await call


async def test_an_error_says_that_the_proxy_takes_no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Listener(never)
    gone.port = 1
    async with behind(gone, monkeypatch) as client:
        with pytest.raises(errors.Unreachable, match="through the proxy: connection refused") as caught:
            await client.generate("segmind-vega", BODY)
    assert caught.value.next_step.startswith(STEP)


async def test_a_call_that_a_proxy_refused_costs_nothing_and_is_not_spent(tmp_path: Path) -> None:
    """The limit allows a single call: if the first one counted, the second would be refused."""
    async with listening(refusing("407 Proxy Authentication Required")) as proxy:
        transport = httpx.AsyncHTTPTransport(proxy=f"http://ada:pass-4711@127.0.0.1:{proxy.port}")
        limits = Limits(Decimal("0.003"))
        async with (
            app_over(API, tmp_path, transport=transport, limits=limits) as app,
            Client(build_server(app)) as agent,
        ):
            for count in (1, 2):
                told = await agent.call_tool("generate_image_vega", {"prompt": "a fox", "seed": count})
                error, charged, step = text_of(told).splitlines()[:3]
                assert "“407 Proxy Authentication Required” (unreachable)" in error
                assert charged == "Charged: no."
                assert step.startswith(f"Next: {STEP}")
                assert not app.service.active
                assert len(proxy.heads) == count  # the history was not requested either
                assert (budget := await app.service.budget()) is not None
                assert budget.spent == 0
                (job, *_) = await app.service.store.latest(2)
                assert (job.state, job.done) == (State.FAILED, True)


# ---- other failures before the request ----


Event = tuple[str, dict[str, Any]]


class Reporting(httpx.AsyncBaseTransport):
    """A transport that reports steps as httpcore does, and then fails."""

    def __init__(self, error: Exception, *events: Event) -> None:
        self._error = error
        self._events = events

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        for name, info in self._events:
            await request.extensions["trace"](name, {"request": request, **info})
        raise self._error


def connect(host: str) -> Event:
    return "connection.connect_tcp.started", {"host": host, "port": 443}


SOCKS: Event = ("socks.connect_tcp.started", {"host": "127.0.0.1", "port": 1080})
SOCKS_SET_UP: Event = ("socks.setup_socks5_connection.started", {})
HEADERS: Event = ("http11.send_request_headers.started", {})


def over(transport: httpx.AsyncBaseTransport, **client: Any) -> SegmindClient:
    return SegmindClient(httpx.AsyncClient(transport=transport, **client), ApiKey(SecretStr(KEY)), ENDPOINTS, ONCE)


@pytest.mark.parametrize("error", [ValueError("no SOCKS"), AssertionError(), httpx.ProxyError("Invalid password")])
async def test_whatever_a_socks_proxy_does_before_the_request_nothing_was_sent(error: Exception) -> None:
    with pytest.raises(errors.Unreachable, match="through the proxy") as caught:
        await over(Reporting(error, SOCKS, SOCKS_SET_UP)).generate("segmind-vega", BODY)
    assert caught.value.next_step.startswith(STEP)


@pytest.mark.parametrize("error", [httpx.ConnectError(""), httpx.ConnectTimeout(""), httpx.ReadError("")])
async def test_a_failed_connection_to_the_api_itself_does_not_mention_a_proxy(error: Exception) -> None:
    with pytest.raises(errors.Unreachable) as caught:
        await over(Reporting(error, connect("api.example"))).generate("segmind-vega", BODY)
    assert "proxy" not in caught.value.text


@pytest.mark.parametrize(
    "error", [httpx.PoolTimeout(""), httpx.UnsupportedProtocol(""), httpx.ProxyError("502"), httpx.ConnectTimeout("")]
)
async def test_without_reported_steps_the_kind_of_failure_shows_that_nothing_was_sent(error: Exception) -> None:
    with pytest.raises(errors.Unreachable):
        await over(Reporting(error)).generate("segmind-vega", BODY)


@pytest.mark.parametrize("error", [httpx.ConnectError(""), httpx.ProxyError("502"), httpx.PoolTimeout("")])
async def test_after_the_headers_were_begun_every_failure_leaves_the_outcome_unknown(error: Exception) -> None:
    with pytest.raises(errors.OutcomeUnknown):
        await over(Reporting(error, SOCKS, SOCKS_SET_UP, HEADERS)).generate("segmind-vega", BODY)


async def test_a_request_that_cannot_be_made_is_not_charged() -> None:
    client = over(httpx.AsyncHTTPTransport())
    with pytest.raises(errors.Unreachable, match="could not be made"):
        await client.generate("segmind-vega", {**BODY, "prompt": "\ud800"})
    http = httpx.AsyncClient()
    await http.aclose()
    with pytest.raises(errors.Unreachable, match="the HTTP client is closed"):
        await SegmindClient(http, ApiKey(SecretStr(KEY)), ENDPOINTS, ONCE).generate("segmind-vega", BODY)


async def test_invalid_headers_are_never_sent() -> None:
    async with listening(never) as api:
        url = f"http://127.0.0.1:{api.port}"
        http = httpx.AsyncClient(trust_env=False, headers={"user-agent": "two\r\nlines"})
        client = SegmindClient(http, ApiKey(SecretStr(KEY)), Endpoints(url, url), ONCE)
        with pytest.raises(errors.Unreachable, match="LocalProtocolError"):
            await client.generate("segmind-vega", BODY)
        assert api.heads == []


# ---- a request that was sent ----


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 O", b"rubbish\r\n\r\n"])
async def test_if_the_api_breaks_off_after_it_got_the_call_the_outcome_is_unknown(data: bytes) -> None:
    async with listening(saying(data)) as api:
        url = f"http://127.0.0.1:{api.port}"
        async with open_client(
            Settings.from_environment({"SEGMIND_API_KEY": KEY, "SEGMIND_BASE_URL": url}), REPEATING
        ) as client:
            with pytest.raises(errors.OutcomeUnknown):
                await client.generate("segmind-vega", BODY)
        (head,) = api.heads
        assert head.startswith(b"POST ")


def certificate(folder: Path, name: str) -> ssl.SSLContext:
    """The server's side of TLS for a name, with a certificate of its own in `certificate.pem`."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signed = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (folder / "certificate.pem").write_bytes(signed.public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def tunnelling(context: ssl.SSLContext, requests: list[bytes], answer: bytes) -> Answer:
    """Act as the proxy and as the API behind it."""

    async def through(stream: SocketStream) -> None:
        await stream.send(TUNNEL)
        with anyio.move_on_after(10):
            try:
                api = await TLSStream.wrap(stream, ssl_context=context, server_side=True, standard_compatible=False)
            except (ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream):
                return
            requests.append(await head_of(api))
            if answer:
                await api.send(answer)

    return through


@pytest.mark.parametrize("whole", [True, False])
async def test_a_call_through_a_tunnel_is_sent_and_if_its_answer_is_lost_the_outcome_is_unknown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, whole: bool
) -> None:
    requests: list[bytes] = []
    head = f"HTTP/1.1 200 OK\r\ncontent-type: image/jpeg\r\ncontent-length: {len(JPEG)}\r\n\r\n".encode()
    context = certificate(tmp_path, "api.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    async with (
        listening(tunnelling(context, requests, head + JPEG if whole else b"")) as proxy,
        behind(proxy, monkeypatch, REPEATING) as client,
    ):
        if whole:
            generation = await client.generate("segmind-vega", BODY)
            assert isinstance(generation, Generation)
            assert generation.pictures == (JPEG,)
        else:
            with pytest.raises(errors.OutcomeUnknown):
                await client.generate("segmind-vega", BODY)
    assert len(requests) == 1
    assert requests[0].startswith(b"POST /v1/segmind-vega ")
    assert b"roxy-" not in requests[0]


async def test_an_unknown_certificate_stops_the_call_and_the_error_names_the_variable_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    requests: list[bytes] = []
    answer = tunnelling(certificate(tmp_path, "api.example"), requests, b"")
    async with listening(answer) as proxy, behind(proxy, monkeypatch) as client:
        with pytest.raises(errors.Unreachable) as caught:
            await client.generate("segmind-vega", BODY)
    assert "SSL_CERT_FILE" in caught.value.next_step
    assert requests == []


# ---- preparation ----


async def test_slow_work_of_the_first_call_can_be_done_in_advance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment at that time counts, which shows that the client was opened then."""
    async with listening(refusing("407 X")) as proxy, behind(proxy, monkeypatch) as client:
        client.prepare()
        monkeypatch.setenv("HTTPS_PROXY", "gopher://127.0.0.1:1")
        with pytest.raises(errors.Unreachable, match="407"):
            await client.generate("segmind-vega", BODY)


async def test_a_job_is_marked_as_sent_after_the_preparation(tmp_path: Path) -> None:
    """Otherwise, if the server were killed in between, nobody would know whether the job was sent."""
    seen: list[tuple[str, bool]] = []

    def open_http(url: str) -> None:
        seen.extend((url, job.sent is not None) for job in app.service.active)

    async with (
        app_over(API, tmp_path, transport=api_that_draws(JPEG), open_http=open_http) as app,
        Client(build_server(app)) as agent,
    ):
        job_of(await agent.call_tool("generate_image_vega", {"prompt": "a fox"}))
    assert seen == [(API, False)]


async def test_an_error_during_the_preparation_is_raised_by_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    async with behind(Listener(never), monkeypatch) as client:
        monkeypatch.setenv("HTTPS_PROXY", "gopher://ada:pass-4711@127.0.0.1:1")
        client.prepare()
        with pytest.raises(errors.Unreachable, match="an address that cannot be used") as caught:
            await client.generate("segmind-vega", BODY)
    assert "4711" not in caught.value.text
    assert caught.value.next_step.startswith("Correct the variable")
