"""What tests of content types are about: classes of all kinds, and values of them."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Any, NamedTuple

import pydantic
import pytest
from hypothesis import strategies as st

from aiotq.wire.content_types import JSON, MSGPACK

BOTH = frozenset({"json", "msgpack"})
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)
serializers = pytest.mark.parametrize("serializer", [JSON, MSGPACK], ids=["json", "msgpack"])


@dataclasses.dataclass
class Point:
    x: Any


class Colour(enum.Enum):
    RED = "red"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    A = "a"


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    start: Point
    colours: tuple[Colour, ...] = ()
    length: float = dataclasses.field(init=False, default=0.0)


@dataclasses.dataclass
class WithInitVar:
    x: int = 0
    scale: dataclasses.InitVar[int] = dataclasses.field(kw_only=True)

    def __init__(self, scale: int) -> None:
        self.x = scale


@dataclasses.dataclass
class Checked:
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x must not be negative")


class Item(pydantic.BaseModel):
    name: str


class Order(pydantic.BaseModel):
    id: uuid.UUID
    at: datetime.datetime
    items: list[Item] = []
    price: decimal.Decimal = decimal.Decimal(0)
    colour: Colour = Colour.RED
    blob: bytes = b""
    tags: set[str] = set()
    by: str = pydantic.Field("me", alias="orderedBy")


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Secret(pydantic.BaseModel):
    password: pydantic.SecretStr


class Base(pydantic.BaseModel):
    pass


class Excluding(pydantic.BaseModel):
    kept: int
    left_out: int = pydantic.Field(0, exclude=True)


class Number(pydantic.BaseModel):
    x: float


class Holder(pydantic.BaseModel):
    item: Base

    def __init__(self, item: Any) -> None:
        super().__init__(item=Base())
        object.__setattr__(self, "item", item)


class Pair(NamedTuple):
    a: int
    b: int


class Stamp(datetime.datetime):
    pass


class Name(str):
    __slots__ = ()


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")
