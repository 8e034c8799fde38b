"""Slots for paid calls: they limit how many calls are under way at the same time, and how many are sent in a minute.

The jobs that were begun and not sent wait for a slot. They get slots in a fair order, across all servers.
"""

import random
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any

from mcp_vega.job import Job
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.sql import limit_queries


class Sending(Enum):
    """The outcome of marking a job as sent. Only after `SENT` may the call leave."""

    SENT = auto()
    NO_SLOT = auto()  # another job was quicker
    UNWANTED = auto()  # it was cancelled or is too old, so nobody expects it to be sent any more
    TAKEN = auto()  # it was sent before, another server works on it, or it has ended
    LOST = auto()  # the ledger lost it in a crash of its database


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
    """The slots, for the server `me` with its limits, within a transaction that is open already.

    The slots have numbers from 1 to `calls_at_once`, and each number is given only once. So transactions that take
    slots at the same time need a lock only to count the calls of a minute.
    """

    def __init__(self, connection: Connection, me: str, limits: Limits) -> None:
        self._connection = connection
        self._me = me
        self._limits = limits

    def turns(self, moment: datetime) -> Turns:
        """Return which of this server's jobs may be sent at this moment (UTC)."""
        free = len(self._free_numbers())
        in_minute = self._calls_in_minute() if free else 0
        if self._limits.calls_a_minute is not None:
            free = min(free, self._limits.calls_a_minute - in_minute)
        if free <= 0:
            return Turns(frozenset(), free=False)
        values = {"free": free, "in_minute": in_minute, "moment": moment}
        waiting = self._connection.execute(limit_queries.WAITING, values)
        return Turns(frozenset(row["local_id"] for row in waiting if row["holder"] == self._me), free=True)

    def take_if_none_waits(self, job: Job) -> bool:
        """Take a slot for a new job, and return True, if one is free and no other job waits for it.

        If others wait, only `turns` says which job is next: to find that out takes longer the more jobs wait.
        """
        return not self._connection.execute(limit_queries.ANY_WAITING, {"local_id": job.local_id}) and self._take(job)

    def _take(self, job: Job) -> bool:
        """Take a slot for a job, if the limits allow it."""
        most = self._limits.calls_a_minute
        if most is not None:
            # Held until the transaction ends, so that no two calls are counted as the last one of a minute.
            self._connection.lock("calls")
            if self._calls_in_minute() >= most:
                return False
        caller = job.owner or self._me
        slot = {"local_id": job.local_id, "me": self._me, "caller": caller}
        while numbers := self._free_numbers():
            # Transactions that take slots at the same time rarely draw the same number.
            number = random.choice(numbers)  # noqa: S311  no secret
            if self._connection.execute(limit_queries.TAKE_SLOT, {**slot, "number": number}):
                if not job.is_free:  # the API's rate limit is not about it
                    self._note_call(caller, forget=number == 1)
                return True
        return False

    def _free_numbers(self) -> list[int]:
        """Return the numbers of the slots that this server may take."""
        in_use = {row["number"] for row in self._connection.execute(limit_queries.SLOTS)}
        most = self._limits.calls_at_once
        return [number for number in range(1, most + 1) if number not in in_use] if len(in_use) < most else []

    def _calls_in_minute(self) -> int:
        (row,) = self._connection.execute(limit_queries.CALLS_IN_MINUTE, {"time": self._connection.time})
        return row["calls"]

    def _note_call(self, caller: str, *, forget: bool) -> None:
        values = {"caller": caller, "time": self._connection.time}
        if forget:  # now and then is enough
            self._connection.execute(limit_queries.FORGET_CALLS, values)
        self._connection.execute(limit_queries.NOTE_CALL, values)

    def mark_sent(self, job: Job, *, begun_here: bool) -> tuple[Sending, int]:
        """Mark a job as sent, and take a slot for it if it has none; see `JobStore.mark_sent`.

        Returns:
            The outcome; and the amount that is reserved for a job that is sent, in billionths of a US dollar.
        """
        values: dict[str, Any] = {"local_id": job.local_id, "me": self._me, "sent": job.sent, "state": str(job.state)}
        values |= {"begun_here": begun_here, "time": self._connection.time}
        marked = self._connection.execute(limit_queries.MARK_SENT, values)
        if not marked:
            if why := self._why_never(values):
                return why, 0
            if not self._take(job):
                return Sending.NO_SLOT, 0
            marked = self._connection.execute(limit_queries.MARK_SENT, values)
        return Sending.SENT, marked[0]["spent"]

    def _why_never(self, values: dict[str, Any]) -> Sending | None:
        """Return why this server can never send a job; None if there is no such reason. Locks the job's row."""
        found = self._connection.execute(limit_queries.WHETHER_TO_SEND, values)
        if not found:
            return Sending.LOST
        row = found[0]
        if row["holder"] != self._me:
            self._connection.execute(limit_queries.RELEASE_SLOT, values)
            return Sending.TAKEN
        if not row["open"] or row["sent"] not in (None, values["sent"]):
            return Sending.TAKEN
        return None if values["begun_here"] or row["wanted_until"] >= values["sent"] else Sending.UNWANTED
