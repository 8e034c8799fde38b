"""`mcp-vega doctor`, run as a person runs it: what it finds, and that it changes nothing."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import MagicMock

import pytest
import tomlkit
from conftest import KEY, Sandbox, serving_in_thread, wait_until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from terminals import posix
from test_command_line import run, run_process, shown

from mcp_vega import __version__
from mcp_vega.cli.doctor import folders, handshake, hosts, installation
from mcp_vega.cli.doctor.api import check_api
from mcp_vega.cli.doctor.check import Check, State
from mcp_vega.cli.doctor.hosts import check_hosts
from mcp_vega.cli.doctor.page import page
from mcp_vega.cli.doctor.runner import CheckGroup, run_groups
from mcp_vega.cli.doctor.settings import check_settings, read_settings
from mcp_vega.cli.install.hosts import HOSTS, UserEnvironment
from mcp_vega.errors import GalleryError
from mcp_vega.settings import Settings

COMMAND = [sys.executable, "-m", "mcp_vega"]
SCRIPTS = sysconfig.get_path("scripts")
NAMES = [
    *("python", "packages", "command", "settings", "api", "key", "balance", "gallery", "ledger", "servers", "jobs"),
    *("handshake", "hosts"),
]
NOWHERE = "http://127.0.0.1:1"

Found = dict[str, dict[str, str]]
Done = subprocess.CompletedProcess[str]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """An environment without this machine's settings, and with folders that do not exist yet."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    own = {
        "HOME": folder,
        "MCP_VEGA_GALLERY": folder / "pictures" / "gallery",
        "MCP_VEGA_HOME": folder / "data" / "home",
    }
    return {**kept, **{name: str(value) for name, value in own.items()}, "PYTHONWARNINGS": "error", **more}


def doctor(folder: Path, *arguments: str, **variables: str) -> Done:
    return run("doctor", *arguments, folder=folder, **environment(folder, **variables))


def doctor_process(folder: Path, *arguments: str, **variables: str) -> Done:
    return run_process("doctor", *arguments, folder=folder, **environment(folder, **variables))


def page_of(program: str, folder: Path, **variables: str) -> str:
    """The output of a program that runs the doctor, which finds a problem."""
    command, env = [sys.executable, "-c", program], environment(folder, **variables)
    done = subprocess.run(command, env=env, capture_output=True, encoding="utf-8", timeout=30, check=False)
    assert done.returncode == 1, done.stderr
    return done.stdout


def found(folder: Path, *arguments: str, **variables: str) -> Found:
    """The doctor's checks, by name."""
    return checks_in(doctor(folder, "--json", *arguments, **variables))


def checks_in(done: Done) -> Found:
    """The checks in the doctor's JSON. The exit code must say whether one of them is bad."""
    assert done.stderr == ""
    checked: Found = {each["name"]: each for each in json.loads(done.stdout)}
    states = {each["state"] for each in checked.values()}
    assert states <= {"good", "bad", "note"}
    assert done.returncode == int("bad" in states)
    assert all(each["fix"] for each in checked.values() if each["state"] == "bad")
    return checked


def bad(checked: Found) -> list[str]:
    return [name for name, check in checked.items() if check["state"] == "bad"]


def ledger_in(folder: Path) -> Path:
    file = folder / "data" / "home" / "ledger.sqlite3"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


# ---- the page ----


