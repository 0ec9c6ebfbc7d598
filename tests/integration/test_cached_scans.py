"""What is known to be clean, on real daemons: over restarts, and not over what voids it."""

import mmap
import os
from typing import Any

import pytest

from tests.fakes.accounts import Person
from tests.fakes.realclamd import EICAR, MARKER, ndb
from tests.fakes.running import RpcError, RunningDaemon, acting_as, wait_for
from tests.integration.people import balanced, fill, put

CACHE = "[cache]\nsettle_s = 0.0\n"
FILES = 120


def scanned(daemon: RunningDaemon, person: Person) -> dict[str, Any]:
    with daemon.client(person.uid) as client:
        status = client.scan()
    assert (status["state"], balanced(status)) == ("done", True)
    return status


def known(daemon: RunningDaemon, person: Person) -> int:
    number: int = scanned(daemon, person)["cached_file_count"]
    return number


def test_verdicts_outlive_a_restart_and_nothing_that_they_rest_on(alice: Person, bob: Person) -> None:
    fill(alice, FILES, infected=(7,))
    fill(bob, FILES)
    with RunningDaemon(config=CACHE) as daemon:
        assert known(daemon, alice) == 0
        wait_for(lambda: known(daemon, alice) == FILES - 1, "the verdicts of the first scan")
        assert known(daemon, bob) == 0, "another account's are nothing to it"

        daemon.stop()  # what is left out, and how many at once, is nothing to a verdict
        daemon.write_config(CACHE + '[scans]\nexclude = ["f000001"]\nfile_deadline_s = 9.0\nin_flight = 3\n')
        daemon.start()
        again = scanned(daemon, alice)
        assert (again["cached_file_count"], again["scanned_file_count"]) == (FILES - 2, FILES - 1)
        assert len(again["infected_files"]) == 1

        put(alice, "d000000/f000003", MARKER)
        again = scanned(daemon, alice)
        assert (again["cached_file_count"], again["infected_file_count"]) == (FILES - 3, 2)

        daemon.stop()
        daemon.write_config(CACHE + "[engine]\nmax_file_size = 50000000\n")
        daemon.start()
        assert known(daemon, alice) == 0, "the engine's settings are others"
        wait_for(lambda: known(daemon, alice) == FILES - 2, "the verdicts under them")

        (daemon.database / "more.ndb").write_bytes(ndb("More", b"never anywhere to be found"))
        wait_for(lambda: known(daemon, alice) == 0, "the daemon to notice the new signatures")


def test_a_scan_without_cache_scans_all_and_a_rapid_one_needs_permission(alice: Person) -> None:
    fill(alice, FILES)
    with RunningDaemon(config=CACHE) as daemon, daemon.client(alice.uid) as client:
        scanned(daemon, alice)
        wait_for(lambda: known(daemon, alice) == FILES, "the verdicts of the first scan")
        client.call("Scan.start", {"scan_type": "home", "depth": "nocache"})
        status = client.wait_scan()
        assert (status["depth"], status["cached_file_count"], status["scanned_file_count"]) == ("nocache", 0, FILES)
        assert status["checked_with"] == [{"database": status["engine"]["database"], "files": FILES, "present": True}]
        with pytest.raises(RpcError, match="does not permit rapid scans"):
            client.call("Scan.start", {"scan_type": "home", "depth": "rapid"})
        daemon.write_config(CACHE + 'rapid = true\nrecheck_share = "0%"\nrecheck_younger = "0d"\n')
        with daemon.client() as root:
            root.call("Daemon.reload")
        (daemon.database / "more.ndb").write_bytes(ndb("More", b"never anywhere to be found"))
        wait_for(lambda: known(daemon, alice) == 0, "the daemon to notice the new signatures")
        client.call("Scan.start", {"scan_type": "home", "depth": "rapid"})
        status = client.wait_scan()
        assert (status["depth"], status["cached_file_count"]) == ("rapid", FILES)


def test_the_file_that_a_worker_is_given_cannot_be_written_by_its_user(alice: Person) -> None:
    """Neither by the fd, nor by what /proc makes of it, nor through a mapping."""
    fill(alice, 5)
    with RunningDaemon(config=CACHE) as daemon:
        scanned(daemon, alice)
        path = daemon.state / "cache" / str(alice.uid)
        wait_for(lambda: known(daemon, alice) == 5, "the verdicts of the first scan")
        fd = os.open(path, os.O_RDONLY)
        try:
            with acting_as(alice.uid):
                with pytest.raises(PermissionError):
                    os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.write(fd, b"x")
                with pytest.raises(OSError, match="Invalid argument"):
                    os.ftruncate(fd, 0)
                with pytest.raises(PermissionError):
                    os.fchmod(fd, 0o666)
                with pytest.raises(PermissionError):
                    mmap.mmap(fd, 0, access=mmap.ACCESS_WRITE)
        finally:
            os.close(fd)
        assert EICAR not in path.read_bytes()
