"""The API key and the access tokens, if they are in files."""

import re
import stat
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mcp_vega.errors import InvalidSettings
from mcp_vega.settings.values import trimmed, trimmed_key, trimmed_token

KEY_FILE, TOKENS_FILE = "SEGMIND_API_KEY_FILE", "MCP_VEGA_AUTH_TOKENS_FILE"
# A larger file is not a list of tokens. The limit keeps a wrong path from filling the memory.
MOST_BYTES = 1_000_000


def secrets_in(key_file: Path | None, tokens_file: Path | None) -> dict[str, Any]:
    """Return the fields of the settings that these files give. Raises as the next two functions do."""
    key = {"api_key": read_key(key_file)} if key_file else {}
    return {**key, **({"auth_tokens": read_tokens(tokens_file)} if tokens_file else {})}


def read_key(file: Path) -> SecretStr:
    """Return the key in a file. Space and quotes around the key are removed.

    Raises:
        InvalidSettings: The file cannot be read, or it does not hold one line.
    """
    key = trimmed_key(_text_in(KEY_FILE, file))
    if not key:
        raise _unusable(KEY_FILE, file, "it is empty")
    if len(_lines_of(key)) > 1:
        raise _unusable(KEY_FILE, file, "it has several lines, and the key must be its only text")
    return SecretStr(key)


def read_tokens(file: Path) -> tuple[SecretStr, ...]:
    """Return the entries in a file of access tokens: one on each line, each `token` or `name:token`.

    Blank lines and lines that begin with `#` are skipped.

    Raises:
        InvalidSettings: The file cannot be read, has no token, or a line has a comma.
    """
    lines = [(number, trimmed(line)) for number, line in enumerate(_lines_of(_text_in(TOKENS_FILE, file)), 1)]
    entries = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not entries:
        raise _unusable(TOKENS_FILE, file, "it contains no token")
    for number, entry in entries:
        if "," in entry:  # the line may be a copy of the variable's value, which would then be one wrong token
            raise _unusable(TOKENS_FILE, file, f"line {number} has a comma; write each token on a line of its own")
    return tuple(SecretStr(trimmed_token(entry)) for _, entry in entries)


def _lines_of(text: str) -> list[str]:
    return re.split(r"\r\n|\n|\r", text)


def _text_in(variable: str, file: Path) -> str:
    """Return the text of a file, without a byte order mark.

    Raises:
        InvalidSettings: It cannot be read. The error shows nothing of its contents.
    """
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe may never end
            raise _unusable(variable, file, "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file")
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise _unusable(variable, file, (error.strerror or type(error).__name__).lower()) from error
    if len(data) > MOST_BYTES:
        raise _unusable(variable, file, f"it has more than {MOST_BYTES:,} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _unusable(variable, file, "it is not UTF-8 text") from None  # the error would hold the contents


def _unusable(variable: str, file: Path, why: str) -> InvalidSettings:
    step = "Correct the file, or the path in the variable, and start the server again"
    return InvalidSettings(f"The file {file}, which {variable} names, cannot be used: {why}", next_step=step)
