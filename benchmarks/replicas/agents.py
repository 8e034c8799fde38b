"""Agents that draw pictures through the SDK's client, and follow the documented rules when something breaks.

Each agent has an access token of its own, and its prompts have its name. If a connection breaks or a call is not
answered in time, the agent makes the same call again, or looks for its job with `check_job`. An error that says
`Charged: no` lets it call again. An error that says `Charged: unknown` lets it only check.
"""

import random
import ssl
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count, takewhile
from typing import Any, cast

import anyio
import anyio.to_thread
import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import BlobResourceContents, CallToolResult
from mcp_types.version import LATEST_MODERN_VERSION

MODES = ("legacy", LATEST_MODERN_VERSION)
GENERATE, SUBMIT, CHECK = "generate_image_vegart", "submit_job", "check_job"
KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    (GENERATE, {}),
    (SUBMIT, {"model": "segmind-vega-rt-v1"}),
    ("generate_image_vega", {}),
    (GENERATE, {}),
    ("generate_image_vega", {"samples": 2}),
    (SUBMIT, {"model": "segmind-vega"}),
    (GENERATE, {}),
)
# After one call of so many, the agent asks for what is not its own.
CURIOUS = 10
# Seconds that a call may take before the agent gives up waiting, and seconds that one check waits.
PATIENCE, WAIT = 60.0, 20
# Seconds after which a call that has no answer breaks a promise.
LONGEST = 300.0
# Seconds before the next try, and between a cancellation and the same call: fewer would be two calls at the same time.
PAUSE, REPEATED_AFTER = 0.5, 1.0
# Errors of the server itself. With check_job they say nothing about the job.
OF_THE_SERVER = ("ledger_error", "internal_error", "too_many_calls", "gallery_error")
# The agents use no TLS, and reading the machine's certificates takes each of them 20 ms.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class Call:
    """What an agent wants, and how far it has come."""

    number: int
    tool: str
    arguments: dict[str, Any]
    began: float = field(default_factory=time.monotonic)
    request_id: str = ""
    look: bool = False  # whether the agent looks for the job among its latest jobs
    tries: int = 0
    unknown: bool = False  # whether the last answer was that nobody knows how the call ended
    events: list[str] = field(default_factory=list[str])

    def note(self, event: str) -> None:
        """Note what happened, for a report about a broken promise."""
        self.events.append(f"{time.monotonic() - self.began:.2f} s {event}")

    @property
    def prompt(self) -> str:
        """What the agent wants to see. No other call has the same."""
        return self.arguments["prompt"]


@dataclass
class Tally:
    """What all agents saw."""

    seconds: list[float] = field(default_factory=list[float])
    counts: Counter[str] = field(default_factory=Counter[str])
    wrong: list[str] = field(default_factory=list[str])
    unknown: list[str] = field(default_factory=list[str])
    events: dict[str, list[str]] = field(default_factory=dict[str, list[str]])  # by prompt
    # Of the latest pictures: the agent, the request id, the picture's URI.
    known: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])


@dataclass(frozen=True)
class Rules:
    """What agents do.

    Attributes:
        seed: For what they do at random.
        cancelled: One call of so many is cancelled and made again, unless it is submitted; 0 for none.
        cancelled_within: After at most so many seconds. There can be no answer yet: since 2026-07-28, a cancellation
            closes the connection, and a server that has sent its answer does not notice it.
        gives_up_after: After so many seconds, an unknown outcome is taken for an answer.
    """

    seed: int
    cancelled: int = 0
    cancelled_within: float = 1
    gives_up_after: float = LONGEST


