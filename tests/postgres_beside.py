"""What stands beside a PostgreSQL in tests: a pooler in front of it, and a standby that follows it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self

from .keeper import place_of_files
from .servers import END, PostgresServer, await_port, free_port, postgres_program, temporary

#: Who a pooler runs as: it refuses to be root. None: who runs the tests.
_USER: Final = "nobody" if os.geteuid() == 0 else None


class PgBouncer:
    """A pooler of our own in transaction mode, in front of `server`; a context manager."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._temporary = temporary("bouncer-", place_of_files())
        self.directory = Path(self._temporary.name)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self._server.url.replace(f":{self._server.port}/", f":{self.port}/")

    def __enter__(self) -> Self:
        program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        assert program is not None, "pgbouncer is not installed: `make test` does that"
        config = self.directory / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self._server.port} user=aiotq\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\n"
        )
        self.directory.chmod(0o755)
        with (self.directory / "log").open("wb") as log:
            command = [program, str(config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=_USER)
        await_port(self.port)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(END)
        self._temporary.cleanup()


class Standby(PostgresServer):
    """A server that follows `primary`, which waits for it with each commit from then on; it can be promoted."""

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__()
        self._primary = primary

    def __enter__(self) -> Self:
        super().__enter__()
        self._primary.ask("alter system set synchronous_standby_names = '*'")
        self._primary.ask("select pg_reload_conf()")
        return self

    def make_data(self) -> None:
        where = ["-h", "127.0.0.1", "-p", str(self._primary.port), "-U", "aiotq"]
        self.run(postgres_program("pg_basebackup"), *where, "-D", self.data, "-R", "--checkpoint=fast", "--no-sync")

    def promote(self) -> None:
        """Make it accept writes."""
        (self.data / "postgresql.auto.conf").write_text("")  # where it was told to wait for a standby of its own
        self.ask("select pg_reload_conf()")
        self.ask("select pg_promote()")


def readable_by_postgres(file: Path) -> Path:
    """Return a copy of a key that a server takes: its own, and nobody else's."""
    copy = file.with_name(f"postgres-{file.name}")
    copy.write_bytes(file.read_bytes())
    copy.chmod(0o600)
    if _USER is not None:
        os.chown(copy, pwd.getpwnam(_USER).pw_uid, -1)
    return copy
