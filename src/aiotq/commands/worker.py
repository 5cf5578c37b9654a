"""`aiotq worker`: runs tasks in this process, or in several under it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Final

import typer

from ..app import AioTQ
from ..core.bounds import Bounds
from ..core.settings import APP_VARIABLE, Settings
from ..supervising.kept_worker import ChildCommand
from ..supervising.pidfile import Held, release
from ..supervising.plan import Plan
from ..supervising.supervisor import default_name
from ..tasks.options import said
from ..transport.routing import declared_queues
from ..worker.options import WorkerChoices, WorkerOptions, worker_options
from . import banner as banners
from .app_option import BROKER_VARIABLE, Target, UsageError
from .command import command
from .daemon import Daemon, Detach, Gid, Logfile, Pidfile, Uid, Umask, Workdir, check_system, per_worker
from .http import Http, check_installed, listening, read_address, serving_health, telling_parent
from .logs import FORMATS, LEVELS, log_as, start_logging
from .reload import run_reloading
from .share import Share, read_size
from .words import read_bounds, read_names, read_queues
from .worker_process import Parent, run_worker

Queues = Annotated[
    str | None, typer.Option("-Q", "--queues", metavar="A,B", help="Queues to consume from; with weights as A:3,B:1.")
]
ExcludeQueues = Annotated[
    str | None, typer.Option("-X", "--exclude-queues", metavar="C", help="All of task_queues but these.")
]
Strict = Annotated[
    bool | None,
    typer.Option(
        "--strict-queues/--fair-queues",
        show_default=False,
        help="Nothing from a queue while one before it has anything: the last may starve.",
    ),
]
Concurrency = Annotated[
    int | None, typer.Option("-c", "--concurrency", metavar="N", min=1, help="Coroutine tasks at a time.")
]
Autoscale = Annotated[
    str | None,
    typer.Option(
        metavar="MAX,MIN", help="Scale that: more when all are taken, fewer when few are. With --workers: processes."
    ),
]
Threads = Annotated[int | None, typer.Option(metavar="N", min=1, help="Plain functions at a time.")]
Processes = Annotated[int | None, typer.Option(metavar="N", min=1, help='Child processes for run="process" tasks.')]
Prefetch = Annotated[int | None, typer.Option(metavar="N", min=0, help="Messages to hold beyond what can start.")]
Grace = Annotated[
    float | None, typer.Option(min=0, metavar="SECONDS", help="Time for running tasks to end after a stop.")
]
Uvloop = Annotated[
    bool | None,
    typer.Option("--uvloop/--no-uvloop", show_default=False, help="Run on uvloop's event loop (aiotq[uvloop])."),
]
Name = Annotated[str | None, typer.Option("-n", "--name", metavar="NAME", help="What this worker is called in logs.")]
Level = Annotated[
    str, typer.Option("-l", "--level", "--loglevel", metavar="LEVEL", help=f"One of {', '.join(LEVELS)}.")
]
LogFormat = Annotated[
    str | None,
    typer.Option("--log-format", metavar="FORMAT", help=f"{', or '.join(FORMATS)}: one object a line, and no banner."),
]
Workers = Annotated[int | None, typer.Option(metavar="N", min=1, help="Whole worker processes.")]
Burst = Annotated[
    bool, typer.Option("--burst", help="End when no message is ready and nothing runs; exit code 1 if a task failed.")
]
MaxTasks = Annotated[int | None, typer.Option(metavar="N", min=1, help="End after so many tasks, about.")]
MaxTime = Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="End after so much time.")]
MaxTasksPerWorker = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Replace a worker process after so many tasks, about.")
]
MaxMemoryPerWorker = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Replace a worker process that uses more memory, as 300M or 2G.")
]
Reload = Annotated[
    bool, typer.Option("--reload", help="Start anew when a .py file of the project changes (aiotq[reload]).")
]
Banner = Annotated[
    bool, typer.Option("--banner/--no-banner", show_default=False, help="Say at the start what this worker does.")
]
TaskEvents = Annotated[
    bool | None,
    typer.Option(
        "-E/--no-task-events",
        "--task-events",
        "--events",
        show_default=False,
        help="Send events also to those who can't ask for them: Celery's monitors.",
    ),
]
Beat = Annotated[bool, typer.Option("-B", "--beat", help="Send periodic tasks as well (any number of workers may).")]
Dashboard = Annotated[str | None, typer.Option("--dashboard", metavar="HOST:PORT", hidden=True)]
ParentFd = Annotated[int | None, typer.Option(hidden=True)]
HealthFd = Annotated[int | None, typer.Option(hidden=True)]
TellLoad = Annotated[bool, typer.Option("--tell-load", hidden=True)]

#: Options of the parent of several workers, or that each worker is given anew.
_OF_PARENT: Final = frozenset(
    {
        *("app", "broker", "debug", "name", "workers", "reload", "banner", "parent_fd"),
        *("detach", "pidfile", "logfile", "workdir", "uid", "gid", "umask"),
    }
)
#: Those that are the worker's when it is started anew for newer code, and else the parent's.
_SERVED: Final = frozenset({"http"})


@command()
def worker(
    target: Target,
    context: typer.Context,
    queues: Queues = None,
    exclude_queues: ExcludeQueues = None,
    strict_queues: Strict = None,
    concurrency: Concurrency = None,
    autoscale: Autoscale = None,
    threads: Threads = None,
    cpu_processes: Processes = None,
    prefetch: Prefetch = None,
    grace: Grace = None,
    uvloop: Uvloop = None,
    name: Name = None,
    level: Level = "INFO",
    log_format: LogFormat = None,
    task_events: TaskEvents = None,
    beat: Beat = False,
    http: Http = None,
    burst: Burst = False,
    max_tasks: MaxTasks = None,
    max_time: MaxTime = None,
    max_tasks_per_worker: MaxTasksPerWorker = None,
    max_memory_per_worker: MaxMemoryPerWorker = None,
    detach: Detach = False,
    pidfile: Pidfile = None,
    logfile: Logfile = None,
    workdir: Workdir = None,
    uid: Uid = None,
    gid: Gid = None,
    umask: Umask = None,
    workers: Workers = None,
    reload: Reload = False,
    banner: Banner = True,
    dashboard: Dashboard = None,
    parent_fd: ParentFd = None,
    health_fd: HealthFd = None,
    tell_load: TellLoad = False,
) -> None:
    """Run tasks until SIGTERM, SIGHUP or SIGINT (Ctrl-C).

    The first one stops cleanly: running tasks may end within the grace time, the rest is handed back. The
    second hands all back at once, the third exits at once. SIGUSR1 has it log what runs and where that stands.

    With --workers, SIGHUP replaces the workers one after the other, SIGTTIN starts one more, SIGTTOU stops one.
    """
    share = _share(burst, max_tasks, max_time, max_tasks_per_worker, max_memory_per_worker)
    scaled, slots = _scaled(autoscale, concurrency, workers, reload)
    has_several = (workers or 1) > 1 or scaled is not None
    address = _checked_address(queues, exclude_queues, reload and has_several, http)
    target.spec  # noqa: B018  # said at the terminal, and not to a log
    held = Daemon(detach, pidfile, logfile, workdir, uid, gid, umask).begin(name)
    try:
        if has_several or reload or (share.goes_on and parent_fd is None):
            is_well = _run_several(target, context, scaled, address, held)
        else:
            is_well = _run_one(target, context.params, address, slots, share)
    finally:
        release()
    raise typer.Exit(0 if is_well else 1)


def _run_several(
    target: Target, context: typer.Context, scaled: Bounds | None, address: tuple[str, int] | None, held: Held | None
) -> bool:
    """Run workers in processes under this one, and return whether all is well."""
    check_system("--workers, --reload and --max-...-per-worker")
    given: Mapping[str, Any] = context.params
    level, log_format, name, count, reload = (given[x] for x in ("level", "log_format", "name", "workers", "reload"))
    start_logging(level, log_format, "workers")
    child = _child_command(target, context, tells_load=scaled is not None, is_reloaded=reload)
    child = replace(child, banner=given["banner"])
    if given["logfile"] is not None:
        child = replace(child, logfile=per_worker(given["logfile"], name or default_name()))
    if reload:
        return run_reloading(child, name=name, count=count or 1)
    bounds = None if scaled is None else (scaled.least, scaled.most)
    plan = Plan(child, name, count or 1, bounds, level.upper(), log_format)
    if held is not None:
        plan = replace(plan, pidfile=(held.path, held.fd))
    if address is not None:
        check_installed()
        listener, place = listening(address)
        plan = replace(plan, http_fd=listener.detach(), http_place=place)
    return plan.execute(sys.argv[1:])


def _run_one(
    target: Target,
    given: Mapping[str, Any],
    address: tuple[str, int] | None,
    slots: tuple[int, int] | None,
    share: Share,
) -> bool:
    """Run a worker in this process, and return whether all is well."""
    name: str | None = given["name"]
    level, log_format, parent_fd, health_fd = (given[x] for x in ("level", "log_format", "parent_fd", "health_fd"))
    for fd in (parent_fd, health_fd):
        if fd is not None:
            os.set_inheritable(fd, False)
    app, form = _loaded(target, level, log_format, None if parent_fd is None else name)
    app.conf.update(said(_overrides(given)))
    options = _options(app.conf, name, given["queues"], given["exclude_queues"], slots)
    announce = partial(banners.banner, app, target.spec, options) if given["banner"] and form == "text" else None
    return run_worker(
        app,
        options,
        announce=announce,
        parent=None if parent_fd is None else Parent(parent_fd, tells_load=given["tell_load"]),
        with_beat=given["beat"],
        seen=serving_health(app, address) if health_fd is None else telling_parent(app, health_fd),
        dashboard=None if given["dashboard"] is None else read_address(given["dashboard"]),
        share=share,
    )


def _overrides(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings that the options of the command stand for; None: it was not given."""
    strict: bool | None = given["strict_queues"]
    return {
        "worker_concurrency": given["concurrency"],
        "worker_threads": given["threads"],
        "worker_processes": given["cpu_processes"],
        "worker_prefetch": given["prefetch"],
        "worker_grace": given["grace"],
        "worker_uvloop": given["uvloop"],
        "worker_send_task_events": given["task_events"],
        "worker_queue_order": None if strict is None else "strict" if strict else "fair",
    }


