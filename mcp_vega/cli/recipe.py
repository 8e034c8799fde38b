"""`mcp-vega recipe`: how a picture was drawn, from its file alone."""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from mcp_vega.cli.output import write
from mcp_vega.errors import InvalidArguments
from mcp_vega.imaging import metadata
from mcp_vega.imaging.formats import MAX_BYTES, recognise
from mcp_vega.imaging.metadata import Recipe
from mcp_vega.redaction import printable


def run_recipe(options: Namespace, _: Mapping[str, str]) -> int:
    """Print the recipe of a picture; returns the exit code.

    Raises:
        InvalidArguments: The file cannot be read, or has no recipe.
    """
    recipe = recipe_in(Path(options.file))
    if options.json:
        write(json.dumps(recipe.data, indent=2))
    else:
        lines = [printable(line) for line in recipe.text.splitlines()]
        count = recipe.parameters.pictures
        lines += [f"Picture {recipe.picture} of {count} of one call"] if count > 1 else []
        lines += ["Painted by the sandbox in the model's place"] if recipe.sandbox else []
        write("\n".join(lines))
    return 0


def recipe_in(file: Path) -> Recipe:
    """The recipe in a picture's file.

    Raises:
        InvalidArguments: The file cannot be read, or has no recipe.
    """
    try:
        if file.exists() and not file.is_file():  # a pipe would be waited for, a device has no end
            raise InvalidArguments(f"{file} is no file", next_step="Name a picture's file")
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise InvalidArguments(f"{file} cannot be read: {said}", next_step="Name a picture's file") from error
    if recognise(data) is None:
        raise InvalidArguments(f"{file} is no JPEG, PNG or WebP picture", next_step="Name a picture's file")
    recipe = metadata.read(data)
    if recipe is None:
        raise InvalidArguments(
            f"{file} holds no recipe of mcp-vega",
            next_step="Name a JPEG or PNG as mcp-vega kept it: other programs drop what stands beside the pixels, and "
            "WebP pictures have none; mcp-vega jobs lists what the ledger knows",
        )
    return recipe
