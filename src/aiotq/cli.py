"""The command line: words into calls. Nothing here that a library user could not do."""

from __future__ import annotations

import difflib
import gc
import io
import os
import sys
import traceback
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Final, NoReturn, cast

import typer

from . import __version__, states
from .app import AioTQ
from .commands import output
from .commands.app_option import CommandFailed, Target, UsageError
from .commands.dead import dead
from .commands.graph import graph
from .commands.log_format import LogFormat, start_logging, use_format
from .commands.log_signals import tell_logging
from .commands.options import (
    App,
    Broker,
    Debug,
    First,
    QueueName,
    TaskId,
    TaskName,
    Timeout,
    Wait,
    Yes,
    confirm,
    read_list,
    read_names,
    read_object,
    read_queues,
    run,
    target_of,
)
from .commands.reload import Reload, run_reloading
from .commands.report import report
from .commands.revoke import revoke
from .commands.supervisor import run_fleet
from .commands.worker_process import run_worker
from .exceptions import AioTQError
from .results.handle import AsyncResult
from .tasks.options import CallOptions
from .transport import QueueOrder, QueueStats
from .transport.routing import declared_queues, select_queues
from .worker.worker import WorkerOptions

cli: Final = typer.Typer(
    name="aiotq",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.add_typer(dead)

_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def main() -> NoReturn:
    """Run the command that this process was started with, and exit."""
    gc.disable()  # what is imported stays, and commands are short; a worker enables it when it runs
    target = Target()
    _open_missing_streams()
    cast("io.TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")
    try:
        try:
            cli(obj=target, prog_name="aiotq")
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as exc:
        _report(exc, debug=target.debug)
        sys.exit(exc.exit_code if isinstance(exc, CommandFailed) else 1)
    sys.exit(0)


def _open_missing_streams() -> None:
    """Open what this process was started without: else the database gets its number, and what is printed to it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # for the life of the process


def _report(error: Exception, *, debug: bool) -> None:
    for each in dict.fromkeys(_leaves(error)):
        if isinstance(each, AioTQError):
            _complain(str(each))
        else:
            hint = "" if debug else " (-v shows where)"
            _complain(f"unexpected {type(each).__name__}: {each}{hint}")
    if debug:
        traceback.print_exception(error)


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for each in cast("ExceptionGroup[Exception]", error).exceptions:
            yield from _leaves(each)
    else:
        yield error


def _complain(text: str) -> None:
    typer.secho(f"aiotq: {text}", err=True, fg="red" if sys.stderr.isatty() else None)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"aiotq {__version__}")
        raise typer.Exit


@cli.callback()
def options_of_all(
    context: typer.Context,
    app: App = None,
    broker: Broker = None,
    debug: Debug = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A task queue for asyncio.

    A command's app is given by -A, or as its first word, or by the environment variable AIOTQ_APP.
    """
    target: Target = context.obj
    target.given(app, broker, debug)


@cli.command()
def worker(
    context: typer.Context,
    first: First = None,
    app: App = None,
    queues: Annotated[
        str | None,
        typer.Option("-Q", "--queues", metavar="A,B", help="Queues to consume from; with weights as A:3,B:1."),
    ] = None,
    exclude_queues: Annotated[
        str | None, typer.Option("-X", "--exclude-queues", metavar="C", help="All of task_queues but these.")
    ] = None,
    strict_queues: Annotated[
        bool | None,
        typer.Option(
            "--strict-queues/--fair-queues",
            show_default=False,
            help="Nothing from a queue while one before it has anything: the last may starve.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("-c", "--concurrency", metavar="N", min=1, help="Coroutine tasks at a time.")
    ] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="Plain functions at a time.")] = None,
    cpu_processes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help='Child processes for run="process" tasks.')
    ] = None,
    prefetch: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Messages to hold beyond what can start.")
    ] = None,
    grace: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Time for running tasks to end after a stop.")
    ] = None,
    uvloop: Annotated[
        bool | None,
        typer.Option("--uvloop/--no-uvloop", show_default=False, help="Run on uvloop's event loop (aiotq[uvloop])."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("-n", "--name", metavar="NAME", help="What this worker is called in logs.")
    ] = None,
    level: Annotated[
        str, typer.Option("-l", "--level", metavar="LEVEL", help=f"One of {', '.join(_LEVELS)}.")
    ] = "INFO",
    log_format: LogFormat = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Whole worker processes.")] = 1,
    reload: Reload = False,
    banner: Annotated[
        bool, typer.Option("--banner/--no-banner", show_default=False, help="Say at the start what this worker does.")
    ] = True,
    parent_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    broker: Broker = None,
    debug: Debug = False,
) -> None:
    """Run tasks until SIGTERM or SIGINT (Ctrl-C).

    The first one stops cleanly: running tasks may end within the grace time, the rest is handed back. The
    second hands all back at once, the third exits at once.
    """
    if parent_fd is not None:
        os.set_inheritable(parent_fd, False)
    target = target_of(context, app, broker, debug)
    target.split([first])
    if level.upper() not in _LEVELS:
        raise UsageError(f"--level must be one of {', '.join(_LEVELS)}, not {level!r}")
    for option, text in (("--queues", queues), ("--exclude-queues", exclude_queues)):
        if text is not None and not read_names(text):
            raise UsageError(f"{option} names no queue: write them as hi,lo")
    if workers > 1 or reload:
        start_logging(level.upper(), log_format, "workers")
        given = {
            "--app": target.spec,
            "--broker": target.broker,
            "--queues": queues,
            "--exclude-queues": exclude_queues,
            "--concurrency": concurrency,
            "--threads": threads,
            "--cpu-processes": cpu_processes,
            "--prefetch": prefetch,
            "--grace": grace,
            "--level": level,
            "--log-format": log_format,
        }
        arguments = [word for option, wanted in given.items() if wanted is not None for word in (option, str(wanted))]
        if strict_queues is not None:
            arguments.append("--strict-queues" if strict_queues else "--fair-queues")
        if uvloop is not None:
            arguments.append("--uvloop" if uvloop else "--no-uvloop")
        arguments += ["--debug"] if target.debug else []
        if reload:
            is_well = run_reloading(arguments, app=target.spec, name=name, count=workers)
        else:
            is_well = run_fleet(arguments, name=name, count=workers)
        if not is_well:
            raise typer.Exit(1)
        return
    label = None if parent_fd is None else name
    handler = start_logging(level.upper(), log_format, label)
    loaded = target.load()
    log_format = log_format or loaded.conf.worker_log_format
    use_format(handler, log_format, label)
    tell_logging(level.upper(), handler)
    overrides: dict[str, Any] = {
        "worker_concurrency": concurrency,
        "worker_threads": threads,
        "worker_processes": cpu_processes,
        "worker_prefetch": prefetch,
        "worker_grace": grace,
        "worker_uvloop": uvloop,
    }
    conf = loaded.conf
    conf.update({setting: wanted for setting, wanted in overrides.items() if wanted is not None})
    if strict_queues is not None:
        conf.worker_queue_order = "strict" if strict_queues else "fair"
    chosen, weights = read_queues(queues, known=declared_queues(conf))
    if weights and conf.worker_queue_order == "strict":
        raise UsageError("--queues: weights mean nothing in strict order; write the names in that order")
    options = WorkerOptions(
        queues=select_queues(conf, chosen, read_names(exclude_queues or "")),
        order=QueueOrder({**conf.worker_queue_weights, **weights}, conf.worker_queue_order == "strict"),
        concurrency=conf.worker_concurrency,
        threads=conf.worker_threads,
        processes=conf.worker_processes or os.cpu_count() or 1,
        prefetch=conf.worker_prefetch,
        grace=conf.worker_grace,
        name=name,
        leaves_threads=True,
    )
    announce = partial(output.banner, loaded, target.spec, options) if banner and log_format == "text" else None
    run_worker(loaded, options, announce=announce, parent_fd=parent_fd)


