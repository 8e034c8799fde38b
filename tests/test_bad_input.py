"""Which arguments are refused before anything is sent, and what the errors say."""

from typing import Any

import pytest
from conftest import Sandbox, job_of, text_of
from mcp.client import Client

from mcp_vega.server.tools import DEFINITIONS, ToolDefinition

# The refusals do not depend on the protocol's version, so one version is enough.
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("agent", ["auto"], indirect=True)]

VEGA = "generate_image_vega"
RT = "generate_image_vegart"
REFUSED: list[tuple[str, dict[str, Any], list[str]]] = [
    (VEGA, {"num_inference_steps": 19}, ["num_inference_steps is 19", "from 20 to 100"]),
    (VEGA, {"num_inference_steps": 101}, ["num_inference_steps is 101", "from 20 to 100"]),
    (RT, {"num_inference_steps": 3}, ["num_inference_steps is 3", "from 4 to 10"]),
    (RT, {"num_inference_steps": 11}, ["num_inference_steps is 11", "from 4 to 10"]),
    (VEGA, {"num_inference_steps": "many"}, ["num_inference_steps is 'many'", "a whole number from 20 to 100"]),
    (VEGA, {"num_inference_steps": 25.5}, ["num_inference_steps is 25.5", "a whole number"]),
    (VEGA, {"scheduler": "Euler B"}, ["scheduler is 'Euler B'", "DPM2 Karras", "did you mean 'Euler a'?"]),
    (VEGA, {"samples": 5}, ["samples is 5", "from 1 to 4"]),
    (VEGA, {"samples": True}, ["samples is True", "a whole number from 1 to 4"]),
    (VEGA, {"samples": 0}, ["samples is 0", "from 1 to 4"]),
    (VEGA, {"guidance_scale": 0.5}, ["guidance_scale is 0.5", "from 1 to 25"]),
    (VEGA, {"guidance_scale": "nan"}, ["guidance_scale is 'nan'", "from 1 to 25"]),
    (VEGA, {"seed": -2}, ["seed is -2", "from -1 to 999999999999999"]),
    (VEGA, {"seed": 10**15}, ["seed is 1000000000000000", "from -1 to 999999999999999"]),
    (VEGA, {"img_width": 512}, ["img_width is 512", "must be 1024"]),
    (RT, {"img_height": 2048}, ["img_height is 2048", "must be 1024"]),
    (VEGA, {"base64": "perhaps"}, ["base64 is 'perhaps'", "true or false"]),
    (VEGA, {"prompt": " \n"}, ["prompt is blank"]),
    (RT, {"prompt": ""}, ["prompt is blank"]),
    (VEGA, {"prompt": "\u200b"}, ["prompt is blank"]),
    ("submit_job", {"prompt": "\u3164"}, ["prompt is blank"]),
    (VEGA, {"prompt": "x" * 10_001}, ["prompt has 10,001 characters", "at most 10,000"]),
    (VEGA, {"negative_prompt": "狐" * 10_001}, ["negative_prompt has 10,001 characters", "at most 10,000"]),
    ("submit_job", {"prompt": "\u200b" * 8_000_000}, ["prompt has 8,000,000 characters", "at most 10,000"]),
    (VEGA, {"seed": "none"}, ["seed is 'none'", "a whole number"]),
    (VEGA, {"scheduler": "undefined"}, ["scheduler is 'undefined'", "must be one of"]),
    (VEGA, {"scheduler": "euler a"}, ["scheduler is 'euler a'", "did you mean 'Euler a'?"]),
    (VEGA, {"samples": "1e0"}, ["samples is '1e0'", "from 1 to 4"]),
    (VEGA, {"scheduler": "👩\u200d👩\u200d👧 \u202e"}, ["scheduler is '👩\u200d👩\u200d👧 \\u202e'"]),
    (VEGA, {"prompt": None}, ["prompt is missing"]),
    (VEGA, {"prompt": 3}, ["prompt is 3", "must be text"]),
    (RT, {"negative_prompt": "blur"}, ["segmind-vega-rt-v1 has no parameter 'negative_prompt'"]),
    (RT, {"guidance_scale": 3}, ["segmind-vega-rt-v1 has no parameter 'guidance_scale'"]),
    (VEGA, {"sample": 2}, ["no parameter 'sample'", "did you mean 'samples'?"]),
    (VEGA, {"steps": None}, ["no parameter 'steps'"]),
    (VEGA, {"steps": 30}, ["no parameter 'steps'", "it takes prompt, num_inference_steps"]),
    ("submit_job", {"model": "sdxl"}, ["model is 'sdxl'", "segmind-vega, segmind-vega-rt-v1"]),
    ("submit_job", {"model": "segmind-vegas"}, ["model is 'segmind-vegas'", "did you mean 'segmind-vega'?"]),
    ("submit_job", {"model": ["segmind-vega"]}, ["model is ['segmind-vega']"]),
    ("submit_job", {"num_inference_steps": 10}, ["num_inference_steps is 10", "from 20 to 100"]),
    ("submit_job", {"model": "segmind-vega-rt-v1", "samples": 2}, ["segmind-vega-rt-v1 has no parameter 'samples'"]),
    ("submit_job", {"widht": 1024}, ["submit_job has no parameter 'widht'"]),
    ("check_job", {"request_id": "a/b"}, ["request_id is 'a/b'", "letters, digits, - and _"]),
    ("check_job", {"request_id": "a" * 65}, ["request_id is 'aaa", "at most 64"]),
    ("check_job", {"wait_seconds": 46}, ["wait_seconds is 46", "from 0 to 45"]),
    ("check_job", {"id": "x"}, ["check_job has no parameter 'id'"]),
    (VEGA, {"tool_call_id": "call_1"}, ["no parameter 'tool_call_id'"]),
    (RT, {"negative_prompt": None}, ["segmind-vega-rt-v1 has no parameter 'negative_prompt'"]),
]