class Agent:
    """One agent.

    Args:
        url: The address of the replicas.
        name: Its name, which is in its prompts.
        token: Its access token.
        mode: The SDK's name for the version of the protocol.
        tally: Where it notes what it saw.
        rules: What it does.
    """

    def __init__(self, url: str, caller: tuple[str, str], mode: str, tally: Tally, rules: Rules) -> None:
        self._url = url
        self._name, self._token = caller
        self._mode = mode
        self._tally = tally
        self._rules = rules
        self._rng = random.Random(f"{self._name} {rules.seed}")  # noqa: S311  no secret
        self._call: Call | None = None

    async def run(self, numbers: Iterator[int]) -> None:
        """Make calls until there are no more numbers."""
        while True:
            try:
                async with self._client() as client:
                    while self._call or self._next(numbers):
                        await self._step(client)
                    return
            except Exception as error:  # noqa: BLE001  whatever broke the connection
                self._broken(error)
                self._end_if_overdue()
                await anyio.sleep(PAUSE)

    @asynccontextmanager
    async def _client(self) -> AsyncGenerator[Client]:
        headers, timeout = {"authorization": f"Bearer {self._token}"}, httpx2.Timeout(PATIENCE)
        async with (
            httpx2.AsyncClient(headers=headers, timeout=timeout, verify=TLS, trust_env=False) as http,
            Client(streamable_http_client(self._url, http_client=http), mode=self._mode) as client,
        ):
            yield client

    def _next(self, numbers: Iterator[int]) -> bool:
        number = next(numbers, None)
        if number is None:
            return False
        tool, arguments = KINDS[number % len(KINDS)]
        call = self._call = Call(number, tool, {**arguments, "prompt": f"{self._name} wants picture {number}"})
        self._tally.events[call.prompt] = call.events
        return True

    def _broken(self, error: BaseException) -> None:
        """Note that there was no answer, and decide by which of the two rules to go on."""
        error = first_of(error)
        what = f"no answer: {type(error).__name__}, {str(error)[:60]}"
        self._tally.counts[what] += 1
        if self._call:
            self._call.note(what)
            self._call.look = not self._call.request_id and self._rng.random() < 0.5

    async def _step(self, client: Client) -> None:
        """Ask once more for the current call."""
        assert self._call
        call = self._call
        if self._end_if_overdue():
            return
        try:
            result = await self._ask(client, call)
        except (MCPError, TimeoutError) as error:
            self._broken(error)
            await anyio.sleep(PAUSE)
            return
        if result is None:  # it was cancelled
            await anyio.sleep(REPEATED_AFTER)
        elif result.is_error:
            self._read_error(call, _meta(result, "mcp-vega/error"))
            await anyio.sleep(PAUSE)
        elif call.look and not call.request_id:
            self._look(call, (result.meta or {}).get("mcp-vega/jobs", []))
        else:
            await self._read_job(client, call, _meta(result, "mcp-vega/job"))

    def _end_if_overdue(self) -> bool:
        """End the current call if it has no answer for too long; returns whether it was ended."""
        call, waited = self._call, time.monotonic() - (self._call or Call(0, "", {})).began
        if call and call.unknown and waited > self._rules.gives_up_after:
            self._tally.unknown.append(call.prompt)
        elif call and waited > LONGEST:
            self._tally.wrong.append(f"{call.prompt}: no answer for {LONGEST:.0f} s")
        else:
            return False
        self._call = None
        return True

    async def _ask(self, client: Client, call: Call) -> CallToolResult | None:
        """Make the call, look for its job, or check it; None if the call was cancelled."""
        with anyio.fail_after(PATIENCE):
            call.note(f"checks {call.request_id}" if call.request_id else "looks" if call.look else "calls")
            if call.request_id:
                return await client.call_tool(CHECK, {"request_id": call.request_id, "wait_seconds": WAIT})
            if call.look:
                return await client.call_tool(CHECK, {})
            call.tries += 1
            often = self._rules.cancelled
            if often and call.tries == 1 and call.tool != SUBMIT and call.number % often == 0:
                with anyio.move_on_after(self._rng.uniform(0.02, self._rules.cancelled_within)):
                    return await client.call_tool(call.tool, call.arguments)
                self._tally.counts["cancelled"] += 1
                call.note("has cancelled")
                return None
            return await client.call_tool(call.tool, call.arguments)

    def _look(self, call: Call, jobs: list[dict[str, Any]]) -> None:
        """Look for the call's job among the latest jobs of this agent."""
        for job in jobs:
            self._require_own(job)
        call.request_id = next((job["request_id"] for job in jobs if job["parameters"]["prompt"] == call.prompt), "")
        call.look = False
        self._tally.counts["found with check_job" if call.request_id else "not found with check_job"] += 1

    def _read_error(self, call: Call, error: dict[str, Any]) -> None:
        """Decide what an error means for the call."""
        code, charged = error["code"], error["charged"]
        self._tally.counts[f"error: {code}, charged: {charged}"] += 1
        call.note(f"error: {code}, charged: {charged}")
        if (call.request_id or call.look) and code in OF_THE_SERVER:
            return
        call.unknown = charged == "unknown"
        if charged == "no":
            call.request_id, call.look = "", False
        elif charged == "unknown":
            call.look = not call.request_id
        else:
            self._tally.wrong.append(f"{call.prompt}: {error}")
            self._call = None

    async def _read_job(self, client: Client, call: Call, job: dict[str, Any]) -> None:
        """Keep what a result says; if the pictures are there, the call has ended."""
        self._require_own(job)
        call.request_id, call.unknown = job["request_id"], False
        call.note(f"{job['state']}, {job['request_id']}")
        if job["state"] != "COMPLETED" or len(job["images"]) < call.arguments.get("samples", 1):
            return
        self._tally.seconds.append(time.monotonic() - call.began)
        self._call = None
        if call.number % CURIOUS == 0:
            await self._be_curious(client, job)
        self._tally.known.append((self._name, job["request_id"], job["images"][0]["uri"]))

    def _require_own(self, job: dict[str, Any]) -> None:
        if not job["parameters"]["prompt"].startswith(f"{self._name} "):
            self._tally.wrong.append(f"{self._name} saw {job}")

    async def _be_curious(self, client: Client, job: dict[str, Any]) -> None:
        """Read one's own picture, and ask for another agent's job and picture."""
        image = job["images"][0]
        try:
            with anyio.fail_after(PATIENCE):
                (read,) = (await client.read_resource(image["uri"])).contents
                assert isinstance(read, BlobResourceContents)
                right = sha256(_decoded(read)).hexdigest() == image["sha256"]
                self._tally.counts["own pictures read" if right else "WRONG PICTURE"] += 1
                others = [each for each in self._tally.known[-40:] if each[0] != self._name]
                if others:
                    await self._ask_for_anothers(client, *self._rng.choice(others)[1:])
        except (MCPError, TimeoutError) as error:
            self._tally.counts[f"a picture was not read: {type(error).__name__}"] += 1

    async def _ask_for_anothers(self, client: Client, request_id: str, uri: str) -> None:
        result = await client.call_tool(CHECK, {"request_id": request_id})
        if not result.is_error:
            self._tally.wrong.append(f"{self._name} may check {request_id}")
        try:
            await client.read_resource(uri)
        except MCPError:
            self._tally.counts["others' jobs and pictures refused"] += 1
        else:
            self._tally.wrong.append(f"{self._name} may read {uri}")


