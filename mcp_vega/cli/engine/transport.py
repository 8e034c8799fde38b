"""Sends the requests of a client to the engine on this machine, whichever runs then.

The client has an address and a key that never change, while each engine has a port and a key of its own.
"""

from collections.abc import Generator
from contextlib import contextmanager

import anyio
import httpx

from mcp_vega.cli.engine.launcher import Launcher
from mcp_vega.cli.engine.registration import RunningEngine
from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.painter import OnStep
from mcp_vega.errors import InvalidSettings, OutcomeUnknown, Unreachable
from mcp_vega.job.free import drawing_lost
from mcp_vega.parameters import Parameters

# How long a request is tried again if the engine that runs accepts no connection: it may just be ending.
ENDING_SECONDS = 20.0
PAUSE_SECONDS = 0.05
# How long after its end of a connection an engine counts as running, if it does not register its own end (s).
DYING_SECONDS = 2.0
_NOT_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout)


class LocalTransport(httpx.AsyncBaseTransport):
    """Sends each request to the running engine, with its key.

    A call to draw starts an engine if there is none. Any other request is about earlier calls, and no engine is worth
    a start for it: it gets the answer of an engine that has just started.

    Its requests raise an `Unreachable` if there is no engine, and a `GenerationFailed` if the engine ends before it has
    drawn. Each answer is complete when it arrives.
    """

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        # A connection for each request: one that an ended engine has left open would lose a call.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncHTTPTransport(verify=False, trust_env=False, limits=limits)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and receive the whole answer."""
        draws = request.method == "POST"
        deadline = anyio.current_time() + ENDING_SECONDS
        while True:
            with _as_unreachable():
                engine = await (self._launcher.running_or_started() if draws else self._launcher.running_or_coming())
            if engine is None:
                return await _answer_of_new_engine(request)
            try:
                return await self._received(_for_engine(request, engine))
            except _NOT_CONNECTED as error:
                if anyio.current_time() > deadline:
                    raise self._refused(engine) from error
            except httpx.TransportError as error:
                if draws and await self._has_ended(engine):
                    raise drawing_lost() from error
                if draws and isinstance(error, httpx.ReadTimeout):
                    raise _silent(engine) from error
                raise
            await anyio.sleep(PAUSE_SECONDS)

    async def _received(self, request: httpx.Request) -> httpx.Response:
        response = await self._http.handle_async_request(request)
        try:
            body = await response.aread()
        finally:
            await response.aclose()
        return httpx.Response(response.status_code, headers=response.headers, stream=httpx.ByteStream(body))

    async def _has_ended(self, engine: RunningEngine) -> bool:
        """Whether an engine that has just lost a connection is not this user's engine any more."""
        with _as_unreachable(), anyio.move_on_after(DYING_SECONDS):
            while await self._launcher.running() == engine:  # noqa: ASYNC110  another process, so there is no event
                await anyio.sleep(PAUSE_SECONDS)
            return True
        return False

    def _refused(self, engine: RunningEngine) -> Unreachable:
        what = f"The engine on this machine (process {engine.pid}) accepts no connection at {engine.url}"
        return _unreachable(what, f"End that process, then call again; its log is {self._launcher.log}")

    async def aclose(self) -> None:
        """Close what is open."""
        await self._http.aclose()


def _silent(engine: RunningEngine) -> OutcomeUnknown:
    """The error of a call that an engine has taken and does not answer. It may still draw it."""
    what = f"The engine on this machine (process {engine.pid}) does not answer; if it hangs, end that process"
    return OutcomeUnknown(what)


def _for_engine(request: httpx.Request, engine: RunningEngine) -> httpx.Request:
    """The same request, to an engine and with its key."""
    url = httpx.URL(engine.url)
    headers = request.headers.copy()
    headers["host"], headers["x-api-key"] = url.netloc.decode(), engine.key
    address = request.url.copy_with(scheme=url.scheme, host=url.host, port=url.port)
    return httpx.Request(request.method, address, headers=headers, stream=request.stream, extensions=request.extensions)


@contextmanager
def _as_unreachable() -> Generator[None]:
    """Turn the reasons why there is no engine into the client's error: nothing was sent."""
    try:
        yield
    except (EngineError, InvalidSettings) as error:
        raise _unreachable(error.what, error.next_step) from error


def _unreachable(what: str, next_step: str) -> Unreachable:
    error = Unreachable(what, next_step=next_step)
    error.repeatable = False
    return error


# ---- without an engine ----


class _NoPainter:
    """The painter of an engine that gets no call to draw."""

    at_once, name = 1, ""

    async def load(self) -> None:
        """Do nothing."""

    async def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:  # noqa: ARG002  inherited
        """Draw nothing: then the engine fails the call."""
        return []

    async def close(self) -> None:
        """Do nothing."""


async def _answer_of_new_engine(request: httpx.Request) -> httpx.Response:
    from mcp_vega.engine.app import build_engine
    from mcp_vega.engine.drawings import Drawings

    transport = httpx.ASGITransport(build_engine(Drawings(_NoPainter())))
    return await transport.handle_async_request(request)
