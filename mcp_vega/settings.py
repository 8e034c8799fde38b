"""Every environment variable of this package, read once at the edge."""

import ipaddress
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import httpx
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator

from mcp_vega.errors import InvalidSettings

VENDOR_URL = "https://api.segmind.com"
VENDOR_HISTORY_URL = "https://api.spotprod.segmind.com/inference-request/request-history"


def _comma_separated(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_comma_separated)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(_comma_separated)]


class Settings(BaseModel):
    """The settings; each field's alias is its environment variable. An empty variable counts as unset."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    api_key: SecretStr | None = Field(
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
    preview: Literal["auto", "small", "full", "off"] = Field(
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
    spending_limit_usd: Decimal | None = Field(
        default=None,
        ge=0,
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
        description="For `sse` and `http`: access tokens, comma-separated; each sees its own jobs and pictures.",
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
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
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
        if parsed.userinfo:
            raise ValueError("must hold no user name or password: it is written down and shown")
        return url.rstrip("/")

    @field_validator("gallery", "home")
    @classmethod
    def _nameable(cls, folder: Path | None) -> Path | None:
        try:
            return folder and Path(str(folder).encode().decode()).expanduser()
        except UnicodeEncodeError as error:
            raise ValueError("is not UTF-8, so no result could name it") from error
        except RuntimeError as error:
            raise ValueError("names the home folder of a user who has none") from error

    @field_validator("allowed_hosts")
    @classmethod
    def _names_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:.]+\])(:(\d{1,5}|\*))?", host):
                raise ValueError(f"must name hosts such as pictures.example or pictures.example:8000, not {host!r}")
        return hosts

    @field_validator("auth_tokens")
    @classmethod
    def _sendable(cls, tokens: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not tokens:
            raise ValueError("holds no token")
        if not all(re.fullmatch("[!-~]+", token.get_secret_value()) for token in tokens):
            raise ValueError("holds a token that no header can carry: use letters, digits and punctuation")
        return tokens

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper_case(cls, level: Any) -> Any:
        return level.upper() if isinstance(level, str) else level

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
        given = {name: value.strip() for name, value in environment.items() if name in names and value.strip()}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            said = first["msg"].removeprefix("Value error, ")
            raise InvalidSettings(f"The environment variable {first['loc'][0]} cannot be used: {said}") from None


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

    return user_pictures_path() / "mcp-vega"


def _default_home() -> Path:
    from platformdirs import user_data_path

    return user_data_path("mcp-vega", appauthor=False)
