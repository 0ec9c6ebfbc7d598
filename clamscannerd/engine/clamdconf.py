"""A clamd.conf -> the limits of that clamd, and what it cannot report. Pure: text in, values out. [daemon]

clamd cannot be asked for its limits, so for a shared clamd its file is read; `blind` says in plain sentences what such
a clamd answers OK to, and `max_file_size` what need not be sent. Defaults are those of clamd 1.4 (man 5 clamd.conf).

The format as clamd 1.4.6 reads it (tried one by one): one `Name argument` a line, leading and trailing blanks and
double quotes around the argument allowed; a line that starts with # is a comment, a # later is part of the argument;
names are case-sensitive, yes/no/true/false are not; sizes take K, M and G in either case; **of a name given
twice the first one counts**, except for those that make lists (TCPAddr). clamd refuses to start on a line that
it cannot read, so what is unreadable here is an error too, but only for the names used here: later versions have
others. The old names BlockMax, ArchiveBlockEncrypted and AlgorithmicDetection work still, beside the new ones.

Measured: with AlertExceedsMax on, a file over MaxFileSize, a scan over MaxScanSize, MaxFiles, MaxRecursion or
MaxScanTime is `Heuristics.Limits.Exceeded.*`; with it off all of them are OK. MaxFileSize 0, or anything over it, is
HARD_MAX_FILE_BYTES. HeuristicAlerts off does not turn these alerts off. ExcludePath does not apply to FILDES.
HeuristicScanPrecedence reports an archive with an encrypted member and malware as encrypted.
"""

import hashlib
import re

import msgspec

from clamscannerd.errors import ConfigError

HARD_MAX_FILE_BYTES = 2_147_483_645
"""libclamav's own bound, 2 GiB less 3 bytes: one byte more was measured to be OK unscanned, or over the limit."""

ASSUMED_MAX_FILE_BYTES = 25 << 20
"""Where the file cannot be read: what Debian's clamd.conf says, the lowest MaxFileSize met. Too low only costs a
*not scanned*, too high would cost a false *clean*."""

_MAX_SIZE_BYTES = 4 << 30  # "All options expressing a size are limited to max 4GB": clamd.conf(5)
_SCANNED = ("Archive", "Mail", "PE", "ELF", "OLE2", "PDF", "HTML", "SWF", "XMLDOCS", "HWP3", "OneNote", "Image")
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_RUNNING = re.compile(
    "Log.*|.*Log|Pid.*|Local.*|TCP.*|Fix.*|User|Foreground|Debug|Max(Threads|Queue|ConnectionQueueLength)|.*Timeout|"
    "IdleTimeout|SelfCheck|ConcurrentDatabaseReload|TemporaryDirectory|LeaveTemporaryFiles|VirusEvent|ExitOnOOM|"
    "EnableShutdownCommand|Enable(Reload|Stats|Version)Command|OnAccess.*|Prelude.*|Stats.*"
)
"""Names in clamd.conf that only say how it runs. One that we do not know may make a difference to a verdict."""

_LINE = re.compile(r"([A-Za-z0-9]+)[ \t]+(.+)")


class ClamdConf(msgspec.Struct, frozen=True, kw_only=True):
    """What matters of one clamd.conf. Sizes in bytes as written (0: no limit), times in seconds. `settings`: a digest
    of all that may make a difference to a verdict; "": not read from a file."""

    local_socket: str | None = None
    tcp_port: int | None = None
    tcp_addresses: tuple[str, ...] = ()
    database_directory: str = "/var/lib/clamav"
    max_file_size: int = 100 << 20
    max_scan_size: int = 400 << 20
    stream_max_length: int = 100 << 20
    max_files: int = 10_000
    max_recursion: int = 17
    max_scan_time_s: float = 120.0
    max_threads: int = 10
    max_queue: int = 100
    read_timeout_s: int = 120
    idle_timeout_s: int = 30
    command_read_timeout_s: int = 30
    self_check_s: int = 600
    concurrent_reload: bool = True
    alert_exceeds_max: bool = False
    alert_encrypted_archive: bool = False
    alert_encrypted_doc: bool = False
    heuristic_precedence: bool = False
    heuristic_alerts: bool = True
    bytecode: bool = True
    enable_shutdown: bool = True
    not_scanned_inside: tuple[str, ...] = ()
    settings: str = ""


