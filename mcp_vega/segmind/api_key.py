"""The API key: its form, and what is wrong with a text that cannot be a key."""

import re
from dataclasses import dataclass

from pydantic import SecretStr

from mcp_vega import errors

KEYS_PAGE = "https://cloud.segmind.com/console/api-keys"

_KEY = re.compile("[A-Za-z0-9_-]+")
# Placeholders: what hosts pass if a setting is empty, and what examples contain instead of a key.
_PLACEHOLDER = re.compile(
    r"\$\{[^{}]*\}|\$\w+|%\w+%|\{\{[^{}]*\}\}|<[^<>]*>"
    r"|(SG[_-])?(your|insert|paste|enter|replace)[_-][a-z_-]+"
    r"|(SG[_-])?(x{3,}|\*+|\.{3}|…)|(segmind_)?(api_?)?key|change_?me",
    re.IGNORECASE,
)
_PREFIX = re.compile(r"(bearer|(export )?[a-z_-]*key ?[=:])\s*", re.IGNORECASE)


@dataclass(frozen=True)
class ApiKey:
    """The key that a client uses; `in_file` says whether it is from the file in SEGMIND_API_KEY_FILE."""

    secret: SecretStr | None
    in_file: bool = False

    def usable(self) -> str:
        """The text of the key. Raises the errors of `require_usable`."""
        return require_usable(self.secret, in_file=self.in_file)


def require_usable(key: SecretStr | None, *, in_file: bool = False) -> str:
    """The text of a key, if it can be one. For `in_file` see `ApiKey`.

    Raises:
        InvalidSettings: It contains something that no key has. Some of these characters cannot be sent in a header.
        MissingKey: There is no key, or a placeholder instead of one.
    """
    text = key.get_secret_value() if key else ""
    place = "the file in SEGMIND_API_KEY_FILE" if in_file else "SEGMIND_API_KEY"
    if not text:
        raise errors.MissingKey("No Segmind API key is set")
    if _PLACEHOLDER.fullmatch(text):
        shown = f"the placeholder {text}" if is_placeholder(text) else "a placeholder"
        in_host = f"Enter a key from {KEYS_PAGE} in this extension's settings in the host, and restart it"
        raise errors.MissingKey(
            f"No Segmind API key is set: {place} still contains {shown}",
            next_step=in_host if text.startswith("${user_config.") else None,
        )
    if found := _PREFIX.match(text):
        raise _invalid(place, f"“{found[0].strip()}” before the key", "Remove that text, then start the server again")
    if invalid := _KEY.sub("", text):
        step = f"Copy the complete key from {KEYS_PAGE} again"
        raise _invalid(place, f"{character_name(invalid[0])}, which no key has", step)
    return text


def is_placeholder(text: str) -> bool:
    """Whether a text is certainly a placeholder. A text with a digit could be a real key."""
    return bool(_PLACEHOLDER.fullmatch(text.strip())) and not re.search(r"\d", text)


def _invalid(place: str, what: str, next_step: str) -> errors.InvalidSettings:
    return errors.InvalidSettings(f"{place[0].upper()}{place[1:]} contains {what}", next_step=next_step)


def character_name(character: str) -> str:
    """What to call a character that a key or token cannot have."""
    if character in "\r\n":
        return "a line break"
    if character.isspace():
        return "a space"
    if not character.isascii():
        return "a non-ASCII character"
    return f"the character {character}" if character.isprintable() else "a control character"
