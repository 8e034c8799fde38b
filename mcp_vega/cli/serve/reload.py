"""Reads the API key and the access tokens in files again when the signal SIGHUP comes, without a restart.

Windows has no such signal.
"""

import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import anyio.to_thread

from mcp_vega.cli.api_client import key_of
from mcp_vega.cli.serve.callers import token_callers
from mcp_vega.errors import InvalidSettings
from mcp_vega.segmind.client import SegmindClient
from mcp_vega.server.http.access.callers import Caller, Callers
from mcp_vega.server.http.access.tokens import TokenCallers
from mcp_vega.settings import Settings

logger = logging.getLogger(__name__)


def reads_again(settings: Settings) -> bool:
    """Whether SIGHUP lets a server over HTTP read secrets again, instead of ending it."""
    return sys.platform != "win32" and bool(settings.api_key_file or settings.auth_tokens_file)


def hold_hangup() -> None:
    """Let SIGHUP wait until `reading_on_hangup` handles it. Without that, it would end a server that is starting."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])


class SecretReader:
    """Reads the secrets again, and lets the client and the access control use them."""

    def __init__(
        self, settings: Settings, environment: Mapping[str, str], client: SegmindClient, callers: Callers
    ) -> None:
        self.settings = settings
        self._environment = environment
        self._client = client
        self._callers = callers

    async def read_again(self) -> None:
        """Use what is in the files now. If one of them cannot be used, nothing changes, and the log says why."""
        try:
            # In a thread: a disk may be slow, and calls must go on.
            settings, callers = await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)
        except InvalidSettings as error:
            said = "The earlier secrets stay in use. %s. Correct this, then send SIGHUP again"
            logger.error(said, error.what)  # noqa: TRY400  a traceback would not help
            return
        read: list[str] = []
        if key_of(settings).in_file:
            is_new = settings.api_key != self.settings.api_key
            self._client.use_key(key_of(settings))
            read.append(f"SEGMIND_API_KEY_FILE ({'another key' if is_new else 'the same key'})")
        if settings.auth_tokens_file and isinstance(self._callers, TokenCallers):
            self._callers.replace(callers)
            count = len({each.owner for each in callers})
            read.append(f"MCP_VEGA_AUTH_TOKENS_FILE ({count} {'caller' if count == 1 else 'callers'})")
        self.settings = settings
        # The person who sent the signal looks for this line, and the default level shows only warnings and errors.
        logger.warning("Read again: %s", ", ".join(read))

    def _read(self) -> tuple[Settings, list[Caller]]:
        settings = Settings.from_environment(self._environment)
        if key_of(settings).in_file:
            key_of(settings).usable()
        return settings, token_callers(settings)


@asynccontextmanager
async def reading_on_hangup(reader: SecretReader) -> AsyncGenerator[None]:
    """While the block runs, SIGHUP lets the reader read again, if a secret comes from a file.

    The system sends the same signal when the terminal of a process is closed. Then the process ends as with SIGTERM,
    unless it was started to ignore that, as by `nohup`.
    """
    if not reads_again(reader.settings):
        yield
        return
    ends_with_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN and _has_terminal()

    async def watch(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGHUP) as signals:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
            task_status.started()
            async for _ in signals:
                if ends_with_terminal and not _has_terminal():
                    signal.raise_signal(signal.SIGTERM)
                else:
                    await reader.read_again()

    async with anyio.create_task_group() as tasks:
        await tasks.start(watch)
        yield
        tasks.cancel_scope.cancel()


def _has_terminal() -> bool:
    """Whether the process belongs to a terminal that is open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
