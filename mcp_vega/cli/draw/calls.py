"""Makes the calls of a command through the server's tools, a few at the same time."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

import anyio
from mcp.client import Client
from mcp_types import CallToolResult, TextContent

from mcp_vega.cli.application import open_application
from mcp_vega.cli.draw.arguments import Call
from mcp_vega.cli.draw.outcome import Outcome, Picture, Problem
from mcp_vega.cli.draw.output import Output, write_as_named
from mcp_vega.cli.draw.report import Report
from mcp_vega.cli.shutdown import until_signal
from mcp_vega.errors import Charged, GalleryError, VegaError
from mcp_vega.imaging.integrity import InvalidImageError
from mcp_vega.job.free import of_free_call
from mcp_vega.parameters import Parameters
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.server.results.result import LIMIT, NOTE
from mcp_vega.settings import Settings
from mcp_vega.storage.images.store import place_of

# How many calls are under way at the same time.
AT_ONCE = 4
# The longest that check_job waits.
WAIT_SECONDS = 45
FETCHED_AGAIN = "Make room on a disk and start mcp-vega within seven days: it fetches the picture again"


async def make_calls(settings: Settings, calls: Sequence[Call], output: Output | None, report: Report) -> None:
    """Make all calls, copy their pictures to the output, and report each outcome in the order of the calls.

    The first Ctrl-C ends the process: what is paid for is kept first.
    """
    # No previews: the pictures are read from their files.
    async with open_application(settings.model_copy(update={"preview": "off"})) as app:

        async def work() -> None:
            # A person looks at the terminal, and wants to see immediately that something happens.
            async with Client(build_server(replace(app, progress_after=0))) as client:
                await _Calls(app, client, output, report).make(calls)

        await until_signal(app.service, work)


@dataclass
class _Calls:
    app: AppContext
    client: Client
    output: Output | None
    report: Report
    outcomes: dict[int, Outcome] = field(default_factory=dict[int, Outcome])

    async def make(self, calls: Sequence[Call]) -> None:
        at_once = anyio.CapacityLimiter(AT_ONCE)
        # A call joins an equal call whose result nobody has received yet (storage/ledger/joining.py). Here each call is
        # to draw its own picture, so equal calls are made one after the other.
        equal = defaultdict[Parameters, anyio.Lock](anyio.Lock)
        first = [*accumulate((call.parameters.pictures for call in calls), initial=1)]

        async def make_one(index: int) -> None:
            call = calls[index]
            async with equal[call.parameters], at_once:
                result = await self._result(call, index)
                self.outcomes[index] = await self._outcome(call, result, first[index])
            while outcome := self.outcomes.pop(self.report.next, None):
                self.report.ended(outcome)

        try:
            async with anyio.create_task_group() as tasks:
                for index in range(len(calls)):
                    tasks.start_soon(make_one, index)
        except anyio.get_cancelled_exc_class():
            # An earlier call is still under way, so these were not reported yet.
            self.report.interrupted([self.outcomes[index] for index in sorted(self.outcomes)])
            raise

    # ---- a call ----

    async def _result(self, call: Call, index: int) -> CallToolResult:
        """The tool's result with the pictures, however long they take, or with how the call ended without them."""

        async def show(progress: float, total: float | None, message: str | None) -> None:
            self.report.progress(index, call, message or "", progress / total if total else None)

        started = datetime.now(UTC)
        result = await self.client.call_tool(call.tool, call.arguments, progress_callback=show)
        while request_id := self._unfinished(call, result, started):
            question = {"request_id": request_id, "wait_seconds": WAIT_SECONDS}
            result = await self.client.call_tool("check_job", question, progress_callback=show)
        return result

    def _unfinished(self, call: Call, result: CallToolResult, started: datetime) -> str | None:
        """The job to wait for after a result: one that has not finished, or whose outcome is being looked up here."""
        if not result.is_error:
            job = _job(result)
            return None if job["state"] == "COMPLETED" else job["request_id"]
        lost = (job for job in self.app.service.active if job.error and job.open and job.created >= started)
        return next((job.request_id for job in lost if job.asked == call.parameters), None)

    async def _outcome(self, call: Call, result: CallToolResult, first: int) -> Outcome:
        """How a call ended, with its pictures copied; `first` is the number of its first picture."""
        text = "\n".join(each.text for each in result.content if isinstance(each, TextContent))
        if result.is_error:
            return Outcome(call, problems=[Problem(text, (result.meta or {})["mcp-vega/error"])])
        lines = text.splitlines()
        outcome = Outcome(
            call,
            _job(result),
            notes=[line for line in lines if line.startswith(NOTE)],
            limit=next((line for line in lines if line.startswith(LIMIT)), ""),
        )
        for index, image in enumerate(_job(result)["images"]):
            if "deleted" in image:
                continue
            try:
                picture = await self._picture(image)
                outcome.pictures.append(picture)
                self._copy(picture, first + index if index < call.parameters.pictures else None, outcome.notes)
            except VegaError as error:
                outcome.problems.append(Problem.of(of_free_call(error) if self.app.local else error))
        return outcome

    async def _picture(self, image: Mapping[str, Any]) -> Picture:
        """A picture of a result. If it has no file, it is in a bucket, or in this process alone."""
        if image["path"] is not None:
            kept = Path(image["path"])
            return Picture(image["id"], kept.name, kept)
        found = await self.app.service.look_up_image(image["id"])
        if found is None:
            raise _not_kept("A picture was drawn, but it is nowhere any more")
        address = place_of(found.image.location) or ""
        data = None
        try:
            data = await self.app.gallery.read(found.image)
        except GalleryError:
            if not address:
                raise
        return Picture(image["id"], found.image.name, None, address, data)

    def _copy(self, picture: Picture, number: int | None, notes: list[str]) -> None:
        """Copy a picture to the file that was asked for; `number` is its own among all pictures of the command.

        Raises:
            GalleryError: It cannot be copied; or there is nowhere to copy it to, and no disk has it.
        """
        target = self.output and self.output.target(number, picture.name)
        if target is None or _is_same_file(picture.kept, target):
            picture.written = picture.kept or picture.address or None
            if picture.written is None:
                raise _not_kept("A picture was drawn, but no disk would take it")
            return
        try:
            note = write_as_named(picture.read(), target)
        except (OSError, InvalidImageError) as error:
            why = f"it {error}" if isinstance(error, InvalidImageError) else error.strerror or error
            said = f"The picture could not be copied to {target}: {why}"
            raise _not_kept(said, picture.kept or picture.address) from error
        picture.written = target.resolve()
        notes += [f"{NOTE}{note}."] if note else []


def _job(result: CallToolResult) -> dict[str, Any]:
    return (result.meta or {})["mcp-vega/job"]


def _is_same_file(kept: Path | None, target: Path) -> bool:
    """Whether a picture would be copied to itself, because the folder that was asked for is its own."""
    return kept is not None and kept.exists() and target.exists() and target.samefile(kept)


def _not_kept(what: str, kept: Path | str = "") -> GalleryError:
    """The error of a picture that is not where it was asked for; `kept` is where it is instead."""
    step = f"The picture is kept at {kept}" if kept else FETCHED_AGAIN
    return GalleryError(what, charged=Charged.YES, next_step=step)
