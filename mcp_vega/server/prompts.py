"""The prompts: good ways to use the tools, which users choose in their host."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from random import SystemRandom
from typing import Any, get_args

from mcp_types import Completion, GetPromptResult, Prompt, PromptArgument, PromptMessage, TextContent
from pydantic import Field

from mcp_vega.errors import InvalidArguments, UnknownImage, UnknownJob
from mcp_vega.parameters import Scheduler, VegaParameters, VegaRTParameters
from mcp_vega.redaction import named
from mcp_vega.server import resources, schemas
from mcp_vega.server.context import AppContext
from mcp_vega.server.schemas import Arguments, ArgumentSchema
from mcp_vega.storage.ledger.search import JobImage
from mcp_vega.storage.ledger.spending import dollars

SCHEDULERS: tuple[str, ...] = get_args(Scheduler)
WAITING = "If a call returns a request id instead of a picture, pass the id to check_job and do not repeat the call"
ADVICE = (
    "A prompt names the subject first, then its action, the surroundings, the light, the mood, and last the style. "
    "Name only concrete and visible things, in English, in one or two sentences. The model cannot draw legible text."
)
# How many pictures an error suggests for words that are not the name of one.
SUGGESTED = 3


class Illustration(Arguments):
    """The arguments of `illustrate`."""

    passage: str = Field(description="What to illustrate.")
    pictures: int = Field(default=1, ge=1, le=8, description="How many pictures, 1 to 8; default 1.")
    style: str = Field(default="", description="The style, such as 'watercolour' or 'ink drawing'.")
    scheduler: Scheduler = Field(default=VegaParameters.default("scheduler"), description="The scheduler for Vega.")


class Exploration(Arguments):
    """The arguments of `explore`."""

    idea: str = Field(description="The subject of the picture, in a few words.")
    drafts: int = Field(default=4, ge=2, le=8, description="How many drafts, 2 to 8; default 4.")
    scheduler: Scheduler = Field(
        default=VegaParameters.default("scheduler"), description="The scheduler for the final picture."
    )


class Variation(Arguments):
    """The arguments of `vary`."""

    image: str = Field(description="The picture: its file name, id, vega:// URI or URL, or the request id of its job.")
    change: str = Field(description="The one thing to change, such as 'at night'.")


@dataclass(frozen=True)
class PromptDefinition:
    """A prompt: its texts for the user, its arguments, and the function that writes the message to the model."""

    name: str
    title: str
    description: str
    arguments: ArgumentSchema[Any]
    write: Callable[[AppContext, Any, str], Awaitable[str]]

    @property
    def shown(self) -> Prompt:
        """The prompt as a host lists it."""
        required = self.arguments.schema.get("required", [])
        given = [
            PromptArgument(name=name, description=schema["description"], required=name in required)
            for name, schema in self.arguments.schema["properties"].items()
        ]
        return Prompt(name=self.name, title=self.title, description=self.description, arguments=given)


def as_texts(params: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The params of `prompts/get` with texts as arguments: the SDK takes texts only, hosts send numbers and null."""
    asked = params or {}
    given: dict[str, Any] = asked["arguments"] if isinstance(asked.get("arguments"), dict) else {}
    texts = {
        name: json.dumps(value) if isinstance(value, int | float) else value
        for name, value in given.items()
        if value is not None
    }
    return {**asked, "arguments": texts} if given else params


async def get(app: AppContext, name: str, given: dict[str, Any], owner: str) -> GetPromptResult:
    """A prompt with its arguments filled in; it may name pictures of `owner` only.

    Raises:
        InvalidArguments: There is no such prompt, or an argument is missing or invalid.
        UnknownImage: There is no such picture.
    """
    definition = next((each for each in DEFINITIONS if each.name == name), None)
    if definition is None:
        known = ", ".join(each.name for each in DEFINITIONS)
        raise InvalidArguments(f"There is no prompt {named(name)}", next_step=f"Use one of {known}")
    text = await definition.write(app, definition.arguments.parse(given), owner)
    message = PromptMessage(role="user", content=TextContent(type="text", text=text))
    return GetPromptResult(description=definition.description, messages=[message])


async def completion(app: AppContext, name: str, argument: str, beginning: str, owner: str) -> Completion | None:
    """The values that complete an argument of a prompt: schedulers, or the names of pictures."""
    taken = {each.name: each.arguments.schema["properties"] for each in DEFINITIONS}
    if argument not in taken.get(name, {}):
        return None
    if argument == "scheduler":
        fitting = [each for each in SCHEDULERS if each.casefold().startswith(beginning.casefold())]
        return Completion(values=fitting, total=len(fitting), has_more=False)
    return await resources.offered_names(app, beginning, owner) if argument == "image" else None


# ---- the texts ----


async def _illustrate(app: AppContext, asked: Illustration, _owner: str) -> str:
    one = asked.pictures == 1
    style = f" Style of {'the picture' if one else 'every picture'}: {asked.style}." if asked.style else ""
    together = (
        ""
        if one
        else " The model sees one prompt at a time. So describe a person or place in the same words each time, and end "
        "every prompt with the same words for the style: then the pictures belong together."
    )
    moments = "the moment" if one else f"the {asked.pictures} moments"
    return f"""\
Illustrate the passage below with {"a picture" if one else f"{asked.pictures} pictures"}.

1. Choose {moments} that a reader would remember{"" if one else ", spread over the passage"}.
2. Write a prompt for {"it" if one else "each"}. {ADVICE}{style}{together}
3. Call generate_image_vega {"once" if one else "once for each"} with the prompt, scheduler "{asked.scheduler}" and a \
negative_prompt of things to avoid (for instance "text, watermark, extra fingers, \
blurry").{_cost(app, "A picture", VegaParameters.average_cost)} {_waiting(app)}
4. Show {"the picture" if one else "each picture"} with its sentence, its path or URL and its seed.

<passage>
{asked.passage}
</passage>"""


