"""Private servers that keep results only, as those of `servers`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import pymysql

from .keeper import place_of_files
from .servers import END, await_port, free_port, shared_postgres, temporary, until_the_end


class MemcachedServer:
    """A memcached of our own; a context manager. It keeps nothing when it ends."""

    PROGRAM: Final = "memcached"

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"cache+memcached://{self.host}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = shutil.which(self.PROGRAM)
        assert program is not None, "memcached is not installed: `make test` does that"
        command = [program, "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-u", "nobody", "-m", "64"]
        self._process = subprocess.Popen([*command, *self._arguments], stdin=subprocess.DEVNULL)
        await_port(self.port)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(END)


@cache
def shared_memcached() -> MemcachedServer:
    """Return this test process's memcached, started when first wanted. Tests keep apart by their prefixes."""
    return until_the_end(MemcachedServer())


class MariaServer:
    """A MariaDB of our own, without users; a context manager. Tests keep apart by their databases."""

    def __init__(self) -> None:
        self._temporary = temporary("maria-", place_of_files())
        self.directory = Path(self._temporary.name)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0  #: databases

    @property
    def log(self) -> Path:
        return self.directory / "maria.log"

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
        data = self.directory / "data"
        user = ["--user=root"] if os.getuid() == 0 else []
        data.mkdir(exist_ok=True)  # it is enough: without users there need not be tables of them, which take seconds
        where = [f"--datadir={data}", f"--socket={self.directory}/socket", f"--pid-file={self.directory}/pid"]
        small = ["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M", "--skip-grant-tables"]
        listen = [f"--port={self.port}", "--bind-address=127.0.0.1", "--skip-name-resolve"]
        with self.log.open("ab") as log:
            command = [_program("mariadbd"), "--no-defaults", *where, *small, *listen, *user]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        await_port(self.port)

    def database(self) -> str:
        """Return the URL of a new database, as Celery writes it."""
        self._made += 1
        name = f"test_{self._made}"
        self.ask(f"CREATE DATABASE {name}")
        return f"db+mysql://root@127.0.0.1:{self.port}/{name}"

    def ask(self, sql: str) -> Sequence[Any]:
        """Run a statement, for looking at what is there and for doing harm; return its rows."""
        with closing(pymysql.connect(host="127.0.0.1", port=self.port, user="root", autocommit=True)) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            rows: Sequence[Any] = cursor.fetchall()
            return rows

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(END)


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert found is not None, f"MariaDB's {name} is not installed: `make test` does that"
    return found


@cache
def shared_maria() -> MariaServer:
    """Return this test process's MariaDB, started when first wanted. Tests keep apart by their databases."""
    return until_the_end(MariaServer())


@cache
def results_in_postgres() -> str:
    """Return the URL of a database for results in this test process's PostgreSQL."""
    server = shared_postgres()
    server.ask("create database results")
    return f"db+{server.url.rpartition('/')[0]}/results"


@cache
def results_in_maria() -> str:
    """Return the URL of a database for results in this test process's MariaDB."""
    return shared_maria().database()
