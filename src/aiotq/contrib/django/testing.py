"""Tasks in Django's tests: the real worker, in memory, on the database connections of the test.

A `TestCase` rolls back what its test wrote. Tasks see that, since they use the same connections.

Source: Django, "Testing tools" (TestCase, captureOnCommitCallbacks, LiveServerTestCase).
"""

# pyright: basic
from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Self

from asgiref.sync import sync_to_async
from django.db import connections

from ... import testing
from ...app import AioTQ
from .connections import install, lent


class TestWorker(testing.TestWorker):
    """`aiotq.testing.TestWorker` for `async def` tests of Django's `TestCase` and `TransactionTestCase`.

    Tasks use the connections of the test, one after the other (`worker_concurrency=1`). Those in processes can't.
    """

    __test__ = False

    def __init__(self, app: AioTQ, **choices: Any) -> None:
        super().__init__(app, **{"worker_concurrency": 1, **choices})
        self._lending = ExitStack()

    async def __aenter__(self) -> Self:
        self._lending.enter_context(lent(await sync_to_async(_connections_here)()))
        try:
            return await super().__aenter__()
        except BaseException:
            self._lending.close()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await super().__aexit__(*exc_info)
        finally:
            self._lending.close()


class SyncTestWorker(testing.SyncTestWorker):
    """`aiotq.testing.SyncTestWorker` for tests of Django's `TestCase` and `TransactionTestCase`; as `TestWorker`."""

    __test__ = False

    def __init__(self, app: AioTQ, **choices: Any) -> None:
        super().__init__(app, **{"worker_concurrency": 1, **choices})
        self._lending = ExitStack()

    def __enter__(self) -> Self:
        self._lending.enter_context(lent(_connections_here()))
        try:
            return super().__enter__()
        except BaseException:
            self._lending.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        try:
            super().__exit__(*exc_info)
        finally:
            self._lending.close()


def _connections_here() -> dict[str, Any]:
    """Return the connections of this thread, by alias."""
    install()
    return {connection.alias: connection for connection in connections.all()}
