"""Values: made as a dataclass makes them, although their `__init__` is compiled when it is first wanted."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import field
from typing import Any

import pytest

from aiotq.core.values import record, value


@value
class Base:
    one: int
    two: str = "two"
    three: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.three.append(self.one)


@value
class Derived(Base):
    four: float = 4.0
    five: int = field(default=5, kw_only=True)


class Plain(Derived):
    """Neither a value nor with an `__init__` of its own."""


@record(kw_only=True)
class Settable:
    one: int = 1
    two: dict[str, int] = field(default_factory=dict[str, int])


def as_dataclass_makes_it(cls: type[Any]) -> inspect.Signature:
    fields = [(each.name, each.type, field_like(each)) for each in dataclasses.fields(cls)]
    return inspect.signature(dataclasses.make_dataclass("Made", fields))


def field_like(each: Any) -> Any:
    given = {"default": each.default, "default_factory": each.default_factory, "kw_only": each.kw_only}
    return field(**{name: it for name, it in given.items() if it is not dataclasses.MISSING})


@pytest.mark.parametrize("cls", [Base, Derived, Settable])
def test_a_value_is_made_with_the_parameters_of_its_fields(cls: type[Any]) -> None:
    ours = inspect.signature(cls).parameters.values()
    theirs = as_dataclass_makes_it(cls).parameters.values()
    assert [(each.name, each.kind, each.annotation) for each in ours] == [
        (each.name, each.kind, each.annotation) for each in theirs
    ]
    assert [each.default is inspect.Parameter.empty for each in ours] == [
        each.default is inspect.Parameter.empty for each in theirs
    ]


def test_what_is_left_out_has_its_default_and_no_two_share_what_is_made_for_them() -> None:
    made = [Derived(7), Derived(one=7, four=1.5, five=6), Plain(7, "2", [8])]
    assert [(each.one, each.two, each.three, each.four, each.five) for each in made] == [
        (7, "two", [7], 4.0, 5),
        (7, "two", [7], 1.5, 6),
        (7, "2", [8, 7], 4.0, 5),
    ]
    assert Derived(7) == made[0]
    assert made[0].three is not made[1].three


def test_wrong_arguments_are_an_error_with_the_name_of_the_class() -> None:
    with pytest.raises(TypeError, match=r"Base\.__init__\(\) missing 1 required positional argument: 'one'"):
        Base()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match=r"Settable\.__init__\(\) takes 1 positional argument"):
        Settable(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_the_fields_of_a_record_can_be_set() -> None:
    settable = Settable(one=2)
    settable.one = 3
    assert settable == Settable(one=3)
    with pytest.raises(AttributeError):
        settable.three = 1  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