async def _explore(app: AppContext, asked: Exploration, _owner: str) -> str:
    finished = VegaParameters(prompt=asked.idea, num_inference_steps=40, guidance_scale=9)
    seeds = ", ".join(str(SystemRandom().randrange(10**6)) for _ in range(asked.drafts))
    return f"""\
Explore this idea for a picture: {asked.idea}

1. Write {asked.drafts} short prompts, each with another view of the idea: viewpoint, light, season, mood. {ADVICE}
2. Draw a draft of each with generate_image_vegart, with these seeds in turn: \
{seeds}.{_cost(app, "A draft", VegaRTParameters.average_cost)} {_waiting(app)}
3. When all are drawn, call check_job without a request id; it costs nothing. It shows the latest pictures numbered on \
one sheet, and each line of its text begins with the numbers of a job. The sheet may have other pictures, too: the \
drafts are those whose request ids you got in step 2. Show the sheet, name each draft with its number there, its \
prompt and its seed, and ask which number to finish. Do not go on before I answer. If there is no sheet, number the \
drafts yourself.
4. Find the line of that text that begins with the number I say: it has the request id of the draft. Draw that draft \
with generate_image_vega: its prompt with more visible detail, the same seed, a negative_prompt of things to avoid, \
scheduler "{asked.scheduler}", num_inference_steps {finished.num_inference_steps}, guidance_scale \
{finished.guidance_scale:g}. Vega is another model, so the picture follows the draft's prompt, not its exact \
lines.{_cost(app, "It", finished.expected_cost)}
5. Show the picture with its path or URL and its seed."""


async def _vary(app: AppContext, asked: Variation, owner: str) -> str:
    job, image = await _found(app, asked.image, owner)
    number = job.index_of(image) + 1
    count = job.parameters.pictures
    paid = "" if app.local else " (and paid for)"
    which = (
        f" This was picture {number} of a set of {count}, so all {count} are drawn{paid}; look at number {number}."
        if count > 1
        else ""
    )
    if image.deleted:
        day = f"{image.deleted:%Y-%m-%d} (UTC)"
        again = f". Its file was deleted from the gallery on {day}, so you cannot compare with it"
    else:
        again = f'. check_job with request_id "{job.request_id}" shows it again, at no cost'
    has_negative = "negative_prompt" in type(job.parameters).model_fields
    or_in_negative = ", or name in the negative_prompt what should disappear" if has_negative else ""
    recipe = {**job.parameters.model_dump(mode="json", exclude_defaults=True, exclude={"base64"}), "seed": job.seed}
    return f"""\
Make a variation of a picture that was drawn before, with one change: {asked.change}

The picture is {image.uri}{again}. generate_image_{job.parameters.alias} drew it with these arguments:

{json.dumps(recipe, indent=2, ensure_ascii=False)}

1. Add the change to the prompt, and leave every other word as it is.
2. Call generate_image_{job.parameters.alias} with the new prompt and all other arguments unchanged. The same seed \
mostly keeps the composition.{which} {_waiting(app)}
3. Compare the two. If you do not see the change, name it earlier in the prompt{or_in_negative}. Ask me before another \
call.{_cost(app, "Each", job.parameters.expected_cost)}
4. Show the new picture next to the old one, with its path or URL and its seed."""


def _cost(app: AppContext, what: str, amount: Decimal) -> str:
    """A sentence about the cost of a call, behind another one; empty if calls cost nothing."""
    return "" if app.local else f" {what} costs about {dollars(amount, pretend=app.sandbox)}."


def _waiting(app: AppContext) -> str:
    return WAITING + ("." if app.local else ": each call is paid for.")


async def _found(app: AppContext, wanted: str, owner: str) -> JobImage:
    """The picture that a user names, with its job."""
    name = await app.gallery.search.id_named(wanted, owner)
    try:
        return await app.gallery.find(name, owner)
    except UnknownImage as error:
        try:
            job = await app.service.get(name, owner)
        except UnknownJob:
            matching = (await resources.offered_names(app, wanted, owner)).values[: SUGGESTED + 1]
            if not matching:
                raise error from None
            more = ", or another one" if len(matching) > SUGGESTED else ""
            step = f"Name a picture that matches these words: {', '.join(matching[:SUGGESTED])}{more}"
            raise error.reworded(error.what, step) from None
        if not job.images:
            raise UnknownImage(f"The job {name} has no picture", next_step="Name a picture that was drawn") from None
        return JobImage(job, job.images[0])


DEFINITIONS = (
    PromptDefinition(
        name="illustrate",
        title="Illustrate a passage",
        description="Illustrate a passage of text with one or more pictures.",
        arguments=schemas.of_model(Illustration, "illustrate"),
        write=_illustrate,
    ),
    PromptDefinition(
        name="explore",
        title="Explore an idea",
        description="Draw several quick drafts of an idea, then draw the one that you choose in high quality.",
        arguments=schemas.of_model(Exploration, "explore"),
        write=_explore,
    ),
    PromptDefinition(
        name="vary",
        title="Vary a picture",
        description="Draw a finished picture again, with one change.",
        arguments=schemas.of_model(Variation, "vary"),
        write=_vary,
    ),
)
