"""The gallery page for people: its HTML file, and its data about the pictures that the caller may see."""

import json
import re
from collections.abc import Sequence
from datetime import date
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mcp_vega.errors import InvalidArguments
from mcp_vega.job import LOCAL, OPERATOR, SANDBOX, JobImage
from mcp_vega.redaction import beginning, named
from mcp_vega.server import resources
from mcp_vega.server.client_info import ClientInfo, owner_of
from mcp_vega.server.context import AppContext
from mcp_vega.server.http.access.callers import name_of
from mcp_vega.server.http.access.sign_in import GALLERY_PATH, SIGNED_IN
from mcp_vega.server.http.answers import answering
from mcp_vega.server.results import records
from mcp_vega.storage.ledger.search import ImageQuery

# The most pictures in one answer, and the most characters of each prompt in a list.
MOST_PICTURES, PROMPT_CHARACTERS = 200, 200


def page_routes(app: AppContext, *, can_sign_in: bool = True) -> Sequence[BaseRoute]:
    """Return the routes of the page and its data. If nobody can sign in, a short page says so instead."""
    if not can_sign_in:
        return [Route("/", _page_off), Route("/icon.png", _icon)]
    one = f"{GALLERY_PATH}/pictures/{{id}}"
    return [
        Route("/", _page),
        Route("/icon.png", _icon),
        Route(f"{GALLERY_PATH}/state", answering(app, _state), methods=["GET"]),
        Route(f"{GALLERY_PATH}/pictures", answering(app, _pictures), methods=["GET"]),
        Route(one, answering(app, _picture), methods=["GET"]),
        Route(one, answering(app, _delete), methods=["DELETE"]),
        Route(f"{one}/star", answering(app, _star), methods=["POST"]),
    ]


# ---- the files of the page ----


async def _page(_: Request) -> Response:
    policy = f"{resources.view_policy()}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    headers = {
        "content-security-policy": policy,
        "cross-origin-opener-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return HTMLResponse(resources.view_html(), headers=headers)


async def _page_off(_: Request) -> Response:
    html = files("mcp_vega.server") / "static" / "page_off.html"
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    headers = {"content-security-policy": policy, "referrer-policy": "no-referrer", "cache-control": "no-cache"}
    return HTMLResponse(html.read_text(encoding="utf-8"), headers=headers)


async def _icon(_: Request) -> Response:
    data = (files("mcp_vega.server") / "static" / "icon.png").read_bytes()
    return Response(data, media_type="image/png", headers={"cache-control": "max-age=86400"})


# ---- the data of the page ----


async def _state(app: AppContext, request: Request) -> Response:
    """Answer with the number of pictures and the spending; 204 if the number and the newest picture are unchanged."""
    owner = owner_of(request.scope)
    query = ImageQuery(owner=owner)
    newest, total = await app.gallery.search.page_and_count(query, size=1)
    latest = newest[0].image.id if newest else None
    asked = request.query_params
    if (asked.get("latest"), asked.get("total")) == (latest or "", str(total)):
        return Response(status_code=204)
    state = {
        "latest": latest,
        "total": total,
        "caller": _caller(owner),
        # With the key of `mcp-vega gallery` there is nothing to sign out of: the key is in the address.
        "signed_in": owner != OPERATOR and SIGNED_IN in request.scope,
        "free": SANDBOX if app.sandbox else LOCAL if app.local else "",
        "spent": await _spent(app, owner),
    }
    return JSONResponse(state)


async def _spent(app: AppContext, owner: str) -> dict[str, float | None]:
    today, spending = app.service.config.clock().date(), app.service.store.spending
    days = {"today_usd": today, "month_usd": today.replace(day=1), "total_usd": date.min}
    budget = await app.service.budget(owner)
    return {
        **{name: float(await spending.since(day, owner)) for name, day in days.items()},
        "limit_usd": budget and float(budget.limit),
        "left_usd": budget and float(budget.left),
    }


async def _pictures(app: AppContext, request: Request) -> Response:
    asked, owner = request.query_params, owner_of(request.scope)
    query = ImageQuery(asked.get("q", ""), owner, starred=asked.get("starred") == "1", typed=True)
    after, limit = asked.get("after", ""), _number(asked.get("limit", "60"), MOST_PICTURES)
    skip = _number(asked.get("skip", "0"), 10**9)
    kept, total = await app.gallery.search.page_and_count(query, after=after, skip=skip, size=limit)
    return JSONResponse({"total": total, "pictures": [_listed(each, owner) for each in kept]})


def _number(text: str, most: int) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > most:
        said = f"{named(text)} is not a whole number from 0 to {most:,}"
        raise InvalidArguments(said, next_step="Load the page again")
    return int(text)


def _listed(kept: JobImage, owner: str) -> dict[str, Any]:
    job, image = kept
    prompt = beginning(job.parameters.prompt, PROMPT_CHARACTERS)
    return {
        "id": image.id,
        "prompt": prompt if prompt == job.parameters.prompt else f"{prompt}…",
        "starred": image.starred,
        "caller": _caller(job.owner) if owner == OPERATOR else None,
    }


async def _picture(app: AppContext, request: Request) -> Response:
    client = ClientInfo.of_request(request)
    job, image = await app.gallery.find(request.path_params["id"], client.owner)
    picture = _listed(JobImage(job, image), client.owner)
    more = {
        "number": job.index_of(image) + 1,
        "created": records.iso(job.created),
        "file": image.name,
        "path": str(image.path) if image.path and client.owner == OPERATOR else None,
        "job": records.data_of(records.job_for(app, job, client), client),
    }
    return JSONResponse({**picture, **more})


async def _star(app: AppContext, request: Request) -> Response:
    try:
        starred = json.loads(await request.body())["starred"]
    except (ValueError, LookupError, TypeError, RecursionError):
        starred = None
    if not isinstance(starred, bool):
        raise InvalidArguments("starred must be true or false", next_step="Load the page again")
    await app.gallery.star(request.path_params["id"], owner_of(request.scope), starred=starred)
    return Response(status_code=204)


async def _delete(app: AppContext, request: Request) -> Response:
    moment = app.service.config.clock()
    await app.gallery.delete(request.path_params["id"], moment, owner_of(request.scope))
    return Response(status_code=204)


def _caller(owner: str) -> str | None:
    """Return a caller's name; for a token without a name, the first digits of its hash; None for the operator."""
    return name_of(owner) or (f"token {owner[:8]}" if owner != OPERATOR else None)
