"""The arguments of a tool or a prompt: the schema that describes them, and the parsing that checks them.

Hosts send numbers as strings, and null or a blank text for an argument that is left out: both are accepted. The error
for an unknown name or a value out of range names the parameter, the allowed values and the nearest name.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from reprlib import Repr
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcp_vega.errors import InvalidArguments
from mcp_vega.job import REQUEST_ID
from mcp_vega.parameters import MODELS, Parameters, VegaParameters, VegaRTParameters
from mcp_vega.redaction import LONGEST_KEY, is_blank, named, redacted

Schema = dict[str, Any]
ModelT_co = TypeVar("ModelT_co", bound=BaseModel, covariant=True)

# Arguments that hosts add themselves, so that the agent cannot leave them out.
ADDED_BY_HOSTS = {
    # n8n's agent: the call's id and tool, and the input of its chat (n8n-io/n8n#21500, sansan0/TrendRadar#768)
    *("toolCallId", "tool", "sessionId", "action", "chatInput"),
    "task_progress",  # Cline: its list of tasks (cline/cline#8256, #10426)
    "_meta",  # the protocol's metadata, which LangChain sends as an argument (langchain#40480)
}
# How many unknown names an error lists, how many letters of a name are compared, and how many of a value are shown.
LISTED, COMPARED, SHOWN = 5, 64, 80
# Words of other programs for the names of this one. An error suggests the name; a word is never replaced by it.
OTHER_WORDS = {
    "prompt": ["text", "description"],
    "negative_prompt": ["negative"],
    "num_inference_steps": ["steps", "num_steps", "inference_steps", "sampling_steps"],
    "scheduler": ["sampler", "sampler_name", "sampling_method"],
    "samples": ["n", "num_images", "number_of_images", "num_outputs", "count", "batch_size"],
    "guidance_scale": ["cfg", "cfg_scale", "guidance"],
    "img_width": ["width", "size", "resolution", "aspect_ratio"],
    "img_height": ["height", "size", "resolution", "aspect_ratio"],
    "request_id": ["id", "job_id"],
    "wait_seconds": ["wait", "timeout"],
    **{slug: [model.alias, f"segmind-{model.alias}"] for slug, model in MODELS.items()},
}


@dataclass(frozen=True)
class ArgumentSchema(Generic[ModelT_co]):
    """The arguments of a tool: `schema` for the agent, `parse` for the call (raises `InvalidArguments`)."""

    schema: Schema
    parse: Callable[[dict[str, Any]], ModelT_co]


class Arguments(BaseModel):
    """The parsed arguments of a tool or a prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class CheckJobArguments(Arguments):
    """The arguments of `check_job`."""

    # Without a counted repeat of a Unicode class: such a pattern takes 20 ms to compile.
    request_id: str = Field(default="", pattern=f"^({REQUEST_ID})?$", description="A result's `Request id`.")
    wait_seconds: float = Field(default=0, ge=0, le=45, description="Wait for the job's end.")


def of_model(model: type[ModelT_co], taker: str) -> ArgumentSchema[ModelT_co]:
    """The arguments of a tool with the fields of one pydantic model; errors call the tool `taker`."""
    schema = _schema(model)

    def parse(given: dict[str, Any]) -> ModelT_co:
        return _validated(model, _without_fillers(given, schema), schema, taker)

    return ArgumentSchema(schema, parse)


