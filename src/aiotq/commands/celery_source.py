"""Reads a project that was written for Celery, and finds what must change: imports, awaits, options, settings.

Nothing is imported or run: what is read is the text. What can't be known from that (which object is a task) is taken by
its name, as a person would who reads it.
"""

from __future__ import annotations

import ast
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .. import exceptions, signals
from ..core.celery_settings import celery_setting
from ..core.settings import NAMES, unknown
from ..core.values import value
from ..tasks.options import instead_of_calling_with, instead_of_declaring

#: Directories of code that is not the project's own.
_SKIPPED: Final = frozenset({"node_modules", "site-packages", "venv", "__pycache__"})
#: What `from celery import …` names, and where it is here; None: it is here under that name.
_NAMES: Final[Mapping[str, str | None]] = {
    **dict.fromkeys(("chain", "chord", "group", "shared_task", "signature", "current_task", "Task", "Signature")),
    **dict.fromkeys(("celery.result.AsyncResult", "celery.result.GroupResult", "celery.result.ResultSet")),
    "Celery": "AioTQ",
    "celery.result.EagerResult": None,
    "celery.canvas.Signature": None,
    "celery.canvas.chain": None,
    "celery.canvas.chord": None,
    "celery.canvas.group": None,
    "celery.canvas.signature": None,
    "celery.canvas.StampingVisitor": None,
    "celery.schedules.crontab": None,
    "celery.schedules.solar": None,
}
#: What `from kombu import …` names, for settings.
_OF_KOMBU: Final[Mapping[str, str]] = {
    "Queue": "from aiotq import Queue: Queue(name, exchange, routing_key)",
    "Exchange": "from aiotq import Exchange: Exchange(name, type)",
    "binding": "from aiotq import Binding: Binding(exchange, routing_key)",
}
#: What else can be imported of Celery's: what to write instead.
_INSTEAD: Final[Mapping[str, str]] = {
    "celery.utils.log.get_task_logger": "logging.getLogger(__name__)",
    "celery.current_app": "pass the app, or import it from your own module",
    "celery.schedules": "from aiotq import crontab, interval, solar",
    "celery.beat": "app.beat() is a scheduler, app.schedules shows and changes periodic tasks",
    "celery.contrib.pytest": "the pytest plugin of aiotq.testing",
    "celery.contrib.testing": "aiotq.testing",
    "celery.result.allow_join_result": "leave it out: a task may wait for another's result",
    "celery.app.task.Task": "from aiotq import Task",
    "celery.local": "leave it out",
}
#: Methods that send, and are awaited here.
_SENDING: Final = frozenset({"delay", "apply_async", "send_task"})
#: What a handle tells: methods and attributes of Celery's, all of which are awaited methods here; under `.sync` what is
#: an attribute in Celery is one.
_OF_RESULTS: Final[Mapping[str, str]] = {
    **{name: f"{name}()" for name in ("ready", "successful", "failed", "forget", "revoke", "collect")},
    **{name: f"{name}()" for name in ("state", "info", "traceback", "children", "date_done")},
    **{name: f"look()).{name}" for name in ("name", "args", "kwargs")},
    "get": "get(...)",
    "wait": "get(...)",
    "status": "state()",
    "result": "info()",
}
_ATTRIBUTES: Final = frozenset(
    {"state", "status", "result", "info", "traceback", "children", "date_done", "name", "args", "kwargs"}
)
#: Those of them that are called otherwise here, also where no loop runs.
_RENAMED: Final = frozenset({"status", "result"})
#: What an app of Celery's has and ours has not: what to write instead.
_OF_APPS: Final[Mapping[str, str]] = {
    "control": "await app.control.inspect(...) asks workers, await app.admin.revoke(...) and the like act; "
    "without a loop app.sync(app.admin.revoke, id)",
    "events": "async for event in app.events.capture(): ..., and app.events.State for what they come to",
    "worker_main": "aiotq worker proj:app, or async with app.worker(): ...",
    "start": "aiotq worker proj:app, or async with app.worker(): ...",
    "connection_or_acquire": "leave it out: the app keeps its connections itself",
    "Beat": "aiotq beat proj:app, or async with app.beat(): ...",
}
#: What apps are mostly called where they are imported.
_USUAL_APPS: Final = frozenset({"app", "celery_app", "current_app"})
_CANVASES: Final = frozenset({"chain", "group", "chord"})
#: Arguments of `Celery(...)` that `AioTQ(...)` takes, or that are settings there.
_OF_THE_APP: Final = frozenset({"main", "broker", "backend", "include", "task_cls", *NAMES})


