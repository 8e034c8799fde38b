"""The engine's routes: Segmind's HTTP API for its two Vega models. A request is checked in the API's own order.

POST   /v1/{slug}                                draw, and answer with the picture, or with v2's if that takes long
POST   /v2/{slug}                                queue a job
GET    /v2/requests/{id}/status                  its status; the answer waits for news
GET    /v2/requests/{id}                         its result
DELETE /v2/requests/{id}                         cancel it
GET    /v1/get-user-credits                      the balance, which is 0
GET    /inference-request/request-history[/{id}] the calls made with this key, newest first
"""

import hmac
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import anyio
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_vega.engine import history, responses
from mcp_vega.engine.drawing import Drawing
from mcp_vega.engine.drawings import Drawings, EndingError, QueueFullError
from mcp_vega.engine.responses import Json
from mcp_vega.network.addresses import is_loopback
from mcp_vega.parameters import MODELS, Parameters

# How long an answer waits for a picture or for news (s); less than clients wait for an answer.
HOLD_SECONDS = 15
# The longest body: two texts of `PROMPT_LENGTH`, each character as the longest JSON escape, and the rest.
BODY_BYTES = 2**18
# How long a client may take to send its body (s).
BODY_SECONDS = 30
# How long a client is asked to wait if the queue is full (s).
FULL_SECONDS = 30
# The same if the engine ends.
END_SECONDS = 5
HISTORY = "/inference-request/request-history"
# A Host header: a name or an address, and perhaps a port.
_HOST = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.IGNORECASE)

Endpoint = Callable[[Request], Awaitable[Response]]


