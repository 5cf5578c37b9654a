"""Survey Python's standard library: the client of `survey.py`, which starts the worker too.

    python demo.py                  # some hundreds of modules, three tasks each
    python demo.py ~/my/project     # your own code

The worker is a process of its own; the two meet in a SQLite file. Kill the worker while it works
(`kill -9`): another one is started and nothing is lost. Ctrl-C stops both. Meanwhile the dashboard shows
what goes on, at the address that is printed, where aiotq[web] is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import platform
import secrets
import shlex
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from survey import Counts, app, parse, read, render

from aiotq import OperationalError, RemoteError

HERE: Final = Path(__file__).resolve().parent
STDLIB: Final = Path(sysconfig.get_path("stdlib")).resolve()
#: What is no part of the library, or contains files that are broken on purpose.
LEFT_OUT: Final = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "__pycache__"})
#: Seconds for the worker to stop: its grace time for running tasks, and some for the rest.
STOP_TIMEOUT: Final = 45.0
#: A worker that is killed so often has a reason which one more would meet too.
MOST_RESTARTS: Final = 10
#: Rows of the table, and failures that are shown.
SHOWN: Final = 10

Show = Callable[["Module"], None]


class WorkerFailed(Exception):
    """The worker did not do what it was started for; the text has the end of its log."""


@dataclass(frozen=True, slots=True)
class Module:
    """What the survey found in one file; without counts there was a problem."""

    name: str
    counts: Counts | None
    lengths: str = ""
    tasks: int = 3
    problem: str = ""


# The client: this is how aiotq is used.


async def survey(paths: Sequence[Path], root: Path, show: Show = lambda module: None) -> list[Module]:
    """Have workers look at each of `paths`, all at once; `show` is told of each module when it is done."""
    async with app, asyncio.TaskGroup() as group:
        examining = [group.create_task(examine(path, root), name=f"examine {path}") for path in paths]
        for examined in asyncio.as_completed(examining):
            show(await examined)
    return [task.result() for task in examining]


async def examine(path: Path, root: Path) -> Module:
    """Have one file read, parsed and rendered, each by a task that gets what the one before returned."""
    name = module_name(path, root)
    sent = 1
    try:
        reading = await read.delay(str(path))
        source = await reading
        sent = 2
        parsing = await parse.delay(source)
        counts = await parsing
        sent = 3
        rendering = await render.delay(counts)
        return Module(name, counts, await rendering)
    except OperationalError:
        raise  # the queue failed, not a task: there is no point in going on
    except Exception as exc:  # whatever a task raised is raised here, and is a finding like another
        text = str(exc) if isinstance(exc, RemoteError) else f"{type(exc).__name__}: {exc}"
        return Module(name, None, tasks=sent, problem=text)


def find_modules(root: Path) -> list[Path]:
    """Return the source files below `root`, in the order of their names."""
    found: list[Path] = []
    for directory, subdirectories, files in os.walk(root):
        subdirectories[:] = [name for name in subdirectories if name not in LEFT_OUT]
        found += [Path(directory, name) for name in files if name.endswith(".py")]
    return sorted(found)


def module_name(path: Path, root: Path) -> str:
    """Return the name by which the module at `path` is imported when `root` is on the Python path."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


# The worker: what you would type in another terminal.


