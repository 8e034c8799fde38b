"""Tool calls over Streamable HTTP that are being answered, or were just answered. A cancellation finds its call here.

Over Streamable HTTP, `notifications/cancelled` comes in a request of its own. The SDK keeps no sessions here, so it
cannot find the call. (Over stdio and SSE it can.)
"""

import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
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


class CallId(NamedTuple):
    """Names a call, as far as a cancellation can. Clients choose the ids, so ids of two clients may be equal."""

    owner: str
    request_id: str  # as JSON: 7 and "7" are two ids
    sender: Sender

    @classmethod
    def of(cls, request: Request[Any], request_id: str | int | None) -> "CallId":
        """The name of a call with this id that comes, or came, from the sender of a request."""
        return cls(owner_of(request.scope), json.dumps(request_id), Sender.of(request))

    @property
    def key(self) -> tuple[str, str]:
        """The part that is the same whatever way the request took."""
        return self.owner, self.request_id


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
    """The requests of one server, by owner and request id.

    `take_back` writes to the ledger that the result of a job was not received; `uptime` is a monotonic clock (s).
    """

    def __init__(self, take_back: Callable[[Job], Awaitable[None]], uptime: Callable[[], float]) -> None:
        self._take_back = take_back
        self._uptime = uptime
        self._requests: dict[tuple[str, str], list[RequestInFlight]] = {}
        self._ended: deque[tuple[float, tuple[str, str], RequestInFlight]] = deque()
        # Cancellations whose call has not come yet. It may never come.
        self._early: deque[tuple[float, CallId]] = deque(maxlen=MOST_EARLY)

    async def follow(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Middleware of the SDK's server: keeps a tool call here until shortly after its answer."""
        if ctx.method != "tools/call" or not isinstance(ctx.request, Request):
            return await call_next(ctx)
        self._forget_old()
        call = CallId.of(cast("Request[Any]", ctx.request), ctx.request_id)
        if self._was_cancelled(call):
            raise MCPError(REQUEST_CANCELLED, "Request cancelled")  # before anything is begun
        request = RequestInFlight(self._take_back, call.sender)
        self._requests.setdefault(call.key, []).append(request)
        _CURRENT.set(request)
        try:
            with request.scope:
                return await call_next(ctx)
        finally:
            request.job_known.set()
            request.ended.set()
            self._ended.append((self._uptime(), call.key, request))
        raise MCPError(REQUEST_CANCELLED, "Request cancelled")

    def _forget_old(self) -> None:
        oldest = self._uptime() - REMEMBERED_SECONDS
        while self._ended and self._ended[0][0] < oldest:
            _, key, request = self._ended.popleft()
            self._requests[key].remove(request)
            if not self._requests[key]:
                del self._requests[key]

    def _was_cancelled(self, call: CallId) -> bool:
        """Whether a cancellation came before this call. The cancellation is removed, because it means one call only."""
        for early in self._early:
            if early[1] == call and early[0] >= self._uptime() - OVERTAKING_SECONDS:
                self._early.remove(early)
                return True
        return False

    def of_sender(self, call: CallId) -> list[RequestInFlight]:
        """The calls that are most likely meant: they come from the sender of the cancellation."""
        self._forget_old()
        return [each for each in self._requests.get(call.key, []) if each.sender == call.sender]

    def reject(self, call: CallId, known: Sequence[RequestInFlight] = ()) -> list[RequestInFlight]:
        """Note that the result of a call is not wanted; returns all calls that may be meant, without the `known` ones.

        If a result wrongly counts as not received, the same call gets it once more: that is harmless.
        """
        of_sender = self.of_sender(call)
        every = self._requests.get(call.key, [])
        meant = [each for each in every if not each.ended.is_set() or each in (of_sender or every)]
        for each in meant:
            each.unwanted = True
        return [each for each in meant if each not in known]

    def end(self, call: CallId) -> None:
        """End a call if no other call can be meant: another client would lose its answer."""
        of_sender = self.of_sender(call)
        if len(of_sender) == 1 and not of_sender[0].ended.is_set():
            of_sender[0].scope.cancel()

    def note_early(self, call: CallId) -> None:
        """Note a cancellation whose call may come later."""
        self._early.append((self._uptime(), call))

    async def until_written(self, rejected: Sequence[RequestInFlight]) -> None:
        """Wait until the ledger knows that these calls were rejected, at most `WRITTEN_SECONDS`."""
        with anyio.move_on_after(WRITTEN_SECONDS):
            async with anyio.create_task_group() as tasks:
                for each in rejected:
                    tasks.start_soon(each.reject_when_known)
