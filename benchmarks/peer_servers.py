"""The servers that `peers.py` compares: how each is installed, pointed at the stand-in, and asked for a picture."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import floor
from host import Host

# How long a caller waits before it asks again whether a background job is done.
POLL_SECONDS = 0.002
# A server that has not ended this long after its stdin was closed is killed.
LEAVE_SECONDS = 5
# The oldest Node.js that the newest mcp-image runs with.
NODE = 22

Does = Literal["file", "preview"]
# The calls that one picture takes: it yields each call, and gets the result's text.
Calls = Generator[tuple[str, dict[str, Any]], str]


class NotAvailableError(Exception):
    """A server cannot be installed or started, or sends no picture; the message is the reason."""


class PeerHost(Host):
    """A host for servers that also print other things than messages, or do not end with their stdin."""

    def receive(self) -> dict[str, Any]:
        """The next answer; lines that are not JSON are skipped."""
        while True:
            try:
                return super().receive()
            except json.JSONDecodeError:
                continue

    def leave(self) -> None:
        """Close stdin, and kill the server if that does not end it."""
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._close()


# Compared by identity: it is a key of the tables.
@dataclass(frozen=True, eq=False)
class Server:
    """One server with its settings.

    Args:
        name: The name in the tables.
        version: Its version.
        does: What a call leaves: a file, or a file and a preview in the result.
        preview: The preview in words.
        calls: The calls that one picture takes.
        program: The executable and its arguments.
        variables: The settings. In these and in the arguments, `{url}` and `{folder}` stand for the stand-in's URL and
            the server's folder.
    """

    name: str
    version: str
    does: Does
    preview: str
    calls: Callable[[str], Calls]
    program: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict[str, str])

    def folder(self, root: Path) -> Path:
        """The folder of its files."""
        return root / f"{self.name}-{self.does}"

    @property
    def leaves(self) -> str:
        """What a call leaves, in words."""
        return f"file, and preview in the result ({self.preview})" if self.preview else "file"

    def start(self, root: Path, url: str) -> PeerHost:
        """Start the server in a folder of its own; the session is not begun."""
        folder = self.folder(root)
        folder.mkdir(parents=True, exist_ok=True)
        variables = {name: value.format(url=url, folder=folder) for name, value in self.variables.items()}
        executable, *arguments = (part.format(url=url, folder=folder) for part in self.program)
        return PeerHost(folder, url, executable=executable, program=arguments, **variables)


def one_call(tool: str, prompt: str) -> Calls:
    """A tool that returns when the picture is there."""
    yield tool, {"prompt": prompt}


def background(prompt: str, *, show: bool) -> Calls:
    """A tool that returns immediately; another one is asked until the picture is there, and a third one shows it."""
    job = json.loads((yield "generate_image", {"prompt": prompt}))
    while (status := json.loads((yield "check_generation_status", {"image_id": job["image_id"]}))["status"]) != (
        "completed"
    ):
        if status != "generating":
            raise NotAvailableError(f"the job is {status}")
        time.sleep(POLL_SECONDS)
    if show:
        yield "show_image", {"uri": job["original_uri"]}


def draw(host: PeerHost, server: Server, prompts: Sequence[str]) -> None:
    """Draw pictures at the same time, and wait for all of them. Raises NotAvailableError if there is none."""
    waiting: dict[int, Calls] = {}

    def go_on(calls: Calls, text: str | None) -> None:
        try:
            tool, arguments = calls.send(text) if text is not None else next(calls)
        except StopIteration:
            return
        waiting[host.call(tool, **arguments)] = calls

    for prompt in prompts:
        go_on(server.calls(prompt), None)
    while waiting:
        answer = host.receive()
        result = answer.get("result", {"isError": True})
        texts = [part["text"] for part in result.get("content", []) if part["type"] == "text"]
        if result.get("isError") or any(text.startswith("Failed") for text in texts):
            raise NotAvailableError(f"no picture from {server.name}: {str(answer)[:500]}")
        go_on(waiting.pop(answer["id"]), texts[0] if texts else "")


def run(*command: str) -> str:
    """Run an installer; returns its output. Raises NotAvailableError if that fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailableError(str(error)) from error
    if done.returncode:
        raise NotAvailableError(f"{command[0]} failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}")
    return done.stdout


def from_pypi(cache: Path, package: str, extras: str = "") -> tuple[Path, str]:
    """Install a package into an environment of its own; returns the folder of its programs, and its version."""
    folder = cache / package
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    if not (programs / package).exists():
        venv.create(folder, clear=True)
        run(sys.executable, "-m", "pip", "--python", str(folder), "install", "-q", f"{package}{extras}")
    ask = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return programs, run(str(programs / "python"), "-c", ask).strip()


def node(cache: Path) -> str:
    """A Node.js that is new enough: the one of this machine, or one from the registry (Linux)."""
    if found := shutil.which("node"):
        major = int(run(found, "--version").strip("v\n").partition(".")[0])
        if major >= NODE:
            return found
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine())
    if sys.platform != "linux" or not machine:
        raise NotAvailableError(f"Node.js {NODE} or newer is needed")
    return str(from_npm(cache, f"node-linux-{machine}", f"@{NODE}") / "bin" / "node")


