"""The prompts: texts that guide an agent through the tools. Their arguments are checked and completed."""

import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import begun, job_of
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import GetPromptRequest, GetPromptRequestParams, GetPromptResult, PromptReference, TextContent

from mcp_vega.parameters import VegaRTParameters
from mcp_vega.server import prompts
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext

pytestmark = pytest.mark.anyio

VEGA, RT = "generate_image_vega", "generate_image_vegart"


async def text(agent: Client, name: str, **arguments: str) -> str:
    (message,) = (await agent.get_prompt(name, arguments)).messages
    assert message.role == "user"
    assert isinstance(message.content, TextContent)
    return message.content.text


async def test_the_prompts_are_listed_with_their_arguments(agent: Client) -> None:
    listed = {
        prompt.name: {argument.name: argument.required for argument in prompt.arguments or []}
        for prompt in (await agent.list_prompts()).prompts
    }
    assert listed == {
        "illustrate": {"passage": True, "pictures": False, "style": False, "scheduler": False},
        "explore": {"idea": True, "drafts": False, "scheduler": False},
        "vary": {"image": True, "change": True},
    }
    for prompt in (await agent.list_prompts()).prompts:
        assert prompt.title
        assert all(argument.description for argument in prompt.arguments or [])


async def test_illustrate_names_the_passage_the_number_of_pictures_and_the_tool(agent: Client) -> None:
    one = await text(agent, "illustrate", passage="The sea was calm.")
    assert one.endswith("<passage>\nThe sea was calm.\n</passage>")
    assert "Call generate_image_vega once with" in one
    assert 'scheduler "DPM2 Karras"' in one
    assert "check_job" in one
    several = await text(
        agent, "illustrate", passage="The sea was calm.", pictures="3", style="ink drawing", scheduler="UniPC"
    )
    assert "3 pictures" in several
    assert "Style of every picture: ink drawing." in several
    assert 'scheduler "UniPC"' in several
    assert "A picture costs about $0.00225. " in several


async def test_placeholders_count_as_left_out_and_numbers_are_accepted(agent: Client) -> None:
    fillers: list[Any] = [None, "", " ", "\u200b"]
    for filler in fillers:
        # As hosts send them. The types of this client allow only text.
        given = {"passage": "The sea.", "pictures": 1, "style": filler, "scheduler": filler, "toolCallId": "call_1"}
        asked = GetPromptRequestParams.model_construct(name="illustrate", arguments=given)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            answer = await agent.session.send_request(GetPromptRequest(params=asked), GetPromptResult)
        (message,) = answer.messages
        assert isinstance(message.content, TextContent)
        assert message.content.text == await text(agent, "illustrate", passage="The sea.")


async def test_explore_drafts_with_several_seeds_and_asks_before_it_finishes_one(agent: Client) -> None:
    explored = await text(agent, "explore", idea="a lighthouse", drafts="5")
    seeds = explored.partition("with these seeds in turn: ")[2].partition(".")[0].split(", ")
    assert len(set(seeds)) == 5
    assert all(seed.isdecimal() for seed in seeds)
    assert "generate_image_vegart" in explored
    assert "A draft costs about $0.002. " in explored
    assert "call check_job without a request id" in explored
    assert "ask which number to finish. Do not go on before I answer." in explored
    assert "generate_image_vega:" in explored
    assert "It costs about $0.0036." in explored
    assert seeds[0] not in await text(agent, "explore", idea="a lighthouse", drafts="5")


