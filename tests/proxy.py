"""A TCP proxy that does what networks do: cuts, silences, lost replies."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from typing import Final, Self

CHUNK: Final = 1 << 16


class _Pipe:
    """One direction of one connection: what was read from `source` and not yet written to `target`."""

    def __init__(self, source: socket.socket, target: socket.socket, *, carries_replies: bool) -> None:
        self.source = source
        self.target = target
        self.carries_replies = carries_replies
        self.held = bytearray()


class Proxy:
    """Forwards a port of its own to `port`, from a thread; a context manager. All methods are for any thread."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._lock = threading.Lock()
        self._pipes: dict[socket.socket, _Pipe] = {}
        self._is_silent = False
        self._swallows = False
        self._refuses = False
        self._cut_wanted = False
        self._ended = False
        self._acted = threading.Condition(self._lock)
        self._changes = 0
        self._changes_seen = 0
        self.swallowed = 0  #: bytes of replies that were dropped
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many connections stand now."""
        with self._lock:
            return len(self._pipes) // 2

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._ended = True
        self._wake()
        self._thread.join(10)

    def cut(self) -> None:
        """Close all connections now; new ones are accepted."""
        self._change(cut=True)

    def refuse(self) -> None:
        """Close all connections, and new ones as they come, until `restore()`."""
        self._change(cut=True, refuses=True)

    def black_hole(self) -> None:
        """Forward nothing in either direction, of old connections and new ones, until `restore()`."""
        self._change(is_silent=True)

    def swallow_replies(self) -> None:
        """Forward requests and drop replies until `restore()`."""
        self._change(swallows=True)

    def restore(self) -> None:
        """Forward again; what a black hole held is delivered."""
        self._change(is_silent=False, swallows=False, refuses=False)

    def _change(
        self,
        *,
        cut: bool = False,
        is_silent: bool | None = None,
        swallows: bool | None = None,
        refuses: bool | None = None,
    ) -> None:
        """Change how it behaves, and return when it does."""
        with self._acted:
            self._cut_wanted |= cut
            self._is_silent = self._is_silent if is_silent is None else is_silent
            self._swallows = self._swallows if swallows is None else swallows
            self._refuses = self._refuses if refuses is None else refuses
            self._changes += 1
            change = self._changes
            self._wake()
            self._acted.wait_for(lambda: self._changes_seen >= change, 5)

    def _wake(self) -> None:
        with suppress(OSError):
            self._wake_writer.send(b".")

    def _run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        while self._turn():
            pass
        for pipe in list(self._pipes.values()):
            self._close(pipe)
        for each in (self._listener, self._wake_reader, self._wake_writer, self._selector):
            each.close()

    def _turn(self) -> bool:
        with self._acted:
            if self._ended:
                return False
            if self._cut_wanted:
                self._cut_wanted = False
                for pipe in list(self._pipes.values()):
                    self._close(pipe)
            self._watch()
            self._changes_seen = self._changes
            self._acted.notify_all()
        ready = self._selector.select()
        with self._lock:
            for key, events in ready:
                self._serve(key.fileobj, events)
        return True

    def _watch(self) -> None:
        """Tell the selector what each socket is to be watched for: nothing is read that can't be passed on."""
        for source, pipe in self._pipes.items():
            events = 0
            if not self._is_silent:
                if not pipe.held:
                    events |= selectors.EVENT_READ
                if self._pipes[pipe.target].held:
                    events |= selectors.EVENT_WRITE
            with suppress(KeyError):
                self._selector.unregister(source)
            if events:
                self._selector.register(source, events)

    def _serve(self, ready: object, events: int) -> None:
        if ready is self._wake_reader:
            with suppress(OSError):
                self._wake_reader.recv(CHUNK)
        elif ready is self._listener:
            self._accept()
        elif isinstance(ready, socket.socket) and ready in self._pipes:
            if events & selectors.EVENT_READ:
                self._read(self._pipes[ready])
            if events & selectors.EVENT_WRITE and ready in self._pipes:
                self._write(self._pipes[self._pipes[ready].target])

    def _accept(self) -> None:
        with suppress(OSError):
            client, _ = self._listener.accept()
            if self._refuses:
                client.close()
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                return
            for each in (client, server):
                each.setblocking(False)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pipes[client] = _Pipe(client, server, carries_replies=False)
            self._pipes[server] = _Pipe(server, client, carries_replies=True)

    def _read(self, pipe: _Pipe) -> None:
        try:
            data = pipe.source.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(pipe)
        elif pipe.carries_replies and self._swallows:
            self.swallowed += len(data)
        else:
            pipe.held += data
            self._write(pipe)

    def _write(self, pipe: _Pipe) -> None:
        try:
            sent = pipe.target.send(pipe.held)
            del pipe.held[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._close(pipe)

    def _close(self, pipe: _Pipe) -> None:
        """Close both sides of a connection, as a reset: what was under way is gone."""
        for each in (pipe.source, pipe.target):
            self._pipes.pop(each, None)
            with suppress(KeyError, ValueError):
                self._selector.unregister(each)
            each.close()
