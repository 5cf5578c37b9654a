"""Private servers for tests: real processes on free ports, ended with whoever started them.

Which ones: `redis-server`, `rabbitmq-server` and PostgreSQL of this system, or what TEST_REDIS_SERVER and
TEST_RABBITMQ_SERVER say: the words that a command begins with (`make test-newer` sets them), and TEST_POSTGRES_BIN: a
directory of programs.
"""

from __future__ import annotations

import itertools
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar

import psycopg
import redis

from .keeper import place_of_files

T = TypeVar("T")

#: Seconds a server may take to answer.
START = 20.0
#: The same for a RabbitMQ, which computes for five seconds when nobody else does.
START_RABBIT = 60.0
#: Seconds a process that was killed may take to be gone.
END: Final = 10.0


def free_port() -> int:
    """Return a port that nobody listens on, and that no connection is given while nobody does."""
    return _quiet_ports(1)[0]


def _command(variable: str, program: Path) -> list[str]:
    """Return the words that start a server: the variable's, or else the program of this system."""
    if words := shlex.split(os.environ.get(variable, "")):
        return words
    assert program.exists(), f"{program} is not installed: `make test` does that"
    return [str(program)]


class RedisServer:
    """A redis-server of our own; a context manager. `settings` are lines of its configuration."""

    def __init__(
        self,
        settings: Mapping[str, object] | None = None,
        *arguments: str,
        directory: Path | None = None,
    ) -> None:
        self._arguments = arguments
        self._temporary = None if directory is not None else temporary("redis-", place_of_files())
        self.directory = directory if directory is not None else Path(str(self._temporary and self._temporary.name))
        self.port = int(str((settings or {}).get("port", 0))) or free_port()
        self._settings: dict[str, object] = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.directory,
            "save": '""',
            "repl-diskless-sync-delay": 0,
            "set-proc-title": "no",  # it would write over its environment, by which the keeper finds it
            **(settings or {}),
        }
        self.tls_port = int(str(self._settings.get("tls-port", 0)))
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
        command = _command("TEST_REDIS_SERVER", Path(shutil.which("redis-server") or "redis-server"))
        config = self.directory / "redis.conf"
        if not config.exists():
            config.write_text("".join(f"{name} {value}\n" for name, value in self._settings.items()))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([*command, str(config), *self._arguments], stdout=log, stderr=log)
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
            self._process.wait(END)

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
            server = RedisServer({**settings, "port": _port_with_another_above()})
            self.nodes.append(self._stack.enter_context(server))
        first, *others = self.nodes
        slots = [(0, 5460), (5461, 10922), (10923, 16383)]
        for node, (low, high) in zip(self.nodes, slots, strict=True):
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(low, high + 1))
        with first.client() as client:
            for node in others:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
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
            f"bind 127.0.0.1\nport {server.port}\ndir {server.directory}\nset-proc-title no\n"
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


