"""The registry of an app's tasks: declaring them, naming them, finding their modules."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Literal,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from ..canvas.structure import ACCUMULATE
from ..core import django_project
from ..core.settings import Settings
from ..exceptions import InvalidOption, NotRegistered
from ..wire.known_types import home_module
from .expected import takes
from .keys import Debounce, Throttle, Unique
from .limits import Limit, RateLimit
from .options import DECLARABLE, TUPLES, RunsIn, TaskOptions, check_declaration
from .running import gives_coroutine, is_generator
from .shares import FairKey
from .streams import Stream
from .task import CoroutineTask, FunctionTask, StreamTask, Task
from .task_core import TaskCore

if TYPE_CHECKING:
    from .annotations import Rule

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")

#: Tasks of `shared_task`: every app has one of its own like each.
_shared_tasks: Final[dict[str, Task[..., Any]]] = {}
#: The options that each of them was declared with.
_declarations: Final[weakref.WeakKeyDictionary[Task[..., Any], Mapping[str, Any]]] = weakref.WeakKeyDictionary()


async def _accumulate(*args: Any, index: int | None = None) -> Any:
    """Return what it is called with: how a group's values become those of one call."""
    return list(args) if index is None else args[index]


#: Tasks of every app, by Celery's names for them.
_BUILT_IN: Final[dict[str, Task[..., Any]]] = {
    ACCUMULATE: CoroutineTask[..., Any].of(_accumulate, ACCUMULATE, TaskOptions())
}


class TaskDeclaration(TypedDict, total=False):
    """The options of `@app.task(...)`, but for `bind`. The default of most is a setting."""

    name: str | None
    "In place of module and function."
    run: RunsIn | None
    "`loop` for an `async def`, `thread` for a plain function; `process` for either, to keep a core of its own busy."
    typing: bool | None
    "False: arguments are checked neither at the call nor in the worker. The default is the setting `strict_arguments`."
    queue: str | None
    exchange: str | None
    routing_key: str | None
    priority: int | None
    serializer: str | None
    compression: str | None
    ignore_result: bool | None
    acks_late: bool | None
    track_started: bool | None
    expires: float | None
    "Seconds after the call."
    soft_time_limit: float | None
    time_limit: float | None
    max_retries: int | None
    "Retries before `self.retry` gives up (3); None: for ever."
    default_retry_delay: float
    "Seconds before a retry that says nothing else (180)."
    autoretry_for: tuple[type[BaseException], ...]
    "Exceptions at which the task is retried by itself."
    dont_autoretry_for: tuple[type[BaseException], ...]
    "Those among them at which it is not."
    retry_kwargs: Mapping[str, Any]
    "`max_retries` and `countdown` of such retries."
    retry_backoff: float | bool
    "Such retries wait twice as long each time: the first this many seconds (True: 1)."
    retry_backoff_max: float
    "Seconds that they wait at most (600)."
    retry_jitter: bool
    "Wait any time up to that, so that those who failed together don't come back together (True)."
    reject_on_worker_lost: bool | None
    "True: a task whose child process died is handed back and may run again, `max_deliveries` times."
    max_deliveries: int | None
    "In place of the setting `task_max_deliveries`."
    store_errors_even_if_ignored: bool | None
    "Keep failures although results are ignored."
    throws: tuple[type[BaseException], ...]
    "Expected exceptions: a line of the log at INFO, without traceback."
    trail: bool
    "Keep the ids of the calls it makes, as `children` of its result (True)."
    pydantic: bool
    "True: a mapping for a parameter that is annotated with a pydantic model arrives as that model."
    shadow_name: Callable[..., str | None] | None
    "`shadow_name(args, kwargs, options)` names a call in logs in place of the task's name."
    resultrepr_maxsize: int
    "Characters of the result in the log (1024)."
    transactional: bool
    "Run it in a transaction (`self.request.session`), with which its end is committed. PostgreSQL only."
    stream: Stream | None
    "How chunks are kept and read: of what yields, and of an `async def` that calls `self.send_chunk`."
    rate_limit: str | float | RateLimit | tuple[RateLimit, ...] | None
    'Starts in all workers together: `"100/m"`, `"5/h"`, or a number a second; evenly spaced. By key: `RateLimit(…)`.'
    max_concurrency: int | Limit | tuple[Limit, ...] | None
    'Runs of it at once, in all workers together. By key: `Limit(3, key="database")`.'
    unique: Unique | None
    'Of its calls with one key there is one at a time: `Unique(by="user_id")`.'
    debounce: float | Debounce | None
    "Of its calls with one key in a burst the last one counts: seconds without a further one, or `Debounce(5, by=…)`."
    throttle: float | Throttle | None
    "Of its calls with one key there is one in so many seconds, the first: seconds, or `Throttle(60, by=…)`."
    fair_key: FairKey | None
    "Whose a call is: a parameter's name, a function of the arguments, or `Fair(…)`. Calls take turns by key."
    base: type[Task[..., Any]] | None
    "A subclass of `Task` with handlers (`on_failure`, …), other methods, and options as class attributes."


