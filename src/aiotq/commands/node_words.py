"""The words of `aiotq multi`: which workers there are, and what each is started with.

Source: Celery's `celery multi` (celery.apps.multi), whose syntax this is.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .app_option import UsageError
from .daemon import expanded

#: Options that say something of all workers, and are not passed on.
_OF_ALL: Final = ("--range-prefix", "--hostname")
#: What is not said takes these.
DEFAULTS: Final[Mapping[str, str]] = {"--pidfile": "%n.pid", "--logfile": "%n%I.log"}
_LONG: Final[Mapping[str, str]] = {"-f": "--logfile", "-n": "--hostname"}
#: Options of a worker that take no value; what follows any other one belongs to it.
_FLAGS: Final = frozenset(
    {
        *(
            "-E",
            "--task-events",
            "--events",
            "--no-task-events",
            "-B",
            "--beat",
            "--burst",
            "--reload",
            "-v",
            "--debug",
        ),
        *("--strict-queues", "--fair-queues", "--uvloop", "--no-uvloop", "--banner", "--no-banner", "-D", "--detach"),
    }
)


@dataclass(frozen=True, slots=True)
class Node:
    """One worker: its name with its host, and the words of `aiotq worker` that start it."""

    name: str
    options: Sequence[tuple[str, str | None]]
    further: Sequence[str]

    def file(self, option: str) -> str:
        """Return its pid file (`--pidfile`) or its log file (`--logfile`)."""
        path = dict(self.options)[option] or ""
        return expanded(path + DEFAULTS[option] if path.endswith("/") else path, self.name)

    @property
    def words(self) -> list[str]:
        """What `aiotq worker` is given."""
        options = [(each, self.file(each) if each == "--pidfile" else value) for each, value in self.options]
        said = [word for option in options for word in option if word is not None]
        return [*said, "-n", self.name, "--detach", *self.further]


@dataclass(slots=True)
class _Said:
    names: list[str] = field(default_factory=list[str])
    options: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])  #: as they were said
    further: list[str] = field(default_factory=list[str])


def nodes(words: Sequence[str]) -> list[Node]:
    """Return the workers that `words` name: names, or how many, and options, which may be for some of them alone.

        3 -c 4 -Q:1,2 images -c:celery3 10

    Raises:
        UsageError: they name none, or an option is for one that is not there.
    """
    said = _split(words)
    of_all = {name: value for name, value in said.options if name in _OF_ALL}
    names = _named(said.names, of_all.get("--range-prefix") or "celery")
    if not names:
        raise UsageError("which workers? Name them, or say how many: aiotq multi start w1 w2 -A proj:app")
    host = of_all.get("--hostname") or socket.gethostname()
    whole = [_whole(each, host) for each in names]
    chosen: list[dict[str, str | None]] = [dict(DEFAULTS) for _ in names]
    rest = [option for option in said.options if option[0] not in _OF_ALL]
    for option, value in rest:
        if _chooser(option)[1] is None:
            for each in chosen:
                each[option] = value
    for option, value in rest:  # what is for some is stronger, wherever it stands
        name, which = _chooser(option)
        if which is not None:
            for index in _indexes(option, which, names, whole):
                chosen[index][_LONG.get(name, name)] = value
    return [
        Node(name, tuple(options.items()), tuple(said.further)) for name, options in zip(whole, chosen, strict=True)
    ]


def _split(words: Sequence[str]) -> _Said:
    said = _Said()
    rest = iter(words)
    for word in rest:
        if word == "--":
            said.further += rest
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            said.options.append((name, value) if equals else (name, _value(name, rest)))
        elif word.startswith("-") and len(word) > 1:
            name, which = (word[:2], word[2:]) if not word.startswith("-", 1) else (word, "")
            if which.startswith(":"):
                said.options.append((word, _value(word, rest)))
            else:
                name = _LONG.get(name, name)
                said.options.append((name, which) if which else (name, _value(name, rest)))
        else:
            said.names.append(word)
    return said


def _value(option: str, rest: Iterator[str]) -> str | None:
    if option.partition(":")[0] in _FLAGS:
        return None
    value = next(rest, None)
    if value is None:
        raise UsageError(f"{option}: its value is missing")
    return value


def _chooser(option: str) -> tuple[str, str | None]:
    name, colon, which = option.partition(":")
    return name, which if colon else None


def _named(said: Sequence[str], prefix: str) -> list[str]:
    if len(said) == 1 and said[0].isdecimal():
        return [f"{prefix}{number}" for number in range(1, int(said[0]) + 1)]
    found: list[str] = []
    for each in said:
        found += [str(number) for number in _range(each)] if _is_range(each) else [each]
    if len(set(found)) != len(found):
        raise UsageError("a worker is named twice")
    return found


def _whole(name: str, host: str) -> str:
    before, at, behind = name.partition("@")
    return f"{before}@{host if not at else behind.replace('%h', socket.gethostname())}"


def _indexes(option: str, which: str, names: Sequence[str], whole: Sequence[str]) -> list[int]:
    found: list[int] = []
    for each in which.split(","):
        if each in names or each in whole:
            found.append(names.index(each) if each in names else whole.index(each))
        elif each.isdecimal() or _is_range(each):
            numbers = _range(each) if _is_range(each) else [int(each)]
            if not numbers or numbers[0] < 1 or numbers[-1] > len(names):
                raise UsageError(f"{option}: there are workers 1 to {len(names)}, not {each}")
            found += [number - 1 for number in numbers]
        else:
            raise UsageError(f"{option}: there is no worker {each!r}; there are {', '.join(names)}")
    return found


def _is_range(text: str) -> bool:
    first, hyphen, last = text.partition("-")
    return bool(hyphen) and first.isdecimal() and last.isdecimal()


def _range(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last) + 1))
