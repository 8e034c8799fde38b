"""The four tools: their descriptions and their functions."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, Tool, ToolAnnotations

from mcp_vega.job import Job
from mcp_vega.jobs.progress import progress_of
from mcp_vega.parameters import Parameters, VegaParameters, VegaRTParameters
from mcp_vega.server import resources, schemas
from mcp_vega.server.client_info import CURRENT_CLIENT
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.cancellation.requests_in_flight import current_request
from mcp_vega.server.results import records
from mcp_vega.server.results.job_list import of_jobs
from mcp_vega.server.results.job_result import of_job
from mcp_vega.server.schemas import ArgumentSchema, CheckJobArguments
from mcp_vega.storage.ledger.transactions import Begun

LATEST = 10
SANDBOX_NOTE = "Sandbox: not Segmind, money is pretend."

# The app, under the keys that new and older hosts read.
VIEW_META = {"ui": {"resourceUri": resources.VIEW}, "ui/resourceUri": resources.VIEW}

# Without `idempotentHint`, and `destructiveHint` of a tool that only reads: the protocol's defaults say the same.
PAID = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
FREE = ToolAnnotations(read_only_hint=True, open_world_hint=False)


@dataclass(frozen=True)
class ToolDefinition:
    """A tool: the texts that an agent reads, its arguments, its function.

    `on_this_machine` is the description if an engine on this machine draws, if it then has another one.
    """

    name: str
    title: str
    description: str
    arguments: ArgumentSchema[Any]
    annotations: ToolAnnotations
    run: Callable[[AppContext, Any, Context[Any, Any]], Awaitable[CallToolResult]]
    on_this_machine: str = ""
    # Whether hosts that render MCP Apps show its result in the app of this server.
    has_view: bool = True

    def shown(self, *, sandbox: bool = False, local: bool = False) -> Tool:
        """The tool as a host lists it.

        In the `sandbox` its description says that money is pretend. If the engine on this machine draws (`local`), it
        says nothing about money.
        """
        description = self.on_this_machine if local and self.on_this_machine else self.description
        is_paid = self.annotations is PAID
        return Tool(
            name=self.name,
            title=self.title,
            description=f"{description} {SANDBOX_NOTE}" if sandbox and is_paid else description,
            input_schema=self.arguments.schema,
            annotations=self.annotations,
            _meta=VIEW_META if self.has_view else None,
        )


async def generate_image(app: AppContext, parameters: Parameters, context: Context[Any, Any]) -> CallToolResult:
    """Draw, wait, and return the pictures, or a request id if they take longer than the wait."""
    begun = await app.service.generate(parameters, CURRENT_CLIENT.get().owner)
    return await _answer(app, begun, context, lambda seen: seen.has_outcome, full=parameters.base64)


async def submit_job(app: AppContext, parameters: Parameters, context: Context[Any, Any]) -> CallToolResult:
    """Queue a job and return its request id as soon as the API has the job, or the job waits for its turn."""
    begun = await app.service.submit(parameters, CURRENT_CLIENT.get().owner)

    def is_on_its_way(seen: Job) -> bool:
        return seen.accepted or seen.has_outcome or bool(seen.notes)

    return await _answer(app, begun, context, is_on_its_way, full=parameters.base64)


async def _answer(
    app: AppContext, begun: Begun, context: Context[Any, Any], until: Callable[[Job], bool], *, full: bool
) -> CallToolResult:
    """The answer to a call that began or joined a job, after at most the wait.

    The store notes whether the caller received what they wanted. If so, the same call draws another picture next time.
    If the caller was cancelled, was told to wait, or still lacks a picture of the job, the same call gets this job.
    """
    job = begun.job
    delivered, cancelled = False, True
    request = current_request()
    try:
        await request.begins(job)
        if app.preview != "off":
            app.service.processor.preload()  # while the API draws
        job = await _followed(app, job, app.wait_seconds, context, until)
        delivered, cancelled = job.error is not None and not job.open, False  # a final error is an answer, too
        result = await of_job(app, job, CURRENT_CLIENT.get(), joined=begun.joined, full=full)
        cancelled = True
        await anyio.lowlevel.checkpoint_if_cancelled()  # else an answer that nobody receives would count as delivered
        cancelled = False
        delivered = until(job) and (job.complete or not job.state.finished)
    finally:
        app.service.end_wait(job, delivered=delivered and not request.unwanted, cancelled=cancelled)
    if not delivered:
        await app.service.until_noted()
    return result


async def check_job(app: AppContext, asked: CheckJobArguments, context: Context[Any, Any]) -> CallToolResult:
    """Return the state of a job, or its pictures; without an id, the latest jobs."""
    client = CURRENT_CLIENT.get()
    if not asked.request_id:
        return await of_jobs(app, await app.service.store.latest(LATEST, client.owner), client)
    job = await app.service.check(asked.request_id, client.owner)
    request = current_request()
    await request.begins(job)
    job = await _followed(app, job, asked.wait_seconds, context)
    result = await of_job(app, job, client)
    if job.done and not request.unwanted:
        app.service.mark_delivered(job)
    return result


async def _followed(
    app: AppContext,
    job: Job,
    seconds: float,
    context: Context[Any, Any],
    until: Callable[[Job], bool] = lambda seen: not seen.open,
) -> Job:
    """The job as soon as `until` holds or `seconds` are over; until then the host receives its progress."""
    service, client = app.service, CURRENT_CLIENT.get()
    silent_until = anyio.current_time() + app.progress_after
    async for seen in service.follow(job, seconds, app.progress_after):
        job = seen
        if anyio.current_time() >= silent_until:
            await context.report_progress(*progress_of(service, records.job_for(app, job, client)))
        if until(job):
            break
    return job


def _price(model: type[Parameters]) -> str:
    steps = model.default("num_inference_steps")
    return f"About ${model.average_cost} and {model.average_seconds} s an image at {steps} steps"


# Models and their hosts keep these texts in the context of every turn: tests hold their length. A host may show the
# model one tool alone, or no instructions, so each tool says what its caller needs to know.
_NEVER_REPEAT = "Calls are paid: never repeat one that timed out."
_ASK_INSTEAD = "If one times out, ask check_job: the drawing goes on."
_FREE = "Drawn on this machine at no cost"


def _result(what: str, afterwards: str) -> str:
    return (
        f"Returns a preview, {what} and the full image's path or URL (always give it to the user) or, if drawing is "
        f"slow, only a request id for check_job. {afterwards}"
    )


_RESULT, _FREE_RESULT = _result("seed, cost", _NEVER_REPEAT), _result("its seed", _ASK_INSTEAD)
_VEGA = "Generate an image from text with Segmind-Vega (distilled SDXL), for quality."
_VEGA_RT = "Generate an image from text with Segmind-VegaRT, for speed and drafts."
_QUEUE = "Queue an image and return its request id for check_job immediately"

DEFINITIONS = (
    ToolDefinition(
        name="generate_image_vega",
        title="Generate image with Segmind-Vega",
        description=f"{_VEGA} {_price(VegaParameters)}; both grow with steps and samples. {_RESULT}",
        on_this_machine=f"{_VEGA} {_FREE}; time grows with steps and samples. {_FREE_RESULT}",
        arguments=schemas.of_model(VegaParameters, VegaParameters.slug),
        annotations=PAID,
        run=generate_image,
    ),
    ToolDefinition(
        name="generate_image_vegart",
        title="Generate image with Segmind-VegaRT",
        description=f"{_VEGA_RT} {_price(VegaRTParameters)}; both grow with steps. {_RESULT}",
        on_this_machine=f"{_VEGA_RT} {_FREE}; time grows with steps. {_FREE_RESULT}",
        arguments=schemas.of_model(VegaRTParameters, VegaRTParameters.slug),
        annotations=PAID,
        run=generate_image,
    ),
    ToolDefinition(
        name="submit_job",
        title="Submit image job",
        description=(
            f"{_QUEUE}, e.g. to draw several in parallel. Parameters and costs as in generate_image_vega (about "
            f"${VegaParameters.average_cost}) or generate_image_vegart (${VegaRTParameters.average_cost}). "
            f"{_NEVER_REPEAT}"
        ),
        on_this_machine=(
            f"{_QUEUE}. Parameters as in generate_image_vega or generate_image_vegart. {_FREE}. {_ASK_INSTEAD}"
        ),
        arguments=schemas.of_any_model(),
        annotations=PAID,
        run=submit_job,
        has_view=False,
    ),
    ToolDefinition(
        name="check_job",
        title="Check image job",
        description=(
            "Return an image job's state or, once finished, its images, as often as you ask. Free. Always give the "
            "user the path or URL. Without an id: the latest jobs, and their images on one numbered sheet."
        ),
        arguments=schemas.of_model(CheckJobArguments, "check_job"),
        annotations=FREE,
        run=check_job,
    ),
)
