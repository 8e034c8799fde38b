"""Finds kept pictures by words, and ids by their beginnings."""

import logging
import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, TypeVar

import anyio

from mcp_vega.errors import InvalidArguments, LedgerError
from mcp_vega.job import OPERATOR, REQUEST_ID, Image, Job, JobImage
from mcp_vega.parameters import MODELS
from mcp_vega.storage.database.connection import Connection, Row, Work
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger import queries, rows

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAGE = 20
# More words than anyone searches for; each is looked for on its own.
WORDS, LETTERS = 50, 200
# Of an id that is named by its beginning.
FEWEST_DIGITS = 8
# How many ids are told of those that begin alike.
ALIKE = 5
_ADDRESS = re.compile("(?:vega://(?:images|jobs)|https?://.*?/images)/([^/?#]+)", re.IGNORECASE)
# A picture's file ends in digits of its id; a copy of it may have a number behind them.
_FILE = re.compile(r".*-([0-9a-f]{8}|[0-9a-f]{32})(?: ?\(\d+\))?(?:\.\w+)?", re.IGNORECASE)


@dataclass(frozen=True)
class ImageQuery:
    """Which pictures are looked for: those that `owner` may see, all of them or the `starred` ones.

    All words of `text` must be found in the prompt, the seed, the model, the day or the first eight digits of the id;
    upper and lower case are the same. A model's name has to match a whole word, and so has a number, unless it may be
    one that is still being `typed`; other words match a part of one.
    """

    text: str = ""
    owner: str = OPERATOR
    starred: bool = False
    typed: bool = False


class ImageSearch:
    """The pictures in the ledger. Every method raises a `LedgerError` where the file cannot be read or written."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # The numbers of pictures whose jobs cannot be read, as far as they were met: a page has as many as it is asked
        # for without them, and they do not count.
        self._unreadable = set[int]()
        # A search looks at every picture: of many at once, each other question waits for one of them at most.
        self._one_search = anyio.CapacityLimiter(1)

    async def page(self, query: ImageQuery, *, offset: int = 0, size: int = PAGE) -> tuple[list[JobImage], bool]:
        """The pictures that are looked for, the newest first, from `offset` on; and whether there are more.

        Raises:
            InvalidArguments: The query has too many words.
        """
        matches, values = _conditions(query)
        values |= {"limit": size + 1, "offset": offset}

        def look(connection: Connection) -> tuple[list[JobImage], bool]:
            while True:
                found = connection.execute(queries.PAGE.format(matches=matches + self._readable()), values)
                images = _images(connection, found[:size])
                ids = {kept.image.id for kept in images}
                unreadable = {row["number"] for row in found[:size] if row["id"] not in ids}
                if not unreadable:
                    return images, len(found) > size
                self._unreadable |= unreadable

        return await self._read(query, look)

    async def count(self, query: ImageQuery) -> int:
        """How many pictures there are of those that are looked for; raises as `page` does."""
        matches, values = _conditions(query)
        statement = queries.COUNT.format(matches=matches + self._readable())
        (row,) = await self._read(query, lambda connection: connection.execute(statement, values))
        return row["pictures"]

    async def _read(self, query: ImageQuery, work: Work[T]) -> T:
        if not query.text:
            return await self._database.read(work)
        async with self._one_search:
            return await self._database.read(work)

    def _readable(self) -> str:
        numbers = ", ".join(map(str, sorted(self._unreadable)))
        return f" AND number NOT IN ({numbers})" if numbers else ""

    async def image(self, image_id: str) -> JobImage | None:
        """The picture with this id and its job."""
        return next(iter(await self._found("SELECT id, job FROM images WHERE id = :id", id=image_id)), None)

    async def id_named(self, text: str, owner: str = OPERATOR) -> str:
        """The whole id of the picture or job that `owner` names.

        It may be named by an id, eight digits of its beginning or more, a `vega://` URI, a picture's URL, or the name
        or path of a kept file.

        Returns:
            The id; where nothing is found, what looks most like one.

        Raises:
            InvalidArguments: Several begin like this.
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
        """The id of a picture or job that is this or begins like this; None where there is none."""
        if not re.fullmatch(REQUEST_ID, beginning):
            return None
        small = beginning.lower()
        names = {"name": beginning, "small": small, "local": f"local-{small}"}
        ends = {f"{key}_end": f"{name}~" for key, name in names.items()}
        values = {**names, **ends, "owner": owner, "limit": ALIKE + 1}
        found = await self._database.read(lambda connection: connection.execute(queries.NAMED, values))
        ids = {row["job"]: row["id"] for row in found}
        ids = {job: each for job, each in ids.items() if beginning in (job, each)} or ids
        if len(ids) > 1:
            shown = ", ".join([*ids.values()][:ALIKE]) + (", …" if len(ids) > ALIKE else "")
            raise InvalidArguments(f"Several ids begin with {beginning!r}: {shown}", next_step="Name one of them")
        return next(iter(ids.values()), None)

    async def before(self, moment: datetime) -> list[JobImage]:
        """The pictures of jobs that were begun before a moment, are finished and answered for, the oldest first.

        Those with a star are left out.
        """
        return await self._found(queries.BEFORE, moment=rows.moment(moment))

    async def _found(self, statement: str, **values: str | None) -> list[JobImage]:
        def look(connection: Connection) -> list[JobImage]:
            return _images(connection, connection.execute(statement, values))

        return await self._database.read(look)

    async def starred_before(self, moment: datetime) -> int:
        """How many pictures that were begun before a moment have a star."""
        values = {"moment": rows.moment(moment)}
        (row,) = await self._database.read(lambda connection: connection.execute(queries.STARRED_BEFORE, values))
        return row["pictures"]

    async def mark_starred(self, image_id: str, *, starred: bool) -> bool:
        """Note that a picture has a star, or has none any more; returns False where the ledger does not have it."""
        values = {"id": image_id, "starred": starred}
        return bool(await self._database.write(lambda connection: connection.execute(queries.MARK_STARRED, values)))

    async def mark_deleted(self, image: Image, moment: datetime, *, spare_starred: bool = False) -> bool:
        """Note when a picture's file was deleted; how it was drawn stays.

        Returns False, and notes nothing, where it is not in that place any more, was deleted already, or has a star
        that is to spare it.
        """
        values = {"id": image.id, "moment": rows.moment(moment), "spare_starred": spare_starred}
        values |= image.location._asdict()
        return bool(await self._database.write(lambda connection: connection.execute(queries.MARK_DELETED, values)))

    async def unmark_deleted(self, image: Image) -> None:
        """Note that a picture's file was not deleted after all; it is written later where the ledger is locked."""
        values = {"id": image.id}
        self._database.defer(lambda connection: connection.execute(queries.UNMARK_DELETED, values), at_once=True)
        with suppress(LedgerError):
            await self._database.write(lambda _: None)

    async def image_ids(self, beginning: str, limit: int, owner: str = OPERATOR) -> list[str]:
        """The ids of kept pictures that begin like this, the newest first."""
        return await self._ids(queries.IMAGE_IDS, queries.IMAGE_ID_BEGINS, beginning, limit, owner)

    async def names(self, typed: str, limit: int, owner: str = OPERATOR) -> list[tuple[str, str]]:
        """Ids and file names of kept pictures, by words as `page` finds them, or by the beginning of the name.

        Names that begin with the typed text come first, then the newest. Raises as `page` does.
        """
        query, begins = ImageQuery(typed, owner, typed=True), queries.NAME_BEGINS
        matches, values = _conditions(query)
        order = f"{begins} DESC," if typed else ""  # else an index has the order
        statement = queries.NAMES.format(matches=matches + self._readable(), begins=begins, order=order)
        values |= {"name": f"%/{_literal(typed)}%", "limit": limit}
        found = await self._read(query, lambda connection: connection.execute(statement, values))
        return [(row["id"], PurePosixPath(row["key"]).name) for row in found]

    async def request_ids(self, beginning: str, limit: int, owner: str = OPERATOR) -> list[str]:
        """The request ids of jobs that begin like this, the newest first."""
        return await self._ids(queries.REQUEST_IDS, queries.REQUEST_ID_BEGINS, beginning, limit, owner)

    async def _ids(self, statement: str, begins: str, beginning: str, limit: int, owner: str) -> list[str]:
        statement = statement.format(matches=begins if beginning else "")
        values: dict[str, Any] = {"limit": limit, "owner": owner}
        # No id has a letter beyond this last one.
        values |= {"beginning": beginning, "end": f"{beginning}~"} if beginning else {}

        def look(connection: Connection) -> list[str]:
            return [row["id"] for row in connection.execute(statement, values)]

        return await self._database.read(look)


