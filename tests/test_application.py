"""The application that the command builds from the settings."""

import re
from pathlib import Path

import pytest
from conftest import HISTORY, KEY, Sandbox, text_of
from mcp.client import Client

from mcp_vega.cli.application import open_application
from mcp_vega.errors import InvalidSettings
from mcp_vega.segmind.http import RetryPolicy
from mcp_vega.server.app import build_server
from mcp_vega.settings import Settings

pytestmark = pytest.mark.anyio


NO_PAUSE = RetryPolicy(first_pause=0)


async def drawn(folder: Path, **variables: str) -> str:
    settings = Settings.from_environment(
        {"MCP_VEGA_GALLERY": str(folder), "MCP_VEGA_HOME": str(folder / "home"), **variables}
    )
    async with open_application(settings, policy=NO_PAUSE) as app, Client(build_server(app)) as agent:
        return text_of(await agent.call_tool("generate_image_vegart", {"prompt": "a fox"}))


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment with a proxy that does not run."""
    for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")


@pytest.mark.usefixtures("dead_proxy")
async def test_a_proxy_in_the_environment_is_used_for_the_api_and_never_for_this_machine(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    assert "Image: " in await drawn(tmp_path, SEGMIND_API_KEY=KEY, SEGMIND_BASE_URL=sandbox.url)
    stopped = await drawn(tmp_path, SEGMIND_API_KEY=KEY)
    assert "No connection to the API could be made" in stopped
    assert "Charged: no." in stopped


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTPS_PROXY", "socks5://127.0.0.1:1"),
        ("HTTPS_PROXY", "gopher://127.0.0.1:1"),
        ("HTTPS_PROXY", "http://user:4711/4711@127.0.0.1:1"),
        ("NO_PROXY", "[::1"),
        ("SSL_CERT_FILE", "no-such-file"),
        ("SSL_CERT_FILE", __file__),
    ],
)
async def test_if_the_environment_allows_no_request_nothing_is_charged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    told = await drawn(tmp_path, SEGMIND_API_KEY=KEY)
    assert "No connection to the API could be made" in told
    assert "Charged: no." in told


@pytest.mark.usefixtures("dead_proxy")
async def test_requests_for_a_history_on_this_machine_use_no_proxy(sandbox: Sandbox, tmp_path: Path) -> None:
    variables = {"SEGMIND_API_KEY": KEY, "SEGMIND_HISTORY_URL": f"{sandbox.url}{HISTORY}"}
    folders = {"MCP_VEGA_GALLERY": str(tmp_path), "MCP_VEGA_HOME": str(tmp_path / "home")}
    settings = Settings.from_environment({**variables, **folders})
    async with open_application(settings, policy=NO_PAUSE) as app, Client(build_server(app)) as agent:
        await agent.call_tool("check_job", {"request_id": "not-known-here"})
    assert sandbox.account.requests["GET history_entry"] == 1


async def test_the_sandbox_keeps_its_pictures_in_another_folder_and_never_gets_the_users_key(tmp_path: Path) -> None:
    # The sandbox refuses any key that does not begin with SG_.
    text = await drawn(tmp_path, MCP_VEGA_SANDBOX="1", SEGMIND_API_KEY="not a sandbox key")
    assert f"Image: {tmp_path}/sandbox/" in text.replace("\\", "/")
    assert text.splitlines()[-3].startswith("Sandbox: ")


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, "https://api.spotprod.segmind.com/inference-request/request-history"),
        ({"SEGMIND_BASE_URL": "https://other.example/"}, "https://other.example/inference-request/request-history"),
        ({"SEGMIND_HISTORY_URL": "https://h.example/rows"}, "https://h.example/rows"),
    ],
)
async def test_the_url_of_the_history_follows_the_base_url(variables: dict[str, str], address: str) -> None:
    assert Settings.from_environment(variables).request_history_url == address


async def test_an_empty_setting_counts_as_unset_and_a_key_is_never_shown() -> None:
    assert Settings.from_environment({"SEGMIND_API_KEY": " ", "MCP_VEGA_PREVIEW": ""}) == Settings()
    assert KEY not in repr(Settings.from_environment({"SEGMIND_API_KEY": KEY}))


@pytest.mark.parametrize(
    ("written", "usual"),
    [
        ("HTTPS://API.Segmind.com:443/", "https://api.segmind.com"),
        ("http://LocalHost:8765", "http://localhost:8765"),
        ("https://other.example/base/", "https://other.example/base"),
    ],
)
def test_an_api_is_the_same_in_any_spelling_of_its_url(written: str, usual: str) -> None:
    assert Settings.from_environment({"SEGMIND_BASE_URL": written}).base_url == usual


@pytest.mark.parametrize(
    ("variable", "written", "read"),
    [
        ("MCP_VEGA_PREVIEW", "Small", "small"),
        ("MCP_VEGA_PREVIEW", ' "FULL" ', "full"),
        ("MCP_VEGA_LOG_LEVEL", "\u201cinfo\u201d", "INFO"),
        *(("MCP_VEGA_SANDBOX", written, True) for written in ("True", "yes", "ON", "'1'", "1\r\n")),
        *(("MCP_VEGA_SANDBOX", written, False) for written in ("False", "no", '"0"')),
        ("MCP_VEGA_WAIT_SECONDS", '"30"', 30),
        ("MCP_VEGA_REQUESTS_PER_MINUTE", "\ufeff5\u00a0", 5),
        ("MCP_VEGA_GALLERY", '"/with a space"', Path("/with a space")),
        ("MCP_VEGA_HOME", '"/it\'s"', Path("/it's")),
        ("MCP_VEGA_MEDIA_HOSTS", '"a.example", "b.example"', ("a.example", "b.example")),
        ("MCP_VEGA_ALLOWED_HOSTS", '"a.example,b.example"', ("a.example", "b.example")),
        ("SEGMIND_BASE_URL", "'https://other.example/'", "https://other.example"),
        *(("MCP_VEGA_SPENDING_LIMIT_USD", written, 5) for written in ("$5", "5 USD", "US$ 5.00", "usd 5", '"5$"')),
        ("MCP_VEGA_SPENDING_LIMIT_USD", '""', None),
    ],
)
def test_quotes_space_and_case_in_a_setting_do_not_matter(variable: str, written: str, read: object) -> None:
    settings = Settings.from_environment({variable: written})
    assert settings.model_dump(by_alias=True)[variable] == read


@pytest.mark.parametrize(
    ("variable", "written", "words"),
    [
        # The meaning of a comma differs between countries, and a wrong limit costs money.
        *(
            ("MCP_VEGA_SPENDING_LIMIT_USD", written, "without comma or unit, such as 0.50")
            for written in ("0,50", "1,000")
        ),
        *(("MCP_VEGA_SPENDING_LIMIT_USD", written, "number without comma") for written in ("5 EUR", "50c", "$", "$$5")),
        *(("MCP_VEGA_SPENDING_LIMIT_USD", written, "greater than or equal to 0") for written in ("-5", "$-5")),
        ("MCP_VEGA_SPENDING_LIMIT_USD", "inf", "finite"),
        ("MCP_VEGA_WAIT_SECONDS", "45 s", "number without comma"),
        ("MCP_VEGA_REQUESTS_PER_MINUTE", "2.5", "a whole number"),
        ("MCP_VEGA_REQUESTS_PER_MINUTE", "60/min", "a whole number"),
        ("MCP_VEGA_SANDBOX", "maybe", "must be 1 or 0"),
        ("MCP_VEGA_PREVIEW", "tiny", "'auto', 'small', 'full' or 'off'"),
    ],
)
def test_a_setting_with_two_possible_meanings_is_refused(variable: str, written: str, words: str) -> None:
    with pytest.raises(InvalidSettings, match=f"{variable} cannot be used: .*{re.escape(words)}"):
        Settings.from_environment({variable: written})
