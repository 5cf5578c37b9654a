"""Words of Celery's command line that mean something else here: what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from typer.core import TyperCommand, TyperGroup

from .app_option import UsageError

_SETTING: Final = "is a setting here: {name}, or {variable} in the environment"

#: Celery's commands that are none here.
COMMANDS: Final[Mapping[str, str]] = {
    "amqp": "queues are seen with aiotq queues; for all else there is rabbitmqadmin",
    "logtool": "aiotq worker --log-format json writes logs that programs can read",
    "upgrade": "aiotq from-celery PATH lists what is to be changed in a project, its settings as well",
}


def _setting(name: str) -> str:
    return _SETTING.format(name=name, variable=f"AIOTQ_{name.upper()}")


#: Options of `celery worker` that are none here.
WORKER_OPTIONS: Final[Mapping[str, str]] = {
    "--pool": "there are no pools to choose from: coroutines run on the loop (-c), plain functions in threads "
    '(--threads), tasks with run="process" in processes (--cpu-processes)',
    "-P": "there are no pools to choose from: -c for coroutines, --threads for plain functions, --cpu-processes for "
    'tasks with run="process"',
    "--max-tasks-per-child": _setting("worker_max_tasks_per_child"),
    "--max-memory-per-child": _setting("worker_max_memory_per_child"),
    "--time-limit": _setting("task_time_limit"),
    "--soft-time-limit": _setting("task_soft_time_limit"),
    "--prefetch-multiplier": "--prefetch says how many messages are held beyond what can start (0, the default, is "
    "what a multiplier of 1 is meant for)",
    "--disable-prefetch": "--prefetch 0 is the default",
    "--include": f"{_setting('include')}: modules separated by commas",
    "-I": f"{_setting('include')}: modules separated by commas",
    "--schedule": "a scheduler keeps periodic tasks where results are kept: leave it out",
    "-s": "a scheduler keeps periodic tasks where results are kept: leave it out",
    "--scheduler": "a scheduler keeps periodic tasks where results are kept: leave it out",
    "--hostname": "-n or --name says what a worker is called",
    "--purge": "aiotq purge proj:app QUEUE, before the worker is started",
    "--discard": "aiotq purge proj:app QUEUE, before the worker is started",
    "--statedb": "revocations are kept with the results: leave it out",
    "-S": "revocations are kept with the results: leave it out",
    "-O": "a worker takes what it can start (-Ofair): leave it out",
    "--optimization": "a worker takes what it can start (-Ofair): leave it out",
    "--without-gossip": "workers don't speak to each other: leave it out",
    "--without-mingle": "workers don't speak to each other: leave it out",
    "--without-heartbeat": "heartbeat events are sent every 2 s while somebody reads events: leave it out",
    "--heartbeat-interval": "heartbeat events are sent every 2 s while somebody reads events: leave it out",
    "--result-backend": _setting("result_backend"),
    "--config": "settings come from app.config_from_object in the app's code, or AIOTQ_... in the environment",
    "--quiet": "--no-banner",
    "-q": "--no-banner",
}


class Group(TyperGroup):
    """The commands, which know Celery's."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS and args[0] not in self.commands:
            raise UsageError(f"there is no command {args[0]!r} as Celery has it: {COMMANDS[args[0]]}")
        return super().resolve_command(ctx, args)


class WorkerCommand(TyperCommand):
    """`aiotq worker`, which knows the options of Celery's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as exc:  # the parser's own, which is in a private module of typer's or in click
            option = cast("str | None", getattr(exc, "option_name", None))
            if option is None or option not in WORKER_OPTIONS:
                raise
            raise UsageError(f"there is no option {option} as Celery has it: {WORKER_OPTIONS[option]}") from exc
