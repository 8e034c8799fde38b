"""`mcp-vega engine`: draws on this machine behind Segmind's HTTP API."""

import logging
import os
import re
import secrets
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from mcp_vega import __version__
from mcp_vega.cli.engine.registration import Publish, RunningEngine, registered
from mcp_vega.cli.engine.requirements import SETTINGS, require_weights
from mcp_vega.engine.app import build_engine
from mcp_vega.engine.backend.painter import BackendPainter
from mcp_vega.engine.drawings import Drawings
from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.painter import InThread, Painter
from mcp_vega.errors import InvalidArguments, InvalidSettings, PortTaken
from mcp_vega.network.addresses import is_loopback
from mcp_vega.network.serving import serving
from mcp_vega.redaction import add_secret
from mcp_vega.settings import Settings
from mcp_vega.telemetry.logs import log_to_stderr

logger = logging.getLogger(__name__)

# As `SEGMIND_API_KEY`, by which clients that are not on this machine send it.
KEY = re.compile("[A-Za-z0-9_-]+")
# Addresses that mean all networks of this machine, and how programs on this machine call such an engine.
HERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  only compared with
# How many seconds the end may take. A thread that loads a model or draws a step cannot be stopped.
END_SECONDS = 2.0
# How many seconds after the last call an engine without a device ends: the callers still ask why they get no picture.
LOST_SECONDS = 5.0
# How many connections may be open. macOS lets a process open 256 files. A server has one for each call under way.
MOST_CONNECTIONS = 200
# Seconds between two looks whether the servers of this user still find the engine.
REGISTERED_SECONDS = 2.0


@dataclass(frozen=True)
class Service:
    """What is served, and where.

    Attributes:
        painter: What draws.
        source: What it draws with, for people.
        key: The only key that is accepted; None: every key that begins with SG_.
        idle_seconds: After how many seconds without a call the engine ends; None: never.
    """

    painter: Painter
    source: str
    host: str = "127.0.0.1"
    port: int = 0
    key: str | None = None
    idle_seconds: float | None = None


def run_engine(options: Namespace, environment: Mapping[str, str]) -> int:
    """Serve until Ctrl-C or SIGTERM, or until nobody has used the engine for long; returns the exit code.

    Raises:
        InvalidArguments: The options do not go together.
        InvalidSettings: A setting cannot be used, packages or weights are missing, or this user has an engine already.
        PortTaken: The address cannot be used.
    """
    # A wrong value of another setting is the server's business.
    settings = Settings.from_environment({name: text for name, text in environment.items() if name in SETTINGS})
    key = settings.engine_key.get_secret_value() if settings.engine_key else None
    if key:
        add_secret(key)
        if not KEY.fullmatch(key):
            what = "MCP_VEGA_ENGINE_KEY contains a character that no client can send"
            raise InvalidSettings(
                what, next_step="Use letters, digits, `-` and `_`, and set the same key for the clients"
            )
    elif not is_loopback(options.host):
        raise InvalidSettings(
            f"With --host {options.host}, everybody who reaches this machine could draw with it",
            next_step="Set MCP_VEGA_ENGINE_KEY to a key that only your clients know, or leave out --host",
        )
    with registered(settings.home_folder) as publish:
        painter, source = _painter_of(options, settings)
        idle_seconds = options.idle_minutes and options.idle_minutes * 60
        service = Service(painter, source, options.host, options.port, key, idle_seconds)
        anyio.run(serve, service, publish, lambda: log_to_stderr(settings.log_level, settings.log_format))
    return 0


def _painter_of(options: Namespace, settings: Settings) -> tuple[Painter, str]:
    """What draws, and what it draws with. Nothing is loaded yet. Raises as `run_engine` does."""
    if options.backend:
        if options.weights or options.device != "auto":
            raise InvalidArguments(
                "--backend draws through another server, which has weights and a device of its own",
                next_step="Leave out --weights and --device, or --backend",
            )
        try:
            painter = BackendPainter(options.backend)
        except ValueError as error:
            raise InvalidArguments(
                f"The URL of --backend cannot be used: {error}", next_step="Correct the URL"
            ) from error
        return painter, f"through the server at {painter.url}"
    folder = Path(options.weights).expanduser().absolute() if options.weights else settings.weights
    try:
        weights = require_weights(folder)
    except EngineError as error:
        step = f"{error.next_step}. Or draw through a server that you already run, with --backend"
        raise InvalidSettings(error.what, next_step=step) from error
    # Only here: with a backend, the packages that this module imports are not needed.
    from mcp_vega.engine.diffusion.painter import DiffusionPainter

    return InThread(DiffusionPainter(weights, options.device)), f"with the weights in {weights.vega}"


