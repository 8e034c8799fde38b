"""Opens the API's client."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from http.cookiejar import CookieJar, DefaultCookiePolicy
from math import inf

import httpx
from pydantic import SecretStr

from mcp_vega import __version__
from mcp_vega.errors import Unreachable
from mcp_vega.network.addresses import is_loopback
from mcp_vega.redaction import add_secret
from mcp_vega.segmind.api_key import ApiKey
from mcp_vega.segmind.client import Endpoints, SegmindClient
from mcp_vega.segmind.connection import CERTIFICATES_STEP, NO_CONNECTION
from mcp_vega.segmind.http import DEFAULT_POLICY, RetryPolicy, TimeLimits
from mcp_vega.settings import Settings

# The keys where none is needed.
SANDBOX_KEY, LOCAL_KEY = SecretStr("SG_sandbox"), SecretStr("SG_local")
# The address of the engine on this machine, for the client. Its transport knows the real one.
LOCAL_URL = "http://127.0.0.1"
LOCAL_ENDPOINTS = Endpoints(LOCAL_URL, f"{LOCAL_URL}/inference-request/request-history")
# An engine may have to be started first, and answers slowly while it loads.
LOCAL_LIMITS = TimeLimits(reaching=90, read=60, asking=120)

# Variables that name a file. It is read or written before the first connection.
TLS_FILES = ("SSL_CERT_FILE", "SSLKEYLOGFILE")


@asynccontextmanager
async def open_client(settings: Settings, policy: RetryPolicy = DEFAULT_POLICY) -> AsyncGenerator[SegmindClient]:
    """The API's client, while the block runs."""
    if settings.local:
        async with _http_over(_to_engine(settings)) as http:
            yield SegmindClient(http, key_of(settings), LOCAL_ENDPOINTS, local_policy(policy))
        return
    transport = _LazyTransport()
    async with _http_over(transport) as http:
        endpoints = Endpoints(settings.base_url, settings.request_history_url, settings.media_hosts)
        yield SegmindClient(http, key_of(settings), endpoints, policy, transport.open)


def local_policy(policy: RetryPolicy) -> RetryPolicy:
    """The policy for the engine on this machine: its requests may wait for its start, and it keeps its calls."""
    return replace(policy, limits=LOCAL_LIMITS, record_seconds=inf)


def _http_over(transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    headers = {"user-agent": f"mcp-vega/{__version__}", "accept-encoding": "gzip, deflate"}
    return httpx.AsyncClient(transport=transport, headers=headers, cookies=no_cookies())


def _to_engine(settings: Settings) -> httpx.AsyncBaseTransport:
    from mcp_vega.cli.engine.launcher import Launcher
    from mcp_vega.cli.engine.transport import LocalTransport

    return LocalTransport(Launcher(settings))


def key_of(settings: Settings) -> ApiKey:
    """The API key. If it is from a file, it is redacted in all texts from now on, whatever it looks like."""
    if settings.sandbox or settings.local:
        return ApiKey(SANDBOX_KEY if settings.sandbox else LOCAL_KEY)
    in_file = settings.api_key_file is not None
    if in_file and settings.api_key:
        add_secret(settings.api_key.get_secret_value())
    return ApiKey(settings.api_key, in_file)


def no_cookies() -> CookieJar:
    """A jar that accepts no cookie: one of the API would be sent to other hosts of its domain."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


class _LazyTransport(httpx.AsyncBaseTransport):
    """Opens an HTTP client at the first request: loading TLS certificates would delay the MCP handshake.

    The proxies of the environment are used for all hosts but this machine.
    """

    def __init__(self) -> None:
        self._clients: dict[bool, httpx.AsyncClient] = {}

    def open(self, url: str) -> None:
        """Open the client for an address before the first request. If that fails, the request raises the error."""
        with suppress(Unreachable):
            self._client(httpx.URL(url).host)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._client(request.url.host).send(request, stream=True)

    def _client(self, host: str) -> httpx.AsyncClient:
        here = is_loopback(host)
        if here not in self._clients:
            try:
                # The job service limits the calls, not this client.
                client = httpx.AsyncClient(trust_env=not here, limits=httpx.Limits(max_connections=None))
            except OSError as error:
                variable = next(
                    (name for name in TLS_FILES if error.filename == os.environ.get(name, "")), TLS_FILES[0]
                )
                file = f"the file {error.filename or ''}".strip()
                why = f"{file} that {variable} names cannot be used for TLS: {error.strerror or type(error).__name__}"
                step = CERTIFICATES_STEP if variable == TLS_FILES[0] else f"Correct {variable}, or unset it"
                raise _never_opened(why, step) from error
            except ImportError as error:
                why = "HTTPS_PROXY or ALL_PROXY names a SOCKS proxy, which needs the package socksio"
                raise _never_opened(
                    why, "Install socksio in the environment of mcp-vega, or name an HTTP proxy"
                ) from error
            except (ValueError, httpx.InvalidURL) as error:  # the error's text may hold the proxy's password
                why = "HTTPS_PROXY, ALL_PROXY or NO_PROXY holds an address that cannot be used"
                raise _never_opened(why, "Correct the variable") from error
            self._clients[here] = client
        return self._clients[here]

    async def aclose(self) -> None:
        for client in self._clients.values():
            await client.aclose()


def _never_opened(why: str, step: str) -> Unreachable:
    """The error of a request that cannot be sent with these settings of the environment."""
    error = Unreachable(f"{NO_CONNECTION}: {why}", next_step=f"{step}. Then start the server again")
    error.repeatable = False
    return error
