"""The documents agree with the code, the example with the README, the picture with the painter."""

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from PIL import Image, ImageChops, ImageStat

from mcp_vega.cli import listening
from mcp_vega.errors import SegmindError, VegaError
from mcp_vega.hosts.config_file import HostConfigError
from mcp_vega.hosts.entry import NotInstalled
from mcp_vega.sandbox.painter import paint
from mcp_vega.segmind import calls, media
from mcp_vega.segmind.parameters import MODELS
from mcp_vega.server import door
from mcp_vega.server.door import NotAdmitted
from mcp_vega.server.resources import TEMPLATES
from mcp_vega.settings import Settings
from mcp_vega.studio.limits import Limits
from mcp_vega.studio.pictures import BUDGETS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def rows(first_column: str) -> list[list[str]]:
    """The rows of the table whose first heading is `first_column`."""
    table = README[README.index(f"| {first_column} |") :].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_first_two_commands_are_for_a_newcomer() -> None:
    draw, test, *_ = blocks("sh")
    assert draw.strip().endswith('.venv/bin/mcp-vega draw "a lighthouse at dusk" --sandbox -o lighthouse.jpg')
    assert test.strip().endswith(".venv/bin/pytest")
    assert draw.count("\n") == test.count("\n") == 1


def test_the_example_configuration_is_the_one_in_the_readme() -> None:
    example = json.loads((ROOT / "claude_desktop_config.example.json").read_text(encoding="utf-8"))
    (shown,) = blocks("json")
    assert json.loads(shown) == example
    assert example["mcpServers"]["vega"]["command"].endswith("/.venv/bin/mcp-vega")


def test_the_table_of_settings_is_what_the_class_says() -> None:
    def shown(default: Any) -> str:
        if default in (None, "", ()):
            return "–"
        return f"`{int(default) if isinstance(default, bool) else default}`"

    assert rows("variable") == [
        [f"`{field.alias}`", shown(field.default), field.description] for field in Settings.model_fields.values()
    ]


@pytest.mark.anyio
async def test_the_tables_of_tools_and_parameters_are_those_of_the_server(agent: Client) -> None:
    tools = (await agent.list_tools()).tools
    assert [row[0].strip("`") for row in rows("tool")] == [tool.name for tool in tools]
    costs = [row[2] for row in rows("tool")]
    for model, cost in zip(MODELS.values(), costs, strict=False):
        assert cost.startswith(f"${model.average_cost}")

    for column, tool in enumerate(tools[:2], 1):
        documented = {
            name.strip("` "): row[column]
            for row in rows("parameter")
            for name in row[0].split(",")
            if row[column] != "–"
        }
        properties = tool.input_schema["properties"]
        assert set(documented) == set(properties)
        for name, words in documented.items():
            schema = properties[name]
            if schema.get("minimum") != schema.get("maximum"):
                assert f"{schema['minimum']} to {schema['maximum']}" in words
            if "default" in schema:
                default = re.escape(json.dumps(schema["default"]).strip('"'))
                assert re.search(rf"(^|default ){default}(;|$)", words), name


def test_the_table_of_resources_is_what_the_server_reads() -> None:
    assert [row[0].strip("`") for row in rows("resource")] == [template.uri_template for template in TEMPLATES]


def test_the_table_of_previews_is_what_the_modes_allow() -> None:
    for mode, one, several, together in rows("mode")[:-1]:
        budget = BUDGETS[mode.strip("`")]  # pyright: ignore[reportArgumentType]  the mode's name
        for said, side in ((one, budget.side), (several, budget.side_of_several)):
            assert said == "full size" if side == 1024 else f"up to {side} px" in said
        assert f"{budget.characters:,}" in together
    assert rows("mode")[-1][0] == "`off`"


def kinds(of: type[VegaError] = VegaError) -> list[type[VegaError]]:
    return [each for kind in of.__subclasses__() for each in (kind, *kinds(kind))]


def test_the_table_of_errors_is_what_the_classes_say() -> None:
    documented = [kind for kind in kinds() if kind not in (SegmindError, NotAdmitted)]  # these are never raised
    table = [
        f"| `{kind.code}` | {(kind.__doc__ or '').splitlines()[0]} | {kind.charged} | {kind.next_step}. |"
        for kind in documented
    ]
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    # Some are defined beside what raises them, so that their order depends on what was imported first.
    assert sorted(line for line in text.splitlines() if line.startswith("| `")) == sorted(table)
    assert len({kind.code for kind in documented}) == len(documented)
    assert {HostConfigError, NotInstalled} < set(documented)


def test_the_figures_of_the_security_page_are_those_of_the_code() -> None:
    text = " ".join((ROOT / "SECURITY.md").read_text(encoding="utf-8").split())
    for said in (
        f"Not more than {Limits().calls_at_once} paid calls are under way at once",
        f"A picture has at most {media.MAX_BYTES // 10**6} MB",
        f"answer of the API {calls.ANSWER_BYTES // 10**6} MB",
        f"A body has at most {door.BODY_BYTES // 10**6} MB and {door.BODY_SECONDS:.0f} seconds",
        f"headers {door.HEADER_BYTES // 1000} kB and {listening.HEADER_SECONDS:.0f} seconds",
        f"left unread for {listening.UNREAD_SECONDS:.0f} seconds",
        f"at most {listening.CONNECTIONS} connections",
    ):
        assert said in text
    assert calls.MEDIA_SECONDS == 120  # "two minutes"


def test_the_picture_in_the_readme_is_one_that_the_sandbox_paints() -> None:
    with (
        Image.open(ROOT / "docs" / "lighthouse.jpg") as shown,
        Image.open(io.BytesIO(paint("a lighthouse at dusk", 7))) as painted,
    ):
        difference = ImageChops.difference(shown.resize((128, 128)), painted.resize((128, 128)))
    # Another Pillow may encode differently, so not to the byte.
    assert max(ImageStat.Stat(difference).mean) < 3


@pytest.mark.skipif(shutil.which("awk") is None, reason="CI has awk")
def test_ci_runs_the_readmes_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (program,) = re.findall(r"awk '(.*?)' README\.md", script)
    command = subprocess.run(["awk", program, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert command == blocks("sh")[1]
