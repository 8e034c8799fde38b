"""`mcp-vega draw`: the way an agent's call takes, walked from the command line."""

import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
from mcp.client import Client
from mcp_types import CallToolResult, TextContent

from mcp_vega.cli.application import log_to_stderr, open_application
from mcp_vega.cli.output import write
from mcp_vega.cli.recipe import recipe_in
from mcp_vega.cli.shutdown import until_signal
from mcp_vega.errors import Charged, GalleryError, InvalidArguments
from mcp_vega.imaging.formats import BY_ENDING, JPEG, recognise
from mcp_vega.imaging.metadata import Recipe
from mcp_vega.imaging.preview import InvalidImageError, converted
from mcp_vega.jobs.service import JobService
from mcp_vega.parameters import MODELS, Parameters, VegaParameters
from mcp_vega.server.app import build_server
from mcp_vega.server.tools import DEFINITIONS
from mcp_vega.settings import Settings

# The longest that check_job waits.
WAIT_SECONDS = 45
# How many bytes a file's name may have, with room for the number of a second picture.
LONGEST_NAME = 250


def run_draw(options: Namespace, environment: Mapping[str, str]) -> int:
    """Draw, and print one path per picture on stdout and all else on stderr.

    Returns:
        The exit code: 0, or 1 when there is no picture.

    Raises:
        VegaError: The command was wrong, or a picture could not be copied to where it was asked for.
    """
    settings = Settings.from_environment(environment)
    log_to_stderr(settings)
    model, arguments = _model_and_arguments(options, sandbox=settings.sandbox)
    tool = f"generate_image_{model.alias}"
    output = None if options.output is None else Path(options.output)
    _check(tool, arguments)
    _check_output(options.output, settings.gallery_folder)
    result = anyio.run(_draw, settings, tool, arguments)
    sys.stderr.write("".join(f"{each.text}\n" for each in result.content if isinstance(each, TextContent)))
    if result.is_error:
        return 1
    images = _job(result)["images"]
    for number, image in enumerate(images, 1):
        if image["path"] is not None:
            kept = Path(image["path"])
            write(str(_copy(kept, output, number) if output else kept))
    if any(image["path"] is None for image in images):
        raise GalleryError(
            "A picture was drawn, but no disk would take it",
            charged=Charged.YES,
            next_step="Make room on a disk and start mcp-vega within seven days: it fetches the picture again",
        )
    return 0


def _model_and_arguments(options: Namespace, *, sandbox: bool) -> tuple[type[Parameters], dict[str, Any]]:
    """The model and its arguments: those of the recipe to follow, if there is one, changed by what was given."""
    names = {name: model for model in MODELS.values() for name in (model.alias, model.slug)}
    model: type[Parameters] = names.get(options.model or VegaParameters.alias, Parameters)
    if model is Parameters:
        raise InvalidArguments(f"--model is {options.model!r}, but must be one of: {', '.join(names)}")
    arguments: dict[str, Any] = {}
    if options.like is not None:
        recipe = recipe_in(Path(options.like))
        model = model if options.model else type(recipe.parameters)
        arguments = _arguments_of(recipe, model, several=options.samples is None, sandbox=sandbox)
    elif not options.prompt:
        raise InvalidArguments("PROMPT is missing: say what to draw, or name a picture to draw --like")
    given = {**vars(options), "prompt": " ".join(options.prompt) or None}
    known = {name for each in MODELS.values() for name in each.model_fields}
    arguments |= {name: value for name, value in given.items() if name in known and value is not None}
    return model, arguments


def _arguments_of(recipe: Recipe, model: type[Parameters], *, several: bool, sandbox: bool) -> dict[str, Any]:
    """A recipe's parameters for a model; what will be otherwise than the picture is said on stderr."""
    arguments = recipe.parameters.model_dump(mode="json", exclude_defaults=True)
    if model is not type(recipe.parameters):
        # The models have other parameters, and other numbers of steps.
        others = [name for name in arguments if name == "num_inference_steps" or name not in model.model_fields]
        arguments = {name: value for name, value in arguments.items() if name not in others}
        left_out = f", and {', '.join(others)} of the recipe left out" if others else ""
        sys.stderr.write(
            f"It was drawn by {type(recipe.parameters).slug}: {model.slug} draws another picture{left_out}\n"
        )
    elif recipe.sandbox and not sandbox:
        sys.stderr.write("It was painted by the sandbox: the model itself draws another picture\n")
    if recipe.parameters.seed < 0:
        sys.stderr.write("Its seed is not known, so another picture is drawn\n")
    if (count := arguments.get("samples", 1)) > 1 and several:
        sys.stderr.write(f"It is picture {recipe.picture} of {count} of one call, so {count} are drawn\n")
    return arguments


