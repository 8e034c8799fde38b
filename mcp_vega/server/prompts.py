"""The prompts: ways to use the tools well, for users to pick in their host."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
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

SCHEDULERS: tuple[str, ...] = get_args(Scheduler)
WAITING = (
    "If a call comes back with a request id instead of a picture, ask check_job for it and do not repeat the call: "
    "each call is paid for."
)
ADVICE = (
    "A prompt names the subject first, then what it does, the surroundings, the light, the mood, and last the style; "
    "concrete and visible things only, in English, in one or two sentences. The model draws no legible writing."
)


class Illustration(Arguments):
    """What `illustrate` is asked for."""

    passage: str = Field(description="What to illustrate.")
    pictures: int = Field(default=1, ge=1, le=8, description="How many pictures, 1 to 8; default 1.")
    style: str = Field(default="", description="The style, such as 'watercolour' or 'ink drawing'.")
    scheduler: Scheduler = Field(default=VegaParameters.default("scheduler"), description="The scheduler for Vega.")


class Exploration(Arguments):
    """What `explore` is asked for."""

    idea: str = Field(description="What the picture is to be of, in a few words.")
    drafts: int = Field(default=4, ge=2, le=8, description="How many drafts, 2 to 8; default 4.")
    scheduler: Scheduler = Field(
        default=VegaParameters.default("scheduler"), description="The scheduler for the final picture."
    )


class Variation(Arguments):
    """What `vary` is asked for."""

    image: str = Field(description="The picture: its id, vega:// URI, URL or file, or its job's request id.")
    change: str = Field(description="The one thing to change, such as 'at night'.")


@dataclass(frozen=True)
class PromptDefinition:
    """A prompt: its words for the user, its arguments, and the text it becomes."""

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
    """What `prompts/get` is asked, with arguments that are texts: the SDK takes no others, but hosts send null, too."""
    asked = params or {}
    given: dict[str, Any] = asked["arguments"] if isinstance(asked.get("arguments"), dict) else {}
    texts = {
        name: json.dumps(value) if isinstance(value, int | float) else value
        for name, value in given.items()
        if value is not None
    }
    return {**asked, "arguments": texts} if given else params


async def get(app: AppContext, name: str, given: dict[str, Any], owner: str) -> GetPromptResult:
    """A prompt with its arguments filled in, for `owner`, whose pictures it may speak of.

    Raises:
        InvalidArguments: There is no such prompt, or an argument is missing or cannot be used.
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
    """What an argument of a prompt may be completed to: a scheduler, or the id of a picture."""
    taken = {each.name: each.arguments.schema["properties"] for each in DEFINITIONS}
    if argument not in taken.get(name, {}):
        return None
    if argument == "scheduler":
        fitting = [each for each in SCHEDULERS if each.casefold().startswith(beginning.casefold())]
        return Completion(values=fitting, total=len(fitting), has_more=False)
    return await resources.offered_images(app, beginning, owner) if argument == "image" else None


# ---- the texts ----


async def _illustrate(_app: AppContext, asked: Illustration, _owner: str) -> str:
    one = asked.pictures == 1
    style = f" Style of {'the picture' if one else 'every picture'}: {asked.style}." if asked.style else ""
    together = (
        ""
        if one
        else " The model sees one prompt at a time: describe people and places that come again in the same words each "
        "time, and end every prompt with the same words for the style, so that the pictures belong together."
    )
    moments = "the moment" if one else f"the {asked.pictures} moments"
    return f"""\
Illustrate the passage below with {"a picture" if one else f"{asked.pictures} pictures"}.

1. Choose {moments} that a reader would remember{"" if one else ", spread over the passage"}.
2. Write a prompt for {"it" if one else "each"}. {ADVICE}{style}{together}
3. Call generate_image_vega {"once" if one else "once for each"} with the prompt, scheduler "{asked.scheduler}" and a \
negative_prompt of what would spoil it (for instance "text, watermark, extra fingers, blurry"). A picture costs about \
${VegaParameters.average_cost}. {WAITING}
4. Show {"the picture" if one else "each picture"} with the sentence it belongs to, its path or URL and its seed.

<passage>
{asked.passage}
</passage>"""


