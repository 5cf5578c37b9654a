"""Values that JSON has no form for: tags, enums, dataclasses and models come back as what they were."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import json
import sys
import typing
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq.exceptions import DecodeError, InvalidOption
from aiotq.wire.content_types import JSON, standard_registry
from aiotq.wire.known_types import KnownTypes
from aiotq.wire.tags import MAX_DEPTH

from . import serialized
from .serialized import BOTH, Access, Checked, Colour, Item, Level, Line, Numbers, Order, Point, Word, text

if TYPE_CHECKING:
    from somewhere import Unheard  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

#: The module of the classes.
HERE = serialized.__name__

# Values beyond a format's own


def ascii_only(data: bytes) -> bytes:
    return bytes(byte % 128 for byte in data)


NAIVE_OR_UTC = st.none() | st.just(datetime.UTC)
hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | text
    | st.binary(max_size=20)
    | st.datetimes(timezones=NAIVE_OR_UTC).map(lambda at: at.replace(fold=0))  # which ISO 8601 doesn't have
    | st.dates()
    | st.times().map(lambda at: at.replace(fold=0))
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.sampled_from([Colour.RED, Access.READ, Access.READ | Access.WRITE, Access(0), Level.LOW, Word.A]),
    lambda inner: st.frozensets(inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=5,
)
rich = st.recursive(
    hashable | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(text | st.sampled_from(["__type__", "__value__"]), inner, max_size=3)
        | st.fixed_dictionaries({"__type__": inner, "__value__": inner})
        | st.tuples(inner)
        | st.sets(hashable, max_size=3)
        | st.builds(Point, inner)
        | st.builds(Line, st.builds(Point, inner), st.tuples(st.just(Colour.RED)))
        | st.builds(
            Order,
            id=st.uuids(),
            at=st.just(datetime.datetime(2030, 1, 1)),
            orderedBy=text,
            blob=st.binary(max_size=9).map(ascii_only),
        )
    ),
    max_leaves=10,
)
all_three = pytest.mark.parametrize("name", ["json", "msgpack", "yaml"])


def knowing(*classes: type[Any]) -> Any:
    types = KnownTypes()
    for cls in classes:
        types.register(cls)
    return standard_registry(types)


def there_and_back(registry: Any, name: str, value: Any) -> Any:
    serializer = registry.get(name)
    return registry.decode(serializer.content_type, registry.encode(serializer, value, "it"), frozenset({name}))


def shape(value: Any) -> Any:
    """A value with the types of all its parts."""
    if isinstance(value, dict):
        return dict, {key: shape(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [shape(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(repr(shape(part)) for part in value)
    if dataclasses.is_dataclass(value):
        return type(value), {each.name: shape(getattr(value, each.name)) for each in dataclasses.fields(value)}
    return type(value), value


@all_three
@given(value=rich)
def test_values_come_back_as_what_they_were(name: str, value: Any) -> None:
    registry = knowing(Colour, Access, Level, Word, Point, Line, Order)

    assert shape(there_and_back(registry, name, value)) == shape(value)


@pytest.mark.parametrize(
    ("value", "tagged"),
    [
        (
            datetime.datetime(2030, 1, 2, 3, 4, 5, 6),
            {"__type__": "datetime", "__value__": "2030-01-02T03:04:05.000006"},
        ),
        (
            datetime.datetime(2030, 1, 2, tzinfo=datetime.UTC),
            {"__type__": "datetime", "__value__": "2030-01-02T00:00:00+00:00"},
        ),
        (datetime.date(2030, 1, 2), {"__type__": "date", "__value__": "2030-01-02"}),
        (datetime.time(3, 4), {"__type__": "time", "__value__": "03:04:00"}),
        (decimal.Decimal("1.10"), {"__type__": "decimal", "__value__": "1.10"}),
        (uuid.UUID(int=1), {"__type__": "uuid", "__value__": {"hex": "0" * 31 + "1"}}),
        (b"text", {"__type__": "bytes", "__value__": "text"}),
        (b"\xff", {"__type__": "base64", "__value__": "/w=="}),
        (datetime.timedelta(1, 2, 3), {"__type__": "timedelta", "__value__": [1, 2, 3]}),
        ((1, 2), {"__type__": "tuple", "__value__": [1, 2]}),
        ({1}, {"__type__": "set", "__value__": [1]}),
        (Point(1), {"__type__": "dataclass", "__value__": [f"{HERE}.Point", {"x": 1}]}),
        (Colour.RED, {"__type__": "enum", "__value__": [f"{HERE}.Colour", "RED"]}),
        (Item(name="a"), {"__type__": "pydantic", "__value__": [f"{HERE}.Item", {"name": "a"}]}),
        ({"__type__": "x"}, {"__type__": "x"}),
        (
            {"__type__": "x", "__value__": 1},
            {"__type__": "dict", "__value__": {"__type__": "x", "__value__": 1}},
        ),
    ],
    ids=repr,
)
def test_tags_are_as_documented_and_kombus_where_it_has_one(value: Any, tagged: Any) -> None:
    assert json.loads(JSON.encode(value)) == tagged


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"__type__": "date", "__value__": "2030-01-02T00:00:00"}', datetime.date(2030, 1, 2)),
        ('{"__type__": "uuid", "__value__": "00000000000000000000000000000001"}', uuid.UUID(int=1)),
        ('{"__type__": "bytes", "__value__": "a\\u0000"}', b"a\0"),
    ],
)
def test_what_others_write_is_read(text: str, value: Any) -> None:
    assert JSON.decode(text.encode()) == value


@pytest.mark.parametrize("value", [bytearray(b"x"), bytearray(b"\xff")])
@all_three
def test_a_bytearray_arrives_as_bytes(name: str, value: bytearray) -> None:
    assert there_and_back(standard_registry(), name, value) == bytes(value)


@pytest.mark.parametrize(
    "body",
    [
        b'{"__type__": "nonsense", "__value__": 1}',
        b'{"__type__": null, "__value__": 1}',
        b'{"__type__": [1], "__value__": 1}',
        b'{"__type__": "datetime", "__value__": 5}',
        b'{"__type__": "datetime", "__value__": "yesterday"}',
        b'{"__type__": "decimal", "__value__": 1.5}',
        b'{"__type__": "uuid", "__value__": {}}',
        b'{"__type__": "base64", "__value__": "?"}',
        b'{"__type__": "bytes", "__value__": 1}',
        b'{"__type__": "timedelta", "__value__": [1, 2]}',
        b'{"__type__": "timedelta", "__value__": ["a", 1, 2]}',
        b'{"__type__": "set", "__value__": [[]]}',
        b'{"__type__": "set", "__value__": "abc"}',
        b'{"__type__": "dict", "__value__": []}',
        b'{"__type__": "enum", "__value__": 1}',
        b'{"__type__": "enum", "__value__": [1, 2, 3]}',
        b'{"__type__": "enum", "__value__": [1, 2]}',
        b'{"__type__": "enum", "__value__": ["KNOWN.Colour", "BLUE"]}',
        b'{"__type__": "enum", "__value__": ["KNOWN.Colour", "mro"]}',
        b'{"__type__": "enum", "__value__": ["KNOWN.Colour", 1]}',
        b'{"__type__": "enum", "__value__": ["KNOWN.Access", 77]}',
        b'{"__type__": "enum", "__value__": ["KNOWN.Checked", "x"]}',
        b'{"__type__": "dataclass", "__value__": ["KNOWN.Checked", {"x": -1}]}',
        b'{"__type__": "dataclass", "__value__": ["KNOWN.Checked", {}]}',
        b'{"__type__": "dataclass", "__value__": ["KNOWN.Checked", {"x": 1, "y": 2}]}',
        b'{"__type__": "dataclass", "__value__": ["KNOWN.Colour", {}]}',
        b'{"__type__": "pydantic", "__value__": ["KNOWN.Item", {"name": 5}]}',
        b'{"__type__": "pydantic", "__value__": ["KNOWN.Checked", {"x": 5}]}',
        b'{"__type__": "tuple", "__value__": ' * 300 + b"[]" + b"}" * 300,
    ],
)
def test_a_bad_tag_is_a_decode_error(body: bytes) -> None:
    registry = knowing(Colour, Access, Checked, Item)

    with pytest.raises(DecodeError):
        registry.decode(JSON.content_type, body.replace(b"KNOWN", HERE.encode()), BOTH)


def test_a_set_of_items_that_share_one_hash_is_refused() -> None:
    """Made of these it would take time with the square of their number."""
    modulus = 2**61 - 1
    items = [{"__type__": "decimal", "__value__": str(number * modulus)} for number in range(20_000)]
    body = json.dumps({"__type__": "set", "__value__": items}).encode()

    with pytest.raises(DecodeError, match="same hash"):
        standard_registry().decode(JSON.content_type, body, BOTH)


@all_three
def test_tags_are_nested_as_deep_as_they_were_sent(name: str) -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH // 2 - 2):
        value = (value,)

    assert there_and_back(standard_registry(), name, value) == value


# Classes


def test_a_class_that_nobody_made_known_is_not_decoded_and_the_error_says_what_to_do() -> None:
    registry = standard_registry(KnownTypes())
    body = registry.encode(registry.get("json"), Point(1), "it")

    with pytest.raises(DecodeError, match=rf"dataclass '{HERE}\.Point' is not known here.*app\.register_type"):
        registry.decode(JSON.content_type, body, BOTH)


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "antigravity.x", "", "x" * 5000])
def test_a_class_is_never_imported_because_a_message_names_it(name: str) -> None:
    body = json.dumps({"__type__": "dataclass", "__value__": [name, {}]}).encode()

    with pytest.raises(DecodeError) as caught:
        standard_registry(KnownTypes()).decode(JSON.content_type, body, BOTH)

    assert "antigravity" not in sys.modules
    assert len(str(caught.value)) < 700


class Shape(typing.TypedDict):
    line: Line


Order_ = typing.NewType("Order_", Order)
AT = datetime.datetime(2030, 1, 1)


def annotated(a: list[Item | None], b: Shape, *, c: typing.Annotated[Order_, "x"], d: Unheard) -> dict[str, Access]:
    raise NotImplementedError


def literally(a: typing.Literal[Level.LOW]) -> None: ...


def test_classes_in_annotations_are_known_and_those_in_their_fields() -> None:
    registry = standard_registry(KnownTypes(lambda: [annotated, literally]))
    value = [Item(name="a"), Line(Point(1), (Colour.RED,)), Order(id=uuid.UUID(int=0), at=AT, orderedBy="a")]

    with pytest.raises(DecodeError, match="Line"):
        there_and_back(standard_registry(KnownTypes(lambda: [literally])), "json", value[1])
    assert there_and_back(registry, "json", [*value, Access.READ, Level.LOW]) == [*value, Access.READ, Level.LOW]


def test_annotations_of_what_is_declared_later_count_too() -> None:
    functions: list[Any] = []
    registry = standard_registry(KnownTypes(lambda: functions))
    with pytest.raises(DecodeError):
        there_and_back(registry, "json", Level.LOW)

    functions.append(literally)

    assert there_and_back(registry, "json", Level.LOW) is Level.LOW


@pytest.mark.parametrize("given", [int, "Point", Point(1), NamedTuple, None])
def test_only_enums_dataclasses_and_models_can_be_registered(given: Any) -> None:
    with pytest.raises(InvalidOption, match="register_type takes"):
        KnownTypes().register(given)


def test_a_class_of_a_script_has_the_name_that_it_has_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Item, "__module__", "__main__")
    sender, worker = KnownTypes(main="proj"), KnownTypes(main="proj")
    worker.register(Item)

    assert sender.name_of(Item) == "proj.Item"
    assert worker.find("proj.Item", "pydantic") is Item


def test_root_models_and_init_false_fields_come_back() -> None:
    registry = knowing(Numbers, Line, Point, Colour)
    line = Line(Point(1))
    object.__setattr__(line, "length", 2.5)

    assert there_and_back(registry, "json", [Numbers([1, 2]), line]) == [Numbers([1, 2]), line]


def test_a_field_that_was_added_since_has_its_default() -> None:
    body = b'{"__type__": "dataclass", "__value__": ["%b.Line", {"start": 1}]}' % HERE.encode()

    assert knowing(Line).decode(JSON.content_type, body, BOTH) == Line(1)  # type: ignore[arg-type]
