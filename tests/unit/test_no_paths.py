"""No call by path on users' paths: every call by path outside of the client stands here, with the reason why it may.

Reads the syntax tree of what runs with rights, as the daemon, or as the worker: a call that takes a path and was not
given a directory's fd beside it is a hit, whatever the path is. A hit has to be listed by module, function and call,
and says why no user chooses what it opens. New code that opens by path fails here until somebody has thought about it.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rows import Figure

ROOT = Path(__file__).parents[2] / "clamscannerd"
OURS_TO_USE = ("ctl", "client.py", "client_socket.py", "__main__.py")
"""Run as whoever calls them, with that user's rights and no others."""


def _words(text: str) -> list[str]:
    return text.split()


BY_PATH = frozenset(
    _words(
        """
        access chdir chflags chmod chown chroot execl execle execlp execlpe execv execve execvp execvpe fwalk
        getxattr lchmod lchown link listdir listxattr lstat makedirs mkdir mkfifo mknod open pathconf posix_spawn
        posix_spawnp readlink remove removedirs removexattr rename renames replace rmdir scandir setxattr stat
        statvfs symlink truncate unlink utime walk
        """
    )
)
"""Of os: what takes a path, or may."""

TWO_PLACES = frozenset({"link", "rename", "replace"})
"""These want two fds."""

PATH_QUESTIONS = frozenset(
    _words(
        """
        exists getatime getctime getmtime getsize isdir isfile isjunction islink ismount lexists realpath samefile
        """
    )
)
"""Of os.path: what asks the file system."""

METHODS = frozenset(
    _words(
        """
        chmod exists expanduser glob group hardlink_to is_block_device is_char_device is_dir is_fifo is_file
        is_mount is_socket is_symlink iterdir lchmod lstat mkdir open owner read_bytes read_text readlink rename
        resolve rglob rmdir samefile stat symlink_to touch unlink walk write_bytes write_text
        """
    )
)
"""Of pathlib.Path, on whatever object: types are not known here."""

MODULES = frozenset({"glob", "shutil", "tempfile", "mmap", "fileinput", "linecache"})
"""Of these nothing is to be called."""


