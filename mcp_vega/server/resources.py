"""The pictures as MCP resources: `vega://images/{id}`."""

import re

from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp_types import ResourceTemplate

from mcp_vega.errors import UnknownImage, VegaError
from mcp_vega.studio.studio import Studio

TEMPLATES = [
    ResourceTemplate(
        uri_template="vega://images/{id}",
        name="image",
        title="Generated image",
        description="A generated image, full size, in its own format; the URI stands in the result that made it.",
    )
]
_IMAGE = re.compile(r"vega://images/([0-9a-f]{32})")


async def read(studio: Studio, uri: str) -> ReadResourceContents:
    """The bytes of a picture with its real MIME type.

    Raises:
        ResourceNotFoundError: The URI names no picture.
        ResourceError: The picture's file cannot be read.
    """
    match = _IMAGE.fullmatch(uri)
    if match is None:
        raise ResourceNotFoundError(f"No resource has the URI {uri}; pictures are at vega://images/{{id}}")
    try:
        image = await studio.find_image(match[1])
        return ReadResourceContents(content=await studio.read(image), mime_type=image.mime_type)
    except UnknownImage as error:
        raise ResourceNotFoundError(error.text) from error
    except VegaError as error:
        raise ResourceError(error.text) from error
