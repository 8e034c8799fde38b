"""The pictures in a result: small enough for every host, even if they are hard to compress."""

import io
import struct
from base64 import b64decode
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

import anyio
import anyio.lowlevel
import httpx
import pytest
from conftest import API, app_over, drawn, handle, images_of, job_of, noise, pixels, text_of
from mcp.client import Client
from PIL import Image

from mcp_vega.imaging import metadata
from mcp_vega.imaging.integrity import InvalidImageError, measure
from mcp_vega.imaging.metadata import Recipe
from mcp_vega.imaging.parts import MOST_PARTS, parts
from mcp_vega.imaging.preview import Mode, previews
from mcp_vega.imaging.processor import ImageProcessor
from mcp_vega.parameters import VegaParameters
from mcp_vega.server.app import build_server

pytestmark = pytest.mark.anyio


LIMITS: dict[Mode, tuple[int, int, int]] = {
    "auto": (137_000, 768, 512),
    "small": (60_000, 512, 320),
    "full": (933_332, 1024, 1024),
}


@pytest.mark.parametrize(
    ("form", "samples"), [("JPEG", 1), ("JPEG", 2), ("JPEG", 3), ("JPEG", 4), ("PNG", 1), ("PNG", 4), ("WEBP", 1)]
)
@pytest.mark.parametrize("preview", ["auto", "small", "full"])
async def test_previews_stay_within_the_budget_of_their_mode(
    tmp_path: Path, form: str, preview: Mode, samples: int
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
    expected = pixels(noise(form))
    for image in job_of(result)["images"]:
        assert pixels(Path(image["path"]).read_bytes()) == expected


async def test_off_returns_text_only(tmp_path: Path) -> None:
    result = await drawn(noise("JPEG"), tmp_path, "off")
    assert len(result.content) == 1
    assert "Image: " in text_of(result)


async def test_base64_returns_the_full_picture_in_any_mode(tmp_path: Path) -> None:
    result = await drawn(noise("JPEG", 512), tmp_path, "off", base64=True)
    (image,) = images_of(result)
    assert b64decode(image.data) == Path(job_of(result)["images"][0]["path"]).read_bytes()
    assert "Note: " not in text_of(result)


async def test_a_picture_that_does_not_fit_with_base64_is_reduced_and_the_text_says_so(
    tmp_path: Path,
) -> None:
    result = await drawn(noise("JPEG"), tmp_path, "off", base64=True, samples=2)
    first, second = images_of(result)
    assert [Image.open(io.BytesIO(b64decode(each.data))).size for each in (first, second)] == [(1024, 1024)] * 2
    assert 800_000 < len(first.data) + len(second.data) <= 933_332
    assert (
        "Note: 2 of the 2 pictures do not fit into a result unchanged, so the result shows a JPEG of 1024×1024; the "
        "file gives the full size." in text_of(result)
    )


async def test_the_space_that_a_simple_picture_does_not_need_goes_to_the_others(tmp_path: Path) -> None:
    easy, hard = io.BytesIO(), noise("JPEG")
    Image.new("RGB", (1024, 1024)).save(easy, "JPEG")

    def answer(request: httpx.Request) -> httpx.Response:
        return handle(easy.getvalue() if request.url.path == "/0.jpeg" else hard)(request)

    async with (
        app_over(API, tmp_path, transport=httpx.MockTransport(answer)) as app,
        Client(build_server(app)) as agent,
    ):
        result = await agent.call_tool("generate_image_vega", {"prompt": "a fox", "samples": 2})
    first, second = images_of(result)
    assert len(first.data) < 10_000
    assert 137_000 / 2 < len(second.data) <= 137_000


@pytest.mark.parametrize("preview", ["auto", "small"])
async def test_a_long_prompt_is_not_in_the_previews(tmp_path: Path, preview: Mode) -> None:
    """The recipe is in the file, and Pillow would copy it into every preview."""
    long = {"prompt": "a fox " * 1600, "negative_prompt": "blurred " * 1200}
    result = await drawn(noise("JPEG", 1024), tmp_path, preview, samples=4, **long)
    characters, _, side = LIMITS[preview]
    assert sum(len(image.data) for image in images_of(result)) <= characters
    # The data has both too. Claude Desktop takes at most 150,000 characters.
    assert job_of(result)["parameters"]["prompt"] == long["prompt"]
    assert len(result.model_dump_json()) < characters + 12_000
    for image in images_of(result):
        with Image.open(io.BytesIO(b64decode(image.data))) as shown:
            assert side / 2 < max(shown.size)
            assert "comment" not in shown.info


@pytest.mark.parametrize("at_once", [1, 2])
async def test_previews_are_made_outside_the_event_loop_and_only_some_at_a_time(at_once: int) -> None:
    processor = ImageProcessor(at_once)
    made: list[Any] = []
    seen: list[int] = []

    async def make() -> None:
        made.append(await processor.previews([noise("PNG")], "auto"))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(make)
        while len(made) < 4:
            seen.append(int(processor.limiter.borrowed_tokens))
            await anyio.lowlevel.checkpoint()
    assert len(seen) > 50, "the event loop ran in between"
    assert max(seen) == at_once


def header_claiming(form: str, side: int) -> bytes:
    """A small picture with a header that says it is large."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, form)
    data = bytearray(buffer.getvalue())
    if form == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", side, side)
    elif form == "PNG":
        data[16:24] = struct.pack(">LL", side, side)
        data[29:33] = struct.pack(">L", crc32(data[12:29]))
    else:
        data[26:30] = struct.pack("<HH", side, side)
    return bytes(data)


NO_PICTURES = {
    "a JPEG of 60,000×60,000": (header_claiming("JPEG", 60_000), "60000 × 60000 pixels, which is impossibly large"),
    "a PNG of 60,000×60,000": (header_claiming("PNG", 60_000), "60000 × 60000 pixels, which is impossibly large"),
    "a PNG of 10,000×10,000": (header_claiming("PNG", 10_000), "10000 × 10000 pixels, which is impossibly large"),
    "a WebP of 16,000×16,000": (header_claiming("WEBP", 16_000), "impossibly large"),
    "a WebP of 12,000×12,000": (header_claiming("WEBP", 12_000), "impossibly large"),
    "a corrupt JPEG": (b"\xff\xd8\xff" + bytes(5000) + b"\xff\xd9", "damaged"),
    "a PNG with a flipped bit": (noise("PNG", 64).replace(b"IDAT", b"IDAU"), "damaged"),
    "half a JPEG": (noise("JPEG", 64)[:2000], "cut off"),
    "half a PNG": (noise("PNG", 64)[:2000], "cut off"),
    "a web page labelled as a picture": (b"<html><body>Sorry</body></html>", "sent no picture"),
    "a GIF labelled as a JPEG": (b"GIF89a" + bytes(100), "sent no picture"),
    "nothing that is known": (bytes(range(256)), "sent no picture"),
    "a web page without end": (b"<html>" + bytes(41_000_000), "sent no picture"),
    "far too many bytes": (b"\xff\xd8\xff" + bytes(41_000_000), "cut off"),
}


@pytest.mark.parametrize("what", NO_PICTURES)
async def test_a_body_that_is_not_a_picture_is_an_error_that_was_charged_and_the_data_is_kept(
    tmp_path: Path, what: str
) -> None:
    data, words = NO_PICTURES[what]
    result = await drawn(data, tmp_path, "auto")
    said, charged, next_step = text_of(result).splitlines()
    assert result.is_error
    assert words in said
    assert charged == "Charged: yes."
    assert next_step.startswith("Next: ")
    assert images_of(result) == []
    (aside,) = (tmp_path / "unreadable").glob("*/*")
    assert f"; the received data is kept at {aside} (unreadable_answer)." in said
    assert aside.read_bytes() == data[: 1_000_000 if data.startswith(b"<html>") else 25_000_000]
    assert list(tmp_path.glob("20*/*")) == []


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_picture_that_is_cut_off_anywhere_is_refused(form: str) -> None:
    data = noise(form, 16)
    assert measure(data)[1:] == measure(data + b"trailer")[1:] == (16, 16)
    for end in range(len(data)):
        with pytest.raises(InvalidImageError):
            measure(data[:end])


@pytest.mark.parametrize("before", [b"\xff\xff", b"\0junk", b"\xff\xd0", b"\xff\0"])
def test_a_jpeg_may_have_bytes_that_mean_nothing_before_its_segments(before: bytes) -> None:
    """Decoders skip them."""
    data = noise("JPEG", 16)
    odd = data.replace(b"\xff\xdb", before + b"\xff\xdb").replace(b"\xff\xda", before + b"\xff\xda")
    assert measure(odd) == measure(data)
    assert [bool(each) for each in previews([odd], "auto")] == [True]


def test_a_png_with_any_changed_byte_is_refused() -> None:
    data = noise("PNG", 16)
    for at in range(len(data)):
        with pytest.raises(InvalidImageError):
            measure(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])


def hostile(form: str, before: bytes, part: bytes) -> bytes:
    """A small picture with as many copies of a part as fit into the largest picture."""
    data = noise(form, 16)
    at = data.index(before) if before else len(data)
    data = data[:at] + part * (24_900_000 // len(part)) + data[at:]
    return data if form != "WEBP" else data[:4] + struct.pack("<L", len(data) - 8) + data[8:]


HOSTILE = {
    "tiny segments": ("JPEG", b"\xff\xda", b"\xff\xe5\0\2"),
    "tiny segments at the beginning": ("JPEG", b"\xff\xe0", b"\xff\xe0\0\2"),
    "segments with no length": ("JPEG", b"\xff\xda", b"\xff\xe5\0\0"),
    "tiny chunks": ("PNG", b"\0\0\0\0IEND", b"\0\0\0\0tEXt" + struct.pack(">L", crc32(b"tEXt"))),
    "tiny chunks of a WebP": ("WEBP", b"", b"TEXT\0\0\0\0"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_picture_of_very_many_parts_is_refused_without_a_look_at_each(what: str) -> None:
    """It would take tens of seconds."""
    data = hostile(*HOSTILE[what])
    assert len(list(islice(parts(data), MOST_PARTS + 1))) <= MOST_PARTS
    with pytest.raises(InvalidImageError):
        measure(data)
    assert len(metadata.embed(data, Recipe(VegaParameters(prompt="a fox")))) >= len(metadata.strip(data))


def test_bytes_that_fill_space_are_no_parts() -> None:
    assert measure(hostile("JPEG", b"\xff\xdb", b"\xff"))[1:] == (16, 16)


def test_a_jpeg_of_very_many_scans_is_kept_but_not_decoded() -> None:
    """Each scan takes as long as a picture."""
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    begins, ends = data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda")), data.rindex(b"\xff\xd9")
    few, many = (data[:ends] + data[begins:ends] * scans + data[ends:] for scans in (10, 250))
    assert measure(few) == measure(many)
    assert [bool(each) for each in previews([few, many], "auto")] == [True, False]


def test_a_jpeg_without_image_data_is_refused() -> None:
    data = noise("JPEG", 16)
    with pytest.raises(InvalidImageError, match="damaged"):
        measure(data[: data.index(b"\xff\xda")] + b"\xff\xd9")


async def test_a_complete_picture_that_no_decoder_can_use_is_kept_without_a_preview(tmp_path: Path) -> None:
    """A JPEG has no checksum, so its tables may be of any kind. It was paid for."""
    data = noise("JPEG", 64).replace(b"\xff\xdb", b"\xff\xe9")  # no quantization table
    result = await drawn(data, tmp_path, "auto")
    assert not result.is_error
    (image,) = job_of(result)["images"]
    assert (image["width"], image["height"]) == (64, 64)
    assert data[20:] in Path(image["path"]).read_bytes()
    assert images_of(result) == []
    assert f"Note: no preview can be made of {image['path']}: the picture is damaged." in text_of(result)


def shown(mode: str, value: Any, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (900, 600), value).save(buffer, form, **options)
    return buffer.getvalue()


BROKEN = b"Exif\0\0MM\0*garbage"
TURNED = Image.Exif()
TURNED[0x0112] = 6
UNUSUAL = {
    "16 bits of grey": (shown("I;16", 32768), (768, 512), (128, 128, 128)),
    "nothing but transparent": (shown("RGBA", (255, 0, 0, 0)), (768, 512), (255, 255, 255)),
    "half transparent": (shown("RGBA", (255, 0, 0, 128)), (768, 512), (255, 127, 127)),
    "grey with alpha": (shown("LA", (0, 255)), (768, 512), (0, 0, 0)),
    "CMYK": (shown("CMYK", (255, 0, 0, 0), "JPEG"), (768, 512), (0, 255, 255)),
    "with broken Exif": (shown("RGB", (0, 0, 255), "WEBP", exif=BROKEN), (768, 512), (0, 0, 255)),
    "to be turned": (shown("RGB", (0, 0, 255), "JPEG", exif=TURNED.tobytes()), (512, 768), (0, 0, 255)),
}


@pytest.mark.parametrize("what", UNUSUAL)
async def test_the_preview_of_an_unusual_picture_looks_like_the_picture(tmp_path: Path, what: str) -> None:
    data, size, colour = UNUSUAL[what]
    (image,) = images_of(await drawn(data, tmp_path, "auto"))
    with Image.open(io.BytesIO(b64decode(image.data))) as preview:
        assert (preview.format, preview.mode, preview.size) == ("JPEG", "RGB", size)
        middle = preview.getpixel((250, 250))
    assert isinstance(middle, tuple)
    assert max(abs(one - other) for one, other in zip(middle, colour, strict=True)) <= 3


async def test_a_picture_with_a_wrong_media_type_is_kept_in_its_own_format(tmp_path: Path) -> None:
    """It was paid for, and the media type is not needed."""
    result = await drawn(noise("PNG", 64), tmp_path, "auto")
    (image,) = job_of(result)["images"]
    assert (image["mime_type"], Path(image["path"]).suffix) == ("image/png", ".png")
    assert [each.mime_type for each in images_of(result)] == ["image/png"]


async def test_data_that_is_not_a_picture_is_kept_even_if_the_other_pictures_arrived(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return handle(b"no picture" if request.url.path == "/3.jpeg" else noise("JPEG", 64))(request)

    async with (
        app_over(API, tmp_path, transport=httpx.MockTransport(answer)) as app,
        Client(build_server(app)) as agent,
    ):
        result = await agent.call_tool("generate_image_vega", {"prompt": "noise", "samples": 4})
    assert len(images_of(result)) == 3
    (aside,) = (tmp_path / "unreadable").glob("*/*.bin")
    assert aside.read_bytes() == b"no picture"
    assert str(aside) in text_of(result)


async def test_missing_pictures_are_counted_correctly(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/3.jpeg":
            return httpx.Response(404)
        return handle(noise("JPEG", 256))(request)

    async with (
        app_over(API, tmp_path, transport=httpx.MockTransport(answer)) as app,
        Client(build_server(app)) as agent,
    ):
        result = await agent.call_tool("generate_image_vega", {"prompt": "noise", "samples": 4})
    sentence, note, *_ = text_of(result).splitlines()
    assert "drew 3 pictures" in sentence
    assert note.startswith("Note: 1 of the 4 pictures did not arrive")
    assert f"{API}/3.jpeg" in note
    assert len(images_of(result)) == 3
