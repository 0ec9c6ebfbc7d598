"""What Daemon.health says of what the daemon keeps and goes by: last scans, vault, disk, clock, program. [daemon]

For an account its own; for administrators all accounts together, and of the vault those that are nearly full by name.
All of it is a look: nothing is changed and no contents are read (Daemon.verify and Daemon.self_test try things).
"""

import time
from collections.abc import Callable
from typing import Literal

import trio

from clamscannerd.errors import StateError
from clamscannerd.launch_files import out_of_reach
from clamscannerd.model import Account, Check, Grade, Reason
from clamscannerd.state.store import Store
from clamscannerd.state.store_history import AccountUsage, LastScans
from clamscannerd.state.store_values import Caps
from clamscannerd.state.vault import Vault

Whose = Account | Literal["all"] | None

_NAMED = 5  # accounts by name in one sentence; all are counted
_NEAR = 0.9  # of a cap: time to act before a quarantine is refused
_MUCH = 0.05  # of the files not scanned for a reason that something can be done about
_STEP_S = 3_600.0  # a clock that is set right at boot moves by less, but where there is none at all
_AHEAD_S = 60.0  # what was asked for later than now: by more than any clock is slewed
_DAY_S = 86_400.0
_YEARS_S = 2 * 365 * _DAY_S  # signatures so old are rather a clock that is wrong

_REASON_CURES: dict[Reason, str] = {
    Reason.TOO_BIG: "engine.max_file_size, or MaxFileSize and MaxScanSize of a shared clamd, can be raised",
    Reason.LIMIT: "archives beyond the engine's limits: MaxScanSize, MaxFiles, MaxRecursion, MaxScanTime",
    Reason.ENCRYPTED: "nobody can look into encrypted files; their owners know them",
    Reason.UNREADABLE: "the account may not read them itself: see their modes and owners",
    Reason.TIMED_OUT: "engine.max_scan_time_s and scans.file_deadline_s, or a faster disk",
    Reason.ENGINE_ERROR: "the log of clamd says what failed",
    Reason.NO_SIGNATURES: "install clamav-freshclam, or run freshclam",
    Reason.OTHER_FILESYSTEM: "file systems mounted beneath a home are not entered",
    Reason.PATH_TOO_LONG: "paths beyond 4,095 bytes cannot be opened",
}
"""What can be done about each; the others (gone, changed, no regular file, excluded) need nothing done."""

_TROUBLE = frozenset({Reason.ENGINE_ERROR, Reason.TIMED_OUT, Reason.NO_SIGNATURES})


def boot_s() -> float:
    """Seconds since boot, sleep included: what no step of the clock changes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Kept:
    """One per daemon; `min_free`: of the state's file system, below which no job is taken."""

    def __init__(self, store: Store, vault: Vault, min_free: Callable[[], int]) -> None:
        self._store = store
        self._vault = vault
        self._min_free = min_free
        self._offset = time.time() - boot_s()

    async def checks(self, whose: Whose, database_time: float) -> list[Check]:
        """`database_time`: of the engine's signatures, as far as known."""
        found = [program_check(await trio.to_thread.run_sync(out_of_reach))]
        try:
            newest = await self._store.newest_moment()
            now = time.time()
            found.append(clock_check(now, newest, now - boot_s() - self._offset, database_time))
            if whose is not None:
                found.append(scans_check(await self._scans(whose)))
                found.append(await self._vault_of(whose))
            if whose == "all":
                found.append(disk_check(await self._store.free_bytes(), self._min_free(), await self._vault.room()))
        except StateError as error:
            found.append(Check(id="state", grade=Grade.ERROR, message=f"{error}.", cure="journalctl -u clamscannerd"))
        return found

    async def _scans(self, whose: Account | Literal["all"]) -> LastScans:
        if isinstance(whose, Account):
            return await self._store.last_scans(whose.uid, whose.name)
        return await self._store.last_scans(None, "")

    async def _vault_of(self, whose: Account | Literal["all"]) -> Check:
        caps = self._vault.caps
        if isinstance(whose, Account):
            used = await self._store.usage(whose.uid, whose.name)
            own = AccountUsage(uid=whose.uid, name=whose.name, bytes=used.bytes, items=used.items)
            near = used.bytes >= _NEAR * caps.max_bytes or used.items >= _NEAR * caps.max_items
            return vault_check(int(near), [own] if near else [], caps)
        least = int(_NEAR * caps.max_bytes), int(_NEAR * caps.max_items)
        return vault_check(*await self._store.usages(*least, _NAMED), caps)


def program_check(shut: tuple[str, str] | None) -> Check:
    """Pure. `shut`: what is out of reach, and the directory that is in the way."""
    if shut is None:
        return Check(id="program", grade=Grade.OK, message="Workers can reach the interpreter and the program.")
    path, directory = shut
    words = f"Workers cannot reach {path}: other users cannot enter {directory}. No job can start."
    return Check(id="program", grade=Grade.ERROR, message=words, cure=f"chmod o+x {directory}")