def of_any_model() -> ArgumentSchema[Parameters]:
    """The arguments of `submit_job`: a model, and the parameters of all models in one flat schema.

    The schema's limits of a parameter are the widest of all models; the description names those of each model, and
    `parse` checks those of the chosen model. Only `model` has a default, because the other defaults differ. The other
    tools say what the parameters mean.
    """
    each = {slug: _schema(model) for slug, model in MODELS.items()}
    names = dict.fromkeys(name for schema in each.values() for name in schema["properties"])
    fast = VegaRTParameters.slug
    lacking = [name for name in names if name not in each[fast]["properties"]]
    model_property = {
        "type": "string",
        "enum": list(MODELS),
        "default": VegaParameters.slug,
        "description": f"{fast} is for speed and has no {', '.join(lacking)}.",
    }
    properties = {name: _spanned({slug: each[slug]["properties"].get(name) for slug in each}) for name in names}
    schema: Schema = {
        "type": "object",
        "properties": {"model": model_property, **properties},
        "required": ["prompt"],
        "additionalProperties": False,
    }

    def parse(given: dict[str, Any]) -> Parameters:
        given = _without_fillers(given, schema)  # also those for parameters of the other model
        if unknown := _unknown_names(given, schema, "submit_job"):
            raise InvalidArguments(_joined(unknown))
        slug = given.pop("model", VegaParameters.slug)
        if slug not in list(MODELS):  # a list, because the value may not be hashable
            raise InvalidArguments(_sentence("model", slug, model_property))
        return _validated(MODELS[slug], given, each[slug], slug)

    return ArgumentSchema(schema, parse)


@cache  # at every start two tools ask for the same schema
def _schema(model: type[BaseModel]) -> Schema:
    """A model's JSON schema without the titles, which only repeat the names."""
    schema = model.model_json_schema()
    properties = {
        name: {key: value for key, value in each.items() if key != "title"}
        for name, each in schema["properties"].items()
    }
    kept: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**kept, "required": schema["required"]} if "required" in schema else kept


def _spanned(each: dict[str, Schema | None]) -> Schema:
    """One property for several models: the widest limits, and as description the defaults and what differs."""
    known = {slug: schema for slug, schema in each.items() if schema is not None}
    schema = next(iter(known.values()))
    merged = {key: value for key, value in schema.items() if key not in ("default", "description")}
    for limit, widest in (("minimum", min), ("maximum", max)):
        if limit in merged:
            merged[limit] = widest(schema[limit] for schema in known.values())
    words = {slug: _limits_in_words(schema) for slug, schema in known.items()}
    if len(set(words.values())) > 1:
        merged["description"] = " ".join(f"{slug}: {text}." for slug, text in words.items())
    elif "default" in schema and not _is_fixed(schema):
        merged["description"] = f"Default {_shown_default(schema)}."
    return merged


def _limits_in_words(schema: Schema) -> str:
    """What a property allows and its default, in words."""
    parts = [f"{schema['minimum']} to {schema['maximum']}"] if "minimum" in schema else []
    parts += [f"default {_shown_default(schema)}"] if "default" in schema else []
    return ", ".join(parts)


def _shown_default(schema: Schema) -> str:
    return json.dumps(schema["default"]).strip('"')


def _is_fixed(schema: Schema) -> bool:
    return "minimum" in schema and schema["minimum"] == schema["maximum"]


# ---- checking ----


