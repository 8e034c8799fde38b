"""Where the pictures are: which of them are not in the first store, and which old copies of moved pictures are left."""

from datetime import datetime
from typing import NamedTuple

from mcp_vega.job import Image, ImageLocation
from mcp_vega.storage.database.connection import Connection
from mcp_vega.storage.database.database import Database
from mcp_vega.storage.ledger.sql import image_queries, rows


class OldCopy(NamedTuple):
    """The place where a picture's file was before the picture was moved, and the picture as it is now."""

    location: ImageLocation
    image: Image


class ImageLocations:
    """The pictures' places in the ledger. Every method raises a `LedgerError` if it cannot be read or written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def pending(self, moment: datetime) -> tuple[list[Image], list[OldCopy]]:
        """Return the pictures that are not in the first store, oldest first, and the copies to delete.

        Copies are due if their picture was moved before `moment` (UTC), or was deleted.
        """

        def look(connection: Connection) -> tuple[list[Image], list[OldCopy]]:
            images = [rows.image_from_row(row) for row in connection.execute(image_queries.FALLBACKS)]
            copies = [
                OldCopy(ImageLocation(row["old_store"], row["old_key"]), rows.image_from_row(row))
                for row in connection.execute(image_queries.OLD_COPIES, {"moment": moment})
            ]
            return images, copies

        return await self._database.read(look)

    async def move(self, image: Image, location: ImageLocation, moment: datetime) -> Image | None:
        """Note that a picture was moved at a moment (UTC), and that its old file is still there.

        Writes nothing if the picture is no longer in its old place, or was deleted.

        Returns:
            The picture as the ledger has it now; None if there is none with its id.
        """
        values = {"id": image.id, "store": location.store, "key": location.key, "moment": moment}
        values |= {"old_store": image.location.store, "old_key": image.location.key}

        def move(connection: Connection) -> Image | None:
            if connection.execute(image_queries.MOVE, values):
                connection.execute(image_queries.NOTE_COPY, values)
            found = connection.execute("SELECT * FROM images WHERE id = :id", values)
            return rows.image_from_row(found[0]) if found else None

        return await self._database.write(move)

    async def forget_copy(self, location: ImageLocation) -> None:
        """Note that the old copy of a moved picture is gone."""
        await self._database.write(lambda connection: connection.execute(image_queries.FORGET_COPY, location._asdict()))
