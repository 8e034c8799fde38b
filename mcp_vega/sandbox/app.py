"""The sandbox's routes: what a client of the Segmind API meets, in the order the API checks things.

POST /v1/{slug}                                draw and wait
POST /v2/{slug}                                queue a job
GET  /v2/requests/{id}/status, …/{id}          look at it, fetch its result
GET  /generations/{id}-{k}.jpeg                a picture, public
GET  /v1/get-user-credits                      the balance
GET  /inference-request/request-history[/{id}] all calls, newest first
GET  /_sandbox                                 balance, calls, counts of requests, the table of faults
POST /_sandbox                                 change: {"skip": seconds, "credits": usd, "speed": x, "rate_limit": n,
                                               "history_status": what the request history answers with}
"""

import json
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from email.utils import formatdate
from functools import lru_cache
from itertools import chain
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mcp_vega.parameters import MODELS
from mcp_vega.sandbox import bodies
from mcp_vega.sandbox.account import Account, Call, Refusal
from mcp_vega.sandbox.faults import FAULTS, FOREIGN, Faults
from mcp_vega.sandbox.painter import paint
from mcp_vega.sandbox.replies import Json, disturbed, error

RETIRED = ("segmind-vega-v0",)
FIRST_LOOKS = 2

Endpoint = Callable[[Request], Awaitable[Response]]
_painted = lru_cache(maxsize=64)(paint)


def build_sandbox(queue: Account) -> Starlette:
    """The sandbox as an ASGI application over the given state."""
    api = Api(queue)
    history = "/inference-request/request-history"
    every = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return Starlette(
        routes=[
            Route("/v1/get-user-credits", api.with_key(api.credits)),
            Route("/v1/{slug}", api.with_key(api.generate), methods=every),
            Route("/v2/requests/{id}/status", api.with_key(api.status)),
            Route("/v2/requests/{id}", api.with_key(api.result)),
            Route("/v2/{slug}", api.with_key(api.submit), methods=every),
            Route("/generations/{id}-{index:int}.jpeg", api.media),
            Route(history, api.with_key(api.history)),
            Route(history + "/{id}", api.with_key(api.history_entry)),
            Route("/_sandbox", api.inspect),
            Route("/_sandbox", api.control, methods=["POST"]),
        ]
    )