def parse(text: str) -> ClamdConf:
    """The text of a clamd.conf. Raises ConfigError where clamd itself would refuse to start."""
    return _Reader(_given(text)).conf()


def _given(text: str) -> dict[str, list[str]]:
    """Arguments by name."""
    given: dict[str, list[str]] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip(" \t\r")
        if not line or raw.startswith("#") or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigError(f"cannot read clamd's configuration: line {number}: expected a name and an argument")
        argument = match[2]
        if len(argument) >= 2 and argument[0] == argument[-1] == '"':
            argument = argument[1:-1]
        given.setdefault(match[1], []).append(argument)
    return given


def read(text: str) -> ClamdConf:
    """The same, with `settings`."""
    given = sorted((name, arguments) for name, arguments in _given(text).items() if not _RUNNING.fullmatch(name))
    digest = hashlib.blake2b(repr(given).encode(errors="surrogateescape"), digest_size=16)
    return msgspec.structs.replace(parse(text), settings=digest.hexdigest())


class _Reader:
    """Arguments by name and kind; the first one of a name counts."""

    def __init__(self, given: dict[str, list[str]]) -> None:
        self._given = given

    def conf(self) -> ClamdConf:
        default = ClamdConf()
        encrypted = self.flag("AlertEncrypted") or self.flag("ArchiveBlockEncrypted")
        scan_time_ms = self.number("MaxScanTime", int(default.max_scan_time_s * 1000))
        port = self.number("TCPSocket", 0)
        return ClamdConf(
            local_socket=self.text("LocalSocket"),
            tcp_port=port or None,
            tcp_addresses=tuple(self._given.get("TCPAddr", ())),
            database_directory=self.text("DatabaseDirectory") or default.database_directory,
            max_file_size=self.size("MaxFileSize", default.max_file_size),
            max_scan_size=self.size("MaxScanSize", default.max_scan_size),
            stream_max_length=self.size("StreamMaxLength", default.stream_max_length),
            max_files=self.number("MaxFiles", default.max_files),
            max_recursion=self.number("MaxRecursion", default.max_recursion) or default.max_recursion,
            max_scan_time_s=scan_time_ms / 1000,
            max_threads=max(1, self.number("MaxThreads", default.max_threads)),
            max_queue=self.number("MaxQueue", default.max_queue),
            read_timeout_s=self.number("ReadTimeout", default.read_timeout_s),
            idle_timeout_s=self.number("IdleTimeout", default.idle_timeout_s),
            command_read_timeout_s=self.number("CommandReadTimeout", default.command_read_timeout_s),
            self_check_s=self.number("SelfCheck", default.self_check_s),
            concurrent_reload=self.flag("ConcurrentDatabaseReload", default=True),
            alert_exceeds_max=self.flag("AlertExceedsMax") or self.flag("BlockMax"),
            alert_encrypted_archive=encrypted or self.flag("AlertEncryptedArchive"),
            alert_encrypted_doc=encrypted or self.flag("AlertEncryptedDoc"),
            heuristic_precedence=self.flag("HeuristicScanPrecedence"),
            heuristic_alerts=self.flag("HeuristicAlerts", default=True)
            and self.flag("AlgorithmicDetection", default=True),
            bytecode=self.flag("Bytecode", default=True),
            enable_shutdown=self.flag("EnableShutdownCommand", default=True),
            not_scanned_inside=tuple(kind for kind in _SCANNED if not self.flag(f"Scan{kind}", default=True)),
        )

    def text(self, name: str) -> str | None:
        return self._given[name][0] if name in self._given else None

    def flag(self, name: str, *, default: bool = False) -> bool:
        text = self.text(name)
        if text is None:
            return default
        if text.lower() in ("yes", "true", "1"):
            return True
        if text.lower() in ("no", "false", "0"):
            return False
        raise self._wrong(name, text, "yes or no")

    def number(self, name: str, default: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,10}", text):
            raise self._wrong(name, text, "a number")
        return int(text)

    def size(self, name: str, default: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        match = re.fullmatch(r"([0-9]{1,20})([KMG]?)", text.upper())
        if match is None:
            raise self._wrong(name, text, 'a size like "25M"')
        return min(int(match[1]) * _FACTORS[match[2]], _MAX_SIZE_BYTES)

    def _wrong(self, name: str, text: str, expected: str) -> ConfigError:
        return ConfigError(f"cannot read clamd's configuration: {name}: expected {expected}, got {text!r}")


def max_file_size(conf: ClamdConf) -> int:
    """Bytes of the largest file that this clamd looks at whole; a larger one is too big and need not be sent."""
    limits = (conf.max_file_size, conf.max_scan_size)
    return min((HARD_MAX_FILE_BYTES, *(limit for limit in limits if limit)))


def blind(conf: ClamdConf) -> tuple[str, ...]:
    """One plain sentence for each thing that this clamd passes over in silence; none for one that reports all."""
    found: list[str] = []
    member = _mebibytes(conf.max_file_size or HARD_MAX_FILE_BYTES)
    whole = _mebibytes(conf.max_scan_size) if conf.max_scan_size else ""
    if not conf.alert_exceeds_max:
        found.append(f"Files over {member} inside archives are passed over in silence: AlertExceedsMax is off.")
        if whole:
            found.append(f"Archives are looked at up to {whole} unpacked, the rest in silence: AlertExceedsMax is off.")
        if conf.max_files:
            found.append(
                f"Archives are looked at up to {conf.max_files} files, the rest in silence: AlertExceedsMax is off."
            )
        depth = f"nested deeper than {conf.max_recursion}"
        found.append(f"Archives {depth} are passed over in silence: AlertExceedsMax is off.")
        if conf.max_scan_time_s:
            limit = f"{conf.max_scan_time_s:g} s"
            found.append(f"A scan that takes longer than {limit} ends in silence: AlertExceedsMax is off.")
    elif conf.max_file_size and (not conf.max_scan_size or conf.max_file_size < conf.max_scan_size):
        found.append(f"Files over {member} inside archives are cut short: MaxFileSize is below MaxScanSize.")
    if not conf.alert_encrypted_archive:
        found.append("Encrypted archives pass as clean: AlertEncrypted is off.")
    if not conf.alert_encrypted_doc:
        found.append("Encrypted documents pass as clean: AlertEncrypted is off.")
    if conf.heuristic_precedence:
        found.append("An infected archive may count as encrypted, not scanned: HeuristicScanPrecedence is on.")
    if not conf.heuristic_alerts:
        found.append("Malware found by heuristics only is passed over: HeuristicAlerts is off.")
    if not conf.bytecode:
        found.append("Malware found by bytecode signatures only is passed over: Bytecode is off.")
    found += (f"The inside of {kind} files is not looked at: Scan{kind} is off." for kind in conf.not_scanned_inside)
    return tuple(found)


def cure(conf: ClamdConf) -> tuple[str, ...]:
    """The lines of clamd.conf, each in place of one of its name that is there, that make blind() silent."""
    even = not conf.max_file_size or 0 < conf.max_scan_size <= conf.max_file_size
    size = f"MaxFileSize {conf.max_scan_size}" if conf.max_scan_size else f"MaxScanSize {conf.max_file_size}"
    wanted = (
        (conf.alert_exceeds_max, "AlertExceedsMax yes"),
        (even, size),
        (conf.alert_encrypted_archive and conf.alert_encrypted_doc, "AlertEncrypted yes"),
        (not conf.heuristic_precedence, "HeuristicScanPrecedence no"),
        (conf.heuristic_alerts, "HeuristicAlerts yes"),
        (conf.bytecode, "Bytecode yes"),
    )
    lines = [line for fine, line in wanted if not fine]
    return (*lines, *(f"Scan{kind} yes" for kind in conf.not_scanned_inside))


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.4g} MiB"
