"""The schemas that agents read: the documented parameters with their exact limits."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import KEY
from mcp.client import Client

from mcp_vega import __version__
from mcp_vega.errors import InvalidArguments
from mcp_vega.parameters import VegaParameters, VegaRTParameters
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.server.schemas import of_any_model, of_model
from mcp_vega.server.tools import SANDBOX_NOTE

pytestmark = pytest.mark.anyio

SNAPSHOTS = Path(__file__).parent / "schemas"
SCHEDULERS = [
    "DDIM",
    "DPM Multi",
    "DPM Single",
    "Euler a",
    "Euler",
    "Heun",
    "DPM2 a Karras",
    "DPM2 Karras",
    "LMS",
    "PNDM",
    "DDPM",
    "UniPC",
]
# From the vendor's pages: type, default, minimum, maximum. Written out here, not taken from the package.
VEGA: dict[str, tuple[str, Any, Any, Any]] = {
    "prompt": ("string", None, None, None),
    "negative_prompt": ("string", None, None, None),
    "samples": ("integer", 1, 1, 4),
    "scheduler": ("string", "DPM2 Karras", None, None),
    "num_inference_steps": ("integer", 25, 20, 100),
    "guidance_scale": ("number", 7.5, 1, 25),
    "seed": ("integer", -1, -1, 999_999_999_999_999),
    "img_width": ("integer", 1024, 1024, 1024),
    "img_height": ("integer", 1024, 1024, 1024),
    "base64": ("boolean", False, None, None),
}
VEGA_RT: dict[str, tuple[str, Any, Any, Any]] = {
    "prompt": ("string", None, None, None),
    "num_inference_steps": ("integer", 4, 4, 10),
    "seed": ("integer", -1, -1, 999_999_999_999_999),
    "img_width": ("integer", 1024, 1024, 1024),
    "img_height": ("integer", 1024, 1024, 1024),
    "base64": ("boolean", False, None, None),
}


async def schema_of(agent: Client, name: str) -> dict[str, Any]:
    return next(tool.input_schema for tool in (await agent.list_tools()).tools if tool.name == name)


@pytest.mark.parametrize(("tool", "documented"), [("generate_image_vega", VEGA), ("generate_image_vegart", VEGA_RT)])
async def test_every_documented_parameter_is_in_the_schema_with_its_exact_limits(
    agent: Client, tool: str, documented: dict[str, tuple[str, Any, Any, Any]]
) -> None:
    schema = await schema_of(agent, tool)
    shown = {
        name: (each["type"], each.get("default"), each.get("minimum"), each.get("maximum"))
        for name, each in schema["properties"].items()
    }
    assert shown == documented
    assert schema["required"] == ["prompt"]
    assert schema["additionalProperties"] is False
    # The names and limits of these say everything; the tool's description says what steps cost.
    plain = {"num_inference_steps", "img_width", "img_height", "scheduler"}
    assert {name for name, each in schema["properties"].items() if not each.get("description")} == plain & set(shown)


@pytest.mark.parametrize("tool", ["generate_image_vega", "submit_job"])
async def test_vega_has_the_twelve_documented_schedulers(agent: Client, tool: str) -> None:
    schema = await schema_of(agent, tool)
    assert schema["properties"]["scheduler"]["enum"] == SCHEDULERS


async def test_submit_job_takes_a_model_and_the_union_of_the_parameters_with_defaults_in_words(agent: Client) -> None:
    schema = await schema_of(agent, "submit_job")
    properties = schema["properties"]
    assert set(properties) == {"model", *VEGA}
    model = properties.pop("model")
    assert model["enum"] == ["segmind-vega", "segmind-vega-rt-v1"]
    assert model["default"] == "segmind-vega"
    for name in set(VEGA) - set(VEGA_RT):
        assert name in model["description"].partition("segmind-vega-rt-v1 is for speed and has no ")[2]
    assert all("default" not in each for each in properties.values())
    steps = properties.pop("num_inference_steps")
    assert (steps["minimum"], steps["maximum"]) == (4, 100)
    assert steps["description"] == "segmind-vega: 20 to 100, default 25. segmind-vega-rt-v1: 4 to 10, default 4."
    for name, each in properties.items():
        kind, default, low, high = VEGA[name]
        assert (each["type"], each.get("minimum"), each.get("maximum")) == (kind, low, high)
        word = default if isinstance(default, str) else json.dumps(default)
        # A prompt has no default, and the sizes have one value only.
        assert each.get("description") == (None if default in (None, 1024) else f"Default {word}.")


# Each turn of a conversation contains these texts. Compact JSON of schemas has about 3.8 bytes a token (o200k), so the
# first limit is 1,400 tokens, and the second is 1,600. benchmarks/tokens.py counts tokens.
TOOLS_BYTES, WITH_INSTRUCTIONS_BYTES, WITH_META_BYTES = 5_300, 6_000, 5_500


@pytest.mark.parametrize("pretend", [False, True])
async def test_the_tools_and_instructions_take_little_of_a_models_context(app: AppContext, *, pretend: bool) -> None:
    """The sandbox may be longer: by its note in the descriptions of the three paid tools and in the instructions."""
    note = len(SANDBOX_NOTE) + 1 if pretend else 0
    async with Client(build_server(replace(app, sandbox=pretend)), mode="legacy") as agent:
        instructions = (agent.instructions or "").encode()
        whole = (await agent.list_tools()).model_dump(mode="json", by_alias=True, exclude_none=True)
    shown = [{name: value for name, value in tool.items() if name != "_meta"} for tool in whole["tools"]]
    tools = len(json.dumps(shown, separators=(",", ":")))
    assert tools <= TOOLS_BYTES + 3 * note
    assert tools + len(instructions) <= WITH_INSTRUCTIONS_BYTES + 4 * note
    assert len(json.dumps(whole, separators=(",", ":"))) <= WITH_META_BYTES + 3 * note


async def test_the_icon_of_the_server_is_sent_once_and_not_with_every_answer(app: AppContext) -> None:
    async with Client(build_server(app)) as agent:
        assert agent.server_info
        assert agent.server_info.icons
        answer = await agent.list_tools()
    assert answer.meta == {"io.modelcontextprotocol/serverInfo": {"name": "mcp-vega", "version": __version__}}


async def test_no_schema_uses_a_keyword_that_hosts_refuse(agent: Client) -> None:
    for tool in (await agent.list_tools()).tools:
        assert not set(tool.input_schema) & {"oneOf", "anyOf", "allOf", "$defs", "$ref"}
        for each in tool.input_schema["properties"].values():
            assert not set(each) & {"const", "oneOf", "anyOf", "allOf", "$ref"}
            assert "enum" not in each or each["type"] == "string"


@pytest.mark.parametrize("name", ["generate_image_vega", "generate_image_vegart", "submit_job", "check_job"])
async def test_the_schema_of_a_tool_is_that_of_its_snapshot(agent: Client, name: str) -> None:
    tool = next(tool for tool in (await agent.list_tools()).tools if tool.name == name)
    shown = tool.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert shown == json.loads((SNAPSHOTS / f"{name}.json").read_text(encoding="utf-8"))


async def test_the_annotations_of_the_tools_are_true(agent: Client) -> None:
    tools = (await agent.list_tools()).tools
    assert [tool.name for tool in tools] == ["generate_image_vega", "generate_image_vegart", "submit_job", "check_job"]
    for tool in tools:
        assert tool.title
        assert len((tool.description or "").encode()) < 1000
        assert tool.output_schema is None
        hints = tool.annotations
        assert hints
        assert hints.read_only_hint is (tool.name == "check_job")
        # The protocol takes a tool that may write for destructive, and every tool for open.
        assert hints.destructive_hint is (None if hints.read_only_hint else False)
        assert hints.open_world_hint is False


async def test_the_descriptions_and_instructions_say_what_an_agent_needs_to_know(agent: Client) -> None:
    """Some hosts show people neither the picture nor the text, and some do not show models the instructions.

    Some show a model one tool alone.
    """
    described = {tool.name: tool.description or "" for tool in (await agent.list_tools()).tools}
    vega, rt, submit, check = described.values()
    back = [
        "Returns a preview, seed, cost and the full image's path or URL (always give it to the user)",
        "or, if drawing is slow, only a request id for check_job.",
    ]
    once = "Calls are paid: never repeat one that timed out."
    needed = [
        (vega, ["About $0.00225 and 2.36 s an image at 25 steps; both grow with steps and samples.", *back, once]),
        (rt, ["About $0.0020 and 1.68 s an image at 4 steps; both grow with steps.", *back, once]),
        (submit, ["return its request id for check_job", "$0.00225", "$0.0020", once]),
        (check, ["Free.", "Always give the user the path or URL.", "Without an id: the latest jobs"]),
        (
            " ".join((agent.instructions or "").split()),
            ["Always give the user the path or URL", "paid for", "ask check_job; never repeat it", "vega://gallery?q="],
        ),
    ]
    assert [sentence for text, sentences in needed for sentence in sentences if sentence not in text] == []


async def test_the_server_gives_its_name_version_and_icon(agent: Client) -> None:
    info = agent.server_info
    assert info
    assert info.name == "mcp-vega"
    assert info.version == __version__
    assert info.icons
    assert info.icons[0].src.startswith("data:image/png;base64,")
    assert "Generate images" in (agent.instructions or "")


def nested() -> list[Any]:
    lists: list[Any] = []
    for _ in range(100_000):  # Python 3.13 shows ten times as many levels as 3.11
        lists = [lists]
    return lists


DEEP = nested()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("\ud800", 1, r"has no parameter '\ud800'"),
        ("seed", 10**5000, "seed is too large a number to be shown, but must be a whole number from -1 to"),
        ("scheduler", DEEP, "scheduler is [[[[[[[...]]]]]]], but must be one of: DDIM"),
        ("base64", DEEP, "base64 is [[[[[[[...]]]]]]], but must be true or false"),
        ("prompt", "a fox \ud83e", r"prompt is 'a fox \ud83e', but half a character is not text"),
        ("seed", [KEY * 3], "seed is ['SG_…'], but must be a whole number"),
        ("seed", f"{KEY[:4]}\u200d{KEY[4:]}", "seed is 'SG_…', but must be a whole number"),
    ],
    ids=["half a name", "5000 digits", "no scheduler", "no boolean", "half an emoji", "a key", "a hidden key"],
)
def test_arguments_that_cannot_be_shown_are_refused_with_a_normal_error(name: str, value: Any, said: str) -> None:
    """The name arrives over HTTP, where the SDK uses Python's own JSON parser."""
    for taker in (of_model(VegaParameters, "generate_image_vega"), of_any_model()):
        with pytest.raises(InvalidArguments) as caught:
            taker.parse({"prompt": "a fox", name: value})
        assert said in caught.value.what