@value
class Finding:
    """One place that must change: what stands there, and what is to."""

    file: str
    line: int
    found: str
    instead: str


def findings_in_project(path: Path) -> Iterator[Finding]:
    """Yield what must change in a file, or in all .py files under a directory, in their order.

    Raises:
        OSError: `path` can't be read.
    """
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*.py") if not _is_skipped(each, path))
    texts = {file: file.read_text(encoding="utf-8", errors="replace") for file in files}
    configured = {name for text in texts.values() for name in _configured_modules(text)}
    for file, text in texts.items():
        is_config = file.stem.startswith("celeryconfig") or any(_is_module(file, name) for name in configured)
        yield from findings_in(text, str(file), is_config=is_config)


def findings_in(source: str, file: str, *, is_config: bool = False) -> Sequence[Finding]:
    """Return what must change in one module; `is_config`: its names are settings."""
    try:
        tree = ast.parse(source, file)
    except SyntaxError as exc:
        return [Finding(file, exc.lineno or 1, "a syntax error", f"it can't be read: {exc.msg}")]
    reader = _Reader(file, is_config=is_config)
    reader.visit(tree)
    return sorted(reader.findings, key=lambda each: each.line)


def _is_skipped(file: Path, root: Path) -> bool:
    parts = file.relative_to(root).parts
    return any(part in _SKIPPED or part.startswith(".") for part in parts)


def _is_module(file: Path, name: str) -> bool:
    return file.with_suffix("").parts[-len(name.split(".")) :] == tuple(name.split("."))


def _configured_modules(text: str) -> Iterator[str]:
    """Yield the modules that `config_from_object("…")` names, without a namespace."""
    if "config_from_object" not in text:
        return
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if _last(func) == "config_from_object":
                if not _keyword(node, "namespace"):
                    yield name.partition(":")[0]
            case _:
                pass


