"""Finds the engine that this user runs, or starts one.

A started engine outlives the server that started it, because other servers may draw with it. It ends by itself.
"""

import os
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from mcp_vega.cli.engine.file_lock import open_lock, try_lock
from mcp_vega.cli.engine.registration import RunningEngine, has_engine, running_engine
from mcp_vega.cli.engine.requirements import SETTINGS, require_weights
from mcp_vega.engine.errors import EngineError
from mcp_vega.redaction import printable
from mcp_vega.settings import Settings

# A started engine ends after so many minutes without a call.
IDLE_MINUTES = 10
# `-P`: nothing is imported from the folder in which it is started.
COMMAND = [sys.executable, "-P", "-m", "mcp_vega", "engine", "--port", "0", "--idle-minutes", str(IDLE_MINUTES)]
# How long an engine may take until it accepts calls (s). It loads the weights later.
START_SECONDS = 60.0
# How long a question about a call waits for an engine that starts or ends (s).
COMING_SECONDS = 10.0
# Seconds between two looks whether it accepts calls.
PAUSE_SECONDS = 0.05
STARTER_LOCK, LOG = "engine-start.lock", "engine.log"
# A log that is longer is begun anew, in bytes.
LONGEST_LOG = 1_000_000
# An engine needs no secret of another service.
SECRET = re.compile("(KEY|SECRET|TOKEN|PASSWORD|CREDENTIALS?)(_|$)", re.IGNORECASE)

# Windows' way to a session of its own: neither a window nor Ctrl-C of the server's terminal reaches it.
_DETACHED = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP if sys.platform == "win32" else 0