@pytest.mark.parametrize(
    "named", ["id", "uri", "preview", "request_id", "job", "file", "file name", "url", "eight digits"]
)
async def test_vary_gives_the_recipe_of_a_picture_under_any_of_its_names(agent: Client, named: str) -> None:
    arguments = {"prompt": "a fox", "negative_prompt": "blur", "seed": 7, "samples": 2, "base64": True}
    job = job_of(await agent.call_tool("generate_image_vega", arguments))
    image = job["images"][0]
    names = {
        "id": image["id"],
        "uri": image["uri"],
        "preview": f"{image['uri']}/preview",
        "request_id": job["request_id"],
        "job": f"vega://jobs/{job['request_id']}",
        "file": image["path"],
        "file name": Path(image["path"]).name,
        "url": f"https://pictures.example:8000/vega/images/{image['id']}",
        "eight digits": image["id"][:8].upper(),
    }
    varied = await text(agent, "vary", image=names[named], change="at night")
    assert "with one change: at night" in varied
    assert f'check_job with request_id "{job["request_id"]}"' in varied
    assert '{\n  "prompt": "a fox",\n  "seed": 7,\n  "negative_prompt": "blur",\n  "samples": 2\n}' in varied
    assert "picture 1 of a set of 2, so all 2 are drawn (and paid for)" in varied
    assert "negative_prompt" in varied
    second = await text(agent, "vary", image=job["images"][1]["id"], change="at night")
    assert "picture 2 of a set of 2" in second


async def test_vary_names_only_parameters_of_the_model(agent: Client) -> None:
    job = job_of(await agent.call_tool("generate_image_vegart", {"prompt": "a fox"}))
    varied = await text(agent, "vary", image=job["images"][0]["id"], change="at night")
    assert "Call generate_image_vegart" in varied
    assert "negative_prompt" not in varied
    assert f'"seed": {job["seed"]}' in varied


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("illustrate", {}, "passage is missing"),
    ("illustrate", {"passage": ""}, "passage is blank: What to illustrate"),
    ("illustrate", {"passage": "  \n", "style": ""}, "passage is blank"),
    ("illustrate", {"passage": "x", "pictures": "9"}, "pictures is '9', but must be a whole number from 1 to 8"),
    ("illustrate", {"passage": "x", "scheduler": "UniPCC"}, "did you mean 'UniPC'?"),
    ("illustrate", {"passage": "x", "picture": "1"}, "did you mean 'pictures'?"),
    ("explore", {"idea": "x", "drafts": "one"}, "drafts is 'one'"),
    ("vary", {"image": "0" * 32, "change": "x"}, "There is no picture with the id"),
    ("vary", {"image": "vega://jobs/none", "change": "x"}, "There is no picture with the id 'none'"),
    (
        "vary",
        {"image": "a-fox-7-01234567.jpg", "change": "x"},
        "There is no picture with the id 'a-fox-7-01234567.jpg'",
    ),
    ("draw", {}, "Use one of illustrate, explore, vary"),
]


async def test_a_prompt_with_wrong_arguments_is_an_error_that_says_why(agent: Client) -> None:
    for name, arguments, words in WRONG:
        with pytest.raises(MCPError) as caught:
            await agent.get_prompt(name, arguments)
        assert words in caught.value.error.message
        assert caught.value.error.code == -32602


async def test_vary_lists_the_pictures_that_match_the_words_and_chooses_none(agent: Client) -> None:
    async def refused(words: str) -> str:
        with pytest.raises(MCPError) as caught:
            await agent.get_prompt("vary", {"image": words, "change": "x"})
        return caught.value.error.message

    names: list[str] = []
    for prompt in ["a fox", *["a lighthouse at dusk"] * 4]:
        job = job_of(await agent.call_tool(RT, {"prompt": prompt}))
        names.insert(0, Path(job["images"][0]["path"]).name)
    one = await refused("Fox")
    assert "There is no picture with the id 'Fox'" in one
    assert f"\nNext: Name a picture that matches these words: {names[-1]}." in one
    assert f"these words: {', '.join(names[:3])}, or another one." in await refused("lighthouse dusk")
    assert "matches these words" not in await refused("whale")


