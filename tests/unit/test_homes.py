"""launch_homes: which places of homes the unit's sandbox is opened for, and how they are written."""

import pytest

from clamscannerd.launch_homes import MARK, drop_in, places


@pytest.mark.parametrize(
    ("homes", "expected"),
    [
        ([], []),
        (["/home/ann", "/home/web/bob"], []),
        (["/homework/ann"], ["/homework"]),
        (["/srv/www/ann", "/srv/www/bob", "/home/eve"], ["/srv/www"]),
        (["/srv/ann", "/srv/www/bob"], ["/srv"]),
        (["/data/ann", "/data2/bob"], ["/data", "/data2"]),
        # What is above holds more than homes: the home alone.
        (["/ann"], ["/ann"]),
        (["/var/ann", "/opt/bob", "/mnt/eve"], ["/mnt/eve", "/opt/bob", "/var/ann"]),
        (["/mnt/disk/eve", "/var/www/ann"], ["/mnt/disk", "/var/www"]),
    ],
)
def test_the_directory_above_a_home_is_opened_once(homes: list[str], expected: list[str]) -> None:
    assert places(homes) == expected


SYSTEM = [
    "/",
    "/var",
    "/nonexistent",
    "/usr/games",
    "/var/lib/x",
    "/root",
    "/run/user/1000",
    "/tmp/x",
    "/etc",
    "home/x",
    "/srv/../etc/x",
    "",
    "/srv/new\nline/x",
]


@pytest.mark.parametrize("home", SYSTEM)
def test_the_system_is_never_opened(home: str) -> None:
    assert places([home]) == []


def test_a_place_is_written_as_systemd_reads_it_back() -> None:
    text = drop_in(["/srv/a b", '/srv/100%/"q"\\'])
    assert text.startswith(f"{MARK}\n")
    assert text.splitlines()[-3:] == [
        "[Service]",
        'ReadWritePaths="-/srv/a b"',
        'ReadWritePaths="-/srv/100%%/\\"q\\"\\\\"',
    ]