@pytest.mark.parametrize(
    ("tool", "arguments", "words"), REFUSED, ids=[f"{tool} {list(arguments)}" for tool, arguments, _ in REFUSED]
)
async def test_a_bad_argument_is_named_with_what_is_allowed_and_nothing_is_sent(
    agent: Client, sandbox: Sandbox, tool: str, arguments: dict[str, Any], words: list[str]
) -> None:
    given = arguments if tool == "check_job" else {"prompt": "a fox", **arguments}
    result = await agent.call_tool(tool, given)
    assert result.is_error
    what, charged, next_step = text_of(result).splitlines()
    assert what.startswith("Error: ")
    assert [word for word in words if word not in what] == []
    assert charged == "Charged: no."
    assert next_step.startswith("Next: ")
    assert sandbox.paid_requests == 0


async def test_all_bad_arguments_of_a_call_are_named_in_one_error(agent: Client) -> None:
    result = await agent.call_tool(VEGA, {"prompt": "a fox", "samples": 9, "seed": -5, "sheduler": "UniPC"})
    what = text_of(result).splitlines()[0]
    assert all(words in what for words in ("samples is 9", "seed is -5", "did you mean 'scheduler'?"))


async def test_numbers_given_as_text_are_accepted_and_null_counts_as_left_out(agent: Client, sandbox: Sandbox) -> None:
    arguments = {
        "prompt": "a fox",
        "num_inference_steps": "25",
        "guidance_scale": "9",
        "seed": "12",
        "img_width": "1024",
        "base64": "false",
        "samples": None,
        "scheduler": None,
        "negative_prompt": None,
    }
    job_of(await agent.call_tool(VEGA, arguments))
    (call,) = sandbox.account.calls.values()
    assert call.body == {
        "prompt": "a fox",
        "num_inference_steps": 25,
        "guidance_scale": 9.0,
        "seed": 12,
        "img_width": 1024,
        "img_height": 1024,
        "samples": 1,
        "scheduler": "DPM2 Karras",
        "base64": False,
    }


# What hosts send for an argument that was left out. The text "null" counts only if the parameter is not a text.
BLANK: list[Any] = [None, "", " \n", "\u200b", "\ufeff\u2800"]


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.name)
async def test_a_placeholder_for_an_optional_parameter_counts_as_left_out(
    agent: Client, sandbox: Sandbox, definition: ToolDefinition
) -> None:
    schema, parse = definition.arguments.schema, definition.arguments.parse
    given = {"prompt": "a fox"} if "required" in schema else {}
    fillers = {
        name: BLANK if each["type"] == "string" and "enum" not in each else [*BLANK, "null"]
        for name, each in schema["properties"].items()
        if name not in given
    }
    for name, each in fillers.items():
        assert [parse({**given, name: filler}) for filler in each] == [parse(given)] * len(each), name
    assert not (
        await agent.call_tool(definition.name, {**given, **{name: each[-1] for name, each in fillers.items()}})
    ).is_error
    assert sandbox.paid_requests == len(given)


async def test_the_arguments_as_a_whole_may_be_null(agent: Client) -> None:
    assert "No jobs yet" in text_of(await agent.call_tool("check_job", None))
    assert "prompt is missing" in text_of(await agent.call_tool("submit_job", None))


async def test_fields_that_known_hosts_add_are_dropped(agent: Client, sandbox: Sandbox) -> None:
    by_n8n = {"sessionId": "1", "action": "sendMessage", "chatInput": "draw", "tool": VEGA, "toolCallId": "call_1"}
    added = {**by_n8n, "task_progress": "- [ ] draw", "_meta": {"user": 1}}
    for tool in (RT, "submit_job"):
        job_of(await agent.call_tool(tool, {"prompt": "a fox", **added}))
    assert all(set(call.body).isdisjoint(added) for call in sandbox.account.calls.values())
    assert "The latest 2 jobs" in text_of(await agent.call_tool("check_job", added))


@pytest.mark.parametrize("prompt", ["[1, 2]", '"quoted"', "null", "25", "ein Füchslein im Schnee ❄", "x" * 10_000])
async def test_a_prompt_reaches_the_api_unchanged(agent: Client, sandbox: Sandbox, prompt: str) -> None:
    job_of(await agent.call_tool(VEGA, {"prompt": prompt, "negative_prompt": prompt}))
    (call,) = sandbox.account.calls.values()
    assert (call.body["prompt"], call.body["negative_prompt"]) == (prompt, prompt)


async def test_an_unknown_request_id_is_an_error_that_says_how_to_find_the_right_one(agent: Client) -> None:
    result = await agent.call_tool("check_job", {"request_id": "never-heard-of"})
    assert text_of(result).splitlines() == [
        "Error: Neither this server nor the API has a job with the id 'never-heard-of' (unknown_job).",
        "Charged: no.",
        "Next: Call check_job without a request_id to list the latest jobs.",
    ]
