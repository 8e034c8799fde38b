"""The connection that shows that this server is alive, and that carries notices. A thread of its own owns it."""

import logging
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing, suppress
from time import monotonic

import psycopg

from mcp_vega.errors import LedgerError
from mcp_vega.job import new_id
from mcp_vega.storage.database.postgres.address import Address
from mcp_vega.storage.database.postgres.connection import STARTED, PostgresConnection
from mcp_vega.storage.database.postgres.creation import make_own_tables
from mcp_vega.storage.database.postgres.errors import explained, is_away

logger = logging.getLogger(__name__)

# The pause before the next try to connect doubles from the first to the last.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
# After a break, all servers connect again. Until then, those that have not done so yet are not dead.
GRACE_SECONDS = 5.0
# How long `stop` waits for this thread, and how often an idle connection is checked.
END_SECONDS, LOOK_SECONDS = 3.0, 1.0
# How many notices wait while the database is away, and how many are sent at a time.
WAITING_NOTICES, BATCH = 5_000, 500

# The key of a server's lock: the table's number, as a signed integer, and the server's. Locks with a key of two numbers
# are those of this package's servers alone, because no other program takes the number of this table.
CLASS = """(
    SELECT (oid - CASE WHEN oid > 2147483647 THEN 4294967296 ELSE 0 END)::int
    FROM (SELECT 'server_numbers'::regclass::oid::bigint AS oid) AS numbers
)"""
# The servers that may not have connected again yet since the database started.
STARTING = f"""
    SELECT number FROM server_numbers
    WHERE started < {STARTED} AND {STARTED} > clock_timestamp() - make_interval(secs => :grace)
"""  # noqa: S608  constants
_NEW_NUMBER = "INSERT INTO server_numbers (token) VALUES (:token) ON CONFLICT DO NOTHING RETURNING number"
# Another server deletes the row of a server that it believes to be dead. A database that was restored from a backup may
# have given the number to another server.
_OLD_NUMBER = """
    INSERT INTO server_numbers (number, token) VALUES (:number, :token)
    ON CONFLICT (number) DO UPDATE SET token = excluded.token WHERE server_numbers.token = excluded.token
    RETURNING number
"""
_LOCK = f"SELECT pg_advisory_lock_shared({CLASS}, :number), 'server_numbers'::regclass::oid::bigint AS oid"
# A notice that says only that other notices were lost.
SOME_LOST = "null"
_NOTIFY = "SELECT pg_notify(:channel, payload) FROM jsonb_array_elements_text(:payloads::jsonb) AS payload"


