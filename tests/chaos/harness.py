"""Real processes that are killed, and the facts that are counted afterwards."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from aiotq import AioTQ, AsyncResult
from aiotq.tasks.task import Task

from .. import forked
from ..forked import Forked
from ..waiting import wait_until
from . import apps
from .backends import Backend, Standing

T = TypeVar("T")

ROOT: Final = Path(__file__).parents[2]
#: Seconds. Nothing that lives loses a lease, however long it stands still; what the dead held need not wait for that,
#: since other workers on the machine see them die. Where a lease must end, a test gives that process a shorter one.
LEASE: Final = 20.0
#: Seconds beyond what is promised, in which a machine with much else to do keeps a promise.
SLACK: Final = 4.0
#: Seconds a fact may take to come true before its test fails: a guess at the slowest machine, not a promise.
PATIENCE: Final = 45.0


@dataclass(frozen=True)
class Fact:
    """What a process wrote down. `detail` of a start is the time at which the task was due, if it was delayed."""

    event: str
    id: str
    time: float
    pid: int
    worker: int
    detail: Any


@dataclass(frozen=True)
class Death:
    """A kill: when, and what stood in the backend right after it."""

    worker: int
    time: float
    standing: Standing


@dataclass(frozen=True)
class Outage:
    """A time in which the backend could not be reached, and what stood in it when that began."""

    began: float
    over: float
    standing: Standing

    def excuses(self, before: Fact, after: Fact) -> bool:
        """Whether a task may have been started again because of it: it was under way, and not done."""
        return before.time <= self.over and after.time >= self.began and before.id not in self.standing.ended


def _variables(settings: Mapping[str, object]) -> dict[str, object]:
    return {f"AIOTQ_{name.upper()}": value for name, value in settings.items()}


def _started(
    command: Sequence[str], environment: Mapping[str, str], stdin: int, out: int
) -> Forked | subprocess.Popen[bytes]:
    """Start Python with this command: a module is forked, a file is a program from its first instruction on."""
    first, *words = command
    if first == "-m":
        return forked.start(words, ROOT, environment, stdin=stdin, stdout=out, stderr=out)
    command = [sys.executable, *command]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=stdin, stdout=out, stderr=out)


class Process:
    """A process that was started, and what it says."""

    def __init__(self, chaos: Chaos, command: Sequence[str], log: Path, settings: Mapping[str, object]) -> None:
        self._chaos = chaos
        self.log = log
        self.environment = {name: text for name, text in os.environ.items() if not name.startswith("AIOTQ_")} | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH")))),
            "PYTHONUNBUFFERED": "1",
            "AIOTQ_BROKER_URL": chaos.backend.url,
            **({} if chaos.backend.result_backend is None else {"AIOTQ_RESULT_BACKEND": chaos.backend.result_backend}),
            "AIOTQ_WORKER_LEASE": str(LEASE),
            apps.FACTS: str(chaos.facts_file),
            **{name: str(value) for name, value in settings.items()},
        }
        read, write = os.pipe()
        self._stdin = os.fdopen(write, "wb")
        with log.open("ab") as out, os.fdopen(read) as stdin:
            self._process = _started(command, self.environment, stdin.fileno(), out.fileno())
        self.pid = self._process.pid

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    async def says(self, text: str) -> None:
        """Wait until `text` stands in the log."""

        def is_said() -> bool:
            assert text in self.said or self.exit_code is None, f"{self.log.name}: ended without saying {text!r}"
            return text in self.said

        await wait_until(is_said, f"{self.log.name} says {text!r}", PATIENCE)

    async def ended(self) -> int:
        """Wait for the end and return the exit code."""
        await wait_until(lambda: self.exit_code is not None, f"{self.log.name}: the process ended", PATIENCE)
        code = self.exit_code
        assert code is not None
        return code

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def tell_to_go_on(self) -> None:
        """Close its standard input, which is what the programs here wait for."""
        self._stdin.close()

    def kill(self) -> Death:
        """`kill -9`, and look at what it left before anybody else does: the others stand still meanwhile."""
        with ExitStack() as others:
            for other in self._chaos.processes:
                if other is not self:
                    others.enter_context(other.still())
            killed_at = time.time()
            with self._chaos.backend.last_words(self.pid):
                self._process.kill()
                self._process.wait(PATIENCE)
            death = Death(self.pid, killed_at, self._chaos.standing())
        self._chaos.deaths.append(death)
        return death

    @contextmanager
    def still(self) -> Iterator[None]:
        """It does nothing inside; if it did nothing before, it does nothing after."""
        if self.exit_code is not None or self._is_suspended():
            yield
            return
        self.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send_signal(signal.SIGCONT)

    def _is_suspended(self) -> bool:
        """Source: proc(5), /proc/pid/stat."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it ended just now
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def clear(self) -> None:
        """End it, however it is."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)
        self._stdin.close()


class Chaos:
    """One test's backend, processes and facts; a context manager that ends all it started and shows the logs."""

    def __init__(self, directory: Path, backend: Backend) -> None:
        self.directory = directory
        self.backend = backend
        self.facts_file = directory / "facts.jsonl"
        #: A client of the same backend, in the test's own process; tests that want it enter it.
        self.client = AioTQ("client", broker=backend.url, backend=backend.result_backend)
        self.deaths: list[Death] = []
        self.outages: list[Outage] = []
        self.processes: list[Process] = []
        seed = random.randrange(1 << 32)
        self.random = random.Random(seed)
        print(f"seed: {seed}")
        self._facts: list[Fact] = []
        self._read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in self.processes:
            process.clear()
        for process in self.processes:
            print(f"--- {process.log.name} (pid {process.pid}, exit code {process.exit_code})\n{process.said}")

    # -- processes

    def start(self, *command: str, name: str, **settings: object) -> Process:
        """Start a Python program; it is not ready yet."""
        log = self.directory / f"{len(self.processes) + 1:02}-{name}.log"
        process = Process(self, command, log, settings)
        self.processes.append(process)
        return process

    def program(self, name: str, *arguments: object, **settings: object) -> Process:
        """Start one of `programs`."""
        command = ("-m", "tests.chaos.programs", name, *map(str, arguments))
        return self.start(*command, name=name, **_variables(settings))

    def start_worker(self, *words: str, **settings: object) -> Process:
        """Start a worker with more `words`; its settings are environment variables without their prefix."""
        return self.start(
            *("-m", "aiotq", "worker", f"{apps.__name__}:app", *words),
            name="worker",
            **_variables(settings),
        )

    async def worker(self, *words: str, **settings: object) -> Process:
        """Start a worker and wait until it is ready."""
        worker = self.start_worker(*words, **settings)
        await worker.says("is ready")
        return worker

    async def suspend(self, process: Process) -> None:
        """SIGSTOP it, while it doesn't hold the backend's write lock: nobody could write until it goes on."""

        def is_suspended() -> bool:
            process.send_signal(signal.SIGSTOP)
            if self.backend.is_writable():
                return True
            process.send_signal(signal.SIGCONT)
            return False

        await wait_until(is_suspended, f"{process.log.name} was suspended", PATIENCE)

    # -- calls

    async def send(self, task: Task[..., Any], *args: object, **options: Any) -> AsyncResult[Any]:
        """Call `task` from this process."""
        return await self.client.send_task(task.name, args, **options)

    # -- facts

    @property
    def facts(self) -> Sequence[Fact]:
        """All that was written down so far."""
        if self.facts_file.exists():
            with self.facts_file.open("rb") as file:
                file.seek(self._read)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read += len(line)
                    self._facts.append(Fact(**json.loads(line)))
        return self._facts

    def seen(self, event: str, task_id: str | None = None) -> list[Fact]:
        """The facts of one kind (about one task), in order."""
        return [fact for fact in self.facts if fact.event == event and task_id in {None, fact.id}]

    async def sees(self, event: str, task_id: str | None = None, count: int = 1) -> list[Fact]:
        """Wait until `count` facts of one kind (about one task) are there."""

        def those() -> list[Fact]:
            seen = self.seen(event, task_id)
            return seen if len(seen) >= count else []

        about = "" if task_id is None else f" of {task_id}"
        return await wait_until(those, f"{count} times {event!r}{about}", PATIENCE)

    def standing(self) -> Standing:
        """Return what stands in the backend at one moment."""
        return self.backend.standing()

    async def all_ended(self, ids: Collection[str], timeout: float = PATIENCE) -> Mapping[str, str]:
        """Wait until each of `ids` has a terminal record; return how they ended."""

        def is_so() -> bool:
            return not set(ids) - set(self.standing().ended)

        await wait_until(is_so, f"{len(ids)} tasks have ended", timeout)
        return self.standing().ended

    async def when(self, fact: Callable[[Standing], T], message: str) -> T:
        """Wait until `fact` is true of what stands in the backend."""
        return await wait_until(lambda: fact(self.standing()), message, PATIENCE)

    # -- what must hold

    def nothing_is_lost(self, accepted: Collection[str]) -> None:
        """Each accepted task was, at each death, either to be done or done, and never both (P1, P3)."""
        self.backend.check()
        faults: list[Death | Outage] = [*self.deaths, *self.outages]
        for standing in (*(fault.standing for fault in faults), self.standing()):
            assert not set(standing.waiting) & set(standing.ended), "done, and still to be done"
        standing = self.standing()
        lost = set(accepted) - set(standing.ended) - set(standing.waiting)
        assert not lost, f"{len(lost)} of {len(accepted)} accepted tasks are lost"

    def only_the_killed_run_again(self) -> None:
        """A task started again only where its worker was killed before what it did was committed (P2)."""
        deaths = {death.worker: death for death in self.deaths}
        for before, after in self._repeats():
            assert before.worker in deaths, f"{before.id} ran in {before.worker}, a live worker, and in {after.worker}"
            assert before.id not in deaths[before.worker].standing.ended, f"{before.id} was done, and ran again"

    def only_what_an_outage_caught_runs_again(self) -> None:
        """A task started again only where the backend could not be reached before what it did was committed."""
        for before, after in self._repeats():
            assert any(outage.excuses(before, after) for outage in self.outages), (
                f"{before.id} ran in {before.worker} at {before.time}, and in {after.worker} at {after.time}"
            )

    def _repeats(self) -> Iterator[tuple[Fact, Fact]]:
        """Each start of a task with the one before it."""
        starts: dict[str, list[Fact]] = {}
        for fact in self.seen("start"):
            starts.setdefault(fact.id, []).append(fact)
        for facts in starts.values():
            yield from pairwise(facts)

    def starts(self) -> Counter[str]:
        """How often each task was started."""
        return Counter(fact.id for fact in self.seen("start"))
