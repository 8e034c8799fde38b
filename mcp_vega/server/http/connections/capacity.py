"""Limits the number of connections. If there is no room for a new connection, it decides which one is closed.

At first a connection has no caller. It gets one when a request on it has shown an access token. If the server asks for
no tokens, any request except a health check is enough. Connections without a caller have places of their own, so they
take no places from callers. The callers (tokens, or else addresses) share the other places: a new connection replaces
an idle connection of the caller who has the most.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from mcp_vega.server.http.limits import DEFAULT_LIMITS, HttpLimits

# The key of a request's connection in the state of an ASGI scope.
CONNECTION = "mcp_vega.connection"
# How long a stream stays in use after a call for it has come or was answered, in seconds. A call that has come may need
# this time until it begins.
SETTLING_SECONDS = 1.0


class Activity(Enum):
    """What a connection is doing."""

    WAITING = auto()  # it waits for a request
    RECEIVING = auto()  # it receives a request, which is not complete yet
    ANSWERING = auto()
    LISTENING = auto()  # its answer is a stream that waits for notifications


@dataclass(eq=False)
class Connection:
    """A connection of a client.

    Attributes:
        capacity: The `Capacity` that counts it.
        address: The address of the client.
        abort: Closes the connection immediately.
        has_unread: Whether the client has not read all of an answer yet.
        caller: The caller of the connection; None if not known yet.
        activity: What the connection is doing.
        since: When it began to do that, or when its stream was last used, by the monotonic clock (s).
        calls: The number of calls in flight whose answers go into its stream.
        in_use_until: When the stream counts as idle again, by the monotonic clock (s).
    """

    capacity: "Capacity" = field(default_factory=lambda: Capacity())  # noqa: PLW0108  it is defined below
    address: str = ""
    abort: Callable[[], None] = lambda: None
    has_unread: Callable[[], bool] = lambda: False
    caller: str | None = None
    activity: Activity = Activity.WAITING
    since: float = field(default_factory=time.monotonic)
    calls: int = 0
    in_use_until: float = 0.0

    def set_activity(self, activity: Activity) -> None:
        """Note what the connection is doing from now on."""
        self.activity = activity
        self.since = time.monotonic()

    def use_stream(self) -> None:
        """Note that a call whose answer goes into the stream has come, or was answered."""
        self.since = time.monotonic()
        self.in_use_until = self.since + SETTLING_SECONDS

    @property
    def idle(self) -> bool:
        """Whether no answer is lost if the connection is closed. No work begins before a request is complete."""
        if self.activity is Activity.ANSWERING or self.has_unread():
            return False
        return not self.calls and time.monotonic() >= self.in_use_until


def connection_of(scope: Mapping[str, Any]) -> Connection:
    """Return the connection of a request. If another server than ours accepted it, return one that is not counted."""
    return scope.get("state", {}).get(CONNECTION) or Connection()


class Capacity:
    """The places for connections, and the connections that have them."""

    def __init__(self, limits: HttpLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._connections: set[Connection] = set()

    def add(self, connection: Connection) -> None:
        """Add a connection without a caller. If there are too many, the address with the most loses its oldest one."""
        unknown = [each for each in self._connections if each.caller is None]
        self._connections.add(connection)
        if len(unknown) >= self._limits.unknown_connections:
            held = Counter(each.address for each in unknown)
            self._end_first(unknown, lambda each: (held[each.address], -each.since))

    def admit(self, connection: Connection, caller: str) -> bool:
        """Give a connection one of the callers' places; returns whether there is one.

        If all places are taken, an idle connection is closed: one of this caller, or of a caller who has more.
        """
        others = [each for each in self._connections if each.caller is not None and each is not connection]
        held = Counter(each.caller for each in others)
        give_way = set[str | None]()
        if held[caller] >= self._limits.connections_each:
            give_way = {caller}
        elif len(others) >= self._limits.connections:
            give_way = {caller, *(each for each in held if held[each] > held[caller])}
        idle = [each for each in others if each.caller in give_way and each.idle]
        # To lose a stream is worse than to lose a connection that only waits for its next request.
        ended = self._end_first(idle, lambda each: (held[each.caller], each.activity is Activity.WAITING, -each.since))
        if give_way and not ended:
            return False
        connection.caller = caller
        return True

    def remove(self, connection: Connection) -> None:
        """Free the place of a connection that has ended."""
        self._connections.discard(connection)

    def _end_first(self, connections: Iterable[Connection], rank: Callable[[Connection], Any]) -> bool:
        """Close the connection that ranks highest; returns whether there is one."""
        first = max(connections, key=rank, default=None)
        if first:
            self.remove(first)  # now, not only when the loop gets to it: others may need the place before
            first.abort()
        return first is not None
