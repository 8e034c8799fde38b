"""Whether the server is up, and whether it is ready for calls. Everybody may ask, and learns nothing else."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_vega import __version__
from mcp_vega.server.context import AppContext

HEALTH_PATH, LIVE_PATH, READY_PATH = HEALTH_PATHS = ("/health", "/livez", "/readyz")


def health_routes(app: AppContext) -> list[Route]:
    """The routes of the health checks."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", "version": __version__})

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        if problem := await app.readiness.problem():
            return JSONResponse({"status": "not ready", "reason": problem}, 503)
        return JSONResponse({"status": "ready"})

    return [Route(HEALTH_PATH, health), Route(LIVE_PATH, live), Route(READY_PATH, ready)]
