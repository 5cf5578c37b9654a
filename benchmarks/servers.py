"""Brokers of the benchmarks' own: a new one for each run, in a directory that goes with it."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .figures import BenchmarkError, Broker

#: Seconds in which a server must answer, and end; RabbitMQ computes for five of them when nobody else does.
_PATIENCE: Final = 60.0
#: The file in which a RabbitMQ's environment is kept for whoever wants to ask it.
_ENVIRONMENT: Final = "rabbitmq.json"
#: The program itself: the one on the PATH changes to a user of its own.
_RABBITMQ: Final = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
#: The directory with a directory for each version of PostgreSQL.
_POSTGRES: Final = Path("/usr/lib/postgresql")
#: The settings that say what is kept on the disk.
PERSISTENCE: Final[dict[Broker, tuple[str, ...]]] = {
    "redis": ("--save", "", "--appendonly", "no"),
    "redis-aof": ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
}


@dataclass(frozen=True, slots=True)
class Running:
    """A broker that runs: the settings that name it, and the process ids of all its servers."""

    settings: dict[str, str]
    pids: tuple[int, ...] = ()


@contextmanager
def broker_running(broker: Broker, directory: Path) -> Iterator[Running]:
    """Start a new and empty `broker` which keeps its files in `directory`; it is ended afterwards.

    With RabbitMQ come results in Redis.
    """
    match broker:
        case "redis" | "redis-aof":
            with _redis_server(directory, PERSISTENCE[broker]) as (url, pid):
                yield Running({"broker_url": url}, (pid,))
        case "rabbitmq":
            results = _redis_server(directory, PERSISTENCE["redis"])
            with results as (result_backend, results_pid), _rabbitmq_server(directory) as (url, pid):
                yield Running({"broker_url": url, "result_backend": result_backend}, (pid, results_pid))
        case "postgres":
            with _postgres_server(directory) as (url, pid):
                yield Running({"broker_url": url}, (pid,))
        case "sqlite":
            yield Running({"broker_url": f"sqlite:////{str(directory.resolve()).lstrip('/')}/queue.db"})
        case "memory" | "none":
            yield Running({"broker_url": "memory://"})


@contextmanager
def _redis_server(directory: Path, settings: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    program = shutil.which("redis-server")
    if program is None:
        raise BenchmarkError("redis-server is not installed")
    port = _free_port()
    place = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory))
    # A session of its own: Ctrl-C ends the benchmark first, and then we end the server.
    process = subprocess.Popen(
        [program, *place, *settings], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_until_it_answers(process, port, b"PING\r\n", b"+PONG")
        yield f"redis://127.0.0.1:{port}/0", process.pid
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        finally:
            process.kill()


@contextmanager
def _postgres_server(directory: Path) -> Iterator[tuple[str, int]]:
    """A PostgreSQL with its own settings, but for the memory and the log that a server of this size would be given."""
    programs = sorted(_POSTGRES.glob("*/bin"), key=lambda each: int(each.parent.name))
    if not programs:
        raise BenchmarkError("postgresql is not installed")
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to be started by root
    if user is not None:
        directory.chmod(0o711)
    place, port = directory / "postgres", _free_port()
    place.mkdir()
    if user is not None:
        shutil.chown(place, user)
    data = str(place / "data")
    initdb = [str(programs[-1] / "initdb"), "-D", data, "-U", "aiotq", "-A", "trust", "-E", "UTF8", "--no-locale"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd=place, user=user)
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": place,
        "shared_buffers": "512MB",
        "max_wal_size": "4GB",
    }
    command = [str(programs[-1] / "postgres"), "-D", data]
    arguments = [word for name, text in settings.items() for word in ("-c", f"{name}={text}")]
    process = subprocess.Popen(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        user=user,
    )
    try:
        # What is asked is whether TLS may be used: the first thing that a client says, and one letter comes back.
        _wait_until_it_answers(process, port, bytes.fromhex("0000000804d2162f"), b"N")
        yield f"postgresql://aiotq@127.0.0.1:{port}/postgres", process.pid
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_PATIENCE)
        finally:
            process.kill()


@contextmanager
def _rabbitmq_server(directory: Path) -> Iterator[tuple[str, int]]:
    program, epmd = _RABBITMQ, shutil.which("epmd")
    if epmd is None or not program.exists():
        raise BenchmarkError("rabbitmq-server is not installed")
    port, names_port, nodes_port = _quiet_ports(3)
    # epmd, which knows where nodes listen, is one of our own: the server would start one that outlives it.
    names = subprocess.Popen(
        [epmd, "-port", str(names_port), "-address", "127.0.0.1"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    process: subprocess.Popen[bytes] | None = None
    try:
        _wait_until_it_answers(names, names_port)
        environment = _rabbitmq_environment(directory, port, names_port, nodes_port)
        with Path(directory, "rabbitmq.log").open("wb") as log:
            process = subprocess.Popen(
                [program], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        _wait_until_it_answers(process, port, b"AMQP\0\0\x09\x01", b"\1")
        Path(directory, _ENVIRONMENT).write_text(json.dumps(environment))
        Path(environment["RABBITMQ_PID_FILE"]).write_text(str(process.pid))
        yield f"amqp://guest:guest@127.0.0.1:{port}/", process.pid
    finally:
        for each in (process, names):
            if each is not None:  # nobody needs its files any more
                each.kill()
                each.wait()


def _rabbitmq_environment(directory: Path, port: int, names_port: int, nodes_port: int) -> dict[str, str]:
    here = str(directory)
    return {
        **{name: text for name, text in os.environ.items() if not name.startswith("RABBITMQ_")},
        "HOME": here,  # where its cookie is
        "detached": "1",  # for its script: become the server instead of starting it
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(names_port),
        "RABBITMQ_CONFIG_FILE": f"{here}/none",
        "RABBITMQ_ADVANCED_CONFIG_FILE": f"{here}/none.config",
        "RABBITMQ_CONF_ENV_FILE": f"{here}/none",
        "RABBITMQ_DIST_PORT": str(nodes_port),
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{here}/enabled_plugins",
        "RABBITMQ_GENERATED_CONFIG_DIR": f"{here}/generated",
        "RABBITMQ_LOG_BASE": here,
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_MNESIA_BASE": f"{here}/mnesia",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"benchmark{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_PID_FILE": f"{here}/pid",
    }


def count_queues(directory: Path) -> int:
    """Return how many queues there are in the RabbitMQ that runs in `directory`."""
    environment = json.loads(Path(directory, _ENVIRONMENT).read_text())
    program = next(Path("/usr/lib/erlang").glob("erts-*/bin/erl_call"))
    done = subprocess.run(
        [program, "-sname", environment["RABBITMQ_NODENAME"], "-e"],
        input=b"length(rabbit_amqqueue:list()).\n",
        env=environment,
        capture_output=True,
        timeout=_PATIENCE,
        check=True,
    )
    return int(done.stdout.decode().removeprefix("{ok, ").removesuffix("}"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _quiet_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, and that no connection is given while a server takes seconds to start."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(10_000, 32_000)  # below what Linux takes for connections
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found


def _wait_until_it_answers(
    process: subprocess.Popen[bytes], port: int, question: bytes = b"", answer: bytes = b""
) -> None:
    """Wait until `process` listens on `port`, and answers so."""
    deadline = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                if not question:
                    return
                connection.sendall(question)
                if connection.recv(16).startswith(answer):
                    return
        except OSError:
            pass
        time.sleep(0.01)
    name = Path(str(process.args[0] if isinstance(process.args, (list, tuple)) else process.args)).name
    raise BenchmarkError(f"{name} does not answer (exit code {process.poll()})")
