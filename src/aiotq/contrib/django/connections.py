"""Database connections around tasks: what Django does at the start and at the end of a request.

A connection belongs to a thread. A task in a thread (or child process) uses that of its thread, which is kept as
`CONN_MAX_AGE` says. A coroutine reaches the ORM in a thread of its own, as a request does under ASGI: two of them never
share a connection, and none waits for another one's query. That thread ends with the task, and its connections before.

Source: Django, "Databases" (Persistent connections), "Asynchronous support" (Async-safety).
"""

# pyright: basic
from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import close_old_connections, connections, reset_queries

from ...core import surroundings

T = TypeVar("T")

#: By alias: the connections that tasks use in place of their own, while a test says so.
_lent: Final[dict[str, Any]] = {}


class RequestLike:
    """Surrounds each task with what surrounds a request."""

    def call(self, function: Callable[[], T]) -> T:
        """Call `function`, a task's, in this thread."""
        with _borrowed() if _lent else _kept():
            return function()

    async def awaited(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await `coro`, a task's."""
        async with ThreadSensitiveContext() as own:
            if _lent:
                await sync_to_async(_borrow)()
            try:
                return await coro
            finally:
                if own in SyncToAsync.context_to_thread_executor:  # it used a thread, which ends now
                    await sync_to_async(_return if _lent else connections.close_all)()


def install() -> None:
    """Have the tasks of this process surrounded so."""
    if not isinstance(surroundings.installed(), RequestLike):
        surroundings.install(RequestLike())


@contextmanager
def lent(own: Mapping[str, Any]) -> Generator[None, None, None]:
    """Have tasks use these connections of another thread, which waits meanwhile; for tests."""
    for connection in own.values():
        connection.inc_thread_sharing()
    _lent.update(own)
    try:
        yield
    finally:
        _lent.clear()
        for connection in own.values():
            connection.dec_thread_sharing()


class _Open:
    """The connections of a thread. When the thread ends, its last reference goes, and they are closed."""

    connections: Sequence[Any] = ()

    def __del__(self) -> None:
        for connection in self.connections:
            with suppress(Exception):  # the interpreter may be ending
                connection.close()


_of_thread: Final = threading.local()


@contextmanager
def _kept() -> Generator[None, None, None]:
    reset_queries()
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()
        if not hasattr(_of_thread, "open"):
            _of_thread.open = _Open()
        _of_thread.open.connections = connections.all(initialized_only=True)


@contextmanager
def _borrowed() -> Generator[None, None, None]:
    _borrow()
    try:
        yield
    finally:
        _return()


def _borrow() -> None:
    for alias, connection in _lent.items():
        connections[alias] = connection


def _return() -> None:
    """Forget the borrowed connections, unless this is the thread that lent them."""
    for connection in connections.all(initialized_only=True):
        is_lent = any(each is connection for each in _lent.values())
        if is_lent and connection._thread_ident != threading.get_ident():
            del connections[connection.alias]