class Decorator(Protocol):
    """The type of `app.task(...)`: from a function to its task."""

    @overload
    def __call__(self, fn: Callable[P, AsyncIterator[C]], /) -> StreamTask[P, C]: ...  # type: ignore[overload-overlap]  # as in `TaskRegistry.task`
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> FunctionTask[P, R]: ...
    def __call__(self, fn: Any, /) -> Any: ...


class BindingDecorator(Protocol):
    """The type of `app.task(bind=True, ...)`: the function's first parameter is the task."""

    @overload
    def __call__(  # type: ignore[overload-overlap]  # as in `TaskRegistry.task`
        self, fn: Callable[Concatenate[Any, P], AsyncIterator[C]], /
    ) -> StreamTask[P, C]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, fn: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Any, P], R], /) -> FunctionTask[P, R]: ...
    def __call__(self, fn: Any, /) -> Any: ...


class TaskRegistry:
    """The tasks of one app (`tasks`, by name), and where to find more of them."""

    def __init__(
        self, main: str | None, conf: Settings, task_cls: type[Task[..., Any]] | None, core: TaskCore | None
    ) -> None:
        self.main = main
        self.conf = conf
        #: The class of tasks that name no `base`.
        self.task_cls = task_cls
        self._core = core  #: what its tasks are called through
        self.tasks: dict[str, Task[..., Any]] = dict(_BUILT_IN)
        self._annotations: Sequence[Rule] = ()
        self._discoveries: list[tuple[Iterable[str] | Callable[[], Iterable[str]], str | None]] = []
        _registries.add(self)
        for task in _shared_tasks.values():
            self.add_shared(task)

    @property
    def own_tasks(self) -> Mapping[str, Task[..., Any]]:
        """The tasks that were declared; `tasks` has those beside them that every app has."""
        return {name: task for name, task in self.tasks.items() if name not in _BUILT_IN}

    # An `async def` is also a function that returns something, so the overloads overlap; the first that fits is meant.
    @overload
    def task(self, fn: Callable[P, AsyncIterator[C]], /) -> StreamTask[P, C]: ...  # type: ignore[overload-overlap]
    @overload
    def task(  # type: ignore[overload-overlap]
        self, fn: Callable[P, Coroutine[Any, Any, R]], /
    ) -> CoroutineTask[P, R]: ...
    @overload
    def task(self, fn: Callable[P, R], /) -> FunctionTask[P, R]: ...
    @overload
    def task(self, *, bind: Literal[True], **options: Unpack[TaskDeclaration]) -> BindingDecorator: ...
    @overload
    def task(self, *, bind: Literal[False] = ..., **options: Unpack[TaskDeclaration]) -> Decorator: ...
    def task(self, fn: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Make a function a task: `@app.task`, or `@app.task(queue="hi", …)`.

        An `async def` runs on the worker's loop, a plain function in a thread, and with `run="process"` in a child
        process (for what keeps a core busy). `bind=True` gives the function its task as the first argument. The name is
        module and function unless `name` says otherwise.

        Raises:
            InvalidOption: an option is unknown, or makes no sense for this function.
        """
        check_declaration(options)
        if fn is not None:
            return self._register(fn, options)

        def register(function: Callable[..., Any]) -> Task[..., Any]:
            return self._register(function, options)

        return register

    def _register(self, fn: Callable[..., Any], options: Mapping[str, Any]) -> Task[..., Any]:
        return self._add(_make_task(fn, options, self.main, self._core, self.task_cls))

    def register_task(self, task: type[Task[..., Any]] | Task[..., Any]) -> Task[..., Any]:
        """Make a task of a class: its `run` is the function, and its options are attributes of the class.

            class Add(Task):
                name = "proj.add"

                async def run(self, x, y):
                    return x + y

            add = app.register_task(Add)

        Of an instance the task has the attributes; of a class those that its constructor makes, once in each process.

        Raises `InvalidOption` if it has no `run`, or an option that can't be.
        """
        kind = task if isinstance(task, type) else type(task)
        run: Any = getattr(kind, "run", None)
        if not callable(run):
            raise InvalidOption(f"{kind.__qualname__} needs a method run(self, …): that is what its calls do")
        name = _options_of(kind).get("name") or task_name(kind, self.main)
        options: dict[str, Any] = {"base": kind, "bind": True, "name": name}
        if isinstance(task, type):
            return self._add(_make_task(run, options, self.main, self._core))
        own = {option: given for option, given in vars(task).items() if option in DECLARABLE}
        check_declaration(own)
        return self._add(_make_task(run, {**options, **own}, self.main, self._core, like=task))

    def _add(self, task: Task[..., Any]) -> Task[..., Any]:
        existing = self.tasks.get(task.name)
        if existing is not None:
            _check_same(existing, task)
        self._annotate(task)
        self.tasks[task.name] = task
        return task

    def annotate_tasks(self, given: object) -> object:
        """Take the setting `task_annotations` for all tasks, those that come among them; return it as it is.

        Raises:
            InvalidSetting, InvalidOption: it can't be used; the text names the annotation, and the task.
        """
        if given or self._annotations:
            from .annotations import annotate, rules_of  # noqa: PLC0415

            rules = rules_of(given)
            for task in self.own_tasks.values():
                annotate(task, rules)
            self._annotations = rules
        return () if given is None else given

    def _annotate(self, task: Task[..., Any]) -> None:
        if self._annotations:
            from .annotations import annotate  # noqa: PLC0415

            annotate(task, self._annotations)

    def add_shared(self, task: Task[..., Any]) -> None:
        """Have one of our own like a task of `shared_task`, unless another one is called so."""
        existing = self.tasks.get(task.name)
        if existing is not None and existing.shared is None:
            return
        mine = _make_task(task.fn, _declarations[task], None, self._core, self.task_cls)
        mine.be_one_of(task)
        self._annotate(mine)
        self.tasks[mine.name] = mine

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] | None = None,
        related_name: str | None = "tasks",
        *,
        force: bool = False,
    ) -> None:
        """Have `package.tasks` of each of `packages` imported before a worker starts, where there is one.

        `packages` may be a function that returns them then, or the entries of Django's `INSTALLED_APPS`: the path of a
        class with a `name` stands for the package of that name. Without them it is all that a Django project has
        installed. `force=True` imports them now; what can't be imported then is not tried again.

        Raises `InvalidOption` if no packages are given, and this process is not part of a Django project.
        """
        if packages is None:
            if not django_project.is_there():
                raise InvalidOption(
                    "autodiscover_tasks: name the packages. Without them it takes those of a Django project, and this "
                    "process is part of none: DJANGO_SETTINGS_MODULE is not set, or Django is not installed"
                )
            packages = django_project.packages
        discovery = packages, related_name
        self._discoveries.append(discovery)
        if force:
            try:
                self.load_tasks()
            except BaseException:
                self._discoveries.remove(discovery)
                raise

    def load_tasks(self) -> None:
        """Import the modules of `include` and of `autodiscover_tasks`, so that their tasks are registered."""
        django_project.set_up()
        for module in self.conf.include:
            importlib.import_module(module)
        for packages, related_name in self._discoveries:
            for package in map(_package, packages() if callable(packages) else packages):
                module = f"{package}.{related_name}" if related_name else package
                if importlib.util.find_spec(module) is not None:
                    importlib.import_module(module)

    def find_task(self, name: str) -> Task[..., Any]:
        """Return the task called `name`.

        Raises `NotRegistered` if there is none; the text has the nearest name.
        """
        try:
            return self.tasks[name]
        except KeyError:
            near = difflib.get_close_matches(name, list(self.tasks), n=1)
            raise NotRegistered(name, near[0] if near else None) from None


def _package(named: str) -> str:
    """Import the package `named`, or the one that the class at that path names (Django's `INSTALLED_APPS`)."""
    try:
        importlib.import_module(named)
    except ModuleNotFoundError as exc:
        module, _, attribute = named.rpartition(".")
        if exc.name != named or not module:
            raise
        name: object = getattr(getattr(importlib.import_module(module), attribute, None), "name", None)
        if not isinstance(name, str):
            raise
        importlib.import_module(name)
        return name
    return named


_registries: Final[weakref.WeakSet[TaskRegistry]] = weakref.WeakSet()


@overload
def shared_task(fn: Callable[P, AsyncIterator[C]], /) -> StreamTask[P, C]: ...  # type: ignore[overload-overlap]
@overload
def shared_task(  # type: ignore[overload-overlap]  # as in `TaskRegistry.task`
    fn: Callable[P, Coroutine[Any, Any, R]], /
) -> CoroutineTask[P, R]: ...
@overload
def shared_task(fn: Callable[P, R], /) -> FunctionTask[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Unpack[TaskDeclaration]) -> BindingDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = ..., **options: Unpack[TaskDeclaration]) -> Decorator: ...
def shared_task(fn: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Make a function a task of every app, for libraries that have no app of their own; options as `app.task`."""

    check_declaration(options)

    def register(function: Callable[..., Any]) -> Task[..., Any]:
        task = _make_task(function, options, None, None)
        if (existing := _shared_tasks.get(task.name)) is not None:
            _check_same(existing, task)
        _declarations[task] = dict(options)
        _shared_tasks[task.name] = task
        for registry in _registries:
            registry.add_shared(task)
        return task

    return register if fn is None else register(fn)


def _make_task(
    fn: Callable[..., Any],
    options: Mapping[str, Any],
    main: str | None,
    core: TaskCore | None,
    default_base: type[Task[..., Any]] | None = None,
    *,
    like: Task[..., Any] | None = None,
) -> Task[..., Any]:
    fn = fn.__func__ if isinstance(fn, staticmethod) else fn
    _check_function(fn)
    if "name" not in options and not hasattr(fn, "__name__"):
        raise InvalidOption(f"{fn!r} has no name of its own: give the task one (name=…)")
    given = dict(options)
    base: Any = given.pop("base", None) or default_base
    if base is not None and not _is_task_class(base):
        raise InvalidOption(f"task option base must be a subclass of aiotq.Task, not {base!r}")
    declared = _options_of(base) | given
    name = declared.pop("name", None) or task_name(fn, main)
    declared.update((option, tuple(declared[option])) for option in TUPLES & declared.keys())
    kind: Any = CoroutineTask if gives_coroutine(fn) else StreamTask if is_generator(fn) else FunctionTask
    if base is not None and base is not Task:
        kind = type(base.__name__, (base, kind), {"__module__": base.__module__, "__doc__": base.__doc__})
    task: Task[..., Any] = kind.of(fn, name, TaskOptions(**declared), core, like)
    if (shadow_name := declared.get("shadow_name") or getattr(task, "shadow_name", None)) is not None:
        task.declared = replace(task.declared, shadow_name=_naming(shadow_name, task))
    if core is not None:
        task.on_bound(core.app)
    return task


def _naming(shadow_name: Callable[..., str | None], task: object) -> Callable[..., str | None]:
    """Return a `shadow_name` as a function of args, kwargs and options. Celery's take the task before these."""
    return shadow_name if takes(shadow_name, 3) else partial(shadow_name, task)


def _check_function(fn: Any) -> None:
    """Raise `InvalidOption` for something that can't be called, or a function that would not run when called."""
    if _is_task_class(fn):
        raise InvalidOption(f"{fn.__qualname__} is a task class: give it to app.register_task, or to app.task as base=")
    if isinstance(fn, Task):
        raise InvalidOption(f"{fn!r} is a task already: declare its function, fn, if it is to have another name too")
    if isinstance(fn, type) or not callable(fn):
        raise InvalidOption(f"app.task makes a task of a function, not of {fn!r}: give options by name (name=…)")
    if inspect.isgeneratorfunction(fn):
        raise InvalidOption(
            f"{fn!r} is a generator, whose body would not run: return a list of what it yields, or make it async"
        )


def _is_task_class(given: object) -> bool:
    return isinstance(given, type) and issubclass(given, Task)


def _options_of(base: type[Task[..., Any]] | None) -> dict[str, Any]:
    """Return the options that a task class has as attributes, its own or inherited."""
    if base is None:
        return {}
    found: dict[str, Any] = {}
    for kind in reversed(base.__mro__[: base.__mro__.index(Task)]):
        for option in DECLARABLE & vars(kind).keys():
            value = vars(kind)[option]
            found[option] = value.__func__ if isinstance(value, staticmethod) else value
    found.pop("shadow_name", None)  # a method: it is bound when the task is there
    if callable(found.get("run")):
        del found["run"]  # what the task of a class does, and not where
    check_declaration(found)
    return found


def _check_same(existing: Task[..., Any], task: Task[..., Any]) -> None:
    """Raise `InvalidOption` unless `task` is `existing` again, from a module that was loaded again."""
    one, other = existing.fn, task.fn
    is_local = "<locals>" in _place(other)  # what a function makes twice is two
    if one is not other and (is_local or _origin(one) != _origin(other)) and not _are_of_a_prompt(one, other):
        raise InvalidOption(
            f"two tasks are named {task.name!r} ({_place(one)} and {_place(other)}): give one of them another name="
        )


def _are_of_a_prompt(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether a function was defined again at a prompt or in a notebook, where each input is a file of its own."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return all(
        fn.__module__ == "__main__" and _place(fn) == _place(other) and _origin(fn)[0] != script for fn in (one, other)
    )


def _origin(fn: Callable[..., Any]) -> tuple[str, str]:
    """Return the file and qualified name of a function, which stay when its module is loaded again or as `__main__`."""
    code = getattr(inspect.unwrap(fn), "__code__", None)
    return code.co_filename if code is not None else fn.__module__, getattr(fn, "__qualname__", repr(fn))


def _place(fn: Callable[..., Any]) -> str:
    """Where a function is; of an object that is called as one, what it is."""
    name = getattr(fn, "__qualname__", None)
    return repr(fn) if name is None else f"{fn.__module__}.{name}"


def task_name(fn: Any, main: str | None) -> str:
    """Return the name of the task made of `fn`: module and function; a script's module is `main` or its file's name."""
    return f"{home_module(fn.__module__, main)}.{fn.__name__}"
