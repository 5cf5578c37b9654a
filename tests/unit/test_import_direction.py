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

#: The floors of the house, lowest first. A room may import what is below it, and its neighbours on its floor. A file
#: named with its room (`tasks.options`) has a floor of its own: values that lower rooms need as well.
FLOORS: Final = (
    ("exceptions", "states", "core"),
    ("supervising",),
    ("signals", "wire", "graph", "control.bus", "control.celery_mail"),
    ("beat.cron_fields", "beat.crontab", "beat.intervals", "beat.schedules", "beat.solar", "beat.wall_time"),
    ("tasks.expected", "tasks.keys", "tasks.limits", "tasks.shares"),
    ("tasks.streams",),
    ("tasks.request", "tasks.options", "tasks.handlers", "tasks.soft_time_limits", "worker.lifespans"),
    (
        "transport",
        "results",
        "calling.arguments",
        "calling.envelopes",
        "calling.step_keys",
        "tasks.retries",
        "beat.occurrences",
    ),
    ("control",),
    ("commit",),
    ("backends",),
    ("canvas",),
    ("beat.entries",),
    ("tasks",),
    ("calling",),
    (
        *("worker", "beat", "flows"),
        *(
            "control.acts",
            "control.admin",
            "control.asking",
            "control.blocks",
            "control.camera",
            "control.commands",
            "control.examining",
        ),
        *(
            "control.code_changes",
            "control.events",
            "control.migrating",
            "control.one_call",
            "control.queries",
            "control.remote",
            "control.shown_settings",
            "control.views",
        ),
    ),
    ("app",),
    ("lookup",),
    (PUBLIC,),
    ("testing", "web"),
    ("commands", "top"),
    ("cli",),
    ("__main__", "contrib"),
)
FLOOR: Final = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

