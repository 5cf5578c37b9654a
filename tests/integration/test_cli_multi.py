"""Workers in the background: `aiotq worker -D` and `aiotq multi`."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ..waiting import wait_until
from .shells import Shell

HOST = socket.gethostname()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell; what it started in the background is killed at the end."""
    shell = Shell(tmp_path)
    yield shell
    for file in tmp_path.glob("*.pid"):
        with suppress(ProcessLookupError, ValueError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def pid_of(shell: Shell, name: str) -> int:
    return int((shell.directory / f"{name}.pid").read_text())


def log_of(shell: Shell, name: str) -> str:
    return (shell.directory / f"{name}.log").read_text()


async def test_multi_starts_restarts_and_stops_named_workers(shell: Shell) -> None:
    words = ("w1", "w2", "-A", "jobs", "-l", "INFO", "-c:w2", "3", "--max-tasks-per-worker:w1", "9")

    assert shell.output("multi", "names", *words).split() == [f"w1@{HOST}", f"w2@{HOST}"]
    assert shell.output("multi", "expand", "/run/%n", *words).split() == ["/run/w1", "/run/w2"]
    assert f"-c 3 -n w2@{HOST} --detach" in shell.output("multi", "show", *words)
    told = shell.output("multi", "start", *words)
    assert [f"w{number}@{HOST}: OK" in told for number in (1, 2)] == [True, True]
    pids = [pid_of(shell, "w1"), pid_of(shell, "w2")]
    assert f"worker w2@{HOST} is ready (pid {pids[1]})" in log_of(shell, "w2")
    # What is below w1 has a file of its own, as %I says.
    assert f"worker w1@{HOST}-1 is ready" in log_of(shell, "w1-1")
    for pid in pids:
        assert os.getsid(pid) not in (pid, os.getsid(0))  # no terminal, and none to be had
    assert f"runs already, pid {pids[0]}" in shell.run("multi", "start", *words).stdout

    told = shell.output("multi", "restart", "w2", "-A", "jobs", "-l", "INFO", "-c:w2", "3")
    assert f"w2@{HOST}: TERM -> {pids[1]}" in told
    assert "Restarting" in told
    assert pid_of(shell, "w2") != pids[1]
    (shell.directory / "w3.pid").write_text("1")  # left over: nobody holds it
    told = shell.output("multi", "stopwait", "w1", "w2", "w3", "-INT")
    assert f"w3@{HOST}: DOWN" in told
    assert told.count(": OK") == 2
    assert not (shell.directory / "w1.pid").exists()
    assert f"worker w2@{HOST} stopped" in log_of(shell, "w2")


async def test_a_worker_in_the_background_says_where_it_is_or_why_it_is_not(shell: Shell) -> None:
    there = ("--pidfile", "a.pid", "--logfile", "a.log")
    told = shell.output("worker", "jobs", "-D", "-n", "a", "--umask", "077", *there)
    pid = pid_of(shell, "a")
    assert told == f"worker in the background: pid {pid}, log in {shell.directory / 'a.log'}"
    assert (shell.directory / "a.log").stat().st_mode & 0o777 == 0o600
    assert f"says that process {pid} runs" in shell.error("worker", "jobs", "-D", "-n", "a", *there)
    os.kill(pid, signal.SIGKILL)  # what it leaves behind is in nobody's way
    shell.output("worker", "jobs", "-D", "-n", "a", *there)
    os.kill(pid_of(shell, "a"), signal.SIGTERM)
    await wait_until(lambda: not (shell.directory / "a.pid").exists(), "it has ended, and its file is gone")

    (shell.directory / "jobs.py").write_text("raise ValueError('a mistake')")
    done = shell.run("worker", "jobs", "-D", "-n", "b")
    assert done.returncode == 1
    assert f"{shell.directory / 'b.log'} says:" in done.stderr
    assert "a mistake" in done.stderr


def test_what_can_not_be_done_in_the_background_is_refused(shell: Shell) -> None:
    assert "which app?" in shell.error("worker", "-D", code=2)
    assert "--umask: an octal number" in shell.error("worker", "jobs", "--umask", "9", code=2)
    assert "--uid, --gid: " in shell.error("worker", "jobs", "--uid", "nobody-knows")
    assert "No such file or directory" in shell.error("worker", "jobs", "--workdir", "nowhere")
    assert "multi: start, stop" in shell.error("multi", "begin", code=2)


#: Becomes what it is told, as a worker does before it loads anything, and says who it is then.
_BECOME = """
import json, os, sys
from pathlib import Path
from aiotq.commands.app_option import CommandFailed
from aiotq.commands.daemon import Daemon

uid, gid = (word or None for word in sys.argv[1:])
try:
    held = Daemon(False, "%n.pid", "%n.log", None, uid, gid, "027").begin("a")
except CommandFailed as exc:
    sys.exit(str(exc))
try:
    os.setuid(0)
    may_go_back = os.getuid() == 0
except PermissionError:
    may_go_back = False
owners = [[each.st_uid, each.st_gid, oct(each.st_mode & 0o777)] for each in map(os.stat, ("a.log", "a.pid"))]
print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups(), owners, may_go_back]))
"""


def test_a_worker_becomes_the_user_that_it_is_told_and_there_is_no_way_back() -> None:
    """Without root nobody may become another: that is said, and one's own name changes nothing."""

    def become(uid: str, gid: str = "") -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", _BECOME, uid, gid]
        return subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=60, check=False)

    def became(uid: str, gid: str = "") -> list[Any]:
        done = become(uid, gid)
        assert done.returncode == 0, done.stderr
        found: list[Any] = json.loads(done.stdout)
        return found

    me, nobody = pwd.getpwuid(os.getuid()), pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:  # which another user gets to
        assert became(me.pw_name)[0] == [me.pw_uid] * 3
        if os.getuid() != 0:
            assert "--uid, --gid: only root may run as somebody else" in become("nobody").stderr
            return
        for file in Path(place).iterdir():
            file.unlink()
        shutil.chown(place, nobody.pw_uid)
        other = next(each.gr_gid for each in grp.getgrall() if each.gr_gid not in (0, nobody.pw_gid))
        for words, gid in ((("nobody",), nobody.pw_gid), ((str(nobody.pw_uid), str(other)), other)):
            uids, gids, groups, files, may_go_back = became(*words)
            assert (uids, gids) == ([nobody.pw_uid] * 3, [gid] * 3)
            assert 0 not in groups, "root's groups are left as well"
            assert [each[:2] for each in files] == [[nobody.pw_uid, gid]] * 2
            assert not may_go_back
            for file in Path(place).iterdir():
                file.unlink()
