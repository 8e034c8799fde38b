"""The API key: what one looks like, and what is wrong with a text that cannot be one."""

import re

from pydantic import SecretStr

from mcp_vega import errors

KEYS_PAGE = "https://cloud.segmind.com/console/api-keys"

_KEY = re.compile("[A-Za-z0-9_-]+")
# What hosts leave where they had nothing to put, and what examples have in the place of a key.
_PLACEHOLDER = re.compile(
    r"\$\{[^{}]*\}|\$\w+|%\w+%|\{\{[^{}]*\}\}|<[^<>]*>"
    r"|(SG[_-])?(your|insert|paste|enter|replace)[_-][a-z_-]+"
    r"|(SG[_-])?(x{3,}|\*+|\.{3}|…)|(segmind_)?(api_?)?key|change_?me",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"(bearer|(export )?[a-z_-]*key ?[=:])\s*", re.IGNORECASE)


def require_usable(key: SecretStr | None) -> str:
    """The key, where it could be one.

    Raises:
        InvalidSettings: It has something that no key has; no header could carry some of that.
        MissingKey: There is none, or a placeholder in its place.
    """
    text = key.get_secret_value() if key else ""
    if not text:
        raise errors.MissingKey("No Segmind API key is set")
    if _PLACEHOLDER.fullmatch(text):
        shown = f"the placeholder {text}" if is_placeholder(text) else "a placeholder"
        in_host = f"Enter a key from {KEYS_PAGE} in this extension's settings in the host, and start it again"
        raise errors.MissingKey(
            f"No Segmind API key is set: SEGMIND_API_KEY still holds {shown}",
            next_step=in_host if text.startswith("${user_config.") else None,
        )
    if found := _PREFIX.match(text):
        raise _invalid(f"“{found[0].strip()}” before the key", "Leave the key alone in it and start the server again")
    if invalid := _KEY.sub("", text):
        step = f"Copy the key anew from {KEYS_PAGE}, in one piece"
        raise _invalid(f"{_character_name(invalid[0])}, which no key has", step)
    return text


def is_placeholder(text: str) -> bool:
    """Whether a text surely stands in the place of a key; one with a digit in it could be a key itself."""
    return bool(_PLACEHOLDER.fullmatch(text.strip())) and not re.search(r"\d", text)


def _invalid(what: str, next_step: str) -> errors.InvalidSettings:
    return errors.InvalidSettings(f"SEGMIND_API_KEY holds {what}", next_step=next_step)


def _character_name(character: str) -> str:
    if character in "\r\n":
        return "a line break"
    if character.isspace():
        return "a space"
    printable = character.isascii() and character.isprintable()
    return f"the character {character}" if printable else "a character beyond ASCII"
