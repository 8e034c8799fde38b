"""The odd answers that faults cause: tables from a fault to the odd form of a cost, a state, an error or a picture."""

import io
import json
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar

from PIL import Image, ImageCms

from mcp_vega.sandbox.faults import OTHER_HOST, Faults

PROFILE_BYTES = 3_000_000  # the size of a colour profile, which is compressed to a few thousand bytes
HUGE_BYTES = 30_000_000
MIME_LINE = 76  # characters of base64 on a line of an e-mail
THUMBNAIL_SIDE = 256  # pixels

T = TypeVar("T")


def changed(value: T, faults: Faults, changes: Mapping[str, Callable[[T], T]]) -> T:
    """Return a value after every change that the faults ask for."""
    for name, change in changes.items():
        if name in faults:
            value = change(value)
    return value


# ---- cost and balance, in US dollars; a text stays a text in JSON ----

COSTS: dict[str, Callable[[Decimal | str], Decimal | str]] = {
    "cost-comma": lambda cost: str(cost).replace(".", ","),
    "cost-text": lambda cost: f"${cost} USD",
    "cost-zero": lambda _: Decimal(0),
    "cost-huge": lambda _: Decimal(10**14),
    "cost-negative": lambda cost: f"-{cost}",
}
BALANCES: dict[str, Callable[[Decimal | str], Decimal | str]] = {
    "credits-thousands": lambda balance: f"{Decimal(balance):,.2f}",
}

# ---- states of a job ----

STATES = {
    "status-word": {"QUEUED": "WARMING_UP", "PROCESSING": "WARMING_UP"},
    "status-case": {"QUEUED": "queued", "PROCESSING": " Processing ", "COMPLETED": "completed", "FAILED": "Failed"},
    "status-succeeded": {"COMPLETED": "SUCCEEDED"},
    "silent-pictures": {"QUEUED": "PROCESSING", "COMPLETED": "PROCESSING"},
    "silent-error": {"QUEUED": "PROCESSING", "FAILED": "PROCESSING"},
    "error-upper": {"FAILED": "ERROR"},
    "failed-422": {"FAILED": "failed"},
}
# With these faults, the status request of a failed job is answered with 200.
FAILED_UNDER_200 = ("silent-error", "error-upper")


def state_word(state: str, faults: Faults) -> str:
    """Return the word that an answer has for a documented state."""
    return next((words[state] for name, words in STATES.items() if name in faults and state in words), state)


# ---- errors: the body of a refusal ----

