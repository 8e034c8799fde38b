"""Each variable of the environment, its default and its meaning."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator

from mcp_vega.errors import InvalidSettings
from mcp_vega.settings.combinations import require_consistent
from mcp_vega.settings.folders import AbsolutePath, absolute_path, default_gallery, default_home, folder_or_url
from mcp_vega.settings.secret_files import secrets_in
from mcp_vega.settings.urls import VENDOR_HISTORY_URL, VENDOR_URL, ExactUrl, UsualUrl
from mcp_vega.settings.values import (
    Address,
    Dollars,
    Hosts,
    Key,
    LogFormat,
    LogLevel,
    Names,
    Scopes,
    Tokens,
    is_set,
    reason_of,
    trimmed,
)


class Settings(BaseModel):
    """The settings. Each field's alias is its environment variable. An empty variable counts as unset.

    A placeholder `${user_config.…}` that a host did not fill in counts as unset, too. Space and quotes around a value
    are removed. A value from a fixed list of words may be in capitals or in lower case.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    api_key: Key = Field(
        default=None, alias="SEGMIND_API_KEY", description="Your Segmind API key. `--sandbox` and `--local` need none."
    )
    api_key_file: AbsolutePath | None = Field(
        default=None,
        alias="SEGMIND_API_KEY_FILE",
        description="A file with the key, instead of `SEGMIND_API_KEY`. Over HTTP, the signal SIGHUP lets the server "
        "read it again.",
    )
    base_url: UsualUrl = Field(
        default=VENDOR_URL, alias="SEGMIND_BASE_URL", description="The address of the API: https, or http on loopback."
    )
    history_url: UsualUrl = Field(
        default="",
        alias="SEGMIND_HISTORY_URL",
        description="The address of the API's request history. If the answer to a call is lost, the server looks there "
        "for how it ended. Default: the vendor's; if `SEGMIND_BASE_URL` is set, an address on that host.",
    )
    gallery: Annotated[Path | str | None, BeforeValidator(folder_or_url)] = Field(
        default=None,
        alias="MCP_VEGA_GALLERY",
        description="The folder where all pictures are kept. Default: `mcp-vega` in your pictures folder. For a team, "
        "a bucket: `s3://bucket/folder`, `gs://…` or `az://…`.",
    )
    home: Path | None = Field(
        default=None,
        alias="MCP_VEGA_HOME",
        description="The folder of the ledger, the database of all jobs. Default: the platform's folder for a user's "
        "application data.",
    )
    ledger: SecretStr | None = Field(
        default=None,
        alias="MCP_VEGA_LEDGER",
        description="For a team: a PostgreSQL database for the ledger, as "
        "`postgresql://user:password@host:5432/database`. Default: an SQLite file in `MCP_VEGA_HOME`.",
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
    spending_limit_usd: Dollars = Field(
        default=None,
        ge=0,
        le=10**9,
        alias="MCP_VEGA_SPENDING_LIMIT_USD",
        description="How many US dollars all servers together may spend in a UTC day. Default: no limit.",
    )
    spending_limit_usd_each: Dollars = Field(
        default=None,
        ge=0,
        le=10**9,
        alias="MCP_VEGA_SPENDING_LIMIT_USD_EACH",
        description="How many US dollars each caller may spend in a UTC day. Default: no limit.",
    )
    requests_per_minute: int | None = Field(
        default=None,
        ge=1,
        alias="MCP_VEGA_REQUESTS_PER_MINUTE",
        description="How many paid calls all servers together may send in a minute, such as your plan's limit. More "
        "calls than that wait. Default: no limit.",
    )
    calls_at_once: int = Field(
        default=16,
        ge=1,
        le=1000,
        alias="MCP_VEGA_CALLS_AT_ONCE",
        description="How many paid calls all servers together may have under way at the same time. More calls wait.",
    )
    auth_tokens: Tokens = Field(
        default=(),
        alias="MCP_VEGA_AUTH_TOKENS",
        description="For `sse` and `http`: access tokens, comma-separated, each `token` or `name:token`. Each caller "
        "sees only their own jobs and pictures. A caller with a name keeps them when the token changes.",
    )
    auth_tokens_file: AbsolutePath | None = Field(
        default=None,
        alias="MCP_VEGA_AUTH_TOKENS_FILE",
        description="A file with the access tokens, instead of `MCP_VEGA_AUTH_TOKENS`: one on each line. The signal "
        "SIGHUP lets the server read it again.",
    )
    oauth_issuer: ExactUrl = Field(
        default="",
        alias="MCP_VEGA_OAUTH_ISSUER",
        description="For `http`: the URL of an OAuth 2.1 authorization server, instead of access tokens. People sign "
        "in there, and each sees only their own jobs and pictures.",
    )
    oauth_resource: ExactUrl = Field(
        default="",
        alias="MCP_VEGA_OAUTH_RESOURCE",
        description="With `MCP_VEGA_OAUTH_ISSUER`: the URL at which clients reach this server, such as "
        "`https://pictures.example/mcp`. An access token must be issued for it (`aud`).",
    )
    oauth_scopes: Scopes = Field(
        default=(),
        alias="MCP_VEGA_OAUTH_SCOPES",
        description="With `MCP_VEGA_OAUTH_ISSUER`: the scopes that an access token needs, comma-separated. Default: "
        "none.",
    )
    token: SecretStr | None = Field(
        default=None, alias="MCP_VEGA_TOKEN", description="The access token that `install --url` writes into an entry."
    )
    allowed_hosts: Hosts = Field(
        default=(),
        alias="MCP_VEGA_ALLOWED_HOSTS",
        description="For `sse` and `http`: hosts accepted in the `Host` and `Origin` headers besides loopback, "
        "comma-separated, with or without a port.",
    )
    metrics_address: Address | None = Field(
        default=None,
        alias="MCP_VEGA_METRICS_PORT",
        description="For `sse` and `http`: the port at which Prometheus reads `/metrics`, on loopback. For another "
        "address: `10.0.0.11:9464`. Needs the extra `team`.",
    )
    drain_seconds: float = Field(
        default=8,
        ge=0,
        le=3600,
        alias="MCP_VEGA_DRAIN_SECONDS",
        description="For `sse` and `http`: how many seconds the server lets running jobs end after SIGTERM.",
    )
    sandbox: bool = Field(
        default=False,
        alias="MCP_VEGA_SANDBOX",
        description="`1` is the same as `--sandbox`: no key, no network, no cost.",
    )
    local: bool = Field(
        default=False,
        alias="MCP_VEGA_LOCAL",
        description="`1` is the same as `--local`: draw on this machine with the open weights, without key and cost.",
    )
    weights: AbsolutePath | None = Field(
        default=None,
        alias="MCP_VEGA_WEIGHTS",
        description="For `--local` and `mcp-vega engine`: the folder of the weights. Default: your Hugging Face cache.",
    )
    engine_key: Key = Field(
        default=None, alias="MCP_VEGA_ENGINE_KEY", description="For `mcp-vega engine`: the only key that it accepts."
    )
    log_level: LogLevel = Field(
        default="WARNING",
        alias="MCP_VEGA_LOG_LEVEL",
        description="How much is logged to stderr: `DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`. With `INFO` you "
        "can follow each job. `DEBUG` may show prompts.",
    )
    log_format: LogFormat = Field(
        default="text",
        alias="MCP_VEGA_LOG_FORMAT",
        description="The form of the log: `text`, or `json` with one JSON object on each line.",
    )

    @field_validator("gallery", "home")
    @classmethod
    def _valid_place(cls, place: Path | str | None) -> Path | str | None:
        if place is None or isinstance(place, Path):
            return place and absolute_path(place)
        from mcp_vega.settings import bucket_url

        return bucket_url.usual_url(place)

    @field_validator("ledger")
    @classmethod
    def _valid_ledger(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        from mcp_vega.settings import ledger_url

        return SecretStr(ledger_url.usual_url(url.get_secret_value()))

    @property
    def request_history_url(self) -> str:
        """The address of the request history."""
        if self.history_url:
            return self.history_url
        if self.base_url == VENDOR_URL:
            return VENDOR_HISTORY_URL
        return f"{self.base_url}/inference-request/request-history"

    @property
    def gallery_url(self) -> str:
        """The URL of the gallery's bucket; empty if the gallery is a folder. The sandbox has a folder in the bucket."""
        return f"{self.gallery}{'/sandbox' if self.sandbox else ''}" if isinstance(self.gallery, str) else ""

    @property
    def gallery_folder(self) -> Path:
        """The folder of the pictures, unless they are in a bucket. The sandbox has a folder of its own in it."""
        if isinstance(self.gallery, str):
            raise TypeError("the gallery is a bucket")
        return (self.gallery or default_gallery()) / ("sandbox" if self.sandbox else "")

    @property
    def gallery_name(self) -> str:
        """The gallery's name in messages: its folder or its URL."""
        return self.gallery_url or str(self.gallery_folder)

    @property
    def home_folder(self) -> Path:
        """The folder of the ledger and of other files of a server. The sandbox has a folder of its own in it."""
        return (self.home or default_home()) / ("sandbox" if self.sandbox else "")

    @property
    def ledger_file(self) -> Path:
        """The file of the ledger, unless that is in PostgreSQL."""
        return self.home_folder / "ledger.sqlite3"

    @property
    def ledger_name(self) -> str:
        """The ledger's name in messages: its file, or its URL without user, password and options."""
        if self.ledger is None:
            return str(self.ledger_file)
        from mcp_vega.settings import ledger_url

        return ledger_url.parsed(self.ledger.get_secret_value()).name

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, *, is_complete: bool = True) -> Self:
        """Read the settings, and the secrets in files that they name.

        An environment that `is_complete` has all variables, so they must go together.

        Raises:
            InvalidSettings: A variable has a value that cannot be used, or names a file that cannot be used.
        """
        names = environment.keys() & {field.alias for field in cls.model_fields.values()}
        values = {name: value for name in names if is_set(name, value := trimmed(environment[name]))}
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            raise InvalidSettings(reason_of(error)) from None
        if is_complete:
            off = {field.alias for name, field in cls.model_fields.items() if getattr(settings, name) is False}
            require_consistent(values.keys() - off)
        key_file = None if settings.sandbox or settings.local else settings.api_key_file  # these need no key
        return settings.model_copy(update=secrets_in(key_file, settings.auth_tokens_file))

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
        _ = self.gallery_name, self.home_folder
