"""One call and what becomes of its answer: data for the command, sentences for stderr, an exit code for trouble.

What the contract keeps apart stays apart: trouble with the protocol is a RemoteError, trouble with what was asked is
UAPI's `status` 0 and becomes Refusal; both end as one line each and exit code 2. `warnings` go to stderr as they come,
so that stdout holds the answer and nothing else.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from clamscannerd.ctl import text

if TYPE_CHECKING:
    from clamscannerd.client import Client

Json = dict[str, Any]

PROGRAM = "clamscannerctl"
FOUND, TROUBLE, NOT_SCANNED, INTERRUPTED = 1, 2, 3, 130


class Refusal(Exception):
    """`status` 0 of one of the six: `errors` are the daemon's own sentences, `answer` the whole envelope."""

    def __init__(self, answer: Json) -> None:
        self.answer = answer
        self.errors: list[str] = answer["result"]["errors"]
        super().__init__("; ".join(self.errors))


class Options:
    """The options that every command takes; filled in by click as it meets them, before or after the command."""

    def __init__(self) -> None:
        self.json = False
        self.user: str | None = None
        self.socket: str | None = None

    def again(self, *words: str) -> str:
        """The command line that speaks of the same daemon and account, for "come back with"."""
        line = [PROGRAM]
        line += ["--socket", self.socket] if self.socket else []
        line += ["--user", self.user] if self.user else []
        return text.safe(shlex.join([*line, *words]))


_SEE = {
    "ClamScanner.start_scan": ("status",),
    "Scan.start": ("status",),
    "ClamScanner.disinfect_files": ("task",),
    "Task.undo": ("task",),
    "Quarantine.restore": ("task",),
}
"""What begins something that goes on by itself -> the command that shows it."""


class Caller:
    """The daemon's calls with the options applied. Connects with the first call; one connection for all."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.timeout_s: float | None = None  # for one call; None: the client's own
        self._client: Client | None = None
        self._warned: set[str] = set()

    def call(self, method: str, params: Mapping[str, object] | Sequence[object] = ()) -> object:
        """The JSON-RPC result. Raises ClamscannerdError."""
        if self._client is None:
            from clamscannerd.client import Client

            limit = {} if self.timeout_s is None else {"timeout_s": self.timeout_s}
            self._client = Client(self.options.socket, **limit)
        if self.options.user is not None:
            if params and not isinstance(params, Mapping):
                raise ValueError("cannot name a user: the parameters are given by position")
            params = {**(params if isinstance(params, Mapping) else {}), "user": self.options.user}
        try:
            return self._client.call(method, params)
        except KeyboardInterrupt:
            if (see := _SEE.get(method)) is not None:
                say(f"there was no answer yet: see whether it has begun: {self.options.again(*see)}")
            raise

    def six(self, func: str, **params: object) -> Json:
        """The whole envelope of one of the six calls with `status` 1; warnings are told. Raises Refusal."""
        answer = self.call(f"ClamScanner.{func}", params)
        if not is_envelope(answer):
            raise Refusal(_unusable(func))
        if not answer["result"]["status"]:
            raise Refusal(answer)
        self.warn(answer["result"]["warnings"] or ())
        return answer

    def warn(self, warnings: Sequence[str]) -> None:
        """Each sentence once, however often the same answer is polled."""
        for warning in warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                say(f"warning: {warning}")

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def is_envelope(answer: object) -> TypeGuard[Json]:
    """True if `answer` has UAPI's form, which the six calls answer in."""
    result = answer.get("result") if isinstance(answer, dict) else None
    return isinstance(result, dict) and {"data", "errors", "status", "warnings"} <= result.keys()


def _unusable(func: str) -> Json:
    sentence = f"cannot use the answer to {func}: it is not of UAPI's form; is that socket clamscannerd's?"
    return {"result": {"status": 0, "errors": [sentence], "data": None, "warnings": None}}


def say(line: str) -> None:
    """One line to stderr; nobody reading it is no fault."""
    try:
        sys.stderr.write(f"{PROGRAM}: {text.safe(line)}\n")
        sys.stderr.flush()
    except OSError:
        pass


def out(line: str) -> None:
    """One line to stdout; it has been made safe already."""
    sys.stdout.write(f"{line}\n")


def absolute(name: bytes, home: bytes) -> bytes:
    """A FILE argument as the daemon lists it: absolute, dots resolved, links left alone.

    getcwd() answers without links, while the daemon lists files beneath the home as passwd spells it: where /home is
    a link, the beginning of the working directory is spelled that way here too. The file's own links stay: it is the
    name that was listed.
    """
    if not os.path.isabs(name):
        here, real_home = os.getcwdb(), os.path.realpath(home)
        if here == real_home or here.startswith(real_home.rstrip(b"/") + b"/"):
            here = home.rstrip(b"/") + here[len(real_home.rstrip(b"/")) :]
        name = os.path.join(here, name)
    return os.path.abspath(name)
