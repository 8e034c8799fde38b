"""Pictures as the API sends them."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

# A JPEG of this quality, with all its colours, shows no difference to the drawn picture.
QUALITY = 95


def jpeg_of(picture: "Image") -> bytes:
    """A picture as a JPEG, without metadata."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()
