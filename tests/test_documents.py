"""The documents agree with the code, the example with the README, the pictures with the painter."""

import importlib
import io
import json
import pkgutil
import re
import shutil
import subprocess
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from pages import PAGES, ROOT, of_language, read, rows
from PIL import Image, ImageChops, ImageStat

import mcp_vega
from mcp_vega.cli.parser.commands import build_parser
from mcp_vega.errors import SegmindError, VegaError
from mcp_vega.imaging.formats import MAX_BYTES
from mcp_vega.imaging.preview import PREVIEW_LIMITS
from mcp_vega.job import State
from mcp_vega.parameters import MODELS
from mcp_vega.sandbox.painter import paint
from mcp_vega.segmind import http as segmind_http
from mcp_vega.server import prompts
from mcp_vega.server.http.access.rejections import RequestRejected
from mcp_vega.server.http.limits import HttpLimits
from mcp_vega.server.resources import TEMPLATES
from mcp_vega.settings import Settings
from mcp_vega.storage.ledger.spending import Limits
from mcp_vega.telemetry.logs import FIELDS

README, TOOLS = read("README.md"), read("docs/tools.md")


def test_the_first_two_commands_of_the_readme_work() -> None:
    draw, test = of_language(README, "sh")
    assert draw.endswith('.venv/bin/mcp-vega draw "a lighthouse at dusk" --sandbox -o lighthouse.jpg')
    assert test.endswith(".venv/bin/pytest")
    # A block is one command, even if it is pasted: every line but the last continues only if it worked.
    assert all(line.endswith(" &&") for block in (draw, test) for line in block.splitlines()[:-1])


def test_the_example_configuration_is_the_one_in_the_readme() -> None:
    example = json.loads(read("claude_desktop_config.example.json"))
    (shown,) = of_language(README, "json")
    assert json.loads(shown) == example
    assert example["mcpServers"]["vega"]["command"].endswith("/.venv/bin/mcp-vega")


def test_the_table_of_settings_is_that_of_the_class() -> None:
    def shown(default: Any) -> str:
        if default in (None, "", ()):
            return "–"
        return f"`{int(default) if isinstance(default, bool) else default}`"

    assert rows(read("docs/settings.md"), "variable") == [
        [f"`{field.alias}`", shown(field.default), field.description] for field in Settings.model_fields.values()
    ]


def options_of(parser: ArgumentParser, command: str = "mcp-vega") -> Iterator[list[str]]:
    """The options of a command and of its subcommands, as the table writes them."""
    for action in parser._actions:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  argparse shows them nowhere else
        if isinstance(action.choices, dict):
            commands: dict[str, ArgumentParser] = action.choices  # pyright: ignore[reportUnknownVariableType]
            for name, below in commands.items():
                yield from options_of(below, name)
        elif action.dest != "help":
            option = ", ".join(action.option_strings)
            choices = f"{{{','.join(action.choices)}}}" if action.choices else option.rpartition("-")[2].upper()
            value = "" if action.nargs == 0 else f" {action.metavar or choices}"
            yield [f"`{command}`", f"`{f'{option}{value}'.strip()}`", str(action.help)]


def test_every_command_is_described() -> None:
    (commands,) = (list(each.choices) for each in build_parser()._actions if isinstance(each.choices, dict))  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportUnknownArgumentType]
    described = re.findall("`mcp-vega ([a-z]+)", read("docs/settings.md").partition("## Options")[0])
    assert set(described) == set(commands)