_FEW_CALL_HERE: Final = "calls that run where they are made are for tests and scripts; they run as a worker's"
_FEW_DRAW: Final = "few processes look at workflows"
_FEW_SCHEDULE: Final = "few processes have schedules"
_MADE_OF_SIGNATURES: Final = "it knows signatures and what is composed of them; a signature's method leads there"
_FEW_WORK: Final = "most processes send calls and run none"
_FEW_ARE_WATCHED: Final = "it needs libraries that are not installed everywhere"
_FEW_SIGNAL: Final = "few processes have flows"
_FEW_OPERATE: Final = "few processes ask workers, or have commands of their own"
_APP: Final = "the type of what users know as the app: what they get from it is checked; it runs nothing"
#: Imports in functions, and those for type checkers that lead upward: from one module to another, and why. All others
#: stand at the top of their file and lead downward.
LATE: Final[Mapping[tuple[str, str], str]] = {
    (PUBLIC, "beat.schedules"): _FEW_SCHEDULE,
    (PUBLIC, "canvas.stamping"): "few workflows are stamped",
    (PUBLIC, "graph.graph"): _FEW_DRAW,
    (PUBLIC, "results.progress"): "few processes follow a workflow",
    (PUBLIC, "worker.worker"): _FEW_WORK,
    ("app", "beat.declared"): _FEW_SCHEDULE,
    ("app", "beat.manage"): _FEW_SCHEDULE,
    ("app", "beat.scheduler"): _FEW_SCHEDULE,
    ("app", "control.events"): _FEW_OPERATE,
    ("app", "control.remote"): _FEW_OPERATE,
    ("app", "web.dashboard.application"): _FEW_ARE_WATCHED,
    ("app", "web.health"): _FEW_ARE_WATCHED,
    ("app", "worker.inline"): _FEW_CALL_HERE,
    ("app", "worker.options"): _FEW_WORK,
    ("app", "worker.worker"): _FEW_WORK,
    ("calling.connection", "backends.in_process"): "few apps have nothing that tells all processes",
    ("calling.connection", "commit.ordered"): "most apps have their broker and their results in one place",
    ("calling.connection", "results.in_process"): "few apps have neither a broker nor a store that keeps a ledger",
    ("calling.connection", "results.pushed"): "few stores of results can't push them",
    ("calling.core", "app"): _APP,
    ("calling.core", "beat.scheduler"): _FEW_SCHEDULE,
    ("calling.core", "calling.at_home"): "few processes have loops that last for one request",
    ("calling.core", "canvas.coordinator"): _FEW_WORK,
    ("calling.core", "calling.in_transaction"): "few apps send in transactions of their users'",
    ("calling.core", "calling.outbox"): "few apps send in transactions of their users'",
    ("calling.core", "control.declared"): _FEW_OPERATE,
    ("calling.core", "control.event_sender"): _FEW_OPERATE,
    ("calling.core", "calling.tracing"): _FEW_ARE_WATCHED,
    ("calling.core", "results.indexing"): _FEW_WORK,
    ("calling.core", "worker.observers"): _FEW_WORK,
    ("calling.core", "worker.worker"): _FEW_WORK,
    ("calling.pipeline", "calling.keyed"): "few calls have keys",
    ("calling.pipeline", "calling.sent_events"): _FEW_OPERATE,
    ("calling.setting_checks", "beat.entries"): _FEW_SCHEDULE,
    ("calling.setting_checks", "control.picture"): _FEW_OPERATE,
    ("canvas.signature", "app"): _APP,
    ("canvas.signature", "canvas.composites"): _MADE_OF_SIGNATURES,
    ("canvas.signature", "canvas.drawn"): _FEW_DRAW,
    ("canvas.signature", "canvas.serialized"): _MADE_OF_SIGNATURES,
    ("canvas.signature", "canvas.stamping"): "few workflows are stamped",
    ("canvas.signature", "canvas.structure"): _MADE_OF_SIGNATURES,
    ("commands.http", "web.dashboard.application"): _FEW_ARE_WATCHED,
    ("commands.http", "web.health"): _FEW_ARE_WATCHED,
    ("commands.http", "web.reporting"): _FEW_ARE_WATCHED,
    ("commands.http", "web.serving"): _FEW_ARE_WATCHED,
    ("commands.migrate_db", "backends.sql.outbox"): "few apps have an outbox, which needs SQLAlchemy",
    ("commands.top", "top.view"): _FEW_ARE_WATCHED,
    ("commands.web", "web.dashboard.application"): _FEW_ARE_WATCHED,
    ("commands.web", "web.serving"): _FEW_ARE_WATCHED,
    ("contrib.django.backend", "contrib.django.records"): "models can be imported when the project is set up",
    ("core.settings", "core.celery_settings"): "few apps have settings by Celery's names, or unknown ones",
    ("flows.declaring", "flows.handles"): _FEW_SIGNAL,
    ("flows.declaring", "flows.run"): _FEW_WORK,
    ("flows.declaring", "flows.writing"): _FEW_SIGNAL,
    ("graph.graph", "graph.drawing"): "a graph is data: few are drawn",
    ("results.handle", "results.drawn"): _FEW_DRAW,
    ("results.streaming", "results.stream_reader"): "few processes read streams",
    ("tasks.streaming", "results.stream_writer"): "few tasks stream",
    ("results.handle", "results.progress"): "few processes follow a workflow",
    ("tasks.registry", "tasks.annotations"): "few apps have annotations",
    ("tasks.task", "app"): _APP,
    ("worker.worker", "worker.relay"): "few apps have an outbox, which needs SQLAlchemy",
}

#: Neighbours that don't know each other: any broker goes with any store.
STRANGERS: Final = ({"transport", "results"},)

#: The only rooms that may name one system: all others get what they need from `backends.base`.
KNOWS_SYSTEMS: Final = frozenset({"backends", "testing", "worker"})


class Import(NamedTuple):
    file: str
    line: int
    importer: str
    imported: str
    in_function: bool
    link: tuple[str, str]  #: the modules, as LATE names them
    system: str  #: the system of `backends/` that is imported, if it is one
    importing_system: str
    for_types: bool

    @property
    def is_late(self) -> bool:
        is_upward = FLOOR.get(self.imported, 0) > FLOOR.get(self.importer, 0)
        return self.in_function or (self.for_types and is_upward)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.importer} imports {self.imported}"


def complaints(package: Path, late: Mapping[tuple[str, str], str]) -> list[str]:
    """All that is wrong with the imports among the modules of `package`, one line each; imports only for type
    checkers count. Those in `late` may stand in a function, or lead upward for type checkers."""
    every = [each for file in sorted(package.rglob("*.py")) for each in imports_in(file, package)]
    found = [each for each in every if not (each.is_late and each.link in late)]
    unused = late.keys() - {each.link for each in every if each.is_late}
    homeless = sorted(rooms_of(package) - FLOOR.keys())
    return [
        *(f"{room}: on no floor; say in FLOORS where it belongs" for room in homeless),
        *(f"{each}: {wrong}" for each in found for wrong in wrongs_of(each)),
        *circles(found),
        *(f"LATE: {importer} does not import {imported} late" for importer, imported in sorted(unused)),
    ]