def _last(node: ast.AST) -> str:
    """Return the last part of a dotted name, of a call the name of what is called."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=func):
            return _last(func)
        case _:
            return ""


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((each.value for each in call.keywords if each.arg == name), None)


class _Reader(ast.NodeVisitor):
    """Walks a module from top to bottom, and notes what must change."""

    def __init__(self, file: str, *, is_config: bool) -> None:
        self.findings: list[Finding] = []
        self._file = file
        self._is_config = is_config
        self._is_async: list[bool] = []  # of each function around
        self._awaited: set[ast.AST] = set()
        self._raised: set[ast.AST] = set()
        self._apps: set[str] = set()  # names of apps
        self._results: list[dict[str, str]] = [{}]  # names of handles and whence they are, of each function around
        self._imported: dict[str, str] = {}  # what a name is in Celery

    def _note(self, node: ast.AST, found: str, instead: str) -> None:
        self.findings.append(Finding(self._file, getattr(node, "lineno", 1), found, instead))

    # Imports.

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.partition(".")[0] == "celery":
                self._imported[alias.asname or alias.name.partition(".")[0]] = alias.name
                self._note(node, f"import {alias.name}", "import aiotq, or what you need from it")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level == 0 and module == "kombu":
            for alias in node.names:
                if alias.name in _OF_KOMBU:
                    self._note(node, f"from kombu import {alias.name}", _OF_KOMBU[alias.name])
        if node.level or module.partition(".")[0] != "celery":
            return
        for alias in node.names:
            full = f"{module}.{alias.name}"
            self._imported[alias.asname or alias.name] = full
            self._note(node, f"from {module} import {alias.name}", _import_instead(module, alias.name))

    # Functions, and what they are to be.

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node, is_async=False)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node, is_async=True)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._is_async.append(False)
        self.generic_visit(node)
        self._is_async.pop()

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, *, is_async: bool) -> None:
        for decorator in node.decorator_list:
            if _last(decorator) in ("task", "shared_task"):
                self._task(node, decorator, is_async=is_async)
        self._is_async.append(is_async)
        self._results.append({})
        self.generic_visit(node)
        self._results.pop()
        self._is_async.pop()

    def _task(self, node: ast.FunctionDef | ast.AsyncFunctionDef, decorator: ast.expr, *, is_async: bool) -> None:
        given = {each.arg: each for each in decorator.keywords if each.arg} if isinstance(decorator, ast.Call) else {}
        for option, keyword in given.items():
            if (instead := instead_of_declaring(option)) is not None:
                self._note(keyword.value, f"task option {option}", instead)
        if "time_limit" in given and not is_async and "run" not in given:
            self._note(
                given["time_limit"].value,
                "time_limit of a plain function",
                'make it async def, or say run="process": a thread can\'t be stopped, and soft_time_limit '
                "waits there until a blocking call returns",
            )

    # Calls.

    def visit_Await(self, node: ast.Await) -> None:
        self._awaited.add(node.value)
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        if node.exc is not None:
            self._raised.add(node.exc)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        func = node.func
        name = _last(func)
        if self._is_celerys(func, "Celery"):
            self._app(node)
        elif isinstance(func, ast.Call) and _last(func.func) in _CANVASES and node not in self._awaited:
            kind = _last(func.func)
            whole = "chord(header, body)" if kind == "chord" and node.args else f"{kind}(...)"
            self._note(node, f"{kind}(...)(...)", self._waited(whole, "delay()"))
        elif isinstance(func, ast.Attribute):
            self._method(node, func, name)
        self.generic_visit(node)

    def _method(self, node: ast.Call, func: ast.Attribute, name: str) -> None:
        owner = func.value
        if name in _SENDING and _last(owner) != "sync" and node not in self._awaited:
            self._note(node, f"{ast.unparse(func)}(...)", self._waited(ast.unparse(owner), f"{name}(...)"))
        if name == "apply_async":
            for keyword in node.keywords:
                known = keyword.arg in {None, "args", "kwargs"}
                if not known and (instead := instead_of_calling_with(str(keyword.arg))) is not None:
                    self._note(keyword.value, f"calling option {keyword.arg}", instead)
        if name in _OF_RESULTS and node not in self._awaited:
            self._told(node, f"{ast.unparse(func)}(...)", owner, name)
        if name == "retry" and _last(owner) == "self" and node not in self._raised:
            self._note(node, "self.retry(...)", "raise self.retry(...)")
        if name == "update_state" and node not in self._awaited and _last(owner) != "sync":
            self._note(node, f"{ast.unparse(func)}(...)", self._waited(ast.unparse(owner), "update_state(...)"))
        if name == "update" and _last(owner) == "conf":
            self._settings_of_call(node)

    @property
    def _can_await(self) -> bool:
        return bool(self._is_async) and self._is_async[-1]

    def _waited(self, owner: str, method: str) -> str:
        """Return how a call of `owner.method` is written where we are."""
        if self._can_await:
            return f"await {owner}.{method}"
        if method.startswith("send_task"):
            return f"{owner}.sync({owner}.send_task, ...).sync, or in an async def: await {owner}.{method}"
        return f"{owner}.sync.{method}, or in an async def: await {owner}.{method}"

    def _told(self, node: ast.AST, found: str, owner: ast.expr, name: str) -> None:
        """Note what a handle is asked. One that a call under `.sync` gave tells what Celery's does but `_RENAMED`."""
        origin = self._origin(owner)
        if not origin or (origin == "sent" and not self._can_await and name not in _RENAMED):
            return
        here, method = ast.unparse(owner), _OF_RESULTS[name]
        if method.startswith("look()"):
            looked = f"(await {here}.{method}"
            self._note(node, found, looked if self._can_await else f"{here}.sync.{name}, or in an async def: {looked}")
        elif self._can_await or name not in _ATTRIBUTES:
            self._note(node, found, self._waited(here, method))
        elif origin == "sent":
            attribute = method.removesuffix("()")
            self._note(node, found, f"{here}.{attribute}, or in an async def: await {here}.{method}")
        else:
            attribute = method.removesuffix("()")
            self._note(node, found, f"{here}.sync.{attribute}, or in an async def: await {here}.{method}")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = node.value
        is_app = isinstance(owner, ast.Name) and (owner.id in self._apps or owner.id in _USUAL_APPS)
        if is_app and node.attr in _OF_APPS:
            self._note(node, ast.unparse(node), _OF_APPS[node.attr])
        if node.attr in _ATTRIBUTES and isinstance(node.ctx, ast.Load):
            self._told(node, ast.unparse(node), owner, node.attr)
        self.generic_visit(node)

    def _is_celerys(self, node: ast.AST, name: str) -> bool:
        if isinstance(node, ast.Name):
            return self._imported.get(node.id) in (f"celery.{name}", f"celery.app.{name}")
        return isinstance(node, ast.Attribute) and node.attr == name and _last(node.value) == "celery"

    def _origin(self, node: ast.expr) -> str:
        """Return whence a handle is, or a name that has it: "sent" by a call, made of an "id"; "" if it is none."""
        match node:
            case ast.Await(value=inner):
                return self._origin(inner)
            case ast.Call(func=ast.Attribute(value=owner, attr=name)) if _last(owner) != "sync":
                return "sent" if name in _SENDING else "id" if name == "AsyncResult" else ""
            case ast.Call(func=ast.Name(id=name)):
                return "id" if self._imported.get(name) == "celery.result.AsyncResult" else ""
            case ast.Name(id=name):
                return next((names[name] for names in reversed(self._results) if name in names), "")
            case _:
                return ""

    # Settings.

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._assigned(target, node.value)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._assigned(node.target, node.value)
        self.generic_visit(node)

    def _assigned(self, target: ast.expr, given: ast.expr) -> None:
        match target:
            case ast.Name(id=name):
                if isinstance(given, ast.Call) and self._is_celerys(given.func, "Celery"):
                    self._apps.add(name)
                if origin := self._origin(given):
                    self._results[-1][name] = origin
                if not self._is_async and name.startswith("CELERY_"):
                    self._setting(target, name.removeprefix("CELERY_").lower(), given, found=name)
                elif not self._is_async and self._is_config and not name.startswith("_"):
                    self._setting(target, name.lower(), given, found=name)
            case ast.Attribute(value=owner, attr=name) if _last(owner) == "conf":
                self._setting(target, name, given, found=f"conf.{name}")
            case ast.Subscript(value=owner, slice=ast.Constant(value=str(name))) if _last(owner) == "conf":
                self._setting(target, name.lower(), given, found=f"conf[{name!r}]")
            case _:
                pass

    def _settings_of_call(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            if keyword.arg:
                self._setting(keyword.value, keyword.arg, keyword.value, found=keyword.arg)
        for argument in node.args:
            if isinstance(argument, ast.Dict):
                for key, given in zip(argument.keys, argument.values, strict=True):
                    if isinstance(key, ast.Constant) and isinstance(key.value, str):
                        self._setting(key, key.value.lower(), given, found=key.value)

    def _setting(self, node: ast.AST, name: str, given: ast.expr, *, found: str) -> None:
        if (instead := _setting_instead(name, given)) is not None:
            self._note(node, f"setting {found}", instead)

    def _app(self, node: ast.Call) -> None:
        self._note(node, "Celery(...)", "AioTQ(...)")
        for keyword in node.keywords:
            if keyword.arg and keyword.arg not in _OF_THE_APP:
                instead = _setting_instead(keyword.arg, keyword.value)
                self._note(keyword.value, f"Celery(..., {keyword.arg}=...)", instead or "leave it out")


def _import_instead(module: str, name: str) -> str:
    full = f"{module}.{name}"
    short = name if module == "celery" else full
    if short in _NAMES:
        return f"from aiotq import {_NAMES[short] or name}"
    if module == "celery.signals":
        return f"from aiotq.signals import {name}" if hasattr(signals, name) else "no signal here is told of this"
    if module == "celery.exceptions" and hasattr(exceptions, name):
        return f"from aiotq.exceptions import {name}"
    if module == "celery" and name in ("signals", "states"):
        return f"from aiotq import {name}"
    if module == "celery.states":
        return f"from aiotq.states import {name}"
    for known, instead in _INSTEAD.items():
        if full == known or full.startswith(f"{known}."):
            return instead
    return "nothing here is called so: see docs/guides/from-celery.md"


def _setting_instead(name: str, given: ast.expr) -> str | None:
    """Return what is to be done about a setting; None: nothing, as it is taken and does what it should."""
    if name in NAMES:
        return None
    theirs = celery_setting(name)
    if theirs is None:
        return str(unknown(name))
    if theirs.fate == "renamed":
        return f"{theirs.text} (the old name is taken, with a warning)"
    try:
        literal: Any = ast.literal_eval(given)
    except ValueError:
        literal = given
    if any(literal == each and type(literal) is type(each) for each in theirs.values):
        return None
    if theirs.fate == "needless":
        return f"leave it out: {theirs.text}"
    return theirs.text