class Launcher:
    """Finds or starts the engine of this user; `home` and `weights` are those of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._home = settings.home_folder
        self._weights = settings.weights
        self._one = anyio.Lock()
        # When a start failed last, and why.
        self._failure: tuple[float, EngineError] | None = None

    @property
    def log(self) -> Path:
        """The log of the engine that was started last."""
        return self._home / LOG

    async def running(self) -> RunningEngine | None:
        """The engine that runs.

        Raises:
            InvalidSettings: Its file cannot be used.
        """
        return await anyio.to_thread.run_sync(running_engine, self._home)

    async def running_or_coming(self) -> RunningEngine | None:
        """The same. While an engine starts, ends, or has lost its file, this waits: a call may be in its hands.

        Raises:
            EngineError: That takes too long.
            InvalidSettings: A file of the engine cannot be used.
        """
        deadline = anyio.current_time() + COMING_SECONDS
        while anyio.current_time() < deadline:
            if engine := await self.running():
                return engine
            if not has_engine(self._home):
                return None
            await anyio.sleep(PAUSE_SECONDS)
        raise self._stuck(COMING_SECONDS)

    async def running_or_started(self) -> RunningEngine:
        """The engine that runs; if there is none, one is started. Of several servers, only one starts it.

        Raises:
            EngineError: It cannot be started.
            InvalidSettings: The files of the home folder cannot be used.
        """
        if engine := await self.running():
            return engine
        came = anyio.current_time()
        deadline = came + START_SECONDS
        async with self._one:
            if self._failure and self._failure[0] >= came:  # this call has waited for that start
                raise EngineError(self._failure[1].what, self._failure[1].next_step)
            while anyio.current_time() < deadline:
                if engine := await self.running():
                    return engine
                with _starter(self._home) as may_start:
                    # An engine that ends just now keeps its lock until the memory of the graphics card is free.
                    if may_start and not has_engine(self._home):
                        try:
                            return await self._start(deadline)
                        except EngineError as error:
                            self._failure = anyio.current_time(), error
                            raise
                await anyio.sleep(PAUSE_SECONDS)
        raise self._stuck(START_SECONDS)

    def _stuck(self, seconds: float) -> EngineError:
        what = f"An engine on this machine starts or ends, and has accepted no call for {seconds:.0f} s"
        return EngineError(
            what,
            f"Call again in a minute. If that fails again, end the process `mcp-vega engine`; its log is {self.log}",
        )

    async def _start(self, deadline: float) -> RunningEngine:
        await anyio.to_thread.run_sync(require_weights, self._weights)
        process, begun = await anyio.to_thread.run_sync(self._spawn)
        while anyio.current_time() < deadline:
            ended = process.poll() is not None
            if engine := await self.running():
                return engine
            if ended and not has_engine(self._home):  # else the user's own start was quicker
                raise _failed(self.log, begun)
            await anyio.sleep(PAUSE_SECONDS)
        process.kill()
        what = f"The engine on this machine was started, and accepted no calls within {START_SECONDS:.0f} s"
        raise EngineError(f"{what}{_last_line(self.log, begun)}", f"Read {self.log}, then call again")

    def _spawn(self) -> tuple[subprocess.Popen[bytes], int]:
        """Start an engine. Returns its process, and where its part of the log begins."""
        try:
            with self._open_log() as log:
                begun = os.fstat(log).st_size
                process = subprocess.Popen(  # noqa: S603  this program itself
                    COMMAND,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._home,
                    env=engine_environment(os.environ, self._home, self._weights),
                    start_new_session=True,
                    creationflags=_DETACHED,
                )
        except OSError as error:
            what = f"The engine on this machine could not be started: {error.strerror or error} ({error.filename})"
            raise EngineError(what, "Start it yourself with `mcp-vega engine` to see more, then call again") from error
        # Somebody must take its exit code, else the system keeps its entry until this server ends.
        threading.Thread(target=process.wait, daemon=True).start()
        return process, begun

    @contextmanager
    def _open_log(self) -> Generator[int]:
        descriptor = os.open(self.log, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            if os.fstat(descriptor).st_size > LONGEST_LOG:
                os.ftruncate(descriptor, 0)
            os.write(descriptor, f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}: started by a server\n".encode())
            yield descriptor
        finally:
            os.close(descriptor)


def engine_environment(environment: Mapping[str, str], home: Path, weights: Path | None) -> dict[str, str]:
    """The variables for an engine: those of the machine and its own settings, without secrets of other services.

    If the user has set no key for it, it gets a new one. So other users of the machine can neither draw with it nor
    read what it has drawn. The servers of this user find the key in the file of the engine.
    """
    kept = {name: value for name, value in environment.items() if not _is_of_another(name)}
    kept["MCP_VEGA_HOME"] = str(home)
    kept["MCP_VEGA_ENGINE_KEY"] = kept.get("MCP_VEGA_ENGINE_KEY") or f"SG_{secrets.token_urlsafe(24)}"
    return kept | ({"MCP_VEGA_WEIGHTS": str(weights)} if weights else {})


def _is_of_another(name: str) -> bool:
    ours = name.startswith(("MCP_VEGA_", "SEGMIND_"))
    return name not in SETTINGS and (ours or SECRET.search(name) is not None)


@contextmanager
def _starter(home: Path) -> Generator[bool]:
    """Whether this process may start an engine until the block ends: nobody else starts one meanwhile."""
    path = home / STARTER_LOCK
    with ExitStack() as stack:
        try:
            descriptor = open_lock(path)
            stack.callback(os.close, descriptor)
            may_start = try_lock(descriptor)
        except OSError as error:
            what = f"No engine can be started, because the file {path} cannot be used: {error.strerror or error}"
            raise EngineError(what, "Set MCP_VEGA_HOME to a folder that this user may write to") from error
        yield may_start


def _failed(log: Path, begun: int) -> EngineError:
    """Why an engine ended while it started, in its own words if it said so."""
    said = dict(line.split(": ", 1) for line in _lines(log, begun) if line.startswith(("Error: ", "Next: ")))
    if "Error" in said:
        next_step = said.get("Next", f"Read {log}").rstrip(". ")
        reason = re.sub(r"( \([a-z_]+\))?\.*$", "", said["Error"])  # without the code
        return EngineError(f"The engine on this machine could not be started: {reason}", next_step)
    what = f"The engine on this machine ended while it started{_last_line(log, begun)}"
    return EngineError(what, f"Read {log}, then call again")


def _last_line(log: Path, begun: int) -> str:
    lines = _lines(log, begun)
    return f": {lines[-1]}" if lines else ""


def _lines(log: Path, begun: int) -> list[str]:
    """The lines that an engine has written to its log, as far as they can be read."""
    try:
        with log.open("rb") as file:
            file.seek(begun)
            text = file.read(LONGEST_LOG).decode(errors="replace")
    except OSError:
        return []
    return [shown for line in text.splitlines() if (shown := printable(line).strip())]
