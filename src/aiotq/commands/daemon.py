"""A worker in the background (`--detach`), its pid file and its log file, and as whom and where it runs."""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from ..supervising import starting
from ..supervising.pidfile import Held, take
from ..supervising.supervisor import default_name
from .app_option import CommandFailed, UsageError

Detach = Annotated[
    bool, typer.Option("-D", "--detach", help="Run in the background; return when it is ready, or has failed.")
]
Pidfile = Annotated[
    str | None, typer.Option("--pidfile", metavar="FILE", help="Say there which process runs; %n is its name.")
]
Logfile = Annotated[
    str | None,
    typer.Option("-f", "--logfile", metavar="FILE", help="Log to there: %n, %h, %i as in Celery. With -D: %n%I.log."),
]
Workdir = Annotated[str | None, typer.Option("--workdir", metavar="DIRECTORY", help="Change to there first.")]
Uid = Annotated[str | None, typer.Option("--uid", metavar="USER", help="Run as that user (root may).")]
Gid = Annotated[str | None, typer.Option("--gid", metavar="GROUP", help="Run as that group.")]
Umask = Annotated[str | None, typer.Option("--umask", metavar="OCTAL", help="Make files with that umask.")]

#: Seconds that a command waits for a process in the background; one that is not ready then may be waiting for a broker.
_PATIENCE: Final = 30.0
_DEFAULT_LOG: Final = "%n%I.log"
#: Lines of the log that are shown if it did not start.
_LINES: Final = 20


def expanded(pattern: str, name: str, number: int = 0) -> str:
    """Return the name of a file: `%n` the name up to its @, `%d` what is behind that, `%h` all of it, `%i` the number
    of a worker under its parent (0: the parent, or one alone), `%I` that with a hyphen or nothing."""
    before, _, behind = name.partition("@")
    values = {"n": before, "d": behind or socket.gethostname(), "h": name, "%": "%"}
    values |= {"i": str(number), "I": f"-{number}" if number else ""}
    return _replaced(pattern, values)


def per_worker(pattern: str, name: str) -> str | None:
    """Return `pattern` with all but the number of the worker; None: all workers share a file."""
    if "%i" not in pattern and "%I" not in pattern:
        return None
    before, _, behind = name.partition("@")
    return _replaced(pattern, {"n": before, "d": behind or socket.gethostname(), "h": name})


def _replaced(pattern: str, values: dict[str, str]) -> str:
    pieces = pattern.split("%")
    made, index = pieces[0], 1
    while index < len(pieces):
        piece = pieces[index]
        if piece == "" and "%" in values and index + 1 < len(pieces):  # two of them
            made += "%" + pieces[index + 1]
            index += 1
        elif piece[:1] in values and piece:
            made += values[piece[0]] + piece[1:]
        else:
            made += "%" + piece
        index += 1
    return made


@dataclass(frozen=True, slots=True)
class Daemon:
    """As whom and where a worker runs, and what it is seen by."""

    detach: bool
    pidfile: str | None
    logfile: str | None
    workdir: str | None
    uid: str | None
    gid: str | None
    umask: str | None

    def begin(self, name: str | None) -> Held | None:
        """Become it, and return the file that names it: with `detach` in a process of its own, whose start this one
        waits for, and ends.

        Raises:
            CommandFailed: what it asks for can't be.
            PidfileTaken: it runs already.
        """
        mask = _mask(self.umask)
        if self.detach or self.pidfile is not None:
            check_system("--detach and --pidfile")
        try:
            if self.detach:
                _detach()
            if self.uid is not None or self.gid is not None:
                _become(self.uid, self.gid)
            if mask is not None:
                os.umask(mask)
            if self.workdir is not None:
                os.chdir(self.workdir)
            return self._settle(name or default_name())
        except OSError as exc:
            raise CommandFailed(f"{exc.strerror}: {exc.filename}" if exc.filename else str(exc)) from exc

    def _settle(self, name: str) -> Held | None:
        held = None if self.pidfile is None else take(expanded(self.pidfile, name))
        logfile = self.logfile or (_DEFAULT_LOG if self.detach else None)
        if logfile is None:
            return held
        path = os.path.abspath(expanded(logfile, name))
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(log).st_size
        if self.detach:
            starting.tell(json.dumps({"pid": os.getpid(), "log": path, "size": size}))
            _have(os.open(os.devnull, os.O_RDONLY), 0)
            _have(log, 1)
        _have(log, 2)
        os.close(log)
        return held


def _have(fd: int, number: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(fd, number)


def check_system(what: str) -> None:
    """Check that processes of workers can be kept, or put into the background, on this system.

    Raises:
        UsageError: they can't (Windows).
    """
    if not hasattr(os, "fork"):
        raise UsageError(f"{what}: not on this system; whoever starts services there keeps workers running")


def _mask(text: str | None) -> int | None:
    try:
        mask = None if text is None else int(text, 8)
    except ValueError:
        mask = -1
    if mask is not None and not 0 <= mask <= 0o777:
        raise UsageError(f"--umask: an octal number up to 777, not {text!r}")
    return mask


def _become(uid: str | None, gid: str | None) -> None:
    import grp  # noqa: PLC0415  # as pwd: not everywhere
    import pwd  # noqa: PLC0415

    try:
        user = None if uid is None else pwd.getpwuid(int(uid)) if uid.isdecimal() else pwd.getpwnam(uid)
        group = None if gid is None else int(gid) if gid.isdecimal() else grp.getgrnam(gid).gr_gid
    except KeyError as exc:
        raise CommandFailed(f"--uid, --gid: {exc.args[0]}") from exc
    if group is None:
        group = os.getgid() if user is None else user.pw_gid
    if (os.getuid() if user is None else user.pw_uid, group) == (os.geteuid(), os.getegid()):
        return  # it is them already
    try:
        if user is not None:
            os.initgroups(user.pw_name, group)
        os.setgid(group)
        if user is not None:
            os.setuid(user.pw_uid)
    except PermissionError as exc:
        raise CommandFailed("--uid, --gid: only root may run as somebody else") from exc


def _detach() -> None:
    """Go on in a process without a terminal that nobody waits for; the present one waits for its start, and exits."""
    sys.stdout.flush()
    heard, told = os.pipe()
    if os.fork() > 0:
        os.close(told)
        os._exit(_await(heard))
    os.close(heard)
    os.setsid()
    if os.fork() > 0:  # who leads a session may get a terminal again
        os._exit(0)
    starting.expected(told)


def _await(pipe: int) -> int:
    """Wait until the process at the other end runs, or has ended; return the exit code."""
    said, deadline = b"", time.monotonic() + _PATIENCE
    while not said.endswith(starting.STARTED):
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            break
        more = os.read(pipe, 65536)
        if not more:
            return _failed(said)
        said += more
    first, _, rest = said.partition(b"\n")
    if not first:
        return 1
    facts = json.loads(first)
    late = "" if rest else ", not ready yet"
    print(f"worker in the background: pid {facts['pid']}, log in {facts['log']}{late}", flush=True)
    return 0


def _failed(said: bytes) -> int:
    if said:  # else it had a terminal, and has said why
        facts = json.loads(said.partition(b"\n")[0])
        print(f"aiotq: the worker did not start; {facts['log']} says:", file=sys.stderr)
        with suppress(OSError):
            log = Path(facts["log"]).read_bytes()[facts["size"] :]
            print("\n".join(log.decode(errors="replace").splitlines()[-_LINES:]), file=sys.stderr)
        sys.stderr.flush()
    return 1