def _without_fillers(given: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """The arguments without those that hosts add, and without the fillers of optional ones."""
    properties, required = schema["properties"], schema.get("required", [])

    def is_left_out(name: str, value: Any) -> bool:
        if name in properties:
            return name not in required and _is_filler(value, properties[name])
        return name in ADDED_BY_HOSTS

    return {name: value for name, value in given.items() if not is_left_out(name, value)}


def _is_filler(value: Any, schema: Schema) -> bool:
    """Whether a value only says that the argument is left out: null, or a text without a visible character.

    Unless the parameter is free text, the text "null" is null, just as the text "25" is 25: Claude Code sends null so
    (anthropics/claude-code#95239). Words such as "none" are not JSON, and 0 is a number, so these are real values.
    """
    if not isinstance(value, str):
        return value is None
    is_free_text = schema["type"] == "string" and not schema.keys() & {"enum", "pattern"}
    return is_blank(value) or (value.strip() == "null" and not is_free_text)


def _validated(model: type[ModelT_co], given: dict[str, Any], schema: Schema, taker: str) -> ModelT_co:
    properties = schema["properties"]
    # Unknown names are found here: pydantic does not name one that is not valid in UTF-8.
    sentences = _unknown_names(given, schema, taker)
    known = {name: given[name] for name in properties if given.get(name) is not None}
    unfit = {name: said for name, value in known.items() if (said := _unfit(name, value, properties[name]))}
    sentences += unfit.values()
    fit = {name: _bare(value, properties[name]) for name, value in known.items() if name not in unfit}
    try:
        read = model.model_validate(fit)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            name = str(each["loc"][0])
            if name not in unfit:
                sentences.append(_problem(each["type"], name, each["input"], properties[name]))
    else:
        if not sentences:
            return read
    raise InvalidArguments(_joined(sentences))


def _unfit(name: str, value: Any, schema: Schema) -> str:
    """The problem of a value that pydantic would accept: a text that is blank or too long, true for 1."""
    if isinstance(value, bool) and schema["type"] in ("integer", "number"):
        return _sentence(name, value, schema)
    if isinstance(value, str) and is_blank(value):
        return f"{name} is blank: {schema['description']}"
    if isinstance(value, str) and len(value) > (most := schema.get("maxLength", len(value))):
        return f"{name} has {len(value):,} characters, but may have at most {most:,}"
    return ""


def _bare(value: Any, schema: Schema) -> Any:
    """A value without the spaces around it, unless the parameter is a text."""
    return value.strip() if isinstance(value, str) and schema["type"] != "string" else value


def _unknown_names(given: dict[str, Any], schema: Schema, taker: str) -> list[str]:
    """A sentence about the first names that `taker` does not have; none if it has them all."""
    properties = list[str](schema["properties"])
    unknown = [name for name in given if name not in properties][:LISTED]
    if not unknown:
        return []
    said = ", ".join(f"{named(name)}{_hint(_meant(name, properties), schema['properties'])}" for name in unknown)
    return [f"{taker} has no parameter {said}; it takes {', '.join(properties)}"]


def _meant(given: str, known: Sequence[str], cutoff: float = 0.6) -> list[str]:
    """The known words that somebody may have meant: those for a word of other programs, or the nearest one."""
    given = given[:COMPARED].casefold()
    letters = _letters(given)
    if meant := [each for each in known if letters in map(_letters, OTHER_WORDS.get(each, ()))]:
        return meant
    spelled = {each.casefold(): each for each in known}
    return [spelled[near] for near in get_close_matches(given, spelled, n=1, cutoff=cutoff)]


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text)


def _hint(meant: Sequence[str], properties: Schema) -> str:
    """The suggestion of these words; of parameters that take one value only, with this value."""
    if not meant:
        return ""
    said = " and ".join(f"'{each}'" for each in meant)
    limits = properties.get(meant[0], {})
    if _is_fixed(limits):
        said += f", which {'is' if len(meant) == 1 else 'are'} always {limits['minimum']}"
    return f" (did you mean {said}?)"


def _joined(sentences: list[str]) -> str:
    return "; ".join(text.rstrip(".") for text in sentences)


def _problem(kind: str, name: str, value: Any, schema: Schema) -> str:
    """A pydantic error in words."""
    if kind == "missing":
        return f"{name} is missing: {schema['description']}"
    if kind == "string_unicode":
        return f"{name} is {_shown(value)}, but half a character is not text"
    return _sentence(name, value, schema)


def _sentence(name: str, value: Any, schema: Schema) -> str:
    """A sentence: `name` is `value`, but must be …."""
    said = f"{name} is {_shown(value)}, but "
    if "enum" in schema:
        given = value if isinstance(value, str) else ""
        return f"{said}must be one of: {', '.join(schema['enum'])}{_hint(_meant(given, schema['enum'], 0.4), {})}"
    if "pattern" in schema:
        return f"{said}may only hold letters, digits, - and _, at most 64 of them"
    kind = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}.get(schema["type"], "text")
    if "minimum" not in schema:
        return f"{said}must be {kind}"
    low, high = schema["minimum"], schema["maximum"]
    return f"{said}must be {low}" if low == high else f"{said}must be {kind} from {low} to {high}"


def _shown(value: Any) -> str:
    """A short text for any value."""
    if isinstance(value, str):
        return named(value)
    briefly = Repr()
    briefly.maxstring = LONGEST_KEY  # the halves of a key that is cut here would not be redacted
    try:
        text = redacted(briefly.repr(value))
    except ValueError:  # a number with thousands of digits
        return "too large a number to be shown"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
