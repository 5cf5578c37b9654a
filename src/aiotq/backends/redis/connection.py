"""A process's connections to a Redis: one for requests, one for pushes, and one for the lifeline's thread.

The first two are kept open by a task each, for ever, with pauses that grow and jitter. Requests of all callers share
one connection, however many wait; pushes have their own, since the server gives connections that are subscribed to
something only 32 MB of unread replies.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

from anyio import to_thread

from ...core.aio import Service
from ...core.net.kept import Kept
from ...exceptions import ConnectionLost, NotConnected, OperationalError, Refused
from .address import Address, Endpoint
from .blocking import BlockingClient
from .bus import RedisBus
from .resp import CLOSED, ScriptMissing, Wire
from .script import Script, pack

logger = logging.getLogger("aiotq.redis")

#: Seconds of silence after which the server is asked whether it is there.
_QUIET: Final = 5.0
#: What the server must at least be: the first with `XPENDING … IDLE`, `SET … PXAT` and `XADD … MINID`.
_OLDEST: Final = (6, 2)

#: Bytes that an argument of a command may have, unless the server says otherwise.
_LONGEST_ARGUMENT: Final = 512 * 1024**2

#: Told what is published on a channel of its own.
Hearer = Callable[[bytes], None]


class RedisClient:
    """A process's connections to one Redis; an async context manager.

    `name` is unique: `bus`, which is open as long as the client is, has it as its address.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.base = address.base
        self.name = os.urandom(6).hex()
        self.blocking = BlockingClient(address)
        self._requests = Kept(
            address.shown, "connection for requests", logger, self._connect_requests, self._check_requests
        )
        self._pushes = Kept(address.shown, "connection for pushes", logger, self._connect_pushes, self._check_pushes)
        #: Loop time at which the connection for requests was made anew; None for the first one.
        self.reconnected_at: float | None = None
        self._most = _LONGEST_ARGUMENT
        self.bus = RedisBus(self.base, self.name, self.ask)
        self._pushes.on_open.append(self.bus.tell_of_gap)
        self._channels: dict[bytes, tuple[Hearer, asyncio.Event]] = {}
        self._service: Service[None] = Service(self._main, "aiotq.redis")

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            NotConnected: it can't be reached; worth trying again.
            OperationalError: it refused us, or is too old.
        """
        await self._service.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._service.stop()

    async def listen(self, channel: bytes, hearer: Hearer) -> None:
        """Have `hearer` told all that is published on `channel`; on return nothing is missed, but for gaps.

        Raises:
            NotConnected: the server does not confirm it; there will be a gap, and it is tried again after that.
        """
        _, confirmed = self._channels.setdefault(channel, (hearer, asyncio.Event()))
        if (pushes := self._pushes.wire) is None or not pushes.is_open:
            return
        pushes.tell(("SUBSCRIBE", channel))
        try:
            async with asyncio.timeout(self.address.reply_timeout):
                await confirmed.wait()
        except TimeoutError as exc:
            raise NotConnected(f"{self.address.shown}: the subscription was not confirmed") from exc

    def unlisten(self, channel: bytes) -> None:
        """End what `listen` began."""
        if self._channels.pop(channel, None) is not None and self._pushes.wire is not None:
            self._pushes.wire.tell(("UNSUBSCRIBE", channel))

    async def run(self, script: Script, arguments: Sequence[Any], *further: bytes) -> Any:
        """Run `script` and return its reply. `further` are arguments that it has not to unpack.

        Raises:
            NotConnected: certainly nothing was done.
            ConnectionLost: it may have been done.
            Refused: it can't be packed, or is larger than Redis takes; nothing was done.
            OperationalError: Redis refused; nothing was done.
        """
        packed = self._packed(arguments)
        for each in further:
            self._check_size(each)
        wire = self._requests.wire
        if wire is None or not wire.is_open:
            wire = await self._requests.get()
        try:
            return await wire.ask(("EVALSHA", script.sha, 1, self.base, packed, *further))
        except ScriptMissing:
            pass
        try:
            return await wire.ask(("EVAL", script.text, 1, self.base, packed, *further))
        except ScriptMissing as exc:  # only a proxy could be so confused
            raise OperationalError(f"{self.address.shown}: {exc}") from exc

    def _packed(self, arguments: Sequence[Any]) -> bytes:
        try:
            packed = pack(arguments)
        except (TypeError, ValueError, OverflowError) as exc:  # a type, a lone surrogate, a number of over 64 bits
            raise Refused(f"{self.address.shown}: it can't be packed: {exc}", "unencodable") from exc
        self._check_size(packed)
        return packed

    def _check_size(self, argument: bytes) -> None:
        if len(argument) > self._most:
            raise Refused(
                f"{self.address.shown}: it is {len(argument)} bytes, and Redis takes at most {self._most} at once: "
                "keep large data elsewhere, or raise proto-max-bulk-len",
                "too_large",
            )

    async def connected(self) -> None:
        """Return when there is a connection, soon.

        Raises:
            NotConnected: there is none.
        """
        await self._requests.get()

    async def ask(self, *command: bytes | str | int | float) -> Any:
        """Send one command and return its reply; raises as `run` does."""
        wire = self._requests.wire
        if wire is None or not wire.is_open:
            wire = await self._requests.get()
        return await wire.ask(command)

    async def _main(self, ready: Callable[[None], None], stopping: asyncio.Event) -> None:
        try:
            await self._requests.open()
            await self._pushes.open()
            async with asyncio.TaskGroup() as group:
                keeping = [
                    group.create_task(self._requests.keep(), name="aiotq.redis.requests"),
                    group.create_task(self._pushes.keep(), name="aiotq.redis.pushes"),
                ]
                ready(None)
                await stopping.wait()
                for task in keeping:
                    task.cancel()
        finally:
            for wire in (self._requests.wire, self._pushes.wire):
                if wire is not None:
                    wire.abort("it was left")
            await to_thread.run_sync(self.blocking.close)

    async def _find(self) -> Endpoint:
        if self.address.kind in {"single", "socket"}:
            return self.address.find()
        return await to_thread.run_sync(self.address.find, abandon_on_cancel=True)

    def _check_requests(self, wire: Wire) -> None:
        wire.check()
        if wire.silence > _QUIET:
            wire.ask(("PING",)).add_done_callback(_retrieve)

    def _check_pushes(self, wire: Wire) -> None:
        wire.check()
        if wire.silence > _QUIET + self.address.reply_timeout:
            wire.abort(f"silent for {wire.silence:.0f} s")
        elif wire.silence > _QUIET:
            wire.tell(("PING",))

    async def _connect_requests(self) -> Wire:
        wire = await Wire.open(self.address, await self._find())
        try:
            await self._check(wire)
        except BaseException:
            wire.abort("the server is of no use")
            raise
        self.reconnected_at = asyncio.get_running_loop().time() if self._requests.wire is not None else None
        return wire

    async def _check(self, wire: Wire) -> None:
        """See that the server is one we can use.

        Raises:
            NotConnected: it is not now.
            OperationalError: it is too old.
        """
        try:
            async with asyncio.timeout(self.address.connect_timeout):
                info = info_fields(await wire.ask(("INFO", "server")))
                info |= info_fields(await wire.ask(("INFO", "replication")))
        except TimeoutError as exc:
            raise NotConnected(f"{self.address.shown}: the server does not answer") from exc
        if "sentinel" in {info.get("redis_mode"), info.get("server_mode")}:  # the latter is Valkey's
            raise OperationalError(
                f"{self.address.shown} is a Sentinel, which keeps no messages: with "
                "redis+sentinel://host:port/0?service=… it is asked for the server that does"
            )
        if self.address.kind == "sentinel" and info.get("role") != "master":
            raise NotConnected(f"{self.address.shown}: what the sentinels call the master is none yet")
        version = tuple(int(part) for part in info.get("redis_version", "").split(".")[:2] if part.isdecimal())
        if version and version < _OLDEST:
            raise OperationalError(f"{self.address.shown} is Redis {info['redis_version']}: aiotq needs 6.2 or newer")
        self._most = await self._longest_argument(wire)

    async def _longest_argument(self, wire: Wire) -> int:
        """Return the bytes that an argument of a command may have: a longer one ends the connection.

        Source: Redis, "Redis serialization protocol specification" (bulk strings), and redis.conf.
        """
        try:
            async with asyncio.timeout(self.address.connect_timeout):
                found = await wire.ask(("CONFIG", "GET", "proto-max-bulk-len"))
        except NotConnected:
            raise
        except ConnectionLost as exc:
            raise NotConnected(str(exc)) from exc
        except TimeoutError as exc:
            raise NotConnected(f"{self.address.shown}: the server does not answer") from exc
        except OperationalError:  # not allowed to ask, or there is no such command: it is as Redis comes
            return _LONGEST_ARGUMENT
        return int(found[1]) if len(found) == 2 else _LONGEST_ARGUMENT

    async def _connect_pushes(self) -> Wire:
        answered = asyncio.Event()
        channels: set[bytes] = set()

        def on_push(push: list[Any]) -> None:
            if push[0] == b"message":
                self._heard(push[1], push[2])
            elif push[0] == b"subscribe":
                channels.add(push[1])
                if push[1] in self._channels:
                    self._channels[push[1]][1].set()
                if channels.issuperset(self.bus.channels):
                    answered.set()
            elif push[0] == CLOSED:
                answered.set()
                for _, confirmed in self._channels.values():  # nobody is to wait for what won't come
                    confirmed.set()

        wire = await Wire.open(self.address, await self._find(), on_push)
        try:
            wire.tell(("SUBSCRIBE", *self.bus.channels, *self._channels))
            async with asyncio.timeout(self.address.connect_timeout):
                await answered.wait()
            if not wire.is_open:
                raise wire.refusal or NotConnected(f"{self.address.shown}: subscribing failed ({wire.reason})")
        except TimeoutError as exc:
            wire.abort("it did not confirm the subscription")
            raise NotConnected(f"{self.address.shown}: the subscription was not confirmed") from exc
        except BaseException:
            wire.abort("subscribing failed")
            raise
        return wire

    def _heard(self, channel: bytes, payload: bytes) -> None:
        if channel in self.bus.channels:
            self.bus.take_frame(payload)
        elif (own := self._channels.get(channel)) is not None:
            try:
                own[0](payload)
            except Exception:  # one that fails must not end the connection
                logger.exception("what was published on %s could not be used", channel)


def info_fields(text: bytes) -> dict[str, str]:
    """Return the fields of a reply to INFO."""
    lines = text.decode("utf-8", "replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
