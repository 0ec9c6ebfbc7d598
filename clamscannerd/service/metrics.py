"""Daemon.metrics: what the parts of the daemon count, as Prometheus text. [daemon]

Numbers of the whole daemon, for administrators: beside the sums no user's name and no uid is in them, so whoever reads
what they are written to learns of nobody in particular. What is counted stands in one table, and a test demands that
every number of every `statistics()` is in it.

prometheus_client is imported when somebody asks first (50 to 90 ms, 2.4 MB: it brings an HTTP server along), and in a
thread, as is the making of the text: calls and scans do not wait for either. Its global registry is left alone. Names
begin with clamscannerd_, those of the process too: beside node_exporter's own there must be no second process_*.

Rejected: an HTTP port (this daemon has no network), numbers by account (names in labels, and 100,000 of them), and
the text by hand (escaping, and a HELP and TYPE for each, are somebody's work already).
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import msgspec
import trio

from clamscannerd import __version__
from clamscannerd.model import Frozen
from clamscannerd.service.context import Context, EngineState

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

STATES = ("ready", "loading", "starting", "lost")
"""Of engines: engine/sessions.py."""


class Metrics(Frozen, frozen=True, kw_only=True):
    """`text`: whole, for a file of node_exporter's textfile collector or the answer to a scrape."""

    content_type: str
    text: str


class _Row(Frozen, frozen=True, kw_only=True):
    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: Mapping[str, str] = {}


def _gauge(name: str, says: str, **labels: str) -> _Row:
    return _Row(name=name, kind="gauge", help=says, labels=labels)


def _counter(name: str, says: str) -> _Row:
    return _Row(name=name, kind="counter", help=says)


_JOBS = "Jobs under way."
ROWS: Mapping[str, Mapping[str, _Row]] = {
    "server": {
        "connections": _gauge("connections_open", "Connections of clients."),
        "connections_total": _counter("connections", "Connections taken."),
        "connections_refused_total": _counter("connections_refused", "Connections over a limit."),
        "uids": _gauge("users_connected", "Users with a connection."),
        "calls": _gauge("calls_in_flight", "Calls that are not answered yet."),
        "calls_total": _counter("calls", "Calls taken."),
        "calls_refused_total": _counter(
            "calls_refused", "Calls answered with an error of the caller's, or of a limit."
        ),
        "faults_total": _counter("faults", "Faults of the daemon: each has a traceback in its log."),
    },
    "runner": {
        "scans": _gauge("jobs_running", _JOBS, kind="scan"),
        "tasks": _gauge("jobs_running", _JOBS, kind="task"),
        "waiting": _gauge("jobs_waiting", "Jobs that wait for their turn, or for an engine."),
        "paused": _gauge("scans_paused", "Scans that were paused and wait to be resumed."),
        "stuck": _gauge("jobs_stuck", "Waiting jobs that were tried and could not be started."),
        "stuck_since": _gauge("jobs_stuck_since_timestamp_seconds", "When the first of those was tried; 0: none."),
    },
    "engines": {
        "engines": _gauge("engines", "Engines that are known."),
        "ready": _gauge("engines_ready", "Engines that answer and scan."),
        "sessions_opened": _counter("engine_sessions_opened", "Sessions opened with engines."),
        "checks": _counter("engine_checks", "Looks at how an engine is."),
        "failures": _counter("engine_check_failures", "Looks at an engine that found it not to answer."),
        "private_starts": _counter("engine_private_starts", "Starts of the private engine."),
    },
    "store": {
        "reads": _counter("store_reads", "Reads of the database."),
        "writes": _counter("store_writes", "Transactions that write to the database."),
        "waiting": _gauge("store_waiting", "Calls in line for the database's writer."),
        "broken": _gauge("store_broken", "1: the database does not work any more."),
    },
    "vault": {
        "receiving": _gauge("vault_receiving", "Contents on their way into the vault."),
        "kept": _counter("vault_kept", "Contents kept in the vault."),
        "refused": _counter("vault_refused", "Contents that the vault did not take."),
        "removed": _counter("vault_removed", "Contents removed from the vault."),
    },
    "processes": {
        "running": _gauge("processes_running", "Workers, and the private engine where the monitor started it."),
        "started": _counter("processes_started", "Processes started by the monitor."),
        "refused": _counter("processes_refused", "Processes that the monitor did not start."),
        "stuck": _gauge("workers_stuck", "Workers that were killed and hang in the kernel."),
    },
}
"""Part of the daemon -> number of its `statistics()` -> metric; the names without their beginning and `_total`."""


async def metrics(context: Context) -> Metrics:
    """As of now."""
    statistics, engine = context.statistics(), context.engine()
    text = await trio.to_thread.run_sync(render, statistics, engine)
    return Metrics(content_type=CONTENT_TYPE, text=text)


def render(statistics: Mapping[str, msgspec.Struct], engine: EngineState) -> str:
    """The text. For a thread: see above."""
    from prometheus_client.exposition import generate_latest
    from prometheus_client.process_collector import ProcessCollector
    from prometheus_client.registry import Collector, CollectorRegistry

    class _Now(Collector):
        def collect(self) -> Iterable["Metric"]:
            return [*_counted(statistics), *_engine(engine)]

    registry = CollectorRegistry()
    registry.register(_Now())
    ProcessCollector(namespace="clamscannerd", registry=registry)
    return generate_latest(registry).decode()


def _counted(statistics: Mapping[str, msgspec.Struct]) -> Iterable["Metric"]:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for part, numbers in statistics.items():
        for field, row in ROWS[part].items():
            make = GaugeMetricFamily if row.kind == "gauge" else CounterMetricFamily
            if row.name not in families:
                families[row.name] = make(f"clamscannerd_{row.name}", row.help, labels=list(row.labels))
            families[row.name].add_metric(list(row.labels.values()), float(getattr(numbers, field)))
    return families.values()


def _engine(engine: EngineState) -> Iterable["Metric"]:
    from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily

    version = InfoMetricFamily("clamscannerd", "The version of the daemon.")
    version.add_metric([], {"version": __version__})
    state = GaugeMetricFamily("clamscannerd_engine_state", "1 for the state that the engines are in.", labels=["state"])
    for name in STATES:
        state.add_metric([name], float(engine.kind == name))
    info = InfoMetricFamily("clamscannerd_engine", "The engine that scans, and the number of its signatures.")
    info.add_metric([], {"version": engine.info.version, "database": str(engine.info.database)})
    return [
        version,
        state,
        info,
        GaugeMetricFamily(
            "clamscannerd_signatures_loaded",
            "0: without signatures no file is called clean.",
            value=float(engine.signatures),
        ),
        GaugeMetricFamily(
            "clamscannerd_signatures_timestamp_seconds", "How new they are.", value=engine.info.database_time
        ),
    ]
