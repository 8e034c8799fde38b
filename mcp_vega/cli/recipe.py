"""`mcp-vega recipe`: how a picture was drawn, from its file or from the ledger."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

import anyio

from mcp_vega.cli.output import command_line, write
from mcp_vega.errors import InvalidArguments, LedgerError
from mcp_vega.imaging import metadata
from mcp_vega.imaging.formats import MAX_BYTES, recognise
from mcp_vega.imaging.metadata import Recipe
from mcp_vega.job import LOCAL, SANDBOX, Image, Job
from mcp_vega.redaction import named, printable
from mcp_vega.settings import Settings

# What drew a picture instead of the API.
DRAWN_BY = {
    SANDBOX: "Painted by the sandbox, not by the model",
    LOCAL: "Drawn by an engine of your own with the open weights, not by the API",
}


def run_recipe(options: Namespace, environment: Mapping[str, str]) -> int:
    """Print the recipe of a picture; returns the exit code. Raises as `recipe_named` does."""
    recipe = recipe_named(options.file, Settings.from_environment(environment))
    if options.json:
        write(json.dumps(recipe.data, indent=2))
    else:
        lines = [printable(line) for line in recipe.text.splitlines()]
        count = recipe.parameters.pictures
        lines += [f"Picture {recipe.picture} of {count} of one call"] if count > 1 else []
        lines += [DRAWN_BY[recipe.drawn_by]] if recipe.drawn_by else []
        write("\n".join(lines))
    return 0


def recipe_named(text: str, settings: Settings) -> Recipe:
    """The recipe of a picture or job, which is named by a file or as in `find_named`.

    A file on the disk comes first. If it has no recipe, the ledger may have it; what is missing is noted on stderr.

    Raises:
        InvalidArguments: Neither the file nor the ledger has a recipe, or several ids begin like this.
        LedgerError: There is no such file, and the ledger cannot be read.
    """
    problem = None
    if os.path.lexists(text):  # pathlib raises for an odd name
        try:
            return recipe_in(Path(text))
        except InvalidArguments as error:
            problem = error
    # With the ledger, which takes longer than to read a file.
    from mcp_vega.cli.jobs.lookup import find_named, hint_at_other_ledger

    try:
        found = anyio.run(find_named, text, settings)
    except LedgerError:
        if problem:
            raise problem from None
        raise
    if found is None:
        hint = anyio.run(hint_at_other_ledger, settings, text)
        if problem:
            raise problem.reworded(problem.what, hint or None)
        raise InvalidArguments(
            f"{named(text)} is not a file, and the ledger {settings.ledger_name} has no picture or job of that name",
            next_step=hint
            or f"Name a picture's file, or an id that `{command_line('jobs', sandbox=settings.sandbox)}` lists",
        )
    job, image = found
    if missing := [*([problem.what] if problem else []), *_what_is_missing(job, image)]:
        sys.stderr.write(f"Note: {printable('. '.join(missing))}. This recipe is from the ledger.\n")
    return _recipe_of(job, image)


def _recipe_of(job: Job, image: Image | None) -> Recipe:
    """The recipe that the file of a job's picture has; that of its first picture if none is named."""
    parameters = job.parameters.model_copy(update={"seed": job.seed})
    return Recipe(parameters, job.index_of(image) + 1 if image else 1, job.drawn_by)


def _what_is_missing(job: Job, image: Image | None) -> Iterator[str]:
    """What there is no more, or never was, of a picture whose recipe is asked for."""
    image = image or next(iter(job.images), None)
    if image is None:
        yield "The job has no picture"
    elif image.deleted:
        yield f"The picture was deleted on {image.deleted:%Y-%m-%d} (UTC)"
    elif image.path and not image.path.exists():
        yield f"The picture's file is not at {image.path}"


def recipe_in(file: Path) -> Recipe:
    """The recipe in a picture's file.

    Raises:
        InvalidArguments: The file cannot be read, or has no recipe.
    """
    try:
        if file.exists() and not file.is_file():  # reading a pipe or a device may never end
            raise InvalidArguments(f"{file} is not a file", next_step="Name a picture's file")
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise InvalidArguments(f"{file} cannot be read: {said}", next_step="Name a picture's file") from error
    if recognise(data) is None:
        raise InvalidArguments(f"{file} is not a JPEG, PNG or WebP picture", next_step="Name a picture's file")
    recipe = metadata.read(data)
    if recipe is None:
        raise InvalidArguments(
            f"{file} has no recipe of mcp-vega",
            next_step="Name a JPEG or PNG that mcp-vega kept. Other programs remove the recipe from a file, and a WebP "
            "picture never has one. The command jobs lists what the ledger knows",
        )
    return recipe