def test_if_all_is_well_every_line_is_good_and_nothing_is_left_behind(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    # This repository may be in the temporary folder, and the doctor would report that.
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    configure(tmp_path, sys.executable, args=["-m", "mcp_vega"], env={"SEGMIND_API_KEY": "SG_of_the_host"})
    before = {*tmp_path.rglob("*")}
    path = os.pathsep.join((SCRIPTS, os.environ["PATH"]))
    done = doctor_process(tmp_path, **api, PATH=path, TMPDIR=str(temporary))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    states = {name: (state, detail) for state, name, detail in lines[: len(NAMES)]}
    assert [*states] == NAMES
    assert {state for state, _ in states.values()} == {"good"}
    assert f"mcp-vega {__version__}, mcp 2." in states["packages"][1]
    assert states["command"][1] == f"{Path(SCRIPTS) / 'mcp-vega'}, also found on PATH"
    assert states["balance"][1] == "$10.00"
    assert re.fullmatch(
        r"answered in \d+\.\d s, listed 4 tools in \d+\.\d s; printed nothing else to stdout", states["handshake"][1]
    )
    assert states["hosts"][1] == "Cursor (with a key)"
    assert done.stdout.splitlines()[-1] == "The server has everything it needs."
    assert dict(sandbox_in_thread.account.requests) == {"GET credits": 1}
    assert {*tmp_path.rglob("*")} == before
    assert "SG_" not in done.stdout
    assert "\x1b" not in done.stdout


def test_with_the_sandbox_no_key_and_no_network_are_needed(tmp_path: Path) -> None:
    checked = found(tmp_path, "--sandbox", SEGMIND_BASE_URL=NOWHERE)
    assert [*checked] == NAMES
    assert checked["settings"]["detail"] == "set: SEGMIND_BASE_URL, MCP_VEGA_GALLERY, MCP_VEGA_HOME, --sandbox"
    assert checked["hosts"]["state"] == "note"
    assert bad(checked) == []
    assert {*checked["api"]} == {"name", "state", "detail", "fix"}
    assert str(tmp_path / "pictures" / "gallery" / "sandbox") in checked["gallery"]["detail"]
    assert str(tmp_path / "data" / "home" / "sandbox" / "ledger.sqlite3") in checked["ledger"]["detail"]
    assert list(tmp_path.rglob("*")) == []


@posix
def test_a_terminal_gets_colours_and_lines_that_fit(tmp_path: Path) -> None:
    variables = environment(tmp_path, MCP_VEGA_GALLERY="/dev/null", TERM="xterm")
    _, screen = shown("doctor", "--sandbox", folder=tmp_path, size=(79, 50), **variables)
    assert "\x1b[32mgood\x1b[0m  python" in screen.text
    assert "\x1b[31mbad \x1b[0m  gallery" in screen.text
    lines = [line for line in screen.lines if line]
    # The list of packages takes more than one line.
    assert (lines[1][6:14], lines[2][:17].isspace()) == ("packages", True)
    assert len(lines[1]) <= 79 < len(f"{lines[1]} {lines[2].split()[0]}")
    assert lines[-1] == "To fix: gallery."


CHECKS = [
    Check("python", State.GOOD, "3.12.1, /home/ada/mcp_vega/.venv/bin/python"),
    Check("ledger", State.GOOD, "/home/ada/.local/share/mcp-vega/ledger.sqlite3 can be read and written"),
    Check("jobs", State.NOTE, "1 under way, 0 with an unknown outcome", "Wait. `mcp-vega jobs` shows how they end"),
    Check("handshake", State.BAD, "the server printed “二匹の狐” to stdout", "Did you mean stderr?"),
]
PAGES: dict[int | None, str] = {
    40: """\
good  python  3.12.1,
      /home/ada/mcp_vega/.venv/bin/python
good  ledger
      /home/ada/.local/share/mcp-vega/ledger.sqlite3
      can be read and written
note  jobs  1 under way, 0 with an
      unknown outcome
      fix: Wait. `mcp-vega jobs` shows
           how they end.
bad   handshake  the server printed
      “二匹の狐” to stdout
      fix: Did you mean stderr?

To fix: handshake.""",
    80: """\
good  python     3.12.1, /home/ada/mcp_vega/.venv/bin/python
good  ledger     /home/ada/.local/share/mcp-vega/ledger.sqlite3 can be read and
                 written
note  jobs       1 under way, 0 with an unknown outcome
                 fix: Wait. `mcp-vega jobs` shows how they end.
bad   handshake  the server printed “二匹の狐” to stdout
                 fix: Did you mean stderr?

To fix: handshake.""",
    200: """\
good  python     3.12.1, /home/ada/mcp_vega/.venv/bin/python
good  ledger     /home/ada/.local/share/mcp-vega/ledger.sqlite3 can be read and written
note  jobs       1 under way, 0 with an unknown outcome
                 fix: Wait. `mcp-vega jobs` shows how they end.
bad   handshake  the server printed “二匹の狐” to stdout
                 fix: Did you mean stderr?

To fix: handshake.""",
}
PAGES[None] = PAGES[200]


@pytest.mark.parametrize("width", PAGES)
def test_the_page_fits_the_terminal_and_what_users_copy_is_not_broken(width: int | None) -> None:
    assert "\n".join(page(CHECKS, width, in_colour=False)) == PAGES[width]
    coloured = "\n".join(page(CHECKS, width, in_colour=True))
    assert re.sub("\x1b\\[[0-9]*m", "", coloured) == PAGES[width]


def test_a_check_that_hangs_or_breaks_does_not_affect_the_others() -> None:
    released = Event()

    def never() -> list[Check]:
        released.wait()
        return []

    def broken() -> list[Check]:
        raise ZeroDivisionError("by 0")

    groups = [
        CheckGroup(("ledger", "jobs"), never),
        CheckGroup(("hosts",), broken),
        CheckGroup(("python",), lambda: [Check("python", State.GOOD, "3")]),
    ]
    checks, is_late = run_groups(groups, 0.5)
    released.set()
    assert is_late
    assert [(check.name, check.state, check.detail) for check in checks] == [
        ("ledger", "bad", "no answer within 0.5 s"),
        ("jobs", "note", "not known, see ledger"),
        ("hosts", "bad", "the check failed (ZeroDivisionError: by 0)"),
        ("python", "good", "3"),
    ]


# ---- the key and the API ----


def test_a_missing_key_is_bad_and_so_is_a_gallery_that_is_a_file(tmp_path: Path, api: dict[str, str]) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    checked = found(tmp_path, SEGMIND_BASE_URL=api["SEGMIND_BASE_URL"], MCP_VEGA_GALLERY=str(tmp_path / "file"))
    assert bad(checked) == ["key", "gallery"]
    assert "No Segmind API key is set" in checked["key"]["detail"]
    assert "https://cloud.segmind.com/console/api-keys" in checked["key"]["fix"]
    assert "Not a directory" in checked["gallery"]["detail"]
    assert "MCP_VEGA_GALLERY" in checked["gallery"]["fix"]
    assert checked["balance"]["state"] == "note"


def test_a_refused_key_is_bad_and_is_shown_nowhere_and_so_is_a_damaged_ledger(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    damaged = ledger_in(tmp_path)
    damaged.write_bytes(b"This is no ledger. " * 100)
    done = doctor(tmp_path, **{**api, "SEGMIND_API_KEY": "nokey-4711-nokey"})
    assert done.returncode == 1
    assert "To fix: key, ledger." in done.stdout
    assert "bad   key        The API answered with HTTP 401: “Invalid API key”" in done.stdout
    assert "fix: Check SEGMIND_API_KEY" in done.stdout
    assert f"The ledger {damaged} is damaged" in done.stdout
    assert f"move {damaged} to another folder" in done.stdout
    assert "4711" not in done.stdout + done.stderr
    assert "nokey" not in done.stdout + done.stderr
    assert damaged.read_bytes() == b"This is no ledger. " * 100
    assert sandbox_in_thread.paid_requests == 0


def test_an_api_that_is_down_is_bad_and_so_is_a_ledger_of_another_version(tmp_path: Path) -> None:
    with closing(sqlite3.connect(ledger_in(tmp_path))) as store:
        store.execute("CREATE TABLE jobs (id TEXT)")
    checked = found(tmp_path, SEGMIND_BASE_URL=NOWHERE, SEGMIND_API_KEY=KEY)
    assert bad(checked) == ["api", "ledger"]
    assert f"{NOWHERE}: No connection to the API could be made: connection refused" in checked["api"]["detail"]
    assert "was not written by this version of mcp-vega" in checked["ledger"]["detail"]
    assert checked["ledger"]["fix"].startswith("Stop all servers. Then update mcp-vega, or move ")
    assert [checked[name]["state"] for name in ("key", "balance", "servers", "jobs")] == ["note"] * 4


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no folder that not even root can write")
def test_a_proxy_that_is_down_is_named_without_its_password_and_a_ledger_that_cannot_be_created_is_bad(
    tmp_path: Path,
) -> None:
    proxies = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY"), "http://user:pass-4711@127.0.0.1:1")
    variables = {"SEGMIND_BASE_URL": "https://api.example", "SEGMIND_API_KEY": KEY, "MCP_VEGA_HOME": "/proc/none"}
    checked = found(tmp_path, **variables, **proxies)
    assert bad(checked) == ["api", "ledger"]
    assert checked["api"]["fix"].startswith("Check the proxy that HTTPS_PROXY or ALL_PROXY names")
    assert "The folder /proc/none cannot be written" in checked["ledger"]["detail"]
    assert "MCP_VEGA_HOME" in checked["ledger"]["fix"]
    assert "4711" not in json.dumps(checked)


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("HTTPS_PROXY", "socks5://127.0.0.1:1", "Install socksio in the environment of mcp-vega"),
        ("HTTPS_PROXY", "http://user:4711/4711@127.0.0.1:1", "Check the proxy that HTTPS_PROXY or ALL_PROXY names"),
        ("SSL_CERT_FILE", "no-such-file", "Set SSL_CERT_FILE to a PEM file"),
    ],
)
def test_a_proxy_or_certificates_that_cannot_be_used_are_reported_without_a_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, fix: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    api, key, _ = check_api(Settings.from_environment({"SEGMIND_API_KEY": KEY}))
    assert (api.state, key.state) == ("bad", "note")
    assert api.fix.startswith(fix)
    assert "4711" not in api.detail + api.fix


