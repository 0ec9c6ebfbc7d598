"""Imports go one way (architecture, section 3): reads every import of the package and compares it with the tables here.

A new module of the top level has to be entered in EDGES; a new edge needs a line there, and so somebody who decides.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "clamscannerd"

ALL = frozenset({"*"})
BASE = frozenset({"model", "errors", "events", "stop", "__version__"})
"""What everything may import: nouns, errors, the fields of log lines, the one deadline of a stop, the version."""

EDGES: dict[str, frozenset[str]] = {
    # The longest name that fits a module decides; imports within one folder are free.
    "__init__": frozenset(),
    "__main__": frozenset({"launch"}),
    "launch": ALL,
    "daemon": ALL,
    "model": frozenset(),
    "errors": frozenset(),
    "events": frozenset({"model"}),
    "globs": frozenset(),
    "addresses": frozenset(),
    "cache": BASE,
    "stop": frozenset(),
    "config": BASE | {"addresses", "globs"},
    "rpc": BASE,
    "rpc.methods": BASE | {"service"},
    "rpc.described": BASE | {"service"},
    "rpc.described_ignore": BASE | {"service"},
    "service": BASE | {"globs", "state", "rpc.names", "rpc.table"},
    "state": BASE | {"globs"},
    "pipeline": BASE
    | {
        "cache",
        "state",
        "engine",
        "worker.messages",
        "worker.cachewire",
        "worker.linewire",
        "worker.lookwire",
        "worker.mailwire",
        "worker.restorewire",
    }
    | {"worker.testwire", "rpc.names"},
    "engine": BASE | {"addresses"},
    "worker": BASE | {"cache.table", "engine.clamproto", "globs", "rights"},
    "spawn": BASE | {"monitor", "orders", "rights"},
    "monitor": frozenset({"orders", "rights"}),
    "orders": frozenset(),
    "rights": frozenset(),
    "systemd": BASE,
    "client": BASE | {"client_socket", "rpc.jsonrpc", "rpc.names"},
    "client_socket": BASE,
    "client_trio": BASE | {"client", "rpc.jsonrpc"},
    "ctl": BASE | {"client", "client_socket", "globs"},
    "ctl.hooks": BASE | {"config", "notify"},
    "notify": BASE | {"config"},
}

SANS_IO = (
    "model",
    "errors",
    "addresses",
    "globs",
    "rpc.jsonrpc",
    "rpc.strictjson",
    "rpc.names",
    "rpc.access",
    "state.tasks",
    "cache.basis",
    "cache.table",
    "worker.cachewire",
    "worker.linewire",
    "worker.messages",
    "worker.mailwire",
    "worker.restorewire",
    "worker.testwire",
    "worker.lookwire",
    "worker.wire",
    "worker.mailheader",
    "worker.mbox",
    "worker.notice",
    "engine.clamproto",
    "engine.clamdconf",
    "engine.fitting",
    "engine.private",
    "ctl.advice",
    "ctl.mailboxes",
    "ctl.picture",
    "ctl.text",
    "ctl.visible",
    "ctl.walk",
)
"""Bytes or values in, bytes or values out."""
OUTSIDE = frozenset({"trio", "asyncio", "socket", "os", "sqlite3", "threading", "subprocess", "select", "selectors"})

PLAIN = ("monitor", "orders", "rights", "worker.drop", "worker.seal")
"""Privileged, or run before rights are given up: the standard library and each other, nothing else."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "sqlite3": ("state",),
    "pyclamd": ("engine.control",),
    "systemd": ("systemd",),
    "click": (
        "ctl.main",
        "ctl.asking",
        "ctl.commands",
        "ctl.completing",
        "ctl.disinfecting",
        "ctl.explain",
        "ctl.history",
        "ctl.ignore",
        "ctl.hooks",
        "ctl.metrics",
        "ctl.scans",
        "ctl.tasks",
        "ctl.uapi",
        "ctl.vault",
        "ctl.walking",
    ),
    "rich": ("ctl.progress",),
    "prometheus_client": ("service.metrics",),
}
"""Who may import what comes from outside."""