INVALID = "seed: must be at most 999999999999999"
ERRORS: dict[str, Callable[[str], Any]] = {
    "errors-list": lambda text: {"errors": [{"code": "invalid_parameter", "message": text}]},
    "error-detail": lambda text: {"detail": [{"type": "value_error", "loc": ["body", "seed"], "msg": text}]},
    "error-nested": lambda text: {"error": {"code": 400, "details": {"reason": {"message": text}}}},
    "error-list": lambda text: [text],
    "error-huge": lambda text: {"error": text + "; at layer 7" * (HUGE_BYTES // 12)},
}
# The content types and the bodies of errors that are not JSON.
ERROR_TEXTS = {
    "error-text": ("text/plain", "{}"),
    "error-xml": ("application/xml", '<?xml version="1.0"?><Error><Code>400</Code><Message>{}</Message></Error>'),
}


def odd_error(name: str, text: str) -> tuple[str, str]:
    """Return the body of an error, and its content type."""
    if name in ERROR_TEXTS:
        kind, form = ERROR_TEXTS[name]
        return form.format(text), kind
    return json.dumps(ERRORS[name](text)), "application/json"


# ---- pictures: their bytes, and the headers that go with them ----


@lru_cache(maxsize=4)
def _png_with_profile(data: bytes) -> bytes:
    """Return a picture as a PNG with a colour profile that is valid, but far larger than necessary."""
    srgb = ImageCms.createProfile("sRGB")  # pyright: ignore[reportUnknownVariableType]  Pillow's
    profile = ImageCms.ImageCmsProfile(srgb).tobytes()  # pyright: ignore[reportUnknownArgumentType]
    # A profile begins with its size. Bytes after its last table are padding.
    profile = PROFILE_BYTES.to_bytes(4, "big") + profile[4:].ljust(PROFILE_BYTES - 4, b"\0")
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        picture.save(buffer, "PNG", icc_profile=profile, compress_level=1)
    return buffer.getvalue()


@lru_cache(maxsize=16)
def thumbnail(data: bytes) -> bytes:
    """Return a small copy of a picture, as a JPEG."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        picture.save(buffer, "JPEG")
    return buffer.getvalue()


PICTURES: dict[str, Callable[[bytes], bytes]] = {
    "png-profile": _png_with_profile,
    "trailing": lambda data: data + b"\0" * 512 + b"\r\n<!-- cached -->\r\n",
    "truncated": lambda data: data[: len(data) // 2],
    "not-image": lambda _: b"This is not a picture.",
    "empty": lambda _: b"",
}
PICTURE_HEADERS = {
    "png-profile": {"content-type": "image/png"},
    "type-html": {"content-type": "text/html; charset=utf-8"},
    "gzip-lie": {"content-encoding": "gzip"},
    "brotli-lie": {"content-encoding": "br"},
}


def picture_headers(faults: Faults) -> dict[str, str]:
    """Return the headers of an answer that is a picture."""
    headers = {"content-type": "image/jpeg"}
    for name, odd in PICTURE_HEADERS.items():
        headers |= odd if name in faults else {}
    return headers


# ---- bodies: where the pictures are in them ----


@dataclass(frozen=True)
class Drawn:
    """The parts of a body with pictures: their URLs, the pictures as base64, and the URLs of the call itself."""

    urls: list[str]
    texts: list[str]
    links: dict[str, str]


def one_or_list(texts: Sequence[str]) -> str | Sequence[str]:
    """Return a list of texts, or the text alone if there is only one, as the API does."""
    return texts if len(texts) > 1 else "".join(texts)


def _in_lines(text: str) -> str:
    return "\r\n".join(text[start : start + MIME_LINE] for start in range(0, len(text), MIME_LINE))


Shape = Callable[[Drawn], Any]
# What the field `image` contains instead of the plain base64 of a picture.
TEXTS: dict[str, Callable[[str], str]] = {
    "data-uri": lambda text: f"DATA:image/jpeg;base64,{text}",
    "base64-urlsafe": lambda text: text.translate(str.maketrans("+/", "-_", "=")),
    "base64-lines": _in_lines,
    "hex": lambda text: b64decode(text).hex(),
}
SHAPES: dict[str, Shape] = {
    "output-images": lambda drawn: {"output": {"images": [{"url": url} for url in drawn.urls]}},
    "top-list": lambda drawn: drawn.urls,
    "deep": lambda drawn: {
        "data": {"result": {"outputs": [{"artifact": {"image": {"url": url}}} for url in drawn.urls]}}
    },
    "among-urls": lambda drawn: {
        **drawn.links,
        "documentation": "https://docs.segmind.com/",
        "model": {"page": "https://www.segmind.com/models/segmind-vega", "logo": f"{OTHER_HOST}/logo.png"},
        "result": drawn.urls,
    },
    "thumbnails": lambda drawn: {"images": [{"url": url, "thumbnail": f"{url}?thumbnail=1"} for url in drawn.urls]},
    "b64-json": lambda drawn: {"data": [{"b64_json": text} for text in drawn.texts]},
}
# Shapes that only v2 has.
RESULT_SHAPES: dict[str, Shape] = {
    "output-list": lambda drawn: {"output": drawn.urls},
    "output-object": lambda drawn: {"output": {"url": drawn.urls[0]}},
    "output-base64": lambda drawn: {"output": one_or_list(drawn.texts)},
    "output-missing": lambda _: {"output": None},
}


def shape_of(faults: Faults, route: str) -> Shape | None:
    """Return the shape of the body with the pictures; None if it is the documented shape."""
    if any(name in faults for name in TEXTS):
        return lambda drawn: {"image": one_or_list([changed(text, faults, TEXTS) for text in drawn.texts])}
    shapes = SHAPES | RESULT_SHAPES if route == "v2" else SHAPES
    return next((shape for name, shape in shapes.items() if name in faults), None)
