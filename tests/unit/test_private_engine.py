"""engine/private.py: the private engine is blind to nothing, and the built-in signature is the test file's alone."""

import pytest

from clamscannerd.engine.clamdconf import HARD_MAX_FILE_BYTES, blind, max_file_size, parse
from clamscannerd.engine.private import PrivatePaths, builtin_signatures, clamd_conf, has_signatures, reloads_twice
from clamscannerd.errors import ConfigError

PATHS = PrivatePaths(socket="/run/e/clamd.sock", temporary="/var/e/tmp", database="/var/lib/clamav")


def conf(paths: PrivatePaths = PATHS, *, max_size: int = 100 << 20, threads: int = 10) -> str:
    return clamd_conf(paths, max_file_size=max_size, max_threads=threads, max_scan_time_s=120.0)


def test_the_private_engine_is_blind_to_nothing() -> None:
    assert blind(parse(conf())) == ()


def test_its_limits_are_those_asked_for() -> None:
    parsed = parse(conf(max_size=30 << 20, threads=7))
    assert max_file_size(parsed) == parsed.max_file_size == parsed.max_scan_size == parsed.stream_max_length == 30 << 20
    assert (parsed.max_threads, parsed.max_scan_time_s, parsed.self_check_s) == (7, 120.0, 60)
    assert parsed.local_socket == PATHS.socket
    assert parsed.database_directory == PATHS.database
    assert parsed.tcp_port is None


def test_no_limit_is_above_what_clamd_can_do() -> None:
    parsed = parse(conf(max_size=2 << 30))
    assert parsed.max_file_size == parsed.max_scan_size == HARD_MAX_FILE_BYTES


def test_a_session_outlives_the_longest_scan() -> None:
    parsed = parse(conf())
    assert parsed.read_timeout_s > 10 * parsed.max_scan_time_s


def test_without_concurrent_reload_idle_threads_do_not_hold_a_reload_up() -> None:
    text = clamd_conf(PATHS, max_file_size=1, max_threads=1, max_scan_time_s=1, concurrent_reload=False)
    parsed = parse(text)
    assert (parsed.concurrent_reload, parsed.idle_timeout_s) == (False, 1)
    assert (reloads_twice(text), reloads_twice(conf())) == (False, True)


def test_the_queue_holds_twice_the_threads() -> None:
    assert parse(conf(threads=200)).max_queue == 400


def test_a_path_with_blanks_is_quoted() -> None:
    paths = PrivatePaths(socket="/run/a b/s", temporary="/t", database="/d")
    assert parse(conf(paths)).local_socket == "/run/a b/s"


@pytest.mark.parametrize("path", ["relative", "", '/a"b', "/a\nMaxThreads 1", "/a\0b"])
def test_a_path_that_clamd_could_not_read_back_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match=r"^cannot write clamd's configuration: "):
        conf(PrivatePaths(socket=path, temporary="/t", database="/d"))


def test_the_builtin_database_counts_as_signatures_for_clamd_but_its_file_holds_no_test_string() -> None:
    files = builtin_signatures()
    assert has_signatures(files)
    assert all(b"EICAR-STANDARD" not in content for content in files.values())


@pytest.mark.parametrize(
    "names",
    [
        ["main.cvd"],
        ["daily.cld"],
        ["x", "own.ndb"],
        ["rules.yar"],
        ["a.b.hdb"],
        ["bytecode.cvd", "main.cld"],
        ["x.ldb"],
    ],
)
def test_signatures_are_seen(names: list[str]) -> None:
    assert has_signatures(names)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["freshclam.dat", "mirrors.dat", "README"],
        ["bytecode.cvd"],
        ["local.ign2", "local.fp", "allow.wdb", "sigwhitelist.ign2", "pua.ndu"],
        [".ndb", "ndb", "main.cvd.tmp", "tmp.123"],
    ],
)
def test_what_finds_nothing_is_no_signature(names: list[str]) -> None:
    assert not has_signatures(names)
