"""Which servers on a PostgreSQL database are alive, and their notices to each other.

Each server holds an advisory lock of PostgreSQL while it runs, in a session that stays open for that. PostgreSQL
releases the lock when the session ends, however it ends. So a server is dead if nobody holds its lock.
"""

import asyncio
import json
import logging
import re
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from mcp_vega.errors import LedgerError
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.notices import Listener
from mcp_vega.storage.database.postgres.address import Address
from mcp_vega.storage.database.postgres.pinned import CLASS, GRACE_SECONDS, STARTING, Pinned

logger = logging.getLogger(__name__)

# How long `take` waits for the lock.
TAKE_SECONDS = 2.5
# PostgreSQL's limit for a notice.
PAYLOAD_BYTES = 7999
_NUMBER = re.compile("[0-9]{1,9}")

_HELD = f"""
    SELECT objid::bigint AS number FROM pg_locks
    WHERE locktype = 'advisory' AND classid = 'server_numbers'::regclass AND objsubid = 2
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND mode = 'ShareLock' AND granted
    UNION ALL ({STARTING})
"""  # noqa: S608  constants
# The lock can be taken alone only if nobody holds it. A server that connects again then waits until the transaction
# has ended.
_LOCK_IF_DEAD = f"""
    SELECT CASE WHEN :number IN ({STARTING}) THEN FALSE ELSE pg_try_advisory_xact_lock({CLASS}, :number) END AS dead
"""


@dataclass(frozen=True, eq=False)
class _Entry:
    """A listener's notices that wait for it, and its event loop."""

    topic: str
    waiting: asyncio.Queue[Mapping[str, Any] | None]
    loop: asyncio.AbstractEventLoop


class Session:
    """This server's lock and notices on a PostgreSQL server: a `Liveness`, and `Notices`.

    One connection does both. It is opened at the first use, and opened again if it breaks. A child process made by fork
    must not use this object. It keeps the lock as long as it runs, even if its parent has ended.

    Args:
        url: The URL of the database; see `Address`.
        namespace: The PostgreSQL schema of the tables; "" for the server's default.
        grace_seconds: How long no server counts as dead after a break: the others need time to connect again.
    """

    reach_others = True

    def __init__(self, url: str, namespace: str = "", grace_seconds: float = GRACE_SECONDS) -> None:
        self._pinned = Pinned(Address(url, namespace), self._receive, grace_seconds)
        self._grace_seconds = grace_seconds
        self._entries: tuple[_Entry, ...] = ()

    # ---- who is alive ----

    @property
    def me(self) -> str:
        """This server's number in the table `server_numbers`; "" before the lock is taken."""
        return "" if self._pinned.number is None else str(self._pinned.number)

    @property
    def taken(self) -> bool:
        """Whether the lock was taken, and not released since. It may be lost now and then, until it is taken again."""
        return self._pinned.started

    def take(self) -> None:
        """Take the lock, unless it is taken already; see `Liveness`.

        Raises:
            LedgerError: The lock cannot be taken.
        """
        self._pinned.start()
        self._pinned.wait(TAKE_SECONDS)

    def require_intact(self) -> None:
        """Check that others still see the lock; see `Liveness`."""
        if not self._pinned.held:
            raise LedgerError(
                "The connection to the ledger's database broke, so that other servers may believe that this server has "
                "ended",
                next_step="Call again in a few seconds: the server connects again by itself",
            )

    def alive(self, connection: Connection, /, servers: Collection[str], *, certain: bool = False) -> set[str]:
        """Return those of `servers` that are alive; see `Liveness`."""
        others = set(servers) - {self.me}
        if not others or (self._pinned.others_unknown and not certain):
            return set(servers)
        grace = 0 if certain else self._grace_seconds
        held = {str(row["number"]) for row in connection.execute(_HELD, {"grace": grace})}
        return (others & held) | (set(servers) - others)

    def servers(self) -> list[str]:
        """Return nothing: a server that wrote nothing has left nothing that must be removed."""
        return []

    @contextmanager
    def locked_if_dead(self, server: str, connection: Connection, /) -> Generator[bool]:
        """Yield whether a server is dead; see `Liveness`. A dead one cannot come back in this transaction."""
        if not _NUMBER.fullmatch(server):  # an id from another kind of database
            yield True
        elif server == self.me or self._pinned.others_unknown:
            yield False
        else:
            values = {"number": int(server), "grace": self._grace_seconds}
            (found,) = connection.execute(_LOCK_IF_DEAD, values)
            yield found["dead"]
            if found["dead"]:
                connection.execute("DELETE FROM server_numbers WHERE number = :number", values)

    def release(self) -> None:
        """Send the notices that wait, and release the lock: this server has ended."""
        self._pinned.stop()

    # ---- notices ----

    def open(self) -> None:
        """Receive notices from now on; see `Notices`. This also takes the lock, a little later."""
        self._pinned.start()

    def send(self, topic: str, content: Mapping[str, Any]) -> None:
        """Send a notice to all other servers soon. Does not wait, and does not raise if the notice cannot be sent."""
        try:
            payload = json.dumps({"topic": topic, "from": self._pinned.token, "content": content}, ensure_ascii=False)
            size = len(payload.encode())
        except (TypeError, ValueError) as error:
            logger.warning("A notice to other servers cannot be sent: %s", error)
            return
        if size > PAYLOAD_BYTES:
            logger.warning("A notice to other servers is too long: %s bytes", size)
            return
        self._pinned.start()
        self._pinned.send(payload)

    @contextmanager
    def listening(self, topic: str, listener: Listener) -> Generator[None]:
        """Call a listener with each notice of other servers on a topic, in this event loop, while the block runs."""
        entry = _Entry(topic, asyncio.Queue(), asyncio.get_running_loop())
        # In a task, so that a listener may start tasks.
        task = entry.loop.create_task(_pass_on(entry.waiting, listener))
        self._entries += (entry,)
        try:
            yield
        finally:
            self._entries = tuple(each for each in self._entries if each is not entry)
            task.cancel()

    def _receive(self, payload: str | None) -> None:
        """Pass a notice on to the listeners. Runs in the thread of the connection."""
        topic = content = None
        match _parsed(payload):
            case None:
                pass  # notices were lost, on any topic
            case {"topic": str(topic), "from": str(sender), "content": {**content}} if sender != self._pinned.token:
                pass
            case _:
                return  # this server wrote it, or another program
        for each in self._entries:
            if topic in (None, each.topic):
                with suppress(RuntimeError):  # its event loop has ended
                    each.loop.call_soon_threadsafe(each.waiting.put_nowait, content)


def _parsed(payload: str | None) -> Any:
    """Return a notice; None if notices were lost; False if another program wrote it, which may write anything."""
    try:
        return None if payload is None else json.loads(payload)
    except (ValueError, RecursionError):
        return False


async def _pass_on(waiting: asyncio.Queue[Mapping[str, Any] | None], listener: Listener) -> None:
    while True:
        notice = await waiting.get()
        try:
            listener(notice)
        except Exception:
            logger.exception("A notice of another server could not be handled")
