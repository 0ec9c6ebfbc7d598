"""The package, built once, and a booted machine for each module that asks for one."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.machine import Machine
from tests.fakes.realclamd import EICAR, ndb

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("CLAMSCANNERD_TESTS_CACHE", "/var/cache/clamscannerd-tests"))
BUILD_S = 400.0
STRICT = "[Service]\nSystemCallErrorNumber=\n"
"""A call that the filter denies kills who makes it: so every test that passes says that none is denied."""

DATABASE = "/var/lib/clamav/test.ndb"
TEST_NAME = "Eicar-Test.UNOFFICIAL"


@pytest.fixture(scope="session")
def debian() -> Path:
    """A Debian 12 to boot from; made once for a machine, which takes a minute or two."""
    if os.geteuid() != 0:
        pytest.skip("a booted systemd needs root")
    made = subprocess.run(
        [ROOT / "tests/system/make-root", CACHE], check=True, stdout=subprocess.PIPE, timeout=BUILD_S, text=True
    )
    return Path(made.stdout.strip())


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this tree, which lintian found no error in."""
    if os.geteuid() != 0:
        pytest.skip("a booted systemd needs root")
    target = tmp_path_factory.mktemp("deb")
    built = subprocess.run(
        [ROOT / "packaging/build-deb", target], check=False, capture_output=True, timeout=BUILD_S, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return Path(built.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def bare(debian: Path) -> Iterator[Machine]:
    """Booted, with two users and signatures, and without the package."""
    with Machine(debian) as machine:
        machine.sh("useradd -m alice && useradd -m bob && chmod 700 /home/*")
        machine.write(DATABASE, ndb("Eicar-Test", EICAR))
        yield machine


@pytest.fixture(scope="module")
def machine(bare: Machine, deb: Path) -> Machine:
    """With the package and the private engine; no denied call goes unnoticed."""
    bare.write("/etc/clamscannerd/conf.d/test.toml", '[engine]\nsockets = "private"\ncheck_interval_s = 0.5\n')
    for unit in (
        "clamscannerd",
        "clamscannerd-prepare",
        "clamscannerd-engine@",
        "clamscannerd-scan@",
        "clamscannerd-notify",
    ):
        bare.write(f"/etc/systemd/system/{unit}.service.d/strict.conf", STRICT)
    bare.install(deb)
    return bare
