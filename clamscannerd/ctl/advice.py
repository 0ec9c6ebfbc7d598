"""What to do about a refusal: the daemon says what is wrong, in words for any client; here is the command for it. Pure.

By the daemon's own sentences: most refusals have one kind and differ in their words alone. A sentence that a newer
daemon words otherwise gets no advice, and is still said whole.
"""

from collections.abc import Iterable, Sequence

_COMMANDS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("no scan of this account is known", ("scan", "home")),
    ("there is no scan type", ("paths",)),
    ("there is no directory", ("paths",)),
    ("; resume or cancel it", ("resume",)),
    ("a scan of this account is already", ("status", "--wait")),
    ("of this account is under way", ("task", "--follow")),
    ("nothing that was named is on the list", ("infected",)),
    ("cannot find the scan", ("history",)),
    ("cannot find item", ("quarantine", "list")),
    ("nothing that the task took away is in the vault", ("quarantine", "list")),
    ("there is no such task", ("task",)),
    ("cannot undo: the task is a", ("undo",)),
    ("none is queued, running or paused", ("status",)),
    ("no engine for", ("health",)),
    ("is full", ("health",)),
    ("cannot use home", ("health",)),
    ("cannot look into the home", ("health",)),
    ("cannot start a worker", ("health",)),
)
"""A part of the sentence -> the command that helps; the first that fits."""

_ACTS: Sequence[tuple[str, str]] = (
    ("it is for administrators", "leave out --user, or ask an administrator (server.admins in clamscannerd.toml)"),
    ("cannot serve this account", "ask an administrator: the rules are under [accounts] in clamscannerd.toml"),
    ("connect again", "say it once more"),
    ("no answer within", "see whether it is busy: systemctl status clamscannerd"),
    ("it closed the connection", "see whether it is running: systemctl status clamscannerd"),
)
"""The same, where what helps is no command of ours."""


def command_for(sentences: Iterable[str]) -> tuple[str, ...]:
    """Words of a command line; () if none is known to help."""
    said = "\n".join(sentences)
    return next((words for part, words in _COMMANDS if part in said), ())


def act_for(sentences: Iterable[str]) -> str:
    """What else helps; "" if nothing is known."""
    said = "\n".join(sentences)
    return next((act for part, act in _ACTS if part in said), "")
