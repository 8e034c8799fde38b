"""`mcp-vega install` and `uninstall`: the file of a host before and after."""

import errno
import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import sysconfig
import threading
import tomllib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any, cast

import pytest
import tomlkit
from conftest import KEY
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from mcp import ClientSession, StdioServerParameters, stdio_client
from terminals import dialogue, posix
from test_command_line import settings

from mcp_vega.cli import install as hosts
from mcp_vega.cli.install import jsonc
from mcp_vega.cli.install.change import installing, uninstalling
from mcp_vega.cli.install.config_file import ConfigFile, HostConfigError
from mcp_vega.cli.install.entry import Entry, lasting_command
from mcp_vega.cli.install.found import find_hosts
from mcp_vega.cli.install.hosts import HOSTS, UserEnvironment
from mcp_vega.cli.install.remote import RemoteEntry
from mcp_vega.cli.main import main

ROOT = Path(__file__).parent.parent
SCRIPT = str(Path(sysconfig.get_path("scripts")) / "mcp-vega")
FILES = {
    "claude-desktop": ".config/Claude/claude_desktop_config.json",
    "claude-code": ".claude.json",
    "cursor": ".cursor/mcp.json",
    "vscode": ".config/Code/User/mcp.json",
    "windsurf": ".codeium/windsurf/mcp_config.json",
    "codex": ".codex/config.toml",
    "gemini": ".gemini/settings.json",
    "zed": ".config/zed/settings.json",
}
JSON_HOSTS = [name for name in FILES if name != "codex"]


@dataclass
class Said:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """The command in an environment with a home folder and a PATH without any host."""
    for name in list(os.environ):
        if name not in {"PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER"}:
            monkeypatch.delenv(name)
    (home.parent / "bin").mkdir()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    connect = socket.create_connection

    def connect_here(address: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
        if address[0] != "127.0.0.1":
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return connect(address, *arguments, **options)

    monkeypatch.setattr("socket.create_connection", connect_here)

    def run(*arguments: str, **variables: str) -> Said:
        with monkeypatch.context() as patch:
            for name, value in {"HOME": str(home), "PATH": str(home.parent / "bin"), **variables}.items():
                patch.setenv(name, value)
            try:
                code = main(arguments)
            except SystemExit as error:
                code = int(str(error.code))
        sys.stderr.flush()
        out, err = capfdbinary.readouterr()
        return Said(code, out.decode(), err.decode())

    return run


def file_of(host: str, home: Path, content: str | bytes | None = None) -> Path:
    """The file of a host, with this content."""
    path = home / FILES[host]
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def servers_in(host: str, home: Path) -> dict[str, Any]:
    text = file_of(host, home).read_text(encoding="utf-8")
    return (tomllib.loads(text) if host == "codex" else jsonc.parse(text)).get(HOSTS[host].section, {})


def with_comments(host: str) -> str:
    """A file with another server, comments and, if its format allows it, a trailing comma."""
    if host == "codex":
        return (
            '# my model\nmodel = "o3"  # good\n\n[mcp_servers.files]\ncommand = "files" # keep\n'
            'env = { TOKEN = "another-secret" }\n\n[profiles.x]\nmodel = "a" # tail\n'
        )
    return (
        "// mine\n{\n"
        '    "theme": "dark", // of course\n'
        f'    "{HOSTS[host].section}": {{\n'
        '        /* files */ "files": {"command": "files", "env": {"TOKEN": "another-secret"}, "args": ["a", ], },\n'
        "        // the end of the servers\n"
        "    },\n"
        "}\n"
    )


def backups(host: str, home: Path) -> list[bytes]:
    path = file_of(host, home)
    return [backup.read_bytes() for backup in sorted(path.parent.glob(f"{path.name}.*.bak"))]


# ---- what is written ----


def test_the_names_of_the_hosts_are_those_in_the_table_of_hosts() -> None:
    assert tuple(HOSTS) == hosts.NAMES
    assert set(FILES) == set(HOSTS)


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_without_a_file_gets_one_that_only_its_owner_can_read(host: str, home: Path, run: Run) -> None:
    said = run("install", host, "--yes", SEGMIND_API_KEY=KEY)
    assert said.code == 0, said.err
    extra = {"type": "stdio"} if host in {"claude-code", "vscode"} else {}
    entry: dict[str, Any] = {**extra, "command": SCRIPT, "args": [], "env": {"SEGMIND_API_KEY": KEY}}
    assert servers_in(host, home) == {"vega": {**entry, **HOSTS[host].defaults}}
    assert file_of(host, home).stat().st_mode & 0o777 == 0o600
    assert KEY not in said.out + said.err
    assert backups(host, home) == []


@pytest.mark.parametrize("host", HOSTS)
def test_every_other_server_and_every_comment_is_kept(host: str, home: Path, run: Run) -> None:
    before = with_comments(host)
    path = file_of(host, home, before)
    said = run("install", host, "--yes", "--sandbox")
    assert said.code == 0, said.err
    after = path.read_text(encoding="utf-8")
    lines = iter(after.splitlines())
    assert all(line in lines for line in before.splitlines() if line), after
    assert servers_in(host, home)["vega"]["args"] == ["--sandbox"]
    assert servers_in(host, home)["files"]["env"] == {"TOKEN": "another-secret"}
    assert "unchanged: files" in said.out
    assert "another-secret" not in said.out + said.err
    assert backups(host, home) == [before.encode()]
    assert "still holds" not in said.out
    # Uninstalling restores the file.
    assert run("uninstall", host, "--yes").code == 0
    assert path.read_bytes() == before.encode()


@pytest.mark.parametrize(
    ("host", "before"),
    [
        *(("codex", text) for text in ("\n", 'a = "b"', 'a = "b"\n', 'a = "b"\n\n\n', "a = 1\r\n", "a = 1\r\nb = 2")),
        *(
            ("cursor", text)
            for text in ("{}", "{ }\n", '{"a": 1}', '{\n "a": 1\n}\n', '{"mcpServers": { }}', "// a\n{}")
        ),
    ],
)
@pytest.mark.parametrize("with_backups", [True, False], ids=["with backups", "without"])
def test_after_install_and_uninstall_a_file_is_as_before(
    host: str, before: str, *, with_backups: bool, home: Path, run: Run
) -> None:
    path = file_of(host, home, before)
    assert run("install", host, "--yes", "--sandbox").code == 0
    if not with_backups:
        # Otherwise an added section is left over, and the space in an existing one is lost.
        for each in path.parent.glob("*.bak"):
            each.unlink()
        assert run("install", host, "--yes", SEGMIND_API_KEY=KEY).code == 0
        assert run("install", host, "--yes", "--sandbox").code == 0
    assert run("uninstall", host, "--yes").code == 0
    if with_backups or host == "codex":
        assert path.read_bytes() == before.encode()
    else:
        assert jsonc.parse(path.read_text(encoding="utf-8")) == {**jsonc.parse(before), "mcpServers": {}}


@pytest.mark.parametrize("host", JSON_HOSTS)
def test_an_older_entry_gets_the_new_command_and_its_other_members_are_kept(host: str, home: Path, run: Run) -> None:
    before = f"""{{
  "{HOSTS[host].section}": {{
    "vega": {{
      // mine
      "command": "/old/uvx", // of last year
      "args": ["mcp-vega"],
      "timeout": 99,
      "env": {{ "SEGMIND_API_KEY": "SG_older", "MCP_VEGA_PREVIEW": "small" /* enough */ }}
    }}
  }}
}}
"""
    path = file_of(host, home, before)
    said = run("install", host, "--yes")
    assert said.code == 0, said.err
    wanted = before.replace('"/old/uvx"', json.dumps(SCRIPT)).replace('["mcp-vega"]', "[]")
    if host in {"claude-code", "vscode"}:
        wanted = wanted.replace("enough */ }\n", 'enough */ },\n      "type": "stdio"\n')
    assert path.read_text(encoding="utf-8") == wanted
    assert "without SEGMIND_API_KEY" not in said.err  # the entry has one already
    run("install", host, "--yes", SEGMIND_API_KEY=KEY)
    assert path.read_text(encoding="utf-8") == wanted.replace("SG_older", KEY)
    assert "SG_older" not in said.out + said.err


def test_an_older_entry_of_codex_keeps_its_comments_and_its_other_members(home: Path, run: Run) -> None:
    before = (
        '[mcp_servers.vega] # mine\ncommand = "/old/uvx" # old\nargs = ["mcp-vega"]\nstartup_timeout_sec = 30\n\n'
        '[mcp_servers.vega.env]\nMCP_VEGA_PREVIEW = "small" # enough\n'
    )
    path = file_of("codex", home, before)
    assert run("install", "codex", "--yes", SEGMIND_API_KEY=KEY).code == 0
    wanted = before.replace("/old/uvx", SCRIPT).replace('["mcp-vega"]', "[]") + f'SEGMIND_API_KEY = "{KEY}"\n'
    wanted = wanted.replace("_sec = 30\n", "_sec = 30\nrequired = true\n")
    assert path.read_text(encoding="utf-8") == wanted


def test_an_entry_with_a_url_is_replaced(home: Path, run: Run) -> None:
    file_of("cursor", home, '{"mcpServers": {"vega": {"url": "https://old.example/mcp"}, "b": {"url": "x"}}}')
    assert run("install", "cursor", "--yes", "--sandbox").code == 0
    entry = {"command": SCRIPT, "args": ["--sandbox"]}
    assert servers_in("cursor", home) == {"vega": entry, "b": {"url": "x"}}


def test_comments_below_an_entry_of_codex_stay_when_the_entry_is_replaced_or_removed(home: Path, run: Run) -> None:
    above, below = '[mcp_servers.a]\ncommand = "a"\n\n# mine\n', '# off for now\n# [mcp_servers.c]\n# command = "c"\n'
    for entry in (
        'command = "old"',
        'url = "https://old.example/mcp"',
        'command = "old"\n\n[mcp_servers.vega.tools]\nx = 1',
    ):
        for tail in ("", '[mcp_servers.b]\ncommand = "b"\n'):
            path = file_of("codex", home, f"{above}[mcp_servers.vega]\n{entry}\n\n{below}{tail}")
            assert run("install", "codex", "--yes", "--sandbox").code == 0
            assert below in path.read_text(encoding="utf-8")
            assert run("uninstall", "codex", "--yes").code == 0
            assert path.read_text(encoding="utf-8").rstrip() == f"{above}{below}{tail}".rstrip()


def test_an_older_entry_is_shown_without_anything_that_may_be_a_key(home: Path, run: Run) -> None:
    secret = "SG_of_an_older_entry"
    older: dict[str, Any] = {
        "arguments": {"command": "npx", "args": ["server", "--api-key", secret]},
        "parts": {"command": {"path": "/old", "args": [], "env": {"SEGMIND_API_KEY": secret}}},
        "a list": {"command": ["npx", "server", secret]},
        "a line": {"command": f"env SEGMIND_API_KEY={secret} \x1b]0;title\a", "\x9b31m": 1},
    }
    for entry in older.values():
        file_of("zed", home, json.dumps({"context_servers": {"vega": entry}}))
        for command in ("install", "uninstall"):
            said = run(command, "zed", "--dry-run")
            assert said.code == 0
            assert secret not in said.out + said.err
            assert "".join(said.out.splitlines()).isprintable()


def test_an_older_entry_with_an_empty_key_or_the_examples_key_counts_as_one_without_a_key(home: Path, run: Run) -> None:
    for key in ("", "SG_your_key"):
        entry = {"command": "old", "env": {"SEGMIND_API_KEY": key}}
        file_of("cursor", home, json.dumps({"mcpServers": {"vega": entry}}))
        assert "without SEGMIND_API_KEY" in run("install", "cursor", "--yes").err


ODD_FILES = {
    "empty": "",
    "a line": "\n",
    "only comments": "// nothing yet\n",
    "an empty object": "{}",
    "an empty object of two lines": "{\n}\n",
    "one line": '{"a": 1, "SECTION": {"files": {"command": "files"}}}',
    "one line without servers": '{ "a": "//, }" }',
    "Windows lines": '{\r\n\t"a": [1, 2],\r\n\t"SECTION": {\r\n\t\t"files": {"command": "f"}\r\n\t}\r\n}\r\n',
    "a byte order mark": '\ufeff{"a": "ü"}\n',
    "a comment before the end": '{"a": 1 // one\n}',
    "odd space in a comment": '{ /* none\u00a0\u3000\u2028\u0085 */ "a": 1 }\n',
    "a comment instead of servers": '{\n  "SECTION": { /* none */ }\n}\n',
}


@pytest.mark.parametrize("case", ODD_FILES)
def test_a_file_of_any_form_gets_the_entry_and_the_rest_is_kept(case: str, home: Path, run: Run) -> None:
    for host in ("claude-desktop", "vscode"):
        before = ODD_FILES[case].replace("SECTION", HOSTS[host].section)
        path = file_of(host, home, before)
        assert run("install", host, "--yes", "--sandbox").code == 0
        after = path.read_bytes().decode()
        assert not after.startswith("\ufeff"), "some hosts refuse a file that begins with it"
        assert after.count("\r\n") == (after.count("\n") if "\r\n" in before else 0)
        old, new = (jsonc.parse(text.removeprefix("\ufeff")) for text in (before, after))
        vega = new[HOSTS[host].section].pop("vega")
        assert vega["command"] == SCRIPT
        assert new == {HOSTS[host].section: {}, **old}
        for comment in ("// nothing yet", "// one", "/* none */"):
            assert (comment in after) == (comment in before)
        assert backups(host, home) == [before.encode()]
        assert run("uninstall", host, "--yes").code == 0
        assert path.read_bytes().decode() == before.removeprefix("\ufeff")


@pytest.mark.parametrize("host", ["claude-desktop", "codex"])
def test_a_byte_order_mark_is_removed_even_if_the_entry_is_already_right(host: str, home: Path, run: Run) -> None:
    assert run("install", host, "--yes", "--sandbox").code == 0
    path = file_of(host, home)
    whole = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + whole)
    shown = run("install", host, "--dry-run", "--sandbox")
    assert "- the byte order mark" in shown.out
    assert path.read_bytes() != whole
    assert run("install", host, "--yes", "--sandbox").code == 0
    assert path.read_bytes() == whole
    assert "nothing to do" in run("install", host, "--yes", "--sandbox").out