WIDTH, HEIGHT = "'img_width', which is always 1024", "'img_height', which is always 1024"
BOTH = "'img_width' and 'img_height', which are always 1024"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["steps"], "'num_inference_steps'"),
        (["sampler", "sampler_name", "samplerName"], "'scheduler'"),
        (["n", "num_images", "count", "batch_size"], "'samples'"),
        (["cfg", "cfg_scale", "guidance", "Guidance-Scale"], "'guidance_scale'"),
        (["negative"], "'negative_prompt'"),
        (["width"], WIDTH),
        (["height"], HEIGHT),
        (["size"], BOTH),
    ],
)
def test_names_from_other_programs_are_refused_with_the_right_name(words: list[str], meant: str) -> None:
    for word in words:
        for taker in (of_model(VegaParameters, "generate_image_vega"), of_any_model()):
            with pytest.raises(InvalidArguments, match=re.escape(f"'{word}' (did you mean {meant}?); it takes ")):
                taker.parse({"prompt": "a fox", word: 1})


def test_only_parameters_of_the_model_are_suggested() -> None:
    with pytest.raises(InvalidArguments) as caught:
        of_model(VegaRTParameters, "rt").parse({"prompt": "a fox", "sampler": 1, "n": 2, "steps": 4})
    said = "rt has no parameter 'sampler', 'n', 'steps' (did you mean 'num_inference_steps'?); it takes prompt, "
    assert caught.value.what.startswith(said)
    assert caught.value.what.count("it takes") == 1


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("model", "vega", "segmind-vega"),
        ("model", "vegart", "segmind-vega-rt-v1"),
        ("model", "Segmind VegaRT", "segmind-vega-rt-v1"),
        ("scheduler", "ddim", "DDIM"),
        ("scheduler", "euler_a", "Euler a"),
    ],
)
def test_other_spellings_of_a_value_are_refused_with_the_right_value(name: str, given: str, meant: str) -> None:
    with pytest.raises(InvalidArguments, match=rf"\(did you mean '{meant}'\?\)$"):
        of_any_model().parse({"prompt": "a fox", name: given})


