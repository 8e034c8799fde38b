"""What must hold for any input: arguments, answers, picture bytes, names and URLs that nobody thought of."""

import json
import re
import sqlite3
import unicodedata
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import KEY, pixels, text_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from stores import NOW, SqliteLedger
from test_metadata import PICTURES, RECIPE, picture

from mcp_vega.errors import Charged, InvalidArguments, SegmindError
from mcp_vega.imaging import metadata
from mcp_vega.imaging.formats import SUFFIXES, WEBP, recognise
from mcp_vega.imaging.integrity import InvalidImageError, measure, require_complete
from mcp_vega.imaging.metadata import Recipe
from mcp_vega.job import Image, ImageLocation, Job, State, new_id
from mcp_vega.parameters import MODELS, VegaParameters
from mcp_vega.redaction import is_blank, plain
from mcp_vega.segmind import parsing as api
from mcp_vega.segmind.history import HistoryPage, HistoryRow, parse_history, parse_history_entry
from mcp_vega.segmind.media_urls import AllowedUrls
from mcp_vega.segmind.pictures import find_pictures
from mcp_vega.segmind.response import ApiResponse
from mcp_vega.segmind.values import NO_IDS, REQUEST_ID, parse_request_id
from mcp_vega.server.schemas import CheckJobArguments, of_any_model, of_model
from mcp_vega.storage.images.folder import ImageFolder
from mcp_vega.storage.images.store import ascii_name, file_name, name_and_day, names_of
from mcp_vega.storage.ledger.job_store import JobStore

# Every run uses the same examples, and keeps none.
settings.register_profile("stable", deadline=None, derandomize=True, database=None, max_examples=200)
settings.load_profile("stable")
# All examples of a test share its fixtures; none of them changes a fixture.
few = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

MEDIA = "https://images.segmind.com/generations/1.jpeg"
LETTERS = st.text(st.characters(exclude_categories=[]))  # also halves of surrogate pairs

# ---- arguments ----

TAKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{slug: of_model(model, slug).parse for slug, model in MODELS.items()},
    "submit_job": of_any_model().parse,
    "check_job": of_model(CheckJobArguments, "check_job").parse,
}
NAMES = st.sampled_from(["model", *VegaParameters.model_fields, *CheckJobArguments.model_fields])
SMALL = st.integers(-2, 105)
NUMBERS = SMALL | st.integers() | st.floats() | st.sampled_from([1024, 10**15, 10**400, 10**4000, -(10**4000)])
WORDS = LETTERS | st.sampled_from([*MODELS, "Euler", "DPM2 karras", "true", "nan", "1e999", KEY, "\ud800"])
LEAVES = st.none() | st.booleans() | NUMBERS | SMALL.map(str) | st.floats().map(str) | WORDS
DEEP = st.sampled_from([json.loads("[" * 900 + "]" * 900), json.loads('{"a":' * 400 + "1" + "}" * 400)])
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner), max_leaves=8)
PROMPTS = st.sampled_from([{}, {"prompt": "a fox"}])


@pytest.mark.parametrize("taker", TAKERS)
@given(PROMPTS, st.dictionaries(NAMES | WORDS, JSON | DEEP, max_size=6))
def test_arguments_are_within_the_limits_or_refused(taker: str, prompt: dict[str, Any], more: dict[str, Any]) -> None:
    raw = more if taker == "check_job" else {**prompt, **more}
    match outcome(TAKERS[taker], raw):
        case InvalidArguments() as refused:
            assert len(refused.what.splitlines()) == 1
            assert len(refused.text.splitlines()) == 3
            assert len(refused.what) < 600 * (len(raw) + 1)
        case CheckJobArguments() as question:
            assert 0 <= question.wait_seconds <= 45
            assert re.fullmatch(f"({REQUEST_ID})?", question.request_id)
        case parameters:
            low, high = (20, 100) if isinstance(parameters, VegaParameters) else (4, 10)
            assert low <= parameters.num_inference_steps <= high
            assert not is_blank(parameters.prompt)
            assert len(parameters.prompt) <= 10_000
            assert -1 <= parameters.seed < 10**15
            assert parameters.img_width == parameters.img_height == 1024
            assert 1 <= parameters.pictures <= 4
            assert 1 <= getattr(parameters, "guidance_scale", 1) <= 25
            json.dumps(parameters.body(base64=False), allow_nan=False).encode()


