"""Config -> the plain values that each part of [daemon] is built with, or given anew by a reload. Pure."""

import math
import os
from collections.abc import Sequence

import msgspec

from clamscannerd.cache.files import CacheLimits
from clamscannerd.config import Config
from clamscannerd.engine.privately import EngineSettings
from clamscannerd.engine.sessions import Engines
from clamscannerd.globs import quoted
from clamscannerd.model import IgnoreKind
from clamscannerd.pipeline.cached import FILESYSTEMS, CacheSettings
from clamscannerd.pipeline.courtesy import Courtesy
from clamscannerd.pipeline.engineview import EngineView
from clamscannerd.pipeline.scan import ScanLimits
from clamscannerd.pipeline.tasks import TaskLimits
from clamscannerd.rpc.server import ServerLimits
from clamscannerd.service.context import Settings
from clamscannerd.service.scan_types import ScanType
from clamscannerd.state.slots import Slots
from clamscannerd.state.store import StoreLimits
from clamscannerd.state.vault import VaultLimits


def store_limits(config: Config) -> StoreLimits:
    state = config.state
    return StoreLimits(
        keep_per_account=state.keep_per_account,
        keep_s=state.keep,
        max_findings_per_scan=state.max_findings_per_scan,
        max_not_scanned_per_scan=state.max_not_scanned_per_scan,
    )


def vault_limits(config: Config) -> VaultLimits:
    vault = config.vault
    return VaultLimits(
        keep_quarantined_s=vault.keep_quarantined,
        keep_deleted_s=vault.keep_deleted,
        max_bytes_per_account=vault.max_bytes_per_account,
        max_items_per_account=vault.max_items_per_account,
        min_free=vault.min_free,
    )


def engine_view(config: Config, engines: Engines) -> EngineView:
    return EngineView(
        engines,
        cores=os.cpu_count() or 1,
        in_flight=config.scans.in_flight,
        wait_s=config.engine.wait_s,
        courtesy=Courtesy(config.engine.courtesy_s),
    )


def adopt_view(view: EngineView, new: Config) -> None:
    """After a reload."""
    view.in_flight, view.wait_s = new.scans.in_flight, new.engine.wait_s
    view.courtesy.patience_s = new.engine.courtesy_s


def task_limits(config: Config) -> TaskLimits:
    return TaskLimits(
        step_timeout_s=config.tasks.step_timeout_s,
        silence_s=config.scans.silence_s,
        file_deadline_s=config.scans.file_deadline_s,
        file_cpu_s=config.scans.file_cpu_s,
        retries=config.scans.retries,
    )


def server_limits(config: Config) -> ServerLimits:
    server = config.server
    return ServerLimits(
        max_connections=server.max_connections,
        max_connections_per_uid=server.max_connections_per_uid,
        max_calls_per_uid=server.max_calls_per_uid,
        max_message_bytes=server.max_message_bytes,
        max_batch=server.max_batch,
        max_depth=server.max_depth,
        line_timeout_s=server.line_timeout_s,
        idle_timeout_s=server.idle_timeout_s,
        write_timeout_s=server.write_timeout_s,
    )


def cache_settings(config: Config) -> CacheSettings:
    cache = config.cache
    return CacheSettings(
        enabled=cache.enabled,
        filesystems=tuple(FILESYSTEMS[name] for name in cache.filesystems),
        settle_s=cache.settle_s,
        by_content=cache.by_content,
        recheck_after_s=cache.recheck_after if cache.rapid else -math.inf,
        recheck_share=cache.recheck_share,
        young_s=cache.recheck_younger,
        limits=CacheLimits(
            max_entries=cache.max_entries_per_account, keep_s=cache.recheck_after if cache.rapid else 0.0
        ),
    )


def scan_limits(config: Config, own: Sequence[bytes]) -> ScanLimits:
    """`own`: as of excludes()."""
    return ScanLimits(
        silence_s=config.scans.silence_s,
        deadline_s=config.scans.deadline_s,
        file_deadline_s=config.scans.file_deadline_s,
        file_cpu_s=config.scans.file_cpu_s,
        retries=config.scans.retries,
        max_skipped=config.state.max_not_scanned_per_scan,
        excludes=excludes(config, own),
    )


