"""The list of the latest jobs, with one sheet of their pictures and a number for each picture."""

import colorsys
import io
import json
import math
import os
import re
import shutil
import sys
from base64 import b64decode
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import API, api_that_draws, app_over, images_of, job_of, noise, text_of
from mcp.client import Client
from mcp_types import CallToolResult
from PIL import Image, ImageChops, ImageDraw, ImageFont, ImageStat

from mcp_vega.imaging.preview import Mode
from mcp_vega.server.app import build_server
from mcp_vega.server.context import AppContext

pytestmark = pytest.mark.anyio

VEGA, RT = "generate_image_vega", "generate_image_vegart"
Colour = tuple[int, int, int]


def solid(_prompt: str, seed: int, index: int) -> bytes:
    """A picture in one colour, which depends on the seed and the sample: each of 48 pictures has another one."""
    at = seed + index
    hue, value = at % 16 / 16, (0.35, 0.55, 0.8)[at // 16 % 3]
    colour = tuple(round(share * 255) for share in colorsys.hsv_to_rgb(hue, 1, value))
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), colour).save(buffer, "PNG")
    return buffer.getvalue()


SIDE = 200
by_colour = pytest.mark.parametrize("paint", [solid], ids=["solid"])


async def listed(agent: Client) -> CallToolResult:
    return await agent.call_tool("check_job", {})


def jobs_of(result: CallToolResult) -> list[dict[str, Any]]:
    return (result.meta or {})["mcp-vega/jobs"]


def lines_of(result: CallToolResult) -> dict[str, str]:
    """The line of each job in the text, by the job's id."""
    lines = text_of(result).splitlines()
    return {job["request_id"]: line for job in jobs_of(result) for line in lines if job["request_id"] in line}


def numbers_in(line: str) -> list[int]:
    found = re.match(r"(\d+)(?:-(\d+))?\. ", line)
    return [*range(int(found[1]), int(found[2] or found[1]) + 1)] if found else []