class WorkerProcess:
    """`aiotq worker survey:app`, started, started again when it is killed, and stopped."""

    def __init__(self, url: str, log: Path, console: Console) -> None:
        self._environment = {**os.environ, "AIOTQ_BROKER_URL": url}
        self._log = log
        self._console = console
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> int:
        """Start the process and return its id; it is ready soon after, and what is sent meanwhile waits for it."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "aiotq", "worker", "survey:app"),
                cwd=HERE,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # Ctrl-C comes to us, and we stop it when we need it no longer
            )
        return self._process.pid

    async def mind(self) -> None:
        """Start another worker whenever this one is killed, until cancelled.

        Raises:
            WorkerFailed: it ended by itself, or is killed again and again.
        """
        for _ in range(MOST_RESTARTS):
            code = await self._ended()
            if code >= 0:
                raise WorkerFailed(f"The worker ended with exit code {code}.{self._end_of_log()}")
            died = f"The worker was killed ({signal.Signals(-code).name})"
            pid = await self.start()
            self._console.print(
                f"{died}; another one runs, process {pid}. Tasks that were running start again when the dead "
                f"worker's lease ends, within {app.conf.worker_lease:g} s or so."
            )
        raise WorkerFailed(f"The worker was killed {MOST_RESTARTS} times.{self._end_of_log()}")

    async def stop(self) -> None:
        """Have the worker finish what it runs and end; kill it when it doesn't.

        Raises:
            WorkerFailed: it had to be killed, or ended with an error.
        """
        process = self._process
        if process is None or process.returncode is not None:
            return
        began = time.perf_counter()
        process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                code = await self._ended()
        except TimeoutError:
            text = f"The worker did not stop within {STOP_TIMEOUT:g} s and was killed.{self._end_of_log()}"
            raise WorkerFailed(text) from None
        finally:
            if process.returncode is None:
                process.kill()
        if code != 0:
            raise WorkerFailed(f"The worker stopped with exit code {code}.{self._end_of_log()}")
        self._console.print(f"Worker stopped cleanly in {time.perf_counter() - began:.1f} s (exit code 0).")

    async def _ended(self) -> int:
        assert self._process is not None, "start() comes first"
        return await self._process.wait()

    def _end_of_log(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\nThe end of its log:\n  " + "\n  ".join(lines[-15:] or ["(nothing)"])


@asynccontextmanager
async def running_worker(url: str, log: Path, console: Console) -> AsyncIterator[None]:
    """Keep a worker running on the database `url` meanwhile.

    Raises:
        ExceptionGroup: of `WorkerFailed` or whatever was raised meanwhile.
        WorkerFailed: the worker did not stop as it should.
    """
    worker = WorkerProcess(url, log, console)
    pid = await worker.start()
    console.print(f"Worker: process {pid}, `aiotq worker survey:app`, on {url}", soft_wrap=True, markup=False)
    try:
        async with asyncio.TaskGroup() as group:
            minding = group.create_task(worker.mind(), name="mind the worker")
            yield
            minding.cancel()
    except BaseException:  # what went wrong is the news, not how the worker took it
        with suppress(WorkerFailed):
            await worker.stop()
        raise
    await worker.stop()


# The dashboard: one line in an application of your own, `api.mount("/tasks", app.dashboard(auth=…))`.


@asynccontextmanager
async def showing_dashboard(console: Console) -> AsyncIterator[None]:
    """Serve the dashboard meanwhile, and say where it is; nothing if its libraries are not installed."""
    try:
        from aiotq.web.listening import listen  # noqa: PLC0415  # the demo runs without it
        from aiotq.web.serving import serving_here  # noqa: PLC0415

        token = secrets.token_urlsafe(12)
        dashboard = app.dashboard(auth=token)
    except ImportError as error:
        console.print(f"No dashboard: {error.name} is not installed (pip install 'aiotq[web]').", markup=False)
        yield
        return
    listener = listen("127.0.0.1", 0)
    async with app, serving_here(dashboard, listener, dashboard.send_away):
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        console.print(f"Dashboard: {address} while this runs; token {token}", markup=False, highlight=False)
        yield


# What a person sees.


@contextmanager
def progress(console: Console, total: int) -> Iterator[Show]:
    """Show how far the survey is: a bar on a terminal, some lines elsewhere."""
    if console.is_terminal:
        columns = (TextColumn("{task.description:<30.30}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("waiting for the worker", total=total)
            yield lambda module: bar.update(task, advance=1, description=escape(module.name))
            bar.update(task, description="all modules")
    else:
        count = 0

        def show(module: Module) -> None:
            nonlocal count
            count += 1
            if count * 10 // total > (count - 1) * 10 // total:
                console.print(f"{count:5} of {total} modules, the last was {module.name}", highlight=False)

        yield show


def report(console: Console, title: str, modules: Sequence[Module], seconds: float) -> None:
    """Print the table of the largest modules, the totals, and how long it took."""
    counted = [(module, module.counts) for module in modules if module.counts is not None]
    table = Table(title=title, show_footer=True)
    table.add_column("module", f"all {len(counted)}", no_wrap=True, overflow="ellipsis")
    for column in ("lines", "classes", "functions"):
        total = sum(counts[column] for _, counts in counted)
        table.add_column(column, f"{total:,}", justify="right", no_wrap=True)
    table.add_column("their lengths", "1 to >64 lines", no_wrap=True)
    counted.sort(key=lambda pair: pair[1]["lines"], reverse=True)
    for module, counts in counted[:SHOWN]:
        numbers = (f"{counts[column]:,}" for column in ("lines", "classes", "functions"))
        table.add_row(escape(module.name), *numbers, module.lengths)
    console.print(table)

    failed = [module for module in modules if module.counts is None]
    if failed:
        console.print(f"{len(failed)} of {len(modules)} could not be surveyed:")
        for module in failed[:SHOWN]:
            console.print(f"  {module.name}: {module.problem}", markup=False, highlight=False)
        if len(failed) > SHOWN:
            console.print(f"  and {len(failed) - SHOWN} more")
    tasks = sum(module.tasks for module in modules)
    console.print(
        f"{len(modules):,} modules, {len(failed)} failed; {tasks:,} tasks in {seconds:.1f} s: "
        f"{tasks / seconds:,.0f} tasks a second."
    )


async def run(options: argparse.Namespace, console: Console) -> None:
    """Do what the command line asks."""
    this_task = asyncio.current_task()
    assert this_task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):  # as with Ctrl-C, the worker is stopped
        asyncio.get_running_loop().add_signal_handler(number, this_task.cancel)

    root: Path = options.directory
    paths = find_modules(root)[: options.limit]
    if not paths:
        raise WorkerFailed(f"There are no Python files in {root}.")
    version = platform.python_version()
    title = f"Python {version}, standard library" if root == STDLIB else root.name
    console.print(f"{title}: {len(paths)} modules in {root}", soft_wrap=True, markup=False)

    async with AsyncExitStack() as stack:
        database: Path | None = options.database
        if database is None:
            database = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aiotq-demo-")), "survey.db")
        url = "sqlite:///" + quote(str(database.resolve()))
        app.conf.broker_url = url
        if options.worker:
            log = database.with_name(database.name + ".worker.log")
            await stack.enter_async_context(running_worker(url, log, console))
        else:
            command = f"AIOTQ_BROKER_URL={shlex.quote(url)} aiotq worker survey:app"
            console.print(f"No worker is started here. In {HERE}:\n  {command}", soft_wrap=True, markup=False)
        if options.dashboard:
            await stack.enter_async_context(showing_dashboard(console))
        with progress(console, len(paths)) as show:
            began = time.perf_counter()
            modules = await survey(paths, root, show)
            seconds = time.perf_counter() - began
        report(console, title, modules, seconds)


def parse_arguments() -> argparse.Namespace:
    """Return what the command line says, checked."""
    parser = argparse.ArgumentParser(description="Survey Python's standard library with an aiotq worker.")
    parser.add_argument(
        "directory", type=Path, nargs="?", default=STDLIB, help="survey this one's Python files instead"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="survey only the first N modules")
    parser.add_argument("--database", type=Path, metavar="PATH", help="the SQLite file (default: a temporary one)")
    parser.add_argument("--no-worker", dest="worker", action="store_false", help="somebody else runs the worker")
    parser.add_argument("--no-dashboard", dest="dashboard", action="store_false", help="serve no dashboard meanwhile")
    options = parser.parse_args()
    if options.limit is not None and options.limit < 1:
        parser.error("--limit must be 1 or more")
    if not options.worker and options.database is None:
        parser.error("--no-worker needs --database PATH, the file on which the worker runs")
    if options.database is not None and not options.database.resolve().parent.is_dir():
        parser.error(f"there is no directory {options.database.resolve().parent} for the database")
    if not options.directory.is_dir():
        parser.error(f"{options.directory} is not a directory")
    options.directory = options.directory.resolve()
    return options


def main() -> int:
    """Run the demo and return its exit code."""
    options = parse_arguments()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no such bars shows something else
    console = Console()
    try:
        asyncio.run(run(options, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Interrupted.")
        return 130
    except (WorkerFailed, OperationalError, ExceptionGroup) as error:
        causes = list(leaves(error))
        if not all(isinstance(cause, WorkerFailed | OperationalError) for cause in causes):
            raise  # a defect of this program
        for text in dict.fromkeys(map(str, causes)):
            Console(stderr=True).print(text, markup=False, highlight=False, style="red")
        return 1
    return 0


def leaves(error: Exception) -> Iterator[Exception]:
    """Yield `error`, or the errors in it when it is a group."""
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error


if __name__ == "__main__":
    sys.exit(main())
