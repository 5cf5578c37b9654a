"""`aiotq multi`: several named workers in the background of this machine, with the syntax of Celery's."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import typer
from typer.core import TyperCommand

from ..supervising.pidfile import holder
from .app_option import BROKER_VARIABLE, CommandFailed, Target, UsageError
from .daemon import check_system, expanded
from .node_words import Node, nodes

#: Seconds between looks whether a process has ended.
_LOOK: Final = 0.05
#: Seconds after which it is said who is still waited for.
_PATIENCE: Final = 10.0


class MultiCommand(TyperCommand):
    """Takes all words as they are: most of them are options of workers."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] in ("-h", "--help", "help"):
            return super().parse_args(ctx, ["--help"])
        ctx.args = args
        return args


def multi(context: typer.Context) -> None:
    """Start and stop several named workers in the background: start, stop, stopwait, restart, kill, show, names,
    expand.

    start 3 -A proj:app -c 4 -Q:1,2 images,video --pidfile=/run/%n.pid --logfile=/var/log/%n%I.log

    Workers are named (w1 w2), or counted (3: celery1 to celery3). Options are those of `aiotq worker`; with :1-3,5 or
    :w1,w2 they are for some workers alone. Nothing is kept: give the same words again; to stop, names and --pidfile are
    enough. A signal may be named when stopping (-INT, -9). stop does not wait, stopwait and restart do.
    """
    act, *words = context.args
    if act not in _ACTS:
        raise UsageError(f"multi: {', '.join(_ACTS)}, not {act!r}")
    check_system("multi")
    _ACTS[act](context.obj, words)


def _start(target: Target, words: Sequence[str]) -> None:
    _launch(target, nodes(words), "Starting")


def _stop(target: Target, words: Sequence[str]) -> None:
    found, number = _signalled(words, signal.SIGTERM)
    _send(found, number)


def _stopwait(target: Target, words: Sequence[str]) -> None:
    found, number = _signalled(words, signal.SIGTERM)
    _wait(_send(found, number))


def _restart(target: Target, words: Sequence[str]) -> None:
    found, number = _signalled(words, signal.SIGTERM)
    _wait(_send(found, number))
    _launch(target, found, "Restarting")


def _kill(target: Target, words: Sequence[str]) -> None:
    _send(nodes(words), signal.SIGKILL)


def _show(target: Target, words: Sequence[str]) -> None:
    for node in nodes(words):
        print(shlex.join(["aiotq", "worker", *_common(target), *node.words]))


def _names(target: Target, words: Sequence[str]) -> None:
    for node in nodes(words):
        print(node.name)


def _expand(target: Target, words: Sequence[str]) -> None:
    if not words:
        raise UsageError("multi expand: the text to expand is missing, as %n.pid")
    for node in nodes(words[1:]):
        print(expanded(words[0], node.name))


_ACTS: Final[Mapping[str, Callable[[Target, Sequence[str]], None]]] = {
    "start": _start,
    "stop": _stop,
    "stopwait": _stopwait,
    "stop_verify": _stopwait,
    "restart": _restart,
    "kill": _kill,
    "show": _show,
    "names": _names,
    "expand": _expand,
}


def _common(target: Target) -> list[str]:
    """Return what was said before `multi`."""
    app = [] if target.app is None else ["-A", target.app]
    return [*app, *(["--debug"] if target.debug else [])]


def _signalled(words: Sequence[str], default: signal.Signals) -> tuple[list[Node], signal.Signals]:
    """Return the workers that are named, and the signal, if one is."""
    found, rest = default, list[str]()
    for word in words:
        known = _signal(word)
        if known is None:
            rest.append(word)
        else:
            found = known
    return nodes(rest), found


def _signal(word: str) -> signal.Signals | None:
    name = word.removeprefix("-")
    if name == word or name.startswith("-"):
        return None
    with suppress(ValueError, KeyError):
        return signal.Signals(int(name)) if name.isdecimal() else signal.Signals["SIG" + name.removeprefix("SIG")]
    return None


def _launch(target: Target, found: Sequence[Node], how: str) -> None:
    """Start all at the same time, and wait until they run.

    Raises:
        CommandFailed: some don't.
    """
    print(f"> {how} nodes...")
    started: list[tuple[Node, subprocess.Popen[bytes] | None]] = []
    app = {} if target.broker is None else {BROKER_VARIABLE: target.broker}
    for node in found:
        if (pid := holder(node.file("--pidfile"))) is not None:
            print(f"\t> {node.name}: runs already, pid {pid}")
            started.append((node, None))
            continue
        words = [sys.executable, "-m", "aiotq", "worker", *_common(target), *node.words]
        started.append((node, subprocess.Popen(words, env={**os.environ, **app}, stdout=subprocess.DEVNULL)))
    failed = 0
    for node, process in started:
        is_well = process is not None and process.wait() == 0
        failed += not is_well
        if process is not None:
            print(f"\t> {node.name}: {'OK' if is_well else 'FAILED'}", flush=True)
    if failed:
        raise CommandFailed(f"{failed} of {len(found)} did not start")


def _send(found: Sequence[Node], number: signal.Signals) -> list[Node]:
    """Send a signal to those that run, and return them."""
    print("> Stopping nodes...")
    sent: list[Node] = []
    for node in found:
        pid = holder(node.file("--pidfile"))
        if pid is None:
            print(f"\t> {node.name}: DOWN")
            continue
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            sent.append(node)
        print(f"\t> {node.name}: {number.name.removeprefix('SIG')} -> {pid}", flush=True)
    return sent


def _wait(found: Sequence[Node]) -> None:
    """Wait until all have ended: each has its grace time, and says so in its log."""
    left, told = list(found), time.monotonic()
    if left:
        print(f"> Waiting for {len(left)} {'node' if len(left) == 1 else 'nodes'}...", flush=True)
    while left:
        for node in list(left):
            if holder(node.file("--pidfile")) is None:
                left.remove(node)
                print(f"\t> {node.name}: OK", flush=True)
        if left:
            if time.monotonic() - told >= _PATIENCE:
                told = time.monotonic()
                print(f"\t> still running: {', '.join(node.name for node in left)}", flush=True)
            time.sleep(_LOOK)
