"""The recipe in a picture's own file: how it was drawn, and can be drawn again.

It stands there twice, and no pixel is touched for it:

- as the `parameters` text that Stable Diffusion tools read, in the form of Automatic1111's web UI: JPEG Exif
  UserComment, PNG iTXt `parameters`;
- as JSON of every parameter: JPEG comment (COM), PNG iTXt `mcp-vega`.

WebP pictures stay as they came.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from struct import pack
from typing import Any
from zlib import crc32

from mcp_vega.segmind.media import JPEG, PNG, recognise
from mcp_vega.segmind.parameters import MODELS, Parameters, VegaParameters

SOFTWARE = "mcp-vega"
# What a JPEG segment holds beside its own length.
SEGMENT_BYTES = 0xFFFF - 2


@dataclass(frozen=True)
class Recipe:
    """How a picture was drawn: the call's parameters with its seed, and which of the call's pictures it is, from 1."""

    parameters: Parameters
    picture: int = 1

    @property
    def text(self) -> str:
        """The form that Stable Diffusion tools read."""
        parameters = self.parameters
        vega = parameters if isinstance(parameters, VegaParameters) else None
        facts = {
            "Steps": parameters.num_inference_steps,
            "Sampler": vega and vega.scheduler,
            "CFG scale": vega and f"{vega.guidance_scale:g}",
            "Seed": parameters.seed if parameters.seed >= 0 else None,  # of a call made elsewhere it may be unknown
            "Size": f"{parameters.img_width}x{parameters.img_height}",
            "Model": parameters.slug,
        }
        if parameters.pictures > 1:
            facts |= {"Batch size": parameters.pictures, "Batch pos": self.picture - 1}
        lines = [parameters.prompt]
        lines += [f"Negative prompt: {parameters.negative}"] if parameters.negative else []
        lines += [", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None)]
        return "\n".join(lines)

    @property
    def data(self) -> dict[str, Any]:
        """The form for programs."""
        return {
            "software": SOFTWARE,
            "model": self.parameters.slug,
            "parameters": self.parameters.model_dump(mode="json", exclude={"base64"}),
            "picture": self.picture,
            "pictures": self.parameters.pictures,
        }


def written(picture: bytes, recipe: Recipe) -> bytes:
    """A picture with its recipe; the same picture where it has that already, or its format has no place for one.

    A form that is too long for its place is left out (in a JPEG about 32,700 characters, as JSON 65,000 bytes).
    """
    text, data = recipe.text, json.dumps(recipe.data, ensure_ascii=False).encode(errors="replace")
    found = recognise(picture)
    if found is JPEG:
        at = _after_jfif(picture)
        pieces = [_segment(0xE1, _exif(text)), _segment(0xFE, data)]
    elif found is PNG:
        at = 8 + 12 + int.from_bytes(picture[8:12])  # behind the signature and IHDR
        pieces = [_chunk(b"parameters", text.encode(errors="replace")), _chunk(SOFTWARE.encode(), data)]
    else:
        return picture
    recipe_bytes = b"".join(pieces)
    return picture if recipe_bytes in picture else picture[:at] + recipe_bytes + picture[at:]


def read(picture: bytes) -> Recipe | None:
    """The recipe in a picture's file; None where there is none, or none that can be drawn."""
    found = recognise(picture)
    texts = _jpeg_comments(picture) if found is JPEG else _png_texts(picture) if found is PNG else ()
    return next((recipe for text in texts if (recipe := _from_json(text))), None)


def _from_json(text: bytes) -> Recipe | None:
    try:
        data = json.loads(text)
        if data["software"] != SOFTWARE:
            return None
        recipe = Recipe(MODELS[data["model"]].model_validate(data["parameters"]), int(data["picture"]))
    except (ValueError, LookupError, TypeError, RecursionError):  # pydantic's ValidationError is a ValueError
        return None
    return recipe if 1 <= recipe.picture <= recipe.parameters.pictures else None


# ---- JPEG ----


def _after_jfif(jpeg: bytes) -> int:
    """Where the first segment begins that is not JFIF's, which has to stay in front."""
    at = 2
    while jpeg[at : at + 2] == b"\xff\xe0":
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    return at


def _segment(kind: int, data: bytes) -> bytes:
    return pack(">BBH", 0xFF, kind, len(data) + 2) + data if len(data) <= SEGMENT_BYTES else b""


def _exif(text: str) -> bytes:
    """Exif with a UserComment alone, as type UNDEFINED: what Pillow writes (BYTE), other readers refuse."""
    comment = b"UNICODE\0" + text.encode("utf-16-be", errors="replace")
    pointer = pack(">HHHLLL", 1, 0x8769, 4, 1, 26, 0)  # the first directory only points to the second,
    entry = pack(">HHHLLL", 1, 0x9286, 7, len(comment), 44, 0)  # which holds the comment
    return b"Exif\0\0MM\0*" + pack(">L", 8) + pointer + entry + comment


def _jpeg_comments(jpeg: bytes) -> Iterator[bytes]:
    at = 2
    while jpeg[at : at + 1] == b"\xff" and jpeg[at + 1 : at + 2] not in (b"\xda", b"\xd9", b""):
        length = int.from_bytes(jpeg[at + 2 : at + 4])
        if jpeg[at + 1] == 0xFE:
            yield jpeg[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)


# ---- PNG ----


def _chunk(keyword: bytes, text: bytes) -> bytes:
    data = b"iTXt" + keyword + b"\0\0\0\0\0" + text  # not compressed, in no language
    return pack(">L", len(data) - 4) + data + pack(">L", crc32(data))


def _png_texts(png: bytes) -> Iterator[bytes]:
    at, beginning = 8, SOFTWARE.encode() + b"\0\0\0\0\0"
    while len(png) >= at + 12:
        length, kind = int.from_bytes(png[at : at + 4]), png[at + 4 : at + 8]
        data = png[at + 8 : at + 8 + length]
        if kind == b"iTXt" and data.startswith(beginning):
            yield data.removeprefix(beginning)
        at += 12 + length
