"""`aiotq report`: what a bug report needs, in one page that can be published."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import typer

from .. import __version__
from ..app import AioTQ
from ..core.settings import APP_VARIABLE
from ..exceptions import AioTQError
from . import output
from .app_option import Target
from .options import App, Broker, Debug, First, target_of

#: What aiotq needs, then what it uses if it is there.
_LIBRARIES: Final = (
    *("anyio", "msgpack", "orjson", "rich", "typer"),
    *("redis", "hiredis", "pamqp", "uvloop", "cryptography", "PyYAML", "brotli", "zstandard", "pydantic"),
    *("watchfiles", "fastapi", "starlette", "uvicorn", "pytest", "pytest-asyncio"),
)


def report(
    context: typer.Context, first: First = None, app: App = None, broker: Broker = None, debug: Debug = False
) -> None:
    """Print what a bug report needs: versions, and the app's settings if one is named; without passwords."""
    target = target_of(context, app, broker, debug)
    target.split([first])
    pairs = [
        ("aiotq", __version__),
        ("python", f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})"),
        ("platform", f"{platform.platform()}, {os.cpu_count()} cores"),
        ("encoding", f"{sys.getfilesystemencoding()}, output {sys.stdout.encoding}"),
        ("sqlite", sqlite3.sqlite_version),
        *((name, found) for name in _LIBRARIES if (found := _version(name)) is not None),
    ]
    output.fields(pairs)
    if target.app is not None or os.environ.get(APP_VARIABLE):
        _about_app(target)


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _about_app(target: Target) -> None:
    print()
    try:
        app = target.load()
    except AioTQError as exc:  # that is what the report is about, perhaps
        print(f"app {target.spec!r}:\n{output.printable(str(exc))}")
        return
    output.fields([("app", f"{app.main} ({target.spec})"), ("tasks", _kinds(app))])
    changed = [(name, shown) for star, name, shown, _ in output.setting_rows(app.conf) if star]
    if changed:
        print("\nsettings that were changed:")
        output.fields([(f"  {name}", shown) for name, shown in changed])
    else:
        print("\nno setting was changed")


def _kinds(app: AioTQ) -> str:
    kinds = [output.KINDS[task.runs_in] for task in app.own_tasks.values()]
    parts = [f"{kinds.count(kind)} {kind}" for kind in output.KINDS.values() if kind in kinds]
    return f"{len(kinds)} ({', '.join(parts)})" if parts else "none"
