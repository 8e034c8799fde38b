"""The start: however a host starts the server, it serves, it reports what is wrong, and it writes no other files.

Every server here is a real process, started as a host does: with pipes, its own environment, and lines of JSON-RPC.
"""

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import HANG_SECONDS, KEY, Sandbox
from PIL import Image
from test_application import drawn

from mcp_vega.errors import InvalidSettings
from mcp_vega.settings import Settings

ROOT = Path(__file__).parent.parent
SCRIPT = [str(Path(sys.executable).with_name("mcp-vega"))]
MODULE = [sys.executable, "-m", "mcp_vega"]
SANDBOX = {"MCP_VEGA_SANDBOX": "1"}
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
TOOLS = ["generate_image_vega", "generate_image_vegart", "submit_job", "check_job"]
PROMPT = "a fox 🦊 in Köln"
Call = tuple[str, dict[str, Any]]
DRAW: Call = ("tools/call", {"name": "generate_image_vegart", "arguments": {"prompt": PROMPT}})
CHECK: Call = ("tools/call", {"name": "check_job", "arguments": {}})

posix = pytest.mark.skipif(sys.platform == "win32", reason="it needs a shell, file descriptors or users as on POSIX")


class Host:
    """A host that starts the server, asks for its tools and makes calls.

    Args:
        folder: The folder of the test. The server runs in an empty folder inside it.
        calls: Methods with their parameters, after `tools/list`.
        command: The command.
        cwd: Another working folder for the server.
        env: The environment, in addition to PATH. Python's warnings are errors.
    """

    def __init__(
        self,
        folder: Path,
        *calls: Call,
        command: list[str] = SCRIPT,
        cwd: Path | None = None,
        env: dict[str, str],
    ) -> None:
        self.folder = folder
        self.cwd = cwd or folder / "cwd"
        self.cwd.mkdir(parents=True, exist_ok=True)
        self._found = set(self.cwd.iterdir()) if cwd is None else None
        kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
        self.process = subprocess.Popen(
            command,
            cwd=self.cwd,
            env={**kept, "PYTHONWARNINGS": "error", **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._killer = threading.Timer(HANG_SECONDS, self.process.kill)
        self._killer.start()
        requests: list[Call] = [("initialize", HELLO), ("tools/list", {}), *calls]
        messages = [{"id": number, "method": each, "params": params} for number, (each, params) in enumerate(requests)]
        messages.insert(1, {"method": "notifications/initialized"})
        self._last = len(requests) - 1
        self._request = "".join(json.dumps({"jsonrpc": "2.0", **each}) + "\n" for each in messages).encode()

    def ask(self) -> "Host":
        """Send all requests without waiting for the answers."""
        assert self.process.stdin
        try:
            self.process.stdin.write(self._request)
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it reads nothing; its exit code says why
        return self

    def see(self) -> list[str]:
        """The texts of the answers, after the host has ended. Also checks everything that a server must not do."""
        assert self.process.stdout
        lines: list[bytes] = []
        answers: dict[int, dict[str, Any]] = {}
        while len(answers) <= self._last and (line := self.process.stdout.readline()):
            lines.append(line)
            message = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            answers |= {message["id"]: message} if "id" in message else {}
        try:
            rest, said = self.process.communicate(timeout=HANG_SECONDS)
        finally:
            self._killer.cancel()
        lines += rest.splitlines()
        assert all(json.loads(line)["jsonrpc"] == "2.0" for line in lines)
        self.stderr = said.decode(errors="replace")
        assert "Traceback" not in self.stderr
        assert KEY.encode() not in b"".join(lines) + said
        assert self._found is None or set(self.cwd.iterdir()) == self._found
        self.tools = [tool["name"] for tool in answers[1]["result"]["tools"]] if 1 in answers else []
        self.texts = [_text(answers[number]) for number in sorted(answers) if number > 1]
        return self.texts

    def told(self) -> str:
        """The text of the last answer, from a server that serves."""
        texts = self.see()
        assert (self.tools, self.process.returncode) == (TOOLS, 0), self.stderr
        return texts[-1]


def _text(answer: dict[str, Any]) -> str:
    return answer["error"]["message"] if "error" in answer else answer["result"]["content"][0]["text"]


def home(folder: Path, name: str = "home") -> str:
    (folder / name).mkdir(parents=True, exist_ok=True)
    return str(folder / name)


def in_shell(line: str, *command: str) -> list[str]:
    """A command that a shell starts with this line."""
    return ["/bin/sh", "-c", line, *(command or SCRIPT)]


def apart(*options: str) -> list[str]:
    """A command that another user runs. Linux lets any user appear as another one in a new namespace."""
    command = ["unshare", *options]
    try:
        possible = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("user namespaces are not available here")
    return command


# ---- drawing ----


@posix
def test_emoji_and_umlauts_arrive_unchanged_however_the_server_is_started(tmp_path: Path) -> None:
    gone = in_shell('mkdir gone && cd gone && rmdir ../gone && exec "$0"')
    optimised = [sys.executable, "-O", "-m", "mcp_vega"]
    rows: dict[str, tuple[list[str], dict[str, str]]] = {
        "C": (gone, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        "Jörg Müller": (optimised, {"PYTHONIOENCODING": "cp1252"}),
        "POSIX": (MODULE, {"LC_ALL": "POSIX", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}),
    }
    hosts = [
        Host(
            tmp_path / f"{number}", DRAW, command=command, env={"HOME": home(tmp_path, name), **SANDBOX, **variables}
        ).ask()
        for number, (name, (command, variables)) in enumerate(rows.items())
    ]
    for name, host in zip(rows, hosts, strict=True):
        text = host.told()
        assert f"“{PROMPT}”" in text, name
        path = Path(re.findall("^Image: (.+)$", text, re.MULTILINE)[0])
        assert path.is_relative_to(tmp_path / name / "Pictures" / "mcp-vega" / "sandbox"), name
        with Image.open(path) as picture:
            assert picture.size == (1024, 1024)
        assert host.stderr == "", name


# ---- folders ----

NO_JOBS = "No jobs yet."
ROWS: dict[str, tuple[dict[str, str], str]] = {
    "no HOME, a key and folders": (
        {"SEGMIND_API_KEY": KEY, "MCP_VEGA_HOME": "{}/h", "MCP_VEGA_GALLERY": "{}/g"},
        NO_JOBS,
    ),
    "HOME a file": ({"HOME": "{}/file"}, "cannot be opened: Not a directory (ledger_error)"),
    "HOME not UTF-8": ({"HOME": "{}/M\udcfcller"}, "is not valid UTF-8, so no result could show it (invalid_settings)"),
    "ledger relative": ({"HOME": "{}", "MCP_VEGA_HOME": "led"}, "MCP_VEGA_HOME cannot be used: it must be an absolute"),
    "gallery relative": ({"HOME": "{}", "MCP_VEGA_GALLERY": "pics"}, "GALLERY cannot be used: it must be an absolute"),
    "gallery a placeholder": ({"HOME": "{}", "MCP_VEGA_GALLERY": "${user_config.gallery}"}, NO_JOBS),
    "XDG relative": ({"HOME": "{}", "XDG_DATA_HOME": "d", "XDG_PICTURES_DIR": "p", "XDG_CONFIG_HOME": "c"}, NO_JOBS),
}


@posix
def test_the_server_serves_and_a_tool_says_what_is_wrong_with_a_folder_or_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def started(number: int, variables: dict[str, str]) -> Host:
        places = {name: value.replace("{}", str(tmp_path)) for name, value in variables.items()}
        sandbox = {} if "SEGMIND_API_KEY" in variables else SANDBOX
        return Host(tmp_path / f"{number}", CHECK, env={**sandbox, **places}).ask()

    hosts = [started(number, variables) for number, (variables, _) in enumerate(ROWS.values())]
    for (row, (_, words)), host in zip(ROWS.items(), hosts, strict=True):
        text = host.told()
        if row == "XDG relative" and words not in text:  # old versions of platformdirs accept relative paths
            words = "this user's home folder is unknown or not an absolute path"  # noqa: PLW2901
        assert words in text, row
        if words == NO_JOBS:
            assert host.stderr == "", row
        elif "(ledger_error)" not in words:
            assert host.stderr.count("\n") == 1, row


@posix
def test_a_gallery_that_is_a_file_stops_a_call_before_it_is_paid_for(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    host = Host(
        tmp_path, DRAW, env={"HOME": home(tmp_path), "MCP_VEGA_GALLERY": str(tmp_path / "file"), **SANDBOX}
    ).ask()
    said, charged, next_step, _ = host.told().splitlines()
    assert "(gallery_error)" in said
    assert (charged, next_step) == (
        "Charged: no.",
        "Next: Set MCP_VEGA_GALLERY to a folder that this user may write to.",
    )


def test_the_resources_say_too_that_a_setting_cannot_be_used(tmp_path: Path) -> None:
    calls: list[tuple[str, dict[str, Any]]] = [
        ("resources/list", {}),
        ("resources/read", {"uri": "vega://gallery"}),
        DRAW,
    ]
    host = Host(tmp_path, *calls, env={"MCP_VEGA_PREVIEW": "huge", "HOME": home(tmp_path)}).ask()
    texts = host.see()
    assert len(texts) == len(calls)
    assert all("MCP_VEGA_PREVIEW cannot be used" in text and "Charged: no." in text for text in texts)


@posix
def test_a_user_without_a_name_or_home_is_asked_to_set_folders(tmp_path: Path) -> None:
    command = [*apart("--user", "--map-user=12345"), *SCRIPT]
    text = Host(tmp_path, CHECK, command=command, env={"SEGMIND_API_KEY": KEY}).ask().told()
    assert "not set, and this user's home folder is unknown or not an absolute path (invalid_settings)" in text
    assert "Next: Set MCP_VEGA_GALLERY to the absolute path of a folder" in text


@posix
def test_a_home_that_is_read_only_or_without_permission_is_reported(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    alone = [*apart("--user", "--map-user=12345"), *SCRIPT]
    mount = [*apart("--map-root-user", "--mount"), *in_shell('mount -t tmpfs -o ro none "$HOME" && exec "$0"')]
    closed = Host(tmp_path / "1", CHECK, command=alone, env={"HOME": str(tmp_path / "closed"), **SANDBOX}).ask()
    read_only = Host(tmp_path / "2", CHECK, command=mount, env={"HOME": home(tmp_path, "mounted"), **SANDBOX}).ask()
    assert "cannot be opened: Permission denied (ledger_error)" in closed.told()
    assert "cannot be opened: Read-only file system (ledger_error)" in read_only.told()


@posix
def test_two_servers_can_create_the_same_ledger_at_the_same_time(tmp_path: Path) -> None:
    hosts = [Host(tmp_path, CHECK, env={"HOME": home(tmp_path), **SANDBOX}) for _ in range(2)]
    for host in hosts:
        host.ask()
    assert all(NO_JOBS in host.told() and not host.stderr for host in hosts)


def test_an_unfilled_placeholder_of_a_bundle_is_not_the_value_of_a_setting() -> None:
    placeholders = {str(field.alias): "${user_config.something}" for field in Settings.model_fields.values()}
    del placeholders["SEGMIND_API_KEY"]  # the error names the placeholder
    assert Settings.from_environment(placeholders) == Settings()


@pytest.mark.parametrize("variable", ["MCP_VEGA_HOME", "MCP_VEGA_GALLERY"])
@pytest.mark.parametrize("folder", ["pictures", "./pictures", "${env:HOME}/pictures", '"pictures"'])
def test_a_relative_folder_is_refused(variable: str, folder: str) -> None:
    with pytest.raises(InvalidSettings, match=f"{variable} cannot be used: it must be an absolute path"):
        Settings.from_environment({variable: folder})


# ---- streams, environments, working folders ----


@posix
def test_closed_streams_cause_no_crash(tmp_path: Path) -> None:
    rows = {"</dev/null": 0, "<&-": 0, ">&-": 0, "2>&-": 4, "<&- >&- 2>&-": 0}
    homes = {row: home(tmp_path, f"home {number}") for number, row in enumerate(rows)}
    hosts = {
        row: Host(tmp_path, command=in_shell(f'exec "$0" {row}'), env={"HOME": homes[row], "SEGMIND_API_KEY": KEY})
        for row in rows
    }
    for row, host in hosts.items():
        host.ask().see()
        assert (len(host.tools), host.process.returncode, host.stderr) == (rows[row], 0, ""), row
        if "<" in row:
            assert not list(Path(homes[row]).iterdir())  # a host that ends immediately leaves no files


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_stdout_that_cannot_be_written_is_reported_in_one_line(tmp_path: Path) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            MODULE,
            input=json.dumps(message).encode() + b"\n",
            stdout=full,
            stderr=subprocess.PIPE,
            env={"HOME": home(tmp_path), "PATH": os.environ["PATH"], **SANDBOX},
            timeout=HANG_SECONDS,
            check=False,
        )
    (line,) = done.stderr.decode().splitlines()
    assert "stdin or stdout cannot be used: [Errno 28]" in line
    assert done.returncode == 1


@posix
def test_a_huge_environment_and_the_root_folder_cause_no_failure(tmp_path: Path) -> None:
    huge = {f"V{number}": "x" * 100_000 for number in range(10)}
    assert NO_JOBS in Host(tmp_path, CHECK, cwd=Path("/"), env={"HOME": home(tmp_path), **SANDBOX, **huge}).ask().told()


@posix
def test_modules_in_the_working_folder_are_not_imported(tmp_path: Path) -> None:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    for name in ("json", "httpx", "platformdirs", "mcp_vega"):
        (cwd / f"{name}.py").write_text("print('hostile'); raise SystemExit(9)", encoding="utf-8")
    assert NO_JOBS in Host(tmp_path, CHECK, env={"HOME": home(tmp_path), **SANDBOX}).ask().told()
    (cwd / "mcp_vega.py").unlink()  # `python -m` would run this file
    assert NO_JOBS in Host(tmp_path, CHECK, command=MODULE, env={"HOME": home(tmp_path), **SANDBOX}).ask().told()


# ---- the key ----

HALF, REST = KEY[:9], KEY[9:]
LEFT = "No Segmind API key is set: SEGMIND_API_KEY still contains "
UNUSABLE = {
    "": "No Segmind API key is set (missing_key)",
    "''": "No Segmind API key is set (missing_key)",
    f"{HALF}\n{REST}": "SEGMIND_API_KEY contains a line break, which no key has (invalid_settings)",
    f"{HALF} {REST}": "SEGMIND_API_KEY contains a space, which no key has (invalid_settings)",
    f"{HALF}“{REST}": "SEGMIND_API_KEY contains a non-ASCII character, which no key has (invalid_settings)",
    f"{HALF}\x1b{REST}": "SEGMIND_API_KEY contains a control character, which no key has (invalid_settings)",
    f"{HALF}\udcff{REST}": "SEGMIND_API_KEY contains a non-ASCII character, which no key has (invalid_settings)",
    f"{KEY};": "SEGMIND_API_KEY contains the character ;, which no key has (invalid_settings)",
    f"Bearer {KEY}": "SEGMIND_API_KEY contains “Bearer” before the key (invalid_settings)",
    f"SEGMIND_API_KEY={KEY}": "SEGMIND_API_KEY contains “SEGMIND_API_KEY=” before the key (invalid_settings)",
    f"x-api-key: {KEY}": "SEGMIND_API_KEY contains “x-api-key:” before the key (invalid_settings)",
    f"${{{KEY}}}": f"{LEFT}a placeholder (missing_key)",
    **{
        each: f"{LEFT}the placeholder {each} (missing_key)"
        for each in (
            "${user_config.api_key}",
            "$SEGMIND_API_KEY",
            "${SEGMIND_API_KEY}",
            "%SEGMIND_API_KEY%",
            "${env:SEGMIND_API_KEY}",
            "${input:segmind-key}",
            "<your key>",
            "SG_your_key",
            "YOUR_API_KEY",
            "SG_xxxxxxxx",
        )
    },
}


@pytest.mark.anyio
@pytest.mark.parametrize("key", UNUSABLE)
async def test_a_key_that_cannot_be_right_is_never_sent_and_the_error_says_what_is_wrong_with_it(
    sandbox: Sandbox, tmp_path: Path, key: str
) -> None:
    text = await drawn(tmp_path, SEGMIND_API_KEY=key, SEGMIND_BASE_URL=sandbox.url)
    said, charged, next_step = text.splitlines()
    assert said == f"Error: {UNUSABLE[key]}."
    assert charged == "Charged: no."
    assert "https://cloud.segmind.com/console/api-keys" in next_step or "before the key" in said
    assert REST not in text
    assert not sandbox.account.requests


@pytest.mark.anyio
@pytest.mark.parametrize("key", [f'"{KEY}"', f"'{KEY}'", f"“{KEY}”", f"{KEY}\n", f" \ufeff{KEY}\r\n"])
async def test_what_pasting_adds_around_a_key_is_removed(sandbox: Sandbox, tmp_path: Path, key: str) -> None:
    assert Settings.from_environment({"SEGMIND_API_KEY": key}) == Settings.from_environment({"SEGMIND_API_KEY": KEY})
    assert "Image: " in await drawn(tmp_path, SEGMIND_API_KEY=key, SEGMIND_BASE_URL=sandbox.url)


def test_a_server_with_a_wrong_key_starts_and_says_so_in_one_line(tmp_path: Path) -> None:
    folders = {"MCP_VEGA_HOME": home(tmp_path), "MCP_VEGA_GALLERY": home(tmp_path, "gallery")}
    keys = ["${user_config.api_key}", f"Bearer {KEY}"]
    hosts = [Host(tmp_path, CHECK, DRAW, env={"SEGMIND_API_KEY": key, **folders}).ask() for key in keys]
    for key, host in zip(keys, hosts, strict=True):
        said, _, next_step = host.told().splitlines()
        assert said == f"Error: {UNUSABLE[key]}."
        (line,) = host.stderr.splitlines()
        assert UNUSABLE[key].partition(" (")[0] in line
        assert next_step.removeprefix("Next: ") in f"{line}."


# ---- the oldest versions that are allowed ----


def lowest() -> list[str]:
    """The requirements of pyproject.toml, each with its lowest version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [re.sub(r">=([\d.]+),<[\d.]+$", r"==\1", each) for each in project["dependencies"]]


def test_every_requirement_has_a_lowest_version_and_excludes_the_next_major_one() -> None:
    assert all(re.fullmatch(r"[a-z-]+(\[[a-z]+\])?==[\d.]+", each) for each in lowest())


@pytest.mark.external
def test_the_server_draws_with_the_lowest_allowed_versions(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    pip = [sys.executable, "-m", "pip", "--python", str(venv), "install", "-q"]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    subprocess.run([*pip, *lowest(), str(ROOT)], check=True, timeout=300)
    script = [str(venv / ("Scripts" if sys.platform == "win32" else "bin") / "mcp-vega")]
    folders = {"MCP_VEGA_HOME": home(tmp_path), "MCP_VEGA_GALLERY": home(tmp_path, "gallery")}
    host = Host(tmp_path, DRAW, CHECK, command=script, env={**folders, **SANDBOX}).ask()
    host.told()
    assert "Image: " in host.texts[0]
    assert host.stderr == ""
