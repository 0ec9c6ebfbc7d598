"""[engine] of clamscannerd.toml: which clamds there are, what they are, and how long they are waited for. Pure."""

from collections.abc import Callable

from clamscannerd import addresses
from clamscannerd.config_units import Duration, Section, Size

_MOST_ENGINES = 256
"""Each is looked at every few seconds; one scan uses 16 at once."""


class Engine(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sockets: str | tuple[str, ...] = "auto"  # "auto", "private", or clamd addresses
    clamd_conf: str = "/etc/clamav/clamd.conf"  # of a shared clamd: its limits cannot be asked for
    confs: dict[str, str] = {}  # noqa: RUF012  the same, by address, of further ones; of a remote one a copy
    max_signature_lag: Duration = Duration(0)  # engines further behind the newest are left out; 0: none is
    clamd: str = "/usr/sbin/clamd"  # of the private engine
    database: str = "/var/lib/clamav"  # signatures of the private engine
    temporary: str = ""  # "": a tmpfs of its own where memory permits, else a directory beside its state
    max_file_size: Size = Size(100 << 20)  # = MaxScanSize: only then is a trimmed archive member reported
    max_scan_time_s: float = 120.0  # clamd's own default
    private_engines: str | int = (
        "auto"  # "auto": one for each core, where memory permits; of several each has one thread
    )
    max_threads: int = 10  # clamd's own default; of the private engine where there is only one
    first_ping_timeout_s: float = 180.0  # a connect succeeds while clamd still loads gigabytes of signatures
    ping_timeout_s: float = 20.0  # 60 idle connections were seen to delay a PING by 17 s
    check_interval_s: float = 5.0  # a lost engine or a new database is noticed within this
    lost_after_s: float = 120.0  # start_scan is refused when the engine is lost for longer
    wait_s: float = 600.0  # a running scan waits this long for its engine to come back
    auto_wait_s: float = 60.0  # for a system clamd that is enabled but does not answer yet
    courtesy_s: float = 0.02  # a clamd that others use: fewer files at it while a small scan takes longer; 0: never
    nice: int = 10  # of private engine: status answers stay at 4 ms instead of 14 to 20


_MOST_PRIVATE = 8
"""As many as the monitor, and the units, start; engine/fitting.py has the reason."""


def check_private(engine: Engine, need: Callable[[bool, str, str], None]) -> None:
    """`need(fits, key, what is expected)` raises."""
    number = engine.private_engines
    fits = 1 <= number <= _MOST_PRIVATE if isinstance(number, int) else number == "auto"
    need(fits, "engine.private_engines", f'"auto" or 1 to {_MOST_PRIVATE}')


def check_addresses(engine: Engine, need: Callable[[bool, str, str], None]) -> None:
    """`need(fits, key, what is expected)` raises."""
    sockets = engine.sockets
    if isinstance(sockets, str):
        need(sockets in ("auto", "private"), "engine.sockets", '"auto", "private" or a list of addresses')
        need(not engine.confs, "engine.confs", "none without a list in engine.sockets")
        return
    need(bool(sockets), "engine.sockets", "at least one address")
    need(len(sockets) <= _MOST_ENGINES, "engine.sockets", f"at most {_MOST_ENGINES} addresses")
    for address in sockets:
        need(addresses.fits(address), "engine.sockets", f"{addresses.EXPECTED}, got {address!r}")
        need(sockets.count(address) == 1, "engine.sockets", f"each address once, got {address!r} again")
    for address, path in engine.confs.items():
        need(address in sockets, "engine.confs", f"addresses of engine.sockets, got {address!r}")
        need(path.startswith("/") and "\0" not in path, "engine.confs", f"absolute paths without NUL, got {path!r}")
