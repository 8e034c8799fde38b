"""The recipe in a picture's file: other programs read it, this one reads it back, and every pixel stays the same."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import API, KEY, Sandbox, api_that_draws, app_over, drawn, job_of, noise, pixels
from mcp.client import Client
from PIL import Image, ImageChops, ImageOps
from PIL.PngImagePlugin import PngInfo
from test_command_line import run, run_beside

from mcp_vega.imaging import metadata
from mcp_vega.imaging.formats import JPEG, PNG, WEBP, Format, recognise
from mcp_vega.imaging.metadata import Recipe
from mcp_vega.imaging.preview import converted
from mcp_vega.job import SANDBOX
from mcp_vega.parameters import VegaParameters, VegaRTParameters
from mcp_vega.server.app import build_server

pytestmark = pytest.mark.anyio

RECIPE = Recipe(VegaParameters(prompt="a fox in Föhr, 狐 🦊", negative_prompt="blur, noise", seed=7, samples=4), 2)
TEXT = """\
a fox in Föhr, 狐 🦊
Negative prompt: blur, noise
Steps: 25, Sampler: DPM2 Karras, CFG scale: 7.5, Seed: 7, Size: 1024x1024, Model: segmind-vega, Batch size: 4, \
Batch pos: 1"""


def picture(mode: str, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    shape = Image.radial_gradient("L").resize((64, 48))
    colours = Image.merge("RGB", [shape, shape.rotate(90), shape.rotate(180)])
    if mode in ("RGBA", "LA"):
        colours.putalpha(shape)
    colours.convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def exif() -> bytes:
    given = Image.Exif()
    given[0x010E] = "a description of the API's own"
    return given.tobytes()


def png_text() -> PngInfo:
    info = PngInfo()
    info.add_text("Title", "a title of the API's own")
    return info


PICTURES = {
    "JPEG": picture("RGB", "JPEG"),
    "grey JPEG": picture("L", "JPEG"),
    "CMYK JPEG": picture("CMYK", "JPEG"),
    "progressive JPEG": picture("RGB", "JPEG", progressive=True),
    "JPEG with Exif": picture("RGB", "JPEG", exif=exif()),
    "JPEG with a comment": picture("RGB", "JPEG", comment="a comment of the API's own"),
    "JPEG with a colour profile": picture("RGB", "JPEG", icc_profile=bytes(3000)),
    "PNG": picture("RGB", "PNG"),
    "PNG with alpha": picture("RGBA", "PNG"),
    "PNG with a palette": picture("P", "PNG"),
    "grey PNG": picture("L", "PNG"),
    "PNG with a text": picture("RGB", "PNG", pnginfo=png_text()),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_recipe_is_embedded_and_read_back_and_the_pixels_do_not_change(name: str) -> None:
    before = PICTURES[name]
    after = metadata.embed(before, RECIPE)
    assert metadata.read(before) is None
    assert metadata.read(after) == RECIPE
    assert pixels(after) == pixels(before)
    assert metadata.embed(after, RECIPE) == after
    assert len(after) > len(before)
    assert metadata.strip(after) == metadata.strip(before) == before


def test_a_jpeg_keeps_its_orientation() -> None:
    given = Image.Exif()
    given[0x0112] = 6  # turned by 90°
    before = picture("RGB", "JPEG", exif=given.tobytes())
    after = metadata.embed(before, RECIPE)
    with Image.open(io.BytesIO(after)) as shown:
        assert ImageOps.exif_transpose(shown).size == (48, 64)
    assert metadata.read(after) == RECIPE
    assert metadata.strip(after) == before


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_the_file_has_the_text_that_stable_diffusion_tools_read(name: str) -> None:
    with Image.open(io.BytesIO(metadata.embed(PICTURES[name], RECIPE))) as after:
        if name == "PNG":
            assert after.info["parameters"] == TEXT
            assert json.loads(after.info["mcp-vega"]) == RECIPE.data
        else:
            comment = after.getexif().get_ifd(0x8769)[0x9286]
            assert comment[:8] == b"UNICODE\0"
            assert comment[8:].decode("utf-16-be") == TEXT
            assert json.loads(after.info["comment"]) == RECIPE.data


def test_the_text_of_a_model_without_scheduler_and_guidance_leaves_them_out() -> None:
    recipe = Recipe(VegaRTParameters(prompt="a fox", seed=7))
    assert recipe.text == "a fox\nSteps: 4, Seed: 7, Size: 1024x1024, Model: segmind-vega-rt-v1"


def test_an_unknown_seed_is_left_out() -> None:
    """For example of a call that another program made with a random seed."""
    recipe = Recipe(VegaRTParameters(prompt="a fox"))
    assert recipe.text == "a fox\nSteps: 4, Size: 1024x1024, Model: segmind-vega-rt-v1"
    assert metadata.read(metadata.embed(picture("RGB", "JPEG"), recipe)) == recipe


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_recipe_that_is_too_long_does_not_lose_the_picture(form: str) -> None:
    long = Recipe(VegaParameters(prompt="狐" * 40_000, seed=7))
    after = metadata.embed(picture("RGB", form), long)
    assert pixels(after) == pixels(picture("RGB", form))
    assert metadata.read(after) == (None if form == "JPEG" else long)
    fits = Recipe(VegaParameters(prompt="x" * 32_000, seed=7))
    assert metadata.read(metadata.embed(picture("RGB", form), fits)) == fits


def test_a_jpeg_with_a_segment_of_length_zero_gets_its_recipe_after_that_segment() -> None:
    """Decoders skip such a segment, so the file may come from any program."""
    plain = PICTURES["JPEG"]
    before = plain[:2] + b"\xff\xe0" + bytes(18) + plain[2:]
    after = metadata.embed(before, RECIPE)
    assert metadata.read(after) == RECIPE
    assert metadata.embed(after, RECIPE) == after
    assert metadata.strip(after) == before
    assert pixels(after) == pixels(before)


def test_a_recipe_at_a_place_where_no_program_looks_is_written_again() -> None:
    after = metadata.embed(PICTURES["JPEG"], RECIPE)
    before = PICTURES["JPEG"] + after[2:]
    assert metadata.read(before) is None
    assert metadata.read(metadata.embed(before, RECIPE)) == RECIPE


def colours(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as shown:
        return shown.convert("RGBA" if shown.mode == "RGBA" else "RGB")


@pytest.mark.parametrize("form", [PNG, WEBP], ids=["PNG", "WebP"])
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_in_another_format_keeps_every_pixel_and_has_its_recipe(name: str, form: Format) -> None:
    before = metadata.embed(PICTURES[name], RECIPE)
    after = converted(before, form)
    assert recognise(after) is form
    assert colours(after).tobytes() == colours(before).tobytes()
    assert metadata.read(after) == (RECIPE if form is PNG else None)
    assert converted(after, form) == after


def test_a_picture_that_is_converted_to_jpeg_looks_the_same() -> None:
    before = metadata.embed(PICTURES["PNG"], RECIPE)
    after = converted(before, JPEG)
    assert recognise(after) is JPEG
    assert max(ImageChops.difference(colours(before), colours(after)).tobytes()) < 16
    assert metadata.read(after) == RECIPE


def test_a_picture_in_another_format_has_the_right_orientation() -> None:
    given = Image.Exif()
    given[0x0112] = 6  # turned by 90°
    after = converted(picture("RGB", "JPEG", exif=given.tobytes()), PNG)
    assert colours(after).size == (48, 64)


@pytest.mark.parametrize(("before", "after"), [("JPEG", PNG), ("PNG", WEBP)])
def test_a_picture_in_another_format_keeps_its_colour_profile(before: str, after: Format) -> None:
    profile = b"what a camera says of its colours" * 10
    data = converted(picture("RGB", before, icc_profile=profile), after)
    with Image.open(io.BytesIO(data)) as shown:
        assert shown.info["icc_profile"] == profile


def test_webp_is_kept_unchanged() -> None:
    webp = picture("RGB", "WEBP")
    assert metadata.embed(webp, RECIPE) == webp
    assert metadata.read(webp) is None


def with_comment(text: str) -> bytes:
    return picture("RGB", "JPEG", comment=text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xfe\xff\xff",
        b"\xff\xd8\xff\xfe\0\0" * 20,
        b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffiTXt",
        with_comment("{"),
        with_comment("[1]"),
        with_comment('{"software": "mcp-vega"}'),
        with_comment("[" * 60_000),
        with_comment(json.dumps({**RECIPE.data, "model": "another"})),
        with_comment(json.dumps({**RECIPE.data, "picture": 0})),
        with_comment(json.dumps({**RECIPE.data, "picture": float("inf")})),
        with_comment(json.dumps({**RECIPE.data, "picture": "1"})),
        with_comment(json.dumps({**RECIPE.data, "parameters": {"prompt": "", "seed": 7}})),
    ],
)
def test_data_that_is_not_a_recipe_is_ignored(data: bytes) -> None:
    assert metadata.read(data) is None


# ---- kept pictures ----


async def test_every_kept_picture_has_its_recipe(tmp_path: Path) -> None:
    result = await drawn(noise("JPEG", 64), tmp_path, samples=3, seed=-1, guidance_scale=9, base64=True)
    job = job_of(result)
    for number, image in enumerate(job["images"], 1):
        recipe = metadata.read(Path(image["path"]).read_bytes())
        assert recipe is not None
        assert recipe.picture == number
        assert recipe.parameters.seed == job["seed"] >= 0
        assert {**recipe.data["parameters"], "base64": True} == job["parameters"]
        assert "base64" not in recipe.data["parameters"]


# ---- on the command line ----


def file_with(recipe: Recipe, folder: Path) -> Path:
    file = folder / "picture.jpg"
    file.write_bytes(metadata.embed(picture("RGB", "JPEG"), recipe))
    return file


def test_recipe_prints_how_a_picture_was_drawn(tmp_path: Path) -> None:
    file = file_with(RECIPE, tmp_path)
    done = run("recipe", str(file), folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{TEXT}\nPicture 2 of 4 of one call\n"
    done = run("recipe", str(file), "--json", folder=tmp_path)
    assert json.loads(done.stdout) == RECIPE.data


def test_the_recipe_command_prints_no_control_characters(tmp_path: Path) -> None:
    """The file may come from anybody."""
    file = file_with(Recipe(VegaParameters(prompt="a fox\x1b[2J\x9b31m", seed=7)), tmp_path)
    assert run("recipe", str(file), folder=tmp_path).stdout.startswith("a fox [2J 31m\n")
    assert "\x9b" not in run("recipe", str(file), "--json", folder=tmp_path).stdout


@pytest.mark.parametrize("name", ["nothing.jpg", "folder", "words.txt", "plain.png", "pipe"])
@pytest.mark.parametrize("command", [["recipe"], ["draw", "--sandbox", "--like"]])
def test_a_file_without_a_recipe_is_refused_and_the_error_says_what_to_do(
    tmp_path: Path, command: list[str], name: str
) -> None:
    (tmp_path / "folder").mkdir()
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe")
    (tmp_path / "words.txt").write_text("no picture", encoding="utf-8")
    (tmp_path / "plain.png").write_bytes(picture("RGB", "PNG"))
    done = run(*command, name, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.match(f"Error: '?{name}'? ", done.stderr)
    assert "Next: Name a " in done.stderr


@pytest.fixture
async def kept(tmp_path: Path) -> dict[str, Any]:
    """A job with two pictures, in the gallery and the ledger of the command. They are WebP files, without a recipe."""
    folder, home = tmp_path / "gallery", tmp_path / "home"
    async with (
        app_over(API, folder, home=home, transport=api_that_draws(noise("WEBP", 64))) as app,
        Client(build_server(app)) as agent,
    ):
        arguments = {"prompt": "a fox", "samples": 2, "seed": 7, "guidance_scale": 9}
        return job_of(await agent.call_tool("generate_image_vega", arguments))


async def test_the_ledger_has_the_recipe_of_a_picture_under_any_of_its_names(
    tmp_path: Path, kept: dict[str, Any]
) -> None:
    second = kept["images"][1]
    name = Path(second["path"]).name
    names = {
        **dict.fromkeys([second["id"], second["id"][:8], second["uri"], name, f"elsewhere/{name}"], 2),
        **dict.fromkeys([f"https://pictures.example/images/{second['id']}?signature=of-it"], 2),
        **dict.fromkeys([kept["request_id"], kept["request_id"][:8], f"vega://jobs/{kept['request_id']}"], 1),
    }
    for each, number in names.items():
        done = await run_beside("recipe", each, "--json", folder=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), each
        recipe = json.loads(done.stdout)
        assert (recipe["picture"], recipe["pictures"]) == (number, 2), each
        assert {**recipe["parameters"], "base64": False} == kept["parameters"], each


async def test_a_recipe_from_the_ledger_says_what_is_missing(tmp_path: Path, kept: dict[str, Any]) -> None:
    first, second = (Path(each["path"]) for each in kept["images"])
    without = await run_beside("recipe", str(first), folder=tmp_path)
    assert without.stdout.startswith("a fox\nSteps: 25, ")
    assert without.stderr == (f"Note: {first} has no recipe of mcp-vega. This recipe is from the ledger.\n")
    second.unlink()
    gone = await run_beside("recipe", second.name, folder=tmp_path)
    assert gone.stderr == f"Note: The picture's file is not at {second}. This recipe is from the ledger.\n"
    await run_beside("gallery", "--prune", "0", "--yes", folder=tmp_path)
    deleted = await run_beside("recipe", kept["images"][0]["id"], folder=tmp_path)
    assert re.match(r"Note: The picture was deleted on [-\d]{10} \(UTC\)\. This recipe ", deleted.stderr)
    assert (deleted.returncode, deleted.stdout) == (0, without.stdout)


async def test_if_a_file_and_an_id_have_the_same_name_the_file_is_meant(tmp_path: Path, kept: dict[str, Any]) -> None:
    digits = kept["images"][0]["id"][:8]
    file_with(RECIPE, tmp_path).rename(tmp_path / digits)
    done = await run_beside("recipe", digits, folder=tmp_path)
    assert done.stdout.startswith(TEXT)


async def test_the_recipe_in_a_file_is_read_without_the_ledger(tmp_path: Path, kept: dict[str, Any]) -> None:
    (tmp_path / "home" / "ledger.sqlite3").write_text("no ledger", encoding="utf-8")
    file = file_with(RECIPE, tmp_path)
    assert (await run_beside("recipe", str(file), folder=tmp_path)).stdout.startswith(TEXT)
    by_id = await run_beside("recipe", kept["images"][0]["id"], folder=tmp_path)
    assert (by_id.returncode, by_id.stdout) == (1, "")
    assert "(ledger_error)" in by_id.stderr
    without = await run_beside("recipe", kept["images"][0]["path"], folder=tmp_path)
    assert (without.returncode, without.stdout) == (2, "")
    assert "has no recipe of mcp-vega" in without.stderr


def test_draw_like_a_picture_draws_it_again(tmp_path: Path, sandbox_in_thread: Sandbox) -> None:
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY}
    first = run("draw", "a fox", "--model", "vegart", "--steps", "6", folder=tmp_path, **variables).stdout.strip()
    again = run("draw", "--like", first, folder=tmp_path, **variables)
    assert again.returncode == 0, again.stderr
    before, after = sandbox_in_thread.account.calls.values()
    assert (after.slug, after.body) == (before.slug, before.body)
    assert pixels(Path(again.stdout.strip()).read_bytes()) == pixels(Path(first).read_bytes())


def test_draw_like_one_picture_of_a_set_draws_the_whole_set_and_says_so(
    tmp_path: Path, sandbox_in_thread: Sandbox
) -> None:
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY}
    parameters = VegaParameters(prompt="a fox", seed=7, samples=4, num_inference_steps=20, scheduler="UniPC")
    file = file_with(Recipe(parameters, 2), tmp_path)
    done = run("draw", "--like", str(file), folder=tmp_path, **variables)
    said = "Note: this was picture 2 of a set of 4, so all 4 are drawn (and paid for).\n"
    assert done.stderr.startswith(said)
    assert len(done.stdout.splitlines()) == 4
    (call,) = sandbox_in_thread.account.calls.values()
    assert call.body == parameters.body(base64=False)


def test_other_options_override_the_recipe_of_like(tmp_path: Path, sandbox_in_thread: Sandbox) -> None:
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY}
    parameters = VegaParameters(prompt="a fox", seed=7, num_inference_steps=60, scheduler="UniPC", guidance_scale=9)
    like = ["draw", "--like", str(file_with(Recipe(parameters), tmp_path))]
    assert run(*like, "--seed", "8", "a", "hare", folder=tmp_path, **variables).returncode == 0
    other = run(*like, "--model", "vegart", folder=tmp_path, **variables)
    assert other.stderr.startswith(
        "Note: the picture was drawn by segmind-vega; segmind-vega-rt-v1 draws another one. The recipe's "
        "--steps, --scheduler, --guidance-scale are not used.\n"
    )
    first, second = sandbox_in_thread.account.calls.values()
    assert first.body == parameters.model_copy(update={"seed": 8, "prompt": "a hare"}).body(base64=False)
    assert second.body == VegaRTParameters(prompt="a fox", seed=7).body(base64=False)


def test_like_a_picture_with_an_unknown_seed_draws_another_one_and_says_so(
    tmp_path: Path, sandbox_in_thread: Sandbox
) -> None:
    variables = {"SEGMIND_BASE_URL": sandbox_in_thread.url, "SEGMIND_API_KEY": KEY}
    file = file_with(Recipe(VegaRTParameters(prompt="a fox")), tmp_path)
    done = run("draw", "--like", str(file), folder=tmp_path, **variables)
    assert done.returncode == 0
    assert done.stderr.startswith("Note: the seed of the picture is not known, so another picture is drawn.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such shell")
def test_recipe_does_not_fail_if_the_reader_stops_early(tmp_path: Path) -> None:
    file = file_with(RECIPE, tmp_path)
    command = f'"{sys.executable}" -m mcp_vega recipe "{file}" | true'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""


def test_the_recipe_of_a_picture_says_if_the_sandbox_drew_it(tmp_path: Path) -> None:
    done = run("draw", "a fox", "--model", "vegart", "--sandbox", folder=tmp_path)
    path = done.stdout.strip()
    recipe = metadata.read(Path(path).read_bytes())
    assert recipe is not None
    assert recipe.drawn_by == SANDBOX
    assert recipe.text.endswith("Model: segmind-vega-rt-v1, Version: mcp-vega sandbox")
    assert "Painted by the sandbox, not by the model\n" in run("recipe", path, folder=tmp_path).stdout
    refused = run("draw", "--like", path, folder=tmp_path)
    assert refused.stderr.startswith("Note: the picture was painted by the sandbox; the API draws another one.\n")
    assert "No Segmind API key is set" in refused.stderr
