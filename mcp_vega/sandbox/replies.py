"""The sandbox's replies that are no success: errors, and the answers that a fault spoils on their way."""

import json
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from mcp_vega.sandbox.account import Call

# Errors of the gateway before the API come as pages.
HTML_STATUSES = (403, 405, 502, 504)


class Json(JSONResponse):
    """JSON in plain ASCII, so that it can echo whatever text came in."""

    def render(self, content: Any) -> bytes:  # noqa: D102  Starlette's
        return json.dumps(content).encode("ascii")


def error(status: int, text: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """An error in the API's envelope; without words of its own, one of the gateway's is a page."""
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else f"Status {status}"
    if status in HTML_STATUSES and not text:
        page = f"<html><head><title>{status} {phrase}</title></head><body>{phrase}</body></html>"
        return HTMLResponse(page, status)
    return Json({"error": text or phrase}, status, headers)


async def disturbed(call: Call, request: Request, response: Response) -> Response:
    """The answer to a paid call that ran, as its faults would have it arrive."""
    if status := call.faults.answered():
        return error(status)
    if "hang" in call.faults:
        while (await request.receive())["type"] != "http.disconnect":
            pass
    if "cut" in call.faults:
        return StreamingResponse(_half(bytes(response.body)), headers=dict(response.headers))
    if "html" in call.faults:
        return HTMLResponse("<html><body>Welcome</body></html>")
    if "error-200" in call.faults:
        return Json({"error": "Something went wrong"})
    return Response() if "empty" in call.faults else response


async def _half(data: bytes) -> AsyncIterator[bytes]:
    yield data[: len(data) // 2]
    raise ConnectionResetError("the fault that was asked for")