def outcome(read: Callable[..., Any], *given: Any) -> Any:
    """The result of a reader, or its error. Any error that is not one of ours fails the test."""
    try:
        return read(*given)
    except (InvalidArguments, SegmindError) as error:
        return error


# ---- responses ----

FORMATS = {name: PICTURES[name] for name in ("JPEG", "JPEG with Exif", "PNG", "PNG with a text")}
FORMATS["WebP"] = picture("RGB", "WEBP")
STATUSES = st.integers(100, 599) | st.sampled_from([200, 202, 400, 402, 406, 422, 429, 500])
SAYINGS = [
    *("FAILED", "completed", " Error", "PROCESSING", "[2.1]", "0.0025", "0,0025", "1,234.50", "-$0.35", "none"),
    *("2026-11-20T11:59:58", MEDIA, "/generations/1.jpeg", "DATA:image/png;base64,", f"{{'seed': 0x{'f' * 5000}}}"),
]
FACES = LEAVES | st.sampled_from([*SAYINGS, *(b64encode(data).decode() for data in FORMATS.values())])
FIELDS = [
    *("status", "request_id", "image", "images", "output", "error", "message", "detail", "metrics", "cost", "seed"),
    *("credits", "free-credits", "data", "generation_url", "credits_deduction", "model_created", "request_body", "url"),
    *("errors", "success", "b64_json", "model_status", "result", "prompt", "img_1", "img_2", "thumbnail"),
]
FIELD = st.sampled_from(FIELDS)
NEAR = st.recursive(
    FACES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD, inner, max_size=6), max_leaves=10
)
OBJECTS = st.dictionaries(FIELD, NEAR | DEEP, min_size=1, max_size=8)
JSON_BODIES = (JSON | DEEP | OBJECTS | st.lists(OBJECTS, max_size=4)).map(lambda body: json.dumps(body).encode())
BODIES = st.binary(max_size=200) | st.sampled_from(list(FORMATS.values())) | JSON_BODIES
HEADERS = st.dictionaries(
    st.sampled_from([f"x-{name}" for name in ("cost", "seed-value", "request-id", "remaining-credits")])
    | st.sampled_from(["x-generation-time", "date", "content-type", "x-rate-limit-reset-at-utc", "retry-after"]),
    FACES.map(str),
)
READERS: list[tuple[Callable[[ApiResponse], Any], Any]] = [
    (api.parse_receipt, api.Receipt),
    (lambda response: api.parse_generation(response, paid=True), api.Generation | api.Submission | SegmindError),
    (lambda response: api.parse_generation(response, paid=False), api.Generation | api.Submission | SegmindError),
    (api.parse_submission, api.Submission | api.Generation | SegmindError),
    (api.parse_status, api.Status | SegmindError),
    (api.parse_credits, api.Credits | SegmindError),
    (parse_history, HistoryPage | SegmindError),
    (parse_history_entry, HistoryRow | None | SegmindError),
]
PAID = (1, 3)  # the positions of paid calls in the list


@settings(max_examples=600)
@given(st.builds(ApiResponse, STATUSES, HEADERS, BODIES))
def test_every_response_is_read_or_is_one_of_our_errors(response: ApiResponse) -> None:
    check_response(response)


def check_response(response: ApiResponse) -> None:
    """Check that every reader returns its types, or an error with the right charge."""
    for number, (read, kinds) in enumerate(READERS):
        found = outcome(read, response)
        assert isinstance(found, kinds)
        check_read(found)
        if isinstance(found, SegmindError) and number in PAID:
            said_so = re.search(rb'"(errors?|status|success)"', response.body)
            assert found.charged is not Charged.NO or not response.ok or said_so
            assert found.charged is Charged.UNKNOWN or response.status < 500


