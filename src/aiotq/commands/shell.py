"""`aiotq shell`: Python with an app and its tasks at hand, and await at the top level."""

from __future__ import annotations

import ast
import asyncio
import builtins
import code
import importlib
import inspect
import sys
import threading
import types
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Annotated, Any, Final

import typer

import aiotq

from ..app import AioTQ
from ..core.inside import core_of
from .app_option import Target
from .command import command

#: What workflows are made of, and what is imported most.
_NAMES: Final = ("chain", "chord", "crontab", "group", "interval", "signature")


@command()
def shell(
    target: Target,
    plain: Annotated[bool, typer.Option("--plain", help="Python's own, even where IPython is installed.")] = False,
) -> None:
    """Open a Python in which the app, its tasks and workflows are at hand; await works at the top level."""
    app = target.load()
    names = scope_of(app)
    banner = banner_of(app, names)
    if not plain and sys.stdin.isatty():
        try:
            ipython = importlib.import_module("IPython")
        except ImportError:
            pass
        else:
            print(banner, file=sys.stderr)
            ipython.start_ipython(argv=["--no-banner"], user_ns=names)
            loop = importlib.import_module("IPython.core.async_helpers").get_asyncio_loop()
            loop.run_until_complete(app.close())  # in the loop in which its statements ran
            return
    run_console(names, banner)


def scope_of(app: AioTQ) -> dict[str, Any]:
    """Return what is at hand: the app, its tasks by the last part of their names (but for those that hide another)."""
    names: dict[str, Any] = {name: getattr(aiotq, name) for name in _NAMES}
    names |= {"aiotq": aiotq, "app": app}
    taken = {*names, *dir(builtins)}
    last_parts = [name.rpartition(".")[2] for name in core_of(app).registry.own_tasks]
    for name, task in core_of(app).registry.own_tasks.items():
        last = name.rpartition(".")[2]
        if last.isidentifier() and last not in taken and last_parts.count(last) == 1:
            names[last] = task
    return names


def banner_of(app: AioTQ, names: dict[str, Any]) -> str:
    """Return what is said at the beginning."""
    tasks = sorted(name for name, given in names.items() if isinstance(given, aiotq.Task))
    return (
        f"aiotq {aiotq.__version__}, Python {sys.version.split()[0]}. app is {core_of(app).main!r}.\n"
        f"Tasks: {', '.join(tasks) or 'none'}. Example: await app.control.ping()"
    )


def run_console(names: dict[str, Any], banner: str) -> None:
    """Read and run statements until there are no more; they run in one loop, which lives in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="aiotq.shell", daemon=True)
    thread.start()
    try:
        AwaitingConsole(names, loop).interact(banner, exitmsg="")
    finally:
        app = names["app"]
        if isinstance(app, AioTQ):
            asyncio.run_coroutine_threadsafe(app.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class AwaitingConsole(code.InteractiveConsole):
    """Python's console, whose statements run in a loop and may await."""

    def __init__(self, names: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(names)
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._loop = loop

    def runcode(self, code: types.CodeType) -> None:
        """Run a statement; Ctrl-C cancels what it awaits."""
        done: Future[Any] = Future()
        self._loop.call_soon_threadsafe(self._begin, code, done)
        try:
            done.result()
        except KeyboardInterrupt:
            done.cancel()
            self.write("\nKeyboardInterrupt\n")
        except CancelledError:
            self.write("cancelled\n")
        except SystemExit:
            raise
        except BaseException:
            self.showtraceback()

    def _begin(self, code: types.CodeType, done: Future[Any]) -> None:
        """Called in the loop."""
        try:
            found = types.FunctionType(code, self.locals)()
        except BaseException as exc:  # it is shown, or ends the shell, in the thread that waits
            done.set_exception(exc)
            return
        if not inspect.iscoroutine(found):
            done.set_result(found)
            return
        task = self._loop.create_task(_awaited(found, done), name="aiotq.shell.statement")
        done.add_done_callback(lambda each: self._loop.call_soon_threadsafe(task.cancel) if each.cancelled() else None)


async def _awaited(statement: Coroutine[Any, Any, Any], done: Future[Any]) -> None:
    try:
        value = await statement
    except BaseException as exc:  # as above
        if not done.cancelled():
            done.set_exception(exc)
        return
    if not done.cancelled():
        done.set_result(value)
