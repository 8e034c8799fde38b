"""The recipe in a picture's own file: it says how the picture was drawn and how to draw it again.

The file contains the recipe in two forms. The pixels are not changed.

- the `parameters` text that Stable Diffusion tools read, in the form of Automatic1111's web UI: JPEG Exif
  UserComment, PNG iTXt `parameters`;
- JSON with every parameter: JPEG comment (COM), PNG iTXt `mcp-vega`.

WebP pictures get no recipe.
"""

import json
from dataclasses import dataclass
from itertools import takewhile
from struct import pack
from typing import Any
from zlib import crc32

from mcp_vega.imaging.formats import JPEG, PNG, recognise
from mcp_vega.imaging.parts import COMMENT, EXIF, JFIF, Part, parts
from mcp_vega.job import LOCAL, SANDBOX
from mcp_vega.parameters import MODELS, Parameters, VegaParameters

SOFTWARE = "mcp-vega"
# JPEG: how many bytes a segment holds besides its length; and how our Exif begins. It is a TIFF with two directories:
# the first only points to the second, which has the comment.
SEGMENT_BYTES = 0xFFFF - 2
EXIF_BEGINNING = b"Exif\0\0MM\0*" + pack(">L", 8) + pack(">HHHLLL", 1, 0x8769, 4, 1, 26, 0) + pack(">HHH", 1, 0x9286, 7)
# PNG: the kind of our chunks, and how their contents begin: not compressed, without a language.
TEXT, PARAMETERS, RECIPE = b"iTXt", b"parameters\0\0\0\0\0", b"mcp-vega\0\0\0\0\0"


@dataclass(frozen=True)
class Recipe:
    """How a picture was drawn."""

    parameters: Parameters  # the parameters of the call, with its seed
    picture: int = 1  # the number of the picture among the pictures of the call, from 1
    drawn_by: str = ""  # what drew it instead of the API, as `Job.drawn_by`

    @property
    def text(self) -> str:
        """The recipe in the form that Stable Diffusion tools read."""
        parameters = self.parameters
        vega = parameters if isinstance(parameters, VegaParameters) else None
        facts = {
            "Steps": parameters.num_inference_steps,
            "Sampler": vega and vega.scheduler,
            "CFG scale": vega and f"{vega.guidance_scale:g}",
            "Seed": parameters.seed if parameters.seed >= 0 else None,  # unknown for some calls of other programs
            "Size": f"{parameters.img_width}x{parameters.img_height}",
            "Model": parameters.slug,
        }
        if parameters.pictures > 1:
            facts |= {"Batch size": parameters.pictures, "Batch pos": self.picture - 1}
        facts |= {"Version": f"{SOFTWARE} {self.drawn_by}"} if self.drawn_by else {}
        lines = [parameters.prompt]
        lines += [f"Negative prompt: {parameters.negative}"] if parameters.negative else []
        lines += [", ".join(f"{name}: {value}" for name, value in facts.items() if value is not None)]
        return "\n".join(lines)

    @property
    def data(self) -> dict[str, Any]:
        """The recipe as JSON."""
        return {
            "software": SOFTWARE,
            "model": self.parameters.slug,
            "parameters": self.parameters.model_dump(mode="json", exclude={"base64"}),
            "picture": self.picture,
            "pictures": self.parameters.pictures,
            **({SANDBOX: True} if self.drawn_by == SANDBOX else {"engine": self.drawn_by} if self.drawn_by else {}),
        }


def embed(picture: bytes, recipe: Recipe) -> bytes:
    """Return a picture with its recipe. It is returned unchanged if it has that recipe already, or is a WebP.

    A form that is too long is left out: in a JPEG, a text of more than about 32,700 characters, or JSON of more than
    65,000 bytes. A JPEG that already has Exif keeps it, because it may say which side is up. It gets the JSON only.
    """
    text, data = recipe.text, json.dumps(recipe.data, ensure_ascii=False).encode(errors="replace")
    found = recognise(picture)
    if found is JPEG:
        has_exif = any(part.kind == EXIF and not _is_ours(part) for part in parts(picture))
        # The comment has the type UNDEFINED. Pillow writes BYTE, which other readers do not accept.
        comment = b"UNICODE\0" + text.encode("utf-16-be", errors="replace")
        exif = EXIF_BEGINNING + pack(">LLL", len(comment), 44, 0) + comment
        pieces = [b"" if has_exif else _segment(EXIF, exif), _segment(COMMENT, data)]
    elif found is PNG:
        pieces = [_chunk(PARAMETERS, text.encode(errors="replace")), _chunk(RECIPE, data)]
    else:
        return picture
    at, recipe_bytes = _position(picture), b"".join(pieces)
    if picture.startswith(recipe_bytes, at):
        return picture
    return b"".join((picture[:at], recipe_bytes, memoryview(picture)[at:]))


def strip(picture: bytes) -> bytes:
    """Return a picture without the recipe that was embedded in it, if there is one."""
    if recognise(picture) not in (JPEG, PNG):
        return picture
    start = end = _position(picture)
    for part in parts(picture):
        if part.end > end:
            if not _is_ours(part):
                break
            end = part.end
    return picture[:start] + picture[end:]


def read(picture: bytes) -> Recipe | None:
    """Return the recipe in a picture's file; None if there is none, or if it is not valid."""
    for part in parts(picture):
        content = part.content if part.kind in (COMMENT, TEXT) else b""
        is_recipe = part.kind == COMMENT or content.startswith(RECIPE)
        if is_recipe and (recipe := _parse(content.removeprefix(RECIPE))):
            return recipe
    return None


def _is_ours(part: Part) -> bool:
    """Whether `embed` wrote a part of a file."""
    beginnings = {COMMENT: b'{"software": "mcp-vega"', EXIF: EXIF_BEGINNING, TEXT: (PARAMETERS, RECIPE)}
    return part.kind in beginnings and part.content.startswith(beginnings[part.kind])


def _position(picture: bytes) -> int:
    """Return where the recipe goes: after the parts that must come first, JFIF's segment or a PNG's header."""
    if recognise(picture) is PNG:
        return 8 + 12 + int.from_bytes(picture[8:12])
    first = takewhile(lambda part: part.kind == JFIF, parts(picture))
    return max((part.end for part in first), default=2)


def _parse(text: bytes) -> Recipe | None:
    try:
        data = json.loads(text)
        if data["software"] != SOFTWARE:
            return None
        parameters, picture = MODELS[data["model"]].model_validate(data["parameters"]), data["picture"]
    except (ValueError, LookupError, TypeError, RecursionError):  # pydantic's ValidationError is a ValueError
        return None
    if not isinstance(picture, int) or picture < 1:  # may be 5 of 4, if the API sent more pictures than were asked for
        return None
    drawn_by = SANDBOX if data.get(SANDBOX) is True else data.get("engine")
    return Recipe(parameters, picture, drawn_by if drawn_by in (SANDBOX, LOCAL) else "")


def _segment(kind: bytes, data: bytes) -> bytes:
    return b"\xff" + kind + pack(">H", len(data) + 2) + data if len(data) <= SEGMENT_BYTES else b""


def _chunk(beginning: bytes, text: bytes) -> bytes:
    data = TEXT + beginning + text
    return pack(">L", len(data) - 4) + data + pack(">L", crc32(data))