def slots(config: Config) -> Slots:
    return Slots(scans=config.scans.max_active, tasks=config.tasks.max_active)


def settings(config: Config, own: Sequence[bytes]) -> Settings:
    """`own`: as of excludes()."""
    types = {
        name: ScanType(
            id=name,
            message=kind.message,
            paths=tuple(os.fsencode(path) for path in kind.paths),
            users=frozenset(kind.users),
            groups=frozenset(kind.groups),
        )
        for name, kind in config.scan_types.items()
        if kind.enabled
    }
    allowed = config.ignore.allowed
    return Settings(
        scan_types=types,
        lost_after_s=config.engine.lost_after_s,
        min_free_bytes=config.state.min_free,
        ignore_kinds=frozenset(IgnoreKind(kind) for kind in ((*IgnoreKind,) if allowed is True else allowed or ())),
        max_ignore_entries=config.ignore.max_entries_per_account,
        excludes=excludes(config, own),
        rapid=config.cache.rapid and config.cache.enabled,
    )


def excludes(config: Config, own: Sequence[bytes]) -> tuple[bytes, ...]:
    """The patterns of what scans leave out. `own`: directories of ours beneath the home; last, so that none takes them
    back."""
    return (*(os.fsencode(one) for one in config.scans.exclude), *(quoted(path) + b"/" for path in own))


def engine_settings(config: Config, started_with: Config | None = None) -> EngineSettings:
    """`started_with`: at a reload, what keeps its value until the next start; None where a unit runs the engine."""
    engine = config.engine
    if started_with is not None:
        late = {key: getattr(started_with.engine, key) for key in _engine_keys_at_next_start(started_with, config)}
        engine = msgspec.structs.replace(engine, **late)
    return EngineSettings(
        sockets=engine.sockets,
        clamd_conf=engine.clamd_conf,
        confs=engine.confs,
        max_signature_lag_s=engine.max_signature_lag,
        database=engine.database,
        max_file_size=engine.max_file_size,
        max_scan_time_s=engine.max_scan_time_s,
        max_threads=engine.max_threads,
        first_ping_timeout_s=engine.first_ping_timeout_s,
        ping_timeout_s=engine.ping_timeout_s,
        check_interval_s=engine.check_interval_s,
        auto_wait_s=engine.auto_wait_s,
    )


_PRIVATE_ENGINE = (
    *("clamd", "database", "temporary", "max_file_size", "max_scan_time_s", "max_threads", "nice", "private_engines"),
)
"""What stands in files and arguments of the private engine, which only the launcher may write. Where a unit runs that
engine, clamscannerd-prepare.service writes them afresh before each reload, and all of it takes effect then."""


def _engine_keys_at_next_start(old: Config, new: Config) -> list[str]:
    keys = [key for key in _PRIVATE_ENGINE if getattr(new.engine, key) != getattr(old.engine, key)]
    own = ("auto", "private")
    if new.engine.sockets in own and old.engine.sockets not in own:  # the launcher has set none up
        keys.append("sockets")
    return keys


def at_next_start(old: Config, new: Config, *, engine_is_unit: bool) -> list[str]:
    """Keys whose change a reload cannot bring about. `old`: what the daemon was started with."""
    keys = [] if engine_is_unit else [f"engine.{key}" for key in _engine_keys_at_next_start(old, new)]
    if new.state.directory != old.state.directory:
        keys.append("state.directory")
    if new.cache.directory != old.cache.directory:
        keys.append("cache.directory")
    if new.server.socket != old.server.socket:
        keys.append("server.socket")
    if new.accounts.min_uid < old.accounts.min_uid:  # the monitor has its own, and goes by the higher one
        keys.append("accounts.min_uid")
    fixed = ("nice", "cpu_class", "io_class", "job_cpu_s")  # likewise
    keys += [f"scans.{key}" for key in fixed if getattr(new.scans, key) != getattr(old.scans, key)]
    return keys