def clock_check(now: float, newest: float, stepped_s: float, database_time: float) -> Check:
    """Pure. `newest`: when the latest job was asked for; `stepped_s`: by how much the clock was set since the start."""
    cure = "set the clock, and have it kept right: timedatectl set-ntp true"
    words = ""
    if newest > now + _AHEAD_S:
        words = f"The latest job was asked for {_length(newest - now)} from now: the clock is, or was, wrong."
    elif database_time > now + _DAY_S:
        words = f"The signatures are of {_length(database_time - now)} from now: the clock is behind."
    elif database_time and now - database_time > _YEARS_S:
        words = f"The signatures are {_length(now - database_time)} old, or the clock is far ahead."
    elif abs(stepped_s) > _STEP_S:
        way = "on" if stepped_s > 0 else "back"
        words = f"The clock was set {way} by {_length(abs(stepped_s))} since the start: what is kept expires by it."
        cure = "see that it is right now; a restart of the daemon takes this message away"
    if words:
        return Check(id="clock", grade=Grade.WARNING, message=words, cure=cure)
    return Check(id="clock", grade=Grade.OK, message="The clock agrees with what is recorded.")


def _length(seconds: float) -> str:
    for unit_s, name in ((365 * _DAY_S, "years"), (_DAY_S, "days"), (3_600.0, "hours")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{seconds / 60:.0f} minutes"


def scans_check(last: LastScans) -> Check:
    """Pure: how much of the last scans was not scanned, and why."""
    if not last.scans:
        return Check(id="scans", grade=Grade.OK, message="No scan was done yet.")
    left = sorted(((number, reason) for reason, number in last.not_scanned.items() if number), reverse=True)
    of = f"{last.files} files of the last {'scan' if last.scans == 1 else f'{last.scans} scans'}"
    if not left:
        return Check(id="scans", grade=Grade.OK, message=f"All {of} were scanned.")
    parts = ", ".join(f"{number} {_in_words(reason, last.limits)}" for number, reason in left)
    number = sum(number for number, _ in left)
    words = f"Of {of} {number} {'was' if number == 1 else 'were'} not scanned ({parts})."
    curable = [(number, reason) for number, reason in left if reason in _REASON_CURES]
    many = sum(number for number, _ in curable) > _MUCH * last.files
    if not many and not any(reason in _TROUBLE for _, reason in curable):
        return Check(id="scans", grade=Grade.OK, message=words)
    cure = "; ".join(f"{_in_words(reason, last.limits)}: {_REASON_CURES[reason]}" for _, reason in curable)
    return Check(id="scans", grade=Grade.WARNING, message=words, cure=cure)


def _in_words(reason: Reason, limits: frozenset[int]) -> str:
    """ "over 25 MiB", "over 25 to 100 MiB" as engines differed, "over the size limit" where it is not known."""
    if reason is not Reason.TOO_BIG:
        return reason.value.replace("_", " ")
    if not limits or 0 in limits:
        return "over the size limit"
    return f"over {' to '.join(f'{one / (1 << 20):.4g}' for one in sorted({min(limits), max(limits)}))} MiB"


def vault_check(number: int, fullest: list[AccountUsage], caps: Caps) -> Check:
    """Pure: whose part of the vault is nearly full."""
    if not number:
        return Check(id="vault", grade=Grade.OK, message="The vault has room.")
    parts = ", ".join(f"{one.name} ({_share(one, caps):.0%})" for one in fullest)
    more = f" and {number - len(fullest)} more" if number > len(fullest) else ""
    words = f"The vault is nearly full for {parts}{more}: what does not fit is not quarantined, and stays in place."
    cure = "clamscannerctl quarantine list, then quarantine delete; or raise vault.max_bytes_per_account"
    return Check(id="vault", grade=Grade.WARNING, message=words, cure=cure)


def _share(used: AccountUsage, caps: Caps) -> float:
    return max(used.bytes / max(1, caps.max_bytes), used.items / max(1, caps.max_items))


def disk_check(free: int, least: int, room: tuple[float, float]) -> Check:
    """Pure. `free`, `least`: bytes of the state's file system; `room`: shares of the vault's."""
    share, least_share = room
    if free < least:
        words = f"The disk of the daemon's state is full ({free >> 20} MiB free): no job is taken."
    elif share < least_share:
        words = f"The disk of the vault has {share:.1%} free, less than vault.min_free: nothing is quarantined."
    else:
        return Check(id="disk", grade=Grade.OK, message=f"There is room on the disk: {share:.0%} is free.")
    return Check(id="disk", grade=Grade.ERROR, message=words, cure="make room on the disk of state.directory")
