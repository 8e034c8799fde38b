"""The URL of a PostgreSQL database. It is checked here, because PostgreSQL's own errors quote parts of a wrong URL.

A password with a character such as `@` or `/` ends the user or the host too early, so that an error about the host
would show the rest of the password. Therefore no error here repeats anything of the URL except the names of options.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote

EXAMPLE = "postgresql://user:password@host:5432/database"
_URL = re.compile(
    r"postgres(?:ql)?://(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?(?P<hosts>[^@/?#]*)"
    r"(?:/(?P<database>[^@/?#]*))?(?:\?(?P<options>[^@#]*))?",
)
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(?::(?P<port>[0-9]*))?")
_HAS_PORT = re.compile(r"[^:]:[0-9]+$")
_ENCODE = "percent-encode special characters in the user name and password: @ is %40, / is %2F, : is %3A, # is %23"


class LedgerUrl(NamedTuple):
    """The parts of the URL that are shown, and the passwords: for the login, and of the client's key file."""

    hosts: str
    database: str
    socket: str
    passwords: tuple[str, str]

    @property
    def name(self) -> str:
        """The URL without user, password and options."""
        if self.socket:
            return f"postgresql:///{self.database}?host={self.socket}"
        return f"postgresql://{self.hosts}{self.database and '/'}{self.database}"


def usual_url(url: str) -> str:
    """The URL with its scheme in lower case, as PostgreSQL's client needs it.

    Raises:
        ValueError: PostgreSQL's client would not understand it, or not as it was meant.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        if re.match(r"\s*(host|hostaddr|port|dbname|user|password|service|sslmode)\s*=", url):
            raise ValueError(f"it must be a URL such as {EXAMPLE}: the form with key=value is not accepted")
        raise ValueError(f"it must be a URL such as {EXAMPLE}; the folder of the SQLite file is in MCP_VEGA_HOME")
    if scheme.lower() not in ("postgresql", "postgres"):
        raise ValueError(f"it must begin with postgresql://, such as {EXAMPLE}")
    if not rest.isprintable() or " " in rest:
        raise ValueError("it must not contain spaces or control characters")
    url = f"{scheme.lower()}://{rest}"
    found = _URL.fullmatch(url)
    if found is None or re.search("%(?![0-9A-Fa-f]{2})|%00", rest):
        raise ValueError(_ENCODE)
    _require_options(found["options"] or "")
    parts = parsed(url)
    for host in found["hosts"].split(",") if found["hosts"] else ():
        matched = _HOST.fullmatch(host)
        if matched is None:
            raise ValueError(f"its host or port is not valid; {_ENCODE}")
        if matched["port"] and not 1 <= int(matched["port"]) <= 65535:
            raise ValueError("its port must be a number from 1 to 65535")
    if not (found["hosts"] or parts.socket or parts.hosts):
        raise ValueError(f"it names no host: write {EXAMPLE}, or a socket's folder as in ?host=/run/postgresql")
    return url


def _require_options(options: str) -> None:
    for option in filter(None, options.split("&")):
        if not re.fullmatch("[A-Za-z_]+=.*", option):
            raise ValueError("each option after the ? must be written as name=value, with & in between")


def parsed(url: str) -> LedgerUrl:
    """The parts of a usable URL."""
    found = _URL.fullmatch(url)
    assert found  # noqa: S101  `usual_url` has checked it
    pairs = (option.partition("=") for option in (found["options"] or "").split("&"))
    options = {name: unquote(value) for name, _, value in pairs}  # unlike in forms, a plus is a plus
    hosts = options.get("host") or options.get("hostaddr") or unquote(found["hosts"])
    database = options.get("dbname") or unquote(found["database"] or "")
    socket = hosts if hosts.startswith(("/", "@")) else ""
    port = options.get("port", "5432")
    shown = ",".join(each if _HAS_PORT.search(each) else f"{each.rstrip(':')}:{port}" for each in hosts.split(","))
    password = options.get("password") or unquote(found["password"] or "")
    return LedgerUrl(shown if hosts else "", database, socket, (password, options.get("sslpassword", "")))
