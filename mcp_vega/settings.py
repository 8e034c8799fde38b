"""Every environment variable of this package, read once at the edge."""

import ipaddress
import os
import re
import string
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator

from mcp_vega.errors import InvalidSettings

VENDOR_URL = "https://api.segmind.com"
VENDOR_HISTORY_URL = "https://api.spotprod.segmind.com/inference-request/request-history"

# What pasting leaves around a value; a browser or a word processor adds some that nobody sees.
_SPACE = "\ufeff\u200b\u00a0" + string.whitespace
_QUOTES = "\"'`‘’‚“”„«»"  # noqa: RUF001  those of several languages
NO_UTF8 = "not UTF-8, so no result could name it"
# In the place of pydantic's own words. Nothing is guessed: what a comma means differs, and a wrong limit costs money.
_WORDS = {
    **dict.fromkeys(("decimal_parsing", "float_parsing"), "must be a number in digits, without a comma, such as 0.50"),
    **dict.fromkeys(("int_parsing", "int_from_float"), "must be a whole number in digits, such as 5"),
    "bool_parsing": "must be 1 or 0",
}


def _plain(value: str) -> str:
    """A value without the space around it, and without quotes that a shell would have taken off."""
    value = value.strip(_SPACE)
    inner = value[1:-1]
    if len(value) > 1 and value[0] in _QUOTES and value[-1] in _QUOTES and not {value[0], value[-1]} & {*inner}:
        return _plain(inner)
    return value


def _comma_separated(value: Any) -> Any:
    return tuple(part for each in value.split(",") if (part := _plain(each))) if isinstance(value, str) else value


def _bare(key: Any) -> Any:
    return (key.strip(_SPACE + _QUOTES) or None) if isinstance(key, str) else key


def _without_dollars(amount: str) -> str:
    return re.sub(r"^(US\$|\$|USD)\s*|\s*(US\$|\$|USD)$", "", amount, flags=re.IGNORECASE)


def _is_utf8(folder: Path) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in str(folder))


Names = Annotated[tuple[str, ...], BeforeValidator(_comma_separated)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_comma_separated)]