ALLOWED: dict[str, str] = {
    "root's own paths, out of the configuration or fixed: looked at or read": """
        config.py _is_there .stat 1
        config.py _names_in os.listdir 1
        config.py _read .open 1
        engine/control.py database_names os.listdir 1
        engine/control.py fingerprint os.stat 1
        engine/control.py read_conf .read_text 1
        engine/control.py same_socket os.path.realpath 2
        daemon_engines.py why open 1
        daemon_health.py _mode os.stat 1
        engine/control.py system_clamd_enabled .glob 1
        engine/control.py system_clamd_enabled os.path.isdir 1
        launch.py _prepare os.access 1
        launch_engine.py EnginePlaces.signatures os.path.exists 1
        launch_engine.py _check_there os.path.exists 1
        launch_engine.py _database_bytes .is_file 1
        launch_engine.py _database_bytes .stat 1
        launch_engine.py _database_bytes os.scandir 1
        launch_engine.py _is_socket os.stat 1
        launch_engine.py _reload_twice open 1
        launch_engine.py _make_temporary os.path.isdir 1
        launch_engine.py _prepare os.access 1
        launch_prepare.py main os.path.isdir 1
    """,
    "the system's: / and files of /proc and /dev that no user makes": """
        daemon_health.py kernel_checks os.open 1
        daemon_health.py read_only_mounts open 1
        launch.py _check_kernel open 1
        launch.py _have_standard_fds os.open 1
        launch.py _prepare os.chdir 1
        launch.py _refuse_calls os.chdir 1
        launch_files.py available_bytes open 1
        monitor.py _be_engine os.path.exists 1
        monitor.py _confine open 1
        monitor.py _exec os.open 1
        monitor.py serve os.chdir 1
        pipeline/probe.py Looks._ask os.open 1
        pipeline/selftest.py self_test os.open 1
        rights.py prove open 1
        service/accounts.py Passwd.now os.stat 1
    """,
    "the program that SETUP fixed, by its absolute path": """
        monitor.py _exec os.execve 1
    """,
    "the interpreter and the packages that workers run, looked at at the start and by Daemon.health": """
        launch_files.py shut_to_others os.path.realpath 1
        launch_files.py shut_to_others os.stat 2
    """,
    "makes what is the service's, in root's directories, not through a link, and gives it away by fd": """
        launch_files.py _own os.listdir 1
        launch_engine.py _drop_beyond os.unlink 1
        launch_files.py make_directory os.makedirs 1
        launch_files.py make_directory os.mkdir 1
        launch_files.py make_directory os.open 1
        launch_files.py mount_tmpfs os.path.ismount 1
        launch_files.py write_file open 2
        launch_files.py write_file os.open 1
        launch_files.py write_file os.replace 1
        launch_files.py write_file os.unlink 1
    """,
    "at installation: the homes that passwd names, asked only whether they are there; and root's own drop-in": """
        launch_homes.py _homes os.path.isdir 1
        launch_homes.py _update .exists 1
        launch_homes.py _update .read_text 1
        launch_homes.py _update .unlink 1
    """,
    "the daemon's own state and vault, 0700 and its own: no user can put a name there": """
        daemon.py _Daemon._serve .mkdir 1
        daemon_upkeep.py own_state os.path.realpath 2
        state/locks.py lock_of os.open 1
        state/store_open.py _accept .stat 1
        state/store_open.py _create .exists 1
        state/store_open.py _create .rename 1
        state/store_open.py _create .unlink 2
        state/store_open.py _create os.open 1
        state/store_open.py _lock .chmod 1
        state/store_open.py _lock .mkdir 1
        state/store_open.py _lock .stat 1
        state/store_open.py _lock os.open 1
        state/store_open.py free_bytes os.statvfs 1
        state/store_open.py open_database .exists 2
        state/store_open.py open_database os.access 1
        state/store_wal.py _keep .glob 1
        state/store_wal.py _keep .open 1
        state/store_wal.py _keep .unlink 1
        state/store_wal.py _keep open 1
        state/store_wal.py _keep os.open 1
        state/store_wal.py _known_frames .open 1
        state/store_wal.py check_log .exists 3
        state/store_wal.py read_log .open 1
        state/vault_blobs.py Blobs._connection .chmod 1
        state/vault_blobs.py Blobs._connection .exists 1
        state/vault_blobs.py Blobs._connection .unlink 1
        state/vault_blobs.py Blobs.names .exists 1
        state/vault_files.py make_directory .rmdir 1
        state/vault_files.py Reader.__init__ os.open 1
        state/vault_files.py Writer._open os.open 1
        state/vault_files.py Writer._open_named os.open 1
        state/vault_files.py Writer.discard .unlink 1
        state/vault_files.py Writer.finish os.link 1
        state/vault_files.py Writer.finish os.open 1
        state/vault_files.py free_share os.statvfs 1
        state/vault_files.py make_directory .mkdir 1
        state/vault_files.py names_in os.listdir 1
        state/vault_files.py remove .unlink 1
        state/vault_files.py sync_directory os.open 1
        state/vault_out.py _unnamed .unlink 1
        state/vault_out.py _unnamed os.open 2
        state/vault_out.py _lent os.open 1
    """,
    "the daemon's own cache directory, 0700 and its own; files in it have a uid's number for a name": """
        cache/files.py Files._get_secret .exists 1
        cache/files.py Files._get_secret .mkdir 1
        cache/files.py Files._get_secret .read_bytes 1
        cache/files.py Files._get_secret .unlink 1
        cache/files.py Files._get_secret open 1
        cache/files.py Files._get_secret os.open 1
        cache/files.py Files._read os.open 1
        cache/files.py Files.keep os.utime 1
        cache/files.py Files.merge .open 1
        cache/files.py Files.merge .unlink 1
        cache/files.py Files.merge os.replace 1
        cache/files.py Files.prune .stat 1
        cache/files.py Files.prune os.scandir 1
        cache/files.py Files.prune os.unlink 1
        cache/files.py Files.spool .unlink 1
        cache/files.py Spool.__init__ os.open 1
        cache/files.py _Builder.__enter__ .unlink 1
        cache/files.py _Builder.__enter__ os.open 1
        cache/files.py _Builder.__exit__ .unlink 1
        pipeline/cached.py KeptVerdicts.begin.prepare .open 1
    """,
    "the outbox itself, in a directory of root's; what is in it goes by its fd and follows no link": """
        notify/outbox.py Outbox._directory os.open 1
        notify/outbox.py Outbox.has_room .stat 1
        notify/outbox.py Outbox.has_room os.scandir 1
        notify/outbox.py Outbox.put open 1
    """,
    "as the hooks' user, with no rights, no home and no state in sight: outbox, its own records, and root's hooks": """
        notify/hooks.py _is_on os.stat 1
        notify/hooks.py _open_file os.access 1
        notify/hooks.py names os.listdir 1
        notify/records.py Records.prune .stat 1
        notify/records.py Records.prune os.scandir 1
        notify/records.py Records.prune os.unlink 1
        notify/records.py Records.save open 1
        notify/records.py Records.save os.open 1
        notify/records.py Records.save os.replace 1
        notify/records.py read open 1
        notify/records.py read os.open 1
        notify/service.py Service._names .stat 1
        notify/service.py Service._names os.scandir 1
        notify/service.py Service._opened os.open 1
        notify/service.py Service._remove os.open 1
        notify/service.py Service._remove os.rmdir 1
        notify/service.py Service._remove os.unlink 1
    """,
    "the daemon's own socket, in a directory of its own": """
        daemon_listen.py _remove_stale os.lstat 1
        daemon_listen.py _remove_stale os.unlink 1
        daemon_listen.py listeners os.chmod 1
    """,
    "as the engine's user, after the drop: that user's own temporary directory": """
        monitor.py _be_engine os.makedirs 1
        monitor.py _be_engine shutil.rmtree 1
    """,
    "given an open fd, not a path": """
        worker/mailbox.py Mailbox._keep_times os.utime 2
        worker/restore.py _fill os.utime 1
        worker/walk.py _entries os.scandir 1
        worker/walk.py _sizes os.scandir 1
        worker/xattrs.py collect os.getxattr 1
        worker/xattrs.py collect os.listxattr 1
        worker/xattrs.py give_back os.setxattr 1
        worker/verdicts.py Verdicts.__init__ mmap.mmap 1
        worker/verdicts.py Verdicts.reader.read os.scandir 1
    """,
    "an entry of os.scandir(fd): its own stat goes by that fd, and follows no link": """
        worker/walk.py Met.size .stat 1
        worker/walk.py _entries .is_dir 2
        worker/walk.py _entries .is_file 1
        worker/walk.py _sizes .is_dir 2
        worker/walk.py _sizes .is_file 1
        worker/walk.py _sizes .stat 1
        worker/verdicts.py Verdicts.reader.read .is_file 1
        worker/verdicts.py _facts .stat 1
        worker/verdicts.py _fitting .is_dir 1
        worker/verdicts.py _others .is_dir 1
        worker/verdicts.py _others .is_file 1
        worker/walk.py is_unchanged .stat 1
    """,
    "the home itself, as passwd names it, by the process that is the account: the one fd that all else starts from": """
        worker/beneath.py open_home os.open 1
        worker/seal.py _landlock os.open 1
    """,
    "/proc/self/fd of the file that was just made, into a directory given by fd": """
        worker/beneath.py Kernel.give_name os.link 1
    """,
    "not a path at all: a match, a probe, an account": """
        pipeline/disinfect.py DisinfectTurn._groups .group 1
        pipeline/group.py GroupRun.run .group 1
        service/daemon.py _scanned_last .resolve 1
        service/scan_start.py present .exists 1
    """,
}
"""Reason -> module, function, call, and how often it stands there."""


