"""The calls that a command asks for, checked before the first one is paid for."""

import sys
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

from mcp_vega.cli.draw.prompts import name_of, prompts_in_file
from mcp_vega.cli.output import command_line
from mcp_vega.cli.recipe import recipe_named
from mcp_vega.errors import InvalidArguments
from mcp_vega.imaging.metadata import Recipe
from mcp_vega.job import LOCAL, SANDBOX
from mcp_vega.parameters import MODELS, Parameters, VegaParameters
from mcp_vega.redaction import is_blank
from mcp_vega.server.schemas import ArgumentSchema
from mcp_vega.server.tools import DEFINITIONS
from mcp_vega.settings import VENDOR_URL, Settings

# What drew a picture, and what draws the next one, by `Recipe.drawn_by`.
WAS_DRAWN = {"": "drawn by the API", LOCAL: "drawn by your own engine", SANDBOX: "painted by the sandbox"}
DRAWS = {
    "": "the API draws",
    LOCAL: "the engine on this machine draws",
    SANDBOX: "the sandbox paints",
    None: "the model itself draws",
}


@dataclass(frozen=True)
class Call:
    """One call of a tool.

    `parameters` are what the tool makes of the arguments; `line` is that of the prompt in its file, from 1, and None if
    the prompt is not from a file.
    """

    tool: str
    arguments: dict[str, Any]
    parameters: Parameters
    line: int | None = None


def calls_of(options: Namespace, settings: Settings) -> list[Call]:
    """The calls that the options ask for: one, or one for each line of a file of prompts.

    Raises:
        InvalidArguments: An option or a prompt cannot be used.
        LedgerError: The picture to follow is not a file, and the ledger cannot be read.
    """
    prompts = prompts_in_file(options)
    model, arguments = _model_and_arguments(options, settings, has_prompt=prompts is not None)
    tool = f"generate_image_{model.alias}"
    schema: ArgumentSchema[Parameters] = next(each.arguments for each in DEFINITIONS if each.name == tool)
    _require_valid(arguments, model, schema)  # what is wrong with the options is not about a line
    if prompts is None:
        return [Call(tool, arguments, schema.parse(arguments))]
    calls: list[Call] = []
    drawn: set[str] = set()
    for line, prompt in prompts:
        given = {**arguments, "prompt": prompt}
        if prompt in drawn and options.seed is None:
            given.pop("seed", None)  # with the one of the picture to follow, the same picture would be paid for again
        drawn.add(prompt)
        try:
            calls.append(Call(tool, given, schema.parse(given), line))
        except InvalidArguments as error:
            step = "Correct the line. Nothing was drawn"
            raise error.reworded(f"{name_of(options)}, line {line}: {error.what}", step) from error
    return calls


def _require_valid(arguments: dict[str, Any], model: type[Parameters], schema: ArgumentSchema[Parameters]) -> None:
    """Raise an `InvalidArguments` with the names of the command line if a value cannot be used."""
    wrong: list[str] = []
    for name, value in arguments.items():
        if name not in model.model_fields:
            wrong.append(f"{model.alias} has no {_option(name)}")
            continue
        try:
            schema.parse({"prompt": "any", name: value})
        except InvalidArguments as error:
            wrong.append(_option(name) + error.what.removeprefix(name))
    if wrong:
        raise InvalidArguments(
            "; ".join(wrong), next_step=f"Run `{command_line('draw', '--help')}` to see what there is"
        )


def _option(name: str) -> str:
    """What the command line calls a parameter."""
    if name == "prompt":
        return "PROMPT"
    return "--steps" if name == "num_inference_steps" else f"--{name.replace('_', '-')}"


def _model_and_arguments(
    options: Namespace, settings: Settings, *, has_prompt: bool
) -> tuple[type[Parameters], dict[str, Any]]:
    """The model and its arguments: those of the recipe to follow, if there is one, changed by the other options."""
    names = {name: model for model in MODELS.values() for name in (model.alias, model.slug)}
    model: type[Parameters] = names.get(options.model or VegaParameters.alias, Parameters)
    if model is Parameters:
        raise InvalidArguments(f"--model is {options.model!r}, but must be one of: {', '.join(names)}")
    if options.prompt and is_blank(" ".join(options.prompt)):
        raise InvalidArguments("The prompt is empty", next_step="Say what to draw, in words")
    given = {**vars(options), "prompt": None if has_prompt else " ".join(options.prompt) or None}
    known = {name for each in MODELS.values() for name in each.model_fields}
    changes = {name: value for name, value in given.items() if name in known and value is not None}
    if options.like is not None:
        recipe = recipe_named(options.like, settings)
        model = model if options.model else type(recipe.parameters)
        return model, {**_arguments_of(recipe, model, changes, _drawn_by(settings)), **changes}
    if not has_prompt and not options.prompt:
        raise InvalidArguments(
            "PROMPT is missing",
            next_step="Say what to draw, name a file of prompts with --prompts, or a picture with --like",
        )
    return model, changes


def _drawn_by(settings: Settings) -> str | None:
    """What draws the new picture, as `Recipe.drawn_by`; None if that is not known: it may be an API of any kind."""
    if settings.sandbox or settings.local:
        return SANDBOX if settings.sandbox else LOCAL
    return "" if settings.base_url == VENDOR_URL else None


def _arguments_of(
    recipe: Recipe, model: type[Parameters], changes: dict[str, Any], drawn_by: str | None
) -> dict[str, Any]:
    """A recipe's parameters for a model. If the new picture will differ from the old one, stderr says why."""
    # base64 is about a picture in a conversation.
    arguments = recipe.parameters.model_dump(mode="json", exclude_defaults=True, exclude={"base64"})
    if model is not type(recipe.parameters):
        # The models have other parameters, and other numbers of steps.
        others = [name for name in arguments if name == "num_inference_steps" or name not in model.model_fields]
        arguments = {name: value for name, value in arguments.items() if name not in others}
        left_out = f" The recipe's {', '.join(map(_option, others))} are not used." if others else ""
        old, new = type(recipe.parameters).slug, model.slug
        sys.stderr.write(f"Note: the picture was drawn by {old}; {new} draws another one.{left_out}\n")
    elif recipe.drawn_by != drawn_by and (drawn_by is not None or recipe.drawn_by == SANDBOX):
        sys.stderr.write(f"Note: the picture was {WAS_DRAWN[recipe.drawn_by]}; {DRAWS[drawn_by]} another one.\n")
    if recipe.parameters.seed < 0 and "seed" not in changes:
        sys.stderr.write("Note: the seed of the picture is not known, so another picture is drawn.\n")
    if (count := arguments.get("samples", 1)) > 1 and "samples" not in changes:
        paid = "" if drawn_by == LOCAL else " (and paid for)"
        sys.stderr.write(
            f"Note: this was picture {recipe.picture} of a set of {count}, so all {count} are drawn{paid}.\n"
        )
    return arguments