def check_read(found: Any) -> None:
    """Check that a result can be shown, used in calculations, and requested."""
    match found:
        case SegmindError():
            assert len(lines := found.text.split("\n")) == 3
            assert [line for line in lines if plain(line) != " ".join(line.split()) or len(line) > 1000] == []
            assert not re.search("SG_[A-Za-z0-9_-]{4,}", found.text)
        case api.Receipt(request_id, cost, credits_left, seconds, seed):
            assert request_id is None or re.fullmatch(REQUEST_ID, request_id)
            assert all(abs(figure) < 10**15 for figure in (cost, credits_left, seconds) if figure is not None)
            assert seed is None or 0 <= seed < 10**15
        case api.Submission(request_id):
            assert re.fullmatch(REQUEST_ID, request_id)
        case api.Generation(found_pictures, receipt):
            check_read(receipt)
            assert found_pictures
            urls = [each for each in found_pictures if not isinstance(each, bytes) or not require_complete(each)]
            assert all(isinstance(url, str) and re.match("([a-z][a-z0-9+.-]*:/)?/", url.lower()) for url in urls)
        case api.Status(state, receipt, error):
            check_read(receipt)
            check_read(error)
            assert (error is not None) == (state is api.State.FAILED)
        case HistoryPage(rows):
            for row in rows:
                check_read(row)
        case HistoryRow():
            assert re.fullmatch(f"({REQUEST_ID})?", found.request_id)
            assert found.created is None or found.created.tzinfo is UTC
            assert str(found.inputs)
            check_read(SegmindError(found.error))
        case _:
            pass


# ---- picture bytes ----

Cuts = list[tuple[int, int, bytes]]
CUTS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 12), st.binary(max_size=12)), max_size=3)


def mutated(data: bytes, cuts: Cuts) -> bytes:
    """Bytes with some removed and others inserted."""
    for at, length, instead in cuts:
        place = at % (len(data) + 1)
        data = data[:place] + instead + data[place + length :]
    return data


def check_picture(data: bytes, *, decoded: bool = True) -> None:
    """Check that any picture bytes, even damaged ones, can be examined, and that a recipe does not change them."""
    found, after, bare = recognise(data), metadata.embed(data, RECIPE), metadata.strip(data)
    assert isinstance(metadata.read(data), Recipe | None)
    assert recognise(after) is found
    assert len(bare) <= len(data) <= len(after)
    assert found not in (None, WEBP) or after == bare == data
    with suppress(SegmindError):
        assert require_complete(data) is data
        assert find_pictures({"image": b64encode(data).decode()}) == (data,)
    with suppress(InvalidImageError):
        if decoded and measure(data) and found is not WEBP:
            assert metadata.read(after) == RECIPE
            assert metadata.embed(after, RECIPE) == after
            assert metadata.strip(after) == bare
            assert measure(after) == measure(data)
            try:
                before = pixels(data)
            except OSError:  # a JPEG or WebP that no decoder can use is kept nevertheless
                return
            assert pixels(after) == before


@settings(max_examples=400)
@given(st.sampled_from(list(FORMATS.values())), CUTS)
def test_damaged_pictures_cause_no_unexpected_error(data: bytes, cuts: Cuts) -> None:
    check_picture(mutated(data, cuts))
    check_picture(mutated(metadata.embed(data, RECIPE), cuts))


@given(st.sampled_from(list(FORMATS.values())), st.text().filter(str.strip), st.text(), st.integers(-1, 10**15 - 1))
def test_any_recipe_can_be_read_back_and_removed(data: bytes, prompt: str, negative: str, seed: int) -> None:
    recipe = Recipe(VegaParameters(prompt=prompt, negative_prompt=negative, seed=seed))
    after = metadata.embed(data, recipe)
    assert metadata.read(after) == (None if recognise(data) is WEBP else recipe)
    assert metadata.strip(after) == data


# ---- file names ----


# Letters with marks, characters that become several letters, and characters that join letters.
SCRIPTS = st.text(st.characters(categories=["L", "M", "N", "Cf"]) | st.sampled_from("狐Éİक्\u200dषﷺ "))