def _check(tool: str, arguments: dict[str, Any]) -> None:
    """Find what is wrong with the arguments before anything is opened or paid for."""
    definition = next(each for each in DEFINITIONS if each.name == tool)
    definition.arguments.parse(arguments)


def _check_output(given: str | None, gallery: Path) -> None:
    """The same for the file or folder that the picture is copied to."""
    # The functions of pathlib raise for an odd name.
    if given is None or os.path.isdir(given):  # noqa: PTH112
        return
    output = Path(given)
    if not given or given == "-" or (output.name.startswith(".") and output.name.lower() in BY_ENDING):
        raise InvalidArguments(f"-o names no file: {given!r}", next_step="Name a file, such as fox.png, or a folder")
    if os.path.lexists(output) and not os.path.isfile(output):  # noqa: PTH113
        raise InvalidArguments(f"-o names what is no file: {output}", next_step="Name a file or a folder")
    if len(os.fsencode(output.name)) > LONGEST_NAME:
        raise InvalidArguments(f"-o names a file with more than {LONGEST_NAME} letters", next_step="Name it shorter")
    if given.endswith(("/", os.sep)) or not os.path.isdir(output.parent):  # noqa: PTH112
        folder = given if given.endswith(("/", os.sep)) else output.parent
        raise InvalidArguments(f"-o names a folder that does not exist: {folder}")
    if output.suffix and output.suffix.lower() not in BY_ENDING:
        raise InvalidArguments(
            f"-o names {output}, but no picture is written as {output.suffix}",
            next_step=f"End the name in one of {', '.join(BY_ENDING)}; without an ending it is written as it came",
        )
    if not os.access(output if os.path.isfile(output) else output.parent, os.W_OK):  # noqa: PTH113
        raise InvalidArguments(f"-o names a place that this user may not write to: {output}")
    if os.path.isfile(output) and output.resolve().parent.parent == gallery.resolve():  # noqa: PTH113
        raise InvalidArguments(f"-o names a picture of the gallery: {output}", next_step="Name another file")


async def _draw(settings: Settings, tool: str, arguments: dict[str, Any]) -> CallToolResult:
    async with open_application(settings) as app:

        async def work() -> CallToolResult:
            async with Client(build_server(app)) as client:
                return await _call(app.service, client, tool, arguments)

        return await until_signal(app.service, work)


async def _call(service: JobService, client: Client, tool: str, arguments: dict[str, Any]) -> CallToolResult:
    """The tool's result with the pictures, however long they take, or with how the call ended without them."""
    started = datetime.now(UTC)
    result = await client.call_tool(tool, arguments, progress_callback=_show_progress)
    while request_id := _unfinished(service, result, started):
        question = {"request_id": request_id, "wait_seconds": WAIT_SECONDS}
        result = await client.call_tool("check_job", question, progress_callback=_show_progress)
    if sys.stderr.isatty():
        sys.stderr.write(CLEAR_LINE)
    return result


def _unfinished(service: JobService, result: CallToolResult, started: datetime) -> str | None:
    """The job to wait for after a result: one that has not finished, or whose outcome is being looked up here."""
    if not result.is_error:
        job = _job(result)
        return None if job["state"] == "COMPLETED" else job["request_id"]
    lost = (job.request_id for job in service.active if job.error and job.open and job.created >= started)
    return next(lost, None)


def _job(result: CallToolResult) -> dict[str, Any]:
    return (result.meta or {})["mcp-vega/job"]


def _copy(kept: Path, output: Path, number: int) -> Path:
    """Copy a picture to where the user wants it: a folder, or a file, numbered from the second picture on.

    What is written is what the file's ending says.
    """
    try:
        if output.is_dir():
            target = output / kept.name
        else:
            target = output if number == 1 else output.with_stem(f"{output.stem}-{number}")
        data = kept.read_bytes()
        form = BY_ENDING.get(target.suffix.lower())
        if form is JPEG and recognise(data) is not JPEG:
            sys.stderr.write(f"Note: {target} is made a JPEG; the picture as it came is at {kept}\n")
        target.write_bytes(converted(data, form) if form else data)
    except (OSError, InvalidImageError) as error:
        raise GalleryError(
            f"The picture could not be copied to {output}: {getattr(error, 'strerror', None) or error}",
            charged=Charged.YES,
            next_step=f"The picture is kept at {kept}",
        ) from error
    return target.resolve()


# ---- the progress bar ----

BAR = 24
CLEAR_LINE = "\r\x1b[K"


async def _show_progress(progress: float, total: float | None, message: str | None) -> None:
    if sys.stderr.isatty():
        done = round(BAR * min(progress / total, 1)) if total else 0
        bar = f"[{'#' * done}{'.' * (BAR - done)}] " if total else ""
        sys.stderr.write(f"\r{bar}{message}\x1b[K")
        sys.stderr.flush()
    else:
        sys.stderr.write(f"{message}\n")
