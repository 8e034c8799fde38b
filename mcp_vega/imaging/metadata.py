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

from mcp_vega.imaging.formats import JPEG, PNG, recognise
from mcp_vega.parameters import MODELS, Parameters, VegaParameters

SOFTWARE = "mcp-vega"
# JPEG: the segments' kinds, what one holds beside its own length, and how our Exif begins: a TIFF of two directories,
# of which the first only points to the second, which holds the comment.
EXIF, COMMENT = b"\xe1", b"\xfe"
SEGMENT_BYTES = 0xFFFF - 2
EXIF_BEGINNING = b"Exif\0\0MM\0*" + pack(">L", 8) + pack(">HHHLLL", 1, 0x8769, 4, 1, 26, 0) + pack(">HHH", 1, 0x9286, 7)
# PNG: how the contents of our iTXt chunks begin, not compressed and in no language.
PARAMETERS, RECIPE = b"parameters\0\0\0\0\0", b"mcp-vega\0\0\0\0\0"


@dataclass(frozen=True)
class Recipe:
    """How a picture was drawn.

    Attributes:
        parameters: Those of the call, with its seed.
        picture: Which of the call's pictures it is, from 1.
        sandbox: Whether the sandbox painted it in the model's place.
    """

    parameters: Parameters
    picture: int = 1
    sandbox: bool = False

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
        has_exif = any(kind == EXIF and not _is_ours(kind, content) for kind, content in _segments(picture))
        pieces = [b"" if has_exif else _segment(EXIF, _exif(text)), _segment(COMMENT, data)]
    elif found is PNG:
        pieces = [_chunk(PARAMETERS, text.encode(errors="replace")), _chunk(RECIPE, data)]
    else:
        return picture
    at, recipe_bytes = _place(picture), b"".join(pieces)
    return picture if picture.startswith(recipe_bytes, at) else picture[:at] + recipe_bytes + picture[at:]


def strip(picture: bytes) -> bytes:
    """A picture as it was before its recipe was written, whatever that was."""
    found = recognise(picture)
    if found not in (JPEG, PNG):
        return picture
    parts, lengths = (_segments(picture), 4) if found is JPEG else (_chunks(picture), 12)
    at = end = _place(picture)
    seen = 2 if found is JPEG else 8
    for kind, content in parts:
        seen += len(content) + lengths
        if seen > end:
            if not _is_ours(kind, content):
                break
            end = seen
    return picture[:at] + picture[end:]


def read(picture: bytes) -> Recipe | None:
    """The recipe in a picture's file; None where there is none, or none that can be drawn."""
    found = recognise(picture)
    parts = _segments(picture) if found is JPEG else _chunks(picture) if found is PNG else ()
    texts = (content.removeprefix(RECIPE) for kind, content in parts if kind == COMMENT or content.startswith(RECIPE))
    return next((recipe for text in texts if (recipe := _from_json(text))), None)


def _is_ours(kind: bytes, content: bytes) -> bool:
    """Whether a part of a file is one that `embed` puts there."""
    if kind == COMMENT:
        return content.startswith(b'{"software": "mcp-vega"')
    if kind == EXIF:
        return content.startswith(EXIF_BEGINNING)
    return content.startswith((PARAMETERS, RECIPE))


def _place(picture: bytes) -> int:
    """Where the recipe goes: behind what has to stay in front, JFIF's segment or a PNG's header."""
    if recognise(picture) is PNG:
        return 8 + 12 + int.from_bytes(picture[8:12])
    at = 2
    while picture[at : at + 2] == b"\xff\xe0":
        at += 2 + _length(picture, at)
    return at


def _from_json(text: bytes) -> Recipe | None:
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


# ---- JPEG ----


def _segment(kind: bytes, data: bytes) -> bytes:
    return b"\xff" + kind + pack(">H", len(data) + 2) + data if len(data) <= SEGMENT_BYTES else b""


def _exif(text: str) -> bytes:
    """Exif with a UserComment alone, as type UNDEFINED: what Pillow writes (BYTE), other readers refuse."""
    comment = b"UNICODE\0" + text.encode("utf-16-be", errors="replace")
    return EXIF_BEGINNING + pack(">LL", len(comment), 44) + pack(">L", 0) + comment


def _segments(jpeg: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kinds and contents of the segments before the picture itself."""
    at = 2
    while jpeg[at : at + 1] == b"\xff" and jpeg[at + 1 : at + 2] not in (b"\xda", b"\xd9", b""):
        length = _length(jpeg, at)
        yield jpeg[at + 1 : at + 2], jpeg[at + 4 : at + 2 + length]
        at += 2 + length


def _length(jpeg: bytes, at: int) -> int:
    """The length of the segment that begins here: at least that of the length itself, whatever the file says."""
    return max(int.from_bytes(jpeg[at + 2 : at + 4]), 2)


# ---- PNG ----


def _chunk(beginning: bytes, text: bytes) -> bytes:
    data = b"iTXt" + beginning + text
    return pack(">L", len(data) - 4) + data + pack(">L", crc32(data))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kinds and contents of the chunks."""
    at = 8
    while len(png) >= at + 12:
        length = int.from_bytes(png[at : at + 4])
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length
