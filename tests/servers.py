"""Private servers for tests: real processes on free ports, ended with whoever started them."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Protocol, Self

import redis

#: Seconds a server may take to answer.
START = 20.0


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """A redis-server of our own; a context manager. `settings` are lines of its configuration."""

    def __init__(
        self,
        settings: Mapping[str, object] | None = None,
        *arguments: str,
        directory: Path | None = None,
    ) -> None:
        self._arguments = arguments
        self._temporary = None if directory is not None else tempfile.TemporaryDirectory(prefix="aiotq-redis-")
        self.directory = directory if directory is not None else Path(str(self._temporary and self._temporary.name))
        self.port = free_port()
        self._settings: dict[str, object] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.directory,
            "save": '""',
            "repl-diskless-sync-delay": 0,
            **(settings or {}),
        }
        self.bus_port = int(str(self._settings.get("cluster-port", 0)))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def log(self) -> Path:
        return self.directory / "redis.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        if self._temporary is not None:
            self._temporary.cleanup()

    def start(self) -> None:
        """Start it, or start it again on what it wrote to its disk, and wait until it answers."""
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not installed: `make test` does that"
        config = self.directory / "redis.conf"
        if not config.exists():
            config.write_text("".join(f"{name} {value}\n" for name, value in self._settings.items()))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([program, str(config), *self._arguments], stdout=log, stderr=log)
        self.answers()

    def answers(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + START
        while True:
            try:
                with self.client() as client:
                    client.ping()
                    return
            except redis.AuthenticationError:
                return
            except redis.RedisError:
                assert self._process is not None
                assert self._process.poll() is None, f"redis-server ended:\n{self.log.read_text()}"
                assert time.monotonic() < deadline, f"redis-server does not answer:\n{self.log.read_text()}"
                time.sleep(0.02)

    def client(self) -> Any:
        """A plain client, for looking at what is there and for doing harm."""
        return redis.Redis(port=self.port, socket_timeout=START)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send_signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


class Server(Protocol):
    """What tests need of a Redis, of whatever kind."""

    @property
    def url(self) -> str: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def client(self) -> Any: ...


class RedisCluster:
    """Three nodes that share the slots."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.nodes: list[RedisServer] = []

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"

    def __enter__(self) -> Self:
        settings = {"cluster-enabled": "yes", "cluster-node-timeout": 2000, "cluster-require-full-coverage": "no"}
        for _ in range(3):
            server = RedisServer({**settings, "cluster-port": free_port()})
            self.nodes.append(self._stack.enter_context(server))
        first, *others = self.nodes
        slots = [(0, 5460), (5461, 10922), (10923, 16383)]
        for node, (low, high) in zip(self.nodes, slots, strict=True):
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high)
        with first.client() as client:
            for node in others:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        deadline = time.monotonic() + START
        while not all(self._is_whole(node) for node in self.nodes):
            assert time.monotonic() < deadline, "the nodes don't find each other"
            time.sleep(0.05)
        return self

    def _is_whole(self, node: RedisServer) -> bool:
        with node.client() as client:
            info = client.execute_command("CLUSTER", "INFO")
            text = info if isinstance(info, dict) else dict(line.split(":") for line in info.decode().split())
            slots = client.execute_command("CLUSTER", "SLOTS")
        return text["cluster_state"] == "ok" and len(slots) == len(self.nodes)

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def client(self) -> Any:
        return redis.RedisCluster(host="127.0.0.1", port=self.nodes[0].port, socket_timeout=START)


class RedisSentinel:
    """A master, a replica, and three sentinels that watch over them."""

    SERVICE: Final = "tasks"

    def __init__(self) -> None:
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/0?service={self.SERVICE}"

    def __enter__(self) -> Self:
        self.master = self._stack.enter_context(RedisServer({"appendonly": "yes"}))
        self.replica = self._stack.enter_context(
            RedisServer({"appendonly": "yes", "replicaof": f"127.0.0.1 {self.master.port}"})
        )
        watch = f"monitor {self.SERVICE} 127.0.0.1 {self.master.port} 2"
        self.sentinels = [self._stack.enter_context(self._sentinel(watch)) for _ in range(3)]
        deadline = time.monotonic() + START
        while not all(self._knows_all(sentinel) for sentinel in self.sentinels):
            assert time.monotonic() < deadline, "the sentinels don't find each other and the replica"
            time.sleep(0.05)
        return self

    def _sentinel(self, watch: str) -> RedisServer:
        server = RedisServer({}, "--sentinel")
        lines = (
            f"bind 127.0.0.1\nport {server.port}\ndir {server.directory}\n"
            f"sentinel {watch}\n"
            f"sentinel down-after-milliseconds {self.SERVICE} 1000\n"
            f"sentinel failover-timeout {self.SERVICE} 3000\n"
        )
        (server.directory / "redis.conf").write_text(lines)
        return server

    def _knows_all(self, sentinel: RedisServer) -> bool:
        with sentinel.client() as client:
            master = client.sentinel_master(self.SERVICE)
        return bool(master["num-slaves"] == 1 and master["num-other-sentinels"] == 2)

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def client(self) -> Any:
        """A client of the server that is the master now."""
        with self.sentinels[0].client() as client:
            host, port = client.sentinel_get_master_addr_by_name(self.SERVICE)
        return redis.Redis(host=host, port=port, socket_timeout=START)


_KINDS: Final[Mapping[str, Callable[[], Server]]] = {
    "redis": RedisServer,
    "redis-cluster": RedisCluster,
    "redis-sentinel": RedisSentinel,
}
_shared: dict[str, Server] = {}


def shared(kind: str) -> Server:
    """Return this test process's server of a kind, started when first wanted. Tests keep apart by their prefixes."""
    if kind not in _shared:
        _shared[kind] = _KINDS[kind]().__enter__()
    return _shared[kind]


def close_shared() -> None:
    """End them."""
    for server in _shared.values():
        server.__exit__()
    _shared.clear()