@cache  # asked for each import
def rooms_of(package: Path) -> frozenset[str]:
    return frozenset(room_of(parts_of(file, package)) for file in package.rglob("*.py"))


def parts_of(file: Path, package: Path) -> tuple[str, ...]:
    return file.relative_to(package).with_suffix("").parts


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module: a file with a floor of its own, or the folder or file at the top."""
    return own if (own := ".".join(parts[:2])) in FLOOR else parts[0]


def system_of(parts: tuple[str, ...], package: Path) -> str:
    """`redis` for what stands in `backends/redis/`, and nothing for all else."""
    return parts[1] if parts[:1] == ("backends",) and package.joinpath(*parts[:2]).is_dir() else ""


def imports_in(file: Path, package: Path) -> Iterator[Import]:
    """The imports in `file` that lead to another room of its package, to another system, or stand in a function."""
    parts = parts_of(file, package)
    importer, own_system = room_of(parts), system_of(parts, package)
    name = str(file.relative_to(package))
    for node, in_function, for_types in import_statements(ast.parse(file.read_text(), name)):
        for target in targets(node, (package.name, *file.relative_to(package).parent.parts)):
            if target[0] == package.name:
                imported = room_named(target, package)
                system = system_of(target[1:], package)
                if imported != importer or system != own_system or in_function:
                    link = module_named(parts, package), module_named(target[1:], package)
                    yield Import(
                        name, node.lineno, importer, imported, in_function, link, system, own_system, for_types
                    )


def import_statements(
    node: ast.AST, in_function: bool = False, for_types: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, in_function, for_types
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from import_statements(child, in_function or function, for_types or types)


def module_named(parts: tuple[str, ...], package: Path) -> str:
    """The module that a dotted name leads to: the longest beginning of it that is a file."""
    for end in range(len(parts), 0, -1):
        if package.joinpath(*parts[:end]).with_suffix(".py").is_file():
            return ".".join(parts[:end])
        if package.joinpath(*parts[:end], "__init__.py").is_file():
            return ".".join(parts[:end])
    return PUBLIC


def targets(node: ast.Import | ast.ImportFrom, here: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """What an import statement in the package `here` asks for, as absolute dotted names, split."""
    if isinstance(node, ast.Import):
        yield from (tuple(alias.name.split(".")) for alias in node.names)
    else:
        above = here[: len(here) - node.level + 1] if node.level else ()
        base = (*above, *(node.module.split(".") if node.module else ()))
        yield from ((*base, alias.name) for alias in node.names)


def room_named(target: tuple[str, ...], package: Path) -> str:
    known = rooms_of(package) | FLOOR.keys()
    return next((room for room in (".".join(target[1:3]), *target[1:2]) if room in known), PUBLIC)


def wrongs_of(each: Import) -> Iterator[str]:
    if each.in_function:
        yield "inside a function; a room says what it needs as a Protocol, and is handed it (or LATE says why)"
    if each.system and each.importing_system and each.system != each.importing_system:
        yield "one system imports another"
    if each.importer == each.imported or not {each.importer, each.imported} <= FLOOR.keys():
        return
    if FLOOR[each.imported] > FLOOR[each.importer]:
        yield "upward"
    if {each.importer, each.imported} in STRANGERS:
        yield "these two never import each other"
    if each.system and each.importer not in KNOWS_SYSTEMS:
        yield f"backends/{each.system}/ is known to {', '.join(sorted(KNOWS_SYSTEMS))} only"


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

    assert complaints(PACKAGE, LATE) == []


def test_what_the_floors_allow_is_not_complained_about(tmp_path: Path) -> None:
    package = build(
        tmp_path,
        {
            "__init__.py": "from .app import AioTQ",
            "app.py": "import asyncio\nfrom . import exceptions\nfrom .tasks.task import Task",
            "cli.py": "from aiotq import AioTQ\nimport aiotq.core.settings\ndef run():\n    import typer",
            "exceptions.py": "from __future__ import annotations",
            "core/settings.py": "from ..exceptions import SettingsError",
            "tasks/options.py": "from ..exceptions import AioTQError",
            "tasks/task.py": "from ..canvas.signature import Signature",
            "canvas/signature.py": "from ..tasks.options import CallOptions",
            "transport/__init__.py": "from .broker import Broker",
            "transport/broker.py": "from ..exceptions import AioTQError\nfrom ..core import settings",
            "backends/base.py": "from ..transport.broker import Broker",
            "backends/redis/broker.py": "from redis import Redis\nfrom ..base import Backend\nfrom .resp import Wire",
            "backends/redis/resp.py": "",
        },
    )

    assert complaints(package, {}) == []


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("wire/message.py", "from ..tasks.task import Task", "wire/message.py:1: wire imports tasks: upward"),
        ("wire/message.py", "from aiotq.tasks.task import Task", "wire imports tasks: upward"),
        ("wire/message.py", "import aiotq.tasks.task", "wire imports tasks: upward"),
        ("wire/message.py", "from .. import tasks", "wire imports tasks: upward"),
        ("wire/message.py", "from .. import Task", "wire imports __init__: upward"),
        (
            "wire/message.py",
            "if TYPE_CHECKING:\n    from ..tasks.task import x",
            "wire/message.py:2: wire imports tasks: upward",
        ),
        ("tasks/options.py", "from .task import x", "tasks.options imports tasks: upward"),
        ("results/base.py", "from ..tasks.task import Task", "results/base.py:1: results imports tasks: upward"),
        ("results/base.py", "from ..transport import x", "results imports transport: these two never"),
        ("transport/broker.py", "from .. import results", "transport imports results: these two never"),
        ("tasks/task.py", "from ..backends.redis.broker import x", "tasks imports backends: backends/redis/ is known"),
        ("backends/amqp/a.py", "from ..redis.broker import x", "backends imports backends: one system imports"),
        ("tasks/task.py", "def f():\n    from ..wire.message import x", "task.py:2: tasks imports wire: inside a"),
        ("tasks/task.py", "class A:\n    async def f(self):\n        import aiotq", "inside a function"),
        ("results/base.py", "def f():\n    from . import x", "results imports results: inside a function"),
        ("helpers.py", "", "helpers: on no floor"),
        ("worker/worker.py", "from ..beat.beat import x", "rooms in a circle"),
    ],
)
def test_the_check_finds(tmp_path: Path, file: str, line: str, complaint: str) -> None:
    """A check that can't fail proves nothing: each kind of bad import is planted in a good tree."""
    good = {
        "__init__.py": "",
        "wire/message.py": "",
        "tasks/task.py": "",
        "tasks/options.py": "",
        "backends/redis/broker.py": "",
        "beat/beat.py": "from ..worker.worker import x",
        "worker/worker.py": "",
        "results/__init__.py": "",
        "transport/__init__.py": "",
    }
    assert complaints(build(tmp_path / "good", good), {}) == []

    found = complaints(build(tmp_path / "bad", {**good, file: line}), {})

    assert any(complaint in each for each in found), found


