"""Which connections there is room for, and which of them gives way to one more.

A connection is nobody's until a request on it has shown an access token, or, where none is asked for, has asked for
more than /health. Such connections have places of their own, so that they take none from callers. The callers (tokens,
or else addresses) share the others: one more connection takes the place of an idle one of the caller who has the most.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from mcp_vega.server.http.limits import DEFAULT_LIMITS, HttpLimits

# Where the state of an ASGI scope has the connection that a request came over.
CONNECTION = "mcp_vega.connection"
# For how long a stream is in use before a call that has come for it has begun, and after it was answered (s).
SETTLING_SECONDS = 1.0


class Activity(Enum):
    """What a connection is busy with."""

    WAITING = auto()  # for a request
    RECEIVING = auto()  # a request that has not come as a whole
    ANSWERING = auto()
    LISTENING = auto()  # the answer is a stream that waits for news


@dataclass(eq=False)
class Connection:
    """A connection of a client's.

    Attributes:
        capacity: What counts it.
        address: The other end's.
        abort: Ends it at once.
        has_unread: Whether its client has not taken all of an answer yet.
        caller: Whose it is; None while that is not known.
        activity: What it is busy with.
        since: Since when (s).
        calls: How many calls are in flight whose answers go into its stream.
        in_use_until: When the stream counts as idle again (s).
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

    def turn_to(self, activity: Activity) -> None:
        """Note what it is busy with from now on."""
        self.activity = activity
        self.since = time.monotonic()

    def use_stream(self) -> None:
        """Note that a call has come, or was answered, whose answer goes into its stream."""
        self.since = time.monotonic()
        self.in_use_until = self.since + SETTLING_SECONDS

    @property
    def idle(self) -> bool:
        """Whether nobody loses an answer if it ends: nothing is begun before a request has come as a whole."""
        if self.activity is Activity.ANSWERING or self.has_unread():
            return False
        return not self.calls and time.monotonic() >= self.in_use_until


def connection_of(scope: Mapping[str, Any]) -> Connection:
    """The connection that a request came over; one that nobody counts where another server than ours has it."""
    return scope.get("state", {}).get(CONNECTION) or Connection()


class Capacity:
    """The places for connections, and who has them."""

    def __init__(self, limits: HttpLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._connections: set[Connection] = set()

    def add(self, connection: Connection) -> None:
        """Take a connection that is nobody's yet; if that is one too many, the oldest of the busiest address ends."""
        unknown = [each for each in self._connections if each.caller is None]
        self._connections.add(connection)
        if len(unknown) >= self._limits.unknown_connections:
            held = Counter(each.address for each in unknown)
            self._end_first(unknown, lambda each: (held[each.address], -each.since))

    def admit(self, connection: Connection, caller: str) -> bool:
        """Give a connection one of the callers' places; returns whether there is one.

        An idle connection gives way, of this caller or of whoever has more than he has.
        """
        others = [each for each in self._connections if each.caller is not None and each is not connection]
        held = Counter(each.caller for each in others)
        give_way = set[str | None]()
        if held[caller] >= self._limits.connections_each:
            give_way = {caller}
        elif len(others) >= self._limits.connections:
            give_way = {caller, *(each for each in held if held[each] > held[caller])}
        idle = [each for each in others if each.caller in give_way and each.idle]
        # A stream is missed more than a connection that only waits for its next request.
        ended = self._end_first(idle, lambda each: (held[each.caller], each.activity is Activity.WAITING, -each.since))
        if give_way and not ended:
            return False
        connection.caller = caller
        return True

    def remove(self, connection: Connection) -> None:
        """Take back the place of a connection that has ended."""
        self._connections.discard(connection)

    def _end_first(self, connections: Iterable[Connection], rank: Callable[[Connection], Any]) -> bool:
        """End the connection that ranks highest; returns whether there is one."""
        first = max(connections, key=rank, default=None)
        if first:
            self.remove(first)  # now, and not when the loop comes to it: others may need room before
            first.abort()
        return first is not None
