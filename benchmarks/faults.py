"""Try every fault of the sandbox with every kind of connection, as an agent sees it through each tool.

    python benchmarks/faults.py [--only FAULT ... | --write]

Each case has a sandbox on its own port, a server in this process, and one call of a tool. Then check_job is called
until nobody works on the job any more. If the outcome can still change, it is called again after an hour, a day and
two hours (by the clocks of the sandbox and of the ledger), each time with a new server and a plain connection.
`--write` writes the table into docs/faults.md.

The program exits with 1 in these cases: A paid picture that could be fetched is lost. A call is paid for twice, or
comes before the API allowed it. The agent is told something wrong about the charge, the cost or the credits. The
spending is counted wrongly. An answer that can be read is not. The API's reason is not reported. Data that came
instead of a picture is not kept. The key is in a text, a log or a file. An answer comes too late. The server breaks.

To make it fast, these times are short: the limits of calls, the pause before a status request is retried, the time
that a new job may be unknown to the API, and the time that a call waits for its turn.
"""

import argparse
import logging
import re
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import anyio
from fault_facts import (
    ALL,
    BLIND,
    CHECK,
    CREDITS,
    DISTURBED,
    GUARDED,
    HEADINGS,
    HISTORIES,
    INTRODUCTION,
    LOST,
    LOST_BEFORE,
    OTHER,
    READABLE,
    SPEEDS,
    SPOILT,
    TOOLS,
    WORDS,
)
from in_process import CONFIG, HEARD, KEY, SHORT, STRAY, app_in, listening, one_picture
from mcp.client import Client
from mcp_types import CallToolResult, ImageContent, TextContent
from wires import MANNERS, wire

from mcp_vega.imaging.integrity import is_complete
from mcp_vega.job import Job, Receipt
from mcp_vega.jobs.service import JobService
from mcp_vega.network.serving import serving
from mcp_vega.sandbox.account import TOO_SOON, Account, Call
from mcp_vega.sandbox.app import build_sandbox
from mcp_vega.sandbox.faults import FAILURES
from mcp_vega.sandbox.history_behaviour import HistoryBehaviour
from mcp_vega.server.app import build_server
from mcp_vega.storage.images.folder import UNREADABLE

DOCUMENT = Path(__file__).parent.parent / "docs" / "faults.md"
CENT = Decimal("0.01")
WAIT, CHECK_WAIT, GRACE, CHECKS = 2.5, 3, 3, 4
LATER = (timedelta(seconds=3700), timedelta(days=1), timedelta(hours=2))
AT_ONCE = 8

# An answer to an agent: the tool, what the agent saw, and the charge.
Answer = tuple[str, str, str]
Row = tuple[str, ...]


