"""Slots for paid calls: they limit how many calls are under way at the same time, and how many are sent in a minute.

The jobs that were begun and not sent wait for a slot. They get slots in a fair order, across all servers.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from mcp_vega.job import Job
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.sql import queries, rows


class Sending(Enum):
    """The outcome of marking a job as sent. Only after `SENT` may the call leave."""

    SENT = auto()
    NO_SLOT = auto()  # another job was quicker
    UNWANTED = auto()  # it was cancelled or is too old, so nobody expects it to be sent any more
    TAKEN = auto()  # it was sent before, another server works on it, or it has ended


@dataclass(frozen=True)
class Turns:
    """Which jobs may be sent now.

    Attributes:
        jobs: The local ids of this server's jobs that may be sent now.
        free: Whether the limits allow any job of any server to be sent now.
    """

    jobs: frozenset[str]
    free: bool


class Slots:
    """The slots, for the server `me` with its limits, within a transaction that is open already."""

    def __init__(self, connection: Connection, me: str, limits: Limits) -> None:
        self._connection = connection
        self._me = me
        self._limits = limits

    def turns(self, moment: int | None) -> Turns:
        """Return which of this server's jobs may be sent at this moment (UTC)."""
        free = self._free()
        if free <= 0:
            return Turns(frozenset(), free=False)
        values = {"free": free, "in_minute": self._calls_in_minute(), "moment": moment}
        waiting = self._connection.execute(queries.WAITING, values)
        return Turns(frozenset(row["local_id"] for row in waiting if row["holder"] == self._me), free=True)

    def take_if_none_waits(self, job: Job) -> bool:
        """Take a slot for a new job, and return True, if one is free and no other job waits for it.

        If others wait, only `turns` says which job is next: to find that out takes longer the more jobs wait.
        """
        taken = self._free() > 0 and not self._connection.execute(queries.ANY_WAITING, {"local_id": job.local_id})
        if taken:
            self._take(job)
        return taken

    def _free(self) -> int:
        """Return how many calls the limits of this server allow now."""
        free = self._limits.calls_at_once - len(self._in_use())
        if self._limits.calls_a_minute is not None:
            free = min(free, self._limits.calls_a_minute - self._calls_in_minute())
        return free

    def _calls_in_minute(self) -> int:
        (row,) = self._connection.execute(queries.CALLS_IN_MINUTE, {"time": self._connection.time})
        return row["calls"]

    def _take(self, job: Job) -> None:
        in_use = self._in_use()
        number = next(each for each in range(1, len(in_use) + 2) if each not in in_use)
        values = {"caller": job.owner or self._me, "time": self._connection.time}
        slot = {"number": number, "local_id": job.local_id, "me": self._me, "caller": values["caller"]}
        self._connection.execute(queries.TAKE_SLOT, slot)
        self._connection.execute(queries.FORGET_CALLS, values)
        self._connection.execute(queries.NOTE_CALL, values)

    def mark_sent(self, job: Job, *, begun_here: bool) -> Sending:
        """Mark a job as sent, and take a slot for it; see `JobStore.mark_sent`."""
        moment = rows.moment(job.sent)
        values: dict[str, Any] = {"local_id": job.local_id, "me": self._me, "sent": moment, "state": str(job.state)}
        values |= {"begun_here": begun_here, "time": self._connection.time}
        has_slot = self._connection.execute("SELECT number FROM slots WHERE job = :local_id", values)
        if not has_slot and self._free() <= 0:
            return self._why_never(values) or Sending.NO_SLOT
        if not self._connection.execute(queries.MARK_SENT, values):
            return self._why_never(values) or Sending.TAKEN
        if not has_slot:
            self._take(job)
        return Sending.SENT

    def _why_never(self, values: dict[str, Any]) -> Sending | None:
        """Return why this server can never send a job; None if there is no such reason."""
        (row,) = self._connection.execute(queries.WHETHER_TO_SEND, values)
        if row["holder"] != self._me or not row["open"] or row["sent"]:
            return Sending.TAKEN
        return None if values["begun_here"] or row["wanted_until"] >= values["sent"] else Sending.UNWANTED

    def _in_use(self) -> set[int]:
        return {row["number"] for row in self._connection.execute("SELECT number FROM slots")}
