"""A hook is run only if nobody but root can choose what it is, and no longer than it may. Real files and processes."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clamscannerd.notify import hooks
from clamscannerd.notify.hooks import HookRefused, Outcome

OWNERS = frozenset({0, os.geteuid()})
"""Root may own the way to a hook, and whoever runs the tests."""

Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    digest = tmp_path / "digest"
    digest.write_bytes(b'{"id": "1"}')
    fd = os.open(digest, os.O_RDONLY)

    def run_one(path: Path, timeout_s: float = 20.0, owners: frozenset[int] = OWNERS) -> Outcome:
        os.lseek(fd, 0, os.SEEK_SET)
        return hooks.run(str(path), fd, timeout_s=timeout_s, owners=owners)

    yield run_one
    os.close(fd)


def make(path: Path, script: str = "cat", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(mode)
    return path


def test_a_hook_gets_the_digest_and_a_bare_environment(tmp_path: Path, run: Run) -> None:
    outcome = run(make(tmp_path / "hook", "cat; pwd; echo $HOME $CLAMSCANNERD_SOCKET"))
    assert outcome == Outcome(ok=True, how="ended with 0", output='{"id": "1"}/\n/nonexistent')


def test_a_program_that_is_no_script_is_run_too(tmp_path: Path, run: Run) -> None:
    (tmp_path / "cat").write_bytes(Path("/bin/cat").read_bytes())
    (tmp_path / "cat").chmod(0o755)
    assert run(tmp_path / "cat").output == '{"id": "1"}'


def test_an_exit_code_and_a_signal_are_failures_with_their_last_words(tmp_path: Path, run: Run) -> None:
    assert run(make(tmp_path / "a", "echo no >&2; exit 75")) == Outcome(ok=False, how="ended with 75", output="no")
    assert run(make(tmp_path / "b", "kill -SEGV $$")).how == "ended by signal 11"


def test_of_endless_output_the_last_words_are_kept(tmp_path: Path, run: Run) -> None:
    outcome = run(make(tmp_path / "hook", "yes | head -c 5000000; echo end"))
    assert outcome.ok
    assert outcome.output.endswith("end")
    assert len(outcome.output) <= hooks.OUTPUT_BYTES


def test_a_hook_that_hangs_is_killed_with_its_whole_group(tmp_path: Path, run: Run) -> None:
    child = tmp_path / "child"
    hook = make(tmp_path / "hook", f"trap '' TERM; sleep 1000 & echo $! >{child}; wait; sleep 1000")
    began = time.monotonic()
    outcome = run(hook, 1.0)
    assert (outcome.ok, outcome.timed_out, outcome.how) == (False, True, "was killed after 1 s")
    assert time.monotonic() - began < 15
    assert is_gone(int(child.read_text()))


def test_what_a_hook_leaves_in_its_group_is_killed_and_not_waited_for(tmp_path: Path, run: Run) -> None:
    child = tmp_path / "child"
    began = time.monotonic()
    assert run(make(tmp_path / "hook", f"yes & echo $! >{child}; exit 0")).ok
    assert time.monotonic() - began < 15
    assert is_gone(int(child.read_text()))


def is_gone(pid: int) -> bool:
    """Or dead, and not yet reaped by whoever has it now."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    return False


@pytest.mark.fails_with("hook-writable-by-all")
@pytest.mark.parametrize("mode", [0o757, 0o775, 0o777])
def test_one_that_others_may_write_is_refused(tmp_path: Path, run: Run, mode: int) -> None:
    outcome = run(make(tmp_path / "hook", "true", mode))
    assert not outcome.ok
    assert outcome.how.startswith("refused: others can write to")


def test_one_in_a_directory_that_others_may_write_is_refused(tmp_path: Path, run: Run) -> None:
    hook = make(tmp_path / "open" / "inner" / "hook", "true")
    hook.parent.parent.chmod(0o777)
    assert "others can write to the directory open" in run(hook).how
    hook.parent.parent.chmod(0o1777)  # there nobody else can move what is ours
    assert run(hook).ok


def test_one_that_leads_through_a_directory_that_others_may_write_is_refused(tmp_path: Path, run: Run) -> None:
    make(tmp_path / "open" / "real", "true")
    (tmp_path / "hook").symlink_to("open/../open/real")
    assert run(tmp_path / "hook").ok
    (tmp_path / "open").chmod(0o777)
    assert not run(tmp_path / "hook").ok


def test_links_are_followed_one_by_one_and_not_for_ever(tmp_path: Path, run: Run) -> None:
    make(tmp_path / "lib" / "mail", "true")
    (tmp_path / "second").symlink_to(tmp_path / "lib")
    (tmp_path / "hook").symlink_to("./second/../lib/../second/mail")
    assert run(tmp_path / "hook").ok
    (tmp_path / "loop").symlink_to("loop")
    assert "too many links" in run(tmp_path / "loop").how
    (tmp_path / "nothing").symlink_to("none")
    assert "No such file" in run(tmp_path / "nothing").how


def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path, run: Run) -> None:
    hook = make(tmp_path / "hook", "true")
    refused = run(hook, owners=frozenset({12345}))
    assert "belongs to uid" in refused.how


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
@pytest.mark.parametrize("what", ["file", "directory", "link"])
def test_a_file_directory_or_link_of_a_users_is_refused(tmp_path: Path, run: Run, what: str) -> None:
    hook = make(tmp_path / "d" / "hook", "true")
    link = tmp_path / "link"
    link.symlink_to("d/hook")
    assert run(link).ok
    os.lchown({"file": hook, "directory": hook.parent, "link": link}[what], 12345, 12345)
    assert "belongs to uid 12345" in run(link).how


@pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "off"])
def test_what_is_no_program_is_refused(tmp_path: Path, run: Run, kind: str) -> None:
    path = tmp_path / "hook"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path, 0o755)
    elif kind == "socket":
        os.mknod(path, 0o140755)
    else:
        make(path, "true", 0o644)
    outcome = run(path)
    assert not outcome.ok
    assert outcome.how.startswith("refused:")


def test_what_was_checked_is_what_runs(tmp_path: Path) -> None:
    """The name leads elsewhere by then."""
    hook = make(tmp_path / "hook", "echo right")
    fd = hooks.open_hook(str(hook), OWNERS)
    try:
        hook.rename(tmp_path / "old")
        make(hook, "echo wrong")
        assert os.fstat(fd).st_ino == (tmp_path / "old").stat().st_ino
    finally:
        os.close(fd)


def test_a_directory_alone_is_no_hook() -> None:
    with pytest.raises(HookRefused, match="is a directory"):
        hooks.open_hook("/", OWNERS)


def test_hooks_run_in_the_order_of_their_names_and_left_overs_are_none(tmp_path: Path) -> None:
    for name in ("20-b", "10-a", "mail.dpkg-new", "mail~", ".hidden", "a b", "x.disabled"):
        make(tmp_path / name)
    make(tmp_path / "README", mode=0o644)
    (tmp_path / "30-dangling").symlink_to("none")
    assert hooks.names(str(tmp_path)) == ["10-a", "20-b", "30-dangling"]
    assert hooks.names(str(tmp_path / "none")) == []
