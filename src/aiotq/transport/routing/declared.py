"""Queues, exchanges and bindings, as `task_queues` declares them, and which of them a worker consumes from."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, cast

from ...core.settings import EXCHANGE_TYPES, Settings
from ...core.values import shown
from ...exceptions import InvalidOption, InvalidSetting, QueueNotFound
from ...wire.message import MAX_NAME, is_name

#: A queue with this weight beside one of weight 1 has all turns but one of a thousand; more would be strict order.
MAX_WEIGHT: Final = 1000
_NAME: Final = f"a string of 1 to {MAX_NAME} printable characters"


@dataclass(frozen=True, slots=True)
class Exchange:
    """Gives a message to the queues bound to it: `direct` by equal keys, `topic` by patterns, `fanout` to all."""

    name: str
    type: str = "direct"

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise InvalidOption(f"an exchange's name must be {_NAME}, not {shown(self.name)}")
        if self.type not in EXCHANGE_TYPES:
            raise InvalidOption(
                f"exchange {self.name!r}: type must be {listed(EXCHANGE_TYPES)}, not {shown(self.type)} "
                "(others can't be worked out at the sender)"
            )


@dataclass(frozen=True, slots=True)
class Binding:
    """By which keys an exchange hands messages to a queue: one key, or a topic pattern (`*` a word, `#` any number)."""

    exchange: str | Exchange
    routing_key: str = ""

    def __post_init__(self) -> None:
        _check_exchange("a binding", self.exchange)
        _check_key("a binding", self.routing_key)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of `task_queues`, and how it is bound.

    Without `exchange` it is bound to `task_default_exchange`, or if there is none to an exchange of its own name.
    Without `routing_key` its key is its name. `bindings` are further ones; with `bindings` alone there are no others.
    """

    name: str
    exchange: str | Exchange | None = None
    routing_key: str | None = None
    bindings: tuple[Binding, ...] = ()

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise InvalidOption(f"a queue's name must be {_NAME}, not {shown(self.name)}")
        if self.exchange is not None:
            _check_exchange(f"queue {self.name!r}", self.exchange)
        if self.routing_key is not None:
            _check_key(f"queue {self.name!r}", self.routing_key)
        given = bindings = cast(object, self.bindings)
        if not isinstance(bindings, (list, tuple)) or not all(
            isinstance(each, Binding) for each in cast("Sequence[object]", bindings)
        ):
            raise InvalidOption(f"queue {self.name!r}: bindings must be a list of Binding, not {shown(given)}")
        object.__setattr__(self, "bindings", tuple(self.bindings))


class Bound:
    """An exchange with its bindings, as `task_queues` declares them."""

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.type = kind
        self.bindings: list[tuple[str, str]] = []  #: routing key or pattern, queue

    def reached(self, key: str) -> tuple[str, ...]:
        """Return the queues that a message with `key` comes to, each once."""
        match self.type:
            case "fanout":
                found = [queue for _, queue in self.bindings]
            case "topic":
                words = _words(key)
                found = [queue for pattern, queue in self.bindings if _matches(_words(pattern), words)]
            case _:
                found = [queue for bound, queue in self.bindings if bound == key]
        return tuple(dict.fromkeys(found))


def declared_queues(conf: Settings) -> tuple[str, ...]:
    """Return the names of `task_queues`, or the default queue if there are none."""
    return tuple(queue.name for queue in conf.task_queues) or (conf.task_default_queue,)


