"""Whether the server is up, and whether it is ready for calls. Everybody may ask, and learns nothing else."""

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_vega import __version__
from mcp_vega.errors import VegaError
from mcp_vega.jobs.service import JobService

HEALTH_PATH, LIVE_PATH, READY_PATH = HEALTH_PATHS = ("/health", "/livez", "/readyz")
# Seconds between two reads of the ledger, however many requests there are, and seconds that a read may take.
CHECK_SECONDS, LEDGER_SECONDS = 1.0, 2.0


def health_routes(service: JobService) -> list[Route]:
    """The routes of the health checks."""
    readiness = Readiness(service)

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        if problem := await readiness.problem():
            return JSONResponse({"status": "not ready", "reason": problem}, 503)
        return JSONResponse({"status": "ready"})

    return [Route(HEALTH_PATH, health), Route(LIVE_PATH, live), Route(READY_PATH, ready)]


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
