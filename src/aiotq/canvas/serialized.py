"""Canvases as plain dicts and lists, as they travel in messages and are kept in files.

Source: Celery, `celery.canvas.Signature` (a dict of task, args, kwargs, options, subtask_type, immutable).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from ..core.inside import App, core_of
from ..core.values import replace
from ..exceptions import CallError
from ..tasks.options import CALL_OPTIONS, stamps_of
from ..wire.message import is_name
from .composites import Chain, Chord, Chunks, Group, chained
from .signature import Canvas, Mode, Sender, Signature, WhenFailed

#: Forms in forms that are read; nobody's workflow is so deep, and Python's stack ends somewhere.
_MAX_DEPTH: Final = 200
#: Our own key beside Celery's; its workers don't know it.
_WHEN_FAILED: Final = "allow_failure"
#: Celery's option that names those of the others which are stamps.
_STAMPED: Final = "stamped_headers"


def as_form(canvas: Canvas[Any]) -> dict[str, Any]:
    """Return `canvas` as plain dicts and lists; `as_canvas` makes the like of it from that."""
    match canvas:
        case Signature():
            form = _signature_form(cast("Signature[Any]", canvas))
        case Chain():
            form = _form("celery.chain", {"tasks": [as_form(step) for step in canvas.tasks]}, kind="chain")
        case Group():
            form = _form("celery.group", {"tasks": [as_form(task) for task in canvas.tasks]}, kind="group")
            if canvas.id is not None:
                form["options"] = {"task_id": canvas.id}
        case Chord():
            header, body = as_form(canvas.header), as_form(canvas.body)
            form = _form("celery.chord", {"header": header, "body": body, "kwargs": {}}, kind="chord")
        case _:
            raise TypeError(f"{canvas!r} is no canvas")
    if canvas.when_failed != "fail":
        form[_WHEN_FAILED] = canvas.when_failed
    return form


def _signature_form(canvas: Signature[Any]) -> dict[str, Any]:
    options = dict(canvas.options)
    if stamps := options.pop("stamps", None):
        options |= {_STAMPED: list(stamps), **stamps}
    for option in ("link", "link_error"):
        if option in options:
            options[option] = [as_form(callback) for callback in options[option]]
    if canvas.mode == "once":
        return {
            "task": canvas.task,
            "args": list(canvas.args),
            "kwargs": dict(canvas.kwargs),
            "options": options,
            "subtask_type": None,
            "immutable": canvas.immutable,
        }
    called: dict[str, Any] = {
        "task": canvas.task,
        "args": [],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    form = _form(f"celery.{canvas.mode}", {"task": called, "it": list(canvas.args[0])}, kind=canvas.mode)
    return {**form, "options": options, "immutable": canvas.immutable}


def _form(task: str, kwargs: dict[str, Any], *, kind: str) -> dict[str, Any]:
    return {"task": task, "args": [], "kwargs": kwargs, "options": {}, "subtask_type": kind, "immutable": False}


def as_canvas(form: Mapping[str, Any], app: App[Sender] | None = None) -> Canvas[Any]:
    """Return the canvas that `form` describes, sent by `app`.

    Raises:
        CallError: it describes none; the text says what is wrong with it.
    """
    return _canvas(form, None if app is None else core_of(app), 0)


def _canvas(form: object, sender: Sender | None, depth: int) -> Canvas[Any]:
    if not isinstance(form, (dict, Mapping)):
        raise CallError(f"a signature's form is a mapping, not a {type(form).__name__}")
    if depth > _MAX_DEPTH:
        raise CallError(f"signatures in signatures, more than {_MAX_DEPTH} deep")
    given = cast("Mapping[str, Any]", form)
    kind = given.get("subtask_type")
    kwargs, options = _mapping(given, "kwargs"), _options(given, sender, depth)
    args = given.get("args") or ()
    if not isinstance(args, (list, tuple)):
        raise CallError(f"a signature's args are a list, not a {type(args).__name__}")

    def inner(each: object) -> Canvas[Any]:
        return _canvas(each, sender, depth + 1).as_part()

    canvas = _made(kind, given, tuple(cast("Sequence[Any]", args)), kwargs, options, inner, sender)
    when_failed = given.get(_WHEN_FAILED, "fail")
    return canvas if when_failed == canvas.when_failed else canvas.allow_failure(cast(WhenFailed, when_failed))


def _made(
    kind: object,
    given: Mapping[str, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: dict[str, Any],
    inner: Callable[[object], Canvas[Any]],
    sender: Sender | None,
) -> Canvas[Any]:
    match kind:
        case None:
            task = given.get("task")
            if not isinstance(task, str):
                raise CallError(f"a signature's task is a name, not {task!r}")
            call: Signature[Any] = Signature(task, args, kwargs, options, bool(given.get("immutable")), sender=sender)
            return call
        case "map" | "starmap":
            called = inner(kwargs.get("task"))
            if not isinstance(called, Signature):
                raise CallError(f"{kind} is of one task, not of {called!r}")
            items = (list(_list(kwargs, "it")),)
            changed = cast("Signature[Any]", called)
            return replace(changed, args=items, options=options, mode=cast(Mode, kind), immutable=True)
        case "chain":
            steps = [inner(step) for step in _list(kwargs, "tasks")]
            return chained(steps, is_called=True).clone(args, **options)
        case "group":
            members: Group[Any] = Group(tuple(inner(task) for task in _list(kwargs, "tasks")))
            return members.clone(args, **options)
        case "chord":
            header, body = kwargs.get("header"), inner(kwargs.get("body"))
            of_header: Group[Any]
            if isinstance(header, (list, tuple)):
                of_header = Group(tuple(map(inner, _list(kwargs, "header"))))
            else:
                of_header = _group(inner(header))
            return Chord(of_header, body).clone(args, **options)
        case "chunks":
            called = inner(kwargs.get("task"))
            if not isinstance(called, Signature):
                raise CallError(f"chunks are of one task, not of {called!r}")
            return chunked(cast("Signature[Any]", called), _list(kwargs, "it"), kwargs.get("n"))
        case _:
            raise CallError(f"a signature of kind {kind!r} is not known")


def chunked(called: Signature[Any], items: Any, size: object) -> Chunks[Any]:
    """Return calls with the arguments in `items`, `size` of them in each message.

    Raises:
        InvalidOption, CallError: `size` is not a whole number above 0.
    """
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise CallError(f"chunks hold a whole number of items, 1 or more, not {size!r}")
    given = list(items)
    parts = [given[start : start + size] for start in range(0, len(given), size)]
    return Chunks(tuple(replace(called, args=(part,), mode="starmap", immutable=True) for part in parts))


def _group(header: Canvas[Any]) -> Group[Any]:
    return cast("Group[Any]", header) if isinstance(header, Group) else Group((header,))


def with_stamps(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `options` of a form with the stamps among them in one, as a signature has them.

    Raises:
        CallError: they can't be read.
    """
    plain = dict(options)
    if not plain or not (names := plain.pop(_STAMPED, None)):
        return plain
    if not isinstance(names, (list, tuple)) or not all(map(is_name, cast("Sequence[object]", names))):
        raise CallError(f"{_STAMPED} are a list of names, not {names!r}")
    stamps = {name: plain[name] for name in cast("Sequence[str]", names) if name in plain}
    rest = {option: given for option, given in plain.items() if option not in stamps or option in CALL_OPTIONS}
    return {**rest, "stamps": stamps_of(stamps)}


