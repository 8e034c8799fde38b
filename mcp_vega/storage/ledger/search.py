"""Finds kept pictures by words, and ids by their beginnings."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from mcp_vega.errors import InvalidArguments, LedgerError
from mcp_vega.job import OPERATOR, REQUEST_ID, Image, Job, JobImage
from mcp_vega.parameters import MODELS
from mcp_vega.redaction import named
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger.sql import image_queries, job_queries, rows

PAGE = 20
# The most words of a search, and the most letters of a word. Each word is searched for separately.
WORDS, LETTERS = 50, 200
# No file name has so many characters. A database refuses patterns that are far longer.
LONGER_THAN_NAMES = 256
# The fewest digits with which the beginning of an id names it.
FEWEST_DIGITS = 8
# How many ids are shown if several begin alike.
ALIKE = 5
_ADDRESS = re.compile("(?:vega://(?:images|jobs)|https?://.*?/images)/([^/?#]+)", re.IGNORECASE)
# The name of a picture's file ends with digits of its id. The name of a copy may have a number after them.
_FILE = re.compile(r".*-([0-9a-f]{8}|[0-9a-f]{32})(?: ?\(\d+\))?(?:\.\w+)?", re.IGNORECASE)


@dataclass(frozen=True)
class ImageQuery:
    """A search for pictures that `owner` may see: all of them, or only the `starred` ones.

    Every word of `text` must be in the prompt, the seed, the model, the day (UTC) or the first eight digits of the id.
    Upper and lower case are the same. A model's name must match a whole word; so must a number, unless the text is
    still being `typed`. Other words may match a part of a word.
    """

    text: str = ""
    owner: str = OPERATOR
    starred: bool = False
    typed: bool = False


class ImageSearch:
    """The pictures in the ledger. Every method raises a `LedgerError` if the ledger cannot be read or written."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # The numbers of pictures whose jobs cannot be read, as far as they are known. They are left out, and a page
        # has more of the other pictures instead.
        self._unreadable = set[int]()

    async def page(
        self, query: ImageQuery, *, after: str = "", skip: int = 0, size: int = PAGE
    ) -> tuple[list[JobImage], bool]:
        """Return the pictures that match, newest first; and whether there are more.

        With `after`, these are the pictures that follow the one with this id. It may have been deleted since. The
        first `skip` of them are left out; that takes longer the more they are.

        Raises:
            InvalidArguments: The query has too many words, or there is no picture with the id `after`.
        """
        conditions, values = _conditions(query)
        conditions += [image_queries.IS_OLDER.format(name="after")] if after else []
        values |= {"limit": size + 1, "skip": skip, "after": rows.storable(after)}

        def look(connection: Connection) -> tuple[list[JobImage], bool] | None:
            if after and not connection.execute(image_queries.SHOWN_IMAGE, values):
                return None
            while True:
                found = connection.execute(image_queries.PAGE.format(where=self._where(conditions)), values)
                images = rows.read_images(connection, found[:size])
                ids = {kept.image.id for kept in images}
                unreadable = {row["number"] for row in found[:size] if row["id"] not in ids}
                if not unreadable:
                    return images, len(found) > size
                self._unreadable |= unreadable

        page = await self._database.read(look, slow=bool(query.text))
        if page is None:
            said = f"There is no picture with the id {named(after)}, so no pictures follow it"
            raise InvalidArguments(said, next_step="Take the address of the next page from the page before it")
        return page

    async def page_and_count(
        self, query: ImageQuery, *, after: str = "", skip: int = 0, size: int = PAGE
    ) -> tuple[list[JobImage], int]:
        """Return a page, and the number of all pictures that match. Raises as `page` does."""
        images, more = await self.page(query, after=after, skip=skip, size=size)
        if not (images or more or after or skip):
            return images, 0
        if not (query.text and images):
            return images, await self._count(query)
        # The search for the page has read the pictures from `after` to the last one of the page.
        unread = [image_queries.IS_NOT_OLDER.format(name="after")] if after else []
        unread += [image_queries.IS_OLDER.format(name="last")] if more else []
        condition = f"({' OR '.join(unread or [image_queries.NONE])})"
        return images, skip + len(images) + await self._count(query, condition, after=after, last=images[-1].image.id)

    async def _count(self, query: ImageQuery, *first: str, **more_values: str) -> int:
        conditions, values = _conditions(query)
        statement = image_queries.COUNT.format(where=self._where([*first, *conditions]))
        return await self._number(statement, slow=bool(query.text), **values, **more_values)

    async def _number(self, statement: str, *, slow: bool = False, **values: Any) -> int:
        (row,) = await self._database.read(lambda connection: connection.execute(statement, values), slow=slow)
        return row["pictures"]

    def _where(self, conditions: Sequence[str]) -> str:
        numbers = ", ".join(map(str, sorted(self._unreadable)))
        conditions = [*conditions, f"image NOT IN ({numbers})"] if numbers else conditions
        return f"WHERE {' AND '.join(conditions)}" if conditions else ""

    async def image(self, image_id: str) -> JobImage | None:
        """Return the picture with this id, and its job; None if there is none."""
        return next(iter(await self._found(image_queries.IMAGE, id=rows.storable(image_id))), None)

    async def id_named(self, text: str, owner: str = OPERATOR) -> str:
        """Return the complete id of the picture or job that `owner` names.

        The text may be an id, its first eight digits or more, a `vega://` URI, a picture's URL, or the name or path of
        a kept file.

        Returns:
            The id. If nothing is found, the part of the text that looks most like an id.

        Raises:
            InvalidArguments: Several ids begin like this.
        """
        address = _ADDRESS.match(text.strip())
        name = address[1] if address else re.split(r"[/\\]", text.strip())[-1]
        file = _FILE.fullmatch(name)
        for beginning in (name, file[1] if file else ""):
            found = await self._id_that_begins(beginning, owner) if len(beginning) >= FEWEST_DIGITS else None
            if found:
                return found
        return name

    async def _id_that_begins(self, beginning: str, owner: str) -> str | None:
        """Return the id of a picture or job that is `beginning` or begins with it; None if there is none."""
        if not re.fullmatch(REQUEST_ID, beginning):
            return None
        ids = await self._database.read(lambda connection: _ids_that_begin(connection, beginning, owner))
        ids = {job: each for job, each in ids.items() if beginning in (job, each)} or ids
        if len(ids) > 1:
            shown = ", ".join([*ids.values()][:ALIKE]) + (", …" if len(ids) > ALIKE else "")
            raise InvalidArguments(f"Several ids begin with {beginning!r}: {shown}", next_step="Name one of them")
        return next(iter(ids.values()), None)

    async def short_ids(self, jobs: Sequence[Job]) -> list[str]:
        """For each job as much of its id as names it: eight digits, or more if other ids begin alike."""

        def short_id(connection: Connection, job: Job) -> str:
            whole = job.request_id.removeprefix("local-")
            for length in range(FEWEST_DIGITS, len(whole)):
                if _ids_that_begin(connection, whole[:length], OPERATOR).keys() <= {job.local_id}:
                    return whole[:length]
            return whole

        return await self._database.read(lambda connection: [short_id(connection, job) for job in jobs])

    async def before(self, moment: datetime) -> list[JobImage]:
        """Return the pictures of jobs that were begun before a moment, oldest first.

        Only jobs that have ended and whose result was delivered; pictures with a star are left out.
        """
        return await self._found(image_queries.BEFORE, moment=moment)

    async def _found(self, statement: str, **values: Any) -> list[JobImage]:
        return await self._database.read(
            lambda connection: rows.read_images(connection, connection.execute(statement, values))
        )

    async def starred_before(self, moment: datetime) -> int:
        """Count the pictures with a star whose jobs were begun before a moment."""
        return await self._number(image_queries.STARRED_BEFORE, moment=moment)

    async def mark_starred(self, image_id: str, *, starred: bool) -> bool:
        """Note whether a picture has a star; returns False if the ledger does not have the picture."""

        def mark(connection: Connection) -> bool:
            marked = connection.execute(image_queries.MARK_STARRED, {"id": image_id, "starred": starred})
            for row in marked:
                connection.execute(image_queries.SHOW_STAR, {**row, "starred": starred})
            return bool(marked)

        return await self._database.write(mark)

    async def mark_deleted(self, image: Image, moment: datetime, *, spare_starred: bool = False) -> bool:
        """Note when a picture's file was deleted. The ledger keeps how it was drawn.

        Returns False, and notes nothing, if the picture is no longer in that place, was deleted before, or has a star
        and `spare_starred` is set.
        """
        values = {"id": image.id, "moment": moment, "spare_starred": spare_starred}
        values |= image.location._asdict()

        def mark(connection: Connection) -> bool:
            marked = connection.execute(image_queries.MARK_DELETED, values)
            for row in marked:
                connection.execute(image_queries.LEAVE_GALLERY, dict(row))
            return bool(marked)

        return await self._database.write(mark)

    async def unmark_deleted(self, image: Image) -> None:
        """Note that a picture's file was not deleted after all. If the ledger is locked, that is written later."""

        def unmark(connection: Connection) -> None:
            connection.execute(image_queries.UNMARK_DELETED, {"id": image.id})
            for job, _ in rows.read_images(connection, connection.execute(image_queries.IMAGE, {"id": image.id})):
                for row in rows.as_image_rows(job):
                    connection.execute(image_queries.ADD_TO_GALLERY, row)

        self._database.defer(unmark, immediately=True)
        with suppress(LedgerError):
            await self._database.write(lambda _: None)

    async def image_ids(self, beginning: str, limit: int, owner: str = OPERATOR) -> list[str]:
        """Return the ids of kept pictures that begin like this, newest first."""
        return await self._ids(image_queries.NEWEST_IMAGE_IDS, image_queries.IMAGE_IDS, beginning, limit, owner)

    async def names(self, typed: str, limit: int, owner: str = OPERATOR) -> list[tuple[str, str]]:
        """Ids and file names of kept pictures, by words as `page` finds them, or by the beginning of the name.

        Names that begin with the typed text come first, then the newest. Raises as `page` does.
        """
        conditions, values = _conditions(ImageQuery(typed, owner, typed=True))
        values |= {"name": f"%/{_literal(rows.storable(typed[:LONGER_THAN_NAMES]))}%", "limit": limit}

        def look(connection: Connection) -> list[tuple[str, str]]:
            begun = connection.execute(image_queries.NAMES_THAT_BEGIN, values) if typed else []
            found = connection.execute(image_queries.NAMES.format(where=self._where(conditions)), values)
            names = {row["id"]: PurePosixPath(row["key"]).name for row in (*begun, *found)}
            return list(names.items())[:limit]

        return await self._database.read(look, slow=bool(typed))

    async def request_ids(self, beginning: str, limit: int, owner: str = OPERATOR) -> list[str]:
        """Return the request ids of jobs that begin like this, newest first."""
        return await self._ids(image_queries.NEWEST_REQUEST_IDS, image_queries.REQUEST_IDS, beginning, limit, owner)

    async def _ids(self, newest: str, matching: str, beginning: str, limit: int, owner: str) -> list[str]:
        statement = (matching if beginning else newest).format(shown=job_queries.shown_to(owner))
        # "~" sorts after every character of an id.
        ends = {"beginning": rows.storable(beginning), "end": f"{rows.storable(beginning)}~"}
        values = {"limit": limit, "owner": owner, **ends}
        found = await self._database.read(lambda connection: connection.execute(statement, values))
        return [row["id"] for row in found]


