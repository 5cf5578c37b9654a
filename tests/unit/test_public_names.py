"""`aiotq.__all__` is what a user may rely on: it is compared with what is there."""

from __future__ import annotations

import aiotq


def test_every_public_name_is_there() -> None:
    missing = [name for name in aiotq.__all__ if not hasattr(aiotq, name)]

    assert missing == []


def test_public_names_are_sorted_and_named_once() -> None:
    """In the order in which `ruff check --fix` puts them: CONSTANTS, Classes, then functions."""

    assert list(aiotq.__all__) == sorted(set(aiotq.__all__), key=kind_then_name)


def kind_then_name(name: str) -> tuple[int, str]:
    constant = len(name) > 1 and name.isupper()
    return (0 if constant else 1 if name[0].isupper() else 2), name
