"""The four tools: what each says of itself, and what it does."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, ToolAnnotations

from mcp_vega.segmind.parameters import Parameters, VegaParameters, VegaRTParameters
from mcp_vega.server import arguments, results
from mcp_vega.server.arguments import Arguments, Question
from mcp_vega.server.desk import Desk
from mcp_vega.server.peer import ASKING
from mcp_vega.studio.jobs import Job
from mcp_vega.studio.studio import Studio

LATEST = 10

PAID = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
FREE = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


@dataclass(frozen=True)
class Definition:
    """A tool: its words for the agent, its arguments, its function."""

    name: str
    title: str
    description: str
    arguments: Arguments[Any]
    annotations: ToolAnnotations
    run: Callable[[Desk, Any, Context[Any, Any]], Awaitable[CallToolResult]]


async def generate_image(desk: Desk, parameters: Parameters, context: Context[Any, Any]) -> CallToolResult:
    """Draw, wait, and answer with the pictures; or with a request id when they take longer than the wait."""
    job = await desk.studio.draw(parameters, ASKING.get().owner)
    return await _answer(desk, job, context, until=lambda seen: seen.answered)


async def submit_job(desk: Desk, parameters: Parameters, context: Context[Any, Any]) -> CallToolResult:
    """Queue a job and answer with its request id as soon as it is on its way, or waits for its turn."""
    job = await desk.studio.submit(parameters, ASKING.get().owner)
    return await _answer(desk, job, context, until=lambda seen: seen.begun or seen.answered or bool(seen.notes))


async def _answer(desk: Desk, job: Job, context: Context[Any, Any], until: Callable[[Job], bool]) -> CallToolResult:
    """The answer to a call that began a job, after at most the wait.

    Whether it was what the caller wanted is noted: who calls again after it gets another picture; who was cancelled,
    told to wait, or still lacks a picture of it, gets this one.
    """
    delivered = False
    try:
        job = await _watched(desk.studio, job, desk.wait_seconds, context, until)
        delivered = job.error is not None and not job.open  # an error that is final is an answer, too
        result = await results.of_job(desk, job, ASKING.get())
        delivered = until(job) and (job.complete or not job.state.finished)
    finally:
        await desk.studio.answered(job, delivered=delivered)
    return result


async def check_job(desk: Desk, question: Question, context: Context[Any, Any]) -> CallToolResult:
    """Answer with where a job stands, or with its pictures; without an id with the latest jobs."""
    peer = ASKING.get()
    if not question.request_id:
        return await results.of_jobs(desk, await desk.studio.latest(LATEST, peer.owner), peer)
    job = await desk.studio.find(question.request_id, peer.owner)
    job = await _watched(desk.studio, job, question.wait_seconds, context)
    result = await results.of_job(desk, job, peer)
    if job.complete or not job.open:
        await desk.studio.delivered(job)
    return result


async def _watched(
    studio: Studio,
    job: Job,
    seconds: float,
    context: Context[Any, Any],
    until: Callable[[Job], bool] = lambda seen: not seen.open,
) -> Job:
    """The job when it is far enough or `seconds` are over; the host hears of its progress meanwhile."""
    async for seen in studio.follow(job, seconds):
        job = seen
        elapsed, expected = studio.elapsed_seconds(job), studio.expected_seconds(job)
        notes = f" ({'; '.join(job.notes)})" if job.notes else ""
        message = f"{job.state}: {elapsed:.0f} s of about {expected:.0f} s{notes}"
        await context.report_progress(elapsed, max(elapsed, expected), message)
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
    Definition(
        name="generate_image_vega",
        title="Generate image with Segmind-Vega",
        description=(
            "Generate an image from a text prompt with Segmind-Vega, a fast distilled Stable Diffusion XL. The choice "
            "for quality: negative prompt, scheduler, guidance, up to 4 images a call. Each image "
            f"{_speed(VegaParameters)}; more steps and samples take and cost proportionally more. {_WHAT_COMES_BACK}"
        ),
        arguments=arguments.of_model(VegaParameters, VegaParameters.slug),
        annotations=PAID,
        run=generate_image,
    ),
    Definition(
        name="generate_image_vegart",
        title="Generate image with Segmind-VegaRT",
        description=(
            "Generate an image from a text prompt with Segmind-VegaRT, the real-time variant of Segmind-Vega. The "
            f"choice for speed and drafts: one image a call, few steps. It {_speed(VegaRTParameters)}. "
            f"{_WHAT_COMES_BACK}"
        ),
        arguments=arguments.of_model(VegaRTParameters, VegaRTParameters.slug),
        annotations=PAID,
        run=generate_image,
    ),
    Definition(
        name="submit_job",
        title="Submit image job",
        description=(
            "Queue an image generation and return at once with a request id; check_job fetches the image later. Use "
            "it to start several images at once, or when drawing takes long. Each image costs as with "
            f"generate_image_vega (about ${VegaParameters.average_cost}) or generate_image_vegart (about "
            f"${VegaRTParameters.average_cost}) and is paid for once, however often it is checked. Takes the chosen "
            "model's parameters; one that the model does not have is refused."
        ),
        arguments=arguments.of_any_model(),
        annotations=PAID,
        run=submit_job,
    ),
    Definition(
        name="check_job",
        title="Check image job",
        description=(
            "Look at an image job by its request id: where it stands, or, once finished, its images exactly as "
            "generate_image_vega returns them, again and again. Costs nothing. wait_seconds waits for the end. "
            "Without a request id it lists the latest jobs, newest first."
        ),
        arguments=arguments.of_model(Question, "check_job"),
        annotations=FREE,
        run=check_job,
    ),
)
