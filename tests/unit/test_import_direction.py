"""Imports point one way through the rooms of src/aiotq, and no broker's library is loaded unasked."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final, NamedTuple

import pytest

PACKAGE: Final = Path(__file__).parents[2] / "src" / "aiotq"

#: The public names: what `import aiotq` and `from aiotq import AioTQ` ask for.
PUBLIC: Final = "__init__"

#: The floors of the house, lowest first. A room may import what is below it, and its neighbours on its floor.
FLOORS: Final = (
    (
        "exceptions",
        "states",
        "settings",
        "clock",
        "schedules",
        "sync",
        "_aio",
        "_sqlite",
        "_values",
        "logs",
        "json_logs",
        "limits",
        "hooks",
        "signals",
        "lifespan",
    ),
    ("message", "serialization", "routing"),
    ("request", "_redis", "_amqp", "options", "content", "protocol"),
    ("transport", "results", "calls", "retries", "outgoing", "declared"),
    ("commit",),
    ("publisher",),
    ("canvas",),
    ("task",),
    ("annotations",),
    ("registry", "middleware", "surroundings"),
    ("worker", "beat", "control", "admin"),
    ("places",),
    ("connection", "connections", "eager", "eager_workflows", "workflows"),
    ("app",),
    ("lookup",),
    (PUBLIC,),
    ("console", "testing"),
    ("cli",),
    ("__main__",),
)
FLOOR: Final = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

#: Neighbours that don't know each other: any transport goes with any store.
STRANGERS: Final = ({"transport", "results"},)

#: Private rooms, and the only ones that may come in.
PRIVATE: Final[Mapping[str, frozenset[str]]] = {
    "_sqlite": frozenset({"transport", "results", "commit", "places"}),
    "_redis": frozenset({"transport", "results", "commit", "places"}),
}


class Import(NamedTuple):
    file: str
    line: int
    importer: str
    imported: str
    in_function: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.importer} imports {self.imported}"


def complaints(package: Path) -> list[str]:
    """All that is wrong with the imports among the modules of `package`, one line each; imports only for type
    checkers count."""
    found = [each for file in sorted(package.rglob("*.py")) for each in imports_in(file, package)]
    homeless = sorted(rooms_of(package) - FLOOR.keys())
    return [
        *(f"{room}: on no floor; say in FLOORS where it belongs" for room in homeless),
        *(f"{each}: {wrong}" for each in found for wrong in wrongs_of(each)),
        *circles(found),
    ]


@cache  # asked for each import
def rooms_of(package: Path) -> frozenset[str]:
    return frozenset(room_of(file, package) for file in package.rglob("*.py"))


def room_of(file: Path, package: Path) -> str:
    return file.relative_to(package).with_suffix("").parts[0]


def imports_in(file: Path, package: Path) -> Iterator[Import]:
    """The imports in `file` that lead to another room of its package."""
    importer = room_of(file, package)
    name = str(file.relative_to(package))
    for node, in_function in import_statements(ast.parse(file.read_text(), name)):
        for target in targets(node, (package.name, *file.relative_to(package).parent.parts)):
            if target[0] == package.name:
                imported = room_named(target, package)
                if imported != importer or in_function:
                    yield Import(name, node.lineno, importer, imported, in_function)


def import_statements(node: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, in_function
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from import_statements(child, in_function or function)


def targets(node: ast.Import | ast.ImportFrom, here: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """What an import statement in the package `here` asks for, as absolute dotted names, split."""
    if isinstance(node, ast.Import):
        yield from (tuple(alias.name.split(".")) for alias in node.names)
    else:
        above = here[: len(here) - node.level + 1] if node.level else ()
        base = (*above, *(node.module.split(".") if node.module else ()))
        yield from ((*base, alias.name) for alias in node.names)


def room_named(target: tuple[str, ...], package: Path) -> str:
    return target[1] if len(target) > 1 and target[1] in rooms_of(package) | FLOOR.keys() else PUBLIC


def wrongs_of(each: Import) -> Iterator[str]:
    if each.in_function:
        yield "inside a function; a room says what it needs as a Protocol, and is handed it"
    if each.importer == each.imported or not {each.importer, each.imported} <= FLOOR.keys():
        return
    if FLOOR[each.imported] > FLOOR[each.importer]:
        yield "upward"
    if {each.importer, each.imported} in STRANGERS:
        yield "these two never import each other"
    if each.importer not in PRIVATE.get(each.imported, {each.importer}):
        yield f"private to {', '.join(sorted(PRIVATE[each.imported]))}"


def circles(found: list[Import]) -> Iterator[str]:
    rooms = TopologicalSorter[str]()
    for each in found:
        if each.importer != each.imported:
            rooms.add(each.importer, each.imported)
    try:
        rooms.prepare()
    except CycleError as error:
        yield f"rooms in a circle: {' <- '.join(error.args[1])}"


def test_imports_point_one_way() -> None:
    assert rooms_of(PACKAGE) >= {PUBLIC, "exceptions"}, "there is something to check"

    assert complaints(PACKAGE) == []


def test_what_the_floors_allow_is_not_complained_about(tmp_path: Path) -> None:
    package = build(
        tmp_path,
        {
            "__init__.py": "from .app import AioTQ",
            "app.py": "import asyncio\nfrom . import exceptions\nfrom .transport.redis import connect",
            "cli.py": "from aiotq import AioTQ\nimport aiotq.settings\ndef run():\n    import typer",
            "exceptions.py": "from __future__ import annotations",
            "settings.py": "from .exceptions import SettingsError",
            "_sqlite.py": "from .exceptions import AioTQError",
            "transport/__init__.py": "from .base import Transport",
            "transport/base.py": "from ..exceptions import AioTQError\nfrom .. import settings",
            "transport/redis.py": "from redis import Redis\nfrom .._sqlite import Database",
        },
    )

    assert complaints(package) == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("message.py", "from .task import Task", "message.py:1: message imports task: upward"),
        ("message.py", "from aiotq.task import Task", "message imports task: upward"),
        ("message.py", "import aiotq.task", "message imports task: upward"),
        ("message.py", "from . import task", "message imports task: upward"),
        ("message.py", "from . import Task", "message imports __init__: upward"),
        (
            "message.py",
            "if TYPE_CHECKING:\n    from .task import x",
            "message.py:2: message imports task: upward",
        ),
        ("results/base.py", "from ..task import Task", "results/base.py:1: results imports task: upward"),
        ("results/base.py", "from ..transport import x", "results imports transport: these two never"),
        ("transport/base.py", "from .. import results", "transport imports results: these two never"),
        (
            "task.py",
            "from ._sqlite import x",
            "task imports _sqlite: private to commit, places, results,",
        ),
        ("task.py", "def f():\n    from .message import x", "task.py:2: task imports message: inside a"),
        ("task.py", "class A:\n    async def f(self):\n        import aiotq", "inside a function"),
        ("results/base.py", "def f():\n    from . import x", "results imports results: inside a function"),
        ("helpers.py", "", "helpers: on no floor"),
        ("worker.py", "from .beat import x", "rooms in a circle"),
    ],
)
def test_the_check_finds(tmp_path: Path, file: str, line: str, complaint: str) -> None:
    """A check that can't fail proves nothing: each kind of bad import is planted in a good tree."""
    good = {
        "__init__.py": "",
        "_sqlite.py": "",
        "message.py": "",
        "task.py": "",
        "beat.py": "from .worker import x",
        "worker.py": "",
        "results/__init__.py": "",
        "transport/__init__.py": "",
    }
    assert complaints(build(tmp_path / "good", good)) == []

    found = complaints(build(tmp_path / "bad", {**good, file: line}))

    assert any(complaint in each for each in found), found


def build(where: Path, sources: Mapping[str, str]) -> Path:
    package = where / "aiotq"
    for name, source in sources.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source)
    return package


def test_importing_aiotq_asks_for_no_brokers_library() -> None:
    assert brokers_libraries_asked_for_by("import aiotq") == []


def test_asking_for_a_brokers_library_is_seen_even_when_it_is_not_installed() -> None:
    hidden = "try:\n    import aio_pika.abc\nexcept ImportError:\n    pass"

    assert brokers_libraries_asked_for_by(hidden)[:1] == ["aio_pika"]


def brokers_libraries_asked_for_by(statement: str) -> list[str]:
    listen = """
import sys

class Listening:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("redis", "aio_pika", "aiormq"):
            print(name)

sys.meta_path.insert(0, Listening())
"""
    run = subprocess.run(
        [sys.executable, "-c", listen + statement], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()
