"""Which classes a message may name: those registered, and those that tasks are annotated with; none is imported."""

from __future__ import annotations

import dataclasses
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from ..core.hints import hints_of
from ..exceptions import DecodeError, InvalidOption

Kind = Literal["enum", "dataclass", "attrs", "msgspec", "pydantic"]
#: A name in a message may be of any length; one in an error is not.
_MAX_SHOWN: Final = 255


class ValueForm(NamedTuple):
    """How instances of a class, and of those derived from it, travel: `tag` stands beside what `plain` makes of one."""

    tag: str
    kind: type[Any]
    plain: Callable[[Any], Any]
    made: Callable[[Any], Any]  #: raises if what it gets is not what it must be
    is_shared: bool = False  #: others, who don't know the tag, read the plain form alone


class KnownTypes:
    """The enums, dataclasses, attrs classes, msgspec structs and pydantic models that an app decodes, by module and
    qualified name.

    `functions` gives the functions whose annotations count; they are read when a message first names a class. `main`
    stands in place of the module of a script.
    """

    def __init__(
        self, functions: Callable[[], Iterable[Callable[..., Any]]] = tuple, *, main: str | None = None
    ) -> None:
        self._functions = functions
        self._main = main
        self._registered: dict[str, type[Any]] = {}
        self._annotated: dict[str, type[Any]] = {}
        self._read: set[Callable[..., Any]] = set()
        self._forms: list[ValueForm] = []
        self._forms_of: dict[type[Any], ValueForm | None] = {}

    def add_forms(self, forms: Iterable[ValueForm]) -> None:
        """Let values of further classes travel; forms with the same tag revive alike."""
        self._forms += forms

    def form_of(self, cls: type[Any]) -> ValueForm | None:
        """Return how instances of `cls` travel, if that was added."""
        if cls not in self._forms_of:
            found = (form for form in self._forms if issubclass(cls, form.kind))
            self._forms_of[cls] = next(found, None)
        return self._forms_of[cls]

    def form_with(self, tag: object) -> ValueForm | None:
        """Return the form that a tag stands for, if there is one."""
        return next((form for form in self._forms if form.tag == tag), None)

    def register(self, cls: type[Any]) -> None:
        """Make `cls`, and the classes in the annotations of its fields, known.

        Raises:
            InvalidOption: it is none of these kinds.
        """
        if not isinstance(cls, type) or kind_of(cls) is None:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidOption(
                "register_type takes an Enum, a dataclass, an attrs class, a msgspec struct or a pydantic model, "
                f"not {cls!r}"
            )
        for each in _classes_in([cls]):
            self._registered[self.name_of(each)] = each

    def name_of(self, cls: type[Any]) -> str:
        """Return what messages call `cls`."""
        return f"{home_module(cls.__module__, self._main)}.{cls.__qualname__}"

    def find(self, name: object, kind: Kind) -> type[Any]:
        """Return the class that a message calls `name`.

        Raises:
            DecodeError: it isn't known here, or is something else than `kind`.
        """
        if not isinstance(name, str):
            raise DecodeError(f"the name of a type is a {type(name).__name__}, not a string")
        found = self._registered.get(name) or self._annotated.get(name)
        if found is None and self._read_annotations():
            found = self._annotated.get(name)
        if found is None or kind_of(found) != kind:
            raise DecodeError(
                f"{kind} {name[:_MAX_SHOWN]!r} is not known here, and nothing is imported because a message names it: "
                "call app.register_type(...) with the class, or annotate a task's parameter or return value with it"
            )
        return found

    def _read_annotations(self) -> bool:
        """Read the annotations of functions that were not read yet; return whether there were any."""
        fresh = [function for function in self._functions() if function not in self._read]
        for function in fresh:
            for each in _classes_in(hints_of(function).values()):
                self._annotated.setdefault(self.name_of(each), each)
        self._read.update(fresh)
        return bool(fresh)


def kind_of(cls: type[Any]) -> Kind | None:
    """Return what `cls` is among the kinds of classes that travel."""
    if issubclass(cls, Enum):
        return "enum"
    if is_model(cls):
        return "pydantic"
    if dataclasses.is_dataclass(cls):
        return "dataclass"
    if is_attrs(cls):
        return "attrs"
    return "msgspec" if is_struct(cls) else None


def is_attrs(cls: type[Any]) -> bool:
    """Whether `cls` is a class of attrs; like the next one, told by what such a class has."""
    return hasattr(cls, "__attrs_attrs__")


def is_struct(cls: type[Any]) -> bool:
    """Whether `cls` is a struct of msgspec."""
    return hasattr(cls, "__struct_fields__")


def is_typed_dict(cls: object) -> bool:
    """Whether `cls` is a TypedDict, of `typing` or of `typing_extensions`."""
    return isinstance(cls, type) and issubclass(cls, dict) and hasattr(typing.cast("Any", cls), "__total__")


def is_model(cls: type[Any]) -> bool:
    """Whether `cls` is a pydantic model; pydantic is not imported to find out."""
    base = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    return base is not None and issubclass(cls, base)


def home_module(module: str, main: str | None) -> str:
    """Return `module`, or what it is called elsewhere if it is a script: `main`, or the name of its file."""
    if module in {"__main__", "__mp_main__"}:
        file = getattr(sys.modules.get(module), "__file__", None)
        return main or (Path(file).stem if file else module)
    return module


def _classes_in(hints: Iterable[Any]) -> Iterator[type[Any]]:
    """All classes of our kinds in type hints, and in those of their own fields."""
    todo: list[Any] = list(hints)
    seen: list[Any] = []
    while todo:
        hint: Any = todo.pop()
        if any(hint is each for each in seen):
            continue
        seen.append(hint)
        if isinstance(hint, (list, tuple)):  # the parameters of a Callable
            todo.extend(typing.cast("list[Any]", hint))
            continue
        if isinstance(hint, Enum):  # Literal[Colour.RED]
            todo.append(type(hint))
            continue
        todo.extend((*typing.get_args(hint), typing.get_origin(hint), getattr(hint, "__supertype__", None)))
        if type(hint).__name__ == "TypeAliasType":
            with suppress(Exception):  # it is evaluated only now
                todo.append(hint.__value__)
        if isinstance(hint, type):
            if kind_of(hint) is not None:
                yield hint
            kind: Any = hint
            if is_typed_dict(kind) or dataclasses.is_dataclass(kind) or is_attrs(kind) or is_struct(kind):
                todo.extend(hints_of(kind).values())
