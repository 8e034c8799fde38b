"""Foreign text, in whatever script: whether anything of it is seen, where it is cut, and how it is safe to show.

That is on one line, without what commands a terminal, without keys, and no longer than it must be: of a long text only
the beginning is looked at, so that one of 30 MB takes no longer than a page.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

# Keys of this API; those of others with a longer name; what stands where a key usually does and has a digit in it, or
# where an address has what opens it.
_KEYS = re.compile(
    r"SG_[A-Za-z0-9_-]{4,}|\b[sp]k-[A-Za-z0-9_-]{16,}"
    r"|(?<=\bsignature=)[\w.~+/%-]{16,}"
    r"|(?<=bearer )(?=\S*\d)[\w.~+/-]{8,}|(?<=api-key[:=])\s*[\w.-]{8,}|(?<=api_key[:=])\s*[\w.-]{8,}",
    re.IGNORECASE,
)
_LETTERS_OF_KEYS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.~+/-"
# By so many characters a key is known, however long it is.
LONGEST_KEY = 1000
# So many characters are looked at beside those that are shown.
_MORE = 2000
# The most that is shown where nothing else is asked for: a long traceback is shorter.
_LONGEST = 100_000
_QUOTATION_MARKS = str.maketrans("“”", '""')


def quoted(text: str, limit: int = 300) -> str:
    """Printable text in quotation marks, which one in it does not end; at most `limit` characters."""
    return f"“{_clipped(text, limit, plain).translate(_QUOTATION_MARKS)}”"


def named(text: str, limit: int = 80) -> str:
    """A name or value that a caller gave, in quotation marks, with escapes for what cannot be seen."""
    said = _clipped(text, limit, _escaped)
    mark = '"' if "'" in said else "'"
    return f"{mark}{said}{mark}"


def printable(text: str) -> str:
    """Foreign text on one line, without control characters and keys; of a very long one the beginning."""
    return _clipped(text, _LONGEST, plain)


def redacted(text: str) -> str:
    """Text without what looks like a key; of a very long one the beginning."""
    return _clipped(text, _LONGEST, str)


def _clipped(text: str, limit: int, clean: Callable[[str], str]) -> str:
    """The beginning of a text, cleaned and without keys: at most `limit` characters, and an ellipsis where it goes on.

    Enough of it is looked at to know every key that begins in what is shown.
    """
    piece = text[: limit + _MORE]
    said = _without_keys(clean(piece))
    if len(piece) == len(text):
        return said if len(said) <= limit else f"{beginning(said, limit)}…"
    # A key that was cut here is not known by what is left of it.
    end = max(len(said.rstrip(_LETTERS_OF_KEYS)), len(said) - LONGEST_KEY)
    return f"{beginning(said[:end], limit)}…"


def _without_keys(text: str) -> str:
    return _KEYS.sub(lambda found: "SG_…" if found[0].startswith("SG_") else "…", text)


def _escaped(text: str) -> str:
    """A text with escapes; one that hides a key between what they stand for is told without them."""
    seen = plain(text)
    return escaped(text) if _without_keys(seen) == seen else seen


# ---- what is seen ----

# Letters and symbols in Unicode's tables that show nothing (fillers, a blank Braille cell, Egyptian blanks, a note
# without a head), and those that stand for what is not there: an object, what could not be decoded.
_UNSEEN = frozenset("\u115f\u1160\u3164\uffa0\u2800\U00013441\U00013442\U0001d159\ufffc\ufffd")
# Format characters that a text is written with: joiners of emoji, Arabic and Indic scripts, direction marks of Hebrew
# and Arabic, Mongolian's vowel separator. The embeddings and isolates (U+202A to E, U+2066 to 9) are none of them: they
# turn around what stands beside a text.
_JOINERS = "\u200c\u200d\u200e\u200f\u061c\u180e"
# Signs that have the category of format characters, and are printed all the same.
_PRINTED = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
_WRITTEN = frozenset(_JOINERS + _PRINTED)
# Where Unicode adds pictographs and ideographs: what this Python does not know yet, a newer terminal or model does.
_GROWING = (range(0x1F000, 0x1FB00), range(0x20000, 0x2FFFE), range(0x30000, 0x3FFFE))

# A flag of a part of a country is written with letters that are not seen; elsewhere those only hide a text in a text.
_TAGS = re.compile("(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f)|[\U000e0000-\U000e007f]")
# Between such characters nothing is to be joined, but a key could be hidden from those who look for one.
_IN_ASCII = re.compile(f"(?<=[\\w.~+/-])[{_JOINERS}]+(?=[\\w.~+/-])", re.ASCII)

# A text longer than this is no filler, whatever it holds.
_LONGEST_FILLER = 10_000
# Longer than any sequence of characters that is seen as one.
_LONGEST_CLUSTER = 40
_VIRAMA = 9  # its combining class: the letter behind it is written together with the one before
# What belongs to the character before it though it is no mark: joiners, skin tones, the letters of a flag, the second
# and third part of a Korean syllable, Thai and Lao vowels.
_CONTINUES = re.compile(
    "[\u200c\u200d\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\u1160-\u11ff\ud7b0-\ud7fb\u0e33\u0eb3]"
)
_HALF_OF_FLAG = range(0x1F1E6, 0x1F200)


def is_visible(character: str) -> bool:
    """Whether a character shows something where it stands alone: a letter, a digit, punctuation, a symbol."""
    if unicodedata.category(character)[0] in "LNPS":
        return character not in _UNSEEN
    return _is_newer(character)


def is_blank(text: str) -> bool:
    """Whether nothing of a text is seen: it holds spaces, marks, control or format characters, or nothing."""
    return len(text) <= _LONGEST_FILLER and not any(map(is_visible, text))


def plain(text: str) -> str:
    """A text on one line, without what commands a terminal or turns letters around; no script is torn apart."""
    text = _TAGS.sub(lambda found: found[1] or "", text)
    return _IN_ASCII.sub("", " ".join("".join(map(_shown, text)).split()))


def escaped(text: str) -> str:
    """A text as `plain` shows it, with Python's escapes in the place of what that leaves out."""
    text = _TAGS.sub(lambda found: found[1] or _escape(found[0]), text)
    return "".join(each if _shown(each) == each else _escape(each) for each in text)


def beginning(text: str, limit: int) -> str:
    """The first `limit` characters of a text, or so many fewer that none that is seen as one is cut."""
    if len(text) <= limit:
        return text
    end, least = limit, max(limit - _LONGEST_CLUSTER, 0)
    while end > least and _belongs_together(text, end):
        end -= 1
    return text[:end] if end > least else text[:limit].rstrip("\u200d")


@lru_cache(maxsize=4096)
def _shown(character: str) -> str:
    """What is shown for a character: itself, a space, or nothing."""
    if character.isprintable() or character in _WRITTEN or _is_newer(character) or _TAGS.match(character):
        return character
    return "" if unicodedata.category(character) == "Cf" else " "


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _is_newer(character: str) -> bool:
    return unicodedata.category(character) == "Cn" and any(ord(character) in each for each in _GROWING)


def _belongs_together(text: str, at: int) -> bool:
    """Whether the character at a place is seen as one with that before it."""
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
