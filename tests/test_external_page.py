"""The page in a real Chromium: over HTTP, opened by the command, and as an app in other projects' hosts.

They need Chromium (Debian: chromium), Node.js and the registry that npm installs from. Run them with `-m external`.
The screenshots are in the tests' folders.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from test_external import FOREIGN, INSPECTOR, NODE, configured, output_of
from test_transports import address, environment, started

from mcp_vega.cli.recipe import recipe_in
from mcp_vega.parameters import VegaParameters

pytestmark = pytest.mark.external

PROGRAMS = ["playwright-core@1.65.1", "axe-core@4.14.1", "@modelcontextprotocol/ext-apps@2.0.4", "esbuild@0.28.2"]
ALICE, BOB = "the-token-of-alice", "the-token-of-bob"
# Prompts with markup, very long ones, in other scripts, with many accents, and with characters that need quoting.
PROMPTS = [
    "<img src=x onerror=document.body.remove()><b>bold</b>",
    "W" * 10_000,
    "שועל אדום בשלג עמוק",
    "Z" + "\u0301\u0334\u0489" * 60,
    'it\'s "quoted" $HOME `id`\x15 \\ %s\n-- second line',
    "a lighthouse at dusk",
]
# The other parameters of the picture whose prompt needs quoting.
CHANGED: dict[str, Any] = {
    "negative_prompt": "it's blurred",
    "num_inference_steps": 30,
    "scheduler": "Euler a",
    "guidance_scale": 9,
}
# A picture with 30 steps in the sandbox.
COST = {"Steps": "30", "Cost": "$0.0027 (pretend)"}
# Hosts show an app without a policy, or with one that forbids every image.
NO_IMAGES = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with playwright-core, axe-core, the AppBridge of ext-apps, and our programs that use them."""
    folder = tmp_path_factory.mktemp("browser")
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, *PROGRAMS, INSPECTOR, NODE],
        cwd=folder,
        check=True,
        timeout=300,
    )
    for program in FOREIGN.glob("*.mjs"):
        shutil.copy(program, folder)
    return folder