async def serve(service: Service, publish: Publish, log: Callable[[], None] = lambda: None) -> None:
    """Serve until a signal comes or the engine is idle for too long. What is under way then is cancelled.

    `log` starts the log on stderr. Nothing may be written there before the URL.

    Raises:
        InvalidSettings: The engine cannot be registered.
        PortTaken: The address cannot be used.
    """
    drawings = Drawings(service.painter)
    app = build_engine(drawings, service.key)
    problem: InvalidSettings | None = None
    try:
        served = serving(app, host=service.host, port=service.port, most_connections=MOST_CONNECTIONS)
        async with served as url, app.router.lifespan_context(app):
            register = partial(publish, _registration(service, url))
            try:
                register()
            except InvalidSettings as error:  # a task group would wrap it
                problem = error
            else:
                await _until_end(drawings, service, register, lambda: _announce(service, url, log))
                publish(None)  # before the end, which takes time: a new call must not come to this engine any more
            _end_soon()
    except OSError as error:
        raise PortTaken(service.host, service.port, error) from error
    if problem:
        raise problem


def _registration(service: Service, url: str) -> RunningEngine:
    """The engine as this user's servers find it.

    Without a key of its own, it accepts all that begin with SG_, and shows the calls of each key only to that key. So
    this user gets one that no other user of the machine can know.
    """
    here = HERE.get(service.host)
    return RunningEngine(
        url=f"http://{here}:{url.rpartition(':')[2]}" if here else url,
        key=service.key or f"SG_{secrets.token_hex(16)}",
        pid=os.getpid(),
        version=__version__,
    )


def _announce(service: Service, url: str, log: Callable[[], None]) -> None:
    key = "the value of MCP_VEGA_ENGINE_KEY" if service.key else "SG_anything"
    with suppress(OSError):  # an engine serves even if the disk for its log is full
        sys.stderr.write(
            f"{url}\n"
            f"Draws {service.source}. This costs nothing.\n"
            "Servers and `mcp-vega draw` with --local use this engine. Others draw with it by\n"
            f"  SEGMIND_BASE_URL={url} and SEGMIND_API_KEY={key}\n"
            "To leave: Ctrl-C.\n"
        )
        sys.stderr.flush()
    log()


async def _until_end(
    drawings: Drawings, service: Service, register: Callable[[], bool], ready: Callable[[], None]
) -> None:
    """Call `ready` once signals are handled. Then wait for one, or until the engine is idle or useless."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_when_lost, drawings, tasks.cancel_scope)
        tasks.start_soon(_end_when_unregistered, drawings, register, tasks.cancel_scope)
        if service.idle_seconds:
            tasks.start_soon(_end_when_idle, drawings, service.idle_seconds, tasks.cancel_scope)
        if sys.platform == "win32":  # no signal receivers there; Ctrl-C raises KeyboardInterrupt
            ready()
            await anyio.sleep_forever()
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            ready()
            async for _ in signals:
                break
        tasks.cancel_scope.cancel()


async def _end_when_idle(drawings: Drawings, seconds: float, scope: anyio.CancelScope) -> None:
    while (left := seconds - drawings.unused_seconds) > 0:  # noqa: ASYNC110  looks seldom
        await anyio.sleep(left)
    scope.cancel()


async def _end_when_lost(drawings: Drawings, scope: anyio.CancelScope) -> None:
    await drawings.device_lost.wait()
    logger.error("The engine ends, because its device works only in a new process")
    await _end_when_idle(drawings, LOST_SECONDS, scope)


async def _end_when_unregistered(drawings: Drawings, register: Callable[[], bool], scope: anyio.CancelScope) -> None:
    is_found = True
    while is_found:
        await anyio.sleep(REGISTERED_SECONDS)
        with suppress(InvalidSettings):  # for example while the disk is full
            is_found = await anyio.to_thread.run_sync(register)
    logger.error("The engine ends, because the file of its lock was deleted, and so no server finds it any more")
    await _end_when_idle(drawings, LOST_SECONDS, scope)


def _end_soon() -> None:
    """Let the process end in time, even if a thread still draws."""
    timer = threading.Timer(END_SECONDS, os._exit, [0])
    timer.daemon = True
    timer.start()
