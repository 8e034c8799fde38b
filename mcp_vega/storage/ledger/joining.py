"""The same call again, while nobody has the result of the first: it joins that one's job, which is paid for already.

What is compared is the call after defaults and before a seed is drawn, whichever tool it came by. The functions work
within transactions that are open already.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from mcp_vega.job import Job
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.server_lock import LOOK_SECONDS
from mcp_vega.storage.ledger import queries, rows
from mcp_vega.storage.ledger.servers import Servers

# Within this time of a call's end, or of its beginning, the same call joins a job whose result nobody received.
JOINING = timedelta(minutes=2)
# When a server died is not known, so what its caller waited for is joined for as long as a call takes at most.
AWAITED = timedelta(minutes=10)
# A job whose caller still waits is joined once it is this old: the caller may have given up without a word. No client
# is known to do that before 5 s, and two pictures that are wanted at once are asked for within one.
SILENT = timedelta(seconds=4)
# How far a clock may have been set; and how long the machine may sleep, which no clock counts that nobody sets.
LONGEST_STEP = timedelta(hours=6)
# For so long after its result was delivered a call may still be cancelled, by a message that crossed it.
CROSSING = timedelta(seconds=15)


class Moment(NamedTuple):
    """When something happened: the time of day (UTC), and in seconds of the clock that all servers share."""

    day: datetime
    time: float


def join(connection: Connection, job: Job, arrived: float, servers: Servers, me: str) -> str | None:
    """Have a call wait for a job that the same call began; returns its local id, or None where there is none.

    Where several could be joined, each of several calls joins another. Times are compared by the clock that nobody
    sets, or by the time of day where the machine was started anew since.

    Args:
        connection: To the ledger.
        job: The job that the call would begin.
        arrived: When it arrived, by the clock that all servers share.
        servers: Those on the ledger.
        me: This server.
    """
    values = {
        "call": rows.as_call(job),
        "base_url": job.base_url,
        "account": job.account,
        "owner": job.owner,
        "arrived": arrived,
        "lately": rows.moment(job.created - LONGEST_STEP),
        "since_time": arrived - JOINING.total_seconds(),
        "since": rows.moment(job.created - JOINING),
        "awaited_since_time": arrived - AWAITED.total_seconds(),
        "awaited_since": rows.moment(job.created - AWAITED),
        "silent_since_time": arrived - SILENT.total_seconds(),
        "silent_since": rows.moment(job.created - SILENT),
    }
    for row in connection.execute(queries.TO_JOIN, values):
        if row["may_be_silent"] or not servers.alive(connection, [row["awaited_by"]], wait=LOOK_SECONDS):
            until = rows.moment(job.created + JOINING)
            joining = {"me": me, "local_id": row["local_id"], "moment": rows.moment(job.created), "time": arrived}
            connection.execute(queries.JOIN, {**joining, "until": until})
            return row["local_id"]
    return None


def end_wait(connection: Connection, job: Job, ended: Moment, *, delivered: bool, cancelled: bool) -> None:
    """Note that a call that waited for a job has ended, with its result or without, or was cancelled."""
    values = {"local_id": job.local_id, "moment": rows.moment(ended.day), "time": ended.time}
    connection.execute(queries.END_WAIT, {**values, "delivered": delivered, "cancelled": cancelled})


def mark_delivered(connection: Connection, job: Job, delivered: Moment) -> None:
    """Note that somebody has a job's result."""
    values = {"local_id": job.local_id, "moment": rows.moment(delivered.day), "time": delivered.time}
    connection.execute(queries.MARK_DELIVERED, values)


def take_back(connection: Connection, job: Job, cancelled: Moment) -> None:
    """Note that a job's result was not received after all, as its call was cancelled.

    One that somebody received long before stays received.
    """
    values = {"local_id": job.local_id, "moment": rows.moment(cancelled.day), "time": cancelled.time}
    since = cancelled.time - CROSSING.total_seconds()
    connection.execute(queries.TAKE_BACK, {**values, "since_time": since})
