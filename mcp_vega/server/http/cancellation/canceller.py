"""Cancels a call on the server that answers it. Servers on one ledger ask each other with notices."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup

from mcp_vega.job import new_id
from mcp_vega.server.http.cancellation.requests_in_flight import CallId, RequestsInFlight, Sender
from mcp_vega.storage.database.notices import Notices

# The topics of the notices: what to do about a call, and the answer.
TOPIC, ANSWER = "cancel", "cancelled"
# How long other servers have to answer.
ANSWER_SECONDS = 0.5
# If no server knows the call, the others are asked again after these pauses: notices are lost while the servers connect
# to the database again.
PAUSES = (1.0, 3.0)
# The steps of a cancellation: the call's result counts as not received; the call is ended; or no server knows the call,
# so it may come later.
REJECT, END, EARLY = "reject", "end", "early"


class Canceller:
    """Applies a cancellation to its call.

    First all servers note that the result is not wanted, so that the same call can join the job. The call itself is
    ended only if no other call can be meant on any server: clients may have equal ids.
    """

    def __init__(self, requests: RequestsInFlight, notices: Notices) -> None:
        self._requests = requests
        self._notices = notices
        self._tasks: TaskGroup | None = None
        # How many calls the other servers have, for each cancellation that waits for their answers.
        self._answers: dict[str, int] = {}

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[None]:
        """Work together with the other servers while the block runs, if they can be reached."""
        if not self._notices.reach_others:
            yield
            return
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                with self._notices.listening(TOPIC, self._receive), self._notices.listening(ANSWER, self._count):
                    yield
            finally:
                self._tasks = None
                tasks.cancel_scope.cancel()

    async def cancel(self, call: CallId) -> None:
        """Apply a cancellation to its call, or to a call that comes soon after it.

        Waits until the cancellation is in the ledger, but only for a while: see `RequestsInFlight.until_written`. If
        there are other servers, also waits `ANSWER_SECONDS` for them.
        """
        rejected = self._requests.reject(call)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._requests.until_written, rejected)
            elsewhere = await self._reject_elsewhere(call) if self._tasks else 0
            here = self._requests.of_sender(call)
            if not here and not elsewhere:
                self._requests.note_early(call)
                self._send(EARLY, call)
                if self._tasks:
                    self._tasks.start_soon(self._ask_again, call)
            elif len(here) + elsewhere == 1:
                self._requests.end(call)
                self._send(END, call)
            # A call may have come while this waited.
            tasks.start_soon(self._requests.until_written, self._requests.reject(call, known=rejected))

    async def _reject_elsewhere(self, call: CallId) -> int:
        """Let the other servers reject a call; returns how many calls they have that may be meant."""
        cancellation = new_id()
        self._answers[cancellation] = 0
        try:
            self._send(REJECT, call, cancellation)
            await anyio.sleep(ANSWER_SECONDS)
            return self._answers[cancellation]
        finally:
            del self._answers[cancellation]

    async def _ask_again(self, call: CallId) -> None:
        """Let the other servers reject a call that none of them knew at the first question."""
        for pause in PAUSES:
            await anyio.sleep(pause)
            self._send(REJECT, call)

    def _send(self, step: str, call: CallId, cancellation: str = "") -> None:
        if self._tasks:
            content = {"step": step, "id": cancellation, "owner": call.owner, "request_id": call.request_id}
            self._notices.send(TOPIC, {**content, "sender": [*call.sender]})

    def _count(self, notice: Mapping[str, Any] | None) -> None:
        match notice:
            case {"id": str(cancellation), "calls": int(calls)} if cancellation in self._answers:
                self._answers[cancellation] += calls
            case _:
                pass

    def _receive(self, notice: Mapping[str, Any] | None) -> None:
        """Do a step for another server."""
        match notice:
            case {
                "step": str(step),
                "id": str(cancellation),
                "owner": str(owner),
                "request_id": str(request_id),
                "sender": [str() | None as address, str() | None as user_agent],
            }:
                self._do(step, cancellation, CallId(owner, request_id, Sender(address, user_agent)))
            case _:
                pass  # a lost notice is not repeated: its call is over soon

    def _do(self, step: str, cancellation: str, call: CallId) -> None:
        calls = self._requests.of_sender(call)
        # A call that came after the first step. For the others, the answer to that step came too late.
        is_new = step == EARLY and any(not each.unwanted for each in calls)
        if step == EARLY and not calls:
            self._requests.note_early(call)
        if step == END or is_new:
            self._requests.end(call)
        if step == REJECT or is_new:
            rejected = self._requests.reject(call)
            if self._tasks and rejected:
                self._tasks.start_soon(self._requests.until_written, rejected)
        if step == REJECT and calls:
            self._notices.send(ANSWER, {"id": cancellation, "calls": len(calls)})