def select_queues(conf: Settings, chosen: Sequence[str] | None, excluded: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the queues a worker consumes from: those chosen (default: all that are declared) but for the excluded.

    Raises:
        InvalidOption: there is no such queue, or none is left.
    """
    declared = declared_queues(conf)
    for given in (chosen, excluded):
        if isinstance(given, str):
            raise InvalidOption(f"a worker's queues are a list of names: [{given!r}], not {given!r}")
    selected = declared if chosen is None else tuple(dict.fromkeys(chosen))
    if not conf.task_create_missing_queues:
        for queue in selected:
            if queue not in declared:
                raise QueueNotFound("a worker", queue, declared)
    for queue in excluded:
        if queue not in declared and queue not in selected:
            raise InvalidOption(f"queue {queue!r} can't be excluded: there is none{near(queue, declared)}")
    left = tuple(queue for queue in selected if queue not in excluded)
    if selected and not left:
        raise InvalidOption(f"all queues are excluded ({', '.join(selected)}): a worker needs at least one")
    return left


def check_queues(given: object) -> tuple[Queue, ...]:
    """Return the setting `task_queues` as `Queue` values.

    Raises:
        InvalidSetting: it is not a list of names and `Queue` values, or two of them are one queue.
    """

    def fail(wrong: object, expected: str) -> NoReturn:
        raise InvalidSetting("task_queues", wrong, expected)

    if given is None:
        return ()
    if not isinstance(given, (list, tuple)):
        fail(given, "a list of names and Queue values")
    queues: dict[str, Queue] = {}
    types: dict[str, str] = {}
    for index, each in enumerate(cast("Sequence[object]", given)):
        if not isinstance(each, Queue) and not is_name(each):
            fail(each, f"a name or an aiotq.Queue at [{index}]")
        queue = each if isinstance(each, Queue) else Queue(cast(str, each))
        if queue.name in queues:
            fail(queue.name, f"a queue named once at [{index}] (for several bindings there is bindings=)")
        queues[queue.name] = queue
        for exchange in (queue.exchange, *(binding.exchange for binding in queue.bindings)):
            if isinstance(exchange, Exchange) and types.setdefault(exchange.name, exchange.type) != exchange.type:
                fail(exchange.type, f"the one type of exchange {exchange.name!r} at [{index}]")
    return tuple(queues.values())


def check_weights(given: object) -> Mapping[str, int]:
    """Return the setting `worker_queue_weights`.

    Raises:
        InvalidSetting: it is not a mapping of queues to whole numbers from 1 to 1000.
    """
    wrong = given
    weights = cast("Mapping[object, object]", given) if isinstance(given, Mapping) else {None: None}
    for queue, weight in weights.items():
        if (
            not is_name(queue)
            or not isinstance(weight, int)
            or isinstance(weight, bool)
            or not 1 <= weight <= MAX_WEIGHT
        ):
            raise InvalidSetting(
                "worker_queue_weights", wrong, f"a mapping of queues to whole numbers from 1 to {MAX_WEIGHT}"
            )
    return cast("Mapping[str, int]", given)


def bound_exchanges(conf: Settings) -> dict[str, Bound]:
    """Return the exchanges that `task_queues` names, with their bindings.

    Raises:
        InvalidSetting: the default exchange has two types.
    """
    exchanges: dict[str, Bound] = {}
    default = conf.task_default_exchange
    types = {default: conf.task_default_exchange_type} if default is not None else {}
    all_bindings = [(binding, queue) for queue in conf.task_queues for binding in _bindings(queue, default)]
    for binding, _ in all_bindings:
        exchange = binding.exchange
        if isinstance(exchange, Exchange) and types.setdefault(exchange.name, exchange.type) != exchange.type:
            raise InvalidSetting(
                "task_queues", exchange.type, f"task_default_exchange_type for exchange {exchange.name!r}"
            )
    for binding, queue in all_bindings:
        name = binding.exchange.name if isinstance(binding.exchange, Exchange) else binding.exchange
        bound = exchanges.setdefault(name, Bound(name, types.get(name, "direct")))
        bound.bindings.append((binding.routing_key, queue.name))
    return exchanges


def _bindings(queue: Queue, default_exchange: str | None) -> Sequence[Binding]:
    if queue.bindings and queue.exchange is None and queue.routing_key is None:
        return queue.bindings
    exchange = queue.exchange if queue.exchange is not None else default_exchange or queue.name
    key = queue.routing_key if queue.routing_key is not None else queue.name
    return (Binding(exchange, key), *queue.bindings)


def _words(key: str) -> tuple[str, ...]:
    return tuple(key.split(".")) if key else ()


def _matches(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    """Whether a topic pattern fits a key: `*` is one word, `#` any number of them."""
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return not rest or any(_matches(rest, words[start:]) for start in range(len(words) + 1))
    return bool(words) and first in ("*", words[0]) and _matches(rest, words[1:])


def _check_exchange(whose: str, given: object) -> None:
    if not isinstance(given, Exchange) and not is_name(given):
        raise InvalidOption(f"{whose}: exchange must be a name or an Exchange, not {shown(given)}")


def _check_key(whose: str, given: object) -> None:
    if not isinstance(given, str) or len(given) > MAX_NAME:
        raise InvalidOption(
            f"{whose}: routing_key must be a string of at most {MAX_NAME} characters, not {shown(given)}"
        )


def near(name: str, known: Collection[str]) -> str:
    """Return the end of a complaint that there is no `name`: the nearest that is known, or all of them."""
    found = difflib.get_close_matches(name, list(known), n=1)
    if found:
        return f": did you mean {found[0]!r}?"
    return f" (there are {', '.join(map(repr, known))})" if known else ""


def listed(words: Collection[str]) -> str:
    """Return `'a', 'b' or 'c'`."""
    *most, last = map(repr, words)
    return f"{', '.join(most)} or {last}" if most else last
