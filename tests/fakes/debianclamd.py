"""A clamd with the settings that Debian 12's package gives it, and nothing else changed than its places."""

from pathlib import Path

from tests.fakes.realclamd import RealClamd

SETTINGS = Path(__file__).with_name("debian-12-clamd.conf")
"""As clamav-daemon 1.4.3+dfsg-1~deb12u2 writes /etc/clamav/clamd.conf at its installation."""

PLACES = ("LocalSocket", "DatabaseDirectory", "TemporaryDirectory", "LogFile", "Foreground")
USER = "clamav"


def debian_clamd(directory: Path) -> RealClamd:
    """Not started yet. It runs as Debian's user."""
    clamd = RealClamd(directory, user=USER)
    lines = (line.partition(" ") for line in SETTINGS.read_text().splitlines() if not line.startswith("#"))
    places = {name: clamd.options[name] for name in PLACES if name in clamd.options}
    clamd.options = {name: argument for name, _, argument in lines} | places | {"LogFile": f"{directory}/tmp/log"}
    return clamd