def cells(result: CallToolResult, count: int) -> list[Image.Image]:
    """The cells of the sheet, row by row."""
    (sheet,) = images_of(result)
    assert sheet.mime_type == "image/jpeg"
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    with Image.open(io.BytesIO(b64decode(sheet.data))) as opened:
        shown = opened.convert("RGB")
    width, height = shown.width / columns, shown.height / rows
    corners = [(index % columns * width, index // columns * height) for index in range(columns * rows)]
    return [shown.crop((round(x), round(y), round(x + width), round(y + height))) for x, y in corners]


def check(result: CallToolResult) -> list[int]:
    """The numbers in a list, after checking that the text, the data and the sheet agree about them."""
    assert result.structured_content is None
    lines, seen = lines_of(result), dict[int, Path]()
    for job in jobs_of(result):
        here = {image["sheet_number"]: Path(image["path"]) for image in job["images"] if "sheet_number" in image}
        assert [*here] == numbers_in(lines[job["request_id"]])
        seen |= here
    assert [*seen] == [*range(1, len(seen) + 1)]
    if not seen:
        assert images_of(result) == []
        return []
    shown = cells(result, len(seen))
    for (number, file), cell in zip(seen.items(), shown, strict=False):
        with Image.open(file) as picture:
            assert distance(colour(cell), colour(picture.convert("RGB"))) < 30
        assert number_on(cell) == number
    assert all(sum(colour(cell)) < 100 for cell in shown[len(seen) :])  # the rest of the last row is dark
    return [*seen]


def colour(picture: Image.Image) -> Colour:
    """The colour in the middle."""
    x, y = picture.width // 2, picture.height // 2
    red, green, blue = picture.crop((x, y, x + 1, y + 1)).tobytes()
    return red, green, blue


def distance(one: Colour, other: Colour) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


# ---- reading the labels ----


def number_on(cell: Image.Image) -> int:
    """The number in the upper left corner of a cell: white with a white edge."""
    corner = cell.crop((0, 0, cell.width // 2, cell.height // 2))
    red, green, blue = corner.split()
    label = cropped(ImageChops.darker(ImageChops.darker(red, green), blue))
    edge = round(label.height * 0.15)
    written = normal(label.crop((edge, edge, label.width - edge, label.height - edge)))
    return min(range(1, 13), key=lambda number: difference(written, example(number)))


@cache
def example(number: int) -> Image.Image:
    picture = Image.new("L", (200, 100))
    ImageDraw.Draw(picture).text((100, 50), str(number), font=ImageFont.load_default(60), anchor="mm", fill=255)
    return normal(picture)


def cropped(picture: Image.Image) -> Image.Image:
    """The light part of a picture."""
    return picture.crop(picture.point([0] * 160 + [255] * 96).getbbox())


def normal(picture: Image.Image) -> Image.Image:
    """The text in a picture, scaled to a fixed height."""
    light = cropped(picture)
    normal = Image.new("L", (48, 24))
    normal.paste(light.resize((round(light.width * 24 / light.height), 24)))
    return normal


def difference(one: Image.Image, other: Image.Image) -> float:
    return ImageStat.Stat(ImageChops.difference(one, other)).mean[0]


# ---- the pictures on it ----


@by_colour
async def test_a_number_means_the_same_picture_in_the_text_in_the_data_and_on_the_sheet(agent: Client) -> None:
    four = job_of(await agent.call_tool(VEGA, {"prompt": "four", "samples": 4, "seed": 1}))["request_id"]
    assert (await agent.call_tool(RT, {"prompt": "a fox [fault:402]"})).is_error
    one = job_of(await agent.call_tool(RT, {"prompt": "one", "seed": 0}))["request_id"]
    under_way = job_of(await agent.call_tool("submit_job", {"prompt": "a fox [fault:stuck]"}))["request_id"]
    result = await listed(agent)
    assert check(result) == [1, 2, 3, 4, 5]
    lines = lines_of(result)
    assert [line.partition(" ")[0] for line in lines.values()] == ["-", "1.", "-", "2-5."]
    assert (numbers_in(lines[one]), numbers_in(lines[four]), numbers_in(lines[under_way])) == ([1], [2, 3, 4, 5], [])
    assert text_of(result).splitlines()[0] == (
        "The latest 4 jobs, newest first (times in UTC). A line begins with the numbers of its pictures on the sheet "
        "below; “-” means that it has none:"
    )
    assert " seed 1 “four”" in lines[four]


@by_colour
@pytest.mark.parametrize("agent", ["auto"], indirect=True)
async def test_a_missing_or_damaged_picture_gets_no_number_and_no_number_is_skipped(
    agent: Client, app: AppContext, tmp_path: Path
) -> None:
    jobs = [job_of(await agent.call_tool(VEGA, {"prompt": "fox", "samples": 4, "seed": 4 * each})) for each in range(3)]
    images = [image for job in jobs for image in job["images"]]
    cut, gone, *_ = (Path(image["path"]) for image in images)
    cut.write_bytes(cut.read_bytes()[:100])
    gone.unlink()
    for image in (images[4], *images[8:]):
        await app.gallery.search.mark_deleted((await app.gallery.find(image["id"])).image, datetime.now(UTC))
    result = await listed(agent)
    assert check(result) == [1, 2, 3, 4, 5]
    said = [lines_of(result)[job["request_id"]] for job in jobs]
    assert [line.partition(" ")[0] for line in said] == ["4-5.", "1-3.", "-"]
    assert " seed 0 pictures 3, 4 of 4 “fox”" in said[0]
    assert " seed 4 pictures 2, 3, 4 of 4 “fox”" in said[1]
    assert text_of(result).splitlines()[-1] == (
        "Note: 2 pictures are not shown: the file cannot be read. check_job with the request id of the job says why."
    )
    for image in images[2:8]:
        Path(image["path"]).write_bytes(b"no picture")
    again = lines_of(await listed(agent))  # from the previews that were kept
    assert [again[job["request_id"]] for job in jobs] == said
    shutil.rmtree(tmp_path.with_name(f"{tmp_path.name}-home") / "previews")
    result = await listed(agent)
    assert check(result) == []
    assert text_of(result).startswith("The latest 3 jobs, newest first (times in UTC):\n")
    assert "Note: 7 pictures are not shown" in text_of(result)


@by_colour
@pytest.mark.parametrize("agent", ["auto"], indirect=True)
async def test_the_latest_twelve_pictures_are_shown_and_the_text_says_how_many_are_left_out(agent: Client) -> None:
    for each in range(4):
        await agent.call_tool(VEGA, {"prompt": "fox", "samples": 4, "seed": 4 * each})
    await agent.call_tool(VEGA, {"prompt": "owl", "samples": 2, "seed": 40})
    result = await listed(agent)
    assert check(result) == [*range(1, 13)]
    marks = [line.partition(" ")[0] for line in lines_of(result).values()]
    assert marks == ["1-2.", "3-6.", "7-10.", "11-12.", "-"]
    assert " seed 4 pictures 1, 2 of 4 “fox”" in text_of(result)
    assert "Note: the sheet holds the latest 12 pictures; 6 older ones are not on it." in text_of(result)


async def test_without_a_picture_there_is_neither_a_sheet_nor_a_number(agent: Client) -> None:
    assert (await agent.call_tool(RT, {"prompt": "a fox [fault:402]"})).is_error
    result = await listed(agent)
    assert check(result) == []
    assert text_of(result).startswith(f"The latest job (UTC):\n{jobs_of(result)[0]['request_id']} failed ")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes")
@by_colour
@pytest.mark.parametrize("agent", ["auto"], indirect=True)
async def test_a_picture_on_a_disk_that_hangs_is_left_out(agent: Client) -> None:
    await agent.call_tool(RT, {"prompt": "a fox", "seed": 3})
    path = Path(job_of(await agent.call_tool(RT, {"prompt": "an owl", "seed": 4}))["images"][0]["path"])
    path.unlink()
    os.mkfifo(path)  # a read waits for a writer
    try:
        result = await listed(agent)
    finally:
        os.close(os.open(path, os.O_RDWR))
    assert check(result) == [1]
    assert [line.partition(" ")[0] for line in lines_of(result).values()] == ["-", "1."]
    assert "Note: 1 picture is not shown: the disk did not answer within 3 s. Call check_job again." in text_of(result)


# ---- its size ----

LIMITS: dict[Mode, tuple[int, int]] = {"auto": (137_000, 768), "small": (60_000, 512), "full": (933_332, 1024)}


async def test_a_sheet_of_pictures_that_are_hard_to_compress_stays_within_the_limit_of_its_mode(tmp_path: Path) -> None:
    long = {"prompt": "狐" * 600, "negative_prompt": "blur " * 200, "samples": 4}
    async with app_over(API, tmp_path, transport=api_that_draws(noise("JPEG", 256))) as app:
        async with Client(build_server(app)) as agent, anyio.create_task_group() as tasks:
            for seed in range(10):
                tasks.start_soon(agent.call_tool, VEGA, {**long, "seed": seed})
        for mode, (characters, side) in LIMITS.items():
            async with Client(build_server(replace(app, preview=mode))) as agent:
                result = await listed(agent)
            (sheet,) = images_of(result)
            beside = len(text_of(result)) + len(json.dumps(result.meta, ensure_ascii=False))
            assert beside > 25_000
            assert len(sheet.data) + beside <= characters + 10_500
            with Image.open(io.BytesIO(b64decode(sheet.data))) as shown:
                assert shown.format == "JPEG"
                assert side / 2 < max(shown.size) <= side
        async with Client(build_server(replace(app, preview="off"))) as agent:
            result = await listed(agent)
    assert images_of(result) == []
    assert not any(numbers_in(line) for line in lines_of(result).values())
    assert "sheet_number" not in result.model_dump_json()


@pytest.mark.parametrize("size", [(300, 200), (1, 900), (900, 1)], ids=str)
async def test_a_picture_keeps_its_proportions(tmp_path: Path, size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    async with (
        app_over(API, tmp_path, transport=api_that_draws(buffer.getvalue())) as app,
        Client(build_server(app)) as agent,
    ):
        await agent.call_tool(RT, {"prompt": "a fox"})
        (cell,) = cells(await listed(agent), 1)
    red, green, _ = cell.split()
    left, top, right, bottom = ImageChops.subtract(red, green).point([0] * 60 + [255] * 196).getbbox() or (0, 0, 0, 0)
    share = max(1, max(size) / 768)
    assert abs(right - left - size[0] / share) <= 8
    assert abs(bottom - top - size[1] / share) <= 8