class RabbitServer:
    """A rabbitmq-server of our own, with an epmd of its own; a context manager.

    `settings` are lines of rabbitmq.conf; `rabbit` are parameters of the Erlang application, as Erlang writes them:
    rabbitmq.conf has no name for some (`{"channel_tick_interval": 1000}`). With `certificates` (a directory, see
    `make_certificates`) it listens for TLS as well; `clients_need_one`: and wants certificates of its clients.
    `plugins` of its own are enabled.
    """

    PROGRAM: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one on the PATH changes to a user of its own

    def __init__(
        self,
        settings: Mapping[str, object] | None = None,
        *,
        rabbit: Mapping[str, object] | None = None,
        certificates: Path | None = None,
        clients_need_one: bool = False,
        plugins: Sequence[str] = (),
    ) -> None:
        self._temporary = temporary("rabbit-", place_of_files())
        self.directory = Path(self._temporary.name)
        self.port, self.tls_port, self._node_port, self._epmd_port = _quiet_ports(4)
        self.node = f"aiotq{self.port}@localhost"
        self._vhosts: list[str] = []
        self._made = 0  #: virtual hosts
        self._calls = itertools.count()
        self._settings: dict[str, object] = dict(settings or {})
        if certificates is not None:
            self._settings |= {
                "listeners.ssl.default": f"127.0.0.1:{self.tls_port}",
                "ssl_options.cacertfile": certificates / "ca.pem",
                "ssl_options.certfile": certificates / "server.pem",
                "ssl_options.keyfile": certificates / "server.key",
                "ssl_options.verify": "verify_peer" if clients_need_one else "verify_none",
                "ssl_options.fail_if_no_peer_cert": str(clients_need_one).lower(),
            }
        self._rabbit = dict(rabbit or {})
        self._plugins = tuple(plugins)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens, as an administrator and on the virtual host `/`."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def log(self) -> Path:
        return self.directory / "rabbit.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(END)
        self._temporary.cleanup()

    def start(self) -> None:
        """Start it, or start it again on what it wrote to its disk, and wait until it answers."""
        epmd = shutil.which("epmd")
        assert epmd is not None, "rabbitmq-server is not installed: `make test` does that"
        server = _command("TEST_RABBITMQ_SERVER", self.PROGRAM)
        if self._epmd is None:
            # The server would start one that outlives it, and one that it finds would be shared.
            command = [epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"]
            self._epmd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            await_port(self._epmd_port)
            (self.directory / "rabbitmq.conf").write_text(
                "".join(f"{name} = {value}\n" for name, value in self._settings.items())
            )
            rabbit = ", ".join(f"{{{name}, {value}}}" for name, value in self._rabbit.items())
            (self.directory / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")
            (self.directory / "advanced.config").write_text(f"[{{rabbit, [{rabbit}]}}].\n")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                server, env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.answers()

    def _environment(self) -> dict[str, str]:
        here = str(self.directory)
        return {
            **{name: text for name, text in os.environ.items() if not name.startswith("RABBITMQ_")},
            "HOME": here,  # where its cookie is
            "detached": "1",  # for its script: become the server instead of starting it
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{here}/advanced.config",
            "RABBITMQ_CONFIG_FILE": f"{here}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": f"{here}/none",
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/enabled_plugins",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{here}/generated",
            "RABBITMQ_LOG_BASE": here,
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": f"{here}/mnesia",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_PID_FILE": f"{here}/pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2",
        }

    def answers(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + START_RABBIT
        while not _speaks_amqp(self.port):
            assert self._process is not None
            assert self._process.poll() is None, f"rabbitmq-server ended:\n{self._end_of_log()}"
            assert time.monotonic() < deadline, f"rabbitmq-server does not answer:\n{self._end_of_log()}"
            time.sleep(0.05)
        if "listeners.ssl.default" in self._settings:
            await_port(self.tls_port)  # it begins to listen there later

    def _end_of_log(self) -> str:
        return self.log.read_text(errors="replace")[-4000:]

    def kill(self) -> None:
        """End it as a power cut would."""
        self.send_signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(END)

    def stop(self) -> None:
        """Have it end in its own time, as an upgrade does."""
        self.send_signal(signal.SIGTERM)
        if self._process is not None:
            self._process.wait(START_RABBIT)

    def restart(self) -> None:
        """Kill it, and start it on what it wrote to its disk."""
        self.kill()
        self.start()

    def send_signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def eval(self, expression: str) -> str:
        """Have it evaluate Erlang, and return the value as Erlang writes it; rabbitmqctl would take a second.

        Raises:
            AssertionError: it failed, or the server does not answer.
        """
        program = next(Path("/usr/lib/erlang").glob("erts-*/bin/erl_call"))
        own_name = f"eval{next(self._calls)}"  # not always the same: under load the last one still counts as connected
        done = subprocess.run(
            [program, "-sname", self.node, "-h", own_name, "-e"],
            input=f"{expression}.\n".encode(),
            env=self._environment(),
            capture_output=True,
            timeout=START_RABBIT,
            check=False,
        )
        answer = done.stdout.decode().strip()
        assert answer.startswith("{ok, "), f"{expression}: {answer} {done.stderr.decode()}"
        return answer.removeprefix("{ok, ").removesuffix("}")

    def vhost(self, *, tls: bool = False) -> str:
        """Return the URL of a new virtual host, for a test that wants to be alone."""
        if not self._vhosts:
            self._make_vhosts()
        name = self._vhosts.pop()
        return f"amqps://guest:guest@localhost:{self.tls_port}/{name}" if tls else f"{self.url}{name}"

    def _make_vhosts(self) -> None:
        """Make some more, as many as were used up to 16 at a time: that takes a fraction of what each takes alone."""
        count = min(max(self._made, 1), 16)
        names = [f"test{self._made + number}" for number in range(count)]
        self._made += count
        allowing = (
            'rabbit_auth_backend_internal:set_permissions(<<"guest">>, N, <<".*">>, <<".*">>, <<".*">>, <<"test">>)'
        )
        written = ", ".join(f'<<"{name}">>' for name in names)
        self.eval(f'[begin rabbit_vhost:add(N, <<"test">>), ok = {allowing} end || N <- [{written}]]')
        self._vhosts = names

    def add_user(self, name: str, password: str, vhost: str = "/", *rights: str) -> None:
        """Add a user with `rights`: what they may configure, write and read, as patterns; none: all of it."""
        self.eval(f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{password}">>, <<"test">>)')
        self.allow(name, vhost, *rights)

    def allow(self, user: str, vhost: str, *rights: str) -> None:
        """Give a user these `rights` on a virtual host instead of what they had."""
        patterns = ", ".join(f'<<"{pattern}">>' for pattern in rights or (".*", ".*", ".*"))
        self.eval(f'rabbit_auth_backend_internal:set_permissions(<<"{user}">>, <<"{vhost}">>, {patterns}, <<"test">>)')

    def set_policy(self, vhost: str, pattern: str, *definition: str) -> None:
        """Give the queues of a virtual host whose names match `pattern` a policy, of pairs as Erlang writes them."""
        what = f'<<"{vhost}">>, <<"policy">>, <<"{pattern}">>, [{", ".join(definition)}]'
        self.eval(f'ok = rabbit_policy:set({what}, 0, <<"queues">>, <<"test">>)')

    def set_alarm(self, on: bool = True) -> None:
        """Have it think that its memory is full: it blocks whoever publishes; or no longer."""
        self.eval(f"vm_memory_monitor:set_vm_memory_high_watermark({'0.00001' if on else '0.8'})")

    def messages(self, vhost: str = "/") -> dict[str, int]:
        """Return the classic queues of a virtual host, each with all messages in it, those that somebody holds too."""
        written = self.eval(
            'lists:flatten([io_lib:format("~s ~p~n", [element(4, N), M]) || [{name, N}, {messages, M}] <- '
            f'[(catch rabbit_amqqueue:info(Q, [name, messages])) || Q <- rabbit_amqqueue:list(<<"{vhost}">>)]])'
        )
        lines = written.strip('"[]').replace("\\n", "\n").split("\n")
        return {name: int(count) for name, _, count in (line.rpartition(" ") for line in lines if line)}

    def queues(self, vhost: str = "/") -> dict[str, int]:
        """Return the queues of a virtual host, each with the messages that are ready in it; not those that just end."""
        counted = f'[{{Q, (catch rabbit_amqqueue:stat(Q))}} || Q <- rabbit_amqqueue:list(<<"{vhost}">>)]'
        written = self.eval(
            f'lists:flatten([io_lib:format("~s ~p~n", [element(4, amqqueue:get_name(Q)), N]) '
            f"|| {{Q, {{ok, N, _}}}} <- {counted}])"
        )
        lines = written.strip('"[]').replace("\\n", "\n").split("\n")
        return {name: int(count) for name, _, count in (line.rpartition(" ") for line in lines if line)}


def temporary(prefix: str, place: Path | None) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=prefix, dir=place)


#: Who a PostgreSQL runs as: it refuses to be started by root. None: who runs the tests.
_USER: Final = "nobody" if os.geteuid() == 0 else None


class PostgresServer:
    """A PostgreSQL of our own; a context manager. `settings` are lines of its configuration.

    Unless they say otherwise it does not wait for its disk: a process that is killed loses nothing by that.
    """

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        self._temporary = temporary("postgres-", place_of_files())
        self.directory = Path(self._temporary.name)
        self.data = self.directory / "data"
        self.port = free_port()
        self._settings: dict[str, object] = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.directory,
            "fsync": "off",
            "full_page_writes": "off",
            "max_connections": 300,
            "shared_buffers": "64MB",
            "max_wal_size": "256MB",
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._free: list[str] = []  #: schemas of tests that have ended, with their tables
        self._taken: list[str] = []

    @property
    def url(self) -> str:
        return f"postgresql://aiotq@127.0.0.1:{self.port}/postgres"

    @property
    def log(self) -> Path:
        return self.directory / "postgres.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()
        self._temporary.cleanup()

    def start(self) -> None:
        """Start it, or start it again on what it wrote to its disk, and wait until it answers."""
        if not self.data.exists():
            if _USER is not None:
                if (place := place_of_files()) is not None:
                    place.chmod(0o711)
                shutil.chown(self.directory, _USER)
            self.make_data()
            lines = (f"{name} = '{text}'\n" for name, text in self._settings.items())
            with (self.data / "postgresql.conf").open("a") as config:
                config.writelines(lines)
        with self.log.open("ab") as log:
            command = [postgres_program("postgres"), "-D", str(self.data)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=_USER)
        self.answers()

    def make_data(self) -> None:
        """Make what it keeps its data in."""
        initdb = [postgres_program("initdb"), "-D", self.data, "-U", "aiotq", "-A", "trust", "-E", "UTF8"]
        self.run(*initdb, "--no-locale", "--no-sync", "--no-instructions")

    def run(self, *command: object) -> None:
        """Run a program as the user that the server runs as."""
        words = [str(word) for word in command]
        done = subprocess.run(words, capture_output=True, check=False, cwd=self.directory, user=_USER)
        assert done.returncode == 0, f"{words}: {done.stdout.decode()} {done.stderr.decode()}"

    def answers(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + START
        while True:
            try:
                self.ask("select 1")
                return
            except psycopg.OperationalError:
                assert self._process is not None
                assert self._process.poll() is None, f"postgres ended:\n{self.log.read_text()}"
                assert time.monotonic() < deadline, f"postgres does not answer:\n{self.log.read_text()}"
                time.sleep(0.02)

    def ask(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement, for looking at what is there and for doing harm; return its rows."""
        with psycopg.connect(self.url, autocommit=True, connect_timeout=round(START)) as connection:
            cursor = connection.execute(sql.encode(), values or None)
            return cursor.fetchall() if cursor.description is not None else []

    def schema(self) -> str:
        """Return the URL of a schema of its own, in which nothing is kept yet: one of a test that has ended, if any."""
        name = self._free.pop() if self._free else f"test_{os.urandom(6).hex()}"
        tables = self.ask("select tablename from pg_tables where schemaname = %s and tablename <> 'migration'", name)
        if tables:
            self.ask("; ".join(f'delete from "{name}".{table}' for (table,) in tables))
        self._taken.append(name)
        return f"{self.url}?schema={name}"

    def take_back(self) -> None:
        """Note that a test has ended, and needs its schemas no longer."""
        self._free += self._taken
        self._taken.clear()

    def kill(self) -> None:
        """End it as a power cut would: its processes all at once."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in (process.pid, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        _until_gone(map(int, children))
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """Have it end at once, but in order, as an upgrade does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(START)


def postgres_program(program: str) -> str:
    """Return where a program of PostgreSQL's is: of the newest version that is installed."""
    if words := os.environ.get("TEST_POSTGRES_BIN", ""):
        return f"{words}/{program}"
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda each: int(each.parts[-3]))
    assert found, f"PostgreSQL's {program} is not installed: `make test` does that"
    return str(found[-1])


def _until_gone(pids: Iterable[int]) -> None:
    deadline = time.monotonic() + START
    for pid in pids:
        while _is_alive(pid):
            assert time.monotonic() < deadline, f"process {pid} does not end"
            time.sleep(0.005)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _port_with_another_above() -> int:
    """Return a port for a node of a cluster: before Redis 7.0 its nodes always talk on the one 10,000 above."""
    while True:
        (port,) = _quiet_ports(1, below=22_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        return port


def _quiet_ports(count: int, *, below: int = 32_000) -> list[int]:
    """Return ports that nobody listens on, and that no connection is given while a server takes seconds to start."""
    found: list[int] = []
    ours = random.SystemRandom()  # seeded like ours, two test processes would want the same ports
    while len(found) < count:
        port = ours.randrange(10_000, below)  # not what Linux takes for connections
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def await_port(port: int) -> None:
    """Wait until somebody listens on it."""
    deadline = time.monotonic() + START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens on port {port}"
            time.sleep(0.01)


def _speaks_amqp(port: int) -> bool:
    """Whether a broker begins the handshake there."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"AMQP\0\0\x09\x01")
            return bool(connection.recv(1))
    except OSError:
        return False


_KINDS: Final[Mapping[str, Callable[[], Server]]] = {
    "redis": RedisServer,
    "redis-cluster": RedisCluster,
    "redis-sentinel": RedisSentinel,
}
_shared: dict[str, Server] = {}
_shared_rabbit: list[RabbitServer] = []
_shared_postgres: list[PostgresServer] = []
_until_the_end = ExitStack()


def shared(kind: str) -> Server:
    """Return this test process's server of a kind, started when first wanted. Tests keep apart by their prefixes."""
    if kind not in _shared:
        _shared[kind] = _until_the_end.enter_context(_KINDS[kind]())
    return _shared[kind]


def shared_rabbit() -> RabbitServer:
    """Return this test process's RabbitMQ, started when first wanted. Tests keep apart by their virtual hosts."""
    if not _shared_rabbit:
        _shared_rabbit.append(_until_the_end.enter_context(RabbitServer()))
    return _shared_rabbit[0]


def shared_postgres() -> PostgresServer:
    """Return this test process's PostgreSQL, started when first wanted. Tests keep apart by their schemas."""
    if not _shared_postgres:
        _shared_postgres.append(_until_the_end.enter_context(PostgresServer()))
    return _shared_postgres[0]


def until_the_end(server: AbstractContextManager[T]) -> T:
    """Enter a server that this test process shares, and leave it when the process ends."""
    return _until_the_end.enter_context(server)


def take_back_schemas() -> None:
    """Note that a test has ended."""
    for server in _shared_postgres:
        server.take_back()


def close_shared() -> None:
    """End them."""
    _until_the_end.close()
    _shared.clear()
    _shared_rabbit.clear()
    _shared_postgres.clear()
