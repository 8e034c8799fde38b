"""Whether the server is ready for calls."""

import anyio

from mcp_vega.errors import VegaError
from mcp_vega.jobs.service import JobService

# Seconds between two reads of the ledger, however many requests there are, and seconds that a read may take.
CHECK_SECONDS, LEDGER_SECONDS = 1.0, 2.0


class Readiness:
    """Whether the server is ready for calls: it is not about to exit, and the ledger can be read."""

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._one = anyio.Lock()
        self._checked = float("-inf")
        self._is_readable = False

    async def problem(self) -> str:
        """Return why the server is not ready, `draining` or `ledger`; empty if it is ready."""
        is_readable = self._service.closing or await self._ledger_is_readable()
        if self._service.closing:
            return "draining"
        return "" if is_readable else "ledger"

    async def _ledger_is_readable(self) -> bool:
        """Whether the ledger could be read within the last second. A ledger that is missing is made."""
        uptime = self._service.store.uptime
        async with self._one:
            if uptime() >= self._checked + CHECK_SECONDS:
                self._is_readable = False
                with anyio.move_on_after(LEDGER_SECONDS):
                    try:
                        await self._service.store.require_readable()
                        self._is_readable = True
                    except VegaError:
                        pass  # the work on jobs logs it
                self._checked = uptime()
            return self._is_readable