@given(LETTERS | SCRIPTS | SCRIPTS.map("fox {}".format), st.integers(-1, 10**15 - 1), st.sampled_from(SUFFIXES))
def test_a_file_name_consists_of_letters_and_is_short_whatever_the_prompt_is(
    prompt: str, seed: int, suffix: str
) -> None:
    name = file_name(prompt, seed, suffix)
    words = name.removesuffix(f"-{seed}{suffix}")
    assert name == f"{words}-{seed}{suffix}"
    assert 1 <= len(words) <= 40
    assert len(words.encode()) <= 72
    assert words == unicodedata.normalize("NFC", words)
    assert {unicodedata.category(each)[0] for each in words.replace("-", "")} <= set("LMN")
    assert unicodedata.category(words[0])[0] in "LN"
    assert not words.endswith("-")
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*-(-1|[0-9]{1,15})\.(jpg|png|webp)", ascii_name(name))
    for key in names_of(name, "0123456789abcdef" * 2):
        assert name_and_day(f"2026-11-20/{key}", "0123456789abcdef" * 2) == (name, date(2026, 11, 20))
        assert len(f".{key}.01234567.part".encode()) <= 143


@few
@given(LETTERS | st.sampled_from(["../../etc/passwd", "C:\\x", "/root", ".."]), st.binary(max_size=20))
@pytest.mark.anyio
async def test_a_picture_is_kept_inside_the_gallery(tmp_path: Path, prompt: str, data: bytes) -> None:
    gallery, name = tmp_path / "gallery", file_name(prompt, 7, ".jpg")
    key = (await ImageFolder(gallery).save(data, name, data.hex().rjust(40, "0"), date(2026, 11, 20))).key
    assert (gallery / key).resolve().parent == gallery.resolve() / "2026-11-20"
    assert (gallery / key).read_bytes() == data


# ---- the ledger ----

# Which of two servers does what with which picture of a job of two.
CHANGES = st.tuples(
    st.integers(0, 1), st.sampled_from(["save", "star", "unstar", "move", "delete", "restore"]), st.integers(0, 1)
)
SHOWN = """
    SELECT created, number, owner, starred FROM images WHERE deleted IS NULL EXCEPT
    SELECT created, image, owner, starred FROM gallery
"""
NOT_SHOWN = """
    SELECT created, image, owner, starred FROM gallery EXCEPT
    SELECT created, number, owner, starred FROM images WHERE deleted IS NULL
"""


async def changed(store: JobStore, job: Job, change: str, index: int, stores: str) -> None:
    """Make a change to a picture. It was saved in one of the stores "later" and "first", which has a letter for it."""
    image = job.images[index]
    match change:
        case "save":
            places = [ImageLocation(stores, each.location.key) for each in job.images]
            images = [
                replace(each, location=place, fallback=stores == "later")
                for each, place in zip(job.images, places, strict=True)
            ]
            await store.save(replace(job, images=tuple(images)), release=True)
        case "star" | "unstar":
            await store.search.mark_starred(image.id, starred=change == "star")
        case "move":
            await store.locations.move(image, ImageLocation("first", image.location.key), NOW)
        case "delete":
            found = await store.search.image(image.id)
            if found:
                await store.search.mark_deleted(found.image, NOW)
        case _:
            await store.search.unmark_deleted(image)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHANGES, max_size=12), st.sampled_from(["later", "first"]))
@pytest.mark.anyio
async def test_the_gallery_has_exactly_the_pictures_that_are_not_deleted_whatever_happens_to_them(
    tmp_path: Path, changes: list[tuple[int, str, int]], stores: str
) -> None:
    folder = tmp_path / new_id()
    async with SqliteLedger(folder).servers() as both:
        job = await both[0].begin(prompt="two", owner="alice")
        pictures = [
            Image(
                id=job.image_id(index),
                location=ImageLocation("later", f"2026-11-20/{index}.jpg"),
                fallback=True,
                mime_type="image/jpeg",
                width=1,
                height=1,
                bytes=1,
                sha256="f",
            )
            for index in range(2)
        ]
        job = replace(job, sent=NOW, state=State.COMPLETED, images=tuple(pictures))
        await both[0].store.save(job)
        with closing(sqlite3.connect(folder / "ledger.sqlite3")) as database:
            for server, change, index in changes:
                await changed(both[server].store, job, change, index, stores)
                assert database.execute(SHOWN).fetchall() == database.execute(NOT_SHOWN).fetchall() == []