def _options(form: Mapping[str, Any], sender: Sender | None, depth: int) -> dict[str, Any]:
    options = with_stamps(_mapping(form, "options"))
    if "stamps" in options and form.get("subtask_type") not in (None, "map", "starmap"):
        del options["stamps"]  # each call in a composite has them for itself
    for option in ("link", "link_error"):
        if option in options:
            found = options[option]
            callbacks = list(cast("Sequence[Any]", found)) if isinstance(found, (list, tuple)) else [found]
            options[option] = [_canvas(callback, sender, depth + 1) for callback in callbacks if callback]
    return options


def _mapping(form: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Any = form.get(name) or {}
    if not isinstance(found, (dict, Mapping)):
        raise CallError(f"a signature's {name} are a mapping, not a {type(found).__name__}")
    return cast("Mapping[str, Any]", found)


def _list(kwargs: Mapping[str, Any], name: str) -> list[Any]:
    found = kwargs.get(name)
    if not isinstance(found, (list, tuple)):
        raise CallError(f"a signature's {name} are a list, not a {type(found).__name__}")
    return list(cast("list[Any]", found))


def signature(
    task: str | Canvas[Any] | Mapping[str, Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    app: App[Sender] | None = None,
    immutable: bool = False,
    **options: Any,
) -> Canvas[Any]:
    """Return a signature of a task by name, or the one that a form (`as_form`) describes; one that is one stays so.

    `app` sends it; without one it can be part of what an app's signatures are part of.

    Raises:
        CallError: the form describes none.
    """
    if isinstance(task, str):
        sender = None if app is None else core_of(app)
        call: Signature[Any] = Signature(task, tuple(args), kwargs or {}, options, immutable, sender=sender)
        return call
    found = task if isinstance(task, Canvas) else as_canvas(task, app)
    return found.clone(args, kwargs, **options) if args or kwargs or options else found