def files() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0] not in OURS_TO_USE]


def hits(source: str) -> Iterator[tuple[str, str]]:
    """(function, call) of each call by path. Names that were imported are followed."""
    tree = ast.parse(source)
    names = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    yield from _below(tree, "", names)


def _below(node: ast.AST, function: str, names: dict[str, str]) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        here = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            here = f"{function}.{child.name}".strip(".")
        if isinstance(child, ast.Call) and (name := _by_path(child, names)):
            yield here, name
        elif isinstance(child, ast.Attribute) and _is_handed_on(child, node):
            yield here, ast.unparse(child)
        yield from _below(child, here, names)


def _is_handed_on(child: ast.Attribute, parent: ast.AST) -> bool:
    """A function of os that is not called but given away (to a thread, to partial)."""
    called = isinstance(parent, ast.Call) and parent.func is child
    return not called and ast.unparse(child.value) == "os" and child.attr in BY_PATH


def _by_path(call: ast.Call, names: dict[str, str]) -> str:
    """The call's name when it goes by path, else ""."""
    given = {keyword.arg for keyword in call.keywords}
    name = ast.unparse(call.func)
    if isinstance(call.func, ast.Name):
        name = names.get(name, name)
        if name in ("open", "io.open"):
            return name
    module, _, attribute = name.rpartition(".")
    if module == "os" and attribute in BY_PATH:
        fds = {"src_dir_fd", "dst_dir_fd"} if attribute in TWO_PLACES else {"dir_fd"}
        return "" if fds <= given else name
    if module == "os.path":
        return name if attribute in PATH_QUESTIONS else ""
    if module.partition(".")[0] in MODULES:
        return name
    if isinstance(call.func, ast.Attribute):
        if attribute in METHODS:
            return f".{attribute}"
        if attribute == "replace" and len(call.args) == 1 and not call.keywords:  # Path's; str's has two
            return ".replace"
    return ""


