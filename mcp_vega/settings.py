"""Every environment variable of this package, read once when a command starts."""

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

# Characters that pasting may leave around a value. Browsers and word processors add invisible ones.
_SPACE = "\ufeff\u200b\u00a0" + string.whitespace
_QUOTES = "\"'`‘’‚“”„«»"  # noqa: RUF001  the quotation marks of several languages
_NOT_UTF8 = "not valid UTF-8, so no result could show it"
# They replace pydantic's messages. A comma is refused: its meaning differs by country, and a wrong limit costs money.
_MESSAGES = {
    **dict.fromkeys(("decimal_parsing", "float_parsing"), "it must be a number without comma or unit, such as 0.50"),
    **dict.fromkeys(("int_parsing", "int_from_float"), "it must be a whole number, such as 5"),
    "bool_parsing": "it must be 1 or 0",
}


def _trimmed(value: str) -> str:
    """A value without the space around it, and without the quotes that a shell would have removed."""
    value = value.strip(_SPACE)
    inner = value[1:-1]
    if len(value) > 1 and value[0] in _QUOTES and value[-1] in _QUOTES and not {value[0], value[-1]} & {*inner}:
        return _trimmed(inner)
    return value


def _comma_separated(value: Any) -> Any:
    return tuple(part for each in value.split(",") if (part := _trimmed(each))) if isinstance(value, str) else value


def _trimmed_key(key: Any) -> Any:
    return (key.strip(_SPACE + _QUOTES) or None) if isinstance(key, str) else key


def _without_dollars(amount: str) -> str:
    return re.sub(r"^(US\$|\$|USD)\s*|\s*(US\$|\$|USD)$", "", amount, flags=re.IGNORECASE)


def _is_utf8(folder: Path) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in str(folder))


Names = Annotated[tuple[str, ...], BeforeValidator(_comma_separated)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_comma_separated)]


