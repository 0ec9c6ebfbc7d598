"""Somebody else's text on a terminal: what may be shown of it, and how wide it is. Pure.

A file name may hold escape sequences that retitle the terminal, bidi controls that make `exe.txt` of `txt.exe`, or
characters that nobody sees, so that two files look like one. So `safe()` goes over every word: names arrive in the wire
form (contract, "File names"), and what is not printable, not to be seen, or not to be told from something else, becomes
\\xNN of its UTF-8 bytes. The result can be typed back in bash as $'...'. Letters of other scripts that look alike stay:
whoever writes in them has to read them.

Rejected: dropping such characters (two files would look alike), "?" (the same), all that is not ASCII as bytes (most of
the world could not read its own file names), quotes around a name (they would be in every line for the sake of few).
"""

import unicodedata

_UNSEEN = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # joiner and fillers, blanks that are letters to Unicode
    + "".join(map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))  # variants
)
"""What Unicode takes for printable and nobody sees: its default ignorables of the categories L, M and S."""

_MARKS = 2
"""One on top of the other: more reach into the lines above. Vietnamese and Hebrew have as many."""


def safe(text: str) -> str:
    """`text` without anything a terminal acts on, or that cannot be seen or told apart."""
    if text.isascii() and text.isprintable() and not text.endswith(" "):
        return text
    shown: list[str] = []
    base, marks = "", 0
    for character in text:
        marks = marks + 1 if _is_mark(character) else 0
        if not _can_be_told(character, base) or marks > _MARKS or (marks and not base.isalnum()):
            shown.append(_visible(character))
        else:
            shown.append(character)
        base = base if marks else character
    while shown and shown[-1] == " ":  # at the end of a line nobody sees it
        shown.pop()
    blanks = len(text) - len(text.rstrip(" "))
    return "".join(shown) + "\\x20" * blanks


def _is_mark(character: str) -> bool:
    """It stands on the one before and takes no room."""
    return not character.isascii() and unicodedata.category(character) in ("Mn", "Me")


def _can_be_told(character: str, base: str) -> bool:
    """From everything else that is shown as such. Not what has one normal form (NFC) that looks the same: the parts of
    \u00e9 after one another, the Kelvin sign for K."""
    if character.isascii():
        return character.isprintable()
    if not character.isprintable() or character in _UNSEEN or not unicodedata.is_normalized("NFC", character):
        return False
    return not base or len(unicodedata.normalize("NFC", base + character)) > 1


def _visible(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))


def cells(text: str) -> int:
    """Columns that a terminal needs for it."""
    if text.isascii():
        return len(text)
    return sum(map(_cells, text))


def _cells(character: str) -> int:
    if _is_mark(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def tail(words: str, columns: int) -> str:
    """What fits of the end: the end of a path says more than its beginning."""
    if cells(words) <= columns:
        return words
    left = max(1, columns) - 1
    at = len(words)
    while at and (left := left - _cells(words[at - 1])) >= 0:
        at -= 1
    return "…" + words[at:]


def folded(line: str, columns: int | None, hang: int) -> list[str]:
    """Prose on as many lines as it needs, broken at blanks, those after the first indented by `hang`. No file name goes
    through here: nobody could tell its blanks. `columns` None: no terminal, and one line."""
    if columns is None or cells(line) <= columns:
        return [line]
    indent, words = len(line) - len(line.lstrip(" ")), line.lstrip(" ").split(" ")
    lines: list[str] = []
    now = " " * indent + words[0]
    for word in words[1:]:
        if cells(now) + 1 + cells(word) <= columns:
            now = f"{now} {word}"
        elif word:
            lines.append(now)
            now = " " * hang + word
    return [*lines, now]