def test_the_table_of_options_has_the_options_of_the_commands() -> None:
    assert rows(read("docs/settings.md"), "command") == [*options_of(build_parser())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_that_is_named_is_a_setting(page: Path) -> None:
    named = set(re.findall(r"\b(?:SEGMIND|MCP_VEGA)_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))
    of_tests = {"MCP_VEGA_TEST_SERVICES", "MCP_VEGA_TEST_ENGINE"}
    assert named <= {field.alias for field in Settings.model_fields.values()} | of_tests


@pytest.mark.anyio
async def test_the_tables_of_tools_and_parameters_are_those_of_the_server(agent: Client) -> None:
    tools = (await agent.list_tools()).tools
    assert [row[0].strip("`") for row in rows(README, "tool")] == [tool.name for tool in tools]
    assert re.findall(r"^\| \[`(\w+)`\]\(#\1\)", TOOLS, re.MULTILINE) == [tool.name for tool in tools]
    costs = [row[2] for row in rows(README, "tool")]
    for model, cost in zip(MODELS.values(), costs, strict=False):
        assert cost.startswith(f"${model.average_cost}")

    for column, tool in enumerate(tools[:2], 1):
        documented = {
            name.strip("` "): row[column]
            for row in rows(TOOLS, "parameter")
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


def test_the_table_of_resources_is_that_of_the_server() -> None:
    assert [row[0].strip("`") for row in rows(TOOLS, "resource")] == [template.uri_template for template in TEMPLATES]


def test_the_table_of_prompts_is_that_of_the_server() -> None:
    assert [[cell.strip("`") for cell in row[:1]] + [row[2]] for row in rows(TOOLS, "prompt")] == [
        [prompt.name, ", ".join(f"`{argument.name}`" for argument in prompt.arguments or [])]
        for prompt in (definition.shown for definition in prompts.DEFINITIONS)
    ]


def test_the_table_of_the_fields_of_the_log_is_that_of_the_code() -> None:
    assert [row[0].strip("`") for row in rows(read("docs/operating.md"), "field")] == list(FIELDS)


def test_the_table_of_states_is_that_of_the_code() -> None:
    assert [row[0].strip("`") for row in rows(read("docs/jobs-and-money.md"), "state")] == list(State)


def test_the_table_of_previews_has_the_modes_and_their_limits() -> None:
    for mode, one, several, together in rows(TOOLS, "mode")[:-1]:
        budget = PREVIEW_LIMITS[mode.strip("`")]  # pyright: ignore[reportArgumentType]  the name of a mode
        for said, side in ((one, budget.side), (several, budget.side_of_several)):
            assert said == "full size" if side == 1024 else f"up to {side} px" in said
        assert f"{budget.characters:,}" in together
    assert rows(TOOLS, "mode")[-1][0] == "`off`"


def kinds() -> list[type[VegaError]]:
    """All error classes of the package. The modules that need an extra have none."""
    for module in pkgutil.walk_packages(mcp_vega.__path__, "mcp_vega."):
        needs_extra = re.search(r"\.(postgres|prometheus|diffusion)\b", module.name)
        if not module.name.endswith("__main__") and not needs_extra:
            importlib.import_module(module.name)
    return below(VegaError)


def below(kind: type[VegaError]) -> list[type[VegaError]]:
    return [each for child in kind.__subclasses__() for each in (child, *below(child))]


def test_the_table_of_errors_is_that_of_the_classes() -> None:
    documented = [kind for kind in kinds() if kind not in (SegmindError, RequestRejected)]  # these are never raised
    table = [
        f"| `{kind.code}` | {(kind.__doc__ or '').splitlines()[0]} | {kind.charged} | {kind.next_step}. |"
        for kind in documented
    ]
    text = read("docs/errors.md")
    # The order of the classes depends on the imports.
    assert sorted(line for line in text.splitlines() if line.startswith("| `")) == sorted(table)
    assert len({kind.code for kind in documented}) == len(documented)


def test_the_table_of_http_statuses_is_that_of_the_classes() -> None:
    documented = {
        (code.strip("` "), int(row[0]))
        for row in rows(read("docs/errors.md"), "HTTP status")
        for code in row[1].split(",")
    }
    assert documented == {(kind.code, kind.status) for kind in RequestRejected.__subclasses__()}


def test_every_error_code_in_the_list_of_symptoms_exists() -> None:
    seen = re.findall(r"^\*\*You see\*\*.*?\n\n", read("docs/troubleshooting.md"), re.DOTALL | re.MULTILINE)
    codes = {code for text in seen for code in re.findall("`((?!generate_)[a-z_]+)`", text)}
    assert len(codes) > 5
    assert codes <= {kind.code for kind in kinds()}


def test_the_figures_of_the_security_page_are_those_of_the_code() -> None:
    text = " ".join(read("SECURITY.md").split())
    limits = HttpLimits()
    for said in (
        f"at most {Limits().calls_at_once} paid calls under way",
        f"A picture has at most {MAX_BYTES // 10**6} MB",
        f"An answer of the API has at most {segmind_http.ANSWER_BYTES // 10**6} MB",
        f"| body of a request | {limits.body_bytes // 10**6} MB, {limits.body_seconds:.0f} seconds |",
        f"| headers of a request | {limits.header_bytes // 1000} kB, {limits.header_seconds:.0f} seconds |",
        f"| body of a sign-in or sign-out | {limits.header_bytes // 1000} kB, {limits.body_seconds:.0f} seconds |",
        f"| an answer that the client does not read | {limits.unread_seconds:.0f} seconds",
        f"rejected request (at most {limits.drained_bytes // 10**6} MB)",
        f"at most {limits.connections} connections, and one caller at most {limits.connections_each}",
        f"whose caller is not known yet have {limits.unknown_connections} places of their own",
    ):
        assert said in text
    assert segmind_http.TimeLimits().media == 120  # "two minutes"
    assert segmind_http.TimeLimits().drawing == 300  # "five minutes"
    assert limits.wrong_token_seconds == 1  # "a second"


def difference(one: Image.Image, other: Image.Image) -> float:
    """The difference of two pictures, from 0 to 255. Another Pillow may encode them differently, so it may not be 0."""
    size = (one.width // 8, one.height // 8)
    apart = ImageChops.difference(one.resize(size), other.resize(size))
    return max(ImageStat.Stat(apart).mean)


def test_the_picture_in_the_readme_was_painted_by_the_sandbox() -> None:
    with (
        Image.open(ROOT / "docs" / "lighthouse.jpg") as shown,
        Image.open(io.BytesIO(paint("a lighthouse at dusk", 7))) as painted,
    ):
        assert difference(shown, painted.resize(shown.size)) < 3


def test_the_four_pictures_were_painted_by_the_sandbox() -> None:
    with Image.open(ROOT / "docs" / "four.jpg") as shown:
        side, step = shown.height, (shown.width + 4) // 4
        for index in range(4):
            with Image.open(io.BytesIO(paint("a valley in the mountains at dawn", 7, index))) as painted:
                part = shown.crop((index * step, 0, index * step + side, side))
                assert difference(part, painted.resize(part.size)) < 3


def test_the_drawing_of_a_call_names_the_packages_and_is_readable_in_light_and_dark_mode() -> None:
    drawing = read("docs/call.svg")
    shown = re.findall(r'class="name"[^>]*>([^<]+)<', drawing)
    assert shown == ["host", "server", "jobs", "segmind", "the API", "sandbox", "ledger", "gallery"]
    package = ROOT / "mcp_vega"
    assert all((package / name).is_dir() for name in ("server", "jobs", "segmind", "sandbox", "storage"))
    day, night = drawing.partition("@media (prefers-color-scheme: dark)")[::2]
    styled = re.compile(r"\.(\w+) \{")
    assert set(re.findall(r'class="(\w+)"', drawing)) == set(styled.findall(day)) == set(styled.findall(night))


def test_the_path_of_a_call_names_existing_functions() -> None:
    path = next(text for text in of_language(read("docs/architecture.md"), "text") if "generate_image_vega" in text)
    steps = re.findall(r"([a-z_/]+\.py) +([\w.]+): ", path)
    assert len(steps) > 10
    for file, name in steps:
        source = (ROOT / "mcp_vega" / file).read_text(encoding="utf-8")
        *owner, function = name.split(".")
        assert re.search(rf"^ *(async )?def {function}\(", source, re.MULTILINE), name
        assert all(f"class {each}" in source for each in owner), name


def test_the_architecture_page_names_existing_files() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", read("docs/architecture.md")))
    assert len(named) > 10
    missing = [name for name in named if not any((folder / name).exists() for folder in (ROOT, ROOT / "mcp_vega"))]
    assert missing == []


def test_no_picture_in_the_documents_is_large() -> None:
    pictures = [path for path in (ROOT / "docs").iterdir() if path.suffix != ".md"]
    assert {path.name for path in pictures} == {"lighthouse.jpg", "four.jpg", "gallery.jpg", "call.svg"}
    assert max(path.stat().st_size for path in pictures) < 100_000


@pytest.mark.skipif(shutil.which("awk") is None, reason="CI has awk")
def test_the_test_command_of_the_readme_works_in_ci() -> None:
    script = read(".ci/run")
    (program,) = re.findall(r"awk '(.*?)' README\.md", script)
    command = subprocess.run(["awk", program, "README.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert command.rstrip("\n") == of_language(README, "sh")[1]