class Settings(BaseModel):
    """The settings. Each field's alias is its environment variable. An empty variable counts as unset.

    A placeholder `${user_config.…}` that a host did not fill in counts as unset, too. Space and quotes around a value
    are removed. A value from a fixed list of words may be in capitals or in lower case.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    api_key: Annotated[SecretStr | None, BeforeValidator(_trimmed_key)] = Field(
        default=None, alias="SEGMIND_API_KEY", description="Your Segmind API key. Not needed with `--sandbox`."
    )
    base_url: str = Field(
        default=VENDOR_URL, alias="SEGMIND_BASE_URL", description="The address of the API: https, or http on loopback."
    )
    history_url: str = Field(
        default="",
        alias="SEGMIND_HISTORY_URL",
        description="The address of the API's request history. If the answer to a call is lost, the server looks there "
        "for how it ended. Default: the vendor's; if `SEGMIND_BASE_URL` is set, an address on that host.",
    )
    gallery: Path | None = Field(
        default=None,
        alias="MCP_VEGA_GALLERY",
        description="The folder where all pictures are kept. Default: `mcp-vega` in your pictures folder.",
    )
    home: Path | None = Field(
        default=None,
        alias="MCP_VEGA_HOME",
        description="The folder of the ledger, the database of all jobs. Default: the platform's folder for a user's "
        "application data.",
    )
    wait_seconds: float = Field(
        default=45,
        ge=0,
        le=3600,
        alias="MCP_VEGA_WAIT_SECONDS",
        description="How many seconds a call waits for its pictures before it returns a request id instead.",
    )
    preview: Annotated[Literal["auto", "small", "full", "off"], BeforeValidator(str.lower)] = Field(
        default="auto",
        alias="MCP_VEGA_PREVIEW",
        description="The size of the pictures inside a result: `auto` up to 768 px, `small` up to 512 px, `full` size "
        "(up to 700 kB per result), or `off` for none.",
    )
    media_hosts: Names = Field(
        default=(),
        alias="MCP_VEGA_MEDIA_HOSTS",
        description="More hosts from which finished pictures may be downloaded, comma-separated.",
    )
    spending_limit_usd: Annotated[Decimal | None, BeforeValidator(_without_dollars)] = Field(
        default=None,
        ge=0,
        le=10**9,
        alias="MCP_VEGA_SPENDING_LIMIT_USD",
        description="How many US dollars all servers together may spend in a UTC day. Default: no limit.",
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        alias="MCP_VEGA_REQUESTS_PER_MINUTE",
        description="How many paid calls all servers together may send in a minute, such as your plan's limit. More "
        "calls than that wait. Default: no limit.",
    )
    auth_tokens: Secrets = Field(
        default=(),
        alias="MCP_VEGA_AUTH_TOKENS",
        description="For `sse` and `http`: access tokens, comma-separated, each `token` or `name:token`. Each caller "
        "sees only their own jobs and pictures. A caller with a name keeps them when the token changes.",
    )
    token: SecretStr | None = Field(
        default=None, alias="MCP_VEGA_TOKEN", description="The access token that `install --url` writes into an entry."
    )
    allowed_hosts: Names = Field(
        default=(),
        alias="MCP_VEGA_ALLOWED_HOSTS",
        description="For `sse` and `http`: hosts accepted in the `Host` and `Origin` headers besides loopback, "
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
    def _valid_url(cls, url: str) -> str:
        if not url:
            return url
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError) as error:
            raise ValueError("it is not a URL") from error
        if not parsed.host or not (parsed.scheme == "https" or (parsed.scheme == "http" and is_loopback(parsed.host))):
            raise ValueError("it must begin with https:// and a host (or http:// on loopback): the key is sent there")
        if (parsed.port or 0) > 65535:
            raise ValueError("its port must be at most 65535")
        if parsed.userinfo:
            raise ValueError("it must not contain a user name or password, because the address is stored")
        # The ledger compares addresses, so each needs one spelling. Only the second parsing removes the port of
        # HTTPS://host:443: httpx knows the default ports of schemes in lower case only.
        return str(httpx.URL(str(parsed))).rstrip("/")

    @field_validator("gallery", "home")
    @classmethod
    def _absolute_folder(cls, folder: Path | None) -> Path | None:
        try:
            folder = folder and folder.expanduser()
        except RuntimeError as error:
            raise ValueError("it names a home folder that is not known") from error
        if folder and not _is_utf8(folder):
            raise ValueError(f"it is {_NOT_UTF8}")
        if folder and not folder.is_absolute():
            raise ValueError("it must be an absolute path or begin with ~: a host may start the server in any folder")
        return folder

    @field_validator("allowed_hosts")
    @classmethod
    def _valid_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:(\d{1,5}|\*))?", host):
                raise ValueError(f"it must name hosts such as pictures.example or pictures.example:8000, not {host!r}")
        return hosts

    @field_validator("auth_tokens")
    @classmethod
    def _trimmed_tokens(cls, tokens: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not tokens:
            raise ValueError("it contains no token")
        parts = (each.get_secret_value().split(":", 1) for each in tokens)
        return tuple(SecretStr(":".join(map(_trimmed, each))) for each in parts)

    @property
    def request_history_url(self) -> str:
        """The address of the request history."""
        if self.history_url:
            return self.history_url
        if self.base_url == VENDOR_URL:
            return VENDOR_HISTORY_URL
        return f"{self.base_url}/inference-request/request-history"

    @property
    def gallery_folder(self) -> Path:
        """The folder of the pictures. The sandbox has a folder of its own in it."""
        return (self.gallery or _default_gallery()) / ("sandbox" if self.sandbox else "")

    @property
    def home_folder(self) -> Path:
        """The folder of the ledger. The sandbox has a folder of its own in it."""
        return (self.home or _default_home()) / ("sandbox" if self.sandbox else "")

    @property
    def ledger_file(self) -> Path:
        """The file of the ledger."""
        return self.home_folder / "ledger.sqlite3"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the settings.

        Raises:
            InvalidSettings: A variable has a value that cannot be used.
        """
        names = {field.alias for field in cls.model_fields.values()}
        trimmed = {name: _trimmed(value) for name, value in environment.items() if name in names}
        try:
            return cls.model_validate({name: value for name, value in trimmed.items() if _is_set(name, value)})
        except ValidationError as error:
            first = error.errors()[0]
            reason = _MESSAGES.get(first["type"]) or first["msg"].removeprefix("Value error, ")
            raise InvalidSettings(f"The environment variable {first['loc'][0]} cannot be used: {reason}") from None

    @classmethod
    def placeholder(cls) -> Self:
        """Settings for a server whose own settings are wrong. Nothing can be created in their folders."""
        nowhere = Path(os.devnull).absolute()
        return cls(MCP_VEGA_GALLERY=nowhere, MCP_VEGA_HOME=nowhere)

    def require_folders(self) -> None:
        """Check that the folders are known.

        Raises:
            InvalidSettings: A folder is not set, and this user has no default for it.
        """
        _ = self.gallery_folder, self.home_folder


def _is_set(name: str, value: str) -> bool:
    """Whether a variable has a value.

    The host of a bundle passes a placeholder for a setting that its user left empty. Such a placeholder is not a value.
    The key's placeholder is kept, because the error names it.
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

    return _default_folder("MCP_VEGA_GALLERY", user_pictures_path) / "mcp-vega"


def _default_home() -> Path:
    from platformdirs import user_data_path

    return _default_folder("MCP_VEGA_HOME", lambda: user_data_path("mcp-vega", appauthor=False))


def _default_folder(variable: str, find: Callable[[], Path]) -> Path:
    """The folder that the platform provides for this user.

    Raises:
        InvalidSettings: There is no such folder, or it cannot be used.
    """
    step = f"Set {variable} to the absolute path of a folder that this user may write to"
    try:
        folder = find()
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():
        raise InvalidSettings(
            f"{variable} is not set, and this user's home folder is unknown or not an absolute path", next_step=step
        )
    if not _is_utf8(folder):
        raise InvalidSettings(f"{variable} is not set, and its default, {folder}, is {_NOT_UTF8}", next_step=step)
    return folder
