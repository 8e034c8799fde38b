"""The engine's answers: bodies and headers as the Segmind API documents them, and the two headers of an engine."""

import json
import re
from base64 import b64encode
from typing import Any

from starlette.responses import JSONResponse, Response

from mcp_vega.engine.drawing import Drawing
from mcp_vega.imaging.formats import recognise

# The first header says that a call costs nothing, the second what draws.
FREE_HEADER, ENGINE_HEADER = "x-mcp-vega-free", "x-mcp-vega-engine"
NAME_LENGTH = 100

GONE = (
    "The engine was restarted since, or does not keep this call any more, so there is no picture of it; call again, "
    "which costs nothing"
)


class Json(JSONResponse):
    """JSON in plain ASCII, so that it can contain any text of a request."""

    def render(self, content: Any) -> bytes:  # noqa: D102  Starlette's
        return json.dumps(content).encode("ascii")


def engine_headers(name: str) -> list[tuple[bytes, bytes]]:
    """The headers of every response. Without a name, the engine does not say what draws."""
    shown = re.sub("[^ -~]", "?", name)[:NAME_LENGTH].strip().encode("ascii")
    return [(FREE_HEADER.encode(), b"1"), *([(ENGINE_HEADER.encode(), shown)] if shown else [])]


def error(status: int, text: str, retry_after: int = 0) -> Response:
    """An error in the API's form. With `retry_after`, it asks to wait so many seconds."""
    return Json({"error": text}, status, {"retry-after": str(retry_after)} if retry_after else None)


def gone() -> Response:
    """The answer about an id that the engine does not know. A client must read it as the end of the call, for free."""
    return Json({"status": "FAILED", "error": GONE, "metrics": {"cost": 0}}, 422)


def submission(drawing: Drawing, base: str) -> Response:
    """The answer to a call that was queued; `base` is the engine's own URL."""
    url = f"{base}/v2/requests/{drawing.id}"
    links = {"poll_url": f"{url}/status", "status_url": f"{url}/status", "response_url": url}
    return Json({"request_id": drawing.id, "status": "QUEUED", **links})


def generation(drawing: Drawing) -> Response:
    """v1's answer to a call that has ended."""
    if drawing.error:
        return status(drawing)
    headers = {
        "x-request-id": drawing.id,
        "x-cost": "0",
        "x-generation-time": f"[{drawing.run_seconds:.3f}]",
        "x-seed-value": str(drawing.parameters.seed),
    }
    form = recognise(drawing.pictures[0])
    if not drawing.parameters.base64:
        return Response(drawing.pictures[0], headers=headers, media_type=form.mime_type if form else None)
    texts = _base64(drawing)
    body = {
        "image": texts if len(texts) > 1 else texts[0],
        "status": "Success",
        "infer_time": drawing.run_seconds,
        "outputs": len(texts),
        "image_format": form.mime_type.partition("/")[2] if form else "",
    }
    return Json(body, headers=headers)


def status(drawing: Drawing) -> Response:
    """The status of a job and, once it is complete, its result: a client that has both cannot lose the pictures."""
    queued, run = drawing.queue_seconds, drawing.run_seconds
    metrics = {
        "cost": 0,
        "inference_time": round(run, 3),
        "queue_time": round(queued, 3),
        "total_time": round(queued + run, 3),
        "progress": round(drawing.progress, 3),
    }
    body: dict[str, Any] = {"status": drawing.state, "request_id": drawing.id, "metrics": metrics}
    if drawing.error:
        return Json({**body, "error": drawing.error}, 422)
    if drawing.pictures:
        parameters = drawing.parameters
        body |= {"output": _base64(drawing), "seed": str(parameters.seed), "prompt": parameters.prompt}
    return Json(body)


def _base64(drawing: Drawing) -> list[str]:
    return [b64encode(each).decode() for each in drawing.pictures]