async def _explore(_app: AppContext, asked: Exploration, _owner: str) -> str:
    finished = VegaParameters(prompt=asked.idea, num_inference_steps=40, guidance_scale=9)
    seeds = ", ".join(str(SystemRandom().randrange(10**6)) for _ in range(asked.drafts))
    return f"""\
Explore this idea for a picture: {asked.idea}

1. Write {asked.drafts} short prompts that each see the idea in another way: viewpoint, light, season, mood. {ADVICE}
2. Draw a draft of each with generate_image_vegart, with these seeds in turn: {seeds}. A draft costs about \
${VegaRTParameters.average_cost}. {WAITING}
3. When all are drawn, call check_job without a request id; it costs nothing. It shows the latest pictures numbered on \
one sheet, and its text has the numbers before the request ids. Other pictures may be on it, too: the drafts are those \
whose request ids you got in step 2. Show the sheet, name each draft with its number there, its prompt and its seed, \
and ask which number to finish. Do not go on before I answer. If there is no sheet, number the drafts yourself.
4. Find the line of that text that begins with the number I say: its request id is that of the draft. Draw it with \
generate_image_vega: its prompt with more visible detail, the same seed, a \
negative_prompt of what would spoil it, scheduler "{asked.scheduler}", num_inference_steps \
{finished.num_inference_steps}, guidance_scale {finished.guidance_scale:g}. Vega is another model, so the picture \
follows the draft's prompt rather than its exact lines. It costs about ${finished.expected_cost:.4f}.
5. Show it with its path or URL and its seed."""


async def _vary(app: AppContext, asked: Variation, owner: str) -> str:
    job, image = await _found(app, asked.image, owner)
    number = job.index_of(image) + 1
    count = job.parameters.pictures
    which = (
        f" The picture is number {number} of the {count} that one call drew: the same call draws all {count} again, "
        f"and number {number} is the one to look at."
        if count > 1
        else ""
    )
    if image.deleted:
        day = f"{image.deleted:%Y-%m-%d} (UTC)"
        again = f", whose file was deleted from the gallery on {day}: there is nothing to compare with"
    else:
        again = f'; check_job with request_id "{job.request_id}" shows it again, at no cost'
    has_negative = "negative_prompt" in type(job.parameters).model_fields
    or_in_negative = ", or name what should disappear in the negative_prompt" if has_negative else ""
    recipe = {**job.parameters.model_dump(mode="json", exclude_defaults=True, exclude={"base64"}), "seed": job.seed}
    return f"""\
Make a variation of a picture that was drawn before, changed in one respect: {asked.change}

It is {image.uri}{again}. It was drawn by \
generate_image_{job.parameters.alias} with these arguments:

{json.dumps(recipe, indent=2, ensure_ascii=False)}

1. Rewrite the prompt so that it says the change, and leave every other word as it is.
2. Call generate_image_{job.parameters.alias} with the new prompt and all other arguments unchanged, above all \
the seed, which mostly keeps the composition.{which} {WAITING}
3. Compare the two. If the change does not show, say it earlier in the prompt{or_in_negative}, and ask me \
before another call; each costs about ${job.parameters.expected_cost:.4f}.
4. Show the new picture beside the old one, with its path or URL and its seed."""


async def _found(app: AppContext, wanted: str, owner: str) -> JobImage:
    """The picture that a user names, with its job."""
    name = await app.gallery.search.id_named(wanted, owner)
    try:
        return await app.gallery.find(name, owner)
    except UnknownImage as error:
        try:
            job = await app.service.get(name, owner)
        except UnknownJob:
            raise error from None
        if not job.images:
            raise UnknownImage(f"The job {name} has no picture", next_step="Name one that has been drawn") from None
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
        description="Several quick drafts of an idea, then the chosen one drawn with care.",
        arguments=schemas.of_model(Exploration, "explore"),
        write=_explore,
    ),
    PromptDefinition(
        name="vary",
        title="Vary a picture",
        description="A finished picture once more, changed in one respect.",
        arguments=schemas.of_model(Variation, "vary"),
        write=_vary,
    ),
)
