"""Globs over paths beneath a home, as .gitignore has them. Pure: bytes in, bytes out; used by [daemon] and [worker].

`*`, `?` and `[...]` stand for what is within one name, `**` between slashes for any number of directories. A pattern
with a slash in it or before it begins at the home, one without is for a name anywhere; a slash at its end makes it one
for directories. A backslash takes the meaning from what follows. gitignore(5) is the specification, and git the judge:
a test compares the two. Names are bytes: `?` is one byte.

Some patterns come from the accounts themselves, so what a match costs is bounded: each becomes one regular expression
in which nothing is tried twice. Between two stars the first fit is as good as any other, so it is kept for good (atomic
groups, as fnmatch makes them). The worst is the length of the path times that of the pattern, for one comparison of
bytes; a length of 1,000 is some milliseconds.

What git takes and never matches anything by is refused here: whoever writes it means something by it.

Rejected: fnmatch, whose `*` crosses slashes; a matcher in Python, byte by byte (a hundred times as slow, and every
entry of every walk goes through it).
"""

import re
from collections.abc import Iterable, Sequence

MAX_BYTES = 1_000
"""Of a pattern with wildcards: four names of the longest."""

_CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb" \t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"\x21-\x7e",
    b"lower": rb"a-z",
    b"print": rb"\x20-\x7e",
    b"punct": rb"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    b"space": rb" \t\n\r\x0b\x0c",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}
_STAR = b""  # among the parts of a name: a star, which no other part can be
_NAME_END = rb"(?=/|\Z)"


class BadGlob(ValueError):
    """Not a pattern; the text says why, after "a pattern": `that ends in a backslash`."""


_LITERAL = re.compile(rb"/(?:[^*?\[\\]|\\.)+", re.DOTALL)
_LITERAL_MAX_BYTES = 8_192
"""Of a pattern without wildcards: of the longest path, with a backslash before each byte. It costs nothing to match."""


def quoted(path: bytes) -> bytes:
    """The pattern of exactly this path beneath the home."""
    return b"/" + re.sub(rb"[*?\[\\]| \Z", rb"\\\g<0>", path)


def fault(pattern: bytes) -> str:
    """Why this is no pattern, as BadGlob says it; "": it is one."""
    try:
        Glob(pattern)
    except BadGlob as error:
        return str(error)
    return ""


def literal(pattern: bytes) -> bytes | None:
    """The path that this pattern, which is one, is for alone: what `quoted` quotes. None: it has wildcards."""
    if _LITERAL.fullmatch(pattern) is None or pattern.endswith(b"/"):
        return None
    return re.sub(rb"\\(.)", rb"\1", pattern[1:], flags=re.DOTALL)


class Glob:
    """One pattern. `negated` and `directories`: it began with `!`, it ended with `/`; `floating`: it is for a name
    anywhere. `expression`: the regular one, of the whole path or, floating, of the name. Raises BadGlob."""

    __slots__ = ("directories", "expression", "floating", "negated", "pattern")

    def __init__(self, pattern: bytes) -> None:
        self.pattern = pattern
        self.negated = pattern.startswith(b"!")
        self.directories, self.floating, self.expression = _translated(pattern)

    def covers(self) -> bytes:
        """The expression of a file's path that fits, or is beneath what fits."""
        anywhere = rb"(?:[^/]++/)*?" if self.floating else b""
        return anywhere + self.expression + (rb"/.+" if self.directories else rb"(?:/.+)?")

    def covering(self) -> "re.Pattern[bytes]":
        """The same, for fullmatch."""
        return re.compile(self.covers(), re.DOTALL)


class Globs:
    """Some patterns, of which the last that fits decides: whether something is left out. Raises BadGlob.

    What is beneath a directory that is left out is for the caller, who does not enter it: so nothing beneath one can be
    taken back by `!`, as with git.
    """

    def __init__(self, patterns: Iterable[bytes]) -> None:
        globs = [Glob(pattern) for pattern in patterns]
        self._covering = _any_of(one.covers() for one in globs if not one.negated)
        self._files = _Last([one for one in globs if not one.directories])
        self._directories = _Last(globs)

    def excludes(self, path: bytes, *, directory: bool) -> bool:
        """Whether this entry itself is left out."""
        last = (self._directories if directory else self._files).fitting(path)
        return last is not None and not last.negated

    def why(self, path: bytes, *, directory: bool) -> tuple[bytes, bytes] | None:
        """The pattern by which it is left out, and what of the path fits it: itself, or a directory above."""
        below = path + b"/." if directory else path
        if self._covering.fullmatch(below) is None:  # most paths: else each directory above is a question of its own
            return None
        for cut in [*(i for i, byte in enumerate(path) if byte == ord("/")), len(path)]:
            last = (self._directories if directory or cut < len(path) else self._files).fitting(path[:cut])
            if last is not None and not last.negated:
                return last.pattern, path[:cut]
        return None


