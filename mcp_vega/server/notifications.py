"""Notifications to the clients of a new picture, or of a change of a job.

A client of the 2026 protocol asks for them with `subscriptions/listen`. An older one hears, unasked, that the list of
resources has changed, where its transport has a channel beside the answers: stdio and SSE.
"""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourcesListChanged, ResourceUpdated
from mcp.shared.subscriptions import ServerEvent
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_vega.job import OPERATOR, Job
from mcp_vega.jobs.service import JobService
from mcp_vega.server.client_info import CURRENT_CLIENT
from mcp_vega.server.resources import GALLERY

logger = logging.getLogger(__name__)

# How long a client that does not read is waited for, in seconds.
SEND_SECONDS = 5.0


@dataclass
class _Connection:
    """A connection of the SDK's; `session` leads to an older client that can be told, `owner` is whose it is."""

    session: ServerSession | None = None
    owner: str = OPERATOR


class _Bus(InMemorySubscriptionBus):
    """Tells each client of its own jobs alone."""

    def __init__(self) -> None:
        super().__init__()
        self._job: Job | None = None

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        owner = CURRENT_CLIENT.get().owner

        def receive(event: ServerEvent) -> None:
            if self._job is None or self._job.is_shown_to(owner):
                listener(event)

        return super().subscribe(receive)

    async def publish_for(self, job: Job, event: ServerEvent) -> None:
        """Tell of a change of a job."""
        self._job = job  # the listeners hear it before anything else can happen
        await self.publish(event)


class Notifications:
    """Tells the clients of every change of a job."""

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._connections: list[_Connection] = []
        # What `subscriptions/listen` hears.
        self.bus = _Bus()

    @asynccontextmanager
    async def connected(self, _: Any) -> AsyncGenerator[_Connection]:
        """The SDK's lifespan: entered once for each connection over SSE, else once for the process."""
        connection = _Connection()
        async with anyio.create_task_group() as tasks:

            def tell(job: Job, *, kept: bool) -> None:
                tasks.start_soon(self._tell, connection, job, kept)

            self._connections.append(connection)
            try:
                with self._service.listening(tell):
                    yield connection
            finally:
                self._connections.remove(connection)
                tasks.cancel_scope.cancel()

    def note_client(self, context: ServerRequestContext[Any, Any], answer: Any) -> None:
        """Note who asks, and tell an older client at its handshake what it will hear."""
        client = CURRENT_CLIENT.get()
        if context.protocol_version in MODERN_PROTOCOL_VERSIONS or not client.has_channel:
            return
        if context.method == "initialize":
            answer["capabilities"]["resources"]["listChanged"] = True
        else:
            context.lifespan_context.session = context.session
            context.lifespan_context.owner = client.owner

    async def _tell(self, connection: _Connection, job: Job, kept: bool) -> None:  # noqa: FBT001  started as a task
        try:
            with anyio.move_on_after(SEND_SECONDS):
                if connection is self._connections[0]:  # all share the bus
                    for uri in job.uris:
                        await self.bus.publish_for(job, ResourceUpdated(uri=uri))
                    if kept:
                        await self.bus.publish_for(job, ResourceUpdated(uri=GALLERY))
                        await self.bus.publish_for(job, ResourcesListChanged())
                if kept and connection.session and job.is_shown_to(connection.owner):
                    await connection.session.send_resource_list_changed()
        except Exception as error:  # noqa: BLE001  whatever a client's end brings, it must not end the server
            logger.info("A client could not be told of a change: %r", error)
