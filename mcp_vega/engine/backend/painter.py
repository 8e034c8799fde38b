"""Draws each picture by a request to a server that the user already runs."""

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from mcp_vega.engine.backend.pictures import checked_jpeg
from mcp_vega.engine.backend.samplers import Samplers
from mcp_vega.engine.backend.server import BackendServer
from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.painter import Cancelled, OnStep
from mcp_vega.parameters import Parameters, VegaParameters

# Seconds between two questions how far a picture is.
LOOK_SECONDS = 0.5
# LCM's adapter replaces the guidance. 1 means none in these servers, where 0 would leave the prompt out.
NO_GUIDANCE = 1.0
LORA_FILE = "Segmind-VegaRT.safetensors"
# What is between such tags in a prompt, stable-diffusion.cpp reads as options, which may replace all parameters.
OPTIONS_TAG = "<sd_cpp_extra_args>"


class BackendPainter:
    """The `Painter` over a server; `url` may contain a user and a password.

    A cancelled call interrupts the server, which also ends what somebody else draws there at that moment.

    Raises:
        ValueError: `url` is not the address of a server.
    """

    at_once = 1

    def __init__(self, url: str, look_seconds: float = LOOK_SECONDS) -> None:
        self._server = BackendServer(url)
        self._look_seconds = look_seconds
        self._samplers: Samplers | None = None
        self._name = ""

    @property
    def name(self) -> str:
        """The model's file and the server's address; empty before `load`."""
        return self._name

    @property
    def url(self) -> str:
        """The server's URL, without user and password."""
        return self._server.shown

    async def load(self) -> None:
        """Ask the server what it has. Raises as `Painter.load` does."""
        await self._require_vega()
        self._samplers = await self._server.samplers()

    async def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:
        """As `Painter.draw`: one request for each picture. Fails also if the server has no such sampler or LoRA."""
        await self._require_vega()
        body = await self._body(parameters)
        pictures: list[bytes] = []
        for number in range(parameters.pictures):

            def part(share: float, number: int = number) -> None:
                on_step((number + share) / parameters.pictures)

            text = await self._drawn({**body, "seed": seed + number}, part)
            size = (parameters.img_width, parameters.img_height)
            pictures.append(await anyio.to_thread.run_sync(checked_jpeg, text, size))
            part(1)
        return pictures

    async def close(self) -> None:
        """Close the connections."""
        await self._server.close()

    async def _require_vega(self) -> None:
        """Check the model that the server has loaded. Its user may load another one at any time.

        Raises:
            EngineError: By its name, it is not Segmind-Vega.
        """
        model = await self._server.checkpoint()
        if model is not None and "vega" not in model.lower():
            raise EngineError(
                f"The server at {self._server.shown} has loaded the model {model[:80]!r}, not Segmind-Vega",
                "Load Segmind-Vega there. It is recognized by `vega` in the name of its file",
            )
        self._name = f"{model or 'a model'} at {self._server.shown}"

    async def _body(self, parameters: Parameters) -> dict[str, Any]:
        """The request for a picture, without its seed."""
        samplers = self._samplers or await self._server.samplers()
        if samplers.is_cpp and OPTIONS_TAG in parameters.prompt:
            raise EngineError(f"The server that draws reads {OPTIONS_TAG} in a prompt as options", "Leave the tag out")
        vega = isinstance(parameters, VegaParameters)
        body = {
            "prompt": parameters.prompt,
            "negative_prompt": parameters.negative,
            "steps": parameters.num_inference_steps,
            "cfg_scale": parameters.guidance_scale if vega else NO_GUIDANCE,
            "width": parameters.img_width,
            "height": parameters.img_height,
            "batch_size": 1,
            "n_iter": 1,
            "save_images": False,
            **samplers.of(parameters).fields,
        }
        return body if vega else {**body, **await self._with_lora(parameters.prompt, samplers)}

    async def _with_lora(self, prompt: str, samplers: Samplers) -> dict[str, Any]:
        """The fields that let a request use VegaRT's LoRA.

        Raises:
            EngineError: The server does not have it.
        """
        loras = await self._server.loras()
        found = next((name for name in loras if "vegart" in re.sub("[^a-z]", "", name.lower())), None)
        if found is None:
            raise EngineError(
                f"The server at {self._server.shown} has no LoRA of VegaRT",
                f"Put the LoRA of segmind/Segmind-VegaRT as {LORA_FILE} into its folder of LoRAs, or use segmind-vega",
            )
        if samplers.is_cpp:  # it takes a LoRA in a prompt for words
            return {"lora": [{"path": loras[found] or found, "multiplier": 1.0}]}
        return {"prompt": f"{prompt} <lora:{found}:1>"}

    async def _drawn(self, body: dict[str, Any], on_share: OnStep) -> str:
        """The base64 text of a picture. A cancellation interrupts the server."""
        ended: list[str | Exception] = []
        try:
            async with anyio.create_task_group() as tasks:

                async def until_end(work: Callable[[], Awaitable[str]]) -> None:
                    try:
                        ended.append(await work())
                    except (EngineError, Cancelled) as error:  # a task group would wrap it
                        ended.append(error)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(until_end, partial(self._server.txt2img, body))
                tasks.start_soon(until_end, partial(self._report, on_share))
        except anyio.get_cancelled_exc_class():
            await self._server.interrupt()
            raise
        first = ended[0]
        if isinstance(first, Cancelled):
            await self._server.interrupt()
        if isinstance(first, Exception):
            raise first
        return first

    async def _report(self, on_share: OnStep) -> str:
        """Report which share of the picture is drawn, as far as the server says. What `on_share` raises ends this."""
        with suppress(EngineError):  # why the server does not answer is said by the request for the picture
            while True:
                await anyio.sleep(self._look_seconds)
                share = await self._server.progress()
                if share is None:
                    break
                on_share(share)
        await anyio.sleep_forever()
        return ""