async def test_vary_says_if_a_job_has_no_picture(agent: Client) -> None:
    failed = await agent.call_tool("generate_image_vegart", {"prompt": "a fox [fault:402]"})
    assert failed.is_error
    (job,) = ((await agent.call_tool("check_job", {})).meta or {})["mcp-vega/jobs"]
    with pytest.raises(MCPError, match=f"The job {job['request_id']} has no picture"):
        await agent.get_prompt("vary", {"image": job["request_id"], "change": "x"})


async def completed(agent: Client, name: str, argument: str, value: str) -> list[str]:
    reference = PromptReference(type="ref/prompt", name=name)
    completion = (await agent.complete(reference, {"name": argument, "value": value})).completion
    assert len(completion.values) <= 100
    return completion.values


async def test_schedulers_are_completed(agent: Client) -> None:
    assert len(await completed(agent, "illustrate", "scheduler", "")) == 12
    assert await completed(agent, "explore", "scheduler", "dpm2") == ["DPM2 a Karras", "DPM2 Karras"]
    assert await completed(agent, "vary", "change", "") == []
    assert await completed(agent, "vary", "scheduler", "") == []
    assert await completed(agent, "draw", "scheduler", "") == []


async def test_vary_completes_words_of_the_prompt_file_names_ids_and_uris_of_pictures(agent: Client) -> None:
    """Hosts filter by the typed text, so values that begin with it come first. The prompt accepts all values."""
    drawn = ["a lighthouse at dusk", "lighthouse keepers", "שועל אדום בשלג", "Café 100% CRÈME_x", "?!"]
    images = [job_of(await agent.call_tool(RT, {"prompt": prompt}))["images"][0] for prompt in drawn]
    dusk, keepers, hebrew, cafe, signs = (Path(image["path"]).name for image in images)
    uri = images[0]["uri"]
    for typed, values in {
        "": [signs, cafe, hebrew, keepers, dusk],
        " ": [signs, cafe, hebrew, keepers, dusk],
        "light": [keepers, dusk],
        "dusk Lighthouse": [dusk],
        "a-light": [dusk],
        dusk: [dusk],
        dusk[:-6]: [dusk],
        "שלג": [hebrew],
        "שועל": [hebrew],
        "cafe": [cafe],
        "cafe\u0301-100-": [cafe],  # macOS splits accented letters in this way
        "100%": [cafe],
        "%": [cafe],
        "_": [cafe],
        "picture-": [signs],
        "no such word": [],
        "w " * 60: [],
        "\U000e0001" * 15_000: [],  # invisible, and too long for a pattern of SQL
        images[1]["id"][:9]: [images[1]["id"]],
        uri[:-5]: [uri],
        f"{uri}/": [],
        "vega:": [image["uri"] for image in images[::-1]],
        "vega://jobs/": [],
    }.items():
        assert await completed(agent, "vary", "image", typed) == values, typed
    for value in (dusk, hebrew, cafe, signs, uri, images[1]["id"]):
        assert "with one change: at night" in await text(agent, "vary", image=value, change="at night")


async def test_vary_completes_at_most_a_hundred_pictures_that_exist_and_belong_to_the_caller(
    app: AppContext,
) -> None:
    hers = await begun(app.service, VegaRTParameters(prompt="fox"), "alice")
    async with Client(build_server(app)) as agent:
        drawn = [job_of(await agent.call_tool(VEGA, {"prompt": "fox", "samples": 4}))["images"] for _ in range(26)]
        gone = job_of(await agent.call_tool(RT, {"prompt": "fox"}))["images"][0]
        await app.gallery.delete(gone["id"], datetime.now(UTC))
        found = await completed(agent, "vary", "image", "fox")
    names = {Path(image["path"]).name for job in drawn for image in job}
    assert len(set(found) & names) == 100
    (image,) = (await app.service.get(hers.local_id)).images
    for typed, value in (("", image.name), ("fox", image.name), (image.id[:9], image.id), ("vega:", image.uri)):
        for owner, values in (("alice", [value]), ("bob", [])):
            offered = await prompts.completion(app, "vary", "image", typed, owner)
            assert offered
            assert offered.values == values
