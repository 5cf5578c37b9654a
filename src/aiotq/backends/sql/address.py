"""`db+postgresql://…`, `db+mysql://…`, `db+sqlite:///file.db`: SQLAlchemy's URLs behind `db+`, as in Celery."""

from __future__ import annotations

from typing import Final

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from ...exceptions import MissingLibrary

_SCHEME: Final = "db+"
#: The driver for a database whose URL names none, and what installs it.
_DRIVERS: Final = {
    "postgresql": ("psycopg", "pip install 'aiotq[sql,postgres]'"),
    "mysql": ("asyncmy", "pip install 'aiotq[sql,mysql]'"),
    "mariadb": ("asyncmy", "pip install 'aiotq[sql,mysql]'"),
    "sqlite": ("aiosqlite", "pip install 'aiotq[sql]'"),
}


def parse(url: str) -> URL:
    """Return what `url` says, with a driver that has coroutines.

    Raises:
        ValueError: it can't be used; the text says why.
        MissingLibrary: its driver is not installed.
    """
    try:
        found = make_url(url.removeprefix(_SCHEME))
    except (ArgumentError, ValueError) as exc:
        raise ValueError("it can't be read: db+postgresql://user:password@host/database is one") from exc
    name, _, driver = found.drivername.partition("+")
    usual, advice = _DRIVERS[name]
    found = found.set(drivername=f"{name}+{driver or usual}")
    if not found.database:
        raise ValueError("it names no database")
    if name in {"mysql", "mariadb"} and "charset" not in found.query:
        found = found.update_query_dict({"charset": "utf8mb4"})
    try:
        dialect = found.get_dialect().get_async_dialect_cls(found)
        dialect.import_dbapi()
    except NoSuchModuleError as exc:
        raise ValueError(f"SQLAlchemy has no driver {driver!r} for {name}") from exc
    except ImportError as exc:
        raise MissingLibrary(f"a db+{name}:// URL needs {exc.name}, which is not installed: {advice}") from exc
    if not dialect.is_async:
        raise ValueError(f"the driver {driver!r} has no coroutines: leave it away, which takes {usual}")
    return found


def shown(url: URL) -> str:
    """Return `url` for people."""
    name = url.get_backend_name()
    place = f"/{url.database}" if url.host is None else f"{url.host}{f':{url.port}' if url.port else ''}/{url.database}"
    return f"{_SCHEME}{name}://{place}"
