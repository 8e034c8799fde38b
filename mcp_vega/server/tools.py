"""The four tools: what each says of itself, and what it does."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anyio.lowlevel
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, Tool, ToolAnnotations

from mcp_vega.job import Job
from mcp_vega.jobs.progress import progress_of
from mcp_vega.parameters import Parameters, VegaParameters, VegaRTParameters
from mcp_vega.server import resources, schemas
from mcp_vega.server.client_info import CURRENT_CLIENT
from mcp_vega.server.context import AppContext
from mcp_vega.server.requests_in_flight import current_request
from mcp_vega.server.results import records
from mcp_vega.server.results.job_list import of_jobs
from mcp_vega.server.results.job_result import of_job
from mcp_vega.server.schemas import ArgumentSchema, CheckJobArguments
from mcp_vega.storage.ledger.job_store import Begun

LATEST = 10

# The app, under the keys that new and older hosts read.
VIEW_META = {"ui": {"resourceUri": resources.VIEW}, "ui/resourceUri": resources.VIEW}

PAID = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
FREE = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


@dataclass(frozen=True)
class ToolDefinition:
    """A tool: what an agent reads of it, its arguments, its function."""

    name: str
    title: str
    description: str
    arguments: ArgumentSchema[Any]
    annotations: ToolAnnotations
    run: Callable[[AppContext, Any, Context[Any, Any]], Awaitable[CallToolResult]]
    # Whether hosts that render MCP Apps show its result in ours.
    has_view: bool = True

    @property
    def shown(self) -> Tool:
        """The tool as a host lists it."""
        return Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=self.arguments.schema,
            annotations=self.annotations,
            _meta=VIEW_META if self.has_view else None,
        )


async def generate_image(app: AppContext, parameters: Parameters, context: Context[Any, Any]) -> CallToolResult:
    """Draw, wait, and answer with the pictures; or with a request id when they take longer than the wait."""
    begun = await app.service.generate(parameters, CURRENT_CLIENT.get().owner)
    return await _answer(app, begun, context, lambda seen: seen.has_outcome, full=parameters.base64)


async def submit_job(app: AppContext, parameters: Parameters, context: Context[Any, Any]) -> CallToolResult:
    """Queue a job and answer with its request id as soon as it is on its way, or waits for its turn."""
    begun = await app.service.submit(parameters, CURRENT_CLIENT.get().owner)

    def is_on_its_way(seen: Job) -> bool:
        return seen.accepted or seen.has_outcome or bool(seen.notes)

    return await _answer(app, begun, context, is_on_its_way, full=parameters.base64)


async def _answer(
    app: AppContext, begun: Begun, context: Context[Any, Any], until: Callable[[Job], bool], *, full: bool
) -> CallToolResult:
    """The answer to a call that began or joined a job, after at most the wait.

    Whether it was what the caller wanted is noted: who calls again after it gets another picture; who was cancelled,
    told to wait, or still lacks a picture of it, gets this one.
    """
    job = begun.job
    delivered, cancelled = False, True
    request = current_request()
    try:
        await request.begins(job)
        job = await _followed(app, job, app.wait_seconds, context, until)
        delivered, cancelled = job.error is not None and not job.open, False  # a final error is an answer, too
        result = await of_job(app, job, CURRENT_CLIENT.get(), joined=begun.joined, full=full)
        cancelled = True
        await anyio.lowlevel.checkpoint_if_cancelled()  # else an answer that nobody gets would count as delivered
        cancelled = False
        delivered = until(job) and (job.complete or not job.state.finished)
    finally:
        app.service.end_wait(job, delivered=delivered and not request.unwanted, cancelled=cancelled)
    return result


async def check_job(app: AppContext, asked: CheckJobArguments, context: Context[Any, Any]) -> CallToolResult:
    """Answer with where a job stands, or with its pictures; without an id with the latest jobs."""
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
    """The job when it is far enough or `seconds` are over; the host hears of its progress meanwhile."""
    service, client = app.service, CURRENT_CLIENT.get()
    async for seen in service.follow(job, seconds):
        job = seen
        await context.report_progress(*progress_of(service, records.job_for(app, job, client)))
        if until(job):
            break
    return job


def _speed(model: type[Parameters]) -> str:
    return (
        f"costs about ${model.average_cost} and takes about {model.average_seconds} s "
        f"with {model.default('num_inference_steps')} steps"
    )


_WHAT_COMES_BACK = (
    "Comes back: the image (a preview; the full 1024×1024 file is kept at the path or URL given), its vega:// URI, "
    "seed, cost and request id. If it takes longer than the wait, only the request id comes back: give that to "
    "check_job and do not repeat the call, each call is paid for."
)

DEFINITIONS = (
    ToolDefinition(
        name="generate_image_vega",
        title="Generate image with Segmind-Vega",
        description=(
            "Generate an image from a text prompt with Segmind-Vega, a fast distilled Stable Diffusion XL. The choice "
            "for quality: negative prompt, scheduler, guidance, up to 4 images a call. Each image "
            f"{_speed(VegaParameters)}; more steps and samples take and cost proportionally more. {_WHAT_COMES_BACK}"
        ),
        arguments=schemas.of_model(VegaParameters, VegaParameters.slug),
        annotations=PAID,
        run=generate_image,
    ),
    ToolDefinition(
        name="generate_image_vegart",
        title="Generate image with Segmind-VegaRT",
        description=(
            "Generate an image from a text prompt with Segmind-VegaRT, the real-time variant of Segmind-Vega. The "
            f"choice for speed and drafts: one image a call, few steps. It {_speed(VegaRTParameters)}. "
            f"{_WHAT_COMES_BACK}"
        ),
        arguments=schemas.of_model(VegaRTParameters, VegaRTParameters.slug),
        annotations=PAID,
        run=generate_image,
    ),
    ToolDefinition(
        name="submit_job",
        title="Submit image job",
        description=(
            "Queue an image generation and return at once with a request id; check_job fetches the image later. Use "
            "it to start several images at once, or when drawing takes long. Each image costs as with "
            f"generate_image_vega (about ${VegaParameters.average_cost}) or generate_image_vegart (about "
            f"${VegaRTParameters.average_cost}) and is paid for once, however often it is checked. Takes the chosen "
            "model's parameters; one that the model does not have is refused."
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
            "Look at an image job by its request id: where it stands, or, once finished, its images exactly as "
            "generate_image_vega returns them, again and again. Costs nothing. wait_seconds waits for the end. "
            "Without a request id it lists the latest jobs, newest first, and shows their latest pictures on one "
            "sheet; the numbers on it stand before the ids."
        ),
        arguments=schemas.of_model(CheckJobArguments, "check_job"),
        annotations=FREE,
        run=check_job,
    ),
)
