"""Values: classes whose instances are never changed, only replaced."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, dataclass_transform, overload

T = TypeVar("T")


@overload
def value(cls: type[T], /) -> type[T]: ...
@overload
def value(*, eq: bool) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True)
def value(cls: type[Any] | None = None, /, *, eq: bool = True) -> Any:
    """Make `cls` a slotted dataclass that is frozen in the eyes of type checkers.

    It compares, hashes and shows itself as a dataclass does, by functions that are not compiled for each class; its
    `__init__` is compiled when it is first wanted. That is most of the time that making one takes, and `import aiotq`
    makes a hundred.

    At run time nothing enforces it: a frozen dataclass of 18 fields takes 2.6 us to make against 0.7 (CPython
    3.11), and every task makes a dozen values. See `docs/decisions/0001-values.md`. `eq=False`: compared by
    identity.
    """
    return _made(eq) if cls is None else _made(eq)(cls)


@overload
def record(cls: type[T], /) -> type[T]: ...
@overload
def record(*, kw_only: bool) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(eq_default=False)  # else type checkers would take what has a hash for unhashable
def record(cls: type[Any] | None = None, /, *, kw_only: bool = False) -> Any:
    """Make `cls` as `value` does; its fields can be set."""
    return _made(True, kw_only) if cls is None else _made(True, kw_only)(cls)


def _made(eq: bool, kw_only: bool = False) -> Callable[[type[Any]], type[Any]]:
    def make(cls: type[Any]) -> type[Any]:
        has_repr = "__repr__" in vars(cls)
        made: Any = dataclass(slots=True, eq=False, repr=False, init=False, kw_only=kw_only)(cls)
        made.__init__ = _LateInit(made)
        if not has_repr:
            made.__repr__ = _repr_of(cls.__qualname__, tuple(each.name for each in fields(made) if each.repr))
        if eq:
            made.__eq__, made.__hash__ = _eq_and_hash_of(tuple(each.name for each in fields(made) if each.compare))
        return cast("type[Any]", made)

    return make


class _LateInit:
    """Stands for the `__init__` of a class of values until somebody looks at it."""

    __slots__ = ("_cls",)

    def __init__(self, cls: type[Any]) -> None:
        self._cls = cls

    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> Any:
        self._cls.__init__ = init = _init_of(self._cls)
        return init if instance is None else init.__get__(instance, owner)


def _init_of(cls: type[Any]) -> Any:
    """Return the `__init__` that `dataclass` gives to such a class."""
    scope: dict[str, Any] = {"MISSING": MISSING}
    body = [f"    self.{name} = {given}" for name, given in _assigned(cls, scope)]
    body += ["    self.__post_init__()"] if hasattr(cls, "__post_init__") else []
    exec(f"def __init__(self{_parameters(cls, scope)}):\n" + "\n".join(body or ["    pass"]), scope)
    init = scope["__init__"]
    init.__qualname__, init.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    init.__annotations__ = {each.name: each.type for each in fields(cls)} | {"return": None}
    return init


def _parameters(cls: type[Any], scope: dict[str, Any]) -> str:
    """Return the parameters for the fields of `cls`, as source; their defaults are in `scope`."""
    by_place: list[str] = []
    by_name: list[str] = []
    for each in fields(cls):
        parameter: str = each.name
        if each.default_factory is not MISSING:
            parameter += "=MISSING"
        elif each.default is not MISSING:
            scope[f"default_{each.name}"] = each.default
            parameter += f"=default_{each.name}"
        (by_name if each.kw_only else by_place).append(parameter)
    return "".join(f", {parameter}" for parameter in by_place + (["*", *by_name] if by_name else []))


def _assigned(cls: type[Any], scope: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each field of `cls` and its value, as source."""
    for each in fields(cls):
        name = each.name
        if each.default_factory is MISSING:
            yield name, name
        else:
            scope[f"make_{name}"] = each.default_factory
            yield name, f"make_{name}() if {name} is MISSING else {name}"


def _repr_of(name: str, shown: tuple[str, ...]) -> Callable[[Any], str]:
    def repr_(self: Any) -> str:
        return f"{name}({', '.join(f'{field}={getattr(self, field)!r}' for field in shown)})"

    return repr_


def _eq_and_hash_of(names: tuple[str, ...]) -> tuple[Callable[[Any, object], bool], Callable[[Any], int]]:
    key: Callable[[Any], Any] = attrgetter(*names) if names else lambda _: ()

    def eq(self: Any, other: object) -> bool:
        return key(self) == key(other) if type(other) is type(self) else NotImplemented

    def hash_(self: Any) -> int:
        return hash(key(self))

    return eq, hash_


if TYPE_CHECKING:
    from dataclasses import replace as replace  # noqa: PLC0414  # who imports it from here may
else:

    def replace(given: T, /, **changes: Any) -> T:
        """As `dataclasses.replace`, in a third of the time (13 fields: 1.3 us against 4.2)."""
        kind = given.__class__
        fields_of, places = _LAYOUTS.get(kind) or _layout(kind)
        arguments = [*fields_of(given)]
        for name, changed in changes.items():
            arguments[places[name]] = changed
        return kind(*arguments)


#: Of each class: what gets the values of its fields, and the place of each of them among the arguments that make one.
_LAYOUTS: Final[dict[type[Any], tuple[Callable[[Any], tuple[Any, ...]], dict[str, int]]]] = {}


def _layout(kind: type[Any]) -> tuple[Callable[[Any], tuple[Any, ...]], dict[str, int]]:
    names = [each.name for each in fields(kind)]
    found: Callable[[Any], Any] = attrgetter(*names)

    def only(given: Any) -> tuple[Any, ...]:
        return (found(given),)

    _LAYOUTS[kind] = found if len(names) > 1 else only, {name: place for place, name in enumerate(names)}
    return _LAYOUTS[kind]


def sendable(text: str, most: int) -> str:
    """Return `text` as it can be stored and sent: without lone surrogates, the middle of a very long one left out."""
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()


_SHORT: Final = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 20
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200


def shown(given: object) -> str:
    """Return `given` for a log or an error, whatever it is: very large, nested without end, with a repr that fails."""
    try:
        return _SHORT.repr(given)
    except Exception:  # an integer of very many digits, or the value's own repr
        return f"<{type(given).__qualname__} that can't be shown>"
