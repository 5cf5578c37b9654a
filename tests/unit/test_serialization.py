"""Content types: what arrives is what was sent, or somebody is told which part could not be."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import os
import subprocess
import sys
import typing
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq.exceptions import ContentDisallowed, DecodeError, EncodeError, InvalidOption
from aiotq.wire.content_types import JSON, MSGPACK, PICKLE, YAML, standard_registry
from aiotq.wire.known_types import KnownTypes
from aiotq.wire.serializers import Serializer
from aiotq.wire.tags import MAX_DEPTH

if TYPE_CHECKING:
    from somewhere import Unheard  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]

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


@serializers
@given(value=plain)
def test_plain_values_come_back(serializer: Serializer, value: Any) -> None:
    registry = standard_registry()

    body = registry.encode(serializer, value, "it")

    assert registry.decode(serializer.content_type, body, BOTH) == value


@given(st.binary(max_size=50))
def test_bytes_come_back_from_msgpack(value: bytes) -> None:
    registry = standard_registry()

    assert registry.decode(MSGPACK.content_type, registry.encode(MSGPACK, {"b": value}, "it"), BOTH) == {"b": value}


@serializers
@pytest.mark.parametrize(
    "value",
    [
        object(),
        1 + 2j,
        Name("x"),
        Pair(1, 2),
        collections.OrderedDict(a=1),
        Stamp(2030, 1, 1),
        WithInitVar(1),
        (1, object()),
        Point(object()),
        {(1, 2): 3},
        {Colour.RED: 1},
        Secret(password=pydantic.SecretStr("hush")),
        Holder(item=Item(name="a")),
        Excluding(kept=1, left_out=2),
        Number(x=float("nan")),
        2**64,
        -(2**63) - 1,
        "\ud800",
        Exception("x"),
        lambda: None,
        Unprintable(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_form_of_its_own_is_refused_and_not_changed(serializer: Serializer, value: Any) -> None:
    registry = standard_registry()

    with pytest.raises(
        EncodeError, match=r"^argument x\['a'\]\[1\](\[1\]|\.x)? can't be serialized as " + serializer.name
    ):
        registry.encode(serializer, {"b": 1, "a": [1, value]}, "argument x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), (float("nan"),)], ids=repr)
def test_what_json_would_change_in_silence_is_refused(value: Any) -> None:
    """What arrives is what was sent: NaN would arrive as None."""
    with pytest.raises(EncodeError, match=r"^it\[1\](\[0\])? can't be serialized as json"):
        standard_registry().encode(JSON, [None, value], "it")


@given(plain | st.recursive(st.floats() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(text, inner)))
def test_json_takes_exactly_what_it_gives_back(value: Any) -> None:
    registry = standard_registry()

    try:
        body = registry.encode(JSON, value, "it")
    except EncodeError:
        return
    assert registry.decode(JSON.content_type, body, BOTH) == value


def test_keys_that_are_not_strings_are_refused_by_json() -> None:
    with pytest.raises(EncodeError, match=r"it\['a'\] can't be serialized as json: \{1: 2\} of type dict"):
        standard_registry().encode(JSON, {"a": {1: 2}}, "it")


@serializers
def test_a_long_culprit_is_shown_short(serializer: Serializer) -> None:
    with pytest.raises(EncodeError) as caught:
        standard_registry().encode(serializer, [{("x" * 5000,): 1}], "it")

    assert len(str(caught.value)) < 400


@serializers
@pytest.mark.parametrize("depth", [2_000, 200_000])
def test_what_is_nested_too_deeply_is_refused(serializer: Serializer, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]

    with pytest.raises(EncodeError, match=f"can't be serialized as {serializer.name}"):
        standard_registry().encode(serializer, value, "it")

    deep = {"json": b"[" * depth + b"]" * depth, "msgpack": b"\x91" * depth + b"\x01"}[serializer.name]
    with pytest.raises(DecodeError, match=f"is not {serializer.name}"):
        standard_registry().decode(serializer.content_type, deep, BOTH)


@serializers
def test_what_contains_itself_is_refused(serializer: Serializer) -> None:
    value: list[Any] = []
    value.append(value)

    with pytest.raises(EncodeError):
        standard_registry().encode(serializer, value, "it")


@serializers
@given(body=st.binary(max_size=60))
def test_bytes_are_a_value_or_a_decode_error(serializer: Serializer, body: bytes) -> None:
    try:
        standard_registry().decode(serializer.content_type, body, BOTH)
    except DecodeError as error:
        assert f"body of {len(body)} bytes" in str(error)  # noqa: PT017 (either may happen)


def test_sizes_that_msgpack_announces_are_not_believed() -> None:
    with pytest.raises(DecodeError):
        standard_registry().decode(MSGPACK.content_type, b"\xdd\xff\xff\xff\xff", BOTH)


@pytest.mark.parametrize("accept", [frozenset({"json"}), frozenset({"application/json"})])
def test_the_accept_list_has_names_or_content_types(accept: frozenset[str]) -> None:
    registry = standard_registry()

    assert registry.decode("application/json", b"1", accept) == 1
    with pytest.raises(ContentDisallowed, match=r"'application/x-msgpack' is not accepted \(accept_content: "):
        registry.decode("application/x-msgpack", b"\x01", accept)


@pytest.mark.parametrize("content_type", ["application/x-unheard-of", "json", "", "x" * 10_000])
def test_an_unknown_content_type_is_disallowed(content_type: str) -> None:
    with pytest.raises(ContentDisallowed) as caught:
        standard_registry().decode(content_type, b"1", frozenset({content_type}))

    assert len(str(caught.value)) < 11_000


def test_a_registered_type_is_decoded_only_when_it_is_accepted() -> None:
    registry = standard_registry()
    hexadecimal = Serializer("hex", "text/x-hex", "ascii", lambda v: hex(v).encode(), lambda body: int(body, 16))
    registry.register(hexadecimal)

    body = registry.encode(registry.get("hex"), 255, "it")

    assert registry.decode("text/x-hex", body, frozenset({"hex"})) == 255
    with pytest.raises(ContentDisallowed):
        registry.decode("text/x-hex", body, BOTH)
    with pytest.raises(DecodeError):
        registry.decode("text/x-hex", b"zz", frozenset({"hex"}))


def test_a_serializer_is_got_by_name_or_content_type() -> None:
    registry = standard_registry()

    assert registry.get("json") is registry.get("application/json") is JSON
    with pytest.raises(InvalidOption, match=r"unknown serializer 'jsn': did you mean 'json'\?"):
        registry.get("jsn")
    with pytest.raises(InvalidOption, match="unknown serializer 'cbor': known are json, msgpack, pickle, yaml"):
        registry.get("cbor")


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
        (Point(1), {"__type__": "dataclass", "__value__": [f"{__name__}.Point", {"x": 1}]}),
        (Colour.RED, {"__type__": "enum", "__value__": [f"{__name__}.Colour", "RED"]}),
        (Item(name="a"), {"__type__": "pydantic", "__value__": [f"{__name__}.Item", {"name": "a"}]}),
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
        registry.decode(JSON.content_type, body.replace(b"KNOWN", __name__.encode()), BOTH)


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

    with pytest.raises(DecodeError, match=rf"dataclass '{__name__}\.Point' is not known here.*app\.register_type"):
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
    body = b'{"__type__": "dataclass", "__value__": ["%b.Line", {"start": 1}]}' % __name__.encode()

    assert knowing(Line).decode(JSON.content_type, body, BOTH) == Line(1)  # type: ignore[arg-type]


def test_neither_pydantic_nor_anything_that_few_need_is_imported() -> None:
    rare = ["pydantic", "yaml", "decimal", "uuid", "zlib", "bz2", "lzma", "hmac", "cryptography", "brotli"]
    program = (
        "import sys; import aiotq.wire.content_types as s; from aiotq.wire.known_types import KnownTypes; "
        "s.JSON.decode(s.JSON.encode({'a': [1, 'x', None]})); s.standard_registry(KnownTypes());"
        f"print([name for name in {rare} if name in sys.modules])"
    )

    def loaded(program: str) -> set[str]:
        run = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env=dict(os.environ),
            timeout=60,
        )
        return set(json.loads(run.stdout.replace("'", '"')))

    before = "import sys, asyncio, anyio, orjson, msgpack, dataclasses, inspect, typing, logging, tempfile, pathlib;"
    already = loaded(f"{before} print([name for name in {rare} if name in sys.modules])")
    assert loaded(program) <= already


# YAML and pickle


def test_yaml_reads_what_others_write_and_no_objects() -> None:
    assert YAML.decode(b"[2030-01-02, 1, {a: !!binary aGk=}]") == [datetime.date(2030, 1, 2), 1, {"a": b"hi"}]
    for body in (
        b"!!python/object/apply:os.system [ls]",
        b"a: &x [1]\nb: *x",
        b"[" * 200_000,
        b"[" * 300 + b"]" * 300,
        b"- " * 300 + b"1",
        b"1" * 5000,
        b"1:" * 5000 + b"1",
        b"\xff",
        b"--- 1\n--- 2",
    ):
        with pytest.raises(DecodeError):
            standard_registry().decode("application/x-yaml", body, frozenset({"yaml"}))


def test_pickle_is_used_only_where_it_is_accepted() -> None:
    registry = standard_registry()
    body = registry.encode(PICKLE, {1, 2}, "it")

    assert registry.decode(PICKLE.content_type, body, frozenset({"pickle"})) == {1, 2}
    with pytest.raises(ContentDisallowed):
        registry.decode(PICKLE.content_type, body, BOTH)
    with pytest.raises(InvalidOption, match=r"can run any code.*accept_content"):
        registry.to_send("pickle", BOTH)
    assert registry.to_send("pickle", ["application/x-python-serialize"]) is PICKLE
