"""A task for each kind of annotation and each way to run one; child processes import them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar, cast
from uuid import UUID

import attrs
import msgspec
import pydantic

from aiotq import AioTQ

app = AioTQ("shaped", broker="memory://")
T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Line:
    price: Decimal
    count: int = 1
    inner: list[Line] = field(default_factory=list)


@dataclass(frozen=True)
class Box(Generic[T]):
    content: T
    label: str | None = None


@attrs.frozen
class Address:
    city: str
    since: date
    _secret: int = attrs.field(default=0, converter=int)


class Point(msgspec.Struct, frozen=True):
    x: float
    at: datetime | None = None


class Customer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    name: str = pydantic.Field(min_length=1)
    id: UUID
    born: date | None = None


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


@pydantic.dataclasses.dataclass(frozen=True)
class Checked:
    size: int


class Options(TypedDict):
    due: date
    colour: NotRequired[Colour]


OrderId = NewType("OrderId", UUID)


class Case(NamedTuple):
    hint: Any
    plain: Any  #: as somebody sends it who has no such types
    value: Any
    wrong: Any = ()  #: plain data that does not fit
    says: str = ""  #: where, and why


_ID: Final = "0d6c7f3e-0000-4000-8000-000000000001"
_LINE: Final = {"price": "1.50", "inner": [{"price": 2, "count": 3}]}
CASES: Final[Mapping[str, Case]] = {
    "dataclass": Case(
        Line,
        _LINE,
        Line(Decimal("1.50"), 1, [Line(Decimal(2), 3)]),
        {"price": 1, "inner": [{"price": 1}, {"price": "much"}]},
        "argument given.inner[1].price must be a decimal number, not 'much'",
    ),
    "generic": Case(
        Box[Line], {"content": {"price": 1}}, Box(Line(Decimal(1))), {"label": "x"}, "given.content is missing"
    ),
    "attrs": Case(
        Address,
        {"city": "Bonn", "since": "2026-12-24", "_secret": "7"},
        Address("Bonn", date(2026, 12, 24), 7),
        {"city": "Bonn", "since": "2026-12-24", "zip": 1},
        "given.zip is no field of Address",
    ),
    "struct": Case(Point, {"x": 1}, Point(1.0), {"x": "1"}, "given.x: Expected `float`, got `str`"),
    "model": Case(
        Customer,
        {"name": "ann", "id": _ID, "born": "2000-02-29"},
        Customer(name="ann", id=UUID(_ID), born=date(2000, 2, 29)),
        {"name": "", "id": _ID},
        "given.name: String should have at least 1 character",
    ),
    "generic_model": Case(
        Page[Customer],
        {"items": [{"name": "ann", "id": _ID}]},
        Page[Customer](items=[Customer(name="ann", id=UUID(_ID))]),
        {"items": [{"name": "ann"}]},
        "given.items[0].id: Field required",
    ),
    "checked": Case(Checked, {"size": 7}, Checked(7), {"size": "big"}, "given.size: Input should be a valid integer"),
    "typed_dict": Case(
        Options,
        {"due": "2026-12-24", "colour": "red", "more": 1},
        {"due": date(2026, 12, 24), "colour": Colour.RED, "more": 1},
        {"colour": "red"},
        "given.due is missing",
    ),
    "enum": Case(Colour, "blue", Colour.BLUE, "green", "given must be one of 'red', 'blue', not 'green'"),
    "datetime": Case(
        datetime, "2026-12-24T18:00:00Z", datetime(2026, 12, 24, 18, tzinfo=UTC), "soon", "must be a datetime"
    ),
    "date": Case(date, "2026-12-24", date(2026, 12, 24), 7, "given must be a date in the form of ISO 8601, not 7"),
    "time": Case(time, "18:00", time(18), "late", "must be a time"),
    "timedelta": Case(timedelta, "P1DT2H0.5S", timedelta(1, 7200.5), "P", "given must be seconds, or a duration"),
    "seconds": Case(timedelta, 90, timedelta(seconds=90), True, "given must be seconds"),
    "uuid": Case(UUID, _ID, UUID(_ID), "1", "given must be a UUID, not '1'"),
    "new_type": Case(OrderId, _ID, UUID(_ID), None, "given must be a UUID, not None"),
    "decimal": Case(Decimal, 1.1, Decimal("1.1"), "x", "given must be a decimal number"),
    "list": Case(list[Line], [{"price": 1}], [Line(Decimal(1))], {"price": 1}, "given must be a list"),
    "tuple": Case(tuple[Colour, int], ["red", 1], (Colour.RED, 1), ["red"], "given must be a list of 2"),
    "tuple_of_any_length": Case(tuple[UUID, ...], [_ID], (UUID(_ID),), [_ID, "x"], "given[1] must be a UUID"),
    "set": Case(set[Colour], ["red"], {Colour.RED}, [["red"]], "given[0] must be one of"),
    "dict": Case(
        dict[str, Line], {"a": {"price": 1}}, {"a": Line(Decimal(1))}, {"a": {}}, "given['a'].price is missing"
    ),
    "optional": Case(Line | None, {"price": 1}, Line(Decimal(1)), {"price": []}, "given.price must be a decimal"),
    "union": Case(Colour | Point | Line | int, {"price": 1}, Line(Decimal(1)), 1.5, "given fits none of its types: "),
    "union_of_plain": Case(datetime | str, "2026-12-24", "2026-12-24"),
    "literal": Case(Literal["a", 1] | Line, 1, 1, "b", "given must be one of 'a', 1, not 'b'"),
    "constrained": Case(Annotated[int, pydantic.Field(gt=0)], 7, 7, 0, "given: Input should be greater than 0"),
    "by_msgspec": Case(Annotated[int, msgspec.Meta(gt=0)], 7, 7, 0, "given: Expected `int` >= 1"),
}


def _task(name: str, hint: Any, kind: str) -> None:
    def function(given: Any) -> Any:
        return [given == CASES[name].value, type(given).__name__, given]

    async def coroutine(given: Any) -> Any:
        return function(given)

    made: Any = coroutine if kind == "loop" else function
    made.__annotations__ = {"given": hint, "return": list[bool | str | hint] if name != "union_of_plain" else Any}
    made.__name__ = made.__qualname__ = f"{name}_{kind}"
    globals()[made.__name__] = app.task(run=cast(Any, kind), name=f"shaped.{name}.{kind}")(made)


for _name, _case in CASES.items():
    for _kind in ("loop", "thread", "process"):
        _task(_name, _case.hint, _kind)
