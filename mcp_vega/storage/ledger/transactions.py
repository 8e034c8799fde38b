"""The changes of jobs. Each function is done within a transaction, together with all that must change with the job.

On PostgreSQL, transactions run at the same time, and each statement sees what was committed before it. So what is read
before it is written is either locked first, or the change has a condition. On SQLite, only one transaction at a time
writes.

Locks are taken in this order, so that no two transactions wait for each other:

1. the lock of imports (only `transfer`), then the lock of an id at the API (of several, in their order)
2. the row of a server
3. rows of jobs
4. the lock of a day's money (only if all callers together have a limit), then the rows of `spending` (of several, in
   the order of day and owner)
5. rows of pictures
6. the lock of the calls of a minute, then the rows of slots

If two transactions wait for each other nevertheless, PostgreSQL ends one of them, and the database does it again.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from mcp_vega.errors import VegaError
from mcp_vega.job import Job
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.ledger import joining, spending
from mcp_vega.storage.ledger.servers import Servers
from mcp_vega.storage.ledger.slots import Sending, Slots
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.storage.ledger.sql import image_queries, job_queries, limit_queries, rows


class NewCall(NamedTuple):
    """A call that wants a picture.

    Attributes:
        job: The job that it begins, unless it joins one.
        arrived: When it came, in seconds of the clock that all servers share.
        wanted_until: Until when another server may send the job.
        refusal: The reason why it may not begin a job, if there is one.
    """

    job: Job
    arrived: float
    wanted_until: datetime
    refusal: VegaError | None


class Begun(NamedTuple):
    """The result of `begin`."""

    job: Job
    joined: bool  # whether an earlier call began the job
    may_send: bool  # whether the job has a slot


class Transactions:
    """The changes of jobs by this server. For what each of them means, see `JobStore`."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def begin(self, connection: Connection, call: NewCall, limits: Limits) -> Begun:
        """Write a new job, or join one; see `JobStore.begin`."""
        me = self._servers.enter(connection, limits.calls_a_minute)
        if joined := joining.join(connection, call.job, call.arrived, self._servers, me):
            return Begun(self.read(connection, job_queries.BY_ID, id=joined)[0], joined=True, may_send=False)
        if call.refusal:
            raise call.refusal
        values = {"me": me, "awaited_by": me, "delivered": False}
        values |= {"arrived": call.arrived, "wanted_until": call.wanted_until}
        connection.execute(job_queries.ADD, {**rows.as_row(call.job), **values})
        spending.reserve(connection, call.job, limits)
        return Begun(call.job, joined=False, may_send=Slots(connection, me, limits).take_if_none_waits(call.job))

    def mark_sent(self, connection: Connection, job: Job, limits: Limits, *, begun_here: bool) -> Sending:
        """Note that a job's call leaves now; see `JobStore.mark_sent`."""
        slots = Slots(connection, self._servers.enter(connection, limits.calls_a_minute), limits)
        sending, reserved = slots.mark_sent(job, begun_here=begun_here)
        # The reserved money may have been given back by another server, which believed that this one was dead. This is
        # rare, so it may take its lock after those of the slots: at worst, the transaction is repeated.
        if sending is Sending.SENT and not reserved:
            spending.reserve(connection, job, limits)
            spending.count(connection, job, spending.billionths(job))
        return sending

    def discard(self, connection: Connection, job: Job) -> None:
        """Delete a job that was not sent; see `JobStore.discard`."""
        values = {"local_id": job.local_id, "me": self._servers.me}
        for row in connection.execute(job_queries.DISCARD, values):
            spending.add(connection, row["day"], row["owner"], -row["spent"])
            connection.execute(limit_queries.RELEASE_SLOT, values)

    def save(self, connection: Connection, job: Job, *, release: bool) -> Job | None:
        """Write the current state of a job; see `JobStore.save`."""
        row: dict[str, Any] = {**rows.as_row(job), "me": self._servers.me, "release": release}
        if job.remote_id is None and row["reported_id"]:
            lock_id(connection, row["reported_id"])
        counted = spending.counted(connection, job)
        written = connection.execute(job_queries.SAVE, row)
        if not written and not connection.execute(job_queries.IS_KNOWN, row):
            self._add_again(connection, job, row)
            written = connection.execute(job_queries.SAVE, row)
        if written:
            spending.add(connection, row["day"], job.owner, row["spent"] - counted)
        for image in rows.as_image_rows(job):
            connection.execute(image_queries.SAVE_IMAGE, image)
            connection.execute(image_queries.ADD_TO_GALLERY, image)
        connection.execute(limit_queries.RELEASE_SLOT, row)
        return replace(job, remote_id=written[0]["remote_id"]) if written else None

    def _add_again(self, connection: Connection, job: Job, row: dict[str, Any]) -> None:
        """Write a job that the ledger lost when its database crashed. Other calls may join it, but it may not be sent.

        The ledger then does not know that the caller received the result. So the same call gets it once more.
        """
        me = self._servers.enter(connection)
        values = {**row, "me": me, "remote_id": None, "awaited_by": None, "delivered": False}
        values |= {"arrived": connection.time, "wanted_until": job.created}
        connection.execute(job_queries.ADD, values)

    def add_known(self, connection: Connection, job: Job) -> bool:
        """Write a job that the API knows already; see `JobStore.add_known`."""
        me = self._servers.enter(connection)
        if job.remote_id:
            lock_id(connection, job.remote_id)
        values = {"me": me, "awaited_by": None, "delivered": True, "arrived": connection.time}
        values = {**rows.as_row(job), **values, "wanted_until": job.created}
        if not connection.execute(job_queries.ADD, values):
            return False
        spending.add(connection, job.created.date(), job.owner, spending.billionths(job))
        return True

    def assign(self, connection: Connection, job: Job, remote_id: str) -> bool:
        """Give a job an id of the API; see `JobStore.assign`."""
        lock_id(connection, remote_id)
        return bool(connection.execute(job_queries.ASSIGN, {"local_id": job.local_id, "remote_id": remote_id}))

    def claim(self, connection: Connection, local_id: str) -> Job | None:
        """Claim an open job for this server; see `JobStore.claim`."""
        found = connection.execute(job_queries.HOLDER, {"local_id": local_id})
        if not found:
            return None
        holder = found[0]["holder"] or ""
        me = self._servers.enter(connection)
        if holder != me and self._servers.alive(connection, [holder]):
            return None
        values = {"local_id": local_id, "me": me, "holder": holder}
        claimed = connection.execute(job_queries.CLAIM, values)
        if not claimed:  # another server was quicker
            return None
        connection.execute(limit_queries.RELEASE_SLOT_OF_OTHERS, values)
        return rows.read_jobs(connection, claimed, {me})[0]

    def read(self, connection: Connection, where: str, *, readable: bool = False, **values: Any) -> list[Job]:
        """Return the jobs that a condition finds; with `readable`, without those whose row is damaged."""
        found = connection.execute(f"SELECT * FROM jobs {where}", values)  # noqa: S608  one of `job_queries`
        alive = self._servers.alive(connection, {row["holder"] for row in found})
        return rows.read_jobs(connection, found, alive, readable=readable)


def lock_id(connection: Connection, remote_id: str) -> None:
    """Let no other transaction give a job this id of the API meanwhile."""
    connection.lock(f"id {remote_id}")
