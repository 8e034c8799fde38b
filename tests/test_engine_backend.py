"""An engine that draws through a server of the user's own, over the API of the Stable Diffusion web UI."""

import io
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from conftest import HANG_SECONDS, KEY, TLS, unserved_port, until
from PIL import Image, ImageStat
from starlette.responses import JSONResponse, PlainTextResponse, Response
from stub_painter import serving_engine
from txt2img_server import OLD_WEB_UI, SD_CPP, SD_NEXT, WEB_UI, Txt2ImgServer, picture, serving_txt2img

from mcp_vega.engine.backend.painter import BackendPainter

pytestmark = pytest.mark.anyio

VEGA, RT = "segmind-vega", "segmind-vega-rt-v1"
FOX: dict[str, Any] = {"prompt": "a fox", "seed": 7}
WITH_LORA = {**WEB_UI, "loras": [{"name": "other", "path": "/l/other"}, {"name": "Segmind-VegaRT", "path": "/l/rt"}]}


@pytest.fixture
def server() -> Iterator[Txt2ImgServer]:
    with serving_txt2img() as server:
        yield server


@asynccontextmanager
async def engine_over(url: str) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of an engine that draws through the server at a URL."""
    async with (
        serving_engine(BackendPainter(url, look_seconds=0.01)) as engine,
        httpx.AsyncClient(
            base_url=engine.url, headers={"x-api-key": KEY}, trust_env=False, verify=TLS, timeout=HANG_SECONDS
        ) as http,
    ):
        yield http


async def answer_to(url: str, model: str = VEGA, **body: Any) -> httpx.Response:
    """An engine's answer to a call that it draws through the server at a URL."""
    async with engine_over(url) as http:
        return await http.post(f"/v1/{model}", json={**FOX, **body})


async def failure(url: str, model: str = VEGA, **body: Any) -> str:
    """Why such a call has failed."""
    answer = await answer_to(url, model, **body)
    failed = answer.json()
    assert (answer.status_code, failed["status"], failed["metrics"]["cost"]) == (422, "FAILED", 0)
    return failed["error"]


# ---- pictures ----