class Settings(BaseModel):
    """The settings; each field's alias is its environment variable. An empty variable counts as unset.

    So does one that is a placeholder `${user_config.…}` which a host did not fill. Space and quotes around a value are
    taken off; capitals do not matter in one that is one of some words.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    api_key: Annotated[SecretStr | None, BeforeValidator(_bare)] = Field(
        default=None, alias="SEGMIND_API_KEY", description="Your Segmind API key. Not needed with `--sandbox`."
    )
    base_url: str = Field(
        default=VENDOR_URL, alias="SEGMIND_BASE_URL", description="The API; https, or http on loopback."
    )
    history_url: str = Field(
        default="",
        alias="SEGMIND_HISTORY_URL",
        description="The API's request history, asked how a call ended whose answer never came; the vendor's, or the "
        "base URL's own when that was changed.",
    )
    gallery: Path | None = Field(
        default=None,
        alias="MCP_VEGA_GALLERY",
        description="The folder where every picture is kept; `mcp-vega` in your pictures folder unless set.",
    )
    home: Path | None = Field(
        default=None,
        alias="MCP_VEGA_HOME",
        description="The folder of the ledger, where every job is written down; the platform's folder for a user's "
        "application data unless set.",
    )
    wait_seconds: float = Field(
        default=45,
        ge=0,
        le=3600,
        alias="MCP_VEGA_WAIT_SECONDS",
        description="How long a call waits for its pictures before it hands back a request id.",
    )
    preview: Annotated[Literal["auto", "small", "full", "off"], BeforeValidator(str.lower)] = Field(
        default="auto",
        alias="MCP_VEGA_PREVIEW",
        description="The pictures inside a result: `auto` up to 768 px, `small` up to 512 px, `full` size "
        "(700 kB a result), or `off`.",
    )
    media_hosts: Names = Field(
        default=(),
        alias="MCP_VEGA_MEDIA_HOSTS",
        description="Further hosts that finished pictures may be fetched from, comma-separated.",
    )
    spending_limit_usd: Annotated[Decimal | None, BeforeValidator(_without_dollars)] = Field(
        default=None,
        ge=0,
        le=10**9,
        alias="MCP_VEGA_SPENDING_LIMIT_USD",
        description="US dollars that all servers together may spend in a UTC day; no limit unless set.",
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        alias="MCP_VEGA_REQUESTS_PER_MINUTE",
        description="Paid calls that all servers together send in a minute, such as your plan's limit; further ones "
        "wait their turn. No limit unless set.",
    )
    auth_tokens: Secrets = Field(
        default=(),
        alias="MCP_VEGA_AUTH_TOKENS",
        description="For `sse` and `http`: access tokens, comma-separated, each `token` or `name:token`; each caller "
        "sees their own jobs and pictures, which a name keeps when its token changes.",
    )
    token: SecretStr | None = Field(
        default=None, alias="MCP_VEGA_TOKEN", description="The access token that `install --url` writes into an entry."
    )
    allowed_hosts: Names = Field(
        default=(),
        alias="MCP_VEGA_ALLOWED_HOSTS",
        description="For `sse` and `http`: hosts accepted in the `Host` and `Origin` headers beside loopback, "
        "comma-separated, with or without a port.",
    )
    sandbox: bool = Field(
        default=False,
        alias="MCP_VEGA_SANDBOX",
        description="`1` is the same as `--sandbox`: no key, no network, no cost.",
    )
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)] = Field(
        default="WARNING", alias="MCP_VEGA_LOG_LEVEL", description="How much is logged to stderr."
    )

    @field_validator("base_url", "history_url")
    @classmethod
    def _safe_for_a_key(cls, url: str) -> str:
        if not url:
            return url
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError) as error:
            raise ValueError("is no URL") from error
        if not parsed.host or not (parsed.scheme == "https" or (parsed.scheme == "http" and is_loopback(parsed.host))):
            raise ValueError("must begin with https:// (or http:// on loopback) and a host: the key is sent there")
        if (parsed.port or 0) > 65535:
            raise ValueError("must have a port of at most 65535")
        if parsed.userinfo:
            raise ValueError("must hold no user name or password: it is written down and shown")
        # In its usual spelling, which the ledger compares; a scheme in capitals is only now one whose port is known.
        return str(httpx.URL(str(parsed))).rstrip("/")

    @field_validator("gallery", "home")
    @classmethod
    def _anywhere_the_same(cls, folder: Path | None) -> Path | None:
        try:
            folder = folder and folder.expanduser()
        except RuntimeError as error:
            raise ValueError("names the home folder of a user who has none") from error
        if folder and not _is_utf8(folder):
            raise ValueError(f"is {NO_UTF8}")
        if folder and not folder.is_absolute():
            raise ValueError("must be an absolute path or begin with ~, because a host may start the server anywhere")
        return folder

    @field_validator("allowed_hosts")
    @classmethod
    def _names_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:(\d{1,5}|\*))?", host):
                raise ValueError(f"must name hosts such as pictures.example or pictures.example:8000, not {host!r}")
        return hosts

    @field_validator("auth_tokens")
    @classmethod
    def _plain_parts(cls, tokens: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not tokens:
            raise ValueError("holds no token")
        parts = (each.get_secret_value().split(":", 1) for each in tokens)
        return tuple(SecretStr(":".join(map(_plain, each))) for each in parts)

    @property
    def request_history_url(self) -> str:
        """Where the request history is asked for."""
        if self.history_url:
            return self.history_url
        if self.base_url == VENDOR_URL:
            return VENDOR_HISTORY_URL
        return f"{self.base_url}/inference-request/request-history"

    @property
    def gallery_folder(self) -> Path:
        """Where the pictures are kept; those of the sandbox apart."""
        return (self.gallery or _default_gallery()) / ("sandbox" if self.sandbox else "")

    @property
    def home_folder(self) -> Path:
        """Where the ledger is kept; that of the sandbox apart."""
        return (self.home or _default_home()) / ("sandbox" if self.sandbox else "")

    @property
    def ledger_file(self) -> Path:
        """The ledger."""
        return self.home_folder / "ledger.sqlite3"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the settings.

        Raises:
            InvalidSettings: A variable has a value that cannot be used.
        """
        names = {field.alias for field in cls.model_fields.values()}
        plain = {name: _plain(value) for name, value in environment.items() if name in names}
        try:
            return cls.model_validate({name: value for name, value in plain.items() if _is_set(name, value)})
        except ValidationError as error:
            first = error.errors()[0]
            said = _WORDS.get(first["type"]) or first["msg"].removeprefix("Value error, ")
            raise InvalidSettings(f"The environment variable {first['loc'][0]} cannot be used: {said}") from None

    @classmethod
    def of_nothing(cls) -> Self:
        """Settings for a server that cannot do anything, with folders in which nothing can be made."""
        nowhere = Path(os.devnull).absolute()
        return cls(MCP_VEGA_GALLERY=nowhere, MCP_VEGA_HOME=nowhere)

    def require_folders(self) -> None:
        """Check that the folders are known.

        Raises:
            InvalidSettings: One is not set, and this user has none that could be the default.
        """
        _ = self.gallery_folder, self.home_folder


def _is_set(name: str, value: str) -> bool:
    """Whether a variable has a value; a bundle's host passes a placeholder for what its user left empty.

    That of the key is kept: the error names it.
    """
    return bool(value) and (name == "SEGMIND_API_KEY" or not re.fullmatch(r"\$\{user_config\.[^{}]*\}", value))


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _default_gallery() -> Path:
    from platformdirs import user_pictures_path

    return _known("MCP_VEGA_GALLERY", user_pictures_path) / "mcp-vega"


def _default_home() -> Path:
    from platformdirs import user_data_path

    return _known("MCP_VEGA_HOME", lambda: user_data_path("mcp-vega", appauthor=False))


def _known(variable: str, find: Callable[[], Path]) -> Path:
    """A folder of this user's that the platform knows.

    Raises:
        InvalidSettings: It knows none, or one that cannot be used.
    """
    step = f"Set {variable} to the absolute path of a folder that this user may write to"
    try:
        folder = find()
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():
        raise InvalidSettings(
            f"{variable} is not set, and this user has no home folder, or a relative one", next_step=step
        )
    if not _is_utf8(folder):
        raise InvalidSettings(f"{variable} is not set, and its default, {folder}, is {NO_UTF8}", next_step=step)
    return folder
