"""The exception tree. A class exists only where a caller acts on it; each knows its wire code, kind and exit code.

Texts have the form "cannot <verb> <object>: <cause>". `kind` is the stable word that clients switch on.
"""

from typing import ClassVar

EXIT_RESTART = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong but that this process has to be started anew. A unit does it
(Restart=on-failure), and whoever has none reads the line before it."""


class ClamscannerdError(Exception):
    """Base of everything this program raises on purpose; `str()` is fit for an operator or a client."""

    code: ClassVar[int] = -32000
    kind: ClassVar[str] = "fault"
    exit_code: ClassVar[int] = 1

    def data(self) -> dict[str, object]:
        """The `data` member of the JSON-RPC error: always with `kind`."""
        return {"kind": self.kind}


class ConfigError(ClamscannerdError):
    """The operator's mistake: names file, key and what was expected.

    `public` is what every local user may read of it (STATUS, answers): no path of a directory, and no value.
    """

    code = -32001
    kind = "misconfigured"
    exit_code = 78

    def __init__(self, message: str, public: str = "see the daemon's log") -> None:
        super().__init__(message)
        self.public = public


class LocalProtocolError(ClamscannerdError):
    """This side used a protocol object wrongly: our bug."""


class RemoteProtocolError(ClamscannerdError):
    """The other side sent something the protocol forbids. `code` is the JSON-RPC code where there is one."""

    code = -32600
    kind = "protocol"


class CallError(ClamscannerdError):
    """A call is answered with a JSON-RPC error. Subclasses fix code and kind."""

    def __init__(self, message: str, **data: object) -> None:
        super().__init__(message)
        self.extra: dict[str, object] = data

    def data(self) -> dict[str, object]:
        return {"kind": self.kind, **self.extra}


class InvalidParams(CallError):
    code = -32602
    kind = "invalid_params"


class AccessDenied(CallError):
    code = -32003
    kind = "denied"


class UnknownAccount(CallError):
    """No such user, or one that this daemon does not serve: the message says which rule refused it."""

    code = -32004
    kind = "unknown_account"


class NotFound(CallError):
    """An id that does not exist, or is not the caller's: the two are never told apart."""

    code = -32005
    kind = "not_found"


class TooManyCalls(CallError):
    code = -32006
    kind = "too_many_calls"


class TooManyConnections(CallError):
    code = -32007
    kind = "too_many_connections"


class MessageTooLarge(CallError):
    code = -32008
    kind = "message_too_large"


class ShuttingDown(CallError):
    code = -32009
    kind = "shutting_down"


class TimedOut(CallError):
    """The client took too long over a line or was idle for too long; the connection is closed after it."""

    code = -32010
    kind = "timed_out"


class Refused(ClamscannerdError):
    """What was asked cannot be done now: for the six calls UAPI's `status` 0 with this sentence in `errors`."""

    code = -32011
    kind = "refused"


class EngineLost(ClamscannerdError):
    """No engine answers, or the session broke. Never a verdict."""

    kind = "engine_lost"


class MonitorLost(ClamscannerdError):
    """The monitor ended: the daemon ends with a fault (architecture: who dies with whom)."""


class SpawnRefused(ClamscannerdError):
    """The monitor would not, or could not, start a worker."""


class WorkerOutdated(SpawnRefused):
    """What was installed meanwhile is another version than this daemon: no worker until it is started anew."""


class WorkerFailed(ClamscannerdError):
    """A worker died, fell silent, or broke its protocol. The job is retried or failed, the daemon goes on."""


class WorkerSpent(WorkerFailed):
    """A worker used up its processor time: over the same home another would do so too."""


class StateError(ClamscannerdError):
    """The state directory or database cannot be used (locked by another daemon, newer version, damaged)."""