class Pinned:
    """Holds this server's lock and its channel. After a break, the thread connects again and takes the same lock.

    Args:
        address: The database.
        receive: Called in the thread with each notice of any server, and with None each time it has connected.
        grace_seconds: How long after a break to wait for servers that have not connected again.
    """

    def __init__(self, address: Address, receive: Callable[[str | None], None], grace_seconds: float) -> None:
        self._address = address
        self._grace_seconds = grace_seconds
        self._receive = receive
        self.token = new_id()
        self.number: int | None = None
        self._changed = threading.Condition()
        self._held = False  # the following change only with `_changed`
        self._thread: threading.Thread | None = None
        self._queue = deque[str](maxlen=WAITING_NOTICES)
        self._some_lost = False
        self._channel = ""
        self._problem: Exception | None = None
        self._restored = float("-inf")  # when the lock was taken again after a break, by `monotonic`
        self._ending = False
        self._bell: socket.socket | None = None  # a byte in it wakes the thread

    @property
    def started(self) -> bool:
        """Whether the thread was started, and not stopped since."""
        return self._thread is not None

    @property
    def held(self) -> bool:
        """Whether the lock is held."""
        return self._held

    @property
    def others_unknown(self) -> bool:
        """Whether other servers may not have connected again yet, after a break that this server has noticed."""
        return self.started and not (self._held and self._restored + self._grace_seconds < monotonic())

    def start(self) -> None:
        """Start the thread, unless it runs already."""
        with self._changed:
            if self._thread is None:
                self._ending = False
                self._thread = threading.Thread(target=self._run, name="ledger-session", daemon=True)
                self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until the lock is held.

        Raises:
            LedgerError: It is not held by then.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._held or (self._problem and not is_away(self._problem)), seconds)
            if self._held:
                return
        problem = explained(self._address, self._problem or TimeoutError("it does not answer"))
        if not isinstance(problem, LedgerError):
            problem = LedgerError(str(problem))
            problem.public = "The ledger's database cannot be used"
        raise problem

    def send(self, payload: str) -> None:
        """Send a notice soon. If too many wait, the oldest is lost, and the other servers learn that."""
        with self._changed:
            self._some_lost = self._some_lost or len(self._queue) == WAITING_NOTICES
            self._queue.append(payload)
        self._ring()

    def stop(self) -> None:
        """Send the notices that wait, release the lock, close the connection and end the thread."""
        with self._changed:
            self._ending = True
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        self._ring()
        if thread:
            thread.join(END_SECONDS)

    def _ring(self) -> None:
        if bell := self._bell:
            with suppress(OSError):  # enough bytes are in it, or the thread has just ended
                bell.send(b".")

    # ---- in the thread ----

    def _run(self) -> None:
        self._bell, wake = socket.socketpair()
        self._bell.settimeout(0)
        wake.settimeout(0)
        with closing(self._bell), closing(wake):
            pause = FIRST_PAUSE
            while not self._ending:
                try:
                    with closing(PostgresConnection(self._address)) as connection:
                        self._take_lock(connection)
                        pause = FIRST_PAUSE
                        self._hold_lock(connection, wake)
                except Exception as error:  # noqa: BLE001  tried again
                    self._report(error)
                    with self._changed:
                        self._held, self._problem = False, error
                        self._changed.notify_all()
                        self._changed.wait_for(lambda: self._ending, pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
            self._bell = None
        with self._changed:
            self._held, self.number, self._problem = False, None, None

    def _take_lock(self, connection: PostgresConnection) -> None:
        make_own_tables(connection)
        number = self._numbered(connection)
        (found,) = connection.execute(_LOCK, {"number": number})
        self._channel = f"mcp_vega_{found['oid']}"
        connection.execute(f"LISTEN {self._channel}")
        connection.execute("SET synchronous_commit = off")  # notices need not be safe on the disk
        # A server may close sessions that are idle for long.
        connection.execute("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'idle_session_timeout'")
        connection.raw.add_notify_handler(lambda notice: self._receive(notice.payload))
        with self._changed:
            again, self.number, self._problem = self.number is not None, number, None
            if again:
                logger.warning("The connection to the ledger's database is back")
                self._restored = monotonic()
            self._held = True
            self._changed.notify_all()
        self._receive(None)

    def _numbered(self, connection: PostgresConnection) -> int:
        """Return this server's number: the same as before, unless another server has it."""
        values = {"token": self.token, "number": self.number}
        found = connection.execute(_OLD_NUMBER, values) if self.number is not None else []
        while not found:  # a number that is in use already is skipped
            found = connection.execute(_NEW_NUMBER, values)
        return found[0]["number"]

    def _hold_lock(self, connection: PostgresConnection, wake: socket.socket) -> None:
        """Send and receive notices until the end."""
        raw = connection.raw
        with selectors.DefaultSelector() as selector:
            selector.register(raw.fileno(), selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while True:
                self._send_all(connection)
                if self._ending:
                    connection.execute("DELETE FROM server_numbers WHERE token = :token", {"token": self.token})
                    return
                selector.select(LOOK_SECONDS)
                with suppress(BlockingIOError):
                    wake.recv(4096)
                raw.pgconn.consume_input()
                while notice := raw.pgconn.notifies():
                    self._receive(notice.extra.decode(errors="replace"))

    def _send_all(self, connection: PostgresConnection) -> None:
        while self._queue:
            with self._changed:
                batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                lost, self._some_lost = self._some_lost, False
            payloads = [SOME_LOST, *batch] if lost else batch
            try:
                connection.execute(_NOTIFY, {"channel": self._channel, "payloads": payloads})
            except psycopg.Error as error:
                if not connection.broken:
                    logger.warning("%s notices to other servers were lost: %s", len(batch), error)
                    self._some_lost = True
                    continue
                with self._changed:
                    waiting = [*batch, *self._queue]
                    self._some_lost = lost or len(waiting) > WAITING_NOTICES
                    self._queue = deque(waiting, WAITING_NOTICES)
                raise

    def _report(self, error: Exception) -> None:
        if self._held:
            problem = explained(self._address, error)
            logger.warning("The connection to the ledger's database broke, and is opened again: %s", problem)
