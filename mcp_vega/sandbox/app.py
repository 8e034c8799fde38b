"""The sandbox's routes. They check a request in the same order as the Segmind API.

POST /v1/{slug}                                draw and wait
POST /v2/{slug}                                queue a job
GET  /v2/requests/{id}/status, …/{id}          its status, its result
GET  /generations/{id}-{k}.jpeg                a picture, public
GET  /v1/get-user-credits                      the balance
GET  /inference-request/request-history[/{id}] the calls made with this key, newest first
GET  /_sandbox, POST /_sandbox                 the sandbox itself: see `control`
"""

import json
from base64 import b64encode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mcp_vega.sandbox import painter, responses
from mcp_vega.sandbox.account import Account, Call, Refusal, no_record
from mcp_vega.sandbox.control import Control
from mcp_vega.sandbox.faults import OTHER_HOST
from mcp_vega.sandbox.history import HistoryRows, RequestHistory, history_rows
from mcp_vega.sandbox.odd_answers import (
    FAILED_UNDER_200,
    PICTURES,
    Shape,
    changed,
    one_or_list,
    picture_headers,
    shape_of,
    thumbnail,
)
from mcp_vega.sandbox.responses import Json, base_url, with_faults

HISTORY = "/inference-request/request-history"
RETIRED = ("segmind-vega-v0",)
FAILING_STATUS_REQUESTS = 2  # with the faults `late` and `poll-502`
MEDIA_SLOW_SECONDS = 0.5

Endpoint = Callable[[Request], Awaitable[Response]]
Paint = Callable[[str, int, int], bytes]  # from prompt, seed and number to a JPEG's bytes
cached_paint = lru_cache(maxsize=64)(painter.paint)


def build_sandbox(
    account: Account, *, paint: Paint = cached_paint, history_rows: HistoryRows = history_rows
) -> Starlette:
    """Return the sandbox as an ASGI application; `paint` is called in a thread."""
    api, history, control = _Api(account, paint), RequestHistory(account, history_rows), Control(account)
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    return Starlette(
        routes=[
            Route("/v1/get-user-credits", api.with_key(api.credits)),
            Route("/v1/{slug}", api.with_key(api.generate), methods=methods),
            Route("/v2/requests/{id}/status", api.with_key(api.status)),
            Route("/v2/requests/{id}", api.with_key(api.result)),
            Route("/v2/{slug}", api.with_key(api.submit), methods=methods),
            Route("/generations/{id}-{index:int}.jpeg", api.media),
            Route(HISTORY, api.with_key(history.history)),
            Route(HISTORY + "/{id}", api.with_key(history.history_entry)),
            Route("/_sandbox", control.inspect),
            Route("/_sandbox", control.change, methods=["POST"]),
        ],
        exception_handlers={Refusal: _refused},
    )


async def _refused(_: Request, refusal: Any) -> Response:
    return responses.error(refusal.status, refusal.text, refusal.headers, refusal.form)