@dataclass
class Case:
    """One call over one connection: the answers to the agent, and the problems found."""

    fault: str
    connection: str
    tool: str
    folder: Path
    answers: list[Answer] = field(default_factory=list[Answer])
    problems: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.account = Account(speed=SPEEDS.get(self.fault, 0), credits=CREDITS)
        self.texts: list[str] = []  # of all answers
        self.passed = timedelta()  # in steps of `LATER`, until the job ended
        self.miscounted = Decimal(0)  # counted as spent in the ledger, but not charged
        self.account.history = HISTORIES[self.connection][1] if self.connection in HISTORIES else HistoryBehaviour()
        self.prompt = "a fox" if self.fault == "none" else f"a fox [fault:{self.fault}]"

    async def run(self) -> list[Row]:
        """Call, check the job until it has ended, check the results; returns the rows of the table."""
        HEARD.set(heard := [])
        async with serving(build_sandbox(self.account, paint=one_picture)) as url:
            manner = MANNERS.get(self.connection, MANNERS["plain"])
            await self._call_other(url)
            async with wire(url, manner) as way, self._server(way) as (service, agent):
                await self._ask(agent, self.tool, {"prompt": self.prompt, **TOOLS[self.tool]}, WAIT)
                (job,) = await service.store.latest(1)
                job = await self._settled(service, agent, job)
            await self._call_other(url)
            for span in LATER:
                if job.open:
                    self.passed += span
                    self.account.skip(span.total_seconds())
                    async with self._server(url) as (service, agent):
                        job = await self._settled(service, agent, job)
        self._check_pictures()
        self._check_money()
        self._check_figures(job.receipt)
        self._check_silence(heard)
        self._check_reading()
        return self._rows()

    @asynccontextmanager
    async def _server(self, url: str) -> AsyncGenerator[tuple[JobService, Client]]:
        passed = self.passed
        config = replace(CONFIG, clock=lambda: datetime.now(UTC) + passed, longest_wait=9)
        uptime = lambda: time.monotonic() + passed.total_seconds()  # noqa: E731
        async with (
            app_in(self.folder, url=url, policy=SHORT, config=config, uptime=uptime, wait_seconds=WAIT) as app,
            Client(build_server(app)) as agent,
        ):
            yield app.service, agent

    async def _call_other(self, url: str) -> None:
        """Draw another picture if the case needs one."""
        if self.fault in LOST_BEFORE:
            async with self._server(url) as (_, agent):
                await agent.call_tool("generate_image_vegart", {"prompt": OTHER})

    @property
    def _calls(self) -> list[Call]:
        """The case's own calls that the sandbox accepted."""
        return [call for call in self.account.calls.values() if call.body["prompt"] != OTHER]

    async def _settled(self, service: JobService, agent: Client, job: Job) -> Job:
        """The job after it has ended, or when nobody works on it any more."""
        for _ in range(CHECKS):
            question = {"request_id": job.local_id, "wait_seconds": CHECK_WAIT}
            await self._ask(agent, CHECK, question, CHECK_WAIT)
            job = await service.get(job.local_id)
            if not (job.open and job.held):
                break
        spent = await service.store.spending.since(date.min)
        self.miscounted = spent - total_cost(self.account.calls.values())
        return job

    async def _ask(self, agent: Client, tool: str, arguments: dict[str, Any], wait: float) -> None:
        started = time.monotonic()
        result = await agent.call_tool(tool.partition(",")[0], arguments)
        if (seconds := time.monotonic() - started) > wait + GRACE:
            self.problems.append(f"{tool} answered after {seconds:.1f} s")
        if leaks(result.model_dump_json()):
            self.problems.append(f"{tool} showed the key")
        self.texts += [each.text for each in result.content if isinstance(each, TextContent)]
        self.answers.append((tool, *told(result)))

    # ---- what must hold ----

    def _must(self, holds: bool, problem: str) -> None:  # noqa: FBT001  a statement
        self.problems += [] if holds else [problem]

    def _files(self, *, aside: bool) -> list[Path]:
        files = [path for path in (self.folder / "gallery").rglob("*") if path.is_file()]
        return [path for path in files if (UNREADABLE in path.parts) is aside and not path.name.startswith(OTHER)]

    def _check_pictures(self) -> None:
        """Every picture is in the gallery and complete, and the agent knows it. Data instead of a picture is kept."""
        drawn = [call for call in self._calls if call.state(self.account.now) == "COMPLETED"]
        guarded = any(call.route == "v2" for call in drawn) and self.fault in GUARDED
        blind = self.connection in BLIND
        wanted = 0 if guarded or blind or self.fault in SPOILT else sum(call.pictures for call in drawn)
        kept = [path.read_bytes() for path in self._files(aside=False)]
        whole = [is_complete(data) for data in kept]
        self._must(whole == [True] * wanted, f"{wanted} pictures were available, and {len(whole)} are kept")
        reported = sum(int(what.split()[0]) for _, what, _ in self.answers[-1:] if "picture" in what)
        self._must(reported == wanted, f"{wanted} pictures were available, and the agent got {reported}")
        unreadable = any(what == "unreadable_answer" for _, what, _ in self.answers) or self.fault in SPOILT
        self._must(
            bool(self._files(aside=True)) or not unreadable or self.fault == "empty", "the received data is not kept"
        )

    def _check_money(self) -> None:
        """At most one call is charged, and nobody is told anything else."""
        charged = sum(call.cost > 0 for call in self._calls)
        self._must(charged <= len(self._calls) <= 1, "paid for twice")
        for tool, what, said in self.answers:
            self._must(said != ("no" if charged else "yes"), f"{tool} said {what}, charged: {said}")
        provable = self.connection not in (*BLIND, "history undated")
        self._must(
            charged > 0 or self.answers[-1][2] == "no" or not provable, "it did not say that nothing was charged"
        )

    def _check_figures(self, receipt: Receipt) -> None:
        """Cost and credits are reported and counted rightly, or unknown. No call came before it was allowed."""
        cost = total_cost(self._calls)
        self._must(receipt.cost in (None, cost), f"charged ${cost}, reported ${receipt.cost}")
        left = self._calls[-1].credits_left if self._calls else CREDITS
        told = receipt.credits_left
        self._must(told is None or abs(told - left) < CENT, f"${left} are left, reported ${told}")
        self._must(0 <= self.miscounted < CENT, f"${self.miscounted} too much are counted as spent")
        self._must(not self.account.requests[TOO_SOON], "called again before the API allowed it")

    def _check_reading(self) -> None:
        """Everything that can be read is read immediately, and the reason for a refusal or failure is reported."""
        words, (*_, (_, what, _)) = WORDS.get(self.fault, ""), self.answers
        self._must("picture" in what or any(words in text for text in self.texts), f"{words!r} is not reported")
        queued = any(call.route == "v2" for call in self._calls)
        if self.fault in READABLE or (self.fault in FAILURES and queued and self.connection == "plain"):
            self._must(not self.passed, "its end was noticed late")
        if self.fault in READABLE:
            codes = [what for _, what, _ in self.answers if "picture" not in what and what != "still drawing"]
            self._must(not codes, f"not read: {codes}")
            self._must(not self.account.requests["GET history"], "not read: the history was requested")
        if self.fault == "media-slow" and queued:
            self._must(self.account.most_fetched == self._calls[0].pictures, "the pictures are fetched one by one")

    def _check_silence(self, heard: list[tuple[int, str]]) -> None:
        """The key is nowhere, and nothing broke."""
        files = [path.read_bytes() for path in self.folder.rglob("*") if path.is_file()]
        self._must(not any(KEY.encode() in data for data in files), "the key is in a file")
        self._must(not any(leaks(text) for _, text in heard), "the key is in the log")
        self._must(not self.account.requests["GET media with key"], "the key was sent to the pictures' host")
        self._must(all(what != "internal_error" for _, what, _ in self.answers), "it broke")
        self.problems += [f"logged: {text}" for level, text in heard if level >= logging.ERROR]

    def _rows(self) -> list[Row]:
        paid, others = len(self._calls), len(self.account.calls) - len(self._calls)
        posts = sum(count for name, count in self.account.requests.items() if name.startswith("POST"))
        refused = posts - paid - others
        # The number of refusals before the call is given up depends on chance.
        arrived = [str(paid)] * (paid > 0) + [f"{refused if refused < 4 else 'several'} refused"] * (refused > 0)
        _, what, charged = self.answers[-1]
        end = what if charged == "–" or "picture" in what else f"{what}, charged: {charged}"
        kept, aside = (len(self._files(aside=aside)) for aside in (False, True))
        files = f"{kept} + {aside} unreadable" if aside else f"{kept}"
        first = {tool: seen for tool, *seen in reversed(self.answers)}
        tools = (self.tool, CHECK) if self.tool == "submit_job" else (self.tool,)
        return [(self.fault, self.connection, tool, *first[tool], end, files, " + ".join(arrived)) for tool in tools]


