"""Tasks and their names, options and modules."""

from __future__ import annotations

import functools
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiotq import AioTQ, Task, shared_task
from aiotq.core.inside import core_of
from aiotq.exceptions import CallError, InvalidOption, NotRegistered
from aiotq.tasks.registry import _shared_tasks, task_name
from aiotq.tasks.task import CoroutineTask, FunctionTask


async def add(x: int, y: int) -> int:
    """Add two numbers."""
    return x + y


def double(x: int) -> int:
    return 2 * x


@pytest.fixture
def app() -> AioTQ:
    return AioTQ("proj", broker="memory://")


# Names


def test_a_task_is_named_by_module_and_function(app: AioTQ) -> None:
    task = app.task(add)

    assert task.name == f"{__name__}.add"
    assert app.tasks[task.name] is task
    assert repr(task) == f"<Task: {task.name}>"


def test_a_name_can_be_given(app: AioTQ) -> None:
    assert app.task(name="sums.add")(add).name == "sums.add"


def test_a_nested_function_has_its_own_name_as_in_celery(app: AioTQ) -> None:
    @app.task
    async def inner() -> None: ...

    assert inner.name == f"{__name__}.inner"


@pytest.mark.parametrize(
    ("main", "name"), [("proj", "proj.add"), (None, "program.add")], ids=["of the app", "of the file"]
)
def test_a_scripts_module_is_the_apps_main_or_its_files_name(tmp_path: Path, main: str | None, name: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        f"from aiotq import AioTQ\napp = AioTQ({main!r}, broker='memory://')\n"
        "@app.task\nasync def add(): ...\nprint(add.name)\n"
    )

    run = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)

    assert run.stdout.split() == [name]


def test_a_child_process_gives_a_scripts_tasks_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def function() -> None: ...

    for module in ("__main__", "__mp_main__"):
        function.__module__ = module
        assert task_name(function, "proj") == "proj.function"


# Declaring


@pytest.mark.parametrize("declare", [lambda app: app.task, lambda app: app.task(), lambda app: app.task(queue="hi")])
def test_the_decorator_works_with_and_without_parentheses(app: AioTQ, declare: Callable[[AioTQ], Any]) -> None:
    task = declare(app)(add)

    assert isinstance(task, CoroutineTask)
    assert task.name in app.tasks


def test_a_task_is_its_function(app: AioTQ) -> None:
    task = app.task(double)

    assert isinstance(task, FunctionTask)
    assert task(4) == 8
    assert (task.__name__, task.__doc__) == ("double", None)
    assert app.task(add).__doc__ == "Add two numbers."
    assert task.fn is double


def test_options_given_with_the_function_count(app: AioTQ) -> None:
    untyped: Any = app.task

    assert untyped(add, queue="hi").declared.queue == "hi"
    assert untyped(double, name="other").name == "other"


@pytest.mark.parametrize(
    ("fn", "run", "runs_in"),
    [(add, None, "loop"), (double, None, "thread"), (add, "process", "process"), (double, "process", "process")],
)
def test_a_function_runs_where_it_belongs(app: AioTQ, fn: Any, run: Any, runs_in: str) -> None:
    task = app.task(run=run)(fn) if run else app.task(fn)

    assert task.runs_in == runs_in