def found() -> Counter[tuple[str, str, str]]:
    return Counter(
        (str(path.relative_to(ROOT)), function, name) for path in files() for function, name in hits(path.read_text())
    )


def allowed() -> dict[tuple[str, str, str], int]:
    lines = [line.split() for block in ALLOWED.values() for line in block.strip().splitlines()]
    return {(module, function, call): int(number) for module, function, call, number in lines}


@pytest.mark.row("A18")
@pytest.mark.fails_with("worker-unlinks-by-path", "monitor-reads-a-home", "daemon-looks-into-a-home")
def test_every_call_by_path_is_known_and_has_its_reason(figure: Figure) -> None:
    """Neither more of them than are listed, nor a reason for what is not there any more."""
    assert dict(found()) == allowed()
    figure(f"{len(files())} files, {sum(allowed().values())} calls by path with a reason, 0 without")


@pytest.mark.row("A18")
@pytest.mark.fails_with("worker-unlinks-by-path")
def test_the_worker_goes_by_path_to_its_home_alone() -> None:
    """What is listed of it besides is given an fd. So nothing that a name in a home says is ever resolved from /."""
    worker = [one for one in found() if one[0].startswith("worker/")]
    opens = {(module, function) for module, function, call in worker if call == "os.open"}
    assert opens == {("worker/beneath.py", "open_home"), ("worker/seal.py", "_landlock")}
    assert {call for _, _, call in worker} <= {
        "os.open", "os.link", "os.utime", "os.scandir", ".stat", ".is_dir", ".is_file",
        "os.getxattr", "os.listxattr", "os.setxattr", "mmap.mmap",
    }  # fmt: skip


BY_PATH_OR_NOT = {
    "os.unlink(name)": "os.unlink",
    "os.unlink(name, dir_fd=fd)": "",
    "os.rename(a, b, src_dir_fd=fd)": "os.rename",
    "os.rename(a, b, src_dir_fd=fd, dst_dir_fd=fd)": "",
    "open(name)": "open",
    "Path(name).read_bytes()": ".read_bytes",
    "path.replace(other)": ".replace",
    "text.replace('a', 'b')": "",
    "shutil.copy(a, b)": "shutil.copy",
    "os.path.realpath(a)": "os.path.realpath",
    "os.path.join(a, b)": "",
    "run_sync(os.stat, a)": "os.stat",
    "os.fstat(fd)": "",
}


@pytest.mark.row("A18")
@pytest.mark.fails_with("worker-unlinks-by-path")
def test_the_reader_knows_a_call_by_path_when_it_sees_one() -> None:
    for call, name in BY_PATH_OR_NOT.items():
        assert [hit for _, hit in hits(f"import os\n{call}\n")] == ([name] if name else []), call
    assert [hit for _, hit in hits("from os import unlink as away\naway(b)\n")] == ["os.unlink"]
    worker = (ROOT / "worker/actions.py").read_text()
    assert "os.unlink(" in worker, "there is something to be wrong about"
    assert [hit for _, hit in hits(worker)] == []
