"""engine/control.py and the connect of engine/dialing.py: versions, fingerprints, the system's clamd."""

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from clamscannerd.engine import control, dialing
from clamscannerd.errors import EngineLost


@pytest.fixture
def place() -> Iterator[Path]:
    """Short enough for the name of a Unix socket."""
    directory = Path(tempfile.mkdtemp(prefix="engines-"))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ClamAV 1.4.6", control.Version(version="1.4.6")),
        ("ClamAV 1.4.6\0", control.Version(version="1.4.6")),
        ("ClamAV 0.103.8/26900/no time at all", control.Version(version="0.103.8", database=26900)),
    ],
)
def test_versions(text: str, expected: control.Version) -> None:
    assert control.parse_version(text) == expected


@pytest.mark.parametrize("text", ["", "PONG", "ClamAV", "ClamAV 1.4.6/27400", "Clam 1.4.6", "ClamAV 1 2"])
def test_what_is_no_version_is_engine_lost(text: str) -> None:
    with pytest.raises(EngineLost):
        control.parse_version(text)


def test_a_fingerprint_changes_with_the_files_but_not_with_the_daily_ones(place: Path) -> None:
    assert control.fingerprint(str(place)) == control.Fingerprint()
    (place / "daily.cld").write_bytes(b"1")
    assert control.fingerprint(str(place)) == control.Fingerprint()
    (place / "own.ndb").write_bytes(b"1")
    one = control.fingerprint(str(place))
    assert one.digest
    assert one.newest > 0
    (place / "daily.cld").write_bytes(b"2")
    assert control.fingerprint(str(place)) == one
    (place / "own.ndb").write_bytes(b"22")
    assert control.fingerprint(str(place)).digest != one.digest
    assert control.fingerprint("/nonexistent") == control.Fingerprint()


def test_the_systems_socket_is_that_of_its_file(place: Path) -> None:
    assert control.system_socket(f"{place}/none") is None
    (place / "clamd.conf").write_text("LocalSocket /run/x\n")
    assert control.system_socket(f"{place}/clamd.conf") == "/run/x"
    (place / "link").symlink_to(place)
    assert control.same_socket(f"{place}/link/s", f"{place}/s")


def test_clamd_is_enabled_where_systemd_runs_and_starts_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_BOOTED", f"{place}/booted")
    monkeypatch.setattr(control, "_WANTS", str(place))
    wants = place / "multi-user.target.wants"
    wants.mkdir()
    (wants / "clamav-daemon.service").symlink_to("/nonexistent")
    assert not control.system_clamd_enabled()
    (place / "booted").mkdir()
    assert control.system_clamd_enabled()
    (wants / "clamav-daemon.service").unlink()
    assert not control.system_clamd_enabled()


async def test_a_full_backlog_is_waited_for(place: Path) -> None:
    path = f"{place}/s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(0)
        first = await dialing.open_socket(path)
        with first:
            with trio.move_on_after(0.1) as scope:
                (await dialing.open_socket(path)).close()
            assert scope.cancelled_caught
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_open_and_close, path)
                listener.accept()[0].close()


async def _open_and_close(path: str) -> None:
    with trio.fail_after(20.0):
        (await dialing.open_socket(path)).close()
