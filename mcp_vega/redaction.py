"""Text from outside, in any script: whether it is visible, where it can be cut, and how it can be shown safely.

Safe text is on one line, and has no keys and nothing that controls a terminal. Of a long text only the beginning is
processed, so that a text of 30 MB takes no longer than a page.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

# Names that a secret value follows.
_NAMES = "secret_access_key|session_token|security-token|account_?key|client_secret|sas_(?:key|token)"
# Keys of this API; longer keys of other services; the signature in an address; a value after `bearer` (if it has a
# digit) or `api-key`; user and password in an address; the ids and keys of the clouds where pictures may be kept.
_KEYS = re.compile(
    r"SG_[A-Za-z0-9_-]{4,}|\b[sp]k-[A-Za-z0-9_-]{16,}"
    r"|(?<=\bsignature=)[\w.~+/%-]{16,}"
    r"|(?<=bearer )(?=\S*\d)[\w.~+/-]{8,}|(?<=api-key[:=])\s*[\w.-]{8,}|(?<=api_key[:=])\s*[\w.-]{8,}"
    r"|(?<=://)[^\s/:@]*:[^\s/@]+(?=@)"
    r"|\b(?-i:AKIA|ASIA)(?-i:[A-Z0-9]{16})\b|\bya29\.[\w-]{16,}|(?<=\bsig=)[\w.~+/%=-]{16,}"
    rf"|(?P<name>(?:(?:{_NAMES})[\"']?\s*[:=]\s*[\"']?)|(?:\b|pg)password=)[^\s\"'&,;]{{8,}}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.IGNORECASE,
)
_KEY_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~+/-"
# A key is recognised by its first 1000 characters, even if it is longer.
LONGEST_KEY = 1000
# How many characters after the shown ones are searched for keys.
_LOOKAHEAD = 2000
# How many characters are shown if the caller sets no limit. A long traceback is shorter.
_DEFAULT_LIMIT = 100_000
# Secrets of this process, which may look like anything.
_secrets: list[str] = []
# A shorter secret may be a part of other words, and a word of lower-case letters may be in a prompt.
_SHORTEST_SECRET = 8
_WORD = re.compile("[a-z]{,15}")
_QUOTATION_MARKS = str.maketrans("“”", '""')


def add_secret(secret: str) -> None:
    """Redact a text in all texts from now on. A text that is short, or looks like a word, is not redacted."""
    if len(secret) >= _SHORTEST_SECRET and not _WORD.fullmatch(secret) and secret not in _secrets:
        _secrets.append(secret)
        _secrets.sort(key=len, reverse=True)  # one may be a part of another


def quoted(text: str, limit: int = 300) -> str:
    """Printable text in quotation marks, at most `limit` characters. Such marks in the text become plain quotes."""
    return f"“{_clipped(text, limit, plain).translate(_QUOTATION_MARKS)}”"


def named(text: str, limit: int = 80) -> str:
    """A name or value from a caller, in quotation marks. Invisible characters are shown as escapes."""
    shown = _clipped(text, limit, _escaped)
    mark = '"' if "'" in shown else "'"
    return f"{mark}{shown}{mark}"


def printable(text: str) -> str:
    """Text from outside on one line, without control characters and keys. A very long text is cut."""
    return _clipped(text, _DEFAULT_LIMIT, plain)


def redacted(text: str) -> str:
    """Text without anything that looks like a key. A very long text is cut."""
    return _clipped(text, _DEFAULT_LIMIT, str)


def _clipped(text: str, limit: int, clean: Callable[[str], str]) -> str:
    """The first `limit` characters of a text, cleaned and without keys, and an ellipsis if the text is longer.

    It searches a longer piece for keys, so that it finds every key that begins in the part that is shown.
    """
    piece = text[: limit + _LOOKAHEAD]
    cleaned = _without_keys(clean(piece))
    if len(piece) == len(text):
        return cleaned if len(cleaned) <= limit else f"{beginning(cleaned, limit)}…"
    # If the piece ends inside a key, the rest of that key may not look like one.
    end = max(len(cleaned.rstrip(_KEY_CHARACTERS)), len(cleaned) - LONGEST_KEY)
    return f"{beginning(cleaned[:end], limit)}…"


def _without_keys(text: str) -> str:
    for secret in _secrets:
        text = text.replace(secret, "…")
    return _KEYS.sub(lambda found: "SG_…" if found[0].startswith("SG_") else f"{found['name'] or ''}…", text)


def _escaped(text: str) -> str:
    """A text with escapes. If invisible characters split a key, they are removed instead, so that the key is found."""
    visible = plain(text)
    return escaped(text) if _without_keys(visible) == visible else visible


# ---- visible characters ----

# Unicode letters and symbols that show nothing: fillers, a blank Braille cell, Egyptian blanks, a note without a head.
# Also the placeholders for an object and for bytes that could not be decoded.
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800\U00013441\U00013442\U0001d159\ufffc\ufffd")
# Format characters that texts need: joiners of emoji, Arabic and Indic scripts, direction marks of Hebrew and Arabic,
# the vowel separator of Mongolian. Embeddings and isolates (U+202A to E, U+2066 to 9) are not allowed, because they
# can reverse the text around them.
_JOINERS = "\u200c\u200d\u200e\u200f\u061c\u180e"
# Signs that are visible although Unicode calls them format characters.
_VISIBLE_FORMAT = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
_ALLOWED_FORMAT = frozenset(_JOINERS + _VISIBLE_FORMAT)
# Unicode adds pictographs and ideographs here. A terminal or model may know new ones that this Python does not know.
_SYMBOL_RANGES = (range(0x1F000, 0x1FB00), range(0x20000, 0x2FFFE), range(0x30000, 0x3FFFE))

# The flag of a part of a country is written with invisible letters. Elsewhere such letters only hide text.
_TAGS = re.compile("(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f)|[\U000e0000-\U000e007f]")
# Between ASCII characters there is nothing to join, but a joiner could hide a key from the search for keys.
_IN_ASCII = re.compile(f"(?<=[\\w.~+/-])[{_JOINERS}]+(?=[\\w.~+/-])", re.ASCII)

# A text longer than this never counts as blank.
_LONGEST_BLANK = 10_000
# Longer than any sequence that is shown as one character.
_LONGEST_CLUSTER = 40
_VIRAMA = 9  # a combining class: the next letter is written together with the one before
# Characters that belong to the one before although they are not marks: joiners, skin tones, the letters of a flag, the
# second and third part of a Korean syllable, Thai and Lao vowels.
_CONTINUES = re.compile(
    "[\u200c\u200d\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\u1160-\u11ff\ud7b0-\ud7fb\u0e33\u0eb3]"
)
_HALF_OF_FLAG = range(0x1F1E6, 0x1F200)


def is_visible(character: str) -> bool:
    """Whether a character shows something by itself: a letter, a digit, punctuation, a symbol."""
    if unicodedata.category(character)[0] in "LNPS":
        return character not in _INVISIBLE
    return _is_new_symbol(character)


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: it is empty, or has only spaces, marks, control and format characters."""
    return len(text) <= _LONGEST_BLANK and not any(map(is_visible, text))


