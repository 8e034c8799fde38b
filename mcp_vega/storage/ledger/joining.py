"""Joining: a call that is made again joins the job of the first call, if nobody has received that job's result yet.

So the same picture is not paid for twice. Calls are compared after defaults are filled in and before a seed is drawn.
It does not matter which tools they used. The functions work within transactions that are open already.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from mcp_vega.job import Job
from mcp_vega.storage.database.connection import Connection, Row
from mcp_vega.storage.ledger.servers import Servers
from mcp_vega.storage.ledger.sql import job_queries, rows

# How long the same call can join a job whose result nobody received, since the last call for it began or ended.
JOINING = timedelta(minutes=2)
# Nobody knows when a server died. So its awaited jobs can be joined for the longest time that a call may take.
AWAITED = timedelta(minutes=10)
# A job whose caller still waits is joined once it is this old: the caller may have given up without telling the server.
# No known client gives up before 5 s. And if a caller wants two pictures, both calls come within one second.
SILENT = timedelta(seconds=4)
# How far the clock may have been set. Also how long the machine may sleep: the monotonic clock does not count sleep.
LONGEST_STEP = timedelta(hours=6)
# How long after its result was delivered a call may still be cancelled: the two messages may have crossed on their way.
CROSSING = timedelta(seconds=15)
# How exactly a server knows the clock that all servers share.
CLOCK_ERROR = timedelta(seconds=0.1)
# Until when another server may send a job that nobody wants any more. The end of the wait would not do: the clock of
# the other server's machine may be behind.
NEVER = datetime.min.replace(tzinfo=UTC)


class Moment(NamedTuple):
    """When something happened: as the time of day (UTC), and in seconds of the clock that all servers share."""

    day: datetime
    time: float


def join(connection: Connection, job: Job, arrived: float, servers: Servers, me: str) -> str | None:
    """Let a call wait for a job that the same call began; returns the local id of that job, None if there is none.

    If there are several such jobs, several calls join different ones. Times are compared by the monotonic clock that
    all servers share; if the machine was restarted since, by the time of day.

    Args:
        connection: The connection to the ledger.
        job: The job that the call would begin.
        arrived: When the call arrived, in seconds of the clock that all servers share.
        servers: The servers on the ledger.
        me: The id of this server.
    """
    values = {
        "call": rows.as_call(job),
        "base_url": job.base_url,
        "account": job.account,
        "owner": job.owner,
        "lately": job.created - LONGEST_STEP,
        "since_time": arrived - JOINING.total_seconds(),
        "since": job.created - JOINING,
        "awaited_since_time": arrived - AWAITED.total_seconds(),
        "awaited_since": job.created - AWAITED,
        "silent_since_time": arrived - SILENT.total_seconds(),
        "silent_since": job.created - SILENT,
    }
    joining = {"me": me, "moment": job.created, "time": arrived, "until": job.created + JOINING}
    while found := _joinable(connection, values, servers):
        # If another call was quicker, this one looks again, and finds the next job.
        seen = {"local_id": found["local_id"], "seen": found["last_call_time"]}
        if connection.execute(job_queries.JOIN, {**joining, **seen}):
            return found["local_id"]
    return None


def _joinable(connection: Connection, values: Mapping[str, Any], servers: Servers) -> Row | None:
    """Return the job that may be joined first."""
    now = connection.time + CLOCK_ERROR.total_seconds()
    found = connection.execute(job_queries.TO_JOIN, {**values, "now": now})
    waiting = {row["awaited_by"] for row in found if not row["may_be_silent"]}
    alive = servers.alive(connection, waiting, certain=True)
    return next((row for row in found if row["may_be_silent"] or row["awaited_by"] not in alive), None)


def end_wait(connection: Connection, job: Job, ended: Moment, *, delivered: bool, cancelled: bool) -> None:
    """Note that a call that waited for a job has ended: with or without the result, or because it was cancelled."""
    values = {"local_id": job.local_id, "moment": ended.day, "time": ended.time}
    values |= {"delivered": delivered, "cancelled": cancelled, "never": NEVER}
    connection.execute(job_queries.END_WAIT, values)


def mark_delivered(connection: Connection, job: Job, delivered: Moment) -> None:
    """Note that a caller has received a job's result."""
    values = {"local_id": job.local_id, "moment": delivered.day, "time": delivered.time}
    connection.execute(job_queries.MARK_DELIVERED, values)


def take_back(connection: Connection, job: Job, cancelled: Moment) -> None:
    """Note that a job's result was not received after all, because the call was cancelled.

    If a caller received the result longer than `CROSSING` before, it stays received.
    """
    values = {"local_id": job.local_id, "moment": cancelled.day, "time": cancelled.time}
    values |= {"since_time": cancelled.time - CROSSING.total_seconds()}
    values |= {"until_time": cancelled.time + CLOCK_ERROR.total_seconds()}
    connection.execute(job_queries.TAKE_BACK, values)
