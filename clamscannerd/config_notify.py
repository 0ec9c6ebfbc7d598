"""[notify] of clamscannerd.toml: what the daemon makes digests of, and how the hooks are run on them. Pure.

Read by [daemon], and by [notify] for the two keys that begin with hook_.
"""

from typing import Literal

from clamscannerd.config_units import Duration, Section, Size


class Notify(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    outbox: str = ""  # "": /var/lib/clamscannerd-outbox, or outbox/ in the state directory of a user's daemon
    kinds: tuple[Literal["findings", "engine"], ...] = ("findings", "engine")  # none: no digests
    interval: Duration = Duration(3_600)  # between two digests about one account, scans by hand included
    minimum: int = 1  # new infected files for a digest; fewer wait for more
    max_findings: int = 50  # named in a digest: the rest is counted, and on the account's list
    engine_after: Duration = Duration(3_600)  # no engine, or old signatures, for so long: freshclam may be at it
    max_waiting: int = 1_000  # digests not taken yet; then none is made until some are
    max_waiting_bytes: Size = Size(16 << 20)  # likewise
    hook_timeout_s: float = 60.0  # a mail is handed over in one; a server that does not answer is tried again
    hook_tries: int = 10  # 1 min to 8 h apart, 30 h in all
