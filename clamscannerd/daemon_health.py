"""What Daemon.health says: whether all is as it should be, and if not, what to do about it. [daemon]

Found before anybody meets it: homes that the service sees read-only (its sandbox, or their disk), and seals that this
kernel or sandbox does not give to workers. Daemon, monitor and workers share one sandbox, so the daemon can see for
all of them. What it looks at are the kernel, its own mounts, and passwd: never a path in a home. An ordinary user
learns of their own home alone; administrators of all, by the directories that homes are in.

Rejected: statvfs of each home (hangs where the home does); asking a worker (there may be no account to start one for).
"""

import math
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import PurePosixPath
from typing import Literal, Protocol

import trio

from clamscannerd import rights
from clamscannerd.daemon_health_kept import Kept
from clamscannerd.engine.choice import lags
from clamscannerd.engine.health import EngineState
from clamscannerd.launch_homes import is_home
from clamscannerd.model import Account, Check, EngineInfo, Grade
from clamscannerd.service.accounts import Accounts
from clamscannerd.worker import beneath, seal

_OLD_S = 2 * 86_400.0  # freshclam's usual interval is hours
_CURE_HOMES = 'if they are writable for their users: "HOMES OUTSIDE OF /HOME" in clamscannerd(8)'
_CURE_UNKNOWN = "or name its clamd.conf in engine.clamd_conf, or engine.confs, so that its settings are known"
_CURE_CACHE = "name its clamd.conf in engine.clamd_conf, or engine.confs where there are several engines"
_CURE_SOCKET = (
    "in clamd.conf LocalSocketMode 660 and LocalSocketGroup clamav (in clamav-daemon.socket SocketMode=0660), then"
    " adduser clamscannerd clamav, and the mail server's user too; or EnableShutdownCommand no from clamd 1.5 on;"
    ' or engine.sockets = "private"'
)
_CURE_FASTER = (
    "several clamds as one: a clamd.conf for each, with MaxThreads 1, a LocalSocket and a TemporaryDirectory of its"
    " own, that one on a tmpfs, and all of them in engine.sockets;"
    ' or engine.sockets = "private", which does that where memory permits'
)
_CURE_PRIVATE = "it is started again by itself; systemctl status 'clamscannerd-engine@*'"
_CURE_MEMBER = "see that it runs and can be reached; its address stands in engine.sockets"
_CURE_OLDER = "run freshclam there; engine.max_signature_lag leaves out what is too far behind"
_CLEAR = (
    "The clamd at {} is reached over TCP, in the clear: who is between can read what is scanned and forge what is said"
    ' of it; "ENGINES ON OTHER MACHINES" in clamscannerd(8).'
)
_OLDEST_CLAMD = (1, 0)  # the oldest with which the tests were run; older ones get no signatures any more
_SECONDARY = "workers are held by their uid and the other seals"


