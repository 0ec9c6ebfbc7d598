"""The configuration: what is merged from where, units, and that a mistake is named by file, key and expectation."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clamscannerd import config
from clamscannerd.errors import ConfigError


def load(place: Path, text: str = "", *, system: bool = True, **extra: str) -> config.Config:
    """`text` as the main file, `extra` as files of conf.d."""
    main = place / "clamscannerd.toml"
    main.write_text(text)
    (place / "conf.d").mkdir(exist_ok=True)
    for name, content in extra.items():
        (place / "conf.d" / f"{name}.toml").write_text(content)
    return config.load(main, system=system)


def refused(place: Path, text: str, **extra: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(place, text, system=True, **extra)
    assert (error.value.exit_code, error.value.kind) == (78, "misconfigured")
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ('[scans]\nnice = "/home/secret"\n', "clamscannerd.toml: scans.nice: expected `int`"),
        ('[server]\nsocket = "secret"\n', "clamscannerd.toml: server.socket: expected an absolute path without NUL"),
        (f'[server]\nsocket = "/{"x" * 107}"\n', "clamscannerd.toml: server.socket: expected at most 107 bytes"),
        ('[vault]\nkeep_deleted = "secret"\n', 'clamscannerd.toml: vault.keep_deleted: expected a time like "7d"'),
        ("[nonsense]\n", "clamscannerd.toml: nonsense: unknown key"),
        ("a = \n", "clamscannerd.toml: not TOML at line 1, column 5"),
        ('a = "secret', "clamscannerd.toml: not TOML at end of document"),
    ],
)
def test_what_everybody_may_read_of_a_mistake_has_neither_places_nor_values(
    tmp_path: Path, text: str, public: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert error.value.public == public
    assert str(tmp_path) in str(error.value)


def test_a_place_that_cannot_be_read_is_named_without_the_way_to_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        config.load(tmp_path / "none.toml", system=True)
    assert error.value.public == "none.toml cannot be read: No such file or directory"


def test_a_place_that_the_environment_names_is_checked_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    with pytest.raises(ConfigError, match=r"state\.directory: expected an absolute path, got 'relative"):
        load(tmp_path, system=False)


def test_everything_has_a_default(tmp_path: Path) -> None:
    found = load(tmp_path)
    assert found.server.socket == "/run/clamscannerd/clamscannerd.sock"
    assert found.state.directory == "/var/lib/clamscannerd"
    assert (found.engine.sockets, found.accounts.min_uid, found.server.admins) == ("auto", 1000, ("root",))
    assert list(found.scan_types) == ["home", "mail", "public_html", "public_ftp"]
    assert found.scan_types["mail"].paths == ("mail", "Maildir")


@pytest.mark.parametrize("value", ['"auto"', "1", "8"])
def test_private_engines_are_auto_or_a_few(tmp_path: Path, value: str) -> None:
    found = load(tmp_path, f"[engine]\nprivate_engines = {value}\n").engine.private_engines
    assert str(found) == value.strip('"')


@pytest.mark.parametrize("value", ['"many"', '"2"', "0", "9", "-1"])
def test_no_other_number_of_private_engines_is_taken(tmp_path: Path, value: str) -> None:
    assert "engine.private_engines: expected " in refused(tmp_path, f"[engine]\nprivate_engines = {value}\n")


def test_contents_of_conf_d_replace_values_and_keep_the_others(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        '[server]\nmax_batch = 5\nmax_depth = 9\n[scan_types.home]\nmessage = "first"\n',
        a="[server]\nmax_batch = 6\n",
        b='[server]\nmax_batch = 7\n[scan_types.home]\nmessage = "second"\n',
    )
    assert (found.server.max_batch, found.server.max_depth) == (7, 9)
    assert (found.scan_types["home"].message, found.scan_types["home"].paths) == ("second", (".",))


def test_scan_types_are_added_changed_and_withdrawn(tmp_path: Path) -> None:
    text = '[scan_types.www]\npaths = ["www/a", "www b"]\nmessage = "Web"\ngroups = ["web"]\nusers = []\n'
    found = load(tmp_path, text + "[scan_types.public_ftp]\nenabled = false\n").scan_types
    assert found["www"].paths == ("www/a", "www b")
    assert not found["public_ftp"].enabled
    assert found["home"] == config.SCAN_TYPES["home"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [('"90d"', 7_776_000), ('"2w"', 1_209_600), ('"12h"', 43_200), ('"1.5m"', 90), ('"5s"', 5), ("7", 7), ('"0"', 0)],
)
def test_durations(tmp_path: Path, text: str, seconds: float) -> None:
    assert load(tmp_path, f"[vault]\nkeep_deleted = {text}\n").vault.keep_deleted == seconds


@pytest.mark.parametrize(
    ("text", "size"), [('"1G"', 1 << 30), ('"512K"', 1 << 19), ('"2T"', 1 << 41), ("123", 123), ('"7"', 7)]
)
def test_sizes(tmp_path: Path, text: str, size: int) -> None:
    assert load(tmp_path, f"[vault]\nmax_bytes_per_account = {text}\n").vault.max_bytes_per_account == size


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0%", 0.0), ("100%", 1.0), ("2.5%", 0.025)])
def test_shares(tmp_path: Path, text: str, share: float) -> None:
    assert load(tmp_path, f'[vault]\nmin_free = "{text}"\n').vault.min_free == share


MISTAKES: dict[str, tuple[str, str, str]] = {
    # name: text, key, what was expected
    "an unknown table": ("[sever]\nsocket = '/x'\n", "sever", "unknown key"),
    "an unknown key": ("[server]\nsockt = '/x'\n", "server.sockt", "unknown key"),
    "an unknown key of a scan type": ("[scan_types.home]\npath = ['x']\n", "scan_types.home.path", "unknown key"),
    "a value outside of a table": ("socket = '/x'\n", "socket", "unknown key"),
    "a table in a value's place": ("[server.socket]\na = 1\n", "server.socket", "str"),
    "a value in a table's place": ("server = 5\n", "server", "object"),
    "text for a number": ("[server]\nmax_batch = 'five'\n", "server.max_batch", "int"),
    "a number for text": ("[server]\nsocket = 5\n", "server.socket", "str"),
    "a fraction for a number": ("[server]\nmax_batch = 1.5\n", "server.max_batch", "int"),
    "true for a number": ("[server]\nmax_batch = true\n", "server.max_batch", "int"),
    "text for a list": ("[server]\nadmins = 'root'\n", "server.admins", "array"),
    "a number in a list of text": ("[server]\nadmins = [0]\n", "server.admins[0]", "str"),
    "a unit that there is not": ("[vault]\nkeep_deleted = '7 years'\n", "vault.keep_deleted", '"7d"'),
    "a negative time": ("[vault]\nkeep_deleted = '-7d'\n", "vault.keep_deleted", '"7d"'),
    "a negative time as a number": ("[vault]\nkeep_deleted = -7\n", "vault.keep_deleted", "7"),
    "a size with a fraction": ("[vault]\nmax_bytes_per_account = '1.5G'\n", "vault.max_bytes_per_account", '"25M"'),
    "a quarantine that keeps nothing": ("[vault]\nkeep_quarantined = '0d'\n", "vault.keep_quarantined", "must be kept"),
    "more than all": ("[vault]\nmin_free = '101%'\n", "vault.min_free", '"5%"'),
    "a share without its sign": ("[vault]\nmin_free = 5\n", "vault.min_free", '"5%"'),
    "a negative number": ("[scans]\nretries = -1\n", "scans.retries", "not negative"),
    "not a number": ("[scans]\nsilence_s = nan\n", "scans.silence_s", "number"),
    "no end": ("[engine]\nmax_scan_time_s = inf\n", "engine.max_scan_time_s", "number"),
    "no connections": ("[server]\nmax_connections = 0\n", "server.max_connections", "at least 1"),
    "no time for a line": ("[server]\nline_timeout_s = 0\n", "server.line_timeout_s", "more than 0"),
    "messages too short": ("[server]\nmax_message_bytes = 100\n", "server.max_message_bytes", "at least 4096"),
    "root as an account": ("[accounts]\nmin_uid = 0\n", "accounts.min_uid", "root is never an account"),
    "no scans at all": ("[scans]\nmax_active = 0\n", "scans.max_active", "at least 1"),
    "more at the engine than fds": ("[scans]\nin_flight = 65\n", "scans.in_flight", "at most 64"),
    "no thread": ("[engine]\nmax_threads = 0\n", "engine.max_threads", "at least 1"),
    "a kind of ignoring that there is not": (
        "[ignore]\nallowed = ['name']\n",
        "ignore.allowed[0]",
        "invalid enum value",
    ),
    "too many entries": (
        "[ignore]\nmax_entries_per_account = 1001\n",
        "ignore.max_entries_per_account",
        "at most 1000",
    ),
    "no pattern": ("[scans]\nexclude = ['*.iso', 'a\\']\n", "scans.exclude", "backslash and nothing after it"),
    "a pattern with a NUL": ('[scans]\nexclude = ["a\\u0000"]\n', "scans.exclude", "NUL"),
    "a pattern of many stars": (f"[scans]\nexclude = ['{'*' * 10_000}']\n", "scans.exclude", "1,000 bytes"),
    "too many patterns": ("[scans]\nexclude = [" + "'*.o', " * 5000 + "]\n", "scans.exclude", "16384 bytes"),
    "no class of I/O": ("[scans]\nio_class = 'realtime'\n", "scans.io_class", "invalid enum value"),
    "beyond nice": ("[scans]\nnice = 20\n", "scans.nice", "0 to 19"),
    "a file size beyond clamd": ("[engine]\nmax_file_size = '3G'\n", "engine.max_file_size", "at most 2G"),
    "a file size of nothing": ("[engine]\nmax_file_size = 0\n", "engine.max_file_size", "at most 2G"),
    "a word for an engine": ("[engine]\nsockets = 'clamd'\n", "engine.sockets", '"auto"'),
    "no engine": ("[engine]\nsockets = []\n", "engine.sockets", "at least one"),
    "an engine without a port": ("[engine]\nsockets = ['tcp://av1']\n", "engine.sockets", "tcp://host:port"),
    "an engine of port 0": ("[engine]\nsockets = ['tcp://av1:0']\n", "engine.sockets", "tcp://host:port"),
    "an engine of no port": ("[engine]\nsockets = ['tcp://av1:99999']\n", "engine.sockets", "tcp://host:port"),
    "an engine for somebody": ("[engine]\nsockets = ['tcp://me@av1:3310']\n", "engine.sockets", "tcp://host:port"),
    "an engine twice": ("[engine]\nsockets = ['/a', '/b', '/a']\n", "engine.sockets", "each address once"),
    "too many engines": (f"[engine]\nsockets = {[f'/{n}' for n in range(257)]}\n", "engine.sockets", "at most 256"),
    "a conf of none": ("[engine]\nsockets = ['/a']\nconfs = { '/b' = '/c' }\n", "engine.confs", "engine.sockets"),
    "a relative conf": ("[engine]\nsockets = ['/a']\nconfs = { '/a' = 'c' }\n", "engine.confs", "absolute paths"),
    "confs and no list": ("[engine]\nconfs = { '/a' = '/c' }\n", "engine.confs", "engine.sockets"),
    "a lag of never": ("[engine]\nmax_signature_lag = 'never'\n", "engine.max_signature_lag", "a time"),
    "a relative engine": ("[engine]\nsockets = ['clamd.ctl']\n", "engine.sockets", '"/path"'),
    "a relative socket": ("[server]\nsocket = 'x.sock'\n", "server.socket", "absolute path"),
    "a relative state": ("[state]\ndirectory = 'state'\n", "state.directory", "absolute path"),
    "a relative database": ("[engine]\ndatabase = 'db'\n", "engine.database", "absolute path"),
    "a NUL in a path": ('[state]\ndirectory = "/var/\\u0000"\n', "state.directory", "NUL"),
    "a scan type without paths": ("[scan_types.home]\npaths = []\n", "scan_types.home.paths", "at least one path"),
    "a scan type without a message": ("[scan_types.www]\npaths = ['x']\n", "scan_types.www", "message"),
    "a path above the home": ("[scan_types.home]\npaths = ['../x']\n", "scan_types.home.paths", "beneath the home"),
    "an absolute path": ("[scan_types.home]\npaths = ['/etc']\n", "scan_types.home.paths", "beneath the home"),
    "an empty path": ("[scan_types.home]\npaths = ['']\n", "scan_types.home.paths", "beneath the home"),
    "a path with a NUL": ('[scan_types.home]\npaths = ["a\\u0000"]\n', "scan_types.home.paths", "beneath the home"),
    "a path too long": (f"[scan_types.home]\npaths = ['{'x/' * 3000}x']\n", "scan_types.home.paths", "4,095 bytes"),
    "a strange name": ("[scan_types.'a b']\npaths = ['x']\nmessage = 'm'\n", "scan_types.a b", "letters"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_by_file_key_and_expectation(tmp_path: Path, name: str) -> None:
    text, key, expected = MISTAKES[name]
    said = refused(tmp_path, text)
    assert said.startswith(f"cannot use {tmp_path}/clamscannerd.toml: {key}: "), said
    assert expected in said.partition(f"{key}: ")[2]
    assert "\n" not in said


def test_the_file_named_is_the_one_that_the_value_came_from(tmp_path: Path) -> None:
    said = refused(tmp_path, "[server]\nmax_batch = 5\n", a="[server]\nmax_depth = 5\n", b="[server]\nmax_batch = 0\n")
    assert said.startswith(f"cannot use {tmp_path}/conf.d/b.toml: server.max_batch: ")


def test_what_is_no_toml_is_named_with_its_line(tmp_path: Path) -> None:
    assert refused(tmp_path, "[server\n").startswith(f"cannot read {tmp_path}/clamscannerd.toml: not TOML: ")
    assert "at line 2" in refused(tmp_path, "[server]\nsocket = \n")
    assert "not TOML" in refused(tmp_path, "[a]\nb = 1\nb = 2\n")
    assert f"{tmp_path}/conf.d/x.toml" in refused(tmp_path, "", x="=")


def test_what_is_no_utf8_is_named(tmp_path: Path) -> None:
    main = tmp_path / "clamscannerd.toml"
    main.write_bytes(b'[server]\nsocket = "/\xff"\n')
    with pytest.raises(ConfigError, match="not TOML"):
        config.load(main, system=True)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot read {tmp_path}/none.toml: No such file"):
        config.load(tmp_path / "none.toml", system=True)
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path, system=True)


def test_the_places_of_a_users_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/5")
    monkeypatch.setenv("XDG_STATE_HOME", "/home/x/state")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config.default_file(system=False) == tmp_path / "clamscannerd" / "clamscannerd.toml"
    found = config.load(None, system=False)
    assert found.server.socket == "/run/user/5/clamscannerd/clamscannerd.sock"
    assert found.state.directory == "/home/x/state/clamscannerd"
    for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/home/y")
    found = config.load(None, system=False)
    assert found.server.socket == f"/tmp/clamscannerd-{os.getuid()}/clamscannerd.sock"
    assert found.state.directory == "/home/y/.local/state/clamscannerd"


VALUES = ["1", "-1", "0.5", "nan", "-inf", "true", '""', '"a"', '"5%"', "[]", '["/x"]', "[1]", "{}", "{a = 1}", "[{}]"]
VALUES += ["1979-05-27", "9223372036854775807", '"\\u0000"', "[[]]", '{paths = ["a"], message = "m"}']


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    section=st.sampled_from(["server", "state", "engine", "accounts", "scans", "tasks", "vault", "scan_types", "x"]),
    key=st.sampled_from(["socket", "directory", "sockets", "min_uid", "nice", "keep_deleted", "min_free", "home", "y"]),
    value=st.sampled_from(VALUES),
)
def test_any_value_anywhere_is_taken_or_refused_in_one_line(tmp_path: Path, section: str, key: str, value: str) -> None:
    text = f"[{section}]\n{key} = {value}\n"
    said = ""
    try:
        load(tmp_path, text)
    except ConfigError as error:
        said = str(error)
    assert said == "" or said.startswith(f"cannot use {tmp_path}/clamscannerd.toml: {section}")
    assert "\n" not in said