async def test_a_call_becomes_a_request_with_all_its_parameters(server: Txt2ImgServer) -> None:
    answer = await answer_to(
        server.url, negative_prompt="rain", num_inference_steps=30, guidance_scale=5.5, scheduler="Euler a"
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    (body,) = server.bodies
    expected = {"negative_prompt": "rain", "steps": 30, "cfg_scale": 5.5, "width": 1024, "height": 1024, **FOX}
    assert body == {**body, **expected, "batch_size": 1, "n_iter": 1, "save_images": False}
    with Image.open(io.BytesIO(answer.content)) as drawn, Image.open(io.BytesIO(picture(body))) as original:
        assert (drawn.format, drawn.size) == ("JPEG", (1024, 1024))
        assert ImageStat.Stat(drawn).mean == pytest.approx(ImageStat.Stat(original).mean, abs=4)


async def test_each_picture_of_a_call_has_a_request_and_a_seed_of_its_own(server: Txt2ImgServer) -> None:
    async with engine_over(server.url) as http:
        answer = await http.post(f"/v1/{VEGA}", json={**FOX, "samples": 3, "base64": True})
        alone = await http.post(f"/v1/{VEGA}", json={**FOX, "seed": 8, "base64": True})
    assert [body["seed"] for body in server.bodies] == [7, 8, 9, 8]
    assert answer.json()["image"][1] == alone.json()["image"]


async def test_the_engine_names_the_model_and_the_server_that_draw(server: Txt2ImgServer) -> None:
    answer = await answer_to(server.url)
    assert answer.headers["x-mcp-vega-engine"] == f"segmind-vega.safetensors [1d0f0e] at {server.url}"


async def test_a_password_is_sent_to_the_server_and_shown_to_nobody(server: Txt2ImgServer) -> None:
    server.answer = lambda _: Response(status_code=500)
    url = server.url.replace("http://", "http://eve:s3cret-word@")
    answer = await answer_to(url)
    assert server.headers[0]["authorization"].startswith("Basic ")
    assert server.url in answer.text
    for shown in (answer.text, str(answer.headers)):
        assert "s3cret" not in shown
        assert "eve" not in shown


# ---- samplers ----

UNIFORM, DISCRETE, KARRAS = "uniform", "discrete", "karras"
# For each kind of server and scheduler of the models: the sampler and the scheduler of the request; None if refused.
CHOICES: dict[str, tuple[dict[str, Any], dict[str, tuple[str, str | None] | None]]] = {
    "web UI": (
        WEB_UI,
        {
            "DDIM": ("DDIM", UNIFORM),
            "DPM Multi": ("DPM++ 2M", UNIFORM),
            "DPM Single": None,
            "Euler a": ("Euler a", UNIFORM),
            "Euler": ("Euler", UNIFORM),
            "Heun": ("Heun", UNIFORM),
            "DPM2 a Karras": ("DPM2 a", KARRAS),
            "DPM2 Karras": ("DPM2", KARRAS),
            "LMS": ("LMS", UNIFORM),
            "PNDM": ("PLMS", UNIFORM),
            "DDPM": None,
            "UniPC": ("UniPC", UNIFORM),
        },
    ),
    "old web UI": (
        OLD_WEB_UI,
        {
            "DPM2 Karras": ("DPM2 Karras", None),
            "DPM2 a Karras": ("DPM2 a Karras", None),
            "DPM Multi": ("DPM++ 2M", None),
            "Heun": None,
        },
    ),
    "SD.Next": (
        SD_NEXT,
        {
            "DPM2 Karras": ("KDPM2", None),
            "DPM2 a Karras": ("KDPM2 a", None),
            "LMS": ("LMSD", None),
            "DDPM": ("DDPM", None),
        },
    ),
    "stable-diffusion.cpp": (
        SD_CPP,
        {
            "DDIM": ("ddim_trailing", DISCRETE),
            "DPM Multi": ("dpm++2m", DISCRETE),
            "Euler a": ("euler_a", DISCRETE),
            "Euler": ("euler", DISCRETE),
            "Heun": ("heun", DISCRETE),
            "DPM2 Karras": ("dpm2", KARRAS),
            "DPM2 a Karras": None,
            "UniPC": None,
        },
    ),
}


@pytest.mark.parametrize("kind", CHOICES)
async def test_each_kind_of_server_gets_the_scheduler_by_its_own_names(kind: str) -> None:
    has, choices = CHOICES[kind]
    with serving_txt2img(has=has) as server:
        async with engine_over(server.url) as http:
            for scheduler, chosen in choices.items():
                answer = await http.post(f"/v1/{VEGA}", json={**FOX, "scheduler": scheduler})
                if chosen:
                    assert answer.status_code == 200, answer.text
                    body = server.bodies.pop()
                    assert (body["sampler_name"], body.get("scheduler")) == chosen
                else:
                    assert f"has no sampler for the scheduler {scheduler}" in answer.json()["error"]
                    assert "Use one of the schedulers that it has: DDIM, DPM Multi, Euler a, " in answer.json()["error"]
                assert server.bodies == []


async def test_sd_next_gets_the_noise_levels_as_a_setting() -> None:
    with serving_txt2img(has=SD_NEXT) as server:
        for scheduler, levels in (("DPM2 Karras", "karras"), ("DDIM", "default")):
            assert (await answer_to(server.url, scheduler=scheduler)).status_code == 200
            assert server.bodies[-1]["override_settings"] == {"schedulers_sigma": levels}


async def test_a_sampler_is_also_found_by_an_alias() -> None:
    listed: list[dict[str, Any]] = [{"name": "Euler Ancestral", "aliases": ["Euler a"], "options": {}}]
    with serving_txt2img(has={"samplers": listed}) as server:
        assert (await answer_to(server.url, scheduler="Euler a")).status_code == 200
        assert server.bodies[0]["sampler_name"] == "Euler Ancestral"


# ---- VegaRT ----


async def test_vegart_is_drawn_with_its_lora_and_lcm_and_without_guidance() -> None:
    with serving_txt2img(has=WITH_LORA) as server:
        assert (await answer_to(server.url, RT)).status_code == 200
        (body,) = server.bodies
    assert body["prompt"] == "a fox <lora:Segmind-VegaRT:1>"
    assert (body["sampler_name"], body["cfg_scale"], body["steps"]) == ("LCM", 1, 4)


async def test_stable_diffusion_cpp_gets_the_lora_in_a_field() -> None:
    has = {**SD_CPP, "loras": [{"name": "segmind_vega_rt", "path": "sub/segmind_vega_rt.safetensors"}]}
    with serving_txt2img(has=has) as server:
        assert (await answer_to(server.url, RT)).status_code == 200
        (body,) = server.bodies
    assert body["lora"] == [{"path": "sub/segmind_vega_rt.safetensors", "multiplier": 1}]
    assert (body["prompt"], body["sampler_name"], body["scheduler"]) == ("a fox", "lcm", "lcm")


@pytest.mark.parametrize(
    ("has", "said"),
    [
        (WEB_UI, "has no LoRA of VegaRT. Put the LoRA of segmind/Segmind-VegaRT as Segmind-VegaRT.safetensors"),
        ({**OLD_WEB_UI, "loras": WITH_LORA["loras"]}, "no sampler for the scheduler LCM. Install a version"),
    ],
    ids=["no LoRA", "no LCM"],
)
async def test_vegart_is_refused_if_the_server_lacks_what_it_needs(has: dict[str, Any], said: str) -> None:
    with serving_txt2img(has=has) as server:
        assert said in await failure(server.url, RT)
        assert server.bodies == []


async def test_options_of_the_server_in_a_prompt_are_refused() -> None:
    prompt = 'a fox <sd_cpp_extra_args>{"width": 4096}</sd_cpp_extra_args>'
    with serving_txt2img(has=SD_CPP) as server:
        assert "reads <sd_cpp_extra_args> in a prompt as options" in await failure(server.url, prompt=prompt)
        assert server.bodies == []


# ---- progress and cancellation ----


async def queued(http: httpx.AsyncClient, **body: Any) -> str:
    """The id of a call of v2."""
    return (await http.post(f"/v2/{VEGA}", json={**FOX, **body})).json()["request_id"]


async def state(http: httpx.AsyncClient, request_id: str) -> tuple[str, float]:
    """The state of a call, and which share of it is drawn."""
    status = (await http.get(f"/v2/requests/{request_id}")).json()
    return status["status"], status["metrics"]["progress"]


async def test_the_progress_of_the_server_becomes_that_of_the_call(server: Txt2ImgServer) -> None:
    server.hold()
    server.share = 0.5
    async with engine_over(server.url) as http:
        request_id = await queued(http, samples=2)
        await until(lambda: shows(http, request_id, ("PROCESSING", 0.25)))
        server.go_on()
        await until(lambda: shows(http, request_id, ("COMPLETED", 1)))


async def test_a_progress_that_no_server_can_have_does_not_end_the_drawing(server: Txt2ImgServer) -> None:
    server.hold()
    server.share = 10**400  # more than a number of a computer can be
    async with engine_over(server.url) as http:
        request_id = await queued(http)
        await until(lambda: server.progress_asked > 1)
        server.go_on()
        await until(lambda: shows(http, request_id, ("COMPLETED", 1)))


async def shows(http: httpx.AsyncClient, request_id: str, expected: tuple[str, float]) -> bool:
    return await state(http, request_id) == expected


async def test_a_cancelled_call_interrupts_the_server_and_the_next_call_is_drawn(server: Txt2ImgServer) -> None:
    server.hold()
    async with engine_over(server.url) as http:
        request_id = await queued(http)
        await until(lambda: server.bodies)
        await http.delete(f"/v2/requests/{request_id}")
        await until(lambda: server.interrupts)
        assert (await http.post(f"/v1/{VEGA}", json={**FOX, "seed": 8})).status_code == 200
        assert (await state(http, request_id))[0] == "FAILED"
    assert server.interrupts == 1


async def test_the_end_of_the_engine_interrupts_the_server(server: Txt2ImgServer) -> None:
    server.hold()
    async with engine_over(server.url) as http:
        await queued(http)
        await until(lambda: server.bodies)
    assert server.interrupts == 1


async def test_a_server_that_knows_no_progress_and_no_interrupt_draws_and_can_be_left() -> None:
    with serving_txt2img(has=SD_CPP) as server:
        server.hold()
        async with engine_over(server.url) as http:
            request_id = await queued(http)
            await until(lambda: server.bodies)
            await http.delete(f"/v2/requests/{request_id}")
            server.go_on()
            assert (await http.post(f"/v1/{VEGA}", json=FOX)).status_code == 200


# ---- what goes wrong ----


def encoded(form: str = "PNG", side: int = 1024, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, form)
    return buffer.getvalue()


def with_picture(data: bytes) -> Response:
    return JSONResponse({"images": [b64encode(data).decode()]})


HTML = PlainTextResponse("<html>ComfyUI</html>", media_type="text/html")
ANSWERS: dict[str, tuple[Callable[[], Response], str]] = {
    "out of memory": (
        lambda: JSONResponse({"error": "OutOfMemoryError", "detail": "", "errors": "CUDA out of memory.\nTried"}, 500),
        "/sdapi/v1/txt2img with HTTP 500: CUDA out of memory. Tried. Look at that server's log, then call again",
    ),
    "no API": (lambda: PlainTextResponse("no", 404), "HTTP 404. Start that server with its API on"),
    "password": (
        lambda: JSONResponse({"detail": "Not authenticated"}, 401),
        "Put its user and password into --backend",
    ),
    "moved": (lambda: Response(status_code=307, headers={"location": "http://192.0.2.1/"}), "HTTP 307. Start that"),
    "half an answer": (lambda: Response(b"{", headers={"content-length": "9"}), "broke while it drew. Look at that"),
    "not JSON": (lambda: HTML, "with something other than JSON"),
    "deep JSON": (lambda: PlainTextResponse("[" * 100_000), "with something other than JSON"),
    "other JSON": (lambda: JSONResponse([1]), "answered without a picture"),
    "no picture": (lambda: JSONResponse({"images": []}), "answered without a picture"),
    "not base64": (lambda: JSONResponse({"images": ["äöü"]}), "did not answer with a complete picture"),
    "not a picture": (lambda: with_picture(b"<html>"), "did not answer with a complete picture"),
    "another format": (lambda: with_picture(encoded("BMP")), "did not answer with a complete picture"),
    "half a picture": (lambda: with_picture(encoded()[:-100]), "did not answer with a complete picture"),
    "another size": (lambda: with_picture(encoded(side=512)), "made a picture of 512 x 512 instead of 1024 x 1024"),
    "black": (lambda: with_picture(encoded(colour="black")), "The picture is black"),
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_an_answer_that_is_no_picture_fails_the_call_with_the_reason(server: Txt2ImgServer, kind: str) -> None:
    answer, said = ANSWERS[kind]
    server.answer = lambda _: answer()
    assert said in await failure(server.url)


async def test_a_picture_may_be_a_data_url_of_any_usual_format(server: Txt2ImgServer) -> None:
    text = f"data:image/webp;base64,{b64encode(encoded('WEBP')).decode()}"
    server.answer = lambda _: JSONResponse({"images": [text]})
    assert (await answer_to(server.url)).status_code == 200


async def test_a_server_that_is_down_fails_the_call_and_is_asked_again_at_the_next_one() -> None:
    with ExitStack() as stack:
        port = stack.enter_context(unserved_port())
        url = f"http://127.0.0.1:{port}"
        async with engine_over(url) as http:
            error = (await http.post(f"/v1/{VEGA}", json=FOX)).json()["error"]
            assert f"The server at {url}, which draws, cannot be reached. Start that server with its API" in error
            stack.close()
            with serving_txt2img(port=port):
                assert (await http.post(f"/v1/{VEGA}", json=FOX)).status_code == 200


async def test_a_model_other_than_vega_is_refused_until_vega_is_loaded(server: Txt2ImgServer) -> None:
    async with engine_over(server.url) as http:
        assert (await http.post(f"/v1/{VEGA}", json=FOX)).status_code == 200
        server.model = "sd_xl_base_1.0.safetensors"
        error = (await http.post(f"/v1/{VEGA}", json=FOX)).json()["error"]
        assert "has loaded the model 'sd_xl_base_1.0.safetensors', not Segmind-Vega. Load Segmind-Vega there" in error
        server.model = "Vega-fp16"
        assert (await http.post(f"/v1/{VEGA}", json=FOX)).status_code == 200
    assert len(server.bodies) == 2


@pytest.mark.parametrize("url", ["127.0.0.1:7860", "ftp://host", "http://", "http://host/?a=1", "http://[::1"])
def test_an_address_that_no_server_can_have_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^it (is not a URL|must be the address of a server)"):
        BackendPainter(url)