def seen(browser: Path, program: str, folder: Path, **asked: Any) -> dict[str, Any]:
    """The report of a program that runs Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    assert chromium, "there is no Chromium here: apt-get install chromium"
    told = json.dumps({**asked, "chromium": chromium, "screenshots": str(folder)})
    return json.loads(output_of(str(browser / "node_modules" / ".bin" / "node"), program, told, folder=browser))


# ---- the page ----


async def draw(url: str, token: str) -> None:
    """Draw ten pictures: four with one call, and one for each prompt."""
    async with (
        create_mcp_http_client(headers={"authorization": f"Bearer {token}"}) as http,
        Client(streamable_http_client(url, http_client=http)) as agent,
    ):
        calls = [("generate_image_vega", {"prompt": "four boats", "samples": 4})]
        calls += [("generate_image_vegart", {"prompt": prompt}) for prompt in PROMPTS]
        calls[-2] = ("generate_image_vega", {"prompt": PROMPTS[-2], **CHANGED})
        for name, arguments in calls:
            assert not (await agent.call_tool(name, arguments)).is_error


def test_the_page_of_the_command_does_everything_that_a_person_can_ask_of_it(browser: Path, tmp_path: Path) -> None:
    with started(tmp_path, "--transport", "http", "--port", "0", "--sandbox"):
        anyio.run(draw, address(tmp_path), ALICE)
    with started(tmp_path, "--sandbox", "gallery", "--print") as process:
        assert process.stdout
        got = seen(browser, "gallery_page.mjs", tmp_path, url=process.stdout.readline().strip())
    assert_all_was_done(got)
    assert Path(got["recipe"]["File"]).is_relative_to(tmp_path)
    # The page's command draws the picture with another seed. In it, the prompt's control character is a space.
    variables = {**environment(tmp_path), "PATH": f"{Path(sys.executable).parent}:{environment(tmp_path)['PATH']}"}
    assigned = [f"{name}={value}" for name, value in variables.items()]
    recipe = recipe_in(Path(output_of("env", *assigned, "sh", "-c", got["command"], folder=tmp_path).strip()))
    prompt = PROMPTS[-2].replace("\x15", " ")
    assert recipe.parameters == VegaParameters(prompt=prompt, seed=recipe.parameters.seed, **CHANGED)
    assert str(recipe.parameters.seed) != got["recipe"]["Seed"]


def test_over_http_the_page_shows_people_who_sign_in_their_own_pictures(browser: Path, tmp_path: Path) -> None:
    variables = {"MCP_VEGA_AUTH_TOKENS": f"alice:{ALICE},bob:{BOB}"}
    with started(tmp_path, "--transport", "http", "--port", "0", "--sandbox", **variables):
        url = address(tmp_path)
        for token in (ALICE, BOB):
            anyio.run(draw, url, token)
        got = seen(browser, "gallery_page.mjs", tmp_path, url=url.removesuffix("mcp"), token=ALICE)
    refused = "The server does not know this access token. Ask the person who runs the server for your token."
    assert got["refused"] == refused
    assert_all_was_done(got)
    assert "/" not in got["recipe"]["File"]


def assert_all_was_done(got: dict[str, Any]) -> None:
    assert (got["violations"], got["complaints"], got["wide"], got["small"]) == ([], [], [False, False], [])
    captions = got["captions"]
    assert (got["count"], set(got["previews"])) == ("10 pictures", {384})
    assert captions == [*(f"{each[:200]}…" if len(each) > 200 else each for each in PROMPTS[::-1]), *["four boats"] * 4]
    assert got["spent"] == "Spent (pretend): $0.0217 in all"
    assert (got["end"], got["moved"], got["after"]) == ("10", "2", ["3", {}])
    recipe = {"Prompt": PROMPTS[-2], "Negative prompt": "it's blurred", "Model": "Segmind-Vega", **COST}
    assert got["recipe"].items() >= {**recipe, "Guidance": "9", "Scheduler": "Euler a"}.items()
    assert all(f"{name} {json.dumps(value)}" in got["sentence"] for name, value in CHANGED.items())
    assert got["searched"] == [{"q": "quoted"}, [PROMPTS[-2]]]
    assert got["download"] == [Path(got["recipe"]["File"]).name, None]
    assert {"Prompt", "Seed", "Model", "Steps"} <= set(got["compared"])
    assert got["starred"] == [captions[1], captions[1], {"starred": "1"}]
    deleted = {"gone": captions[1], "following": captions[2], "second": captions[2]}
    assert got["deleted"] == {**deleted, "shown": "Picture 2 of 9", "focused": "2", "count": "9 pictures"}


# ---- the app ----


@pytest.mark.parametrize("policy", ["", NO_IMAGES], ids=["no policy", "no images"])
def test_the_app_shows_results_in_a_host_built_on_the_app_bridge(browser: Path, tmp_path: Path, policy: str) -> None:
    asked = {"server": configured(tmp_path), "policy": policy, "prompt": PROMPTS[0]}
    got = seen(browser, "app_host.mjs", tmp_path, **asked)
    assert (got["violations"], got["complaints"]) == ([], [])
    assert got["mimeType"] == "text/html;profile=mcp-app"
    assert got["waiting"]["told"] == got["forged"]["told"] == "Waiting for the picture…"
    one, another, four, third = (got[name] for name in ("one", "another", "four", "third"))
    assert_painted(one, PROMPTS[0])
    assert one["rows"].items() >= {"Prompt": PROMPTS[0], "Seed": "7", **COST}.items()
    assert one["buttons"] == ["Another seed (free, sandbox)", "Copy prompt", "Copy for the chat", "Copy command"]
    assert {name for name in one["rows"] if one["rows"][name] != another["rows"][name]} >= {"Seed", "Request id"}
    assert got["calls"][1] == ["generate_image_vega", {"prompt": PROMPTS[0], "num_inference_steps": 30}]
    assert [canvas["label"] for canvas in four["canvases"]] == [f"Picture {number} of 4" for number in range(1, 5)]
    assert_painted(third, "four foxes")
    assert third["rows"]["Picture"] == "3 of 4 of one call"
    assert third["canvases"][0]["shown"] > four["canvases"][2]["shown"]
    assert got["jobs"]["canvases"][0]["label"] == "Contact sheet of the latest pictures"
    assert got["jobs"]["buttons"] == ["Show (free)"] * 3
    assert got["first"]["rows"] == one["rows"]
    assert got["refused"]["told"].startswith("seed is -7")
    assert got["leftOut"] == "Drawn earlier"
    # If the host gives no permission, no button makes calls. A frame of 420 px shows the complete picture.
    assert got["fixed"]["buttons"] == ["Copy prompt", "Copy for the chat", "Copy command"]
    assert max(got["fixed"]["canvases"][0]["shown"]) < 420
    assert got["ground"] == "rgb(19, 20, 22)"


def assert_painted(app: dict[str, Any], label: str) -> None:
    (canvas,) = app["canvases"]
    assert canvas["label"] == label
    assert canvas["colours"] > 100
    assert min(canvas["shown"]) > 200


def test_the_app_shows_results_in_the_inspector(browser: Path, tmp_path: Path) -> None:
    """The inspector forbids every image, and shows the app in a frame inside a frame."""
    got = seen(browser, "app_inspector.mjs", tmp_path, server=configured(tmp_path), prompt=PROMPTS[0])
    assert got["prompt"] == PROMPTS[0]
    assert got["colours"] > 100
    assert got["another"] != got["seed"]