def test_a_note_says_if_a_host_will_not_start_the_entry(home: Path, run: Run) -> None:
    path = file_of("claude-desktop", home, "{\n // mine\n}\n")
    said = run("install", "claude-desktop", "--yes", "--sandbox")
    assert said.code == 0
    assert f"Note: Claude Desktop refuses {path}, because it holds comments.\n" in said.err
    path = file_of("codex", home, '[mcp_servers.vega]\ncommand = "old"\nenabled = false\n')
    said = run("install", "codex", "--yes", "--sandbox")
    assert said.code == 0
    assert "vega stays switched off in Codex, as its entry says enabled = false. Take enabled = false out" in said.err


BROKEN = {
    "claude-desktop": {
        "no JSON": b'{"mcpServers": {',
        "a comma too many": b'{"a": 1,, "b": 2}',
        "a list": b"[]",
        "a list of servers": b'{"mcpServers": []}',
        "null for servers": b'{"mcpServers": null}',
        "not UTF-8": '{"name": "Jürgen"}'.encode("latin-1"),
        "UTF-16": "{}".encode("utf-16"),
        "nested without end": b"[" * 200_000,
        "NaN": b'{"a": NaN}',
    },
    "codex": {
        "no TOML": b"[mcp_servers\n",
        "a name twice": b"[a]\nb = 1\n[a]\nc = 1\n",
        "a list of servers": b"mcp_servers = []\n",
        "nested without end": b"x = " + b"[" * 20_000,
        "not UTF-8": 'name = "Jürgen"'.encode("latin-1"),
    },
}


