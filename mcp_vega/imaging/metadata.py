"""The recipe in a picture's own file: how it was drawn, and can be drawn again.

It is there twice, and the pixels stay as they are:

- as the `parameters` text that Stable Diffusion tools read, in the form of Automatic1111's web UI: JPEG Exif
  UserComment, PNG iTXt `parameters`;
- as JSON of every parameter: JPEG comment (COM), PNG iTXt `mcp-vega`.

WebP pictures get none.
"""

import json
from dataclasses import dataclass
from struct import pack
from typing import Any
from zlib import crc32

from mcp_vega.imaging.formats import JPEG, PNG, recognise
from mcp_vega.imaging.parts import COMMENT, EXIF, parts, segment_length
from mcp_vega.parameters import MODELS, Parameters, VegaParameters

SOFTWARE = "mcp-vega"
# JPEG: what a segment holds beside its own length, and how our Exif begins: a TIFF of two directories, of which the
# first only points to the second, which holds the comment.
SEGMENT_BYTES = 0xFFFF - 2
EXIF_BEGINNING = b"Exif\0\0MM\0*" + pack(">L", 8) + pack(">HHHLLL", 1, 0x8769, 4, 1, 26, 0) + pack(">HHH", 1, 0x9286, 7)
# PNG: how the contents of our iTXt chunks begin, not compressed and in no language.
PARAMETERS, RECIPE = b"parameters\0\0\0\0\0", b"mcp-vega\0\0\0\0\0"


@dataclass(frozen=True)
class Recipe:
    """How a picture was drawn."""

    parameters: Parameters  # of the call, with its seed
    picture: int = 1  # which of the call's pictures it is, from 1
    sandbox: bool = False  # whether the sandbox painted it, not the model

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
        facts |= {"Version": f"{SOFTWARE} sandbox"} if self.sandbox else {}
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
            **({"sandbox": True} if self.sandbox else {}),
        }


def embed(picture: bytes, recipe: Recipe) -> bytes:
    """A picture with its recipe; the same picture where it has that already, or its format has no place for one.

    A form that is too long for its place is left out (in a JPEG about 32,700 characters, as JSON 65,000 bytes). A JPEG
    that has Exif of its own keeps that, as it may say which side is up, and gets the JSON alone.
    """
    text, data = recipe.text, json.dumps(recipe.data, ensure_ascii=False).encode(errors="replace")
    found = recognise(picture)
    if found is JPEG:
        has_exif = any(kind == EXIF and not _is_ours(kind, content) for kind, content, _, _ in parts(picture))
        # The comment as type UNDEFINED: what Pillow writes (BYTE), other readers refuse.
        comment = b"UNICODE\0" + text.encode("utf-16-be", errors="replace")
        exif = EXIF_BEGINNING + pack(">LLL", len(comment), 44, 0) + comment
        pieces = [b"" if has_exif else _segment(EXIF, exif), _segment(COMMENT, data)]
    elif found is PNG:
        pieces = [_chunk(PARAMETERS, text.encode(errors="replace")), _chunk(RECIPE, data)]
    else:
        return picture
    at, recipe_bytes = _position(picture), b"".join(pieces)
    return picture if picture.startswith(recipe_bytes, at) else picture[:at] + recipe_bytes + picture[at:]


def strip(picture: bytes) -> bytes:
    """A picture as it was before its recipe was embedded, whatever that was."""
    if recognise(picture) not in (JPEG, PNG):
        return picture
    start = end = _position(picture)
    for kind, content, _, after in parts(picture):
        if after > end:
            if not _is_ours(kind, content):
                break
            end = after
    return picture[:start] + picture[end:]


def read(picture: bytes) -> Recipe | None:
    """The recipe in a picture's file; None where there is none, or none that can be drawn."""
    for kind, content, _, _ in parts(picture):
        is_recipe = kind == COMMENT or content.startswith(RECIPE)
        if is_recipe and (recipe := _parse(content.removeprefix(RECIPE))):
            return recipe
    return None


def _is_ours(kind: bytes, content: bytes) -> bool:
    """Whether a part of a file is one that `embed` puts there."""
    if kind == COMMENT:
        return content.startswith(b'{"software": "mcp-vega"')
    if kind == EXIF:
        return content.startswith(EXIF_BEGINNING)
    return content.startswith((PARAMETERS, RECIPE))


def _position(picture: bytes) -> int:
    """Where the recipe goes: behind what has to stay in front, JFIF's segment or a PNG's header."""
    if recognise(picture) is PNG:
        return 8 + 12 + int.from_bytes(picture[8:12])
    at = 2
    while picture[at : at + 2] == b"\xff\xe0":
        at += 2 + segment_length(picture, at)
    return at


def _parse(text: bytes) -> Recipe | None:
    try:
        data = json.loads(text)
        if data["software"] != SOFTWARE:
            return None
        parameters, picture = MODELS[data["model"]].model_validate(data["parameters"]), data["picture"]
    except (ValueError, LookupError, TypeError, RecursionError):  # pydantic's ValidationError is a ValueError
        return None
    if not isinstance(picture, int) or picture < 1:  # an API that gives more than was asked for has a fifth of four
        return None
    return Recipe(parameters, picture, data.get("sandbox") is True)


def _segment(kind: bytes, data: bytes) -> bytes:
    return b"\xff" + kind + pack(">H", len(data) + 2) + data if len(data) <= SEGMENT_BYTES else b""


def _chunk(beginning: bytes, text: bytes) -> bytes:
    data = b"iTXt" + beginning + text
    return pack(">L", len(data) - 4) + data + pack(">L", crc32(data))