def _checked_address(
    queues: str | None, exclude_queues: str | None, reloads_several: bool, http: str | None
) -> tuple[str, int] | None:
    """Return where health is served, if it is.

    Raises:
        UsageError: the options can't be so.
    """
    if reloads_several and http is not None:
        raise UsageError("--http: with --reload one worker alone, not several")
    for option, text in (("--queues", queues), ("--exclude-queues", exclude_queues)):
        if text is not None and not read_names(text):
            raise UsageError(f"{option} names no queue: write them as hi,lo")
    return None if http is None else read_address(http)


def _scaled(
    autoscale: str | None, concurrency: int | None, workers: int | None, reload: bool
) -> tuple[Bounds | None, tuple[int, int] | None]:
    """Return between what the number of processes is scaled, and that of coroutine tasks in one, if one of them is.

    Raises:
        UsageError: the options can't be so.
    """
    bounds = read_bounds("--autoscale", autoscale)
    if bounds is None:
        return None, None
    most, least = bounds
    if workers is None:
        if concurrency is not None:
            raise UsageError("--autoscale and --concurrency: how many run at once is scaled or fixed, not both")
        return None, bounds
    if reload:
        raise UsageError("--autoscale of --workers: not with --reload")
    if not least <= workers <= most:
        raise UsageError(f"--autoscale {autoscale}: it begins with --workers, {least} to {most}, not {workers}")
    return Bounds(least, most), None


