"""The pictures in a server's answers."""

import io
from base64 import b64decode

from PIL import Image

from mcp_vega.engine.backend.server import LOOK
from mcp_vega.engine.errors import EngineError
from mcp_vega.engine.jpeg import jpeg_of

# The formats of these servers. For some others, Pillow starts another program, which would run what the picture says.
FORMATS = ("PNG", "JPEG", "WEBP")


def checked_jpeg(text: str, size: tuple[int, int]) -> bytes:
    """The picture in a server's base64 text, perhaps a data URL, as a JPEG. Metadata are left out.

    Raises:
        EngineError: It is no picture, is damaged, has another size than `size` (width, height), or is black.
    """
    try:
        data = b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            found = opened.size
            picture = opened.convert("RGB") if found == size else None
    except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise EngineError("The server that draws did not answer with a complete picture", LOOK) from error
    if picture is None:
        raise EngineError(
            f"The server that draws made a picture of {found[0]} x {found[1]} instead of {size[0]} x {size[1]}",
            "Switch off what changes the size there, such as an upscaler",
        )
    if not picture.getbbox():
        raise EngineError(
            "The picture is black, because numbers became too large while it was drawn",
            "Let that server use its VAE in full precision (in the web UIs: --no-half-vae), or call with another seed",
        )
    return jpeg_of(picture)
