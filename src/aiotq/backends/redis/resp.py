"""One connection to a server, shared by all who ask: requests go out as they come, replies are matched by their order.

Own code, where redis-py would do: an awaited command costs redis-py's asyncio client 130 to 150 us of CPU, and its
connections belong to one command at a time. Here whoever is cancelled leaves a reply that finds nobody waiting, and
the connection goes on; there is no such thing as an interrupted connection that is used again. Source: "Redis
serialization protocol specification", version 2; hiredis reads it.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

from ...exceptions import ConnectionLost, NotConnected, OperationalError, Refused
from .address import KEEPALIVE, Address, Endpoint, redis_py

#: What a push connection is told: [b"message", channel, payload] and the like, and [CLOSED] at its end.
OnPush = Callable[[list[Any]], None]
CLOSED: Final = b"closed"

Command = tuple[bytes | str | int | float, ...]

#: Error codes of a server that can't serve now, and whose connection is of no more use: another one is the master by
#: now, or it has lost its own.
_ELSEWHERE: Final = frozenset({"READONLY", "MOVED", "MASTERDOWN", "UNBLOCKED", "CLUSTERDOWN"})
#: Error codes of a server that can serve soon. While our slot is on its way to another node (ASK, TRYAGAIN) neither has
#: all of our keys, and no script may run on either.
_SOON: Final = frozenset({"LOADING", "BUSY", "ASK", "TRYAGAIN", "NOREPLICAS"})
_MEANINGS: Final = {
    "OOM": "Redis has reached its maxmemory, and nothing was written: free memory or raise the limit",
    "NOAUTH": "Redis wants a password, and the URL has none (redis://user:password@host)",
    "WRONGPASS": "Redis refused the user name or password of the URL",
    "NOPERM": "the user of the URL is not allowed to do this; ACL LOG on the server says what",
    "WRONGTYPE": "a key of ours holds something else",
    "MISCONF": "Redis can't write its snapshot and accepts no writes (stop-writes-on-bgsave-error)",
}
#: Servers before 7.0 put what went wrong inside a script, and its code if it has one, into the middle of the text.
_SCRIPT_ENDED: Final = r"ERR Error running script .*?@user_script: ?\d+: "
_INSIDE_A_SCRIPT: Final = re.compile(_SCRIPT_ENDED + r"-?([A-Z]+) ")
#: A script's command that the user may not use has no code: in the words of 6.2, of 7.0, and of 8.0.
_FORBIDDEN_TO_A_SCRIPT: Final = re.compile(
    rf"(?:{_SCRIPT_ENDED}@user_script: ?\d+: |ERR )(?:The user executing the script|ACL failure in script)"
)


class ScriptMissing(Exception):
    """The server does not have the script with this hash (NOSCRIPT)."""


class Wire(asyncio.Protocol):
    """A connection once it is made; `closed` is set when it is no more, and `reason` says why."""

    def __init__(self, name: str, reply_timeout: float, on_push: OnPush | None = None) -> None:
        hiredis = redis_py("hiredis")
        self._name = name
        self._reply_timeout = reply_timeout
        self._on_push = on_push
        self._reader: Any = hiredis.Reader()
        self._pack: Callable[[Command], bytes] = hiredis.pack_command
        self._error: type[Exception] = hiredis.ReplyError
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.closed = asyncio.Event()
        self.reason = ""
        self.refusal: Exception | None = None  #: why the server closed it, or would not have what was told
        self.heard_at = self._loop.time()

    @classmethod
    async def open(cls, address: Address, endpoint: Endpoint, on_push: OnPush | None = None) -> Wire:
        """Connect to `endpoint`, prove who we are and choose the database.

        Raises:
            NotConnected: it can't be reached.
            OperationalError: it refused us.
        """
        loop = asyncio.get_running_loop()
        context = address.ssl_context()
        name = address.shown if address.kind in {"single", "socket"} else f"{address.shown} ({endpoint})"
        wire = cls(name, address.reply_timeout, on_push)
        try:
            async with asyncio.timeout(address.connect_timeout):
                if endpoint.path is not None:
                    await loop.create_unix_connection(lambda: wire, endpoint.path)
                else:
                    await loop.create_connection(lambda: wire, endpoint.host, endpoint.port, ssl=context)
                await wire._introduce(address)
        except TimeoutError as exc:
            wire.abort("it did not answer")
            raise NotConnected(f"{wire._name} did not answer within {address.connect_timeout:g} s") from exc
        except OSError as exc:
            wire.abort("it can't be reached")
            raise NotConnected(f"{wire._name} can't be reached: {exc}") from exc
        except NotConnected:
            wire.abort("it can't serve")
            raise
        except ConnectionLost as exc:
            wants = address.tls is not None and "ssl_certfile" not in address.tls
            hint = "; it may want a certificate of its clients (ssl_certfile, ssl_keyfile)" if wants else ""
            raise NotConnected(f"{wire._name} closed the connection at once{hint}: {wire.reason or exc}") from exc
        except BaseException:
            wire.abort("the greeting failed")
            raise
        return wire

    async def _introduce(self, address: Address) -> None:
        commands: list[Command] = []
        if address.password is not None:
            user = () if address.username is None else (address.username,)
            commands.append(("AUTH", *user, address.password))
        if address.db:
            commands.append(("SELECT", address.db))
        commands.append(("PING",))  # a server that won't have us says so now
        *greeting, pong = await asyncio.gather(*map(self.ask, commands), return_exceptions=True)
        if isinstance(pong, NotConnected) and self.is_open:
            pong = None  # it serves soon
        for reply in (*greeting, pong):
            if isinstance(reply, BaseException):
                raise reply

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self.closed.is_set()

    @property
    def silence(self) -> float:
        """Seconds since something came."""
        return self._loop.time() - self.heard_at

    def ask(self, command: Command) -> asyncio.Future[Any]:
        """Send `command` and return its reply to be; nothing is sent for a future that is done already.

        Its errors: ConnectionLost (no reply came), NotConnected (certainly not done), ScriptMissing, OperationalError.
        """
        reply: asyncio.Future[Any] = self._loop.create_future()
        if self._transport is None or self.closed.is_set():
            reply.set_exception(NotConnected(f"{self._name}: the connection was closed ({self.reason})"))
            return reply
        self._waiting.append((reply, self._loop.time()))
        self._transport.write(self._pack(command))
        return reply

    def tell(self, command: Command) -> None:
        """Send what is answered by pushes only (SUBSCRIBE)."""
        if self._transport is not None and not self.closed.is_set():
            self._transport.write(self._pack(command))

    def check(self) -> None:
        """Close if a reply is overdue and nothing comes; to be called now and then."""
        if self._waiting and self._loop.time() - max(self._waiting[0][1], self.heard_at) > self._reply_timeout:
            self.abort(f"no reply for {self._reply_timeout:g} s")

    def abort(self, reason: str) -> None:
        """Close now; callers that wait for a reply get ConnectionLost."""
        if not self.closed.is_set():
            self.reason = reason
            if self._transport is not None:
                self._transport.abort()
            self._end()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        sock: socket.socket = transport.get_extra_info("socket")
        if sock.family == socket.AF_UNIX:
            return
        with suppress(OSError):  # the server has closed it already: reading says so
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEPALIVE.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def connection_lost(self, exc: Exception | None) -> None:
        is_closed = exc is None or isinstance(exc, ConnectionError)
        self.reason = self.reason or ("the server closed it" if is_closed else f"it was cut: {exc}")
        self._end()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        reader = self._reader
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                if self._on_push is not None and isinstance(reply, list):
                    self._on_push(cast("list[Any]", reply))
                elif not self._waiting:
                    self.refusal = self._translated(str(reply))[0] if isinstance(reply, self._error) else None
                    self.abort(str(reply) if self.refusal is not None else "it answered what nobody asked")
                    return
                else:
                    self._answer(self._waiting.popleft()[0], reply)
        except redis_py("hiredis").ProtocolError as exc:
            self.abort(f"it does not speak the protocol of Redis: {exc}")

    def _answer(self, waiting: asyncio.Future[Any], reply: Any) -> None:
        if isinstance(reply, self._error):
            error, is_useless = self._translated(str(reply))
            if not waiting.done():
                waiting.set_exception(error)
            if is_useless:
                self.abort(str(reply))
        elif not waiting.done():
            waiting.set_result(reply)

    def _translated(self, text: str) -> tuple[Exception, bool]:
        """Return the error for a reply, and whether this connection is of no more use.

        Only its code says what it is: the text may hold names that users gave.
        """
        code = text.partition(" ")[0]
        if code == "ERR" and _FORBIDDEN_TO_A_SCRIPT.match(text):
            code = "NOPERM"
        elif code == "ERR" and (inside := _INSIDE_A_SCRIPT.match(text)):
            code = inside[1]
        if text.startswith("ERR Protocol error: invalid bulk length"):
            return Refused(f"{self._name}: it is larger than Redis takes (proto-max-bulk-len)", "too_large"), True
        if code == "NOSCRIPT":
            return ScriptMissing(text), False
        if code in _ELSEWHERE:
            return NotConnected(f"{self._name} can't serve: {text}"), True
        if code in _SOON:
            return NotConnected(f"{self._name} can't serve yet: {text}"), False
        if code in _MEANINGS:
            return OperationalError(f"{self._name}: {_MEANINGS[code]} ({text})"), False
        return OperationalError(f"{self._name}: {text}"), False

    def _end(self) -> None:
        if self.closed.is_set():
            return
        self.closed.set()
        for reply, _ in self._waiting:
            if not reply.done():
                reply.set_exception(ConnectionLost(f"{self._name}: the connection was lost ({self.reason})"))
                reply.exception()  # retrieved: who asked may be gone
        self._waiting.clear()
        if self._on_push is not None:
            self._on_push([CLOSED])
