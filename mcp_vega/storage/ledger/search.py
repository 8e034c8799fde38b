"""Finds kept pictures by words, and ids by their beginnings."""

import logging
import re
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from mcp_vega.errors import InvalidArguments
from mcp_vega.job import OPERATOR, REQUEST_ID, Job, JobImage
from mcp_vega.parameters import MODELS
from mcp_vega.storage.database.connection import Connection, Row
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger import queries, rows

logger = logging.getLogger(__name__)

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


class ImageSearch:
    """The pictures in the ledger. Every method raises a `LedgerError` where the file cannot be read or written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, query: str = "", number: int = 1, size: int = PAGE, owner: str = OPERATOR
    ) -> tuple[list[JobImage], bool]:
        """Page `number`, from 1, of the pictures that `owner` may see, the newest first; and whether there are more.

        All words of the query must be found in the prompt, the seed, the model or the day; upper and lower case are
        the same. A number or a model's name has to match a whole word, other words a part of one.

        Raises:
            InvalidArguments: The query has too many words.
        """
        patterns = _patterns(query)
        if query.strip() and not patterns:
            return [], False  # nothing but punctuation
        values = {f"pattern_{index}": pattern for index, pattern in enumerate(patterns)}
        whose = [] if owner == OPERATOR else [queries.IS_OF]
        matches = " ".join([*whose, *(queries.MATCH.format(name=name) for name in values)])
        statement = queries.PAGE.format(matches=matches)
        limits = {"owner": owner, "limit": size + 1, "offset": (number - 1) * size}

        def look(connection: Connection) -> tuple[list[JobImage], bool]:
            found = connection.execute(statement, {**values, **limits})
            return _images(connection, found[:size]), len(found) > size

        return await self._database.read(look)

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
        """The pictures of finished jobs that were begun before a moment and answered for, the oldest first."""
        return await self._found(queries.BEFORE, moment=rows.moment(moment))

    async def _found(self, statement: str, **values: str | None) -> list[JobImage]:
        def look(connection: Connection) -> list[JobImage]:
            return _images(connection, connection.execute(statement, values))

        return await self._database.read(look)

    async def mark_deleted(self, image_id: str, moment: datetime | None) -> None:
        """Note when a picture's file was deleted, or that it was not; how it was drawn stays."""
        values = {"id": image_id, "moment": rows.moment(moment)}
        await self._database.write(lambda connection: connection.execute(queries.MARK_DELETED, values))

    async def image_ids(self, beginning: str, limit: int, owner: str = OPERATOR) -> list[str]:
        """The ids of kept pictures that begin like this, the newest first."""
        return await self._ids(queries.IMAGE_IDS, queries.IMAGE_ID_BEGINS, beginning, limit, owner)

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


def _patterns(query: str) -> list[str]:
    """What the words of a picture have to be like to hold those of a query.

    What rules out the most comes first: long words, and of a word that has to match as a whole its letters alone, as
    the spaces beside it are found everywhere.
    """
    long = len(query) > 2 * WORDS * LETTERS  # it is not even looked at
    words = [] if long else list(dict.fromkeys(rows.words(query).split()))
    if long or len(words) > WORDS or any(len(word) > LETTERS for word in words):
        said = f"Pictures are searched by at most {WORDS} words of at most {LETTERS} letters"
        raise InvalidArguments(said, next_step="Search with fewer or shorter words")
    names = {name for slug, model in MODELS.items() for name in (slug, model.alias)}
    literals = {word: re.sub(r"[%_\\]", r"\\\g<0>", word) for word in words}
    longest = sorted(words, key=lambda word: (word in names, -len(word)))
    whole = [word for word in longest if word in names or word.isdecimal()]
    return [f"%{literals[word]}%" for word in longest] + [f"% {literals[word]} %" for word in whole]


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