@cli.command()
def call(
    context: typer.Context,
    first: First = None,
    second: TaskName = None,
    args: Annotated[str, typer.Option(metavar="JSON", help="Positional arguments: a list.")] = "[]",
    kwargs: Annotated[str, typer.Option(metavar="JSON", help="Keyword arguments: an object.")] = "{}",
    queue: Annotated[
        str | None, typer.Option("-q", "--queue", metavar="QUEUE", help="In place of the task's own.")
    ] = None,
    priority: Annotated[int | None, typer.Option(metavar="0-9", help="9 goes first.")] = None,
    countdown: Annotated[float | None, typer.Option(metavar="SECONDS", help="Start no earlier than this.")] = None,
    expires: Annotated[float | None, typer.Option(metavar="SECONDS", help="Start no later than this.")] = None,
    task_id: Annotated[str | None, typer.Option(metavar="ID", help="An id of your own.")] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    app: App = None,
    broker: Broker = None,
    debug: Debug = False,
) -> None:
    """Call a task; print its id, or with --wait its result as JSON."""
    target = target_of(context, app, broker, debug)
    (name,) = target.split([first, second], "NAME")
    positional, by_name = read_list("--args", args), read_object("--kwargs", kwargs)
    given = {
        "queue": queue,
        "priority": priority,
        "countdown": countdown,
        "expires": expires,
        "task_id": task_id,
        "ignore_result": False if wait else None,
    }
    options: Any = {option: wanted for option, wanted in given.items() if wanted is not None}
    loaded = target.load()
    if name not in loaded.tasks:
        near = _near(name, loaded.tasks)
        hint = f" (near it: {', '.join(near)})" if near else ""
        _complain(f"warning: no task is registered as {name!r} here{hint}; sending it all the same")
    run(loaded, lambda: _call(loaded, name, positional, by_name, options, wait=wait, timeout=timeout))