# ---- URLs ----

ALLOWANCE = AllowedUrls("http://api.example:8080", ("Cdn.example",))
ALLOWED = [
    MEDIA,
    "http://api.example:8080/1.png",
    "https://cdn.example/a?b#c",
    "HTTPS://images.segmind.com/1",
    "https://images.segmind.com:443/1",
]
# Also a Chinese full stop, an Arabic four and a full-width i.
SIGNS = [*"@:/\\?#[]%.+_ \t0\u3002\u0664\uff49", "user@", ":443", "0x", "evil.example", "127.0.0.1", "[::1]"]
SPELLINGS = st.tuples(
    st.integers(0, 40), st.integers(0, 3), st.sampled_from(SIGNS).map(str.encode) | st.binary(max_size=2)
)
ADDRESSES = st.builds(mutated, st.sampled_from(ALLOWED).map(str.encode), st.lists(SPELLINGS, max_size=3))


@settings(max_examples=1000)
@given(ADDRESSES.map(lambda url: url.decode(errors="replace")) | LETTERS | LETTERS.map("https://{}".format))
def test_no_permitted_url_can_be_read_as_one_on_another_host(url: str) -> None:
    if ALLOWANCE.permits(url):
        strict, fetched = urlsplit(url), httpx.URL(url)
        assert (strict.scheme, strict.hostname) == (fetched.scheme, fetched.host)
        origin = f"{strict.scheme}://{strict.netloc.lower()}"
        assert re.fullmatch(r"http://api\.example:8080|https://(images\.segmind\.com|cdn\.example)(:443)?", origin)


@pytest.mark.parametrize("url", ALLOWED)
def test_an_allowed_url_in_its_usual_spelling_is_permitted(url: str) -> None:
    assert ALLOWANCE.permits(url)


# ---- ids and URIs, through the protocol ----

IDS = st.from_regex(REQUEST_ID, fullmatch=True)
TAILS = st.text(max_size=20) | IDS | st.text("0123456789abcdef/preview", max_size=45)
URIS = ["vega://images/", "vega://jobs/", "vega://gallery?", "vega://gallery?q=", "vega://gallery?page=", "vega://", ""]
# The requests do not depend on the protocol's version.
through_the_protocol = pytest.mark.parametrize("agent", ["auto"], indirect=True)


@given(LETTERS | IDS | IDS.map("{}\n".format))
def test_a_request_id_matches_its_pattern(value: str) -> None:
    is_id = re.fullmatch(r"[A-Za-z0-9_-]{1,64}\Z", value) and value.lower() not in NO_IDS
    assert parse_request_id(value) == (value if is_id else None)


@few
@given(st.sampled_from(URIS), TAILS)
@pytest.mark.anyio
@through_the_protocol
async def test_any_uri_gets_an_answer_or_one_of_our_errors(agent: Client, beginning: str, tail: str) -> None:
    try:
        assert (await agent.read_resource(beginning + tail)).contents
    except MCPError as error:
        said = error.message
    else:
        return
    assert re.fullmatch("Error: .*\nCharged: no\\.\nNext: .*", said)
    assert "broke" not in said
    assert plain(said) == " ".join(said.split())


@few
@given(TAILS)
@pytest.mark.anyio
@through_the_protocol
async def test_check_job_answers_any_id_with_one_of_our_texts(agent: Client, request_id: str) -> None:
    said = text_of(await agent.call_tool("check_job", {"request_id": request_id}))
    assert "broke" not in said
    assert said.startswith("Error: ") or is_blank(request_id)
