"""What is asked of memcached, over connections that emcache keeps; its errors in our words."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Self, TypeVar

from emcache import Client, CommandError, Item, MemcachedHostAddress, NotFoundCommandError, create_client
from emcache.client_errors import NotStoredStorageCommandError

from ...exceptions import ConnectionLost, NotConnected, OperationalError, Refused
from .address import Address

T = TypeVar("T")

#: Ids in one request.
_MOST: Final = 100
_SAID: Final = re.compile(r"bytearray\(b['\"](.*)['\"]\)$")
#: Seconds that a client lasts at least: emcache waits ever longer for a server that is away, up to a minute.
_SHORTEST: Final = 5.0


class MemcachedClient:
    """Connections to one memcached, or to several among which emcache spreads the keys."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._nodes = [MemcachedHostAddress(host, port) for host, port in address.hosts]
        self._client: Client | None = None
        self._made = 0.0

    async def __aenter__(self) -> Self:
        await self._connect()
        try:
            for node in self._nodes:
                await self._version(node)
        except OperationalError as exc:
            await self.__aexit__()
            raise NotConnected(f"{exc} (is it up?)") from exc
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def read(self, keys: Sequence[bytes]) -> Mapping[bytes, tuple[bytes, int]]:
        """Return the value at each key where there is one, and the number that its last write got."""
        found: dict[bytes, Item] = {}
        for start in range(0, len(keys), _MOST):
            found |= await self._read(keys[start : start + _MOST])
        return {key: (item.value, item.cas or 0) for key, item in found.items()}

    async def add(self, key: bytes, value: bytes, *, expires: int) -> bool:
        """Write `value` if there is none; return whether it was so."""
        return await self._done(lambda client: client.add(key, value, exptime=expires))

    async def replace(self, key: bytes, value: bytes, number: int, *, expires: int) -> bool:
        """Write `value` over the one with this number; return whether that stood there still."""
        return await self._done(lambda client: client.cas(key, value, number, exptime=expires))

    async def delete(self, key: bytes) -> bool:
        """Delete the value at `key`; return whether there was one."""
        return await self._done(lambda client: client.delete(key))

    async def _read(self, keys: Sequence[bytes]) -> dict[bytes, Item]:
        return await self._ask(lambda client: client.gets_many(keys))

    async def _version(self, node: MemcachedHostAddress) -> None:
        await self._ask(lambda client: client.version(node))

    async def _done(self, request: Callable[[Client], Awaitable[None]]) -> bool:
        try:
            await self._ask(request)
        except _NotDone:
            return False
        return True

    async def _ask(self, request: Callable[[Client], Awaitable[T]]) -> T:
        client = self._client
        if client is None:
            raise OperationalError(f"{self.address.shown}: the store is not open")
        try:
            return await request(client)
        except (NotStoredStorageCommandError, NotFoundCommandError) as exc:
            raise _NotDone from exc
        except CommandError as exc:
            raise self._refusal(_said_by(exc)) from exc
        except (OSError, RuntimeError) as exc:  # a TimeoutError is one; RuntimeError: it was replaced meanwhile
            if client is self._client and time.monotonic() - self._made > _SHORTEST:
                await self._connect()
                await client.close()
            why = f"no answer within {self.address.timeout:g} s" if isinstance(exc, TimeoutError) else str(exc)
            raise ConnectionLost(f"{self.address.shown}: {why}") from exc

    async def _connect(self) -> None:
        seconds = self.address.timeout
        self._made = time.monotonic()
        self._client = await create_client(
            self._nodes, timeout=seconds, connection_timeout=seconds, max_connections=self.address.connections
        )

    def _refusal(self, said: str) -> OperationalError:
        text = f"{self.address.shown}: {said}"
        if "NOT_FOUND" in said:  # what was to be replaced is gone
            return _NotDone(text)
        if "too large" in said:
            return Refused(f"{text} (start memcached with a larger -I, or keep large results elsewhere)", "too_large")
        return OperationalError(text)


def _said_by(exc: CommandError) -> str:
    """Return the server's own words, which emcache shows as bytes in words of its own."""
    text = str(exc)
    found = _SAID.search(text)
    return found[1] if found is not None else text


class _NotDone(OperationalError):
    """What was to be there is not, or the other way round."""
