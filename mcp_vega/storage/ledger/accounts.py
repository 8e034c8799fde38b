"""The accounts at the API, and their jobs. An account is a keyed hash of the API key, from which that cannot be had.

The key of the hash is drawn for each ledger and stays in it, so that all servers on a ledger make the same of an API
key, and nobody can tell from two ledgers whether they share one.
"""

import hmac
from datetime import datetime, timedelta
from typing import Any

from mcp_vega.job import Job
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger import queries, rows
from mcp_vega.storage.ledger.search import read_jobs
from mcp_vega.storage.ledger.secrets import Secrets
from mcp_vega.storage.ledger.servers import Servers

# Longer than any pause until a job is tried again (jobs/worker.py).
BEYOND_ANY_PAUSE = timedelta(hours=25)


class Accounts:
    """The accounts in a ledger. Every method raises a `LedgerError` where it cannot be read or written."""

    def __init__(self, database: Database, servers: Servers, secrets: Secrets) -> None:
        self._database = database
        self._servers = servers
        self._secrets = secrets

    async def of_key(self, api_key: str) -> str:
        """What stands in the ledger for the account of an API key: 32 hex digits."""
        return hmac.digest(await self._secrets.get("account"), api_key.encode(), "sha256").hex()[:32]

    # ---- the jobs of an account ----

    async def orphans(self, base_url: str, account: str, moment: datetime | None = None) -> list[str]:
        """The local ids of an account's open jobs that no living server works on and that are due at a moment (UTC)."""

        def look(connection: Connection) -> list[str]:
            # What is later was noted while this machine's clock was ahead.
            latest = rows.moment(moment + BEYOND_ANY_PAUSE) if moment else None
            times = {"moment": rows.moment(moment), "latest": latest}
            values = {"base_url": base_url, "account": account, **times}
            found = connection.execute(queries.UNFINISHED, values)
            alive = self._servers.alive(connection, {row["holder"] for row in found})
            return [row["local_id"] for row in found if row["holder"] not in alive]

        return await self._database.read(look)

    async def count_of_others(self, base_url: str, account: str) -> int:
        """How many of an API's open jobs belong to other accounts than this."""
        values = {"base_url": base_url, "account": account}
        (row,) = await self._database.read(lambda connection: connection.execute(queries.OF_OTHER_ACCOUNTS, values))
        return row["jobs"]

    async def with_seed_of(self, job: Job) -> list[Job]:
        """The other jobs of a job's account with its model and seed."""
        return await self._others(job, queries.WITH_SEED, model=job.model, seed=job.parameters.seed)

    async def without_id(self, base_url: str, account: str) -> list[Job]:
        """The open jobs of an account whose id at the API is not known."""
        return await self._jobs(queries.WITHOUT_ID, base_url=base_url, account=account)

    async def that_ran_before(self, job: Job, limit: int) -> list[Job]:
        """The last jobs of a job's account that were begun before it and ran."""
        return await self._others(job, queries.RAN_BEFORE, limit=limit)

    async def that_ran_after(self, job: Job, limit: int) -> list[Job]:
        """The first jobs of a job's account that were begun after it and ran."""
        return await self._others(job, queries.RAN_AFTER, limit=limit)

    async def seconds_since_sent(self, job: Job) -> float | None:
        """How long ago a job was sent, by the clock that nobody sets; None where the machine was started anew since."""

        def look(connection: Connection) -> float | None:
            (row,) = connection.execute(queries.SENT_TIME, {"local_id": job.local_id})
            passed = None if row["sent_time"] is None else connection.time - row["sent_time"]
            return None if passed is None or passed < 0 else passed

        return await self._database.read(look)

    async def _others(self, job: Job, where: str, **values: Any) -> list[Job]:
        account = {"local_id": job.local_id, "base_url": job.base_url, "account": job.account}
        return await self._jobs(where, **account, **values)

    async def _jobs(self, where: str, **values: Any) -> list[Job]:
        """Jobs, without those that an accident made unreadable."""

        def look(connection: Connection) -> list[Job]:
            found = connection.execute(f"SELECT * FROM jobs {where}", values)  # noqa: S608  one of `queries`
            alive = self._servers.alive(connection, {row["holder"] for row in found})
            return read_jobs(connection, found, alive, readable=True)

        return await self._database.read(look)
