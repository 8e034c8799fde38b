"""Reads all jobs of a ledger, and writes jobs that come from another one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from mcp_vega.job import OPERATOR, Image, Job, State
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger import spending
from mcp_vega.storage.ledger.sql import queries, rows, transfers

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
            connection.execute(queries.DRAW_KEY, {"name": name, "value": value})
            (row,) = connection.execute(queries.KEY_NAMED, {"name": name})
            return row["value"]

        return await self._database.write(use)

    async def add(self, jobs: Sequence[Job], accounts: Mapping[str, str]) -> int:
        """Write jobs of another ledger with their pictures, in one transaction.

        A new job belongs to no server, and no call can join it. A job that is there already stays as it is, with
        three exceptions: it gets pictures that it lacks; a picture with a star in either ledger has one; and a job
        that is still open gets the outcome that the other ledger knows.

        Args:
            jobs: The jobs. Their pictures are kept already.
            accounts: The accounts that have other ids in this ledger: the new ids by the old ones.

        Returns:
            The number of jobs that were not there before. A job whose remote id belongs to another job counts as there.
        """

        def add(connection: Connection) -> int:
            connection.lock("import")  # two imports of the same job would both find that it is missing
            return sum(_add(connection, job, accounts) for job in jobs)

        return await self._database.write(add)


def _add(connection: Connection, job: Job, accounts: Mapping[str, str]) -> bool:
    """Write one job; returns whether it is new."""
    found = connection.execute(transfers.KNOWN, {"local_id": job.local_id})
    if found:
        _complete(connection, job, rows.read_jobs(connection, found)[0], accounts)
        return False
    job = replace(job, account=accounts.get(job.account, job.account))
    values = {"me": None, "awaited_by": None, "delivered": True, "arrived": connection.time}
    row = {**rows.as_row(job), **values, "wanted_until": rows.moment(job.created)}
    if not connection.execute(queries.ADD, row):
        return False
    spending.reserve(connection, job, None)
    _add_images(connection, job, job.images)
    return True


def _complete(connection: Connection, job: Job, known: Job, accounts: Mapping[str, str]) -> None:
    """Add to a known job what only the other ledger has."""
    account = accounts.get(known.account, known.account)
    if account != known.account:
        connection.execute(transfers.CHANGE_ACCOUNT, {"local_id": known.local_id, "account": account})
    job = replace(job, owner=known.owner, account=account)
    if (known.open and not job.open) or (job.state is State.COMPLETED and known.state is not State.COMPLETED):
        counted = spending.counted(connection, job.local_id)
        row: dict[str, Any] = {**rows.as_row(job), "me": COPIER, "release": True}
        connection.execute(transfers.TAKE, row)
        if connection.execute(queries.SAVE, row):
            spending.add(connection, job.local_id, row["spent"] - counted)
    there = {image.id: image for image in known.images}
    _add_images(connection, job, [image for image in job.images if image.id not in there])
    for image in job.images:
        if image.starred and image.id in there and not there[image.id].deleted:
            for marked in connection.execute(queries.MARK_STARRED, {"id": image.id, "starred": True}):
                connection.execute(queries.SHOW_STAR, {**marked, "starred": True})


def _add_images(connection: Connection, job: Job, images: Iterable[Image]) -> None:
    new = {image.id: image for image in images}
    for row in rows.as_image_rows(replace(job, images=tuple(new.values()))):
        image = new[row["id"]]
        connection.execute(queries.SAVE_IMAGE, row)
        marks = {"starred": image.starred, "deleted": rows.moment(image.deleted)}
        connection.execute(transfers.MARK, {**marks, "id": image.id})
        connection.execute(queries.ADD_TO_GALLERY, row)