def modules() -> dict[str, str]:
    """Name without the package's own -> source."""
    found = {}
    for path in sorted(ROOT.joinpath(PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        found[".".join(parts)] = path.read_text()
    return found


MODULES = modules()


def imports(source: str) -> Iterator[str]:
    """Every module that `source` imports, anywhere in it, as a full name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the edge"
            if node.module is not None and node.module.split(".")[0] == PACKAGE:
                yield from (_whole(node.module, alias.name) for alias in node.names)
            elif node.module is not None:
                yield node.module


def _whole(module: str, name: str) -> str:
    """`from clamscannerd.rpc import names` imports a module, `from clamscannerd.rpc.names import to_wire` does not."""
    inner = f"{module}.{name}".removeprefix(f"{PACKAGE}.")
    return f"{PACKAGE}.{inner}" if module == PACKAGE or inner in MODULES else module


def fits(name: str, rule: str) -> bool:
    return name == rule or name.startswith(f"{rule}.")


def top(name: str) -> str:
    """The folder, or the module of the top level; launch_engine counts as launch."""
    first = name.split(".")[0]
    return first if first in EDGES else first.split("_")[0] if not first.startswith("_") else first


def wrong_edges(name: str, source: str) -> list[str]:
    """In-package imports of module `name` that EDGES does not allow."""
    inside = [whole.removeprefix(f"{PACKAGE}.") for whole in imports(source) if fits(whole, PACKAGE)]
    rules = [rule for rule in EDGES if fits(name, rule) or rule == top(name)]
    if not rules:
        return [f"{name} is in no row of EDGES"]
    allowed = EDGES[max(rules, key=len)]
    return [
        f"{name} -> {target}"
        for target in inside
        if allowed != ALL and top(target) != top(name) and not any(fits(target, rule) for rule in allowed)
    ]


def outside(name: str) -> set[str]:
    """The modules that do not belong to the package, by the first part of their names."""
    return {whole.split(".")[0] for whole in imports(MODULES[name]) if not fits(whole, PACKAGE)}


def inside(name: str) -> set[str]:
    return {whole.removeprefix(f"{PACKAGE}.") for whole in imports(MODULES[name]) if fits(whole, PACKAGE)}


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_one_way(name: str) -> None:
    assert wrong_edges(name, MODULES[name]) == []


@pytest.mark.parametrize("name", SANS_IO)
def test_sans_io_modules_touch_nothing_outside(name: str) -> None:
    assert outside(name) & OUTSIDE == set()
    for target in inside(name):
        assert target in {*SANS_IO, "__version__"}, f"{name} would reach the outside through {target}"


@pytest.mark.parametrize("name", PLAIN)
def test_privileged_modules_are_standard_library_only(name: str) -> None:
    assert outside(name) <= sys.stdlib_module_names
    for target in inside(name):
        assert target in {*PLAIN, "worker.main", "__version__"}, f"{name} would import {target} with rights"


@pytest.mark.parametrize("name", [name for name in MODULES if name.endswith("__init__")])
def test_the_folders_own_modules_import_nothing(name: str) -> None:
    assert list(imports(MODULES[name])) == []


@pytest.mark.parametrize("name", MODULES)
def test_what_comes_from_outside_has_one_place(name: str) -> None:
    for third in outside(name) & ONLY_IN.keys():
        assert any(fits(name, rule) for rule in ONLY_IN[third]), f"{name} -> {third}"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("rpc.server", "from clamscannerd.state.store import Store"),
        ("rpc.server", "def f():\n    import clamscannerd.service.clamscanner"),
        ("service.scan", "from clamscannerd.pipeline import scan"),
        ("service.scan", "from clamscannerd.rpc import server"),
        ("worker.main", "from clamscannerd.state.store import Store"),
        ("worker.main", "from clamscannerd.engine import sessions"),
        ("pipeline.scan", "from clamscannerd.worker.main import serve"),
        ("state.store", "from clamscannerd import config"),
        ("monitor", "from clamscannerd.model import Account"),
        ("ctl.main", "from clamscannerd.rpc.jsonrpc import Connection"),
        ("client", "if TYPE_CHECKING:\n    from clamscannerd.rpc.server import Server"),
        ("newcomer", ""),
    ],
)
def test_a_wrong_edge_would_be_found(name: str, source: str) -> None:
    assert wrong_edges(name, source) != []