def test_a_plain_function_cannot_run_on_the_loop_nor_a_coroutine_in_a_thread(app: AioTQ) -> None:
    with pytest.raises(InvalidOption, match='run="loop" needs an async def'):
        app.task(run="loop")(double)
    with pytest.raises(InvalidOption, match='run="thread" needs a plain function'):
        app.task(run="thread")(add)


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("que", "did you mean 'queue'?"),
        ("serialiser", "did you mean 'serializer'?"),
        ("xyz", "there are acks_late,"),
        ("send_events", "leave it out; events are sent of all tasks, and only while somebody reads them"),
        ("backend", "all results of an app are kept in its result_backend"),
        ("countdown", "it belongs to a call, as in task.apply_async(…, countdown=…)"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest_or_what_to_do_instead(
    app: AioTQ, option: str, hint: str
) -> None:
    for declare in (app.task, shared_task):
        with pytest.raises(InvalidOption, match=f"unknown task option '{option}'") as caught:
            declare(**{option: 1})  # type: ignore[call-overload]

        assert hint in str(caught.value)


class Plain: ...


class Classy(Task[..., Any]): ...


def yields() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("proj.add", r"a task of a function, not of 'proj\.add': give options by name \(name=…\)"),
        (5, "a task of a function, not of 5"),
        (Plain, "a task of a function, not of <class"),
        (Classy, r"Classy is a task class: give it to app\.register_task, or to app\.task as base="),
        (yields, "is a generator, whose body would not run: return a list of what it yields"),
    ],
)
def test_what_is_no_function_or_would_not_run_is_no_task(app: AioTQ, given: Any, error: str) -> None:
    for declare in (app.task, app.task(name="a.name"), shared_task):
        with pytest.raises(InvalidOption, match=error):
            declare(given)


def test_two_functions_cannot_have_one_name(app: AioTQ) -> None:
    app.task(name="same")(add)

    with pytest.raises(InvalidOption, match=r"two tasks are named 'same' \(.*\.add and .*\.double\)"):
        app.task(name="same")(double)
    assert app.tasks["same"].fn is add


def test_functions_of_the_same_name_in_two_modules_cannot_share_a_tasks_name(app: AioTQ, tmp_path: Path) -> None:
    functions = []
    for number in (1, 2):
        namespace: dict[str, Any] = {"__name__": f"module{number}"}
        exec(compile("async def run(): ...", str(tmp_path / f"module{number}.py"), "exec"), namespace)
        functions.append(namespace["run"])
    app.task(name="same")(functions[0])

    with pytest.raises(InvalidOption, match=r"\(module1\.run and module2\.run\)"):
        app.task(name="same")(functions[1])


def test_a_module_may_be_loaded_again(app: AioTQ) -> None:
    code = compile("@app.task\nasync def reloaded(): ...", "/where/it/stands.py", "exec")
    first: dict[str, Any] = {"app": app, "__name__": "reloading"}
    second = dict(first)

    exec(code, first)
    exec(code, second)

    assert app.tasks["reloading.reloaded"] is second["reloaded"]
    assert first["reloaded"] is not second["reloaded"]


def test_two_tasks_from_one_factory_need_two_names(app: AioTQ) -> None:
    def make(name: str | None) -> Any:
        async def made() -> None: ...

        return app.task(name=name)(made) if name else app.task(made)

    make(None)

    with pytest.raises(InvalidOption, match=r"two tasks are named .*made.*give one of them another name="):
        make(None)
    assert make("another").name == "another"


def test_a_wrapped_function_keeps_its_name_and_takes_what_its_wrapper_does(app: AioTQ) -> None:
    """A decorator may give arguments; one that gives none can say so by `__signature__`."""

    def logged(fn: Any) -> Any:
        @functools.wraps(fn)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await fn(*args, **kwargs)

        return wrapper

    wrapped = logged(add)
    task: Any = app.task(wrapped)
    wrapped.__signature__ = inspect.signature(add)
    told: Any = app.task(name="told")(wrapped)

    assert task.name == f"{__name__}.add"
    task.check((1,), {})
    with pytest.raises(TypeError, match="missing a required argument: 'y'"):
        told.check((1,), {})


def test_a_task_is_found_or_the_nearest_is_named(app: AioTQ) -> None:
    task = app.task(add)

    assert core_of(app).find_task(task.name) is task
    with pytest.raises(NotRegistered, match=f"did you mean '{task.name}'") as caught:
        core_of(app).find_task(f"{__name__}.ad")
    assert caught.value.suggestion == task.name
    with pytest.raises(NotRegistered):
        core_of(app).find_task("")


# Shared tasks


