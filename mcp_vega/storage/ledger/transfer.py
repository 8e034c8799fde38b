"""Reads all jobs of a ledger, and writes jobs that come from another one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, NamedTuple

from mcp_vega.job import OPERATOR, Job, State
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger import spending
from mcp_vega.storage.ledger.sql import image_queries, job_queries, limit_queries, rows, transfers
from mcp_vega.storage.ledger.transactions import lock_id

# The holder of a job while its outcome is copied, within one transaction.
COPIER = "import"


class JobPage(NamedTuple):
    """Some jobs, in the order in which they were written."""

    jobs: list[Job]
    unreadable: list[str]  # the local ids of jobs whose rows are damaged
    last: int  # the next page is the one after this number; 0 if there are no more jobs


class Transfer:
    """Moves jobs between ledgers. Every method raises a `LedgerError` if the ledger cannot be read or written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count(self, owner: str = OPERATOR) -> int:
        """Count the jobs that an owner may see."""
        (row,) = await self._database.read(lambda connection: connection.execute(transfers.COUNT, {"owner": owner}))
        return row["jobs"]

    async def page(self, after: int, limit: int, owner: str = OPERATOR) -> JobPage:
        """Return the next jobs that an owner may see, after the page that ended with the number `after`."""
        values = {"after": after, "limit": limit, "owner": owner}

        def look(connection: Connection) -> JobPage:
            found = connection.execute(f"SELECT * FROM jobs {transfers.PAGE}", values)  # noqa: S608  one of `transfers`
            jobs = rows.read_jobs(connection, found, readable=True)
            read = {job.local_id for job in jobs}
            unreadable = [row["local_id"] for row in found if row["local_id"] not in read]
            return JobPage(jobs, unreadable, found[-1]["number"] if found else 0)

        return await self._database.read(look)

    async def use_key(self, name: str, value: str) -> str:
        """Give the ledger a key, unless it has one of this name; returns the key that the ledger has now."""

        def use(connection: Connection) -> str:
            connection.execute(limit_queries.DRAW_KEY, {"name": name, "value": value})
            (row,) = connection.execute(limit_queries.KEY_NAMED, {"name": name})
            return row["value"]

        return await self._database.write(use)

    async def add(self, jobs: Sequence[Job], accounts: Mapping[str, str]) -> int:
        """Write jobs of another ledger with their pictures, in one transaction.

        A new job belongs to no server, and no call can join it. A job that is there already stays as it is, with
        three exceptions: it gets pictures that it lacks; a picture with a star in either ledger has one; and a job
        that is still open gets the outcome that the other ledger knows. A job of another caller stays as it is in
        any case: the file of one caller changes nothing of the others.

        Args:
            jobs: The jobs. Their pictures are kept already.
            accounts: The accounts that have other ids in this ledger: the new ids by the old ones.

        Returns:
            The number of jobs that were not there before. A job whose remote id belongs to another job counts as there.
        """

        def add(connection: Connection) -> int:
            # The order of the locks is that of `transactions`.
            connection.lock("import")  # two imports of the same job would both find that it is missing
            for remote_id in sorted({job.remote_id for job in jobs if job.remote_id}):
                lock_id(connection, remote_id)
            written = [_write(connection, job, accounts) for job in jobs]
            spent = Counter[tuple[date, str]]()
            for each in written:
                spent[each.job.created.date(), each.job.owner] += each.spent
            for (day, owner), amount in sorted(spent.items()):
                spending.add(connection, day, owner, amount)
            for each in written:
                _add_images(connection, each)
            return sum(each.known is None for each in written)

        return await self._database.write(add)


def is_of_another(known: Job, job: Job) -> bool:
    """Whether the job in the ledger belongs to another caller than the one who gets the job of the file."""
    return job.owner not in (OPERATOR, known.owner)


class _Written(NamedTuple):
    """A job whose row is written, but not yet its money and its pictures."""

    job: Job
    known: Job | None  # the job as it was before; None if it is new
    spent: int  # how much more is spent now, in billionths of a USD


def _write(connection: Connection, job: Job, accounts: Mapping[str, str]) -> _Written:
    """Write the row of a job, or change it if it is there."""
    found = connection.execute(transfers.KNOWN, {"local_id": job.local_id})
    if found:
        known = rows.read_jobs(connection, found)[0]
        if is_of_another(known, job):
            return _Written(replace(known, images=()), known, 0)
        return _complete(connection, job, known, accounts)
    job = replace(job, account=accounts.get(job.account, job.account))
    values = {"me": None, "awaited_by": None, "delivered": True, "arrived": connection.time}
    row: dict[str, Any] = {**rows.as_row(job), **values, "wanted_until": job.created}
    if connection.execute(job_queries.ADD, row):
        return _Written(job, None, row["spent"])
    return _Written(replace(job, images=()), job, 0)  # another job has its remote id


def _complete(connection: Connection, job: Job, known: Job, accounts: Mapping[str, str]) -> _Written:
    """Write in the row of a known job what only the other ledger knows."""
    account = accounts.get(known.account, known.account)
    if account != known.account:
        connection.execute(transfers.CHANGE_ACCOUNT, {"local_id": known.local_id, "account": account})
    job = replace(job, owner=known.owner, account=account)
    if not (known.open and not job.open) and not (job.state is State.COMPLETED and known.state is not State.COMPLETED):
        return _Written(job, known, 0)
    counted = spending.counted(connection, job)
    row: dict[str, Any] = {**rows.as_row(job), "me": COPIER, "release": True}
    connection.execute(transfers.TAKE, row)
    written = connection.execute(job_queries.SAVE, row)
    return _Written(job, known, row["spent"] - counted if written else 0)


def _add_images(connection: Connection, written: _Written) -> None:
    """Write the pictures that a job lacks, and the stars that its pictures lack."""
    job, there = written.job, {image.id: image for image in written.known.images} if written.known else {}
    images = {image.id: image for image in job.images}
    for row in rows.as_image_rows(job):
        image, known = images[row["id"]], there.get(row["id"])
        if known is None:
            connection.execute(image_queries.SAVE_IMAGE, row)
            marks = {"id": image.id, "starred": image.starred, "deleted": image.deleted}
            connection.execute(transfers.MARK, marks)
            connection.execute(image_queries.ADD_TO_GALLERY, row)
        elif image.starred and not known.deleted:
            for marked in connection.execute(image_queries.MARK_STARRED, {"id": image.id, "starred": True}):
                connection.execute(image_queries.SHOW_STAR, {**marked, "starred": True})
