"""A Debian 12 with a really booted systemd in a container, for tests of the package and its units. Needs root.

    with Machine(root) as machine:                # tests/system/make-root made `root`; a tmpfs takes what is written
        machine.install(deb)
        machine.run("systemctl", "is-active", "clamscannerd.socket")
        machine.ctl("alice", "paths")

systemd-nspawn boots it without a network and without machined; commands enter by nsenter, as PID 1 in there is not
registered anywhere. What is left of a machine ends with its nspawn process: that one kills PID 1, and that all others.
Every command has a time limit, so has the boot.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BOOT_S = 60.0
COMMAND_S = 60.0
STOP_S = 30.0
POLL_S = 0.05
LANDLOCK = "landlock_create_ruleset landlock_add_rule landlock_restrict_self"
"""nspawn's own filter answers EPERM to these otherwise."""
ENVIRONMENT = ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")

Ended = subprocess.CompletedProcess[str]


class Machine:
    """One booted machine; gone, with all that was written in it, when the block ends."""

    def __init__(self, root: Path) -> None:
        self._lower = root
        self._directory = Path(tempfile.mkdtemp(prefix="csd-machine-", dir="/var/tmp"))
        self.tree = self._directory / "root"
        """The machine's files, as seen from outside."""
        self._log = self._directory / "console"
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def __enter__(self) -> Self:
        try:
            self._mount()
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _mount(self) -> None:
        written = self._directory / "written"
        for place in (self.tree, written):
            place.mkdir()
        _run("mount", "-t", "tmpfs", "-o", "size=2G,mode=0755", "tests", str(written))
        for name in ("upper", "work"):
            (written / name).mkdir(mode=0o755)
        layers = f"lowerdir={self._lower},upperdir={written}/upper,workdir={written}/work"
        _run("mount", "-t", "overlay", "-o", layers, "tests", str(self.tree))

    def _boot(self) -> None:
        words = ["systemd-nspawn", "--directory", str(self.tree), "--boot", "--register=no", "--keep-unit"]
        words += ["--link-journal=no", "--private-network", "--console=read-only", "--hostname=booted", "--quiet"]
        words += [f"--system-call-filter={LANDLOCK}"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + BOOT_S
        while not self._is_up():
            assert self._process.poll() is None, f"the machine did not start: {self.console()}"
            assert time.monotonic() < deadline, f"the machine did not boot: {self.console()}"
            time.sleep(POLL_S)  # the bus in there does not exist yet: nothing to wait on
        state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        assert state in ("running", "degraded"), f"the machine is {state}: {self.console()}"

    def _is_up(self) -> bool:
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[0])
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() not in ("", "offline", "unknown")

    def close(self) -> None:
        """Not shut down in order: nothing in it is kept."""
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for place in (self.tree, self._directory / "written"):
            if os.path.ismount(place):
                _run("umount", "--recursive", str(place))
        shutil.rmtree(self._directory)

    def console(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def run(self, *words: str, user: str | None = None, check: bool = True, timeout_s: float = COMMAND_S) -> Ended:
        """A command in the machine, as root or as `user`; with `check` it has to succeed."""
        return self._finish(self.start(*words, user=user), words, check=check, timeout_s=timeout_s)

    def start(self, *words: str, user: str | None = None) -> subprocess.Popen[str]:
        """The same, under way: to be waited for with `finish`."""
        enter = ["nsenter", "--target", str(self._leader), "--all", "--wdns=/", "env", "--ignore-environment"]
        become = ["runuser", "--user", user, "--"] if user is not None else []
        return subprocess.Popen(
            [*enter, *ENVIRONMENT, *become, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd="/",
        )

    def finish(self, process: subprocess.Popen[str], *, timeout_s: float = COMMAND_S) -> Ended:
        """The end of what `start` gave, whatever its exit code."""
        return self._finish(process, ("what was started",), check=False, timeout_s=timeout_s)

    def _finish(
        self, process: subprocess.Popen[str], words: tuple[str, ...], *, check: bool, timeout_s: float
    ) -> Ended:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"{words!r} takes longer than {timeout_s:g} s: {out}{err}") from None
        ended = Ended(words, process.returncode, out, err)
        assert not check or ended.returncode == 0, f"{words!r} ended with {ended.returncode}: {out}{err}"
        return ended

    def sh(self, script: str, *, user: str | None = None, timeout_s: float = COMMAND_S) -> str:
        """What a shell script says, which starts at home and has to succeed."""
        return self.run("bash", "-euc", f"cd ~\n{script}", user=user, timeout_s=timeout_s).stdout

    def write(self, path: str, content: str | bytes, *, owner: str | None = None) -> None:
        """A file in the machine, its directories as well; of `owner` alone if one is named."""
        place = self.tree / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)
        if owner is not None:
            self.run("chown", f"{owner}:{owner}", path)

    def exists(self, path: str) -> bool:
        return self.run("test", "-e", path, check=False).returncode == 0

    def install(self, deb: Path, *, timeout_s: float = 120.0) -> str:
        """dpkg and nothing else: what the package needs has to be there."""
        shutil.copy(deb, self.tree / "root")
        return self.run("dpkg", "--install", f"/root/{deb.name}", timeout_s=timeout_s).stdout

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).stdout.strip()

    def wait_for(self, unit: str, name: str, value: str, *, timeout_s: float = COMMAND_S) -> None:
        deadline = time.monotonic() + timeout_s
        while (seen := self.show(unit, name)) != value:
            assert time.monotonic() < deadline, f"{unit}: {name} is {seen}, not {value}: {self.journal(unit)}"
            time.sleep(POLL_S)  # systemctl has no way to wait for a property

    def wait_for_text(self, unit: str, words: str, *, timeout_s: float = COMMAND_S) -> None:
        """Until the status line has these words."""
        deadline = time.monotonic() + timeout_s
        while words not in (seen := self.show(unit, "StatusText")):
            assert time.monotonic() < deadline, (
                f"{unit}: the status is {seen!r}, without {words!r}: {self.journal(unit)}"
            )
            time.sleep(POLL_S)  # as above

    def pid(self, unit: str = "clamscannerd.service") -> int:
        return int(self.show(unit, "MainPID"))

    def processes(self, unit: str = "clamscannerd.service") -> list[str]:
        """Command lines in the unit's cgroup."""
        group = self.show(unit, "ControlGroup")
        if not group:
            return []
        script = f"""
            for place in /sys/fs/cgroup/systemd{group} /sys/fs/cgroup/unified{group} /sys/fs/cgroup{group}; do
                if [ -e "$place/cgroup.procs" ]; then
                    for pid in $(cat "$place/cgroup.procs"); do
                        tr '\\0\\n' '  ' <"/proc/$pid/cmdline" || continue
                        echo
                    done
                    exit 0
                fi
            done
        """
        return [line.strip() for line in self.sh(script).splitlines() if line.strip()]

    def journal(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "--lines=60", "--unit", unit, check=False).stdout

    def ctl(self, user: str, *words: str, timeout_s: float = COMMAND_S) -> Ended:
        """clamscannerctl as that user; its exit code says what was found."""
        return self.run("clamscannerctl", *words, user=user, check=False, timeout_s=timeout_s)

    def ask(self, user: str, method: str, **params: object) -> Any:
        """The result of one call as that user. One of the six: its `data`, which there has to be."""
        ended = self.ctl(user, "--json", "call", method, json.dumps(params))
        assert ended.returncode == 0, f"{method} as {user}: {ended.stdout}{ended.stderr}"
        answer = json.loads(ended.stdout)
        return answer["result"]["data"] if method.startswith("ClamScanner.") else answer


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=COMMAND_S)
