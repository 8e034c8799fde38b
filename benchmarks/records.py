"""What a ledger says, by its file and by the command that shows it; both stay as they are when its tables change."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from host import Host

Record = dict[str, Any]
# For how long a call of check_job waits, and for how long one after the other is made, in seconds.
WAIT, PATIENCE = 45, 180.0


def rows(folder: Path, query: str) -> list[Record]:
    """Ask the ledger's file."""
    with closing(sqlite3.connect(folder / "home" / "ledger.sqlite3")) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(query)]


def prompt_column(folder: Path) -> str:
    """How a query names a job's prompt: it is a column, or in the JSON of the parameters."""
    columns = {row["name"] for row in rows(folder, "PRAGMA table_info(jobs)")}
    return "prompt" if "prompt" in columns else "json_extract(parameters, '$.prompt')"


def jobs_in(folder: Path) -> dict[str, Record]:
    """The rows of the jobs by prompt; none where there is no table of them yet."""
    if not rows(folder, "SELECT 1 FROM sqlite_master WHERE name = 'jobs'"):
        return {}
    found = rows(folder, f"SELECT *, {prompt_column(folder)} AS its_prompt FROM jobs")  # noqa: S608  one of two
    return {row["its_prompt"]: row for row in found}


def jobs_shown(folder: Path) -> dict[str, Record]:
    """The jobs by prompt, as `mcp-vega jobs` shows them to programs: with their pictures, notes and errors."""
    command = [sys.executable, "-m", "mcp_vega", "jobs", "--json", "--limit", "100000"]
    settings = {"MCP_VEGA_HOME": str(folder / "home"), "MCP_VEGA_GALLERY": str(folder / "gallery")}
    told = subprocess.run(command, env={**os.environ, **settings}, check=True, capture_output=True).stdout
    return {job["parameters"]["prompt"]: job for job in json.loads(told)}


def settle(folder: Path, url: str) -> None:
    """Let one more server take up what is left, until nobody works on any of it any more."""
    host = Host(folder, url)
    host.shake_hands()
    unsettled = [row["local_id"] for row in rows(folder, "SELECT local_id FROM jobs WHERE open")]
    give_up = time.monotonic() + PATIENCE
    while unsettled and time.monotonic() < give_up:
        unsettled = still_worked_on(host, unsettled)
    host.leave()


def still_worked_on(host: Host, local_ids: list[str]) -> list[str]:
    """Those of the jobs that a server works on for longer than a call of check_job may wait."""
    asked = {host.call("check_job", request_id=each, wait_seconds=WAIT): each for each in local_ids}
    started = time.monotonic()
    late: list[str] = []
    while asked:
        answer = host.receive()
        if not answer:
            raise SystemExit("the server that was to take up what is left has ended")
        local_id = asked.pop(answer["id"])
        if time.monotonic() - started > WAIT - 1:
            late.append(local_id)
    return late
