"""Tool calls over Streamable HTTP that are being answered, or were just answered. A cancellation finds its call here.

Over Streamable HTTP, `notifications/cancelled` comes in a request of its own. The SDK keeps no sessions here, so it
cannot find the call. (Over stdio and SSE it can.)
"""

import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from starlette.requests import Request

from mcp_vega.errors import VegaError
from mcp_vega.job import Job
from mcp_vega.server.client_info import owner_of

logger = logging.getLogger(__name__)

# How long an answered call is remembered: its answer and a cancellation may cross on their way.
REMEMBERED_SECONDS = 10.0
# A cancellation over another connection may arrive before its call. That happens with the TypeScript SDK if a call is
# aborted immediately. Another call with the same id does not come within this time.
OVERTAKING_SECONDS = 2.0
# How many such cancellations are remembered; there are never so many at the same time.
MOST_EARLY = 100
# How long a cancellation waits until it is written to the ledger, because its sender may repeat the call immediately.
WRITTEN_SECONDS = 2.0
# The SDK's error code for a call that is cancelled over stdio.
REQUEST_CANCELLED = -32800


class Sender(NamedTuple):
    """Distinguishes clients without an access token. The port is left out: it differs from request to request."""

    address: str | None
    user_agent: str | None

    @classmethod
    def of(cls, request: Request[Any]) -> "Sender":
        """The sender of a request."""
        return cls(request.client and request.client.host, request.headers.get("user-agent"))


@dataclass(eq=False)
class RequestInFlight:
    """A tool call that is being answered. Once it is `unwanted`, its result counts as not received.

    `take_back` writes that to the ledger for a job. `job_known` is set once the call has a job, or has ended without.
    """

    take_back: Callable[[Job], Awaitable[None]] | None = None
    sender: Sender | None = None
    job: Job | None = None
    unwanted: bool = False
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    job_known: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)

    async def begins(self, job: Job) -> None:
        """Note the job for which the call waits."""
        self.job = job
        self.job_known.set()
        if self.unwanted:
            await self.reject()

    async def reject_when_known(self) -> None:
        """As `reject`, as soon as the call's job is known or the call has ended."""
        if self.scope.cancel_called:
            await self.ended.wait()
        await self.job_known.wait()
        await self.reject()

    async def reject(self) -> None:
        """Write to the ledger that the result was not received."""
        if self.job and self.take_back:
            try:
                await self.take_back(self.job)
            except VegaError as error:
                logger.warning("A cancellation could not be written to the ledger: %s", error.what)


_CURRENT = ContextVar[RequestInFlight | None]("current request", default=None)


def current_request() -> RequestInFlight:
    """Return the tool call that is being answered; over stdio and SSE a new one, which is not kept."""
    return _CURRENT.get() or RequestInFlight()


class RequestsInFlight:
    """The requests of one server, by owner and request id. Clients choose the ids, so ids of two clients may be equal.

    `take_back` writes to the ledger that the result of a job was not received; `uptime` is a monotonic clock (s).
    """

    def __init__(self, take_back: Callable[[Job], Awaitable[None]], uptime: Callable[[], float]) -> None:
        self._take_back = take_back
        self._uptime = uptime
        self._requests: dict[tuple[str, str], list[RequestInFlight]] = {}
        self._ended: deque[tuple[float, tuple[str, str], RequestInFlight]] = deque()
        # Cancellations whose call has not come yet. It may never come.
        self._early: deque[tuple[float, tuple[str, str], Sender]] = deque(maxlen=MOST_EARLY)

    async def follow(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Middleware of the SDK's server: keeps a tool call here until shortly after its answer."""
        if ctx.method != "tools/call" or not isinstance(ctx.request, Request):
            return await call_next(ctx)
        self._forget_old()
        came = cast("Request[Any]", ctx.request)
        key, sender = (owner_of(came.scope), json.dumps(ctx.request_id)), Sender.of(came)  # 7 and "7" are two ids
        if self._was_cancelled(key, sender):
            raise MCPError(REQUEST_CANCELLED, "Request cancelled")  # before anything is begun
        request = RequestInFlight(self._take_back, sender)
        self._requests.setdefault(key, []).append(request)
        _CURRENT.set(request)
        try:
            with request.scope:
                return await call_next(ctx)
        finally:
            request.job_known.set()
            request.ended.set()
            self._ended.append((self._uptime(), key, request))
        raise MCPError(REQUEST_CANCELLED, "Request cancelled")

    def _forget_old(self) -> None:
        oldest = self._uptime() - REMEMBERED_SECONDS
        while self._ended and self._ended[0][0] < oldest:
            _, key, request = self._ended.popleft()
            self._requests[key].remove(request)
            if not self._requests[key]:
                del self._requests[key]

    def _was_cancelled(self, key: tuple[str, str], sender: Sender) -> bool:
        """Whether a cancellation came before this call. The cancellation is removed, because it means one call only."""
        for early in self._early:
            if early[1:] == (key, sender) and early[0] >= self._uptime() - OVERTAKING_SECONDS:
                self._early.remove(early)
                return True
        return False

    async def cancel(self, owner: str, request_id: str | int, sender: Sender) -> None:
        """Note that the result of a call is not wanted, and end the call if no other call can be meant.

        If a result wrongly counts as not received, the same call gets it once more: that is harmless. But if another
        client's call were ended, that client would lose its answer. Waits at most `WRITTEN_SECONDS` for the ledger.
        """
        self._forget_old()
        key = owner, json.dumps(request_id)
        known = self._requests.get(key, [])
        of_sender = [each for each in known if each.sender == sender]
        if not of_sender:
            self._early.append((self._uptime(), key, sender))
        meant = [each for each in known if not each.ended.is_set() or each in (of_sender or known)]
        for each in meant:
            each.unwanted = True
        if len(of_sender) == 1 and not of_sender[0].ended.is_set():
            of_sender[0].scope.cancel()
        with anyio.move_on_after(WRITTEN_SECONDS):
            async with anyio.create_task_group() as tasks:
                for each in meant:
                    tasks.start_soon(each.reject_when_known)