def test_a_model_that_cannot_be_shown_is_refused_with_a_normal_error() -> None:
    with pytest.raises(InvalidArguments, match=r"model is \[\[\[\[\[\[\[\.\.\.\]"):
        of_any_model().parse({"prompt": "a fox", "model": DEEP})


@pytest.mark.parametrize("filler", [None, "", " \n", "\u200b", "\ufeff\u2800", "null"], ids=repr)
def test_a_placeholder_for_a_parameter_of_the_other_model_counts_as_left_out(filler: str | None) -> None:
    names = ["samples", "scheduler", "guidance_scale", *(["negative_prompt"] if filler != "null" else [])]
    given = {"prompt": "a fox", "model": "segmind-vega-rt-v1"}
    parse = of_any_model().parse
    assert parse({**given, **dict.fromkeys(names, filler)}) == parse(given)
    assert parse(given).slug == "segmind-vega-rt-v1"


def test_spaces_around_a_value_that_is_not_text_are_ignored() -> None:
    given = {"num_inference_steps": " 30.0 ", "guidance_scale": " 9 ", "base64": " True ", "seed": "7\n"}
    asked = of_any_model().parse({"prompt": " a fox ", **given})
    meant = {"num_inference_steps": 30, "guidance_scale": 9.0, "base64": True, "seed": 7}
    assert asked == VegaParameters.model_validate({"prompt": " a fox ", **meant})