@pytest.mark.usefixtures("no_shared_tasks")
def test_a_shared_task_belongs_to_every_app_old_and_new() -> None:
    old = AioTQ("old", broker="memory://")
    task = shared_task(name="library.add")(add)
    new = AioTQ("new", broker="memory://")

    assert [app.tasks["library.add"].app for app in (old, new)] == [old, new]
    assert old.tasks["library.add"].fn is new.tasks["library.add"].fn is task.fn
    assert task.app is new


@pytest.mark.usefixtures("no_shared_tasks")
def test_an_apps_own_task_stands_before_a_shared_one_of_its_name() -> None:
    app = AioTQ("proj", broker="memory://")
    own = app.task(name="library.add")(add)

    shared_task(name="library.add")(double)

    assert app.tasks["library.add"] is own


def test_a_shared_task_without_an_app_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotq.tasks.task.default_core", [])
    monkeypatch.setattr("aiotq.tasks.registry._shared_tasks", {})
    task = shared_task(add)

    with pytest.raises(CallError, match="has no app: create an AioTQ first"):
        task.app  # noqa: B018 (raises)


def test_no_test_before_this_one_has_shared_anything() -> None:
    assert not [name for name in _shared_tasks if name.startswith("library.")]


# Modules


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with tasks, one without, and one whose tasks can't be imported."""
    source = "from aiotq import shared_task\n@shared_task(name='{name}')\nasync def run(): ...\n"
    for name in ("withtasks", "without", "broken"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "withtasks" / "tasks.py").write_text(source.format(name="found.in_tasks"))
    (tmp_path / "withtasks" / "jobs.py").write_text(source.format(name="found.in_jobs"))
    (tmp_path / "broken" / "tasks.py").write_text("import a_module_that_is_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("aiotq.tasks.registry._shared_tasks", {})
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield "withtasks"
    for module in set(sys.modules) - before:
        del sys.modules[module]


def test_tasks_are_discovered_when_a_worker_asks(app: AioTQ, package: str) -> None:
    app.autodiscover_tasks([package, "without"])
    assert "found.in_tasks" not in app.tasks

    app.load_tasks()

    assert "found.in_tasks" in app.tasks
    assert "found.in_jobs" not in app.tasks


def test_the_related_name_can_be_another_or_none(app: AioTQ, package: str) -> None:
    app.autodiscover_tasks([package], related_name="jobs")
    app.autodiscover_tasks([f"{package}.tasks"], related_name=None)
    app.load_tasks()

    assert {"found.in_jobs", "found.in_tasks"} <= app.tasks.keys()


def test_packages_may_be_told_later_or_at_once(app: AioTQ, package: str) -> None:
    packages: list[str] = []
    app.autodiscover_tasks(lambda: packages)
    packages.append(package)
    app.load_tasks()
    assert "found.in_tasks" in app.tasks

    app.autodiscover_tasks([package], related_name="jobs", force=True)
    assert "found.in_jobs" in app.tasks


def test_what_cannot_be_imported_is_not_hidden(app: AioTQ, package: str) -> None:
    app.autodiscover_tasks(["broken"])

    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_installed"):
        app.load_tasks()


def test_the_path_of_a_class_stands_for_the_package_that_it_names(app: AioTQ, package: str, tmp_path: Path) -> None:
    (tmp_path / package / "apps.py").write_text(f"class Config:\n    name = {package!r}\nclass Other: ...")
    app.autodiscover_tasks([f"{package}.apps.Config"], force=True)

    assert "found.in_tasks" in app.tasks
    with pytest.raises(ModuleNotFoundError, match=f"{package}.apps.Other"):
        app.autodiscover_tasks([f"{package}.apps.Other"], force=True)


def test_what_could_not_be_imported_at_once_is_not_tried_again(app: AioTQ, package: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package_here"):
        app.autodiscover_tasks(["no_such_package_here"], force=True)

    app.autodiscover_tasks([package], force=True)
    assert "found.in_tasks" in app.tasks


def test_included_modules_are_imported(package: str) -> None:
    app = AioTQ("proj", broker="memory://", include=[f"{package}.jobs"])
    app.load_tasks()

    assert "found.in_jobs" in app.tasks
