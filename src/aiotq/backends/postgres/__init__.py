"""One PostgreSQL database: broker, records, ledger, bus and atomic commit."""

from ...exceptions import MissingLibrary

try:
    import psycopg as _psycopg  # pyright: ignore[reportUnusedImport]  # noqa: F401
except ImportError as exc:
    raise MissingLibrary(
        f"a postgresql:// URL needs psycopg 3, and it can't be loaded ({exc}): pip install 'aiotq[postgres]'"
    ) from exc
