"""Tasks of `django.tasks`, as a Django project declares them."""

from __future__ import annotations

import importlib
from typing import Any

from . import django_here

django_here.set_up()

from aiotq.contrib.django.tasks_backend import PACKAGE  # noqa: E402  # needs a configured project

task: Any = importlib.import_module(PACKAGE).task


@task()
def add(x: int, y: int = 1) -> int:
    return x + y


@task(priority=50, queue_name="sums")
async def add_later(x: int, y: int) -> int:
    return x + y


@task(takes_context=True)
def attempt(context: Any, *, word: str) -> list[Any]:
    return [context.attempt, context.task_result.id, word]


@task()
def fail(text: str) -> None:
    raise ValueError(text)


@task()
def leave() -> None:
    raise SystemExit("it is over")


@task()
def answer_with_a_function() -> Any:
    return lambda: True


@task()
def answer_with_a_tuple() -> Any:
    return (1, {"two": (3,)})