class _Api:
    """The endpoints of one account."""

    def __init__(self, account: Account, paint: Paint) -> None:
        self._account = account
        self._paint = paint

    def with_key(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint that counts its requests and requires a key."""

        async def checked(request: Request) -> Response:
            self._account.requests[f"{request.method} {endpoint.__name__}"] += 1
            key = request.headers.get("x-api-key")
            if not key:
                raise Refusal(401, "Missing Authorization or x-api-key in header")
            if not key.startswith("SG_"):
                raise Refusal(401, "Invalid API key")
            return await endpoint(request)

        return checked

    # ---- paid calls ----

    async def generate(self, request: Request) -> Response:
        call = await self._take(request, "v1")
        if "envelope" in call.faults:
            return Json(responses.submission(call, base_url(request)))
        await anyio.sleep(call.queue_seconds + call.run_seconds)
        if call.error:
            return responses.failure(call)
        headers = responses.receipt_headers(call)
        if shape := shape_of(call.faults, "v1"):
            response = Json(await self._shaped(call, request, shape), headers=headers)
        elif call.body.get("base64"):
            texts = await self._base64_pictures(call)
            body = {
                "image": one_or_list(texts),
                "status": "Success",
                "infer_time": call.run_seconds,
                "outputs": len(texts),
                "image_format": "jpeg",
            }
            response = Json(body, headers=headers)
        else:
            response = Response(await self._picture(call, 0), headers={**headers, **picture_headers(call.faults)})
        return await with_faults(call, request, response)

    async def submit(self, request: Request) -> Response:
        call = await self._take(request, "v2")
        if "nsfw-200" in call.faults:
            return responses.failure(call)
        return await with_faults(call, request, Json(responses.submission(call, base_url(request))))

    async def _take(self, request: Request, route: str) -> Call:
        """Check a paid call, in the same order as the API, and accept it."""
        slug = request.path_params["slug"]
        if request.method != "POST":
            raise Refusal(405)
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise Refusal(406, "Invalid content type")
        self._account.admit()
        if slug not in self._account.models[route]:
            raise Refusal(410, "This model has been retired") if slug in RETIRED else Refusal(404, "Model not found")
        body: dict[str, Any] | None = None
        with suppress(ValueError, RecursionError):
            body = json.loads(await request.body())
        if not isinstance(body, dict):
            raise Refusal(400, "The request body must be a JSON object")
        return self._account.take(route, slug, body, request.headers["x-api-key"])

    # ---- free requests ----

    async def status(self, request: Request) -> Response:
        call = self._account.record(request.path_params["id"])
        call.status_requests += 1
        if call.status_requests <= FAILING_STATUS_REQUESTS:
            if "late" in call.faults:
                raise no_record(call.id)
            if "poll-502" in call.faults:
                raise Refusal(502)
        if "silent-pictures" in call.faults and call.state(self._account.now) == "COMPLETED":
            return await self._result(call, request)
        return self._status(call)

    async def result(self, request: Request) -> Response:
        call = self._account.record(request.path_params["id"])
        if call.state(self._account.now) != "COMPLETED":
            return self._status(call)
        return await self._result(call, request)

    def _status(self, call: Call) -> Response:
        now = self._account.now
        under_200 = call.state(now) != "FAILED" or any(name in call.faults for name in FAILED_UNDER_200)
        return Json(responses.status(call, now), 200 if under_200 else 422)

    async def _result(self, call: Call, request: Request) -> Response:
        if shape := shape_of(call.faults, "v2"):
            return Json(await self._shaped(call, request, shape))
        return Json(responses.result(call, base_url(request)))

    async def _shaped(self, call: Call, request: Request, shape: Shape) -> Any:
        return responses.shaped(call, base_url(request), shape, await self._base64_pictures(call))

    async def media(self, request: Request) -> Response:
        # Pictures are public, so a client must not send its key here. If it does, that is counted as a mistake.
        self._account.requests["GET media"] += 1
        self._account.requests["GET media with key"] += "x-api-key" in request.headers
        index = request.path_params["index"]
        call = self._account.media(request.path_params["id"], index)
        if "media-403" in call.faults:
            raise Refusal(403)
        if "media-redirect" in call.faults:
            return RedirectResponse(f"{OTHER_HOST}{request.url.path}")
        with self._account.fetching():
            if "media-slow" in call.faults:
                await anyio.sleep(MEDIA_SLOW_SECONDS)
            data = await self._picture(call, index, small="thumbnail" in request.query_params)
        return Response(data, headers=picture_headers(call.faults))

    async def credits(self, _: Request) -> Response:
        return Json({"credits": float(self._account.credits), "free-credits": 0.0})

    # ---- pictures ----

    async def _base64_pictures(self, call: Call) -> list[str]:
        return [b64encode(await self._picture(call, index)).decode() for index in range(call.pictures)]

    async def _picture(self, call: Call, index: int, *, small: bool = False) -> bytes:
        """Return a picture of a call, or its thumbnail, changed as the faults ask for."""

        def paint() -> bytes:
            data = self._paint(str(call.body.get("prompt")), call.seed, index)
            return changed(thumbnail(data) if small else data, call.faults, PICTURES)

        return await anyio.to_thread.run_sync(paint)
