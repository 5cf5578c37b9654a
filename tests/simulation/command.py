"""`python -m tests.simulation`: run many seeds, or one again; print what fails, made as small as it can be."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from . import running
from .breaks import BREAKS, Break
from .plan import Plan, from_json, plan_of, smaller

_clock: Final = time.perf_counter  # the world takes that of the module
#: Worlds that one process runs: what it has of them is never cleaned up.
_AT_ONCE: Final = 100


@dataclass(frozen=True)
class Failure:
    """A seed that breaks a promise."""

    seed: int
    fault: str


@dataclass(frozen=True)
class Tally:
    """What many worlds came to."""

    worlds: int
    requests: int
    struck: int
    failures: tuple[Failure, ...]


def main(words: Sequence[str] | None = None) -> None:
    """Run what the command line asks for; exit with 1 if a promise was broken."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of strings is part of a world
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.simulation", *(words or sys.argv[1:])],
            os.environ | {"PYTHONHASHSEED": "0"},
        )
    given = _parser().parse_args(words)
    if given.break_ is not None:
        BREAKS[given.break_].apply()
    if given.plan is not None or given.seed is not None:
        plan = from_json(given.plan) if given.plan is not None else plan_of(given.seed, given.model)
        sys.exit(_one(plan, shows=not given.quiet))
    if given.breaks:
        sys.exit(not _finds_all(given.within))
    began = _clock()
    until = None if given.seconds is None else began + given.seconds
    tally = many(given.first, given.seeds, jobs=given.jobs, model=given.model, until=until, most=given.failures)
    for failure in tally.failures:
        print(f"seed {failure.seed}: {failure.fault}")
        print(f"    again: python -m tests.simulation --seed {failure.seed}{_more(given)}")
    if tally.failures and not given.quiet:
        _shrink(plan_of(tally.failures[0].seed, given.model), _more(given))
    print(
        f"{tally.worlds} worlds, {tally.requests} requests, {tally.struck} faults of servers, networks and processes, "
        f"{len(tally.failures)} broken promises, {_clock() - began:.1f} s"
    )
    sys.exit(bool(tally.failures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20_000, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seconds", type=float, help="begin no more of them after so many seconds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", choices=running.MODELS, help="run all seeds on servers of this kind")
    parser.add_argument("--failures", type=int, default=10, help="stop after so many seeds that fail")
    parser.add_argument("--seed", type=int, help="run this one alone, and print its trace")
    parser.add_argument("--plan", help="the same, of a plan as it was printed")
    parser.add_argument("--break", dest="break_", choices=sorted(BREAKS), help="break the code in this way first")
    parser.add_argument("--breaks", action="store_true", help="see that each way to break the code is found")
    parser.add_argument("--within", type=int, default=400, help="so many seeds a break")
    parser.add_argument("--quiet", action="store_true", help="print no trace, and make nothing smaller")
    return parser


def _more(given: argparse.Namespace) -> str:
    model = f" --model {given.model}" if given.model else ""
    return model + (f" --break {given.break_}" if given.break_ else "")


def _finds_all(within: int) -> bool:
    """Break the code in each way, in a process of its own; print the first seed that finds it."""
    found = 0
    for name, each in BREAKS.items():
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = not _finds(name, each, within)
            finally:
                os._exit(code)
        found += os.waitpid(pid, 0)[1] == 0
    print(f"{found} of {len(BREAKS)} breaks are found")
    return found == len(BREAKS)


def _finds(name: str, each: Break, within: int) -> bool:
    each.apply()
    running.prepare()
    for seed in range(each.first, each.first + within):
        verdict = running.run(plan_of(seed, each.model), keeps_trace=False)
        if verdict.faults:
            print(f"{name}: seed {seed}: {verdict.faults[0][:120]}", flush=True)
            return True
    print(f"{name}: NOT FOUND by {within} seeds", flush=True)
    return False


def _one(plan: Plan, *, shows: bool) -> bool:
    running.prepare()
    verdict = running.run(plan)
    if shows:
        print(*verdict.trace, sep="\n")
    print(plan.as_json())
    for fault in verdict.faults:
        print(f"BROKEN {fault}")
    print(f"trace {verdict.digest}")
    return bool(verdict.faults)


def many(
    first: int, count: int, *, jobs: int, model: str | None = None, until: float | None = None, most: int = 10
) -> Tally:
    """Run `count` seeds from `first` on in `jobs` processes at once."""
    batches = iter(range(first, first + count, _AT_ONCE))
    end = first + count
    worlds = requests = struck = 0
    failures: list[Failure] = []
    under_way: dict[int, int] = {}  # the pipes of processes, and their pids

    def begin() -> None:
        start = None if len(failures) >= most or (until is not None and _clock() > until) else next(batches, None)
        if start is not None:
            seeds = range(start, min(start + _AT_ONCE, end))
            pipe, pid = _forked(seeds, model, until)
            under_way[pipe] = pid

    for _ in range(jobs):
        begin()
    while under_way:
        pipe = next(iter(under_way))
        for line in _lines(pipe):
            found = json.loads(line)
            worlds, requests, struck = worlds + found[0], requests + found[1], struck + found[2]
            failures += [Failure(*each) for each in found[3]]
        _, status = os.waitpid(under_way.pop(pipe), 0)
        if status:
            raise RuntimeError(f"a process of the simulation ended with {status}")
        begin()
    return Tally(worlds, requests, struck, tuple(sorted(failures, key=lambda failure: failure.seed)))


def _forked(seeds: Sequence[int], model: str | None, until: float | None) -> tuple[int, int]:
    """Have a process of its own run `seeds`; return the end of a pipe on which it says what came of them."""
    read, write = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(write)
        return read, pid
    code = 1
    try:
        running.prepare()
        worlds = requests = struck = 0
        failures: list[tuple[int, str]] = []
        for seed in seeds:
            if until is not None and _clock() > until:
                break
            verdict = running.run(plan_of(seed, model), keeps_trace=False)
            worlds, requests, struck = worlds + 1, requests + verdict.requests, struck + verdict.struck
            if verdict.faults:
                failures.append((seed, verdict.faults[0]))
        os.write(write, json.dumps([worlds, requests, struck, failures]).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)  # nothing is cleaned up


def _lines(pipe: int) -> Iterator[str]:
    with os.fdopen(pipe) as told:
        yield from told


def _shrink(plan: Plan, more: str) -> None:
    """Print the smallest plan found that breaks the same promise."""
    running.prepare()
    kind = running.run(plan, keeps_trace=False).kind
    small = smaller(plan, lambda each: running.run(each, keeps_trace=False).kind == kind)
    print(f"    smaller: python -m tests.simulation{more} --plan '{small.as_json()}'")