def _near(name: str, known: Collection[str]) -> list[str]:
    """Return names that are spelled like `name`, or whose last part is."""
    last = name.rpartition(".")[2]
    alike = difflib.get_close_matches(last, [each.rpartition(".")[2] for each in known])
    ending = [each for each in known if each.rpartition(".")[2] in alike]
    return list(dict.fromkeys([*difflib.get_close_matches(name, known), *ending]))


async def _call(
    app: AioTQ,
    name: str,
    args: list[Any],
    kwargs: dict[str, Any],
    options: CallOptions,
    *,
    wait: bool,
    timeout: float | None,
) -> None:
    if wait:
        await app.reader()  # an app that keeps no results says so before anything is sent
    sent = await app.send_task(name, args, kwargs, **options)
    if not wait:
        print(sent.id)
        return
    await sent.get(timeout, propagate=False)
    if await sent.successful():
        print(output.value(await sent.info()))
        return
    await _print_failure(sent)
    raise typer.Exit(1)


async def _print_failure(ended: AsyncResult[Any]) -> None:
    error = await ended.info()
    trace = await ended.traceback()
    print(output.printable(trace or f"{type(error).__name__}: {error}").rstrip(), file=sys.stderr)


@cli.command()
def result(
    context: typer.Context,
    first: First = None,
    second: TaskId = None,
    wait: Wait = False,
    timeout: Timeout = None,
    app: App = None,
    broker: Broker = None,
    debug: Debug = False,
) -> None:
    """Show what became of a call; with --wait, exit with 1 if it failed."""
    target = target_of(context, app, broker, debug)
    (task_id,) = target.split([first, second], "ID")
    loaded = target.load()

    async def look() -> None:
        found = loaded.AsyncResult(task_id)
        if wait:
            await found.get(timeout, propagate=False)
        state, info = await found.state(), await found.info()
        pairs = [("id", task_id), ("state", state)]
        if state in states.EXCEPTION_STATES:
            pairs.append(("error", f"{type(info).__name__}: {info}"))
        elif info is not None or state == states.SUCCESS:
            pairs.append(("result" if state == states.SUCCESS else "info", output.value(info)))
        if (done := await found.date_done()) is not None:
            pairs.append(("done", done.isoformat(sep=" ", timespec="milliseconds")))
        output.fields(pairs)
        if trace := await found.traceback():
            print(output.printable(trace).rstrip())
        if wait and state in states.EXCEPTION_STATES:
            raise typer.Exit(1)

    run(loaded, look)


@cli.command()
def tasks(
    context: typer.Context, first: First = None, app: App = None, broker: Broker = None, debug: Debug = False
) -> None:
    """List the app's tasks: how each runs, its queue, its arguments."""
    target = target_of(context, app, broker, debug)
    target.split([first])
    output.tasks(target.load())


@cli.command()
def config(
    context: typer.Context, first: First = None, app: App = None, broker: Broker = None, debug: Debug = False
) -> None:
    """List all settings; a star marks those that were changed."""
    target = target_of(context, app, broker, debug)
    target.split([first])
    output.settings(target.load(with_tasks=False).conf)


@cli.command()
def queues(
    context: typer.Context, first: First = None, app: App = None, broker: Broker = None, debug: Debug = False
) -> None:
    """Show what stands in the queues."""
    target = target_of(context, app, broker, debug)
    target.split([first])
    loaded = target.load(with_tasks=False)

    async def look() -> Sequence[QueueStats]:
        found = {each.name: each for each in await loaded.admin.queues()}
        declared = [queue.name for queue in loaded.conf.task_queues if queue.name not in found]
        empty = await loaded.admin.queues(declared) if declared else ()
        return sorted([*found.values(), *empty], key=lambda each: each.name)

    stats = run(loaded, look)
    if not stats:
        print("all queues are empty")
        return
    rows = [
        (each.name, str(each.ready), str(each.leased), str(each.delayed), str(each.dead), output.age(each.oldest_age))
        for each in stats
    ]
    columns = ("queue", "ready", "leased", "delayed", "dead", "oldest")
    output.table(columns, rows, numbers=columns[1:])


@cli.command()
def purge(
    context: typer.Context,
    first: First = None,
    second: QueueName = None,
    yes: Yes = False,
    app: App = None,
    broker: Broker = None,
    debug: Debug = False,
) -> None:
    """Delete what waits in a queue; what runs goes on."""
    target = target_of(context, app, broker, debug)
    (queue,) = target.split([first, second], "QUEUE")
    loaded = target.load(with_tasks=False)

    async def delete() -> None:
        (stats,) = await loaded.admin.queues([queue])
        waiting = output.count(stats.ready + stats.delayed, "message")
        confirm(f"Delete {waiting} from queue {queue!r}?", yes)
        deleted = await loaded.admin.purge(queue)
        print(f"deleted {output.count(deleted, 'message')} from queue {queue!r}")

    run(loaded, delete)


cli.command()(graph)
cli.command()(report)
cli.command()(revoke)
