"""The URL of a PostgreSQL database."""

import os
import re
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from urllib.parse import quote

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from mcp_vega.network.addresses import host_in_url

# libpq waits at least two seconds for a connection.
CONNECT_SECONDS = 2
# How many seconds without an answer break a connection. A server that was cut off must know that it has lost its lock
# before others continue its jobs. So `CLIENT` takes less time than `SERVER`, after which PostgreSQL releases the lock.
CLIENT = {"keepalives_idle": 2, "keepalives_interval": 1, "keepalives_count": 3}  # 2 + 3 × 1 seconds
SERVER = {"keepalives_idle": 3, "keepalives_interval": 2, "keepalives_count": 3}
CLIENT_MS, SERVER_MS = 5000, 9000

# How many connections a server uses at most, by purpose.
CONNECTIONS = {"writes": 4, "reads": 2, "slow-reads": 1, "deferred": 1, "session": 1}
CONNECTIONS_OF_A_SERVER = sum(CONNECTIONS.values())

# The URL's own options take precedence.
DEFAULTS: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "fallback_application_name": "mcp-vega",
    **CLIENT,
    "tcp_user_timeout": CLIENT_MS,
}


class InvalidUrlError(ValueError):
    """The URL cannot be used. Its parts are not named, because each may be a part of the password.

    The text is "", or an unknown option that follows the text of the message.
    """


@dataclass(frozen=True, repr=False)
class Address:
    """Where a database is, and how to log in there.

    Args:
        url: `postgresql://user:password@host:port/database?options`.
        namespace: The PostgreSQL schema with the tables; "" for the one that the server chooses, usually `public`.
    """

    url: str
    namespace: str = ""

    def parameters(self) -> dict[str, Any]:
        """Return the parameters for libpq.

        Raises:
            InvalidUrlError: The URL has no valid form.
        """
        try:
            found = conninfo_to_dict(self.url)
        except ProgrammingError as error:  # its text quotes the URL
            option = re.search('query parameter: "([a-z_]+)"', str(error))
            is_option = option is not None and "@" not in self.url.partition("?")[2]
            raise InvalidUrlError(f": it has the unknown option {option[1]}" if option and is_option else "") from None
        self._require_no_password_in(found)
        return {**DEFAULTS, **found, "client_encoding": "utf8"}

    @property
    def name(self) -> str:
        """The database's name for messages, without user and password: `host:port/database`."""
        try:
            found = self.parameters()
        except InvalidUrlError:
            return "(the URL is not valid)"
        host = found.get("host") or found.get("hostaddr") or os.environ.get("PGHOST") or "localhost"
        port = found.get("port") or os.environ.get("PGPORT") or 5432
        database = found.get("dbname") or os.environ.get("PGDATABASE") or found.get("user") or ""
        hosts = [host_in_url(each) for each in str(host).split(",")]
        servers = zip(hosts, cycle(str(port).split(",")), strict=False)
        return f"{','.join(f'{host}:{port or 5432}' for host, port in servers)}/{database}"

    def redacted(self, text: str) -> str:
        """Return a text without the URL's password."""
        try:
            password = str(conninfo_to_dict(self.url).get("password") or "")
        except ProgrammingError:
            return ""
        for form in {password, quote(password, safe="")} - {""}:
            text = text.replace(form, "***")
        return text

    def _require_no_password_in(self, parameters: dict[str, Any]) -> None:
        """Check that no part of the password has ended up in the host, the port or the database's name.

        That happens if its characters are not percent-encoded, as in `p@ss` and `p/ss`.
        """
        login_and_host = re.split("[/?]", self.url.partition("://")[2])[0]
        port = str(parameters.get("port") or "")
        if (
            login_and_host.count("@") > 1
            or "@" in str(parameters.get("dbname") or "")
            or not re.fullmatch("[0-9,]*", port)
        ):
            raise InvalidUrlError