def told(result: CallToolResult) -> tuple[str, str]:
    """What an agent sees in a result, and the charge."""
    if error := (result.meta or {}).get("mcp-vega/error"):
        return error["code"], error["charged"]
    count = sum(isinstance(each, ImageContent) for each in result.content)
    return (f"{count} picture{'s' * (count > 1)}", "yes") if count else ("still drawing", "–")


def total_cost(calls: Iterable[Call]) -> Decimal:
    """The total charge of calls in US dollars."""
    return sum((call.cost for call in calls), Decimal(0))


def leaks(text: str) -> bool:
    """Whether a text contains a key, or anything like one."""
    return re.search("SG_[A-Za-z0-9_-]{4,}", text) is not None


# ---- the table ----


def _is_tried(fault: str, connection: str, tool: str) -> bool:
    """Whether this fault, connection and tool are tried together."""
    if connection in HISTORIES:
        return fault in LOST and tool != "generate_image_vegart"
    return connection == "plain" or fault in DISTURBED


async def rows_of(
    faults: Sequence[str], connections: Sequence[str] = (*MANNERS, *HISTORIES)
) -> tuple[list[Row], list[str]]:
    """The rows of the table for some faults and connections, in order, and the problems found."""
    cases = [case for case in product(faults, connections, TOOLS) if _is_tried(*case)]
    found: dict[tuple[str, ...], list[Row]] = {}
    problems: list[str] = []
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def work(fault: str, connection: str, tool: str) -> None:
        async with limiter:
            with tempfile.TemporaryDirectory() as folder:
                case = Case(fault, connection, tool, Path(folder))
                found[fault, connection, tool] = await case.run()
            problems.extend(f"{fault}, {connection}, {tool}: {problem}" for problem in case.problems)

    with listening():
        async with anyio.create_task_group() as tasks:
            for case in cases:
                tasks.start_soon(work, *case)
    problems += [f"logged: {text}" for level, text in STRAY if level >= logging.ERROR]
    return [row for case in cases for row in found[case]], sorted(problems)


def introduction(wait: float) -> str:
    """The text above the table in Markdown; `wait` is how many seconds a call waits for its pictures."""
    words = {name: manner.words for name, manner in MANNERS.items()}
    words |= {name: said for name, (said, _) in HISTORIES.items()}
    connections = "\n".join(f"- `{name}`: {said}" for name, said in words.items())
    return INTRODUCTION.format(connections=connections, wait=wait)


def table_of(rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (HEADINGS, ("---",) * len(HEADINGS), *rows))


def main() -> int:
    """Call, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--only", metavar="FAULT", nargs="+", choices=ALL, default=ALL, help="only these faults")
    either.add_argument("--write", action="store_true", help="write docs/faults.md")
    options = parser.parse_args()
    rows, problems = anyio.run(rows_of, options.only)
    print(table_of(rows), *problems, f"{len(rows)} rows, {len(problems)} problems", sep="\n")
    if options.write and not problems:
        DOCUMENT.write_text(introduction(WAIT) + table_of(rows), encoding="utf-8")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
