"""The table [cache] of clamscannerd.toml: what is kept of files that were clean, so that they are not scanned again."""

import os
from typing import Literal

from clamscannerd.config_units import Duration, Section, Share

SYSTEM_CACHE = "/var/cache/clamscannerd"
"""CacheDirectory of the unit."""


class Cache(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled: bool = True  # files that did not change since they were clean are not scanned again
    directory: str = ""  # "": /var/cache/clamscannerd; "cache" in state.directory where that is not the usual one
    filesystems: tuple[Literal["ext4", "xfs", "btrfs", "f2fs", "nfs", "zfs"], ...] = ("ext4", "xfs", "btrfs")
    by_content: bool = True  # copies of what was clean are not scanned either; every file that is scanned is hashed
    settle_s: float = 60.0  # a file that changed within so long before it was scanned is scanned again
    rapid: bool = False  # whether users may ask for scans in which a verdict outlives an update of the signatures
    recheck_after: Duration = Duration(7 * 86_400)  # so long at most, from when its signatures were first met
    recheck_share: Share = Share(0.1)  # and each rapid scan checks so many again,
    recheck_younger: Duration = Duration(30 * 86_400)  # with all files that changed within so long
    max_entries_per_account: int = 4_000_000  # files, directories and contents; each takes 13 bytes
    keep: Duration = Duration(30 * 86_400)  # what no scan of the account used for so long is removed


def cache_place(state: str, *, usual: bool) -> str:
    """Where it is when nothing else is said. `usual`: the state is where the system's daemon has it."""
    return SYSTEM_CACHE if usual else os.path.join(state, "cache")