LONG = "x" * 30_000_000


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": LONG},
        {"prompt": "\u200b" * 30_000_000},
        {"scheduler": LONG},
        {"seed": LONG},
        {"samples": {"a": [LONG] * 100}},
        {"model": LONG},
        {LONG: 1},
        {str(number): 1 for number in range(100_000)},
    ],
    ids=["prompt", "blank prompt", "scheduler", "seed", "samples", "model", "name", "names"],
)
def test_long_arguments_are_refused_quickly_with_a_short_error(arguments: dict[str, Any]) -> None:
    began = time.perf_counter()
    with pytest.raises(InvalidArguments) as caught:
        of_any_model().parse({"prompt": "a fox", **arguments})
    assert len(caught.value.what) < 1500
    assert time.perf_counter() - began < 2, "letter by letter it would take a minute"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "\u200b",
            "\ufeff",
            "\u2800",
            "\u3164",
            "\u115f\u1160",
            "\uffa0",
            "\u00ad",
            "\u2060",
            "\u061c",
            "\u202e\u2066",
        ),
        *("\u0301\u0302", "\ufe0f", "\u200d\u200d", "\U000e0041", "\0", "\x1b\x9b", "\u2028", "\u3000", "\u00a0 \t"),
        *("\ue000", "\U0010fffd", "\u0378", "\ud800", "\ufffd", "\ufffc", "\uffff"),
    ],
    ids=ascii,
)
def test_a_prompt_without_visible_characters_is_blank(text: str) -> None:
    for taker in (of_model(VegaParameters, "segmind-vega"), of_any_model()):
        for prompt in (text, f" {text}\n{text} "):
            with pytest.raises(InvalidArguments, match="prompt is blank: What to draw"):
                taker.parse({"prompt": prompt})


@pytest.mark.parametrize(
    "prompt",
    [
        *("?", "…", "_", "7", "x", "é", "e\u0301", "❤\ufe0f", "🦊", "👍🏽", "👩\u200d👩\u200d👧", "🇩🇪", "©", "🏻"),
        *(
            "狐",
            "キ",
            "여우",
            "\u1112\u1161\u11ab",
            "الثعلب",
            "שועל",
            "می\u200cخواهم",  # noqa: RUF001  Persian
            "สุนัขจิ้งจอก",
            "लोमड़ी",
            "ཝ",
            "\U0001fae9",
        ),
    ],
)
def test_a_prompt_in_any_script_is_accepted_unchanged(prompt: str) -> None:
    assert of_any_model().parse({"prompt": prompt}).prompt == prompt