def _conditions(query: ImageQuery) -> tuple[str, dict[str, Any]]:
    """What is asked of the rows of pictures, in SQL and its values."""
    patterns = _patterns(query.text, typed=query.typed)
    values: dict[str, Any] = {f"pattern_{index}": pattern for index, pattern in enumerate(patterns)}
    conditions = [queries.MATCH.format(name=name) for name in values]
    if query.text.strip() and not patterns:
        conditions += [queries.NONE]  # nothing but punctuation
    if query.starred:
        conditions += [queries.IS_STARRED]
    if query.owner != OPERATOR:
        conditions += [queries.IS_OF]
    return " ".join(conditions), {**values, "owner": query.owner}


def _patterns(text: str, *, typed: bool) -> list[str]:
    """What the words of a picture have to be like to hold those of a query.

    What rules out the most comes first: long words, and of a word that has to match as a whole its letters alone, as
    the spaces beside it are found everywhere.
    """
    long = len(text) > 2 * WORDS * LETTERS  # it is not even looked at
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


def read_jobs(
    connection: Connection, found: Iterable[Row], alive: Collection[str] = (), *, readable: bool = False
) -> list[Job]:
    """Jobs from their rows, with their pictures, held where their holder is one of `alive`.

    With `readable`, without those that an accident made unreadable.

    Raises:
        ValueError: One was not written by this version.
    """
    jobs: list[Job] = []
    for row in found:
        images = connection.execute("SELECT * FROM images WHERE job = :local_id", {"local_id": row["local_id"]})
        try:
            jobs.append(rows.from_row(row, images, held=row["holder"] in alive))
        except ValueError as error:
            if not readable:
                raise
            logger.warning("In the ledger, %s", error)
    return jobs


def _images(connection: Connection, found: Iterable[Row]) -> list[JobImage]:
    """Pictures from their ids and those of their jobs; without those of a job that cannot be read."""
    kept: list[JobImage] = []
    for row in found:
        jobs = connection.execute("SELECT * FROM jobs WHERE local_id = :job", {"job": row["job"]})
        for job in read_jobs(connection, jobs, readable=True):
            kept += [JobImage(job, image) for image in job.images if image.id == row["id"]]
    return kept