class Api:
    """The endpoints over one state; a `Refusal` raised in one becomes its answer."""

    def __init__(self, queue: Account) -> None:
        self._queue = queue

    def with_key(self, endpoint: Endpoint) -> Endpoint:
        """An endpoint that is counted, and answers only to a key."""

        async def checked(request: Request) -> Response:
            self._queue.requests[f"{request.method} {endpoint.__name__}"] += 1
            try:
                _check_key(request.headers.get("x-api-key"))
                return await endpoint(request)
            except Refusal as refusal:
                return error(refusal.status, refusal.text, refusal.headers)

        return checked

    # ---- paid calls ----

    async def generate(self, request: Request) -> Response:
        """`POST /v1/{slug}`."""
        call = await self._take(request, "v1")
        if "envelope" in call.faults:
            return Json(bodies.submission(call, _base(request)))
        await anyio.sleep(call.queue_seconds + call.run_seconds)
        if call.problem:
            return error(400 if "moderation" in call.faults else 500, call.problem)
        response = await self._drawn(call)
        response.headers.update(bodies.receipt_headers(call))
        return await disturbed(call, request, response)

    async def _drawn(self, call: Call) -> Response:
        """The pictures of a v1 call: bytes, or JSON where `base64` was asked for."""
        pictures = [await _picture(call, index) for index in range(call.pictures)]
        if not call.body.get("base64"):
            return Response(pictures[0], media_type="image/jpeg")
        texts = [b64encode(picture).decode() for picture in pictures]
        return Json(
            {
                "image": texts if len(texts) > 1 else texts[0],
                "status": "Success",
                "infer_time": call.run_seconds,
                "outputs": len(texts),
                "image_format": "jpeg",
            }
        )

    async def submit(self, request: Request) -> Response:
        """`POST /v2/{slug}`."""
        call = await self._take(request, "v2")
        return await disturbed(call, request, Json(bodies.submission(call, _base(request))))

    async def _take(self, request: Request, route: str) -> Call:
        """A paid call after all the checks, in the API's order."""
        slug = request.path_params["slug"]
        if request.method != "POST":
            raise Refusal(405)
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise Refusal(406, "Invalid content type")
        if until := self._queue.admit():
            raise _rate_limited(until)
        if slug not in MODELS:
            raise Refusal(410, "This model has been retired") if slug in RETIRED else Refusal(404, "Model not found")
        body = _object(await request.body())
        if body is None:
            raise Refusal(400, "The request body must be a JSON object")
        return self._queue.take(route, slug, body, self._faults(body.get("prompt")))

    def _faults(self, prompt: object) -> Faults:
        faults = self._queue.faults_of(prompt)
        if name := faults.unknown():
            raise Refusal(400, f"The sandbox knows no fault {name!r}; GET /_sandbox lists those it knows")
        if status := faults.refused():
            in_a_second = datetime.fromtimestamp(self._queue.now + 1, UTC)
            raise _rate_limited(in_a_second) if status == 429 else Refusal(status)
        return faults

    # ---- questions ----

    async def status(self, request: Request) -> Response:
        """`GET /v2/requests/{id}/status`."""
        call = self._find(request)
        call.looks += 1
        if call.looks <= FIRST_LOOKS and "late" in call.faults:
            raise _unknown(call.id)
        if call.looks <= FIRST_LOOKS and "poll-502" in call.faults:
            raise Refusal(502)
        body = bodies.status(call, self._queue.now)
        return _status_reply(body)

    async def result(self, request: Request) -> Response:
        """`GET /v2/requests/{id}`."""
        call = self._find(request)
        if call.state(self._queue.now) != "COMPLETED":
            return _status_reply(bodies.status(call, self._queue.now))
        wanted = range(call.pictures if "output-base64" in call.faults else 0)
        pictures = [b64encode(await _picture(call, index)).decode() for index in wanted]
        return Json(bodies.result(call, _base(request), pictures))

    def _find(self, request: Request) -> Call:
        request_id = request.path_params["id"]
        call = self._queue.find(request_id)
        if call is None:
            raise _unknown(request_id)
        return call

    async def media(self, request: Request) -> Response:
        """`GET /generations/{id}-{index}.jpeg`: public, so a key that comes along is counted as a mistake."""
        self._queue.requests["GET media"] += 1
        self._queue.requests["GET media with key"] += "x-api-key" in request.headers
        call = self._queue.find_media(request.path_params["id"])
        if call is None or request.path_params["index"] >= call.pictures:
            return error(404, "Not found")
        if "media-403" in call.faults:
            return error(403)
        if "media-redirect" in call.faults:
            return RedirectResponse(f"{FOREIGN}{request.url.path}")
        return Response(await _picture(call, request.path_params["index"]), media_type="image/jpeg")

    async def credits(self, _: Request) -> Response:
        """`GET /v1/get-user-credits`."""
        return Json({"credits": float(self._queue.credits), "free-credits": 0.0})

    async def history(self, request: Request) -> Response:
        """`GET …/request-history`: filtered, newest first, in pages of rows."""
        self._check_history()
        query = request.query_params
        now = self._queue.now
        since = query.get("from_date") or _day(now - 7 * 24 * 3600)
        until = query.get("to_date") or _day(now)
        try:
            page, size = int(query.get("page", 1)), min(int(query.get("per_page", 20)), 100)
            days = (date.fromisoformat(until) - date.fromisoformat(since)).days
        except ValueError as error:
            raise Refusal(400, str(error)) from error
        if days > 31:
            raise Refusal(400, "The date range may span at most 31 days")
        calls = sorted(self._queue.calls.values(), key=lambda call: call.created, reverse=True)
        every = chain.from_iterable(
            bodies.history_rows(call, _base(request), now)
            for call in calls
            if query.get("model_name", "") in call.slug and since <= _day(call.created) <= until
        )
        rows = [row for row in every if query.get("status", "") in ("", row["model_status"])]
        shown = rows[(page - 1) * size : page * size]
        body = {"data": shown, "page": page, "per_page": size, "total": len(rows)}
        return Json(body, headers={"date": formatdate(now, usegmt=True)})

    async def history_entry(self, request: Request) -> Response:
        """`GET …/request-history/{id}`."""
        self._check_history()
        call = self._queue.calls.get(request.path_params["id"])
        if call is None:
            return error(404, "Request not found")
        return Json(bodies.history_rows(call, _base(request), self._queue.now)[0])

    def _check_history(self) -> None:
        if self._queue.history_status != 200:
            raise Refusal(self._queue.history_status)

    # ---- the sandbox itself ----

    async def inspect(self, _: Request) -> Response:
        """`GET /_sandbox`."""
        queue = self._queue
        calls = [
            {"id": call.id, "model": call.slug, "route": call.route, "state": call.state(queue.now), "body": call.body}
            for call in queue.calls.values()
        ]
        state = {"credits": float(queue.credits), "requests": dict(queue.requests), "calls": calls, "faults": FAULTS}
        return Json(state)

    async def control(self, request: Request) -> Response:
        """`POST /_sandbox`."""
        change: dict[str, Any] = await request.json()
        self._queue.skip(float(change.pop("skip", 0)))
        readers: dict[str, Callable[[Any], Any]] = {"credits": lambda value: Decimal(str(value)), "speed": float}
        readers |= {"rate_limit": int, "history_status": int}
        for name, value in change.items():
            if name not in readers:
                return error(400, f"The sandbox has no setting {name!r}; known: skip, {', '.join(readers)}")
            setattr(self._queue, name, readers[name](value))
        return await self.inspect(request)


async def _picture(call: Call, index: int) -> bytes:
    if "not-image" in call.faults:
        return b"This is no picture."
    if "empty" in call.faults:
        return b""
    data = await anyio.to_thread.run_sync(_painted, str(call.body.get("prompt")), call.seed, index)
    return data[: len(data) // 2] if "truncated" in call.faults else data


def _check_key(key: str | None) -> None:
    if not key:
        raise Refusal(401, "Missing Authorization or x-api-key in header")
    if not key.startswith("SG_"):
        raise Refusal(401, "Invalid API key")


def _rate_limited(until: datetime) -> Refusal:
    moment = until.replace(tzinfo=None).isoformat()
    return Refusal(429, "Rate limit exceeded", {"x-rate-limit-reset-at-utc": moment})


def _status_reply(body: dict[str, Any]) -> Response:
    return Json(body, 422 if body["status"] == "FAILED" else 200)


def _unknown(request_id: str) -> Refusal:
    return Refusal(404, f"Request {request_id} not found")


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None  # pyright: ignore[reportUnknownVariableType]


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