def test_a_name_that_cannot_be_resolved_delays_neither_the_page_nor_the_end_of_the_process(tmp_path: Path) -> None:
    program = """
import os, socket, sys, time
from mcp_vega.cli.parser.commands import build_parser
from mcp_vega.cli.doctor.command import run_doctor
socket.getaddrinfo = lambda *address, **more: time.sleep(600)
sys.exit(run_doctor(build_parser().parse_args(["doctor"]), os.environ, seconds=0.3))
"""
    variables = {"SEGMIND_API_KEY": KEY, "SEGMIND_BASE_URL": "https://api.example", "TMPDIR": str(tmp_path)}
    page = page_of(program, tmp_path, **variables)
    assert "bad   api        no answer within 0.3 s" in page
    assert "note  key        not known, see api" in page


ANSWERS: dict[str, tuple[Response, list[str], str]] = {
    "503": (Response(status_code=503), ["api"], "HTTP 503"),
    "429": (JSONResponse({"error": "Rate limit exceeded"}, 429), ["api"], "HTTP 429: “Rate limit exceeded”"),
    "404": (Response(status_code=404), ["api"], "HTTP 404"),
    "403": (Response(status_code=403), ["key"], "HTTP 403"),
    "a login page": (HTMLResponse("<html>Welcome</html>"), ["api"], "it is not the Segmind API"),
    "no credits": (JSONResponse({"credits": 0, "free-credits": 0}), ["balance"], "$0.00"),
    "a debt": (JSONResponse({"credits": -0.35, "free-credits": 0}), ["balance"], "-$0.35"),
    "free credits": (JSONResponse({"credits": 0, "free-credits": 0.5}), [], "$0.00, and $0.50 free"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_of_the_api_is_recognised(name: str) -> None:
    response, wrong, words = ANSWERS[name]

    async def answer(_: Request) -> Response:
        return response

    with serving_in_thread(Starlette(routes=[Route("/v1/get-user-credits", answer)])) as url:
        checks = check_api(Settings.from_environment({"SEGMIND_BASE_URL": url, "SEGMIND_API_KEY": KEY}))
    assert [check.name for check in checks] == ["api", "key", "balance"]
    assert [check.name for check in checks if check.state == "bad"] == wrong
    assert words in " ".join(check.detail for check in checks)
    assert all(check.fix for check in checks if check.state == "bad")


def test_the_doctor_gives_up_on_an_api_that_does_not_answer_in_time() -> None:
    async def wait(request: Request) -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return Response()

    with serving_in_thread(Starlette(routes=[Route("/v1/get-user-credits", wait)])) as url:
        settings = Settings.from_environment({"SEGMIND_BASE_URL": url, "SEGMIND_API_KEY": KEY})
        first, key, _ = check_api(settings, seconds=0.2)
    assert (first.state, first.detail) == ("bad", f"{url}: The API did not answer within 0.2 s")
    assert key.state == "note"


# ---- the settings and the installation ----


def test_settings_that_cannot_be_used_are_reported_and_the_other_checks_are_made(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    # A package in a version that is too old comes first on the path.
    older = tmp_path / "older" / "mcp-1.9.0.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: mcp\nVersion: 1.9.0\n", encoding="utf-8")
    wrong = {
        "MCP_VEGA_WAIT_SECONDS": "long",
        "MCP_VEGA_PREVIEW": "huge",
        "SEGMIND_BASE_URL": "http://elsewhere.example",
    }
    checked = checks_in(doctor_process(tmp_path, "--json", **{**api, **wrong}, PYTHONPATH=str(older.parent)))
    assert bad(checked) == ["packages", "settings"]
    assert all(name in checked["settings"]["detail"] for name in wrong)
    assert re.search(r"mcp is 1\.9\.0, but .*>=2\.3.* is needed", checked["packages"]["detail"])
    for name in ("api", "key", "balance", "handshake"):
        assert (checked[name]["state"], checked[name]["detail"]) == ("note", "not known, see settings")
    assert checked["gallery"]["state"] == "good"
    assert not sandbox_in_thread.account.requests


@pytest.mark.parametrize(
    ("variables", "fix"),
    [
        (["SEGMIND_API_KEY", "SEGMIND_API_KEY_FILE"], "Unset one of them"),
        (["MCP_VEGA_AUTH_TOKENS", "MCP_VEGA_OAUTH_ISSUER", "MCP_VEGA_OAUTH_RESOURCE"], "Unset one of them"),
        (["MCP_VEGA_OAUTH_ISSUER"], "Set MCP_VEGA_OAUTH_RESOURCE as well"),
        (["MCP_VEGA_PREVIEW"], "Correct it where it is set"),
    ],
)
def test_variables_that_do_not_go_together_are_named_with_what_to_do(
    tmp_path: Path, variables: list[str], fix: str
) -> None:
    (tmp_path / "file").write_text("SG_1", encoding="utf-8")
    values = {"FILE": str(tmp_path / "file"), "ISSUER": "https://login.example", "RESOURCE": "https://a.example/mcp"}
    given = {name: values.get(name.rpartition("_")[2], "text-of-a-test") for name in variables}
    (check,) = check_settings(given, read_settings(given)[1])
    assert check.state == "bad"
    assert all(name in check.detail for name in variables[:2])
    assert check.fix.startswith(fix)


def test_the_settings_that_have_a_value_are_named() -> None:
    (check,) = check_settings({"MCP_VEGA_PREVIEW": '"Small"', "MCP_VEGA_HOME": '""', "PATH": "/bin"}, {})
    assert (check.state, check.detail) == ("good", "set: MCP_VEGA_PREVIEW")


def test_a_variable_that_is_nearly_a_setting_is_reported() -> None:
    (check,) = check_settings({"MCP_VEGA_GALERY": "/pictures", "PATH": "/bin"}, {})
    assert (check.state, check.detail) == ("note", "not a setting: MCP_VEGA_GALERY")
    assert check.fix == "Did you mean MCP_VEGA_GALLERY?"


@pytest.mark.parametrize(
    ("found", "state"), [("2.10.1", "good"), ("2.3", "good"), ("2.2.9", "bad"), ("3.0.0", "bad"), ("2.11.0rc1", "good")]
)
def test_a_package_outside_its_range_of_versions_is_bad(found: str, state: str) -> None:
    (check,) = installation.check_packages(lambda name: found if name == "mcp" else version(name))
    assert check.state == state
    assert (f"mcp is {found}, but <3,>=2.3 is needed" in check.detail) == (state == "bad")


@pytest.mark.parametrize(
    ("command", "on_path", "state", "words"),
    [
        (("{kept}",), "kept", "good", "{kept}, also found on PATH"),
        (("{kept}",), "", "good", "{kept} is not on PATH, so hosts need this absolute path"),
        (("{kept}",), "other", "note", "{kept}, but PATH finds another one first: {other}"),
        (("{cached}",), "", "note", "{cached} is in a temporary folder or a cache, which may be emptied"),
        (("/bin/uvx", "mcp-vega"), "", "good", "/bin/uvx mcp-vega, because mcp-vega runs from uv's cache"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="commands have other names there")
def test_the_doctor_names_the_command_that_hosts_should_start(  # noqa: PLR0913, PLR0917  a table
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...], on_path: str, state: str, words: str
) -> None:
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/nowhere")
    places = {name: tmp_path / name / "mcp-vega" for name in ("kept", "other", "cache")}
    for place in places.values():
        place.parent.mkdir()
        place.touch(mode=0o755)
    names = {"kept": str(places["kept"]), "other": str(places["other"]), "cached": str(places["cache"])}
    lasting = tuple(each.format(**names) for each in command)
    (check,) = installation.check_command({"PATH": str(tmp_path / (on_path or "nothing"))}, lasting)
    assert check.state == state
    assert check.detail.startswith(words.format(**names))
    assert bool(check.fix) is (state == "note")


# ---- the hosts ----


def configure(folder: Path, command: str, **more: Any) -> None:
    """An entry for this server in the file of a host."""
    file = folder / ".cursor" / "mcp.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"mcpServers": {"vega": {"command": command, **more}}}), encoding="utf-8")


def test_a_host_that_starts_a_command_that_does_not_exist_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    (check,) = check_hosts({})
    assert (check.state, check.detail) == ("note", "no host has this server")
    gone = str(tmp_path / "mcp-vega")
    configure(tmp_path, gone)
    (check,) = check_hosts({})
    assert (check.state, check.detail) == ("bad", f"Cursor; Cursor starts {gone}, which does not exist")
    assert check.fix == "Run `mcp-vega install cursor`: it writes an entry that works"
    (tmp_path / ".cursor" / "mcp.json").unlink()
    configure(tmp_path, "${userHome}/mcp-vega")
    (check,) = check_hosts({})
    assert (check.state, check.detail) == ("good", "Cursor")
    configure(tmp_path, sys.executable, args=["-m", "mcp_vega", "--sandbox"])
    (check,) = check_hosts({})
    assert (check.state, check.detail) == ("good", "Cursor (sandbox)")
    remote = {"mcpServers": {"vega": {"url": "https://pictures.example/mcp", "headers": {"Authorization": "Bearer x"}}}}
    (tmp_path / ".cursor" / "mcp.json").write_text(json.dumps(remote), encoding="utf-8")
    (check,) = check_hosts({})
    assert (check.state, check.detail) == ("good", "Cursor (over HTTP)")
    (tmp_path / ".cursor" / "mcp.json").write_text("{", encoding="utf-8")
    (check,) = check_hosts({})
    assert check.state == "note"
    assert "mcp.json cannot be read" in check.detail


def with_entry(host: str, *, beside: Any = None, **entry: Any) -> str:
    """A host's file with an entry for this server that can be started."""
    entry = {"command": sys.executable, "args": ["-m", "mcp_vega"], **entry}
    data: dict[str, Any] = {HOSTS[host].section: {"vega": entry}, **(beside or {})}
    return tomlkit.dumps(data) if host == "codex" else json.dumps(data, indent=1)


def comma_too_many(host: str) -> str:
    return with_entry(host).replace("\n }\n}", "\n },\n}")


LIMIT: dict[str, Any] = {"env": {"MCP_VEGA_WAIT_SECONDS": 30}}
# Measured with the hosts themselves, except Claude Desktop, Cursor, VS Code and Zed.
IN_FILES: list[tuple[str, str, str, str]] = [
    *(
        (host, "\ufeff" + with_entry(host), "bad", "the file has a byte order mark")
        for host in ("claude-desktop", "gemini")
    ),
    *(
        (host, "\ufeff" + with_entry(host), "note", "which some hosts refuse")
        for host in ("cursor", "claude-code", "codex")
    ),
    *(
        (host, "// mine\n" + with_entry(host), "bad", "the file has comments")
        for host in ("claude-desktop", "claude-code")
    ),
    *((host, "// mine\n" + with_entry(host), "good", "") for host in ("gemini", "vscode", "zed")),
    *((host, comma_too_many(host), "bad", "a comma after") for host in ("claude-desktop", "claude-code", "gemini")),
    *((host, comma_too_many(host), "good", "") for host in ("vscode", "zed")),
    *((host, with_entry(host, **LIMIT), "bad", "a value of env without quotes") for host in ("claude-code", "codex")),
    ("vscode", with_entry("vscode", **LIMIT), "good", ""),
    *((host, with_entry(host, disabled=True), "note", "disabled = true") for host in ("cursor", "windsurf", "vscode")),
    *((host, with_entry(host, enabled=False), "note", "enabled = false") for host in ("codex", "zed")),
    ("cursor", with_entry("cursor", disabled=False), "good", ""),
    ("codex", with_entry("codex", enabled=True), "good", ""),
    ("gemini", with_entry("gemini", beside={"mcp": {"excluded": ["Vega"]}}), "note", "mcp.excluded names it"),
    ("gemini", with_entry("gemini", beside={"mcp": {"allowed": ["other"]}}), "note", "mcp.allowed does not name it"),
    ("gemini", with_entry("gemini", beside={"mcp": {"allowed": ["vega"], "excluded": []}}), "good", ""),
    (
        "claude-code",
        with_entry("claude-code", beside={"projects": {"/a": {"disabledMcpServers": ["vega"]}, "/b": {}}}),
        *("note", "has this server switched off: in /a"),
    ),
    ("cursor", with_entry("cursor", env={"MCP_VEGA_SANDBOX": "0"}), "good", ""),
]


@pytest.mark.parametrize(("host", "text", "state", "words"), IN_FILES)
def test_what_a_host_refuses_or_has_switched_off_is_reported(  # noqa: PLR0913, PLR0917  a table
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, text: str, state: str, words: str
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    file = HOSTS[host].file(UserEnvironment({}, tmp_path))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    (check,) = check_hosts({})
    assert check.state == state
    assert words in check.detail
    assert (check.detail == HOSTS[host].title) == (state == "good")
    assert bool(check.fix) == (state != "good")
    if "byte order mark" in check.detail:
        assert check.fix == f"Run `mcp-vega install {host}`: it writes the file without the byte order mark"


def test_a_server_that_gemini_disables_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    (tmp_path / ".gemini").mkdir()
    (tmp_path / ".gemini" / "settings.json").write_text(with_entry("gemini"), encoding="utf-8")
    states = tmp_path / ".gemini" / "mcp-server-enablement.json"
    for text, state in {
        '{"vega": {"enabled": false}}': "note",
        '{"other": {"enabled": false}}': "good",
        "{": "good",
    }.items():
        states.write_text(text, encoding="utf-8")
        (check,) = check_hosts({})
        assert (check.state, check.fix) == (state, "Run `gemini mcp enable vega`" if state == "note" else "")


def test_a_host_with_the_example_s_key_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for key, state in {"SG_your_key": "bad", "${env:KEY}": "good", f' "{KEY}" ': "good", "nö-4711": "bad"}.items():
        configure(tmp_path, sys.executable, env={"SEGMIND_API_KEY": key})
        (check,) = check_hosts({})
        assert check.state == state
        assert "4711" not in check.detail
    configure(tmp_path, sys.executable, args=["-m", "mcp_vega", "--sandbox"], env={"SEGMIND_API_KEY": "SG_your_key"})
    assert check_hosts({})[0].state == "good"


def test_a_key_that_only_a_hosts_file_has_is_checked(tmp_path: Path, api: dict[str, str]) -> None:
    configure(tmp_path, sys.executable, env={"SEGMIND_API_KEY": "no-key-of-the-sandbox"})
    checked = found(tmp_path, SEGMIND_BASE_URL=api["SEGMIND_BASE_URL"])
    assert bad(checked) == ["key"]
    assert checked["key"]["detail"].startswith("The API answered with HTTP 401")
    assert checked["key"]["detail"].endswith(" (the key in Cursor's file)")
    assert "no-key-of" not in json.dumps(checked)


def test_a_key_in_a_file_is_checked_and_the_file_is_named(tmp_path: Path, api: dict[str, str]) -> None:
    file = tmp_path / "key"
    file.write_text(api["SEGMIND_API_KEY"], encoding="utf-8")
    given = {"SEGMIND_BASE_URL": api["SEGMIND_BASE_URL"], "SEGMIND_API_KEY_FILE": str(file)}
    checked = found(tmp_path, **given)
    assert checked["key"]["detail"] == f"is accepted (the key in {file})"
    assert checked["settings"]["detail"].endswith(
        "SEGMIND_API_KEY_FILE, SEGMIND_BASE_URL, MCP_VEGA_GALLERY, MCP_VEGA_HOME"
    )
    configure(tmp_path, sys.executable, env={"SEGMIND_API_KEY_FILE": str(file)})
    checked = found(tmp_path, SEGMIND_BASE_URL=api["SEGMIND_BASE_URL"])
    assert checked["key"]["detail"] == "is accepted (the key in Cursor's file)"
    assert checked["hosts"]["detail"] == "Cursor (with a key)"
    file.unlink()
    checked = found(tmp_path, **given)
    assert f"The file {file}, which SEGMIND_API_KEY_FILE names" in checked["settings"]["detail"]
    assert checked["settings"]["fix"].startswith("Correct the file, or the path in the variable")
    assert bad(checked) == ["settings", "hosts"]  # Cursor's entry names the same file
    assert {checked[name]["detail"] for name in ("key", "balance")} == {"not known, see settings"}
    assert checked["api"]["state"] == "good"
    assert api["SEGMIND_API_KEY"] not in json.dumps(checked)


def test_no_key_is_needed_here_if_all_hosts_use_servers_over_http(tmp_path: Path) -> None:
    file = tmp_path / ".cursor" / "mcp.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"mcpServers": {"vega": {"url": "https://pictures.example/mcp"}}}), encoding="utf-8")
    checked = found(tmp_path, SEGMIND_BASE_URL=NOWHERE)
    assert bad(checked) == []
    assert [checked[name]["state"] for name in ("api", "key", "balance")] == ["note"] * 3
    assert "none is needed: every host uses a server over HTTP" in checked["key"]["detail"]
    assert checked["hosts"]["detail"] == "Cursor (over HTTP)"
    (tmp_path / ".codeium" / "windsurf").mkdir(parents=True)
    one_here = json.dumps({"mcpServers": {"vega": {"command": sys.executable}}})
    (tmp_path / ".codeium" / "windsurf" / "mcp_config.json").write_text(one_here, encoding="utf-8")
    assert bad(found(tmp_path, SEGMIND_BASE_URL=NOWHERE)) == ["api", "key"]


def test_a_variable_instead_of_a_key_counts_as_no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    configure(tmp_path, sys.executable, env={"SEGMIND_API_KEY": "${input:key}"})
    assert hosts.key_of_a_host({}) == ({}, "")
    configure(tmp_path, sys.executable, env={"SEGMIND_API_KEY": KEY})
    assert hosts.key_of_a_host({}) == ({"SEGMIND_API_KEY": KEY}, "Cursor")


def test_a_setting_in_a_hosts_file_that_cannot_be_used_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    configure(tmp_path, sys.executable, env={"SEGMIND_API_KEY": KEY, "MCP_VEGA_PREVIEW": "Smal"})
    (check,) = hosts.check_hosts({})
    assert check.state == "bad"
    assert "MCP_VEGA_PREVIEW cannot be used" in check.detail
    configure(tmp_path, sys.executable, env={"SEGMIND_API_KEY": KEY, "MCP_VEGA_PREVIEW": "${PREVIEW}"})
    assert hosts.check_hosts({})[0].state == "good"


def test_access_tokens_that_cannot_be_used_are_reported_but_not_shown() -> None:
    settings, problems = read_settings({"MCP_VEGA_AUTH_TOKENS": "alice:secret, bob:secret"})
    (check,) = check_settings({}, problems)
    assert check.state == "bad"
    assert "in entry 2, its token already belongs to another caller" in check.detail
    assert "secret" not in check.detail
    assert not settings.auth_tokens


# ---- the disk and the ledger ----


def test_a_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", MagicMock(return_value=full))
    with pytest.raises(GalleryError, match="is full"):
        folders.check_gallery(Settings.from_environment({"MCP_VEGA_GALLERY": str(tmp_path)}))


@contextmanager
def server_at_work(folder: Path, **variables: str) -> Generator[subprocess.Popen[str]]:
    """A server with a job that never ends, and one whose answer was lost."""
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    calls: list[dict[str, Any]] = [
        {"id": 1, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
    ]
    for number, prompt in enumerate(("[fault:stuck]", "[fault:504-after]"), 2):
        arguments = {"name": "generate_image_vegart", "arguments": {"prompt": prompt}}
        calls.append({"id": number, "method": "tools/call", "params": arguments})
    with subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(folder, **variables),
    ) as process:
        assert process.stdin
        for call in calls:
            process.stdin.write(json.dumps({"jsonrpc": "2.0", **call}) + "\n")
        process.stdin.flush()
        try:
            yield process
        finally:
            process.kill()


def both_jobs_are_known(folder: Path) -> bool:
    """Whether the ledger has both jobs, and the lost answer of one."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(ledger_in(folder))) as store:
        return store.execute("SELECT count(*), count(error) FROM jobs").fetchone() == (2, 1)
    return False  # there is no table yet


def test_servers_at_work_and_jobs_under_way_or_with_an_unknown_outcome_are_counted(
    tmp_path: Path, api: dict[str, str], sandbox_in_thread: Sandbox
) -> None:
    sandbox_in_thread.account.history_status = 503
    with server_at_work(tmp_path, **api) as server:
        wait_until(lambda: both_jobs_are_known(tmp_path))
        checked = found(tmp_path, **api)
        paid = sandbox_in_thread.paid_requests
        process = server.pid
    assert bad(checked) == []
    assert checked["servers"]["detail"] == f"1 working on jobs (process {process})"
    assert checked["jobs"]["detail"] == "1 under way, 1 with an unknown outcome"
    assert checked["jobs"]["state"] == "note"
    _, servers, jobs = folders.check_ledger(Settings.from_environment(environment(tmp_path, **api)))
    assert servers.detail == "none is working on a job"
    assert jobs.detail == "1 under way, 1 with an unknown outcome; no server works on 2 of them"
    changed = environment(tmp_path, **{**api, "SEGMIND_API_KEY": "SG_another0123456789"})
    *_, jobs = folders.check_ledger(Settings.from_environment(changed))
    assert jobs.detail.endswith("; 2 of them were begun with another API key")
    assert "SEGMIND_API_KEY" in jobs.fix
    assert sandbox_in_thread.paid_requests == paid == 2


# ---- the handshake ----


def test_a_server_that_prints_to_stdout_is_reported_without_the_key_that_it_prints(tmp_path: Path) -> None:
    # Only in the server, so that the doctor's own output has no such line.
    program = "import os, sys\nif 'doctor' not in sys.orig_argv:\n    print('Loading', os.environ['SEGMIND_API_KEY'])\n"
    (tmp_path / "sitecustomize.py").write_text(program, encoding="utf-8")
    variables = {"PYTHONPATH": str(tmp_path), "SEGMIND_API_KEY": "nokey-4711-nokey"}
    checked = found(tmp_path, "--sandbox", **variables)
    assert bad(checked) == ["handshake"]
    assert checked["handshake"]["detail"] == "the server printed something to stdout that is not JSON-RPC: “Loading …”"
    assert "sitecustomize" in checked["handshake"]["fix"]


def test_if_there_is_no_temporary_folder_the_server_is_not_blamed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "none")])
    (check,) = handshake.check_handshake(environment(tmp_path))
    assert check.state == "note"
    assert "TMPDIR" in check.fix


OTHER_TOOLS = """
import json
input()
print(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}}), flush=True)
input(), input()
print(json.dumps({"jsonrpc": "2.0", "id": 2, "result": {"tools": [{"name": "draw"}]}}))
"""


@pytest.mark.parametrize(
    ("program", "seconds", "words"),
    [
        ("import sys; sys.exit('It broke')", 20, "ended with exit code 1 before it answered initialize: “It broke”"),
        ("import time; time.sleep(60)", 1, "did not answer initialize within 1 s"),
        (OTHER_TOOLS, 20, "lists the wrong tools: draw"),
    ],
)
def test_a_server_that_answers_wrongly_or_not_at_all_is_reported_and_ended(
    tmp_path: Path, program: str, seconds: float, words: str
) -> None:
    command = (sys.executable, "-c", program)
    (check,) = handshake.check_handshake(environment(tmp_path), command=command, seconds=seconds)
    assert check.state == "bad"
    assert words in check.detail
    assert check.fix
