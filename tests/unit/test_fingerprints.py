"""What of a file is hashed: all that says which file it is, and whether it changed."""

from typing import Any

import pytest

from clamscannerd.worker.verdicts import _facts

FIELDS = {"st_dev": 1, "st_ino": 2, "st_size": 3, "st_mtime_ns": 4, "st_ctime_ns": 5}


class Entry:
    """os.DirEntry, of which nothing but its status is asked."""

    def __init__(self, **fields: int) -> None:
        self._fields = fields

    def stat(self, *, follow_symlinks: bool) -> Any:
        assert not follow_symlinks
        return type("Status", (), self._fields)


def facts(**changes: int) -> bytes:
    entries: Any = [Entry(**(FIELDS | changes))]
    (one,), _, _ = _facts(entries)
    return one


@pytest.mark.fails_with("ctime-not-hashed", "device-not-hashed")
def test_another_device_inode_size_or_time_is_another_file() -> None:
    """Another device with the same numbers: another disk, made from a copy of the first."""
    same = facts()
    assert [field for field in FIELDS if facts(**{field: 9}) == same] == []


def test_a_time_beyond_all_measure_is_no_fingerprint() -> None:
    assert facts(st_mtime_ns=1 << 80) == b""
