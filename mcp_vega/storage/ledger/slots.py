"""Slots for paid calls: how many are under way at once and in a minute.

Those that wait are the jobs that were begun and not sent. A slot is given only to a job whose turn it is in a fair
order, whichever server it is of.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from mcp_vega.job import Job
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.ledger import queries, rows
from mcp_vega.storage.ledger.spending import Limits


class Sending(Enum):
    """What came of marking a job as sent. Its call may leave only after `SENT`."""

    SENT = auto()
    NOT_ITS_TURN = auto()
    UNWANTED = auto()  # it was begun so long ago, or cancelled, that nobody expects it to be sent any more
    TAKEN = auto()  # another server works on it, or has ended it


@dataclass(frozen=True)
class Turns:
    """Whose turn it is.

    Attributes:
        jobs: The local ids of a server's jobs that may be sent now.
        free: Whether the limits let any job be sent now, of whatever server.
    """

    jobs: frozenset[str]
    free: bool


class Slots:
    """The slots, within a transaction that is open already, as the server `me` sees them with its limits."""

    def __init__(self, connection: Connection, me: str, limits: Limits) -> None:
        self._connection = connection
        self._me = me
        self._limits = limits

    def turns(self, moment: str | None) -> Turns:
        """Whose turn it is at this moment (UTC), of this server's jobs."""
        free = self._limits.calls_at_once - len(self._in_use())
        (row,) = self._connection.execute(queries.CALLS_IN_MINUTE, {"time": self._connection.time})
        in_minute = row["calls"]
        if self._limits.calls_a_minute is not None:
            free = min(free, self._limits.calls_a_minute - in_minute)
        if free <= 0:
            return Turns(frozenset(), free=False)
        values = {"free": free, "in_minute": in_minute, "moment": moment}
        waiting = self._connection.execute(queries.WAITING, values)
        return Turns(frozenset(row["local_id"] for row in waiting if row["holder"] == self._me), free=True)

    def take(self, job: Job) -> None:
        """Take a slot for a job whose turn it is."""
        in_use = self._in_use()
        number = next(each for each in range(1, len(in_use) + 2) if each not in in_use)
        values = {"caller": job.owner or self._me, "time": self._connection.time}
        slot = {"number": number, "local_id": job.local_id, "me": self._me, "caller": values["caller"]}
        self._connection.execute(queries.TAKE_SLOT, slot)
        self._connection.execute(queries.FORGET_CALLS, values)
        self._connection.execute(queries.NOTE_CALL, values)

    def mark_sent(self, job: Job, *, begun_here: bool, out_of_turn: bool) -> Sending:
        """Mark a job as sent, with a slot for it; see `JobStore.mark_sent`."""
        moment = rows.moment(job.sent)
        values: dict[str, Any] = {"local_id": job.local_id, "me": self._me, "sent": moment, "state": str(job.state)}
        values |= {"begun_here": begun_here, "time": self._connection.time}
        has_slot = self._connection.execute("SELECT number FROM slots WHERE job = :local_id", values)
        if not has_slot:
            found = self.turns(moment)
            if job.local_id not in found.jobs and not (out_of_turn and found.free):
                return self._why_never(values) or Sending.NOT_ITS_TURN
        if not self._connection.execute(queries.MARK_SENT, values):
            return self._why_never(values) or Sending.TAKEN
        if not has_slot:
            self.take(job)
        return Sending.SENT

    def _why_never(self, values: dict[str, Any]) -> Sending | None:
        """Why a job can never be sent by this server; None where there is no such reason."""
        (row,) = self._connection.execute(queries.WHETHER_TO_SEND, values)
        if row["holder"] != self._me or not row["open"] or row["sent"]:
            return Sending.TAKEN
        return None if values["begun_here"] or row["wanted_until"] >= values["sent"] else Sending.UNWANTED

    def _in_use(self) -> set[int]:
        return {row["number"] for row in self._connection.execute("SELECT number FROM slots")}
