"""What a ledger says, read from its file and with the command. Neither depends on the form of its tables."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from host import Host

Record = dict[str, Any]
# How many seconds a check_job waits, and for how many seconds it is repeated.
WAIT, LONGEST_WAIT = 45, 180.0


def rows(folder: Path, query: str) -> list[Record]:
    """Query the ledger's file."""
    with opened(folder) as database:
        return [dict(row) for row in database.execute(query)]


@contextmanager
def opened(folder: Path) -> Generator[sqlite3.Connection]:
    """Open the ledger's file."""
    with closing(sqlite3.connect(folder / "home" / "ledger.sqlite3")) as database:
        database.row_factory = sqlite3.Row
        yield database


def jobs_in(database: sqlite3.Connection) -> dict[str, Record]:
    """The rows of the jobs by prompt, which is a column or in the JSON of the parameters. Empty without a table."""
    columns = {row["name"] for row in database.execute("PRAGMA table_info(jobs)")}
    if not columns:
        return {}
    prompt = "prompt" if "prompt" in columns else "json_extract(parameters, '$.prompt')"
    query = f"SELECT {prompt} AS its_prompt, local_id, sent, state, open FROM jobs"  # noqa: S608  one of two constants
    return {row["its_prompt"]: dict(row) for row in database.execute(query)}


def jobs_shown(folder: Path) -> dict[str, Record]:
    """The jobs by prompt, from `mcp-vega jobs --json`: with their pictures, notes and errors."""
    command = [sys.executable, "-m", "mcp_vega", "jobs", "--json", "--limit", "100000"]
    settings = {"MCP_VEGA_HOME": str(folder / "home"), "MCP_VEGA_GALLERY": str(folder / "gallery")}
    told = subprocess.run(command, env={**os.environ, **settings}, check=True, capture_output=True).stdout
    return {job["parameters"]["prompt"]: job for job in json.loads(told)}


def settle(folder: Path, url: str) -> None:
    """Let another server continue what is left, until nobody works on it any more."""
    host = Host(folder, url)
    host.shake_hands()
    follow(host, [row["local_id"] for row in rows(folder, "SELECT local_id FROM jobs WHERE open")])
    host.leave()


def follow(host: Host, local_ids: list[str]) -> None:
    """Wait until the server works on none of the jobs any more."""
    give_up = time.monotonic() + LONGEST_WAIT
    while local_ids and time.monotonic() < give_up:
        local_ids = still_worked_on(host, local_ids)


def still_worked_on(host: Host, local_ids: list[str]) -> list[str]:
    """The jobs that the server still works on after the wait of a check_job."""
    asked = {host.call("check_job", request_id=each, wait_seconds=WAIT): each for each in local_ids}
    started = time.monotonic()
    late: list[str] = []
    while asked:
        answer = host.receive()
        if not answer:
            raise SystemExit("the server that should continue the jobs has ended")
        local_id = asked.pop(answer["id"])
        if time.monotonic() - started > WAIT - 1:
            late.append(local_id)
    return late
