"""The pictures inside a result: small enough for every host, however hard they are to compress."""

import io
import random
from base64 import b64decode
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import desk_over, images_of, job_of, text_of
from mcp.client import Client
from mcp_types import CallToolResult
from PIL import Image

from mcp_vega.server.app import build_server

pytestmark = pytest.mark.anyio

API = "https://api.example"


def noise(form: str, side: int = 1024) -> bytes:
    """The worst case for any codec."""
    picture = Image.frombytes("RGB", (side, side), random.Random(side).randbytes(side * side * 3))  # noqa: S311  a picture
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def api_that_draws(data: bytes) -> httpx.MockTransport:
    """A Segmind whose every picture is `data`, over v1 and v2."""

    def answer(request: httpx.Request) -> httpx.Response:
        match request.url.path:
            case "/v1/segmind-vega":
                return httpx.Response(200, content=data)
            case "/v2/segmind-vega":
                return httpx.Response(200, json={"request_id": "r1"})
            case "/v2/requests/r1/status":
                return httpx.Response(200, json={"status": "COMPLETED"})
            case "/v2/requests/r1":
                urls = [{"url": f"{API}/{number}.jpeg"} for number in range(4)]
                return httpx.Response(200, json={"status": "COMPLETED", "images": urls})
            case _:
                return httpx.Response(200, content=data)

    return httpx.MockTransport(answer)


async def drawn(data: bytes, folder: Path, preview: str, **arguments: Any) -> CallToolResult:
    async with (
        desk_over(API, folder, transport=api_that_draws(data), preview=preview) as desk,
        Client(build_server(desk)) as agent,
    ):
        return await agent.call_tool("generate_image_vega", {"prompt": "noise", **arguments})


LIMITS = {"auto": (137_000, 768, 512), "small": (60_000, 512, 320), "full": (933_336, 1024, 1024)}


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("preview", ["auto", "small", "full"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
async def test_previews_stay_within_the_budget_of_their_mode(
    tmp_path: Path, form: str, preview: str, samples: int
) -> None:
    characters, side_of_one, side_of_several = LIMITS[preview]
    result = await drawn(noise(form), tmp_path, preview, samples=samples)
    images = images_of(result)
    assert len(images) == samples
    assert sum(len(image.data) for image in images) <= characters
    for image in images:
        with Image.open(io.BytesIO(b64decode(image.data))) as shown:
            assert image.mime_type == f"image/{(shown.format or '').lower()}"
            assert image.mime_type in ("image/jpeg", "image/png")
            assert 200 < max(shown.size) <= (side_of_one if samples == 1 else side_of_several)
    kept = [Path(image["path"]).read_bytes() for image in job_of(result)["images"]]
    assert kept == [noise(form)] * samples


async def test_off_gives_the_text_alone(tmp_path: Path) -> None:
    result = await drawn(noise("JPEG"), tmp_path, "off")
    assert len(result.content) == 1
    assert "Image: " in text_of(result)


async def test_base64_asks_for_the_full_picture_whatever_the_mode(tmp_path: Path) -> None:
    small = noise("JPEG", 512)
    (image,) = images_of(await drawn(small, tmp_path, "off", base64=True))
    assert b64decode(image.data) == small


@pytest.mark.parametrize(
    ("what", "words"),
    [("huge", "too large to be true"), ("garbage", "damaged")],
)
async def test_a_picture_that_cannot_be_decoded_is_an_error_and_charged(tmp_path: Path, what: str, words: str) -> None:
    buffer = io.BytesIO()
    Image.new("1", (4000, 4000)).save(buffer, "PNG")
    data = {"huge": buffer.getvalue(), "garbage": b"\xff\xd8\xff" + bytes(5000) + b"\xff\xd9"}[what]
    result = await drawn(data, tmp_path, "auto")
    assert result.is_error
    assert words in text_of(result)
    assert "Charged: yes." in text_of(result)


async def test_fewer_pictures_than_asked_for_are_counted_honestly(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/3.jpeg":
            return httpx.Response(404)
        return api_that_draws(noise("JPEG", 256)).handler(request)  # pyright: ignore[reportReturnType]  not a coroutine

    async with (
        desk_over(API, tmp_path, transport=httpx.MockTransport(answer)) as desk,
        Client(build_server(desk)) as agent,
    ):
        result = await agent.call_tool("generate_image_vega", {"prompt": "noise", "samples": 4})
    sentence, note, *_ = text_of(result).splitlines()
    assert "drew 3 pictures" in sentence
    assert note.startswith("Note: 1 of the 4 pictures did not arrive")
    assert f"{API}/3.jpeg" in note
    assert len(images_of(result)) == 3