@pytest.mark.parametrize(("host", "case"), [(host, case) for host, cases in BROKEN.items() for case in cases])
def test_a_file_that_cannot_be_read_is_refused_and_left_unchanged(host: str, case: str, home: Path, run: Run) -> None:
    path = file_of(host, home, BROKEN[host][case])
    for command in ("install", "uninstall"):
        said = run(command, host, "--yes", SEGMIND_API_KEY=KEY)
        assert said.code == 1
        assert said.out == ""
        assert said.err.startswith("Error: ")
        assert str(path) in said.err
        assert said.err.count("\n") == 2
        assert path.read_bytes() == BROKEN[host][case]
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows finds the home folder without HOME")
@pytest.mark.parametrize("folder", [".", "~"])
def test_without_a_known_home_folder_nothing_is_written(
    folder: str, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    for host in (["cursor"], []):
        said = run("install", *host, "--yes", HOME=folder, SEGMIND_API_KEY=KEY)
        assert (said.code, "Next: Set HOME to the absolute path" in said.err) == (1, True)
    assert not [*home.iterdir()]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither pipes in folders nor /dev")
@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_anything_that_is_not_a_file_is_refused_and_left_unchanged(kind: str, home: Path, run: Run) -> None:
    """A pipe is not waited for. A device is not replaced by a file, in which others could read the key."""
    path = file_of("cursor", home)
    device = home / "null"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.symlink_to(device)
            try:
                os.mknod(device, stat.S_IFCHR | 0o666, Path(os.devnull).stat().st_rdev)
            except PermissionError:
                if os.geteuid() == 0:  # in a container; the machine's own device is not used
                    pytest.skip("this user may not make a device")
                device.symlink_to(os.devnull)
    before = path.stat()
    said = run("install", "cursor", "--yes", SEGMIND_API_KEY=KEY)
    assert (said.code, said.err.startswith(f"Error: {path} is not a file")) == (1, True)
    assert os.path.samestat(path.stat(), before)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root gives files away")
def test_a_file_and_its_backup_keep_their_owner(home: Path, run: Run) -> None:
    path = file_of("cursor", home, "{}")
    os.chown(path, 1234, 2345)
    assert run("install", "cursor", "--yes", "--sandbox").code == 0
    owners = {(each.stat().st_uid, each.stat().st_gid) for each in path.parent.iterdir()}
    assert (owners, len(list(path.parent.iterdir()))) == ({(1234, 2345)}, 2)


def test_a_link_stays_a_link_and_the_permissions_are_kept(home: Path, run: Run) -> None:
    dotfile = home / "dotfiles.json"
    dotfile.write_text("{}", encoding="utf-8")
    dotfile.chmod(0o640)
    path = file_of("cursor", home)
    path.symlink_to(dotfile)
    assert run("install", "cursor", "--yes", "--sandbox").code == 0
    assert path.is_symlink()
    assert "vega" in dotfile.read_text(encoding="utf-8")
    assert dotfile.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has permissions of another kind")
@pytest.mark.parametrize(("mode", "is_open"), [(0o644, True), (0o640, True), (0o604, True), (0o600, False)])
def test_only_the_owner_can_read_a_backup_and_a_key_that_others_can_read_is_reported(
    mode: int, *, is_open: bool, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of("cursor", home, '{"mcpServers": {}}')
    path.chmod(mode)
    modes = set[int]()
    replaced = Path.replace

    def replace_watched(self: Path, target: Path) -> Path:
        if str(target).endswith(".bak"):
            modes.add(self.stat().st_mode & 0o777)
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", replace_watched)
    said = run("install", "cursor", "--yes", "--sandbox")
    assert "chmod" not in said.err  # the entry holds no secret
    for arguments in (["--dry-run"], ["--yes"], ["--yes"], ["--url", URL, "--yes"]):
        said = run("install", "cursor", *arguments, SEGMIND_API_KEY=KEY, MCP_VEGA_TOKEN=ACCESS_TOKEN)
        assert said.code == 0, said.err
        assert (f"`chmod 600 {path}` changes that" in said.err) == is_open
    assert path.stat().st_mode & 0o777 == mode, "the file's permissions are its owner's matter"
    copies = [*path.parent.glob("*.bak")]
    assert {each.stat().st_mode & 0o777 for each in copies} == modes == {0o600}
    # A variable that the host fills in is not a secret.
    put_entry("cursor", home, {"command": SCRIPT, "args": [], "env": {"SEGMIND_API_KEY": "${env:KEY}"}})
    assert "chmod" not in run("install", "cursor", "--yes").err


def test_a_file_that_another_program_changed_meanwhile_is_not_overwritten(home: Path) -> None:
    path = file_of("cursor", home, "{}")
    file = ConfigFile.read(path)
    path.write_text('{"new": 1}', encoding="utf-8")
    with pytest.raises(HostConfigError, match="was changed by another program"):
        file.write("{}")
    assert path.read_text(encoding="utf-8") == '{"new": 1}'


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file sizes")
def test_a_full_disk_leaves_the_file_unchanged(home: Path) -> None:
    path = file_of("cursor", home, "{}")
    done = subprocess.run(
        ["/bin/sh", "-c", f'ulimit -f 0; exec "{sys.executable}" -m mcp_vega install cursor --yes --sandbox'],
        env={**settings(home), "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "No backup of" in done.stderr) == (1, True), done.stderr
    assert path.read_text(encoding="utf-8") == "{}"
    assert list(path.parent.iterdir()) == [path]


# ---- asking ----


def test_a_dry_run_shows_the_change_and_does_not_make_it(home: Path, run: Run) -> None:
    path = file_of("codex", home, with_comments("codex"))
    for command in ("install", "uninstall"):
        said = run(command, "codex", "--dry-run", SEGMIND_API_KEY=KEY)
        assert said.code == 0
        assert path.read_text(encoding="utf-8") == with_comments("codex")
        assert list(path.parent.iterdir()) == [path]
    said = run("install", "codex", "--dry-run", SEGMIND_API_KEY=KEY)
    assert f"  +   command: {SCRIPT}\n" in said.out
    assert "  +   env SEGMIND_API_KEY: (not shown)\n" in said.out


def test_without_a_terminal_install_asks_for_the_option_yes(home: Path, run: Run) -> None:
    said = run("install", "cursor", SEGMIND_API_KEY=KEY)
    assert (said.code, "Next: Add --yes.\n" in said.err) == (2, True)
    assert not file_of("cursor", home).exists()


@pytest.mark.parametrize("key", ["SG_your_key", "${input:key}", "SG_two words", "Bearer SG_0123456789"])
def test_a_value_that_is_not_a_key_is_not_written(key: str, home: Path, run: Run) -> None:
    said = run("install", "cursor", "--yes", SEGMIND_API_KEY=key)
    assert (said.code, "SEGMIND_API_KEY" in said.err) == (2, True)
    assert not file_of("cursor", home).exists()
    assert run("install", "cursor", "--yes", SEGMIND_API_KEY=f" '{KEY}' ").code == 0
    assert servers_in("cursor", home)["vega"]["env"] == {"SEGMIND_API_KEY": KEY}


@pytest.mark.parametrize("host", ["cursor", "codex"])
def test_a_host_gets_the_path_of_the_file_with_the_key_and_not_the_key(host: str, home: Path, run: Run) -> None:
    file = home / "key"
    file.write_text(f"{KEY}\n", encoding="utf-8")
    in_file = {"SEGMIND_API_KEY_FILE": "~/key"}
    assert run("install", host, "--yes", SEGMIND_API_KEY=KEY).code == 0
    said = run("install", host, "--yes", **in_file)
    assert servers_in(host, home)["vega"]["env"] == {"SEGMIND_API_KEY_FILE": str(file)}
    assert f"env SEGMIND_API_KEY_FILE: {file}" in said.out
    assert KEY not in file_of(host, home).read_text(encoding="utf-8") + said.out + said.err
    assert "nothing to do" in run("install", host, "--yes", **in_file).out
    # A key instead of the file, and a file that cannot be used.
    assert run("install", host, "--yes", SEGMIND_API_KEY=KEY).code == 0
    assert servers_in(host, home)["vega"]["env"] == {"SEGMIND_API_KEY": KEY}
    file.write_text(f"Bearer {KEY}", encoding="utf-8")
    refused = run("install", host, "--yes", **in_file)
    assert (refused.code, KEY in refused.err, "The file in SEGMIND_API_KEY_FILE contains" in refused.err) == (
        2,
        False,
        True,
    )


@pytest.mark.parametrize("host", HOSTS)
def test_an_entry_that_draws_on_this_machine_needs_no_key_and_says_how_to_check_the_machine(
    host: str, home: Path, run: Run
) -> None:
    said = run("install", host, "--yes", "--local")
    entry = servers_in(host, home)["vega"]
    assert (said.code, entry["args"], entry.get("env")) == (0, ["--local"], None)
    assert "`mcp-vega doctor --local` checks both" in said.err
    assert "SEGMIND_API_KEY" not in said.err
    assert "nothing to do" in run("install", host, "--yes", "--local").out
    printed = run("install", host, "--print", "--local").out
    assert ("--local" in printed, "SEGMIND_API_KEY" in printed) == (True, False)


def test_the_folder_of_the_weights_is_written_into_the_entry_and_a_key_that_is_there_stays(
    home: Path, run: Run
) -> None:
    assert run("install", "cursor", "--yes", SEGMIND_API_KEY=KEY).code == 0
    said = run("install", "cursor", "--yes", "--local", MCP_VEGA_WEIGHTS="~/weights")
    weights = str(home / "weights")
    assert servers_in("cursor", home)["vega"]["env"] == {"SEGMIND_API_KEY": KEY, "MCP_VEGA_WEIGHTS": weights}
    assert f"env MCP_VEGA_WEIGHTS: {weights}" in said.out
    assert KEY not in said.out + said.err
    # Back to the API: the folder is kept, and nothing uses it.
    said = run("install", "cursor", "--yes", SEGMIND_API_KEY=KEY)
    assert '-   args: ["--local"]' in said.out
    assert servers_in("cursor", home)["vega"]["args"] == []
    refused = run("install", "cursor", "--yes", "--local", MCP_VEGA_WEIGHTS="weights")
    assert (refused.code, "MCP_VEGA_WEIGHTS" in refused.err) == (2, True)


def test_a_second_installation_has_nothing_to_do(home: Path, run: Run) -> None:
    run("install", "zed", "--yes", SEGMIND_API_KEY=KEY)
    before = file_of("zed", home).read_bytes()
    said = run("install", "zed", SEGMIND_API_KEY=KEY)
    assert (said.code, "nothing to do" in said.out) == (0, True)
    assert file_of("zed", home).read_bytes() == before


def test_uninstall_names_the_backups_that_hold_a_key_and_how_to_delete_them(home: Path, run: Run) -> None:
    run("install", "Cursor", "--yes", SEGMIND_API_KEY=KEY)  # upper and lower case do not matter
    run("install", "cursor", "--yes", SEGMIND_API_KEY="SG_another")
    with_keys = {*file_of("cursor", home).parent.glob("*.bak")}
    said = run("uninstall", "cursor", "--yes", "--dry-run")
    assert "backups" not in said.out
    said = run("uninstall", "cursor", "--yes")
    with_keys |= {*file_of("cursor", home).parent.glob("*.bak")}
    told = said.out.partition("These backups still hold a key or token. Delete them when everything works:\n")[2]
    assert {*told.splitlines()} == {f"  rm {each}" for each in with_keys}
    assert len(with_keys) == 2
    # The same if there is no entry left, but only for those that hold a key.
    run("install", "cursor", "--yes", "--sandbox")
    min(with_keys).unlink()
    run("uninstall", "cursor", "--yes")
    assert len(backups("cursor", home)) == 3
    again = run("uninstall", "cursor").out
    assert "has no entry vega; nothing to do." in again
    assert again.endswith(f"everything works:\n  rm {max(with_keys)}\n")
    max(with_keys).unlink()
    assert "backups" not in run("uninstall", "cursor").out


def test_only_the_oldest_backup_and_the_newest_two_are_kept(home: Path, run: Run) -> None:
    path = file_of("cursor", home, "{}")
    names = ("mcp.json.bak", "mcp.json.2026.bak", "other.json.20200101-000000-000000.bak")
    others = {path.with_name(name) for name in names}
    for each in others:
        each.touch()
    # The clock may have been ahead once.
    ahead = [path.with_name(f"mcp.json.2999010{day}-000000-000000.bak") for day in range(1, 5)]
    for each in ahead:
        each.write_text('{"mcpServers": {}}', encoding="utf-8")
    folder = path.with_name("mcp.json.20200101-000000-000000.bak")
    folder.mkdir()
    said = run("install", "cursor", "--yes", "--sandbox")
    (newest,) = (line.partition("Backup: ")[2] for line in said.out.splitlines() if "Backup: " in line)
    assert {*path.parent.iterdir()} == {path, *others, folder, Path(newest), ahead[0], ahead[-1]}
    for each in ahead:
        each.unlink(missing_ok=True)
    folder.rmdir()
    for number in range(4):
        assert run("install", "cursor", "--yes", SEGMIND_API_KEY=f"SG_{number}").code == 0
    found = b"".join(backups("cursor", home))
    assert [f"SG_{number}".encode() in found for number in range(4)] == [False, True, True, False]
    assert b"{}" in backups("cursor", home), "the file as it was before the first change"
    assert len({*path.parent.iterdir()} - others) == 4


def test_uninstall_does_nothing_if_there_is_no_entry(home: Path, run: Run) -> None:
    said = run("uninstall", "zed")
    assert (said.code, "has no entry vega" in said.out) == (0, True)
    assert list(home.iterdir()) == []


def at_a_terminal(home: Path, *arguments: str, answers: list[tuple[str, str]], **variables: str) -> tuple[int, str]:
    """The exit code of a command, and what a person sees who types an answer to each question."""
    environment = {**settings(home), "HOME": str(home), **variables}
    return dialogue([sys.executable, "-m", "mcp_vega", *arguments], answers, environment)


@posix
def test_the_key_is_asked_for_without_echo(home: Path) -> None:
    answers = [("Segmind API key", f"{KEY}\n"), ("Make this change?", "y\n")]
    code, seen = at_a_terminal(home, "install", "cursor", answers=answers)
    assert code == 0, seen
    assert servers_in("cursor", home)["vega"]["env"] == {"SEGMIND_API_KEY": KEY}
    assert KEY not in seen
    # A wrong key is replaced in the same way. An empty line keeps it.
    answers = [("empty keeps the one that is there", "another-key\n"), ("Make this change?", "y\n")]
    code, seen = at_a_terminal(home, "install", "cursor", answers=answers)
    assert (code, "Segmind's keys begin with SG_" in seen, "another-key" in seen) == (0, True, False)
    assert servers_in("cursor", home)["vega"]["env"] == {"SEGMIND_API_KEY": "another-key"}
    code, seen = at_a_terminal(home, "install", "cursor", answers=[("empty keeps the one that is there", "\n")])
    assert (code, "nothing to do" in seen, "Its key is kept" in seen) == (0, True, True)


@posix
def test_after_the_answer_no_nothing_is_changed(home: Path) -> None:
    answers = [("Segmind API key", "\n"), ("Make this change?", "n\n")]
    code, seen = at_a_terminal(home, "install", "cursor", answers=answers)
    assert (code, "Nothing was changed." in seen, "without SEGMIND_API_KEY" in seen) == (1, True, True)
    assert not file_of("cursor", home).exists()


@posix
@pytest.mark.parametrize(("question", "options"), [("[Y/n] ", ["--sandbox"]), ("Segmind API key", [])])
def test_if_the_input_ends_at_a_question_nothing_is_changed(question: str, options: list[str], home: Path) -> None:
    code, seen = at_a_terminal(home, "install", "cursor", *options, answers=[(question, "\x04")])
    assert code == 1
    assert re.search(r" \r\n(\r\n)?Nothing was changed\.\r\n$", seen), seen
    assert not file_of("cursor", home).exists()


@posix
def test_the_end_of_the_input_ends_the_questions_for_all_hosts(home: Path) -> None:
    prepare_hosts(home)
    answers = [("for none: ", "1 2 3\n"), ("Claude Code: ", ""), ("[Y/n] ", "\n"), ("Cursor: ", ""), ("[Y/n] ", "\x04")]
    code, seen = at_a_terminal(home, "install", "--sandbox", answers=answers, PATH=str(home.parent / "bin"))
    assert (code, seen.endswith("[Y/n] \r\nNothing more was changed.\r\n"), seen.count("[Y/n]")) == (1, True, 2)
    assert "vega" in servers_in("claude-code", home)
    assert servers_in("vscode", home) == {"vega": {"command": "old"}}
    answers = [("Make this change? [Y/n] ", "\x04")]
    code, seen = at_a_terminal(home, "uninstall", "claude-code", answers=answers)
    assert (code, seen.endswith("[Y/n] \r\nNothing was changed.\r\n")) == (1, True)


@posix
def test_a_mistyped_key_or_token_is_asked_for_again(home: Path) -> None:
    question = "(it is not shown; empty leaves it out): "
    answers = [
        (question, "two words\n"),
        ("The text contains a space, which no key has.", ""),
        (question, "SG_your_key\n"),
        ("The text still contains the placeholder SG_your_key.", ""),
        (question, f"{KEY}\n"),
        ("[Y/n] ", "\n"),
    ]
    code, seen = at_a_terminal(home, "install", "cursor", answers=answers)
    assert (code, KEY in seen, "SEGMIND_API_KEY contains" in seen) == (0, False, False), seen
    assert servers_in("cursor", home)["vega"]["env"] == {"SEGMIND_API_KEY": KEY}
    answers = [(question, "two words\n"), ("The access token holds a space", "")] * 3
    code, seen = at_a_terminal(home, "install", "zed", "--url", "http://[::1]:9/mcp", answers=answers)
    assert (code, "None of 3 answers could be used" in seen, "two words" in seen) == (2, True, False), seen
    assert not file_of("zed", home).exists()


def test_without_stdin_install_asks_for_the_option_yes(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    said = run("install", "cursor")
    assert (said.code, "Next: Add --yes.\n" in said.err) == (2, True)
    assert not file_of("cursor", home).exists()


# ---- the hosts on this machine ----


def prepare_hosts(home: Path) -> None:
    """Claude Code has a file, Cursor a folder, Codex a program, VS Code an entry, and Windsurf a broken file."""
    file_of("claude-code", home, "{}")
    (home / ".cursor").mkdir()
    (home.parent / "bin").mkdir(exist_ok=True)
    (home.parent / "bin" / "codex").touch(0o755)
    file_of("vscode", home, '{"servers": {"vega": {"command": "old"}}}')
    file_of("windsurf", home, "{")


def test_without_a_name_install_says_which_hosts_it_found_and_writes_nothing(home: Path, run: Run) -> None:
    prepare_hosts(home)
    before = sorted(home.rglob("*"))
    for arguments, command in {
        ("--yes",): "mcp-vega install claude-code --yes",
        (): "mcp-vega install claude-code --yes",
        ("--sandbox",): "mcp-vega install claude-code --yes --sandbox",
        ("--local",): "mcp-vega install claude-code --yes --local",
        ("--url", "https://a.example/mcp"): "mcp-vega install claude-code --url https://a.example/mcp --yes",
        ("--url", "https://a/;id;/mcp"): "mcp-vega install claude-code --url 'https://a/;id;/mcp' --yes",
    }.items():
        said = run("install", *arguments, SEGMIND_API_KEY=KEY)
        assert (said.code, said.out) == (2, "")
        assert (
            "Found on this machine: claude-code (~/.claude.json), cursor (the folder ~/.cursor), "
            "vscode (~/.config/Code/User/mcp.json; has the entry), windsurf (~/.codeium/windsurf/mcp_config.json), "
            f"codex (the program {home.parent}/bin/codex) (invalid_arguments)."
        ) in said.err
        assert f"Next: Name one, as in `{command}`.\n" in said.err
        assert sorted(home.rglob("*")) == before


def test_if_no_host_is_found_install_says_so(run: Run) -> None:
    for arguments in ([], ["--yes"], ["--dry-run"]):
        said = run("install", *arguments)
        assert (said.code, "none was found on this machine" in said.err) == (2, True)
        assert all(host in said.err for host in HOSTS)


def test_a_dry_run_without_a_name_shows_the_change_for_each_host(home: Path, run: Run) -> None:
    prepare_hosts(home)
    before = sorted(home.rglob("*"))
    said = run("install", "--dry-run", "--sandbox")
    shown = [line.partition(":")[0] for line in said.out.splitlines() if line.startswith(("C", "V", "W"))]
    assert shown == ["Claude Code", "Cursor", "VS Code", "Codex"]
    assert said.out.endswith("\n\nNothing was changed (--dry-run).\n")
    assert said.out.count("Nothing was changed") == 1
    assert all(f"\n\n{each}: " in said.out for each in shown[1:])
    assert "Charged" not in said.err
    said = run("install", "--dry-run")
    assert said.err.count("without SEGMIND_API_KEY") == 1
    assert (said.err.count("with required = true"), len(set(said.err.splitlines()))) == (1, said.err.count("\n"))
    # The host with the broken file does not stop the others.
    assert (said.code, "windsurf/mcp_config.json cannot be read" in said.err) == (1, True)
    assert sorted(home.rglob("*")) == before


@posix
def test_without_a_name_the_user_chooses_among_the_found_hosts_and_is_asked_for_the_key_once(home: Path) -> None:
    prepare_hosts(home)
    answers = [
        ("Enter for none: ", "9\n"),
        ("'9' is neither a number from 1 to 5 nor one of", ""),
        ("Enter for none: ", "1, Cursor 4 5\n"),
        ("Segmind API key (it is not shown; empty leaves it out)", f"{KEY}\n"),
        ("Claude Code: ", ""),
        ("Make this change?", "y\n"),
        ("Cursor: ", ""),
        ("Make this change?", "n\n"),
        ("Codex: ", ""),
        ("Make this change?", "\n"),
    ]
    code, seen = at_a_terminal(home, "install", answers=answers, PATH=str(home.parent / "bin"))
    assert code == 1, "the user declined one, and another one has a broken file"
    assert "1  claude-code  Claude Code: ~/.claude.json\r\n" in seen
    assert "3  vscode       VS Code: ~/.config/Code/User/mcp.json (has the entry vega)\r\n" in seen
    assert "4  windsurf     Windsurf: ~/.codeium/windsurf/mcp_config.json (its file cannot be read)\r\n" in seen
    assert seen.count("Segmind API key (") == 1
    assert seen.count("Error: ") == 1
    assert "Charged" not in seen
    assert KEY not in seen
    assert servers_in("claude-code", home)["vega"]["env"] == {"SEGMIND_API_KEY": KEY}
    assert servers_in("codex", home)["vega"]["env"] == {"SEGMIND_API_KEY": KEY}
    assert not file_of("cursor", home).exists()


@posix
def test_if_the_user_chooses_no_host_nothing_is_changed(home: Path) -> None:
    prepare_hosts(home)
    for answer in ("\n", "\x04"):
        answers = [("Enter for none: ", answer)]
        code, seen = at_a_terminal(home, "install", answers=answers, PATH=str(home.parent / "bin"))
        assert (code, "No host was chosen, so nothing was changed." in seen) == (1, True)
    assert file_of("claude-code", home).read_text(encoding="utf-8") == "{}"


def test_a_folder_with_an_impossible_name_does_not_stop_the_search_for_hosts(home: Path) -> None:
    file_of("cursor", home, "{}")
    too_long = {"CODEX_HOME": "x" * 5000, "CLAUDE_CONFIG_DIR": "x" * 5000}
    found = find_hosts(UserEnvironment(too_long, home, "linux"))
    assert [each.name for each in found] == ["cursor"]


def test_an_application_for_macos_is_found(home: Path) -> None:
    (home / "Applications" / "Zed.app").mkdir(parents=True)
    (home / "Applications" / "Cursor.app").mkdir()
    found = {each.name: each.evidence for each in find_hosts(UserEnvironment({}, home, "darwin"))}
    assert found["zed"] == "the application ~/Applications/Zed.app"
    assert "zed" not in {each.name for each in find_hosts(UserEnvironment({}, home, "linux"))}


# ---- a server over HTTP ----

URL = "https://pictures.example/mcp"
ACCESS_TOKEN = "the-token-of-a-caller"
BEARER = {"Authorization": f"Bearer {ACCESS_TOKEN}"}
# From the documents of each host. tests/test_real_hosts.py has Claude Code, Codex and Gemini CLI read them.
REMOTE: dict[str, dict[str, Any]] = {
    "claude-code": {"type": "http", "url": URL, "headers": BEARER},
    "cursor": {"url": URL, "headers": BEARER},
    "vscode": {"type": "http", "url": URL, "headers": BEARER},
    "windsurf": {"serverUrl": URL, "headers": BEARER},
    "codex": {"url": URL, "http_headers": BEARER},
    "gemini": {"type": "http", "url": URL, "headers": BEARER},
    "zed": {"url": URL, "headers": BEARER},
}


def put_entry(host: str, home: Path, entry: dict[str, Any]) -> None:
    """Write the file of a host, with this entry alone."""
    data = {HOSTS[host].section: {"vega": entry}}
    file_of(host, home, tomlkit.dumps(data) if host == "codex" else json.dumps(data))


@pytest.mark.parametrize("host", REMOTE)
def test_an_entry_with_a_url_has_the_form_that_its_host_reads(host: str, home: Path, run: Run) -> None:
    said = run("install", host, "--url", URL, "--yes", MCP_VEGA_TOKEN=f" Bearer {ACCESS_TOKEN} ")
    assert said.code == 0, said.err
    assert servers_in(host, home) == {"vega": REMOTE[host]}
    assert file_of(host, home).stat().st_mode & 0o777 == 0o600
    assert f": {URL}\n" in said.out
    assert "header Authorization: (not shown)" in said.out
    assert ACCESS_TOKEN not in said.out + said.err
    # Without a new token the old one is kept, and there is nothing to do.
    again = run("install", host, "--url", URL, "--yes")
    assert "nothing to do.\nIts token is kept. To replace it, set MCP_VEGA_TOKEN" in again.out
    assert "no access token" not in again.err
    printed = run("install", host, "--url", URL, "--print", MCP_VEGA_TOKEN=ACCESS_TOKEN).out
    data = tomllib.loads(printed) if host == "codex" else json.loads(printed)
    assert json.loads(json.dumps(REMOTE[host]).replace(ACCESS_TOKEN, "TOKEN")) == data[HOSTS[host].section]["vega"]
    removed = run("uninstall", host, "--yes")
    assert (servers_in(host, home), "Delete them when everything works" in removed.out) == ({}, True)


@pytest.mark.parametrize("host", REMOTE)
def test_an_entry_can_change_between_a_command_and_a_url_and_keeps_the_members_that_fit_both(
    host: str, home: Path, run: Run
) -> None:
    assert run("install", host, "--yes", SEGMIND_API_KEY=KEY).code == 0
    put_entry(host, home, {**servers_in(host, home)["vega"], "timeout": 99, "cwd": "/x"})
    said = run("install", host, "--url", URL, "--yes", MCP_VEGA_TOKEN=ACCESS_TOKEN)
    assert (said.code, "Delete it when everything works" in said.out, KEY in said.out) == (0, True, False)
    assert servers_in(host, home)["vega"] == {"timeout": 99, **REMOTE[host]}
    put_entry(host, home, {**REMOTE[host], "timeout": 99, "oauth": {"client_id": "x"}, "transport": "http"})
    assert run("install", host, "--yes", "--sandbox").code == 0
    wanted = {**HOSTS[host].members, **HOSTS[host].defaults, "command": SCRIPT, "args": ["--sandbox"], "timeout": 99}
    assert servers_in(host, home)["vega"] == wanted


@pytest.mark.parametrize("host", REMOTE)
def test_a_token_is_sent_only_to_the_server_that_it_belongs_to(host: str, home: Path, run: Run) -> None:
    put_entry(host, home, {**REMOTE[host], "timeout": 99})
    other = "https://other.example/mcp"
    said = run("install", host, "--url", other, "--yes")
    assert (said.code, "no access token" in said.err) == (0, True)
    form = HOSTS[host].remote
    assert form
    assert servers_in(host, home)["vega"] == {**form.members, form.url: other, "timeout": 99}
    # Another path on the same server keeps the token, even if an older version of the host used other names.
    put_entry(host, home, {"httpUrl": URL, form.headers: {"authorization": "Bearer older", "x-team": "a"}})
    moved = "https://pictures.example/vega/mcp"
    assert run("install", host, "--url", moved, "--yes").code == 0
    kept = {"authorization": "Bearer older", "x-team": "a"}
    assert servers_in(host, home)["vega"] == {**form.members, form.url: moved, form.headers: kept}
    # A new token replaces the old one, whatever its name was.
    assert run("install", host, "--url", moved, "--yes", MCP_VEGA_TOKEN=ACCESS_TOKEN).code == 0
    assert servers_in(host, home)["vega"][form.headers] == {"x-team": "a", **BEARER}


def test_a_token_for_codex_replaces_the_variable_that_held_one(home: Path, run: Run) -> None:
    put_entry("codex", home, {"url": URL, "bearer_token_env_var": "VEGA_TOKEN"})
    said = run("install", "codex", "--url", URL, "--yes")
    assert ("nothing to do" in said.out, "no access token" in said.err) == (True, False)
    assert run("install", "codex", "--url", URL, "--yes", MCP_VEGA_TOKEN=ACCESS_TOKEN).code == 0
    assert servers_in("codex", home)["vega"] == REMOTE["codex"]


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("https://pictures.example", "https://pictures.example/mcp"),
        (" https://pictures.example:8443/ ", "https://pictures.example:8443/mcp"),
        ("http://localhost:8000/mcp", "http://localhost:8000/mcp"),
        ("http://[::1]:8000/vega/mcp", "http://[::1]:8000/vega/mcp"),
    ],
)
def test_a_url_without_a_path_gets_the_path_of_the_server(typed: str, written: str, home: Path, run: Run) -> None:
    said = run("install", "cursor", "--url", typed, "--yes")
    assert servers_in("cursor", home)["vega"] == {"url": written}
    assert ("so /mcp was added" in said.err) == (typed.strip() != written)


@pytest.mark.parametrize(
    "url",
    [
        *("", "pictures.example", "pictures.example/mcp", "http://pictures.example/mcp", "ftp://pictures.example"),
        *(
            "https://",
            "https:///mcp",
            "https://alice:s3cret@pictures.example/mcp",
            "https://a.example/mcp?token=s3cret",
        ),
        *("https://a.example/mcp#s3cret", "https://a.example:99999/mcp", "https://a.example:0/mcp", "https://[::1/mcp"),
        *(
            "https://a.example/${SECRET}",
            "https://a.example/m cp",
            "https://pictures.example/sse",
            "http://10.0.0.1/mcp",
        ),
    ],
)
def test_a_url_that_no_host_can_use_safely_is_refused(url: str, home: Path, run: Run) -> None:
    said = run("install", "cursor", f"--url={url}", "--yes", MCP_VEGA_TOKEN=ACCESS_TOKEN)
    assert (said.code, said.out, "The URL " in said.err) == (2, "", True)
    assert "s3cret" not in said.err
    assert list(home.iterdir()) == []


def test_for_a_host_whose_file_takes_no_url_install_says_where_to_add_it(home: Path, run: Run) -> None:
    for options in (["--yes"], ["--print"], ["--dry-run"]):
        said = run("install", "claude-desktop", "--url", URL, *options)
        assert (said.code, said.out) == (2, "")
        assert "Settings > Connectors" in said.err
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("option", ["--sandbox", "--local"])
def test_a_url_cannot_be_combined_with_an_option_of_a_server_that_the_host_starts(
    option: str, home: Path, run: Run
) -> None:
    said = run("install", "cursor", "--url", URL, option, "--yes")
    assert (said.code, f"{option} is for a server that the host starts" in said.err) == (2, True)
    assert list(home.iterdir()) == []


def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(home: Path, run: Run) -> None:
    wrong = {"two s3cret": "a space", "s3crät": "a non-ASCII character", "s3cret\x1b[201~": "a control character"}
    for token, found in wrong.items():
        said = run("install", "cursor", "--url", URL, "--yes", MCP_VEGA_TOKEN=token)
        assert (said.code, found in said.err) == (2, True)
        assert "s3cr" not in said.err
    assert list(home.iterdir()) == []
    for token, note in {"alice:s3cret": "clients send the token", "s3cret$1": "some hosts fill in a variable"}.items():
        said = run("install", "cursor", "--url", URL, "--yes", MCP_VEGA_TOKEN=token)
        assert (said.code, note in said.err, "s3cret" in said.err) == (0, True, False)


@posix
def test_the_access_token_is_asked_for_without_echo(home: Path) -> None:
    file_of("claude-desktop", home, "{}")
    file_of("cursor", home, "{}")
    answers = [
        ("Enter for none: ", "all\n"),
        ("Access token of the server (it is not shown; empty leaves it out)", f"{ACCESS_TOKEN}\n"),
        ("Make this change?", "y\n"),
    ]
    variables = {"PATH": "/nowhere", "HTTPS_PROXY": "http://127.0.0.1:9"}  # where nothing listens
    code, seen = at_a_terminal(home, "install", "--url", URL, answers=answers, **variables)
    assert (code, ACCESS_TOKEN in seen) == (0, False), seen
    assert "claude_desktop_config.json (its file takes no URL)" in seen
    assert servers_in("cursor", home) == {"vega": REMOTE["cursor"]}


def test_codex_waits_for_the_server_unless_the_user_has_decided_otherwise(home: Path, run: Run) -> None:
    said = run("install", "codex", "--yes", "--sandbox")
    assert servers_in("codex", home)["vega"]["required"] is True
    assert "with required = true, Codex waits for vega" in said.err
    path = file_of("codex", home)
    path.write_text(path.read_text(encoding="utf-8").replace("required = true", "required = false # mine"))
    said = run("install", "codex", "--yes", SEGMIND_API_KEY=KEY)
    assert (said.code, "the entry keeps required = false" in said.err) == (0, True)
    assert "required = false # mine\n" in path.read_text(encoding="utf-8")
    assert run("install", "codex", "--url", URL, "--yes").code == 0
    assert servers_in("codex", home)["vega"] == {"url": URL, "required": False}


@dataclass
class Asked:
    """A request that a fake server received."""

    method: str
    path: str
    token: str | None


@contextmanager
def answering(status: int, **headers: str) -> Generator[tuple[str, list[Asked]]]:
    """A fake server on a port of this machine: its URL, and the requests it received. It always has /health."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            asked.append(Asked(self.command, self.path, self.headers["Authorization"]))
            self.send_response(200 if self.path.endswith("/health") else status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST = answer  # noqa: N815  names of the standard library

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002  named so in the standard library

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/vega/mcp", asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "with_token", "without"),
    [
        (200, "The server answered and takes the token.\n", "The server answered and asks for no token.\n"),
        (401, "Note: the server does not take this token.\n", "The server answered.\n"),
        (307, "Note: the URL leads to another address", "Note: the URL leads to another address"),
        (404, "with status 404; check the URL.\n", "with status 404; check the URL.\n"),
    ],
)
def test_one_request_checks_whether_the_server_accepts_the_token(
    status: int, with_token: str, without: str, home: Path, run: Run
) -> None:
    prepare_hosts(home)
    with answering(200) as (elsewhere, asked_elsewhere), answering(status, Location=elsewhere) as (url, asked):
        for token, wanted in ((ACCESS_TOKEN, with_token), ("", without)):
            said = run("install", "zed", "--url", url, "--yes", MCP_VEGA_TOKEN=token, HTTP_PROXY=elsewhere)
            assert (said.code, wanted in said.out + said.err) == (0, True), said
            bearer = f"Bearer {token}" if token else None
            assert asked == [Asked("GET", "/vega/health", None), Asked("POST", "/vega/mcp", bearer)]
            asked.clear()
        run("install", "zed", "--url", url, "--dry-run", MCP_VEGA_TOKEN=ACCESS_TOKEN)
        run("install", "zed", "--url", url, "--print", MCP_VEGA_TOKEN=ACCESS_TOKEN)
        assert asked == asked_elsewhere == []
    assert servers_in("zed", home)["vega"] == {"url": url, "headers": BEARER}


def test_the_entry_for_a_server_that_does_not_answer_is_still_written(home: Path, run: Run) -> None:
    said = run("install", "cursor", "--url", URL, "--yes", MCP_VEGA_TOKEN=ACCESS_TOKEN)
    reason = "the server does not answer, so it is not known whether it takes the token: Connection refused"
    assert (said.code, f"Note: {reason}.\n" in said.err) == (0, True), said.err
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"SSH-2.0-\x1b[31m\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
        said = run("install", "cursor", "--url", url, "--yes", MCP_VEGA_TOKEN=ACCESS_TOKEN)
        thread.join()
    assert (said.code, f"what answers at {url} speaks no HTTP" in said.err, "\x1b" in said.err) == (0, True, False)
    assert servers_in("cursor", home) == {"vega": {"url": url, "headers": BEARER}}


# ---- printing ----


def test_without_a_host_install_prints_the_example(run: Run) -> None:
    example = json.loads((ROOT / "claude_desktop_config.example.json").read_text(encoding="utf-8"))
    printed = json.loads(run("install", "--print", SEGMIND_API_KEY=KEY).out)
    example["mcpServers"]["vega"] |= {"command": SCRIPT, "args": []}
    assert printed == example


@pytest.mark.parametrize("host", HOSTS)
def test_an_entry_is_printed_in_the_form_of_its_host(host: str, home: Path, run: Run) -> None:
    said = run("install", host, "--print", "--sandbox")
    data = tomllib.loads(said.out) if host == "codex" else json.loads(said.out)
    assert data[HOSTS[host].section]["vega"]["args"] == ["--sandbox"]
    assert list(home.iterdir()) == []


def test_an_error_about_an_unknown_host_lists_the_known_hosts(run: Run) -> None:
    for arguments in (["install", "emacs"], ["install"], ["uninstall"]):
        said = run(*arguments)
        assert said.code == 2
        for host in HOSTS if len(arguments) + (arguments[0] == "install") > 1 else ():
            assert host in said.err


# ---- the command that is written ----


@pytest.mark.anyio
async def test_every_host_that_starts_its_entry_gets_the_tools(home: Path, run: Run) -> None:
    for host in ("claude-desktop", "codex"):
        assert run("install", host, "--yes", SEGMIND_API_KEY=KEY).code == 0
        entry = servers_in(host, home)["vega"]
        server = StdioServerParameters(
            command=entry["command"], args=entry["args"], env={**entry["env"], "HOME": str(home)}, cwd="/"
        )
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            assert len((await session.list_tools()).tools) == 4


def test_a_command_that_is_not_installed_is_not_written_into_an_entry(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-m", "mcp_vega", "install", "cursor", "--yes", "--sandbox"],
        cwd=ROOT,
        # The libraries are found by their folder, but there is no installed command next to the interpreter.
        env={
            "HOME": str(home),
            "PYTHONPATH": sysconfig.get_path("purelib"),
            "PYTHONHOME": sys.base_prefix,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "is not installed in" in done.stderr) == (1, True), done.stderr
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("folder", ["archive-v0", "builds-v0", "environments-v2"])
def test_uvx_is_written_with_its_absolute_path_even_if_it_does_not_say_where_it_is(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uvx").touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.prefix", f"/cache/{folder}/x")
    for environment in ({"PATH": "."}, {"PATH": str(tmp_path), "UV": ""}, {"UV": str(tmp_path / "uv")}):
        assert lasting_command(environment)[0] == str(tmp_path / "uvx")


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        ({"vcs_info": {"vcs": "git", "commit_id": "1", "requested_revision": "v2"}}, "git+https://h.example/r@v2"),
        ({"vcs_info": {"vcs": "git", "commit_id": "1"}, "subdirectory": "a"}, "git+https://h.example/r#subdirectory=a"),
        ({"archive_info": {}}, "https://h.example/r"),
    ],
)
def test_uvx_gets_the_version_that_the_user_asked_for(
    origin: dict[str, Any], wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "direct_url.json").write_text(json.dumps({"url": "https://h.example/r", **origin}), encoding="utf-8")

    monkeypatch.setattr("sys.prefix", "/cache/archive-v0/x")
    (tmp_path / "uvx").touch(0o755)
    command = lasting_command({"UV": str(tmp_path / "uv")}, PathDistribution(tmp_path))
    assert command[1:] == ("--from", wanted, "mcp-vega")


@pytest.mark.parametrize(
    ("origin", "wanted"), [(None, "mcp-vega[local]"), ({"archive_info": {}}, "mcp-vega[local] @ https://h.example/r")]
)
def test_uvx_gets_the_extra_that_draws_on_this_machine_if_it_has_fetched_it(
    origin: dict[str, Any] | None, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if origin:
        data = {"url": "https://h.example/r", **origin}
        (tmp_path / "direct_url.json").write_text(json.dumps(data), encoding="utf-8")
    monkeypatch.setattr("sys.prefix", "/cache/archive-v0/x")
    (tmp_path / "uvx").touch(0o755)
    (tmp_path / "torch.py").touch()
    environment, installed = {"UV": str(tmp_path / "uv")}, PathDistribution(tmp_path)
    assert wanted not in lasting_command(environment, installed, local=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert wanted not in lasting_command(environment, installed)
    assert lasting_command(environment, installed, local=True)[1:] == ("--from", wanted, "mcp-vega")


def test_a_command_whose_path_is_not_utf_8_is_refused(home: Path) -> None:
    for host in ("cursor", "codex"):
        with pytest.raises(HostConfigError, match="is not UTF-8"):
            installing(HOSTS[host], ConfigFile.read(file_of(host, home)), Entry("/j\udcfcrgen/mcp-vega"))


# ---- other systems ----


@pytest.mark.parametrize(
    ("platform", "variables", "places"),
    [
        (
            "darwin",
            {},
            {
                "claude-desktop": "Library/Application Support/Claude/claude_desktop_config.json",
                "vscode": "Library/Application Support/Code/User/mcp.json",
                "zed": ".config/zed/settings.json",
                "codex": ".codex/config.toml",
            },
        ),
        (
            "win32",
            {},
            {
                "claude-desktop": "AppData/Roaming/Claude/claude_desktop_config.json",
                "vscode": "AppData/Roaming/Code/User/mcp.json",
                "zed": "AppData/Roaming/Zed/settings.json",
                "cursor": ".cursor/mcp.json",
                "windsurf": ".codeium/windsurf/mcp_config.json",
            },
        ),
        ("linux", {"XDG_CONFIG_HOME": "HOME/conf"}, {"claude-desktop": "conf/Claude/claude_desktop_config.json"}),
        ("linux", {"CODEX_HOME": "HOME/cx"}, {"codex": "cx/config.toml"}),
        ("linux", {"CLAUDE_CONFIG_DIR": "HOME/cc"}, {"claude-code": "cc/.claude.json"}),
        ("linux", {"GEMINI_CLI_HOME": "HOME/gg"}, {"gemini": "gg/.gemini/settings.json"}),
    ],
)
def test_the_files_of_the_hosts_are_where_their_documents_say(
    platform: str, variables: dict[str, str], places: dict[str, str], home: Path
) -> None:
    environment = {name: value.replace("HOME", str(home)) for name, value in variables.items()}
    for host, place in places.items():
        assert HOSTS[host].file(UserEnvironment(environment, home, platform)) == home / place


def test_the_file_of_older_versions_of_claude_code_is_used_if_it_exists(home: Path) -> None:
    for environment, folder in (({}, home / ".claude"), ({"CLAUDE_CONFIG_DIR": str(home / "c")}, home / "c")):
        folder.mkdir()
        (folder / ".config.json").touch()
        assert HOSTS["claude-code"].file(UserEnvironment(environment, home)) == folder / ".config.json"


def test_the_file_of_claude_desktop_from_a_windows_package_is_inside_the_package(home: Path) -> None:
    package = home / "AppData/Local/Packages/Claude_abc/LocalCache/Roaming/Claude"
    package.mkdir(parents=True)
    found = HOSTS["claude-desktop"].file(UserEnvironment({}, home, "win32"))
    assert found == package / "claude_desktop_config.json"


# ---- any file ----

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["//", "/*", "*/", '"', ",}", "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
gaps = st.sampled_from(["", " ", "\n", "\n  ", " // c\n", "/* , } */", "\t", ' // "\n'])


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """A value as JSON, with random space, comments and trailing commas."""
    parts: list[str] = []
    if isinstance(value, dict):
        opening, closing = "{}"
        for name, inner in cast("dict[str, Any]", value).items():
            key, what = json.dumps(name), draw(written(inner))
            parts.append(f"{draw(gaps)}{key}{draw(gaps)}:{draw(gaps)}{what}{draw(gaps)}")
    elif isinstance(value, list):
        opening, closing = "[]"
        parts += (f"{draw(gaps)}{draw(written(inner))}{draw(gaps)}" for inner in cast("list[Any]", value))
    else:
        return json.dumps(value, ensure_ascii=draw(st.booleans()))
    comma = f",{draw(gaps)}" if parts and draw(st.booleans()) else ""
    return f"{opening}{draw(gaps)}{','.join(parts)}{comma}{closing}"


@st.composite
def files(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    servers = draw(st.dictionaries(st.sampled_from(["a", "vega", "ü"]), values, max_size=3))
    data = {**draw(st.dictionaries(st.text(max_size=3), values, max_size=2)), "mcpServers": servers}
    return data, f"{draw(gaps)}{draw(written(data))}{draw(gaps)}"


def left_in_order(text: str, longer: str) -> bool:
    """Whether the longer text has every character of the text, except space, in the same order."""
    rest: Iterator[str] = iter(longer)
    return all(character in rest for character in text if not character.isspace())


@settings_of_hypothesis(deadline=None)
@given(files(), values)
def test_any_json_with_comments_can_take_an_entry_and_keeps_every_character(
    file: tuple[dict[str, Any], str], value: Any
) -> None:
    data, text = file
    assert jsonc.parse(text) == data
    after = jsonc.put(text, ("mcpServers", "new"), value)
    assert jsonc.parse(after) == {**data, "mcpServers": {**data["mcpServers"], "new": value}}
    assert left_in_order(text, after)
    back = jsonc.drop(after, ("mcpServers", "new"))
    assert jsonc.parse(back) == data
    assert left_in_order(text, back)
    assert left_in_order(back, text) or data["mcpServers"]


REMOTE_ENTRY = RemoteEntry("https://new.example/mcp", "token")
# Pieces of Codex's file, first the values. Combinations that are not TOML are skipped.
VALUES = (
    "# ---- a heading ----\n",
    'model = "o3" # mine\n',
    'text = """\n# no comment, [mcp_servers.no]\n"""\n',
    "other = '''#'''\n",
    'mcp_servers.dotted.command = "d" # dotted\n',
    'mcp_servers = { inline = { command = "i" } } # inline\n',
)
TABLES = (
    "# ---- another heading ----\n",
    "# [mcp_servers.off]\n# command = 1\n",
    "\n",
    "[mcp_servers]\n",
    "[mcp_servers] # all of them\n",
    '[mcp_servers.files]\ncommand = "f" # files\nargs = [\n  "a", # first\n]\n',
    '[mcp_servers.files.env]\nTOKEN = "t" # secret\n',
    '[mcp_servers.vega] # old\ncommand = "/old/uvx" # uvx\nargs = ["mcp-vega"]\nstartup_timeout_sec = 30\n',
    '[mcp_servers.vega]\ncommand = "/old/uvx" # uvx\n\n[mcp_servers.vega.env]\nMCP_VEGA_PREVIEW = "small" # enough\n',
    '[mcp_servers.vega]\nurl = "https://old.example"\n',
    '["mcp_servers"."quoted"]\ncommand = "q"\n',
    '[profiles.x]\nmodel = "a" # x\n',
    "[[list]]\nnumber = 1 # one\n",
    "[[list]]\nnumber = 2\n",
)
codex_files = st.tuples(
    st.lists(st.sampled_from(VALUES), max_size=3, unique=True), st.lists(st.sampled_from(TABLES), max_size=7)
).map(lambda pieces: "".join(pieces[0] + pieces[1]))


@settings_of_hypothesis(deadline=None)
@given(
    codex_files,
    st.booleans(),
    st.booleans(),
    st.sampled_from([Entry("/new"), Entry("/new", (), "SG_new"), REMOTE_ENTRY]),
)
def test_any_file_of_codex_takes_the_entry_and_keeps_every_comment_or_is_refused(
    text: str,
    windows: bool,  # noqa: FBT001  by hypothesis
    ends: bool,  # noqa: FBT001
    entry: Entry | RemoteEntry,
) -> None:
    text = text.replace("\n", "\r\n" if windows else "\n")
    text = text if ends else text.rstrip()
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    codex, file = HOSTS["codex"], ConfigFile(Path("config.toml"), text.encode(), text)
    try:
        added = installing(codex, file, entry)
        removed = uninstalling(codex, replace(file, text=added.text))
    except HostConfigError:
        # Rare forms, in which one table cannot be changed without changing others.
        assert any(mark in text for mark in ("dotted", "inline", "[[list]]", "[mcp_servers]"))
        return
    vega = tomllib.loads(added.text)["mcp_servers"]["vega"]
    assert (vega.get("command"), vega.get("url")) == (
        (None, entry.url) if isinstance(entry, RemoteEntry) else (entry.command, None)
    )
    left = tomllib.loads(removed.text)
    data.get("mcp_servers", {}).pop("vega", None)
    assert {**left, "mcp_servers": left.get("mcp_servers", {})} == {**data, "mcp_servers": data.get("mcp_servers", {})}
    if "vega" not in text:
        assert removed.text == text
    own = {"# old", "# uvx", "# enough"}
    for line in text.splitlines():
        _, mark, comment = line.partition("#")
        if mark and mark + comment not in own:
            assert comment in removed.text
            assert comment in added.text
    assert added.text.count("\r\n") == (added.text.count("\n") if "\r\n" in text else 0)
