"""Results in a database, through SQLAlchemy."""

from ...exceptions import MissingLibrary

try:
    import sqlalchemy.ext.asyncio as _sqlalchemy  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as exc:
    raise MissingLibrary(
        f"a db+…:// URL needs SQLAlchemy 2 with asyncio, and it can't be loaded ({exc}): pip install 'aiotq[sql]'"
    ) from exc
