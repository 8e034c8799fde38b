"""Turns errors into answers to HTTP requests that are not MCP."""

import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mcp_vega.errors import GalleryError, InvalidArguments, UnknownImage, VegaError
from mcp_vega.server.client_info import ClientInfo
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.links import READING
from mcp_vega.server.results import records

logger = logging.getLogger(__name__)

Answer = Callable[[AppContext, Request], Awaitable[Response]]

STATUSES: dict[type[VegaError], int] = {InvalidArguments: 400, UnknownImage: 404}
# For requests that change something. 409: the user changed the file, or the picture is not in the ledger yet.
STATUSES_OF_CHANGES = {**STATUSES, GalleryError: 409}


def answering(app: AppContext, answer: Answer) -> Callable[[Request], Awaitable[Response]]:
    """Return the function for a route. It answers, or gives the error in the form that its caller may see."""

    async def answered(request: Request) -> Response:
        try:
            return await answer(app, request)
        except VegaError as error:
            status = (STATUSES if request.method in READING else STATUSES_OF_CHANGES).get(type(error), 500)
            if status == 500:
                logger.warning(error.what)  # with its paths, which a client elsewhere in the network must not see
            shown = records.error_for(app, error, ClientInfo.of_request(request))
            return PlainTextResponse(f"{shown.text}\n", status)

    return answered
