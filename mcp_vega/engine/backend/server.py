"""A server that speaks `POST /sdapi/v1/txt2img`: its requests, its answers, and its errors."""

import json
from contextlib import suppress
from typing import Any

import anyio
import httpx

from mcp_vega.engine.backend.samplers import Samplers
from mcp_vega.engine.errors import EngineError
from mcp_vega.network.addresses import is_loopback

# Seconds. A CPU may need many minutes for a picture.
CONNECT, ASK, DRAW, INTERRUPT = 10.0, 20.0, 3600.0, 5.0
# The longest answer, in bytes. A picture as base64 in a JSON text has a few megabytes.
MOST_BYTES = 64 * 2**20
SHOWN = 200
API = "/sdapi/v1"
START = "Start that server with its API on (in Automatic1111 and Forge: --api), or correct the URL of --backend"
LOOK = "Look at that server's log, then call again"


def backend_url(url: str) -> httpx.URL:
    """The URL of a server, without a slash at the end.

    Raises:
        ValueError: It is not an address of HTTP.
    """
    try:
        parsed = httpx.URL(url.strip())
    except httpx.InvalidURL as error:
        raise ValueError("it is not a URL") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError("it must be the address of a server, such as http://127.0.0.1:7860")
    return parsed.copy_with(path=parsed.path.rstrip("/") or "/")


class BackendServer:
    """The server at a URL. `close` ends its connections."""

    def __init__(self, url: str) -> None:
        base = backend_url(url)
        self.shown = str(base.copy_with(username=None, password=None)).rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=base,
            trust_env=not is_loopback(base.host),  # a proxy cannot reach this machine
            timeout=httpx.Timeout(ASK, connect=CONNECT),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    # ---- questions ----

    async def samplers(self) -> Samplers:
        """Its samplers and schedulers. Older servers have no list of schedulers.

        Raises:
            EngineError: It cannot be reached, or does not speak this API.
        """
        samplers = _entries(await self._get("/samplers"))
        names = {alias: each["name"] for each in samplers for alias in (*_texts(each.get("aliases")), each["name"])}
        schedulers = _entries(await self._get("/schedulers", optional=True))
        labels = {name: each["name"] for each in schedulers for name in (*_texts([each.get("label")]), each["name"])}
        return Samplers(names, labels)

    async def checkpoint(self) -> str | None:
        """The name of the model that it has loaded; None if it does not say.

        Raises:
            EngineError: It cannot be reached.
        """
        options = await self._get("/options", optional=True)
        name = options.get("sd_model_checkpoint") if isinstance(options, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  JSON
        return name if isinstance(name, str) else None

    async def loras(self) -> dict[str, str]:
        """Its LoRAs: for each name the path by which stable-diffusion.cpp knows it.

        Raises:
            EngineError: It cannot be reached.
        """
        found = _entries(await self._get("/loras", optional=True))
        return {each["name"]: path if isinstance(path := each.get("path"), str) else "" for each in found}

    async def progress(self) -> float | None:
        """Which share of the present picture is drawn, from 0 to 1; None if it does not say.

        Raises:
            EngineError: It does not answer.
        """
        answer = await self._get("/progress?skip_current_image=true", optional=True)
        share = answer.get("progress") if isinstance(answer, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  JSON
        return float(min(max(share, 0), 1)) if isinstance(share, int | float) else None

    # ---- drawing ----

    async def txt2img(self, body: dict[str, Any]) -> str:
        """Draw a picture; returns its base64 text.

        Raises:
            EngineError: It does not draw it. The text says why.
        """
        answer = await self._ask("POST", "/txt2img", body, seconds=DRAW)
        images = answer.get("images") if isinstance(answer, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  JSON
        if not isinstance(images, list) or not images or not isinstance(images[0], str):
            raise EngineError(f"The server at {self.shown} answered without a picture", LOOK)
        return images[0]

    async def interrupt(self) -> None:
        """End what it draws now, after the present step. A server without this route draws to the end."""
        with anyio.move_on_after(INTERRUPT, shield=True), suppress(EngineError):
            await self._ask("POST", "/interrupt", {}, optional=True)

    # ---- requests ----

    async def _get(self, path: str, *, optional: bool = False) -> Any:
        return await self._ask("GET", path, optional=optional)

    async def _ask(
        self, method: str, path: str, body: Any = None, *, seconds: float = ASK, optional: bool = False
    ) -> Any:
        """The JSON of an answer; None if the server has no such route and need not have it.

        Raises:
            EngineError: It does not answer, or answers with an error or with something else.
        """
        try:
            with anyio.fail_after(seconds):
                status, data = await self._exchange(method, path, body, seconds)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise EngineError(f"The server at {self.shown} did not answer within {seconds:g} s", LOOK) from error
        except httpx.ConnectError as error:
            raise EngineError(f"The server at {self.shown}, which draws, cannot be reached", START) from error
        except httpx.HTTPError as error:
            what = f"The connection to the server at {self.shown} broke while it drew"
            raise EngineError(what, LOOK) from error
        if optional and status in (404, 405):
            return None
        answer = _json(data)
        if not 200 <= status < 300:
            raise self._error(status, answer, path)
        if answer is None:
            what = f"The server at {self.shown} answered {API}{path.partition('?')[0]} with something other than JSON"
            raise EngineError(what, START)
        return answer

    async def _exchange(self, method: str, path: str, body: Any, seconds: float) -> tuple[int, bytes]:
        timeout = httpx.Timeout(seconds, connect=CONNECT)
        request = self._http.build_request(
            method, API.lstrip("/") + path, json=body, timeout=timeout, headers={"accept": "application/json"}
        )
        response = await self._http.send(request, stream=True)
        data = bytearray()
        try:
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > MOST_BYTES:
                    raise EngineError(f"The server at {self.shown} sent more than {MOST_BYTES:,} bytes", LOOK)
        finally:
            await response.aclose()
        return response.status_code, bytes(data)

    def _error(self, status: int, answer: Any, path: str) -> EngineError:
        said = _reason(answer)
        what = f"The server at {self.shown} answered {API}{path.partition('?')[0]} with HTTP {status}"
        if status in (401, 403):
            step = "Put its user and password into --backend: http://USER:PASSWORD@HOST:PORT"
        elif (status in (404, 405) and not said) or 300 <= status < 400:
            step = START
        else:
            step = LOOK
        return EngineError(f"{what}: {said}" if said else what, step)


def _json(data: bytes) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(data)
    return None


def _entries(answer: Any) -> list[dict[str, Any]]:
    """The objects with a name in a list."""
    entries: list[Any] = answer if isinstance(answer, list) else []  # pyright: ignore[reportUnknownVariableType]  JSON
    return [each for each in entries if isinstance(each, dict) and isinstance(each.get("name"), str)]  # pyright: ignore[reportUnknownMemberType]


def _texts(values: Any) -> list[str]:
    return [each for each in values if isinstance(each, str)] if isinstance(values, list) else []  # pyright: ignore[reportUnknownVariableType]


def _reason(answer: Any) -> str:
    """What an error says. Each of these servers uses other names for it."""
    if not isinstance(answer, dict):
        return ""
    values: list[Any] = [answer.get(name) for name in ("message", "errors", "detail", "error")]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    texts = [" ".join(each.split()) for each in values if isinstance(each, str)]
    return "".join(each if each.isprintable() else "?" for each in next(filter(None, texts), ""))[:SHOWN]
