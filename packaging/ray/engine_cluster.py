"""The engine on many GPUs with Ray Serve: a front with the table of calls, and a replica for each GPU.

    PYTHONPATH=$PWD/packaging/ray serve run engine_cluster:build replicas=2

README.md in this folder says more.
"""
# The tests and their type checks run without Ray.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false, reportUntypedFunctionDecorator=false
# pyright: reportAttributeAccessIssue=false, reportUntypedClassDecorator=false

import asyncio
import hashlib
import logging
import os
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from PIL import Image
from pydantic import BaseModel, Field
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from starlette.applications import Starlette

from mcp_vega.engine.app import build_engine
from mcp_vega.engine.diffusion.failures import first_line
from mcp_vega.engine.diffusion.painter import DiffusionPainter
from mcp_vega.engine.drawings import Drawings
from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.jpeg import jpeg_of
from mcp_vega.engine.painter import BlockingPainter, Cancelled, OnStep
from mcp_vega.engine.weights.located import find_weights
from mcp_vega.parameters import Parameters

logger = logging.getLogger("ray.serve")

# How many requests the front answers at the same time. Each client that waits for a picture keeps one open.
REQUESTS_AT_ONCE = 1000
# After so many failures without a picture, a replica ends. Its card may have gone away, and a replica that fails
# immediately would get more calls than the others.
MOST_FAILURES = 3
# How often a drawing is begun, if replicas end while they draw it.
TRIES = 3
# How long a drawing waits for a replica or for its next step (s). It takes minutes to start another machine.
SILENT_SECONDS = 600
# How often the front asks again for a first replica (s). Only a new question hears that the deployment has failed.
ASK_SECONDS = 5
# How long a replica that is not needed any more may finish its drawing (s).
LAST_DRAWING_SECONDS = 120
LOOK = "Let its operator look at `serve status`, then call again"


class Options(BaseModel):
    """What `serve run` and the configuration of Serve may set.

    Attributes:
        replicas: How many replicas draw, at least.
        most_replicas: How many may draw if many calls wait; 0: as many as `replicas`.
        gpus_each: How many GPUs a replica has. With 0.5, two replicas share one.
        weights: The folder of the weights, the same on each machine; empty: the user's model cache.
        stub_seconds: If it is not 0, replicas paint one colour in this time (s), without a GPU and without weights.
    """

    replicas: int = Field(default=1, ge=1)
    most_replicas: int = Field(default=0, ge=0)
    gpus_each: float = Field(default=1, ge=0)
    weights: str = ""
    stub_seconds: float = Field(default=0, ge=0)


def build(options: Options) -> Application:
    """The application. The front reads its key from MCP_VEGA_ENGINE_KEY."""
    most = max(options.replicas, options.most_replicas)
    if most > options.replicas:
        scale = {"min_replicas": options.replicas, "max_replicas": most, "target_ongoing_requests": 1}
        count: dict[str, Any] = {"autoscaling_config": scale}
    else:
        count = {"num_replicas": most}
    gpus = Gpu.options(ray_actor_options={"num_gpus": options.gpus_each}, **count)

    def front() -> Starlette:
        handle = serve.get_deployment_handle(Gpu.name, serve.get_replica_context().app_name)
        drawings = Drawings(Replicas(handle, at_once=most))
        return build_engine(drawings, os.environ.get("MCP_VEGA_ENGINE_KEY") or None)

    deployment = serve.deployment(
        serve.ingress(front)(),
        name="Front",
        num_replicas=1,  # the table of calls is in its memory
        max_ongoing_requests=REQUESTS_AT_ONCE,
        ray_actor_options={"num_cpus": 0},  # so that a core is left for each replica
    )
    return deployment.bind(gpus.bind(options))


# ---- a replica ----


@dataclass
class Failed:
    """Why a replica has no pictures: an `EngineError`'s attributes."""

    what: str
    next_step: str


Answer = float | list[bytes] | Failed


@serve.deployment(max_ongoing_requests=1, graceful_shutdown_timeout_s=LAST_DRAWING_SECONDS)
class Gpu:
    """Draws one call at a time with one GPU. If it cannot load, Serve shows why, and starts it again."""

    def __init__(self, options: Options) -> None:
        self._painter = _painter(options)
        self._painter.load()
        self._turn = threading.Lock()
        self._failures = 0

    def name(self) -> str:
        """What draws."""
        return self._painter.name

    async def draw(self, parameters: Parameters, seed: int) -> AsyncGenerator[Answer]:
        """The share that is done, after each step; then the pictures, or why there are none."""
        answers: asyncio.Queue[Answer] = asyncio.Queue()
        loop, unwanted = asyncio.get_running_loop(), threading.Event()

        def on_step(share: float) -> None:
            if unwanted.is_set():
                raise Cancelled
            loop.call_soon_threadsafe(answers.put_nowait, float(share))

        def work() -> None:
            with suppress(Cancelled):
                loop.call_soon_threadsafe(answers.put_nowait, self._draw(parameters, seed, on_step))

        loop.run_in_executor(None, work)
        try:
            while isinstance(answer := await answers.get(), float):
                yield answer
            yield answer
        finally:
            unwanted.set()

    def _draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes] | Failed:
        # Serve sends the next call at once if a call is cancelled, but the drawing goes on until the present step ends.
        with self._turn:
            try:
                pictures = self._painter.draw(parameters, seed, on_step)
            except Cancelled:
                raise
            except EngineError as error:
                logger.warning("A drawing failed: %s", error)
                failed = Failed(error.what, error.next_step)
            except Exception as error:
                logger.exception("A drawing failed")
                failed = Failed(f"The engine could not draw this ({type(error).__name__}: {error})", "Call again")
            else:
                self._failures = 0
                return pictures
            self._failures += 1
            if self._failures == MOST_FAILURES:
                logger.error("%d drawings failed one after the other: this replica ends", MOST_FAILURES)
                os._exit(1)
            return failed


