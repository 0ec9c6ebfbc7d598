"""What Daemon.health says: whether all is as it should be, and if not, what to do about it. [daemon]

Found before anybody meets it: homes that the service sees read-only (its sandbox, or their disk), and seals that this
kernel or sandbox does not give to workers. Daemon, monitor and workers share one sandbox, so the daemon can see for
all of them. What it looks at are the kernel, its own mounts, and passwd: never a path in a home. An ordinary user
learns of their own home alone; administrators of all, by the directories that homes are in.

Rejected: statvfs of each home (hangs where the home does); asking a worker (there may be no account to start one for).
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Literal, Protocol

from clamscannerd import rights
from clamscannerd.launch_homes import is_home
from clamscannerd.model import Account, Check, EngineInfo, Grade
from clamscannerd.service.accounts import Accounts
from clamscannerd.worker import beneath, seal

_OLD_S = 2 * 86_400.0  # freshclam's usual interval is hours
_CURE_HOMES = 'if they are writable for their users: "HOMES OUTSIDE OF /HOME" in clamscannerd(8)'
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


class Health:
    """One per daemon. `troubles`: sentences of what else is known to be wrong, as STATUS has them."""

    def __init__(self, engine: Callable[[], Engine], accounts: Accounts, troubles: Callable[[], Iterable[str]]) -> None:
        self._engine = engine
        self._accounts = accounts
        self._troubles = troubles

    async def checks(self, whose: Account | Literal["all"] | None) -> list[Check]:
        """The worst first. `whose` home matters. Raises TimedOut when passwd does not answer."""
        if whose == "all":
            homes = await self._accounts.homes()
        else:
            homes = [whose.home] if whose is not None else []
        found = [
            *engine_checks(self._engine(), time.time()),
            homes_check([os.fsdecode(home) for home in homes], read_only_mounts()),
            *kernel_checks(),
            *(
                Check(id="daemon", grade=Grade.WARNING, message=f"{words[:1].upper()}{words[1:]}.")
                for words in self._troubles()
            ),
        ]
        return sorted(found, key=lambda check: list(Grade).index(check.grade))


def engine_checks(engine: Engine, now: float) -> list[Check]:
    """Pure: is there an engine, what does it know, and what can it not report."""
    if engine.kind != "ready":
        return [
            Check(
                id="engine",
                grade=Grade.ERROR,
                message=engine.reason,
                cure="systemctl status clamav-daemon 'clamscannerd-engine@*'; scans wait for it meanwhile",
            )
        ]
    info = engine.info
    found = [Check(id="engine", grade=Grade.OK, message=f"clamd {info.version} answers and scans.")]
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
        cure = 'engine.sockets = "private" has none of these; or change clamd.conf(5)'
        found.append(Check(id="engine.blind", grade=Grade.WARNING, message=" ".join(info.blind), cure=cure))
    return found


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
