"""`cache+memcached://h1;h2`: results in memcached (see `address` for the URLs)."""

from __future__ import annotations

from collections.abc import Hashable

from ..base import Backend, BackendContext
from .address import parse
from .connection import MemcachedClient
from .records import MemcachedRecords


class MemcachedBackend(Backend):
    """Records; the broker decides for all workers and pushes."""

    has_ledger = False

    def __init__(self, url: str, context: BackendContext) -> None:
        self.records = MemcachedRecords(MemcachedClient(parse(url)), clock=context.clock)

    @classmethod
    def key(cls, url: str) -> Hashable:
        return parse(url)