class _Last:
    """The last that fits. All together are asked first: most entries fit none."""

    def __init__(self, globs: Sequence[Glob]) -> None:
        self._names = _any_of(one.expression for one in globs if one.floating)
        self._paths = _any_of(one.expression for one in globs if not one.floating)
        self._each = [(one, re.compile(one.expression, re.DOTALL)) for one in reversed(globs)]

    def fitting(self, path: bytes) -> Glob | None:
        name = path[path.rfind(b"/") + 1 :]
        if self._names.fullmatch(name) is None and self._paths.fullmatch(path) is None:
            return None
        return next((one for one, made in self._each if made.fullmatch(name if one.floating else path)), None)


def _any_of(expressions: Iterable[bytes]) -> "re.Pattern[bytes]":
    return re.compile(b"|".join(b"(?:%s)" % one for one in expressions) or rb"(?!)", re.DOTALL)


def _translated(pattern: bytes) -> tuple[bool, bool, bytes]:
    """Whether it is for directories alone, whether it is for a name anywhere, and the expression."""
    if len(pattern) > (_LITERAL_MAX_BYTES if _LITERAL.fullmatch(pattern) else MAX_BYTES):
        raise BadGlob(f"of more than {MAX_BYTES:,} bytes")
    if b"\0" in pattern:
        raise BadGlob("with a NUL, which no name has")
    if pattern.startswith(b"#"):
        raise BadGlob(r"that begins with #, which is a comment to git: \# is the character")
    if pattern.endswith(b" ") and not pattern.endswith(b"\\ "):
        raise BadGlob("with a blank at its end, which git leaves off: a backslash before it keeps it")
    rest = pattern.removeprefix(b"!")
    directories = rest.endswith(b"/")
    rest = rest.removesuffix(b"/")
    names = rest.removeprefix(b"/").split(b"/")
    if names == [b""]:
        raise BadGlob("that names nothing")
    if {b"", b".", b".."} & set(names):
        raise BadGlob('with an empty name, "." or ".." in it, which no path beneath the home has')
    if b"/" not in rest:
        return directories, True, _name(rest)
    return directories, False, _path(names)


def _path(names: Sequence[bytes]) -> bytes:
    """Groups of names with `**` between them. Where such a group fits first is as good as any place after it."""
    groups: list[list[bytes]] = [[]]
    for name in names:
        if name == b"**":
            groups.append([])
        else:
            groups[-1].append(_name(name))
    first, *others = groups
    if not others:
        return b"/".join(first)
    made = b"".join(one + b"/" for one in first)
    for group in others[:-1]:
        if group:
            made += rb"(?>(?:[^/]++/)*?%s/)" % b"/".join(group)
    if others[-1]:
        return made + rb"(?:[^/]++/)*?" + b"/".join(others[-1])
    return made + rb".+"  # `a/**`: what is beneath, and not the directory itself


def _name(name: bytes) -> bytes:
    """The expression of one name."""
    chunks: list[bytes] = [b""]
    for part in _parts(name):
        if part == _STAR:
            chunks.append(b"")
        else:
            chunks[-1] += part
    first, *others = chunks
    if not others:
        return first
    made = first + b"".join(rb"(?>[^/]*?%s)" % chunk for chunk in others[:-1] if chunk)
    if others[-1]:
        return made + rb"(?>[^/]*%s%s)" % (others[-1], _NAME_END)
    return made + (rb"[^/]*+" if made else rb"[^/]++")


def _parts(name: bytes) -> list[bytes]:
    """One expression for each byte of what it stands for, and _STAR."""
    parts, at = list[bytes](), 0
    while at < len(name):
        one = name[at : at + 1]
        at += 1
        if one == b"*":
            parts.append(_STAR)
        elif one == b"?":
            parts.append(rb"[^/]")
        elif one == b"[":
            at, part = _bracket(name, at)
            parts.append(part)
        elif one == b"\\":
            if at == len(name):
                raise BadGlob("with a backslash and nothing after it")
            parts.append(re.escape(name[at : at + 1]))
            at += 1
        else:
            parts.append(re.escape(one))
    return parts


def _bracket(name: bytes, at: int) -> tuple[int, bytes]:
    """`at`: after the `[`. Where it ends, and the expression."""
    negated = name[at : at + 1] in (b"!", b"^")
    at += negated
    members, begun = b"", at
    while name[at : at + 1] != b"]" or at == begun:
        if name[at : at + 2] == b"[:":
            end = name.find(b":]", at)
            if end < 0 or name[at + 2 : end] not in _CLASSES:
                raise BadGlob("with a class of characters that there is not")
            members += _CLASSES[name[at + 2 : end]]
            at = end + 2
            continue
        at, low = _member(name, at)
        if name[at : at + 1] == b"-" and name[at + 1 : at + 2] not in (b"]", b""):
            at, high = _member(name, at + 1)
            members += b"\\x%02x-\\x%02x" % (low, max(low, high))  # z-a: z alone, to git
        else:
            members += b"\\x%02x" % low
    return at + 1, rb"(?!/)[%s%s]" % (b"^" if negated else b"", members)


def _member(name: bytes, at: int) -> tuple[int, int]:
    at += name[at : at + 1] == b"\\"
    if at >= len(name):
        raise BadGlob("with a [ that is not closed")
    return at + 1, name[at]