def _loaded(target: Target, level: str, log_format: str | None, label: str | None) -> tuple[AioTQ, str]:
    """Return the app and the format of the log, which begins before its modules are imported."""
    handler = start_logging(level, log_format, label)
    app = target.load()
    return app, log_as(handler, app, level, log_format, label)


def _share(
    burst: bool,
    max_tasks: int | None,
    max_time: float | None,
    max_tasks_per_worker: int | None,
    max_memory_per_worker: str | None,
) -> Share:
    """Return what the worker does before it ends by itself."""
    per_worker = max_tasks_per_worker is not None or max_memory_per_worker is not None
    if per_worker and (burst or max_tasks is not None or max_time is not None):
        raise UsageError(
            "--max-tasks-per-worker and --max-memory-per-worker have no end: not with --burst, --max-tasks, --max-time"
        )
    return Share(
        tasks=max_tasks if max_tasks_per_worker is None else max_tasks_per_worker,
        memory=read_size("--max-memory-per-worker", max_memory_per_worker),
        seconds=max_time,
        is_all=burst,
        goes_on=per_worker,
    )


def _options(
    conf: Settings,
    name: str | None,
    queues: str | None,
    exclude_queues: str | None,
    bounds: tuple[int, int] | None,
) -> WorkerOptions:
    """Return how the worker consumes: as its words say, and else the settings."""
    chosen, weights = read_queues(queues, known=declared_queues(conf))
    if weights and conf.worker_queue_order == "strict":
        raise UsageError("--queues: weights mean nothing in strict order; write the names in that order")
    choices: WorkerChoices = {
        "exclude_queues": read_names(exclude_queues or ""),
        "queue_weights": {**conf.worker_queue_weights, **weights},
        "name": name,
        "autoscale": bounds,
    }
    return replace(worker_options(conf, chosen, choices), leaves_threads=True)


def _child_command(target: Target, context: typer.Context, *, tells_load: bool, is_reloaded: bool) -> ChildCommand:
    """Return what each of several workers is started with: the words that were given, and in its environment what
    nobody else is to read."""
    words = ["--debug"] if target.debug else []
    words += ["--tell-load"] if tells_load else []
    given: Mapping[str, Any] = context.params
    mine = {*_OF_PARENT, *(() if is_reloaded else _SERVED), *(("autoscale",) if tells_load else ())}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in mine:
            continue
        if not parameter.opts[0].startswith("-"):
            continue
        if source is not None and source.name == "COMMANDLINE":
            wanted = given[parameter.name or ""]
            if isinstance(wanted, bool):
                words.append(parameter.opts[0] if wanted else parameter.secondary_opts[0])
            else:
                words += [parameter.opts[0], str(wanted)]
    secret = {} if target.broker is None else {BROKER_VARIABLE: target.broker}
    return ChildCommand(target.spec, words, {APP_VARIABLE: target.spec, **secret})
