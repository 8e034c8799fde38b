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
        raise _left(text)
    if found := _PREFIX.match(text):
        raise _unfit(f"“{found[0].strip()}” before the key", "Leave the key alone in it and start the server again")
    if not _KEY.fullmatch(text):
        raise _unfit(f"{_first_stranger(text)}, which no key has", f"Copy the key anew from {KEYS_PAGE}, in one piece")
    return text


def is_placeholder(text: str) -> bool:
    """Whether a text surely stands in the place of a key; one with a digit in it could be a key itself."""
    return bool(_PLACEHOLDER.fullmatch(text.strip())) and not re.search(r"\d", text)


def _left(placeholder: str) -> errors.MissingKey:
    """The error of a placeholder."""
    shown = f"the placeholder {placeholder}" if is_placeholder(placeholder) else "a placeholder"
    step = None
    if placeholder.startswith("${user_config."):
        step = f"Enter a key from {KEYS_PAGE} in this extension's settings in the host, and start it again"
    return errors.MissingKey(f"No Segmind API key is set: SEGMIND_API_KEY still holds {shown}", next_step=step)


def _unfit(what: str, next_step: str) -> errors.InvalidSettings:
    return errors.InvalidSettings(f"SEGMIND_API_KEY holds {what}", next_step=next_step)


def _first_stranger(text: str) -> str:
    """What the first character is that no key has."""
    stranger = _KEY.sub("", text)[0]
    if stranger in "\r\n":
        return "a line break"
    if stranger.isspace():
        return "a space"
    return f"the character {stranger}" if stranger.isascii() and stranger.isprintable() else "a character beyond ASCII"