class Engine(Protocol):
    """engine/sessions.EngineState."""

    @property
    def kind(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def info(self) -> EngineInfo: ...
    @property
    def signatures(self) -> bool: ...
    @property
    def cure(self) -> tuple[str, ...]: ...
    @property
    def address(self) -> str: ...
    @property
    def shared(self) -> bool: ...
    @property
    def shutdown(self) -> bool: ...


class Engines(Protocol):
    """engine/sessions.Engines: all of them together, and each by itself."""

    def state(self) -> Engine: ...
    def states(self) -> Sequence[EngineState]: ...
    def usable(self) -> Sequence[EngineState]: ...


class Health:
    """One per daemon. `troubles`: sentences of what else is known to be wrong, as STATUS has them. `keeps`: whether
    verdicts are to be kept (cache.enabled). `why`: why there are so many private engines; blocking."""

    def __init__(
        self,
        engines: Engines,
        accounts: Accounts,
        kept: Kept,
        troubles: Callable[[], Iterable[str]],
        keeps: Callable[[], bool],
        why: Callable[[], str] = str,
    ) -> None:
        self._why = why
        self._engines = engines
        self._accounts = accounts
        self._kept = kept
        self._troubles = troubles
        self._keeps = keeps

    async def checks(self, whose: Account | Literal["all"] | None) -> list[Check]:
        """The worst first. `whose` home matters. Raises TimedOut when passwd does not answer."""
        if whose == "all":
            homes = await self._accounts.homes()
        else:
            homes = [whose.home] if whose is not None else []
        engine = self._engines.state()
        found = [
            *engine_checks(engine, time.time()),
            *private_checks(self._engines.states(), await trio.to_thread.run_sync(self._why)),
            *(await self._each() if whose == "all" else ()),
            *await self._kept.checks(whose, engine.info.database_time),
            homes_check([os.fsdecode(home) for home in homes], read_only_mounts()),
            *kernel_checks(),
            *(
                Check(id="daemon", grade=Grade.WARNING, message=f"{words[:1].upper()}{words[1:]}.")
                for words in self._troubles()
            ),
        ]
        return sorted(found, key=lambda check: list(Grade).index(check.grade))

    async def _each(self) -> list[Check]:
        """Each engine by itself, and the sockets of clamds that are not ours."""
        states = self._engines.states()
        local = [one for one in states if one.shared and not one.remote]
        modes = await trio.to_thread.run_sync(lambda: [_mode(one.address) for one in local])
        return [
            *member_checks(states, {one.address for one in self._engines.usable()}, time.time()),
            *(cache_checks(states) if self._keeps() else ()),
            *(socket_check(one.address, mode, one.shutdown) for one, mode in zip(local, modes, strict=True)),
            *faster_checks(local, os.cpu_count() or 1),
        ]


def engine_checks(engine: Engine, now: float) -> list[Check]:
    """Pure: is there an engine, what does it know, and what can it not report."""
    if engine.kind != "ready":
        return [_away(engine)]
    info = engine.info
    found = [_version(info.version)]
    freshclam = "install clamav-freshclam, or run freshclam: the daemon notices"
    if not engine.signatures:
        words = "Only the EICAR test signature is loaded: no file is called clean."
        found.append(Check(id="signatures", grade=Grade.ERROR, message=words, cure=freshclam))
    elif info.database_time and now - info.database_time > _OLD_S:
        words = f"The signatures are {(now - info.database_time) / 86_400:.0f} days old."
        found.append(Check(id="signatures", grade=Grade.WARNING, message=words, cure=freshclam))
    else:
        found.append(Check(id="signatures", grade=Grade.OK, message="Signatures are loaded."))
    if info.blind:
        lines = "; ".join(engine.cure)
        change = f"or set in its clamd.conf, each in place of a line of that name: {lines}" if lines else _CURE_UNKNOWN
        cure = f'engine.sockets = "private" has none of these; {change}'
        found.append(Check(id="engine.blind", grade=Grade.WARNING, message=" ".join(info.blind), cure=cure))
    return found


def private_checks(states: Sequence[EngineState], why: str) -> list[Check]:
    """Pure: how many of ours there are, and why so many."""
    if not why or not states or any(one.shared or not one.signatures for one in states):
        return []
    return [Check(id="engine.private", grade=Grade.OK, message=f"{why}.")]


def faster_checks(local: Sequence[EngineState], cores: int) -> list[Check]:
    """Pure. A hint, and nothing that is wrong. `local`: clamds of others on this machine."""
    if cores < 2 or len(local) != 1 or local[0].max_threads == 1:
        return []
    words = (
        f"The clamd at {local[0].address} has {local[0].max_threads} threads, which get in each other's way: one clamd"
        " of a single thread for each core, with temporary files on a tmpfs, took 0.59 of the time for a full scan."
    )
    return [Check(id="engine.faster", grade=Grade.OK, message=words, cure=_CURE_FASTER)]


def member_checks(states: Sequence[EngineState], used: Collection[str], now: float) -> list[Check]:
    """Pure: where there are several engines, or one on another machine. `used`: addresses that scans are given."""
    found = [
        Check(id="engine.remote", grade=Grade.OK, message=_CLEAR.format(one.address)) for one in states if one.remote
    ]
    if len(states) == 1:
        return found
    behind = lags(states, now)
    for one in states:
        at = f"The clamd at {one.address}"
        if one.kind != "ready":
            words = f"{at} is not used: {one.reason}"
            cure = _CURE_MEMBER if one.shared else _CURE_PRIVATE
            found.append(Check(id="engine.member", grade=Grade.WARNING, message=words, cure=cure))
            continue
        words = f"{at} is {one.info.version}/{one.info.database}, for files of up to {one.max_file_size >> 20} MiB"
        lag = behind.get(one.address, 0.0)
        if lag:
            words += f"; its signatures are {_behind(lag)} the newest of the others"
        if one.address not in used:
            words += ", and it is left out"
        late = lag > _OLD_S or one.address not in used
        grade, cure = (Grade.WARNING, _CURE_OLDER) if late else (Grade.OK, "")
        found.append(Check(id="engine.member", grade=grade, message=f"{words}.", cure=cure))
    return found


def cache_checks(states: Sequence[EngineState]) -> list[Check]:
    """Pure: engines of which no verdict is kept (cache/basis.py)."""
    found = []
    for one in states:
        if one.kind != "ready" or not one.signatures or one.settings:
            continue
        words = f"What the clamd at {one.address} calls clean is not kept, so that it is asked again in each scan: "
        if one.remote:
            words += "it is on another machine, and nobody here sees when its settings change."
            found.append(Check(id="cache", grade=Grade.OK, message=words))
        else:
            words += "its settings are not known."
            found.append(Check(id="cache", grade=Grade.WARNING, message=words, cure=_CURE_CACHE))
    return found


def _behind(lag: float) -> str:
    return "none of the official ones, unlike" if lag == math.inf else f"{lag / 86_400:.1f} days behind"


def _away(engine: Engine) -> Check:
    status = "systemctl status clamav-daemon 'clamscannerd-engine@*'"
    if engine.kind in ("starting", "loading"):
        words = f"The engine is loading its signatures, or starting: {engine.reason}"
        cure = f"wait a minute, scans do so too; after that: {status}"
        return Check(id="engine", grade=Grade.WARNING, message=words, cure=cure)
    cure = f'{status}; apt install clamav-daemon clamav-freshclam where there is none, or engine.sockets = "private"'
    return Check(id="engine", grade=Grade.ERROR, message=engine.reason, cure=cure)


def _version(version: str) -> Check:
    number = re.match(r"([0-9]+)\.([0-9]+)", version)
    if number and (int(number[1]), int(number[2])) < _OLDEST_CLAMD:
        words = f"clamd {version} is too old: it misses what later ones find, and new signatures are not made for it."
        return Check(id="engine", grade=Grade.WARNING, message=words, cure="upgrade it to clamd 1.0 or later")
    return Check(id="engine", grade=Grade.OK, message=f"clamd {version} answers and scans.")


def _mode(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except OSError:
        return None


def socket_check(address: str, mode: int | None, shutdown: bool) -> Check:  # noqa: FBT001  it is a fact, not a switch
    """Pure. A clamd obeys SHUTDOWN from whoever can connect. `mode`: of its socket, None if that cannot be seen."""
    if mode is None or not mode & stat.S_IWOTH or not shutdown:
        return Check(id="engine.socket", grade=Grade.OK, message=f"Not everybody can end the clamd at {address}.")
    words = f"Every local user can end the clamd at {address}, by SHUTDOWN: its socket has mode {mode & 0o777:04o}."
    return Check(id="engine.socket", grade=Grade.WARNING, message=words, cure=_CURE_SOCKET)


def homes_check(homes: Iterable[str], mounts: dict[str, bool]) -> Check:
    """Pure. `mounts`: mount point -> whether it is read-only."""
    shut = Counter(os.path.dirname(home) for home in homes if is_home(home) and _is_read_only(home, mounts))
    if not shut:
        return Check(id="homes", grade=Grade.OK, message="Homes are writable for the service.")
    places = ", ".join(f"{place} ({number})" for place, number in sorted(shut.items()))
    words = f"The service sees homes read-only, so that nothing can be done about files in them: in {places}."
    return Check(id="homes", grade=Grade.ERROR, message=words, cure=_CURE_HOMES)


def _is_read_only(home: str, mounts: dict[str, bool]) -> bool:
    path = PurePosixPath(home)
    return next((mounts[str(place)] for place in (path, *path.parents) if str(place) in mounts), False)


def read_only_mounts() -> dict[str, bool]:
    """Of this process: mount point -> whether nothing can be written there."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        lines = [line.split(" ") for line in stream]
    return {_unescaped(words[4]): "ro" in words[5].split(",") for words in lines}


def _unescaped(field: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field


def kernel_checks() -> list[Check]:
    """What this kernel, inside of this sandbox, gives to workers."""
    kernel = beneath.Kernel()
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.probe(root)
    finally:
        os.close(root)
    given = {
        "openat2": (kernel.openat2, "openat2: paths are walked one name at a time, which is slower and as safe"),
        "seccomp": (rights.has_seccomp(), f"seccomp: {_SECONDARY}"),
        "landlock": (seal.landlock_abi() > 0, f"Landlock: {_SECONDARY}"),
    }
    cure = "a kernel that has it; or what in the service's sandbox refuses it (RestrictSUIDSGID=, SystemCallFilter=)"
    return [
        Check(id=f"kernel.{name}", grade=Grade.OK, message=f"Workers have {lack.partition(':')[0]}.")
        if there
        else Check(id=f"kernel.{name}", grade=Grade.WARNING, message=f"Workers have no {lack}.", cure=cure)
        for name, (there, lack) in given.items()
    ]
