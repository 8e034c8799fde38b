"""The page as an MCP App: the tools name it, it can be read as a resource, and its policy lets nothing else run."""

import ast
import json
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256

import pytest
from mcp.client import Client
from mcp_types import TextResourceContents

from mcp_vega.cli.parser.commands import build_parser
from mcp_vega.errors import MissingKey
from mcp_vega.parameters import MODELS
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext
from mcp_vega.server.resources import VIEW, view_html, view_policy

pytestmark = pytest.mark.anyio

PAGE = view_html()


async def read_view(agent: Client) -> TextResourceContents:
    (content,) = (await agent.read_resource(VIEW)).contents
    assert isinstance(content, TextResourceContents)
    return content


# ---- what hosts see ----


async def test_the_tools_that_return_pictures_name_the_app(agent: Client) -> None:
    bound = {tool.name: tool.meta for tool in (await agent.list_tools()).tools}
    named = {"ui": {"resourceUri": VIEW}, "ui/resourceUri": VIEW}
    assert bound.pop("submit_job") is None
    assert bound == dict.fromkeys(["generate_image_vega", "generate_image_vegart", "check_job"], named)


async def test_the_server_says_that_it_has_an_app(app: AppContext) -> None:
    async with Client(build_server(app)) as agent:
        assert agent.server_capabilities
        assert agent.server_capabilities.extensions == {"io.modelcontextprotocol/ui": {}}


async def test_the_app_is_listed_and_can_be_read(agent: Client) -> None:
    (listed,) = (each for each in (await agent.list_resources()).resources if each.uri == VIEW)
    read = await read_view(agent)
    assert listed.mime_type == read.mime_type == "text/html;profile=mcp-app"
    assert read.text == PAGE


async def test_the_app_can_be_read_even_if_every_call_is_an_error(app: AppContext) -> None:
    async with Client(build_server(replace(app, problem=MissingKey("There is no key")))) as agent:
        assert (await agent.call_tool("check_job", {})).is_error
        assert (await read_view(agent)).text == PAGE


# ---- what the file may do ----


def inline(element: str) -> list[str]:
    return re.findall(rf"<{element}[^>]*>(.*?)</{element}>", PAGE, re.DOTALL)


def test_the_policy_allows_only_the_files_own_script_and_style() -> None:
    (meta,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', PAGE)
    assert meta == view_policy()
    directives = dict(each.strip().split(" ", 1) for each in meta.split(";"))
    for element in ("script", "style"):
        hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in inline(element)]
        assert directives.pop(f"{element}-src") == " ".join(f"'sha256-{each}'" for each in hashes)
    assert directives == {
        "default-src": "'none'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    # A policy applies to what follows it.
    assert PAGE.index("http-equiv") < min(PAGE.index(each) for each in ("<style", "<script", "<body"))


def test_the_file_is_small_and_loads_nothing_from_elsewhere() -> None:
    assert len(PAGE.encode()) < 60_000
    assert not re.findall(r"https?:|\bimport\b|url\(", "".join([*inline("script"), *inline("style")]))
    assert not re.findall(
        r"""<(?!use)[^>]*\s(?:src|href|srcset|action|data)=""",
        re.sub(r"<script>.*</script>", "", PAGE, flags=re.DOTALL),
    )


def test_text_never_becomes_markup_and_attributes_contain_no_code() -> None:
    markup = re.sub(r"<(script|style)>.*?</\1>", "", PAGE, flags=re.DOTALL)
    assert not re.findall(r"<[^>]*\s(?:on\w+|style)=", markup)
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setHTML|javascript:"
    assert not re.findall(sinks, PAGE)


# ---- what the file knows about the product ----


def constant(name: str, text: str) -> str:
    (found,) = re.findall(rf"^const {name} = (\{{.*?^\}});$", text, re.MULTILINE | re.DOTALL)
    return found


def test_the_file_has_the_documented_models() -> None:
    known = json.loads(constant("MODELS", PAGE))
    # These have one value, or are not options.
    fixed = {"prompt", "seed", "img_width", "img_height"}
    assert known == {
        slug: {
            "alias": model.alias,
            "title": model.title,
            "tool": f"generate_image_{model.alias}",
            "cost": float(model.average_cost),
            "defaults": {name: model.default(name) for name in model.model_fields if name not in fixed},
        }
        for slug, model in MODELS.items()
    }


def test_the_file_has_the_options_of_the_command() -> None:
    known = dict(re.findall(r'(\w+): "([\w-]+)"', constant("OPTIONS", PAGE)))
    words = [f"--{option}={ast.literal_eval(value)}" for option, value in zip(known.values(), "1234", strict=True)]
    taken = vars(build_parser().parse_args(["draw", *words, "--", "a fox"]))
    assert {name: taken[name] for name in known} == dict(zip(known, "1234", strict=True))
