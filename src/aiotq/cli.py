"""The command line: words into calls. Nothing here that a library user could not do; each command has a file."""

from __future__ import annotations

import gc
import io
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Annotated, Final, NoReturn, cast

import typer

from . import __version__
from .commands.app_option import CommandFailed, Target
from .commands.beat import beat
from .commands.block import block
from .commands.call import call
from .commands.celery_words import Group, WorkerCommand
from .commands.command import App, Broker, Debug
from .commands.config import config
from .commands.dead import dead
from .commands.dev import dev
from .commands.diff import diff
from .commands.doctor import doctor
from .commands.events import events
from .commands.find import find
from .commands.fleet import control, inspect, status
from .commands.flow import flow
from .commands.from_celery import from_celery
from .commands.graph import graph
from .commands.list_ import list_
from .commands.migrate import migrate
from .commands.migrate_db import migrate_db
from .commands.multi import MultiCommand, multi
from .commands.output import complain
from .commands.queues import pause, purge, queues, resume
from .commands.report import report
from .commands.result import result
from .commands.revoke import revoke
from .commands.schedule import schedule
from .commands.shell import shell
from .commands.tasks import tasks
from .commands.top import top
from .commands.web import web
from .commands.worker import worker
from .exceptions import AioTQError

cli: Final = typer.Typer(
    name="aiotq",
    cls=Group,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command(cls=WorkerCommand)(worker)
for _command in (
    *(beat, call, result, tasks, config, queues, purge, graph, revoke, report, from_celery, migrate_db),
    *(dev, find, status, top, web, inspect, control, events, pause, resume, doctor, shell),
):
    cli.command()(_command)
cli.command()(migrate)
cli.command()(diff)
cli.command(cls=MultiCommand)(multi)
cli.add_typer(dead)
cli.add_typer(list_)
cli.add_typer(schedule)
cli.add_typer(block)
cli.add_typer(flow)


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
    except BrokenPipeError:  # the reader of our output has closed it
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
            complain(str(each))
        else:
            hint = "" if debug else " (-v shows where)"
            complain(f"unexpected {type(each).__name__}: {each}{hint}")
    if debug:
        traceback.print_exception(error)


def _leaves(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for each in cast("ExceptionGroup[Exception]", error).exceptions:
            yield from _leaves(each)
    else:
        yield error


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
