"""The tool calls over Streamable HTTP that are being answered, or just were, so that a cancellation finds its call.

There `notifications/cancelled` comes in a request of its own, and the SDK, which keeps no sessions here, can tell
nothing of the call that it means. (Over stdio and SSE it can.)
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

# An answer that was written may still cross a cancellation on its way.
REMEMBERED_SECONDS = 10.0
# A cancellation that comes over another connection may overtake its call: the TypeScript SDK's does, where the call is
# aborted at once. Another call with the same id does not come so soon.
OVERTAKING_SECONDS = 2.0
# How many such cancellations are remembered: more than there are at once.
MOST_EARLY = 100
# For how long a cancellation waits until the ledger knows of it; its sender may make the same call at once.
WRITTEN_SECONDS = 2.0
# What the SDK answers a call with that is cancelled over stdio.
REQUEST_CANCELLED = -32800


class Sender(NamedTuple):
    """What tells clients apart that have no access token: a client's port is another with each request."""

    address: str | None
    user_agent: str | None

    @classmethod
    def of(cls, request: Request[Any]) -> "Sender":
        """The sender of a request."""
        return cls(request.client and request.client.host, request.headers.get("user-agent"))


@dataclass(eq=False)
class RequestInFlight:
    """A tool call that is being answered. Once it is `unwanted`, its result counts as not received.

    `take_back` has that written down for a job; `job_known` is set once it has one, or has ended without.
    """

    take_back: Callable[[Job], Awaitable[None]] | None = None
    sender: Sender | None = None
    job: Job | None = None
    unwanted: bool = False
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    job_known: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)

    async def begins(self, job: Job) -> None:
        """Note which job it waits for."""
        self.job = job
        self.job_known.set()
        if self.unwanted:
            await self.reject()

    async def reject_when_known(self) -> None:
        """As `reject`, as soon as its job is known or it has ended."""
        if self.scope.cancel_called:
            await self.ended.wait()
        await self.job_known.wait()
        await self.reject()

    async def reject(self) -> None:
        """Have it written down that its result is not received."""
        if self.job and self.take_back:
            try:
                await self.take_back(self.job)
            except VegaError as error:
                logger.warning("A cancellation could not be written down: %s", error.what)


_CURRENT = ContextVar[RequestInFlight | None]("current request", default=None)


def current_request() -> RequestInFlight:
    """The tool call that is being answered; over stdio and SSE nothing here changes it."""
    return _CURRENT.get() or RequestInFlight()


class RequestsInFlight:
    """Those of one server, by owner and request id: ids are chosen by clients, and collide.

    `take_back` is to write down that the result of a job was not received; `uptime` is a clock that nobody sets (s).
    """

    def __init__(self, take_back: Callable[[Job], Awaitable[None]], uptime: Callable[[], float]) -> None:
        self._take_back = take_back
        self._uptime = uptime
        self._requests: dict[tuple[str, str], list[RequestInFlight]] = {}
        self._ended: deque[tuple[float, tuple[str, str], RequestInFlight]] = deque()
        # Cancellations whose call has not come yet, if it ever comes.
        self._early: deque[tuple[float, tuple[str, str], Sender]] = deque(maxlen=MOST_EARLY)

    async def follow(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """A middleware of the SDK's server: keeps a tool call here until shortly after its answer."""
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
        """Whether a cancellation came before its call; it means one call."""
        for early in self._early:
            if early[1:] == (key, sender) and early[0] >= self._uptime() - OVERTAKING_SECONDS:
                self._early.remove(early)
                return True
        return False

    async def cancel(self, owner: str, request_id: str | int, sender: Sender) -> None:
        """Note that the result of a call is not wanted, and end the call where it is the only one that can be meant.

        To count a result as not received costs at most that the same call gets it once more; to end a stranger's call
        would cost the stranger the answer. When this returns, the ledger knows.
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
