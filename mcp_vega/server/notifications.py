"""Notifies clients of new pictures, and of changes of jobs, by this server or another one.

A client of the 2026 protocol asks for notifications with `subscriptions/listen`. An older client is notified unasked
that the list of resources has changed, if its transport has a channel besides the answers (stdio and SSE).
"""

import logging
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourcesListChanged, ResourceUpdated
from mcp.shared.subscriptions import ServerEvent
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from mcp_vega.job import OPERATOR
from mcp_vega.jobs.changes import Change
from mcp_vega.jobs.service import JobService
from mcp_vega.server.client_info import CURRENT_CLIENT
from mcp_vega.server.resources import GALLERY

logger = logging.getLogger(__name__)

# How long to wait for a client that does not read, and how long for further pictures, in seconds.
SEND_SECONDS, TOGETHER_SECONDS = 5.0, 0.25


@dataclass
class _Connection:
    """A connection of the SDK.

    `session` is set for an older client that can be notified; `owner` is its owner. If a notification `is_due`, it is
    sent soon.
    """

    session: ServerSession | None = None
    owner: str = OPERATOR
    is_due: bool = False


class _Bus(InMemorySubscriptionBus):
    """Notifies each client only of its own jobs."""

    def __init__(self) -> None:
        super().__init__()
        self._change: Change | None = None

    @property
    def has_listeners(self) -> bool:
        """Whether a client listens."""
        return bool(self._listeners)

    def subscribe(self, listener: Callable[[ServerEvent], None]) -> Callable[[], None]:
        owner = CURRENT_CLIENT.get().owner

        def receive(event: ServerEvent) -> None:
            if self._change is None or self._change.is_shown_to(owner):
                listener(event)

        return super().subscribe(receive)

    async def publish_for(self, change: Change | None, event: ServerEvent) -> None:
        """Publish a change of a job; with None to all clients."""
        self._change = change  # the listeners are called before another change can be set
        await self.publish(event)


class Notifications:
    """Notifies the clients of every change of a job."""

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._connections: list[_Connection] = []
        # The source of the events for `subscriptions/listen`.
        self.bus = _Bus()

    @asynccontextmanager
    async def connected(self, _: Any) -> AsyncGenerator[_Connection]:
        """The SDK's lifespan. It is entered once for each connection over SSE, else once for the process."""
        connection = _Connection()
        async with anyio.create_task_group() as tasks:

            def tell(change: Change | None) -> None:
                if self.bus.has_listeners and connection is self._connections[0]:  # all connections share the bus
                    tasks.start_soon(self._publish, change)
                concerns = change is None or (change.kept and change.is_shown_to(connection.owner))
                if concerns and connection.session and not connection.is_due:
                    connection.is_due = True
                    tasks.start_soon(self._tell_soon, connection)

            self._connections.append(connection)
            try:
                with self._service.listening(tell):
                    yield connection
            finally:
                self._connections.remove(connection)
                tasks.cancel_scope.cancel()

    def note_client(self, context: ServerRequestContext[Any, Any], answer: Any) -> None:
        """Note the client of a request. At its handshake, tell an older client that it will be notified."""
        client = CURRENT_CLIENT.get()
        if context.protocol_version in MODERN_PROTOCOL_VERSIONS or not client.has_channel:
            return
        if context.method == "initialize":
            answer["capabilities"]["resources"]["listChanged"] = True
        else:
            context.lifespan_context.session = context.session
            context.lifespan_context.owner = client.owner

    async def _publish(self, change: Change | None) -> None:
        """Notify the clients that listen. If changes were missed, there may be new pictures."""
        with _logged():
            for uri in change.uris if change else ():
                await self.bus.publish_for(change, ResourceUpdated(uri=uri))
            if change is None or change.kept:
                await self.bus.publish_for(change, ResourceUpdated(uri=GALLERY))
                await self.bus.publish_for(change, ResourcesListChanged())

    async def _tell_soon(self, connection: _Connection) -> None:
        """Notify an older client once of all pictures that come soon after each other."""
        await anyio.sleep(TOGETHER_SECONDS)
        connection.is_due = False
        with _logged():
            if connection.session:
                await connection.session.send_resource_list_changed()


@contextmanager
def _logged() -> Generator[None]:
    """Give up after a while, and log errors: when a client ends, anything may be raised, and the server must go on."""
    try:
        with anyio.move_on_after(SEND_SECONDS):
            yield
    except Exception as error:  # noqa: BLE001  said above
        logger.info("A client could not be notified of a change: %s", type(error).__name__)
