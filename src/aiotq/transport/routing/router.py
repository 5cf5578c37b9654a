"""Where a call goes, decided at the sender, the same for every broker.

Brokers here have queues and nothing else. What an exchange would do with a routing key is worked out from the bindings
declared in `task_queues`; what would go nowhere is an error of the call (P1). Order of precedence, forms and limits:
`docs/guides/routing.md`.

Source: Celery, "Routing Tasks"; AMQP 0-9-1, 3.1.3 (exchange types).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ...core.settings import Settings
from ...core.values import shown, value
from ...exceptions import AioTQError, InvalidOption, QueueNotFound
from .declared import Exchange, bound_exchanges, declared_queues, listed, near
from .routes import Function, Names, OptionCheck, Unusable, compiled, normal_route

#: What says where a call goes; the rest of a route are options of the call.
PLACES: Final = frozenset({"queue", "exchange", "routing_key"})
#: Decisions that are remembered at most: names come from callers, who may make them up.
_MOST_REMEMBERED: Final = 10_000


@value
class Route:
    """Where one call goes (more than one queue: a copy to each), and what its route says beside that."""

    queues: tuple[str, ...]
    options: Mapping[str, Any]
    address: tuple[str, str] | None = None  #: the exchange and the key, if they led there


class Router:
    """Decides where calls go, by what they say, what their tasks say, and the settings, which are frozen by now.

    Raises:
        InvalidSetting: `task_routes` or `task_queues` can't be used.
    """

    def __init__(self, conf: Settings, check: OptionCheck) -> None:
        self._conf = conf
        self._check = check
        self._exchanges = bound_exchanges(conf)
        self._queues = declared_queues(conf)
        self._routers = tuple(compiled(conf.task_routes, check))
        self._is_by_name = all(isinstance(router, Names) for router in self._routers)
        self._decided: dict[str, Route] = {}
        #: Whether every call must be asked about; else only one that names an exchange or a routing key.
        self.is_needed = bool(self._routers) or not conf.task_create_missing_queues

    def route(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        call: Mapping[str, Any],
        declared: Mapping[str, Any],
        task: object = None,
    ) -> Route:
        """Return where a call of `name` goes; `call` and `declared` are what call and task say (`PLACES`, and more).

        Raises:
            QueueNotFound: the queue is not in `task_queues`, and others are not to be made.
            InvalidOption: the call would go nowhere, or a router failed.
        """
        is_open = self._is_by_name and PLACES.isdisjoint(call) and PLACES.isdisjoint(declared)
        if is_open and (decided := self._decided.get(name)) is not None:
            return decided
        found = self._found(name, args, kwargs, call, task)
        queues, address = self._queues_of(name, *_destination((call, declared, found)))
        rest = {option: given for option, given in found.items() if option not in PLACES}
        route = Route(queues, rest, address)
        if is_open:
            if len(self._decided) >= _MOST_REMEMBERED:
                self._decided.clear()
            self._decided[name] = route
        return route

    def _found(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], call: Mapping[str, Any], task: object
    ) -> Mapping[str, Any]:
        """Return what the first router that knows `name` says."""
        for router in self._routers:
            match router:
                case Names():
                    answer = router.answer(name)
                case Function(place):
                    try:
                        answer = normal_route(router.ask(name, args, kwargs, dict(call), task), "", self._check)
                    except Unusable as exc:
                        raise InvalidOption(
                            f"{name}: the router task_routes{place} must return {exc.expected}{exc.at}, "
                            f"not {shown(exc.given)}"
                        ) from None
                    except AioTQError:
                        raise
                    except Exception as exc:  # the user's own function: said again with its place
                        raise InvalidOption(
                            f"{name}: the router task_routes{place} failed with {type(exc).__name__}: {exc}"
                        ) from exc
            if answer is not None:
                return answer
        return {}

    def _queues_of(
        self, name: str, queue: str | None, exchange: str | Exchange | None, key: str | None
    ) -> tuple[tuple[str, ...], tuple[str, str] | None]:
        if queue is None and exchange is None:
            if key is None:
                return (self._known(name, self._conf.task_default_queue),), None
            exchange = self._conf.task_default_exchange
            if exchange is None:
                raise InvalidOption(
                    f"{name}: routing_key {key!r} needs an exchange: say exchange=, or set task_default_exchange"
                )
        if exchange is None:
            assert queue is not None
            self._check_reaches(name, queue, key)
            return (self._known(name, queue),), None
        return self._through(name, exchange, key, queue)

    def _through(
        self, name: str, exchange: str | Exchange, key: str | None, queue: str | None
    ) -> tuple[tuple[str, ...], tuple[str, str] | None]:
        """Return the queues which `exchange` hands a message with `key` to, and both; `queue` must be one of them."""
        wanted = exchange.name if isinstance(exchange, Exchange) else exchange
        if not wanted:  # AMQP's nameless exchange: the key is a queue's name
            if not key or (queue is not None and queue != key):
                raise InvalidOption(f"{name}: exchange '' takes a queue's name as routing_key, not {key!r}")
            return (self._known(name, key),), None
        bound = self._exchanges.get(wanted)
        if bound is None:
            if key in (None, wanted) and queue in (None, wanted) and self._conf.task_create_missing_queues:
                return (wanted,), (wanted, wanted)  # the exchange of a queue that is made when it is needed
            raise InvalidOption(
                f"{name}: no queue is bound to exchange {wanted!r}{near(wanted, self._exchanges)}; "
                f"add Queue(…, exchange={wanted!r}, routing_key=…) to task_queues"
            )
        if isinstance(exchange, Exchange) and exchange.type != bound.type:
            raise InvalidOption(f"{name}: exchange {wanted!r} is {bound.type} in task_queues, not {exchange.type}")
        if key is None and queue is not None:
            key = next((bound_key for bound_key, each in bound.bindings if each == queue), None)
        if key is None:
            key = self._conf.task_default_routing_key
        if key is None and bound.type != "fanout":
            raise InvalidOption(f"{name}: {bound.type} exchange {wanted!r} needs a routing_key")
        reached = bound.reached(key or "")
        if not reached or (queue is not None and queue not in reached):
            missed = "no queue is" if queue is None else f"queue {queue!r} is not"
            bindings = ", ".join(f"{bound_key!r} to {each!r}" for bound_key, each in bound.bindings)
            raise InvalidOption(
                f"{name}: {missed} bound to {bound.type} exchange {wanted!r} for routing_key {key!r}"
                f" (there are {bindings})"
            )
        return reached, (wanted, key or "")

    def _check_reaches(self, name: str, queue: str, key: str | None) -> None:
        """Refuse a key that its queue's topic exchange would take elsewhere; other exchanges have no use for it."""
        if key is None:
            return
        topics = [
            bound
            for bound in self._exchanges.values()
            if bound.type == "topic" and any(each == queue for _, each in bound.bindings)
        ]
        if topics and not any(queue in bound.reached(key) for bound in topics):
            patterns = [pattern for bound in topics for pattern, each in bound.bindings if each == queue]
            raise InvalidOption(
                f"{name}: queue {queue!r} is bound with {listed(patterns)}, which routing_key {key!r} does not match"
            )

    def _known(self, name: str, queue: str) -> str:
        if not self._conf.task_create_missing_queues and queue not in self._queues:
            raise QueueNotFound(name, queue, self._queues)
        return queue


def _destination(
    levels: Sequence[Mapping[str, Any]],
) -> tuple[str | None, str | Exchange | None, str | None]:
    """Return queue and exchange of the first level that names either, and the first key up to there."""
    key: str | None = None
    for level in levels:
        if key is None:
            key = level.get("routing_key")
        queue, exchange = level.get("queue"), level.get("exchange")
        if queue is not None or exchange is not None:
            return queue, exchange, key
    return None, None, key
