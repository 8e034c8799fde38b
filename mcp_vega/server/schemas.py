"""The arguments of a tool or a prompt: the schema that describes them, and the parsing that checks them.

Hosts send numbers as strings and null for what is left out: both are taken. An unknown name or a value out of range
is refused in words that name the parameter, what is allowed and the nearest name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcp_vega.errors import InvalidArguments
from mcp_vega.job import REQUEST_ID
from mcp_vega.parameters import MODELS, Parameters, VegaParameters

Schema = dict[str, Any]
ModelT_co = TypeVar("ModelT_co", bound=BaseModel, covariant=True)


@dataclass(frozen=True)
class ArgumentSchema(Generic[ModelT_co]):
    """What a tool takes: `schema` for the agent, `parse` for the call (raises `InvalidArguments`)."""

    schema: Schema
    parse: Callable[[dict[str, Any]], ModelT_co]


class Arguments(BaseModel):
    """What a tool or a prompt is asked, once it is parsed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class CheckJobArguments(Arguments):
    """What `check_job` is asked."""

    # No counted repeat of a Unicode class: such a pattern takes 20 ms to compile.
    request_id: str = Field(
        default="",
        pattern=f"^({REQUEST_ID})?$",
        description="The id from a result's `Request id:` line. Left out: lists the latest jobs, newest first.",
    )
    wait_seconds: float = Field(
        default=0, ge=0, le=45, description="How long to wait for the end of the job, in seconds; 0 answers at once."
    )


def of_model(model: type[ModelT_co], taker: str) -> ArgumentSchema[ModelT_co]:
    """The arguments of a tool that takes the fields of one pydantic model; `taker` is its name in errors."""
    schema = _schema(model)

    def parse(given: dict[str, Any]) -> ModelT_co:
        return _validated(model, given, schema, taker)

    return ArgumentSchema(schema, parse)


def of_any_model() -> ArgumentSchema[Parameters]:
    """The arguments of `submit_job`: a model, and the parameters of all models in one flat schema.

    A parameter's limits span those of the models; the description names them per model, and `parse` checks by the
    model that was chosen. No default is published but that of `model`, because they differ.
    """
    each = {slug: _schema(model) for slug, model in MODELS.items()}
    names = dict.fromkeys(name for schema in each.values() for name in schema["properties"])
    model_property = {
        "type": "string",
        "enum": list(MODELS),
        "default": VegaParameters.slug,
        "description": "The model that draws: segmind-vega for quality, segmind-vega-rt-v1 for speed.",
    }
    properties = {name: _spanned({slug: each[slug]["properties"].get(name) for slug in each}) for name in names}
    schema: Schema = {
        "type": "object",
        "properties": {"model": model_property, **properties},
        "required": ["prompt"],
        "additionalProperties": False,
    }

    def parse(given: dict[str, Any]) -> Parameters:
        rest = dict(given)
        slug = rest.pop("model", None)
        slug = VegaParameters.slug if slug is None else slug
        if slug not in list(MODELS):  # a list compares also what cannot be hashed
            raise InvalidArguments(_sentence("model", slug, model_property))
        if unknown := [name for name in rest if name not in schema["properties"]]:
            raise InvalidArguments(_unknown(unknown[0], schema, "submit_job"))
        return _validated(MODELS[slug], rest, each[slug], slug)

    return ArgumentSchema(schema, parse)


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
    """One property for several models: the limits that hold for any, the description with those of each."""
    known = {slug: schema for slug, schema in each.items() if schema is not None}
    merged = {key: value for schema in known.values() for key, value in schema.items() if key != "default"}
    for limit, widest in (("minimum", min), ("maximum", max)):
        if limit in merged:
            merged[limit] = widest(schema[limit] for schema in known.values())
    words = {slug: _limits_in_words(schema) for slug, schema in known.items()}
    if len(known) == 1:
        (slug,) = known
        merged["description"] += f" Only for {slug}{f': {words[slug]}' if words[slug] else ''}."
    elif len(set(words.values())) > 1:
        merged["description"] += "".join(f" {slug}: {text}." for slug, text in words.items())
    elif default := next(iter(known.values())).get("default"):
        merged["description"] += f" Default {default}."
    return merged


def _limits_in_words(schema: Schema) -> str:
    """What a property allows and its default, in words."""
    parts = [f"{schema['minimum']} to {schema['maximum']}"] if "minimum" in schema else []
    parts += [f"default {schema['default']}"] if "default" in schema else []
    return ", ".join(parts)


# ---- checking ----


def _validated(model: type[ModelT_co], given: dict[str, Any], schema: Schema, taker: str) -> ModelT_co:
    properties = schema["properties"]
    # Unknown names are found here: pydantic does not name one that UTF-8 cannot carry.
    sentences = [_unknown(name, schema, taker) for name in given if name not in properties]
    try:
        read = model.model_validate({name: given[name] for name in properties if given.get(name) is not None})
    except ValidationError as error:
        for each in error.errors(include_url=False):
            name = str(each["loc"][0])
            match each["type"]:
                case "missing":
                    sentences.append(f"{name} is missing: {properties[name]['description']}")
                case "blank" | "string_too_short":
                    sentences.append(f"{name} is blank: it must say what to draw")
                case _:
                    sentences.append(_sentence(name, each["input"], properties[name]))
    else:
        if not sentences:
            return read
    raise InvalidArguments("; ".join(text.rstrip(".") for text in sentences))


def _unknown(name: str, schema: Schema, taker: str) -> str:
    near = get_close_matches(name, list[str](schema["properties"]), n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"{taker} has no parameter {_shown(name)}{hint}; it takes {', '.join(schema['properties'])}"


def _sentence(name: str, value: Any, schema: Schema) -> str:
    """`name` is `value`, but … is allowed."""
    said = f"{name} is {_shown(value)}, but "
    if "enum" in schema:
        given = value if isinstance(value, str) else ""
        near = get_close_matches(given, list[str](schema["enum"]), n=1, cutoff=0.4)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        return f"{said}must be one of: {', '.join(schema['enum'])}{hint}"
    if "pattern" in schema:
        return f"{said}may only hold letters, digits, - and _, at most 64 of them"
    kind = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}.get(schema["type"], "text")
    if "minimum" not in schema:
        return f"{said}must be {kind}"
    low, high = schema["minimum"], schema["maximum"]
    return f"{said}must be {low}" if low == high else f"{said}must be {kind} from {low} to {high}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
        return f"too large {'a number' if isinstance(value, int) else 'a value'} to be shown"
    return text if len(text) <= 80 else f"{text[:79]}…"
