"""What the sandbox answers with: bodies and headers from a call, as the API documents them."""

import json
from datetime import UTC, datetime
from typing import Any

from mcp_vega.sandbox.account import Call
from mcp_vega.sandbox.faults import FOREIGN


def receipt_headers(call: Call) -> dict[str, str]:
    """The headers that report what a finished v1 call cost."""
    if "no-cost" in call.faults:
        return {"x-request-id": call.id}
    return {
        "x-request-id": call.id,
        "x-cost": f"{call.cost}",
        "x-remaining-credits": f"{call.credits_left}",
        "x-generation-time": f"[{call.run_seconds:.3f}]",
        "x-seed-value": str(call.seed),
    }


def submission(call: Call, base: str) -> dict[str, Any]:
    """The answer to a job that was queued."""
    host = FOREIGN if "status-foreign" in call.faults else base
    status = f"{host}/v2/requests/{call.id}/status"
    return {
        "request_id": call.id,
        "status": "QUEUED",
        "poll_url": status,
        "status_url": status,
        "response_url": f"{host}/v2/requests/{call.id}",
    }


def status(call: Call, now: float) -> dict[str, Any]:
    """One look at a job."""
    state = call.state(now)
    if "status-word" in call.faults and state not in ("COMPLETED", "FAILED"):
        state = "WARMING_UP"
    body: dict[str, Any] = {"status": state, "request_id": call.id, "metrics": _metrics(call, state)}
    return body | {"error": call.problem} if state == "FAILED" else body


def _metrics(call: Call, state: str) -> dict[str, Any]:
    if state != "COMPLETED" or "no-cost" in call.faults:
        return {}
    return {
        "inference_time": round(call.run_seconds, 3),
        "cost": float(call.cost),
        "remaining_credits": float(call.credits_left),
        "queue_time": round(call.queue_seconds, 3),
        "total_time": round(call.queue_seconds + call.run_seconds, 3),
    }


def media_url(call: Call, base: str, index: int) -> str:
    """Where a picture of a call is."""
    host = FOREIGN if "media-foreign" in call.faults else base
    return f"{host}/generations/{call.id}-{index}.jpeg"


def result(call: Call, base: str, pictures: list[str]) -> dict[str, Any]:
    """The result of a completed job.

    Args:
        call: The job.
        base: The sandbox's own address.
        pictures: The pictures as base64, for the fault that asks for them.
    """
    urls = [media_url(call, base, index) for index in range(call.pictures)]
    files = [
        {"url": url, "content_type": "image/jpeg", "file_name": url.rpartition("/")[2], "file_size": 0} for url in urls
    ]
    body: dict[str, Any] = {
        **status(call, call.done),
        "output": urls[0],
        "images": files,
        "seed": str(call.seed),
        "prompt": str(call.body.get("prompt")),
        "timings": {},
    }
    shapes: dict[str, Any] = {
        "output-list": urls,
        "output-object": {"url": urls[0]},
        "output-base64": pictures if len(pictures) > 1 else "".join(pictures),
        "output-missing": None,
    }
    for name, output in shapes.items():
        if name in call.faults:
            del body["images"]
            return {**body, "output": output}
    return body


def history_rows(call: Call, base: str, now: float) -> list[dict[str, Any]]:
    """A call in the request history: one row per picture, each with the whole cost."""
    state = call.state(now)
    row = {
        "request_id": call.id,
        "model_name": call.slug,
        "model_status": state if state in ("COMPLETED", "FAILED") else "PENDING",
        "credits_deduction": float(call.cost),
        # Recorded rows show both forms of the inputs: JSON and a Python literal.
        "request_body": json.dumps(call.body) if call.route == "v1" else str(call.body),
        "latency_ms": round((call.queue_seconds + call.run_seconds) * 1000),
        "model_created": datetime.fromtimestamp(call.created, UTC).isoformat(),
        "generation_url": None,
        "error": call.problem or None,
    }
    if state != "COMPLETED":
        return [row]
    return [{**row, "generation_url": media_url(call, base, index)} for index in range(call.pictures)]