def build_engine(drawings: Drawings, key: str | None = None, *, hold_seconds: float = HOLD_SECONDS) -> Starlette:
    """The engine as an ASGI application. Its lifespan opens `drawings`.

    Without a `key`, it accepts every key that begins with `SG_`, but only requests to a loopback name: a web page can
    let its own host name mean this machine. `hold_seconds` is how long an answer waits for a picture or for news.
    """
    api = _Api(drawings, key, hold_seconds)
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with drawings.open():
            yield

    app = Starlette(
        routes=[
            Route("/v1/get-user-credits", api.with_key(api.credits)),
            Route("/v1/{slug}", api.with_key(api.generate), methods=methods),
            Route("/v2/requests/{id}/status", api.with_key(api.status)),
            Route("/v2/requests/{id}", api.with_key(api.result)),
            Route("/v2/requests/{id}", api.with_key(api.cancel), methods=["DELETE"]),
            Route("/v2/{slug}", api.with_key(api.submit), methods=methods),
            Route(HISTORY, api.with_key(api.history)),
            Route(HISTORY + "/{id}", api.with_key(api.history_entry)),
        ],
        exception_handlers={Refusal: _refused},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect would come before the check of the key
    app.add_middleware(EngineMiddleware, drawings=drawings, only_loopback=not key)
    return app


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818  it says what happens to the request
    """Refuses a request: HTTP status, message, and after how many seconds to try again (0: not said)."""

    status: int
    text: str
    retry_after: int = 0


async def _refused(_: Request, refusal: Any) -> Response:
    return responses.error(refusal.status, refusal.text, refusal.retry_after)


class EngineMiddleware:
    """Adds the engine's headers to each response, and refuses requests with a wrong Host header."""

    def __init__(self, app: ASGIApp, drawings: Drawings, only_loopback: bool) -> None:  # noqa: FBT001  Starlette's way
        self._app = app
        self._drawings = drawings
        self._only_loopback = only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", []), *responses.engine_headers(self._drawings.name)]
                message = {**message, "headers": headers}
            await send(message)

        app = self._app if self._allows(Headers(scope=scope)) else _wrong_host()
        await app(scope, receive, with_headers)

    def _allows(self, headers: Headers) -> bool:
        hosts = headers.getlist("host")
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        return found is not None and (not self._only_loopback or is_loopback(found[1]))


def _wrong_host() -> Response:
    text = (
        "The Host header is not allowed. Call the engine as 127.0.0.1 or localhost, or set MCP_VEGA_ENGINE_KEY for it"
    )
    return responses.error(403, text)


class _Api:
    """The endpoints."""

    def __init__(self, drawings: Drawings, key: str | None, hold_seconds: float) -> None:
        self._drawings = drawings
        self._key = key
        self._hold_seconds = hold_seconds

    def with_key(self, endpoint: Endpoint) -> Endpoint:
        """An endpoint that requires a key."""

        async def checked(request: Request) -> Response:
            given = request.headers.get("x-api-key")
            if not given:
                raise Refusal(401, "Missing Authorization or x-api-key in header")
            if not self._accepts(given):
                raise Refusal(401, "Invalid API key")
            return await endpoint(request)

        return checked

    def _accepts(self, given: str) -> bool:
        if self._key:
            return hmac.compare_digest(given.encode(), self._key.encode())
        return given.startswith("SG_")

    # ---- calls ----

    async def generate(self, request: Request) -> Response:
        drawing = await self._take(request)
        await drawing.wait(self._hold_seconds, for_end=True)
        return responses.generation(drawing) if drawing.ended else responses.submission(drawing, _base_url(request))

    async def submit(self, request: Request) -> Response:
        return responses.submission(await self._take(request), _base_url(request))

    async def _take(self, request: Request) -> Drawing:
        """Check a call, and queue it. Unlike the API, v2 refuses bad parameters at once: the caller learns more."""
        slug = request.path_params["slug"]
        if request.method != "POST":
            raise Refusal(405, "Method Not Allowed")
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise Refusal(406, "Invalid content type")
        if slug not in MODELS:
            raise Refusal(404, "Model not found")
        parameters = _parse(MODELS[slug], await _json_object(request))
        try:
            return self._drawings.add(parameters, _caller(request))
        except QueueFullError:
            raise Refusal(429, "The queue of the engine is full; call again later", FULL_SECONDS) from None
        except EndingError:
            raise Refusal(429, "The engine ends; call again when another one runs", END_SECONDS) from None

    # ---- jobs ----

    async def status(self, request: Request) -> Response:
        drawing = self._drawings.find(request.path_params["id"])
        if drawing is None:
            return responses.gone()
        await drawing.wait(self._hold_seconds)
        return responses.status(drawing)

    async def result(self, request: Request) -> Response:
        drawing = self._drawings.find(request.path_params["id"])
        return responses.status(drawing) if drawing else responses.gone()

    async def cancel(self, request: Request) -> Response:
        drawing = self._drawings.find(request.path_params["id"])
        if drawing is None:
            return responses.gone()
        self._drawings.cancel(drawing)
        return responses.status(drawing)

    # ---- the account ----

    async def credits(self, _: Request) -> Response:
        return Json({"credits": 0, "free-credits": 0})

    async def history(self, request: Request) -> Response:
        try:
            calls = self._drawings.made_by(_caller(request))
            return history.page(calls, request.query_params)
        except ValueError as error:
            raise Refusal(400, str(error)) from error

    async def history_entry(self, request: Request) -> Response:
        drawing = self._drawings.find(request.path_params["id"])
        if drawing is None or drawing.caller != _caller(request):
            raise Refusal(404, "Request not found")
        return history.entry(drawing)


def _caller(request: Request) -> str:
    """Who makes a call: the hash of its key. A key itself is not kept."""
    return sha256(request.headers["x-api-key"].encode()).hexdigest()


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")


async def _json_object(request: Request) -> dict[str, Any]:
    """The body of a request.

    Raises:
        Refusal: It is not a JSON object, is too long, or does not come.
    """
    data = bytearray()
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for piece in request.stream():
                data += piece
                if len(data) > BODY_BYTES:
                    raise Refusal(413, f"The request body is longer than {BODY_BYTES:,} bytes")
    except (TimeoutError, ClientDisconnect):
        raise Refusal(400, "The request body did not come") from None
    body: Any = None
    with suppress(ValueError, RecursionError):
        body = json.loads(data)
    if not isinstance(body, dict):
        raise Refusal(400, "The request body must be a JSON object")
    return body  # pyright: ignore[reportUnknownVariableType]  JSON


def _parse(model: type[Parameters], body: dict[str, Any]) -> Parameters:
    """The parameters in a body, without names that the model does not have.

    Raises:
        Refusal: A parameter is not valid; the text says which and why.
    """
    try:
        return model.model_validate({name: value for name, value in body.items() if name in model.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        text = f"{first['loc'][0]}: {first['msg']}"
        raise Refusal(406 if first["type"] == "literal_error" else 400, text) from error
