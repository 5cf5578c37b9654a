"""`aiotq report`: what a bug report needs, in one page that can be published."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from .. import __version__
from ..app import AioTQ
from ..backends.base import shown_place
from ..control.shown_settings import setting_rows
from ..core.inside import core_of
from ..core.settings import APP_VARIABLE
from ..exceptions import AioTQError
from . import output
from .app_option import Target
from .command import command
from .words import Json

#: What aiotq needs, then what it uses if it is there.
_LIBRARIES: Final = (
    *("anyio", "msgpack", "orjson", "rich", "typer"),
    *(
        "redis",
        "hiredis",
        "aio-pika",
        "aiormq",
        "pamqp",
        "uvloop",
        "cryptography",
        "PyYAML",
        "brotli",
        "zstandard",
        "pydantic",
    ),
    *("watchfiles", "fastapi", "starlette", "uvicorn", "pytest", "pytest-asyncio"),
)


@command()
def report(target: Target, as_json: Json = False) -> None:
    """Print what a bug report needs: versions, and the app's settings if one is named; without passwords."""
    versions = {
        "aiotq": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()} ({platform.python_compiler()})",
        "platform": f"{platform.platform()}, {os.cpu_count()} cores",
        "encoding": f"{sys.getfilesystemencoding()}, output {sys.stdout.encoding}",
        "sqlite": sqlite3.sqlite_version,
        **{name: found for name in _LIBRARIES if (found := _version(name)) is not None},
    }
    about = _about_app(target) if target.app is not None or os.environ.get(APP_VARIABLE) else None
    if as_json:
        output.as_json(versions if about is None else {**versions, "app": about})
        return
    output.fields(list(versions.items()))
    if about is not None:
        print()
        _print_app(about)


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _about_app(target: Target) -> Mapping[str, Any]:
    """Return what there is to say of the app; of one that can't be loaded, why."""
    try:
        app = target.load()
    except AioTQError as exc:  # that is what the report is about, perhaps
        return {"app": target.spec, "error": str(exc)}
    backend = app.conf.result_backend
    return {
        "app": f"{app.main} ({target.spec})",
        "broker": shown_place(app.conf.broker_url),
        "results": "with the broker" if backend is None else shown_place(backend),
        "tasks": _kinds(app),
        "changed": {row.name: row.shown for row in setting_rows(app.conf) if row.is_changed},
    }


def _print_app(about: Mapping[str, Any]) -> None:
    if "error" in about:
        print(f"app {about['app']!r}:\n{output.printable(about['error'])}")
        return
    output.fields([(name, about[name]) for name in ("app", "broker", "results", "tasks")])
    if about["changed"]:
        print("\nsettings that were changed:")
        output.fields([(f"  {name}", shown) for name, shown in about["changed"].items()])
    else:
        print("\nno setting was changed")


def _kinds(app: AioTQ) -> str:
    kinds = [output.KINDS[task.runs_in] for task in core_of(app).registry.own_tasks.values()]
    parts = [f"{kinds.count(kind)} {kind}" for kind in output.KINDS.values() if kind in kinds]
    return f"{len(kinds)} ({', '.join(parts)})" if parts else "none"