def _ids_that_begin(connection: Connection, beginning: str, owner: str) -> dict[str, str]:
    """Ids of pictures and jobs that begin like this, by the local ids of their jobs; if there are many, a few."""
    small = beginning.lower()
    names = {"name": beginning, "small": small, "local": f"local-{small}"}
    ends = {f"{key}_end": f"{name}~" for key, name in names.items()}
    values = {**names, **ends, "owner": owner, "limit": ALIKE + 1}
    return {row["job"]: row["id"] for row in connection.execute(image_queries.NAMED, values)}


def _conditions(query: ImageQuery) -> tuple[list[str], dict[str, Any]]:
    """Return the conditions for the rows of the gallery, as SQL, and their values."""
    patterns = _patterns(query.text, typed=query.typed)
    values: dict[str, Any] = {f"pattern_{index}": pattern for index, pattern in enumerate(patterns)}
    conditions = [image_queries.MATCH.format(name=name) for name in values]
    if query.text.strip() and not patterns:
        conditions += [image_queries.NONE]  # nothing but punctuation
    if query.starred:
        conditions += [image_queries.IS_STARRED]
    if query.owner != OPERATOR:
        conditions += [image_queries.IS_OF]
    return conditions, {**values, "owner": query.owner}


def _patterns(text: str, *, typed: bool) -> list[str]:
    """Return the patterns (of LIKE) that a picture's words must match.

    The patterns that exclude most pictures come first: long words. A word that must match a whole word has two
    patterns: first its letters only, then with the spaces around it, because spaces are found everywhere.
    """
    long = len(text) > 2 * WORDS * LETTERS  # too long to be read at all
    words = [] if long else list(dict.fromkeys(rows.words(text).split()))
    if long or len(words) > WORDS or any(len(word) > LETTERS for word in words):
        said = f"Pictures are searched by at most {WORDS} words of at most {LETTERS} letters"
        raise InvalidArguments(said, next_step="Search with fewer or shorter words")
    names = {name for slug, model in MODELS.items() for name in (slug, model.alias)}
    literals = {word: _literal(word) for word in words}
    longest = sorted(words, key=lambda word: (word in names, -len(word)))
    whole = [word for word in longest if word in names or (word.isdecimal() and not typed)]
    return [f"%{literals[word]}%" for word in longest] + [f"% {literals[word]} %" for word in whole]


def _literal(text: str) -> str:
    """A text as a part of a pattern of LIKE."""
    return re.sub(r"[%_\\]", r"\\\g<0>", text)