def _painter(options: Options) -> BlockingPainter:
    if options.stub_seconds:
        return Stub(options.stub_seconds)
    return DiffusionPainter(find_weights(Path(options.weights) if options.weights else None), "auto")


class Stub:
    """Paints one colour, which follows from prompt and seed. With it, a cluster can be tried without a GPU."""

    name = "stub painter"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def load(self) -> None:
        """Do nothing."""

    def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:
        """The pictures. A prompt with `[fault:failed]` fails, as in the sandbox."""
        for step in range(1, parameters.num_inference_steps + 1):
            time.sleep(self._seconds / parameters.num_inference_steps)
            on_step(step / parameters.num_inference_steps)
        if "[fault:failed]" in parameters.prompt:
            raise EngineError("The prompt asks for a failure", "Call again without [fault:failed]")
        return [_one_colour(parameters, seed + number) for number in range(parameters.pictures)]

    def close(self) -> None:
        """Do nothing."""


def colour_of(prompt: str, seed: int) -> tuple[int, int, int]:
    """The colour (RGB) of the stub's picture."""
    red, green, blue = hashlib.sha256(f"{seed} {prompt}".encode()).digest()[:3]
    return red, green, blue


def _one_colour(parameters: Parameters, seed: int) -> bytes:
    size = (parameters.img_width, parameters.img_height)
    return jpeg_of(Image.new("RGB", size, colour_of(parameters.prompt, seed)))


# ---- the front ----


class Replicas:
    """The `Painter` of the front: it hands each call to a replica that is free, and to another one if that ends.

    Args:
        gpus: The handle of the deployment `Gpu`.
        at_once: How many calls it hands over at the same time: one for each replica. The others wait in the front.
    """

    def __init__(self, gpus: Any, at_once: int) -> None:
        self._gpus = gpus
        self._name = ""
        self.at_once = at_once

    @property
    def name(self) -> str:
        """What the first replica draws with."""
        return self._name

    async def load(self) -> None:
        """As `Painter.load`: wait for a replica."""
        try:
            with anyio.fail_after(SILENT_SECONDS):
                while not self._name:
                    await self._ask_name()
        except TimeoutError:
            raise _no_answer() from None
        except (RayError, RayServeException) as error:
            raise EngineError(f"No replica can draw ({first_line(error)})", LOOK) from error

    async def _ask_name(self) -> None:
        asked = self._gpus.name.remote()
        try:
            with anyio.move_on_after(ASK_SECONDS):
                self._name = f"{await asked}, Ray Serve"
        finally:
            asked.cancel()

    async def draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:
        """As `Painter.draw`. A repeated drawing has the same seed, so it is the same picture."""
        for _ in range(TRIES):
            try:
                return await self._draw(parameters, seed, on_step)
            except RayTaskError as error:
                raise EngineError(f"The replica could not draw this ({first_line(error)})", LOOK) from error
            except RayServeException as error:
                raise EngineError(f"No replica can draw ({first_line(error)})", LOOK) from error
            except RayError as error:  # its process or its machine has ended
                logger.warning("A replica ended while it drew: %s", first_line(error))
        raise EngineError(f"{TRIES} replicas ended while they drew this", LOOK)

    async def _draw(self, parameters: Parameters, seed: int, on_step: OnStep) -> list[bytes]:
        answers = self._gpus.options(stream=True).draw.remote(parameters, seed)
        try:
            while True:
                with anyio.fail_after(SILENT_SECONDS):
                    answer = await anext(answers)
                if isinstance(answer, Failed):
                    raise EngineError(answer.what, answer.next_step)
                if isinstance(answer, list):
                    return answer
                on_step(answer)
        except TimeoutError:
            answers.cancel()
            raise _no_answer() from None
        except (asyncio.CancelledError, Cancelled):
            answers.cancel()
            raise

    async def close(self) -> None:
        """Do nothing: Serve ends the replicas."""


def _no_answer() -> EngineError:
    return EngineError(f"No replica has answered for {SILENT_SECONDS // 60} minutes", LOOK)