def from_npm(cache: Path, package: str, version: str = "@latest") -> Path:
    """Install a package into a folder of its own; returns the package's folder."""
    npm = shutil.which("npm")
    if not npm:
        raise NotAvailableError("npm is needed")
    folder = cache / package
    installed = folder / "node_modules" / package
    if not installed.exists():
        folder.mkdir(parents=True, exist_ok=True)
        run(npm, "install", "--silent", "--force", "--no-audit", "--prefix", str(folder), f"{package}{version}")
    return installed


def own_servers() -> list[Server]:
    """This server, without and with previews, and the floor."""
    version = run(sys.executable, "-m", "mcp_vega", "--version").split()[-1]
    calls, program = partial(one_call, "generate_image_vega"), (sys.executable, "-m", "mcp_vega")
    return [
        Server("mcp-vega", version, "file", "", calls, program, {"MCP_VEGA_PREVIEW": "off"}),
        Server("mcp-vega", version, "preview", "JPEG, 768 px", calls, program, {"MCP_VEGA_PREVIEW": "auto"}),
        Server(
            "floor", metadata.version("mcp"), "file", "", calls, (sys.executable, floor.__file__, "{folder}", "{url}")
        ),
    ]


def mcp_image(cache: Path) -> list[Server]:
    """mcp-image: the Gemini SDK's variable names the API. Without the rewriting of prompts, which is a second call."""
    folder = from_npm(cache, "mcp-image")
    version = json.loads((folder / "package.json").read_text(encoding="utf-8"))["version"]
    variables = {
        "GEMINI_API_KEY": "benchmark-key",
        "GOOGLE_GEMINI_BASE_URL": "{url}",
        "IMAGE_OUTPUT_DIR": "{folder}",
        "SKIP_PROMPT_ENHANCEMENT": "true",
    }
    program = (node(cache), str(folder / "dist" / "index.js"))
    return [Server("mcp-image", version, "file", "", partial(one_call, "generate_image"), program, variables)]


def minimax(cache: Path) -> list[Server]:
    """minimax-mcp: a variable of its own names the API. The mode `local` writes files; the other one returns URLs."""
    programs, version = from_pypi(cache, "minimax-mcp")
    variables = {
        "MINIMAX_API_KEY": "benchmark-key",
        "MINIMAX_API_HOST": "{url}",
        "MINIMAX_MCP_BASE_PATH": "{folder}",
        "MINIMAX_API_RESOURCE_MODE": "local",
    }
    program = (str(programs / "minimax-mcp"),)
    return [Server("minimax-mcp", version, "file", "", partial(one_call, "text_to_image"), program, variables)]


# FastMCP would ask the registry for a newer version at each start.
FASTMCP = {"FASTMCP_CHECK_FOR_UPDATES": "off", "HOME": "{folder}"}


def nanobanana(cache: Path) -> list[Server]:
    """nanobanana-mcp-server: a variable of its own names the API."""
    name = "nanobanana-mcp-server"
    programs, version = from_pypi(cache, name)
    variables = {
        "GEMINI_API_KEY": "benchmark-key",
        "GEMINI_BASE_URL": "{url}",
        "IMAGE_OUTPUT_DIR": "{folder}/images",
        **FASTMCP,
    }
    calls, program = partial(one_call, "generate_image"), (str(programs / name),)
    return [Server(name, version, "preview", "JPEG, 256 px", calls, program, variables)]


def image_generation(cache: Path) -> list[Server]:
    """image-generation-mcp: the OpenAI SDK's variable names the API. Without the question before a paid call."""
    name = "image-generation-mcp"
    programs, version = from_pypi(cache, name, "[mcp,openai]")
    variables = {
        "OPENAI_BASE_URL": "{url}/v1",
        "IMAGE_GENERATION_MCP_OPENAI_API_KEY": "benchmark-key",
        "IMAGE_GENERATION_MCP_DEFAULT_PROVIDER": "openai",
        "IMAGE_GENERATION_MCP_PAID_PROVIDERS": "none",
        "IMAGE_GENERATION_MCP_READ_ONLY": "false",
        "IMAGE_GENERATION_MCP_SCRATCH_DIR": "{folder}/images",
        "IMAGE_GENERATION_MCP_STYLES_DIR": "{folder}/styles",
        **FASTMCP,
    }
    program = (str(programs / name), "serve")
    return [
        Server(name, version, "file", "", partial(background, show=False), program, variables),
        Server(name, version, "preview", "WebP, 512 px", partial(background, show=True), program, variables),
    ]


PEERS: Mapping[str, Callable[[Path], list[Server]]] = {
    "mcp-image": mcp_image,
    "minimax-mcp": minimax,
    "nanobanana-mcp-server": nanobanana,
    "image-generation-mcp": image_generation,
}
