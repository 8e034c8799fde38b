"""The sandbox's answers: bodies and headers as the API documents them, errors, and the changes that faults cause."""

import json
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from mcp_vega.sandbox import odd_answers
from mcp_vega.sandbox.account import Call
from mcp_vega.sandbox.faults import OTHER_HOST
from mcp_vega.sandbox.odd_answers import BALANCES, COSTS, Drawn, Shape, changed, state_word

HTML_STATUSES = (403, 405, 502, 504)  # the statuses that come from the gateway in front of the API


class Json(JSONResponse):
    """JSON in plain ASCII, so that it can contain any text of a request."""

    def render(self, content: Any) -> bytes:  # noqa: D102  Starlette's
        return json.dumps(content).encode("ascii")


def base_url(request: Request) -> str:
    """Return the sandbox's own URL, as the client wrote it."""
    return str(request.base_url).rstrip("/")


def error(status: int, text: str = "", headers: Mapping[str, str] | None = None, form: str = "") -> Response:
    """Return an error in the API's form, or in the odd form of the fault `form`.

    Without a text, the gateway's statuses have an HTML page. A redirect names another host.
    """
    if form:
        body, kind = odd_answers.odd_error(form, text)
        return Response(body, status, headers, kind)
    if 300 <= status < 400:
        headers = {"location": f"{OTHER_HOST}/v1"}
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else f"Status {status}"
    if status in HTML_STATUSES and not text:
        page = f"<html><head><title>{status} {phrase}</title></head><body>{phrase}</body></html>"
        return HTMLResponse(page, status)
    return Json({"error": text or phrase}, status, headers)


async def with_faults(call: Call, request: Request, response: Response) -> Response:
    """Return the response to a paid call that ran, changed as its faults ask for."""
    if status := call.faults.status("-after"):
        return error(status)
    if "hang" in call.faults:
        while (await request.receive())["type"] != "http.disconnect":
            pass
    if "cut" in call.faults:
        return StreamingResponse(_half(bytes(response.body)), headers=dict(response.headers))
    others = {
        "html": HTMLResponse("<html><body>Welcome</body></html>"),
        "error-200": Json({"error": "Something went wrong"}),
        "empty": Response(),
    }
    return next((other for name, other in others.items() if name in call.faults), response)


async def _half(data: bytes) -> AsyncIterator[bytes]:
    yield data[: len(data) // 2]
    raise ConnectionResetError("the fault `cut`")


def failure(call: Call) -> Response:
    """Return the response to a call whose drawing failed or was not allowed."""
    if "nsfw-200" in call.faults:
        return Json({"success": False, "message": call.error})
    return error(400 if "moderation" in call.faults else 500, call.error)


def _reported(call: Call) -> tuple[Decimal | str, Decimal | str]:
    """Return the cost of a call and the balance after it, in the form in which the answer reports them."""
    return changed(call.cost, call.faults, COSTS), changed(call.credits_left, call.faults, BALANCES)


def receipt_headers(call: Call) -> dict[str, str]:
    """Return the headers that report the cost of a finished v1 call."""
    if "no-cost" in call.faults:
        return {"x-request-id": call.id}
    cost, credits_left = _reported(call)
    return {
        "x-request-id": call.id,
        "x-cost": f"{cost}",
        "x-remaining-credits": f"{credits_left}",
        "x-generation-time": f"[{call.run_seconds:.3f}]",
        "x-seed-value": str(call.seed),
    }


def submission(call: Call, base: str) -> dict[str, Any]:
    """Return the body of the response to a job that was queued; `base` is the sandbox's own URL."""
    host = OTHER_HOST if "status-foreign" in call.faults else base
    status_url = f"{host}/v2/requests/{call.id}/status"
    return {
        "request_id": call.id,
        "status": state_word("QUEUED", call.faults),
        "poll_url": status_url,
        "status_url": status_url,
        "response_url": f"{host}/v2/requests/{call.id}",
    }


def status(call: Call, now: float) -> dict[str, Any]:
    """Return the body of a job's status at a time."""
    state = call.state(now)
    metrics: dict[str, float | str] = {}
    if state == "COMPLETED" and "no-cost" not in call.faults:
        cost, credits_left = _reported(call)
        metrics = {
            "inference_time": round(call.run_seconds, 3),
            "cost": _in_json(cost),
            "remaining_credits": _in_json(credits_left),
            "queue_time": round(call.queue_seconds, 3),
            "total_time": round(call.queue_seconds + call.run_seconds, 3),
        }
    body: dict[str, Any] = {"status": state_word(state, call.faults), "request_id": call.id, "metrics": metrics}
    return body | {"error": call.error} if state == "FAILED" else body


def _in_json(amount: Decimal | str) -> float | str:
    return float(amount) if isinstance(amount, Decimal) else amount


def media_urls(call: Call, base: str) -> list[str]:
    """Return the URLs of a call's pictures."""
    host = OTHER_HOST if "media-foreign" in call.faults else base
    return [f"{host}/generations/{call.id}-{index}.jpeg" for index in range(call.pictures)]


def result(call: Call, base: str) -> dict[str, Any]:
    """Return the body of a completed job's result."""
    urls = media_urls(call, base)
    files = [
        {"url": url, "content_type": "image/jpeg", "file_name": url.rpartition("/")[2], "file_size": 0} for url in urls
    ]
    return {
        **status(call, call.done),
        "output": urls[0],
        "images": files,
        "seed": str(call.seed),
        "prompt": str(call.body.get("prompt")),
        "timings": {},
    }


def shaped(call: Call, base: str, shape: Shape, pictures: list[str]) -> Any:
    """Return the body with the pictures of a call in an odd shape; `pictures` are base64."""
    links = {name: url for name, url in submission(call, base).items() if name.endswith("_url")}
    body = shape(Drawn(media_urls(call, base), pictures, links))
    if call.route == "v1" or not isinstance(body, dict):
        return body
    documented: dict[str, Any] = result(call, base)
    del documented["output"], documented["images"]
    documented.update(body)  # pyright: ignore[reportUnknownArgumentType]  JSON
    return documented
