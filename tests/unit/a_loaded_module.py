"""Exceptions as users write them, in a module which the reader of a result has loaded."""

from __future__ import annotations


class Plain(Exception):
    pass


class WithCode(Exception):
    """Its constructor wants something else than its args."""

    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code


class Doubling(Exception):
    """Its constructor takes its own text for something else, without complaint."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no such thing: {name}")


class WithoutArgs(Exception):
    """Keeps nothing in `args`."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Outer:
    class Inner(Exception):
        pass


class Leaving(SystemExit):
    pass


def __getattr__(name: str) -> object:
    raise AssertionError(f"asked for {name}: a module's __getattr__ may import things")
