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
    ("that took it away is under way", ("task", "--follow")),
    ("it is being restored", ("task", "--follow")),
    ("its worker does not end", ("status",)),
    ("there is no such entry", ("ignore", "list")),
    ("cannot add the entry: entry", ("ignore", "list")),
    ("and no more are kept: remove some", ("ignore", "list")),
    ("could be compared with the ignore list", ("ignore", "list")),
    ("that the ignore list covers", ("infected",)),
    ("no type of scan that the administrator permits", ("paths",)),
    ("nothing that was named is on the list", ("infected",)),
    ("cannot find the scan", ("history",)),
    ("cannot find item", ("quarantine", "list")),
    ("nothing that the task took away is in the vault", ("quarantine", "list")),
    ("there is no such task", ("task",)),
    ("cannot undo: the task is a", ("undo",)),
    ("none is queued, running or paused", ("status",)),
    ("no engine for", ("health",)),
    ("were killed and hang in the kernel", ("health",)),
    ("said nothing for", ("health",)),
    ("is full", ("health",)),
    ("cannot use home", ("health",)),
    ("cannot look into the home", ("health",)),
    ("cannot start a worker", ("health",)),
)
"""A part of the sentence -> the command that helps; the first that fits."""

_ACTS: Sequence[tuple[str, str]] = (
    ("cannot make this call: it is for administrators", "ask an administrator (server.admins in clamscannerd.toml)"),
    ("is for administrators", "leave out --user, or ask an administrator (server.admins in clamscannerd.toml)"),
    ("root has no scans of its own", "name whose: --user NAME; all accounts: clamscannerctl report"),
    ("cannot serve this account", "ask an administrator: the rules are under [accounts] in clamscannerd.toml"),
    ("connect again", "say it once more"),
    ("is no longer the user it was", "say it once more"),
    ("the daemon is stopping", "say it once more: it is being restarted, or see systemctl status clamscannerd"),
    ("cannot take the c", "wait a moment, and say it once more"),
    ("cannot keep the answer", "wait a moment, and say it once more"),
    ("it is being verified already", "wait for the end of that, and say it once more"),
    ("the configuration does not allow to ignore", "ask an administrator (ignore.allowed in clamscannerd.toml)"),
    ("does not permit rapid scans", "leave out --depth, or ask an administrator (cache.rapid in clamscannerd.toml)"),
    ("it is not in the home directory", "name files and directories beneath that home"),
    ("there is no such file or directory", "see what is there: ls; a name with a blank in it needs quotes"),
    ("cannot use what", "leave out --socket and CLAMSCANNERD_SOCKET, or name the daemon's"),
    ("is that socket clamscannerd's", "leave out --socket and CLAMSCANNERD_SOCKET, or name the daemon's"),
    ("cannot call ", "see what it takes: man 7 clamscannerd-rpc, or clamscannerctl call rpc.discover"),
    ("Method not found", "see what there is: man 7 clamscannerd-rpc, or clamscannerctl call rpc.discover"),
    ("cannot answer the call", "ask an administrator: journalctl -u clamscannerd says more"),
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
