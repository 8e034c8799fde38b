"""A stand-in for a server that speaks `POST /sdapi/v1/txt2img`, after the public API of the Stable Diffusion web UI."""

import json
import threading
from base64 import b64encode
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import anyio
from anyio.from_thread import start_blocking_portal
from conftest import LOOK_SECONDS
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mcp_vega.network.serving import serving

KARRAS = {"name": "karras", "label": "Karras"}


def sampler(name: str, *aliases: str) -> dict[str, Any]:
    return {"name": name, "aliases": list(aliases), "options": {}}


def samplers(*names: str) -> list[dict[str, Any]]:
    return [sampler(name) for name in names]


# What the servers have, by the lists that they publish (a selection).
WEB_UI = {
    "samplers": [
        *samplers("DPM++ 2M", "DPM++ 2S a", "Euler", "LMS", "Heun", "DPM2", "DPM2 a", "DDIM", "PLMS", "UniPC", "LCM"),
        sampler("Euler a", "k_euler_a", "k_euler_ancestral"),
    ],
    "schedulers": [{"name": "automatic", "label": "Automatic"}, {"name": "uniform", "label": "Uniform"}, KARRAS],
}
OLD_WEB_UI = {"samplers": samplers("Euler a", "DPM2", "DPM2 Karras", "DPM2 a Karras", "DPM++ 2M", "DDIM")}
SD_NEXT = {"samplers": samplers("UniPC", "DDIM", "DDPM", "PNDM", "LMSD", "KDPM2", "KDPM2 a", "Euler a", "LCM")}
SD_CPP = {
    "samplers": samplers("default", "euler", "euler_a", "heun", "dpm2", "dpm++2m", "lcm", "ddim_trailing"),
    "schedulers": [{"name": each, "label": each} for each in ("default", "discrete", "karras", "lcm")],
}


def picture(body: dict[str, Any]) -> bytes:
    """A PNG that follows from the seed and the sampler, of the size that is asked for."""
    text = json.dumps([body[name] for name in ("prompt", "seed", "sampler_name")])
    colour = hash_of(text)
    buffer = BytesIO()
    Image.new("RGB", (body["width"], body["height"]), colour).save(buffer, "PNG")
    return buffer.getvalue()


def hash_of(text: str) -> tuple[int, int, int]:
    number = sum(ord(each) * 31**place for place, each in enumerate(text)) % (2**24 - 1) + 1
    return number >> 16, number >> 8 & 255, number & 255


@dataclass
class Txt2ImgServer:
    """A server that is running.

    Attributes:
        has: Its lists, by route: `samplers`, `schedulers`, `loras`. It has no route without a list.
        model: The name of the model that it has loaded.
        answer: Answers a call instead of a picture.
        bodies: The calls that came.
        interrupts: How often it was interrupted.
        progress_asked: How often it was asked for its progress.
    """

    has: dict[str, Any] = field(default_factory=lambda: dict(WEB_UI))
    model: str = "segmind-vega.safetensors [1d0f0e]"
    answer: Callable[[dict[str, Any]], Response] | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    headers: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    interrupts: int = 0
    progress_asked: int = 0
    share: float = 0
    url: str = ""
    _goes_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._goes_on.set()

    def hold(self) -> None:
        """Let all calls wait until `go_on`, or until an interrupt."""
        self._goes_on.clear()

    def go_on(self) -> None:
        self._goes_on.set()

    async def txt2img(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        while not self._goes_on.is_set():  # noqa: ASYNC110  it may be set in another thread
            await anyio.sleep(LOOK_SECONDS)
        if self.answer:
            return self.answer(body)
        return JSONResponse({"images": [b64encode(picture(body)).decode()], "parameters": {}, "info": "{}"})

    async def options(self, _: Request) -> Response:
        return JSONResponse({"sd_model_checkpoint": self.model, "samples_format": "png"})

    async def listed(self, request: Request) -> Response:
        found = self.has.get(request.path_params["name"])
        return JSONResponse({"detail": "Not Found"}, 404) if found is None else JSONResponse(found)

    async def progress(self, _: Request) -> Response:
        self.progress_asked += 1
        return JSONResponse({"progress": self.share, "eta_relative": 0, "state": {}, "current_image": None})

    async def interrupt(self, _: Request) -> Response:
        self.interrupts += 1
        self.go_on()
        return JSONResponse({})

    @property
    def app(self) -> Starlette:
        cpp = self.has is SD_CPP
        return Starlette(
            routes=[
                Route("/sdapi/v1/txt2img", self.txt2img, methods=["POST"]),
                Route("/sdapi/v1/options", self.options),
                *([] if cpp else [Route("/sdapi/v1/progress", self.progress)]),
                *([] if cpp else [Route("/sdapi/v1/interrupt", self.interrupt, methods=["POST"])]),
                Route("/sdapi/v1/{name}", self.listed),
            ]
        )


@contextmanager
def serving_txt2img(port: int = 0, **options: Any) -> Generator[Txt2ImgServer]:
    """A server in a thread of its own, with options of `Txt2ImgServer`."""
    server = Txt2ImgServer(**options)
    running = serving(server.app, port=port)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(running) as server.url:
        yield server
