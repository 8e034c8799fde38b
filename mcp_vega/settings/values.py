"""How the values of variables are cleaned up, and what is said about those that cannot be used."""

import re
import string
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationError

# Characters that pasting may leave around a value. Browsers and word processors add invisible ones.
_SPACE = "\ufeff\u200b\u00a0" + string.whitespace
_QUOTES = "\"'`‘’‚“”„«»"  # noqa: RUF001  the quotation marks of several languages
# They replace pydantic's messages. A comma is refused: its meaning differs by country, and a wrong limit costs money.
MESSAGES = {
    **dict.fromkeys(("decimal_parsing", "float_parsing"), "it must be a number without comma or unit, such as 0.50"),
    **dict.fromkeys(("int_parsing", "int_from_float"), "it must be a whole number, such as 5"),
    "bool_parsing": "it must be 1 or 0",
}


def reason_of(error: ValidationError) -> str:
    """Which variable cannot be used, and why."""
    first = error.errors()[0]
    reason = MESSAGES.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    return f"The environment variable {first['loc'][0]} cannot be used: {reason}"


def trimmed(value: str) -> str:
    """A value without the space around it, and without the quotes that a shell would have removed."""
    value = value.strip(_SPACE)
    inner = value[1:-1]
    if len(value) > 1 and value[0] in _QUOTES and value[-1] in _QUOTES and not {value[0], value[-1]} & {*inner}:
        return trimmed(inner)
    return value


def is_set(name: str, value: str) -> bool:
    """Whether a variable has a value.

    The host of a bundle passes a placeholder for a setting that its user left empty. Such a placeholder is not a value.
    The key's placeholder is kept, because the error names it.
    """
    return bool(value) and (name == "SEGMIND_API_KEY" or not re.fullmatch(r"\$\{user_config\.[^{}]*\}", value))


def trimmed_key(key: Any) -> Any:
    """A key without space and quotes around it; None if nothing is left."""
    return (key.strip(_SPACE + _QUOTES) or None) if isinstance(key, str) else key


Key = Annotated[SecretStr | None, BeforeValidator(trimmed_key)]


def trimmed_token(entry: str) -> str:
    """An access token, or a name and a token, without space and quotes around each."""
    return ":".join(map(trimmed, entry.split(":", 1)))


def _without_dollars(amount: str) -> str:
    """An amount without the dollar sign or `USD` next to it."""
    return re.sub(r"^(US\$|\$|USD)\s*|\s*(US\$|\$|USD)$", "", amount, flags=re.IGNORECASE)


Dollars = Annotated[Decimal | None, BeforeValidator(_without_dollars)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)]
LogFormat = Annotated[Literal["text", "json"], BeforeValidator(str.lower)]


def _comma_separated(value: Any) -> Any:
    return tuple(part for each in value.split(",") if (part := trimmed(each))) if isinstance(value, str) else value


def _scopes(value: Any) -> Any:
    """Scopes, also with spaces between them, as OAuth writes them."""
    found = tuple(scope for each in _comma_separated(value) for scope in each.split())
    if not all(re.fullmatch(r"[!#-\[\]-~]+", each) for each in found):
        raise ValueError("a scope must be in ASCII, without quotation marks and backslashes")
    return found


Names = Annotated[tuple[str, ...], BeforeValidator(_comma_separated)]


def _tokens(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not (entries := _comma_separated(value)):
        raise ValueError("it contains no token")
    return tuple(map(trimmed_token, entries))


Tokens = Annotated[tuple[SecretStr, ...], BeforeValidator(_tokens)]
Scopes = Annotated[tuple[str, ...], BeforeValidator(_scopes)]

# ---- hosts ----

# A name, or an address; an address of IPv6 is in brackets.
_HOST = r"([\w.-]+|\[[0-9a-fA-F:.]+\])"


def _valid_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts:
        if not re.fullmatch(rf"{_HOST}(:(\d{{1,5}}|\*))?", host):
            raise ValueError(f"it must name hosts such as pictures.example or pictures.example:8000, not {host!r}")
    return hosts


Hosts = Annotated[Names, AfterValidator(_valid_hosts)]


class HostPort(NamedTuple):
    """An address at which a server listens."""

    host: str
    port: int


def _host_and_port(value: Any) -> Any:
    """The address in a text such as `9464`, which is on loopback, `10.0.0.11:9464` or `[::1]:9464`."""
    found = re.fullmatch(rf"(?:{_HOST}:)?(\d{{1,5}})", value) if isinstance(value, str) else None
    if not found or int(found[2]) > 65535:
        raise ValueError("it must be a port such as 9464, or an address such as 10.0.0.11:9464")
    return HostPort((found[1] or "127.0.0.1").strip("[]"), int(found[2]))


Address = Annotated[HostPort, BeforeValidator(_host_and_port)]
