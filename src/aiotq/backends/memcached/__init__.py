"""memcached as a store of results."""

from ...exceptions import MissingLibrary

try:
    import emcache as _emcache  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ImportError as exc:
    raise MissingLibrary(
        f"a cache+memcached:// URL needs emcache, and it can't be loaded ({exc}): pip install 'aiotq[memcached]'"
    ) from exc