def first_of(error: BaseException) -> BaseException:
    """The error, or the first one in a group."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return first_of(group.exceptions[0])
    return error


def _meta(result: CallToolResult, name: str) -> Any:
    return (result.meta or {})[name]


def _decoded(contents: BlobResourceContents) -> bytes:
    from base64 import b64decode

    return b64decode(contents.blob)


async def draw(url: str, callers: dict[str, str], calls: Iterable[int], tally: Tally, rules: Rules) -> None:
    """Let agents make the calls with these numbers, each as soon as its last one has ended, and note what they see."""
    numbers = iter(calls)
    async with anyio.create_task_group() as tasks:
        for index, caller in enumerate(callers.items()):
            agent = Agent(url, caller, MODES[index % len(MODES)], tally, rules)
            tasks.start_soon(agent.run, numbers)


async def draw_while(  # noqa: PLR0913  those of `draw`, and what happens meanwhile
    url: str,
    callers: dict[str, str],
    tally: Tally,
    rules: Rules,
    steps: Callable[[], None],
    *,
    abandon_calls: bool = True,
) -> None:
    """Let agents draw, one call after the other, until the steps have been done in a thread.

    Without `abandon_calls`, the calls that have begun then go on until they end.
    """
    done = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(draw, url, callers, takewhile(lambda _: not done, count()), tally, rules)
        await anyio.to_thread.run_sync(steps)
        done = True
        if abandon_calls:
            tasks.cancel_scope.cancel()
