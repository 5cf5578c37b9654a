"""What happens in a world, as data: made from a seed, written as JSON, and made smaller."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any, Final

from .network import Fault

#: Kinds of servers. `one`: broker and store in one, with a commit (as SQLite and Redis). `two`: a broker that fences,
#: and a store. `plain`: a broker that does not fence (as RabbitMQ), and a store. `three`: such a broker, a ledger, and
#: records apart.
MODELS: Final = ("one", "two", "plain", "three")
#: Kinds of calls, and the states in which they may end.
ENDS: Final[dict[str, frozenset[str]]] = {
    "work": frozenset({"SUCCESS"}),
    "later": frozenset({"SUCCESS"}),
    "retry": frozenset({"SUCCESS"}),
    "fails": frozenset({"FAILURE"}),
    "poison": frozenset({"FAILURE"}),
    "poison_retry": frozenset({"FAILURE"}),
    "chain": frozenset({"SUCCESS"}),
    "chord": frozenset({"SUCCESS"}),
    "chord_fails": frozenset({"FAILURE"}),
    "single": frozenset({"SUCCESS"}),
    "revoked": frozenset({"REVOKED", "SUCCESS"}),
}
_COMMON: Final = ("work", "work", "later", "retry", "chain", "chord", "chord_fails", *ENDS)
#: Requests among which the faults of a plan strike; a world without any makes some hundred.
_AMONG: Final = 200
#: The same, of those with one of these names.
_AMONG_NAMED: Final = 10
_NAMES: Final = ("", "", "send", "commit", "_close", "claim", "settle", "reads", "renew", "renew_claims", "put")
#: When calls are made: some at once.
_TIMES: Final = (0.0, 0.5, 0.5, 1.0, 2.0, 2.0, 3.5)


@dataclass(frozen=True)
class Call:
    """A call: when it is made, how long its function takes, and how long it is to wait."""

    kind: str
    at: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """All that a world does not decide by its seed on the way."""

    seed: int
    model: str
    is_ordered: bool
    workers: int
    schedulers: int
    calls: tuple[Call, ...]
    faults: tuple[Fault, ...]

    def as_json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))


def from_json(text: str) -> Plan:
    """Return the plan that `as_json` wrote."""
    given: dict[str, Any] = json.loads(text)
    calls = tuple(Call(**each) for each in given.pop("calls"))
    faults = tuple(Fault(**each) for each in given.pop("faults"))
    return Plan(**given, calls=calls, faults=faults)


def plan_of(seed: int, model: str | None = None) -> Plan:
    """Return the plan of a seed."""
    random = Random(f"plan {seed}")
    drawn = random.choice(MODELS)
    calls = sorted((_call(random) for _ in range(random.randint(2, 5))), key=lambda call: call.at)
    faults = [_fault(random) for _ in range(random.choice((0, 1, 2, 3, 4, 6)))]
    return Plan(
        seed,
        model or drawn,
        is_ordered=random.random() < 0.5,
        workers=random.choice((1, 2, 2, 3)),
        schedulers=random.choice((0, 0, 0, 2)),
        calls=tuple(calls),
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
    )


def _call(random: Random) -> Call:
    seconds = random.choice((0.0, 0.0, 0.01, 0.3, 1.5, 6.0))
    return Call(random.choice(_COMMON), random.choice(_TIMES), seconds)


_FAULTS: Final = (
    *("die", "die_unheard", "die_unheard", "die_after", "die_later", "die_later"),
    *("lose", "lose_reply", "lose_reply", "late", "late", "slow", "slow_reply"),
    *("cut", "cut", "down", "still", "still", "stop", "jump", "twice", "twice"),
)


def _fault(random: Random) -> Fault:
    kind = random.choice(_FAULTS)
    amount = {
        "die_later": float(random.randint(1, 60)),
        "late": random.choice((0.001, 0.5, 3.0)),
        "slow": random.choice((0.1, 1.0, 4.0)),
        "slow_reply": random.choice((0.1, 1.0, 4.0)),
        "down": random.choice((0.2, 1.0, 5.0)),
        "still": random.choice((0.5, 2.5, 3.5, 8.0)),
        "jump": random.choice((-8.0, -1.0, 1.0, 8.0)),
    }.get(kind, 0.0)
    what = random.choice(_NAMES)
    return Fault(random.randrange(_AMONG_NAMED if what else _AMONG), kind, amount, what)


def smaller(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """Return the smallest plan found that `fails` in the same way."""
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for candidate in _candidates(plan):
            if fails(candidate):
                plan, is_smaller = candidate, True
                break
    return plan


def _candidates(plan: Plan) -> Iterator[Plan]:
    for index in range(len(plan.faults)):
        yield replace(plan, faults=plan.faults[:index] + plan.faults[index + 1 :])
    for index in range(len(plan.calls)):
        yield replace(plan, calls=plan.calls[:index] + plan.calls[index + 1 :])
    if plan.schedulers:
        yield replace(plan, schedulers=0)
    if plan.workers > 1:
        yield replace(plan, workers=plan.workers - 1)
    if not plan.is_ordered:
        yield replace(plan, is_ordered=True)
