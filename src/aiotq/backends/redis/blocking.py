"""Scripts run by the thread that asks for them, on a connection beside the loop's: so leases are renewed whatever
the loop does (P2)."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ...exceptions import ConnectionLost, OperationalError
from .address import Address, redis_py
from .script import Script, pack


class BlockingClient:
    """One connection of redis-py's plain client, made when it is first needed; one thread at a time."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._client: Any = None

    def run(self, script: Script, arguments: Sequence[Any]) -> Any:
        """Run `script` and return its reply; within the connect timeout for each server that is asked.

        Raises:
            ConnectionLost: no answer; it may have been done.
            OperationalError: Redis refused.
        """
        packed = pack(arguments)
        address = self._address
        redis = redis_py("redis")
        if not self._lock.acquire(timeout=address.connect_timeout):
            raise ConnectionLost(f"{address.shown}: another thread waits for its answer")
        try:
            if self._client is None:
                arguments_ = address.blocking_arguments(address.find())
                self._client = redis.Redis(single_connection_client=True, **arguments_)
            return self._client.execute_command("EVAL", script.text, 1, address.base, packed)
        except redis.RedisError as exc:
            self._drop()
            if isinstance(exc, redis.ResponseError) and not isinstance(exc, redis.ConnectionError):
                raise OperationalError(f"{address.shown}: {exc}") from exc
            raise ConnectionLost(f"{address.shown}: {exc}") from exc
        except BaseException:
            self._drop()
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        with self._lock:
            self._drop()

    def release(self) -> None:
        """Close the connection unless somebody uses it now; it is made again when it is needed."""
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()

    def _drop(self) -> None:
        """Close the connection: after an error it may be that of a server which is no longer the master."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