def test_late_imports_are_listed_and_the_list_has_no_others(tmp_path: Path) -> None:
    late = {
        "__init__.py": "",
        "app.py": "from .tasks.task import Task\ndef f():\n    from .worker import inline",
        "tasks/task.py": "if TYPE_CHECKING:\n    from ..app import AioTQ",
        "worker/__init__.py": "",
        "worker/inline.py": "",
    }
    package = build(tmp_path, late)
    listed = {("app", "worker.inline"): "…", ("tasks.task", "app"): "…"}

    assert complaints(package, listed) == []
    assert complaints(package, {**listed, ("app", "tasks.task"): "…"}) == ["LATE: app does not import tasks.task late"]
    assert len(complaints(package, {("app", "worker.inline"): "…"})) == 2  # upward, and in a circle


def build(where: Path, sources: Mapping[str, str]) -> Path:
    package = where / "aiotq"
    for name, source in sources.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(source)
    return package


def test_importing_aiotq_asks_for_no_brokers_library() -> None:
    assert brokers_libraries_asked_for_by("import aiotq") == []


def test_a_worker_asks_for_no_library_of_web_pages() -> None:
    assert brokers_libraries_asked_for_by("import aiotq.commands.worker, aiotq.worker.worker, aiotq.cli") == []


def test_asking_for_a_brokers_library_is_seen_even_when_it_is_not_installed() -> None:
    hidden = "try:\n    import aio_pika.abc\nexcept ImportError:\n    pass"

    assert brokers_libraries_asked_for_by(hidden)[:1] == ["aio_pika"]


def brokers_libraries_asked_for_by(statement: str) -> list[str]:
    listen = """
import sys

class Listening:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("redis", "aio_pika", "aiormq", "starlette", "jinja2", "uvicorn"):
            print(name)

sys.meta_path.insert(0, Listening())
"""
    run = subprocess.run(
        [sys.executable, "-c", listen + statement], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()