def plain(text: str) -> str:
    """A text on one line, without characters that control a terminal or reverse text. Every script stays readable."""
    text = _TAGS.sub(lambda found: found[1] or "", text)
    return _IN_ASCII.sub("", " ".join("".join(map(_shown, text)).split()))


def escaped(text: str) -> str:
    """A text with Python's escapes for all characters that `plain` removes."""
    text = _TAGS.sub(lambda found: found[1] or _escape(found[0]), text)
    return "".join(each if _shown(each) == each else _escape(each) for each in text)


def beginning(text: str, limit: int) -> str:
    """The first `limit` characters of a text, or a few less, so that it does not cut a sequence shown as one."""
    if len(text) <= limit:
        return text
    end, least = limit, max(limit - _LONGEST_CLUSTER, 0)
    while end > least and _joins_previous(text, end):
        end -= 1
    return text[:end] if end > least else text[:limit].rstrip("\u200d")


@lru_cache(maxsize=4096)
def _shown(character: str) -> str:
    """What `plain` shows for a character: itself, a space, or nothing."""
    if character.isprintable() or character in _ALLOWED_FORMAT or _is_new_symbol(character) or _TAGS.match(character):
        return character
    return "" if unicodedata.category(character) == "Cf" else " "


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _is_new_symbol(character: str) -> bool:
    return unicodedata.category(character) == "Cn" and any(ord(character) in each for each in _SYMBOL_RANGES)


def _joins_previous(text: str, at: int) -> bool:
    """Whether the character at a position is shown as one with the character before it."""
    before, character = text[at - 1], text[at]
    if ord(character) in _HALF_OF_FLAG:
        halves = 0
        while halves < at and ord(text[at - 1 - halves]) in _HALF_OF_FLAG:
            halves += 1
        return halves % 2 == 1
    return (
        before == "\u200d"
        or unicodedata.combining(before) == _VIRAMA
        or unicodedata.category(character)[0] == "M"
        or _CONTINUES.match(character) is not None
    )
