"""`python -m benchmarks.peers [WORKLOAD…]`: aiotq and other task queues in turn, side by side (`make bench-peers`)."""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import machine, usage
from benchmarks.__main__ import default_directory, number
from benchmarks.figures import BenchmarkError, Broker
from benchmarks.servers import broker_running

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
_THEIRS: Final = _ROOT / ".venv-peers" / "bin" / "python"
_OURS: Final = "aiotq"
_SYSTEMS: Final = (_OURS, "celery", "dramatiq", "taskiq")
_PACKAGES: Final = ("celery", "dramatiq", "taskiq", "taskiq-redis", "taskiq-pipelines", "taskiq-aio-pika", "redis")
#: Seconds after which one system counts as stuck.
_DEADLINE: Final = 300.0

#: By workload and system, the samples of all rounds by figure; nothing for what failed.
Results = dict[tuple[str, str], dict[str, list[float]]]


@dataclass(frozen=True, slots=True)
class Workload:
    """What every system is asked to do; so often by aiotq, and so often by those that take longer."""

    about: str
    unit: str
    broker: Broker
    size: int
    their_size: int
    quick_size: int
    settings: Mapping[str, str]

    def size_for(self, system: str, quick: bool) -> int:
        return self.quick_size if quick else self.size if system == _OURS else self.their_size


_WORKLOADS: Final = {
    "plain": Workload("no-op tasks sent in bulk, all results awaited", "tasks/s", "redis", 20_000, 2000, 100, {}),
    "chains": Workload("chains of 5, 100 at a time", "chains/s", "redis", 5000, 400, 10, {}),
    "chords": Workload("chords of 100 and a sum, 40 at a time", "chords/s", "redis", 200, 40, 2, {}),
    "drain": Workload(
        "no-op tasks in RabbitMQ (classic durable queue, confirms, results in Redis), drained by one worker",
        "tasks/s",
        "rabbitmq",
        20_000,
        2000,
        200,
        {"AIOTQ_AMQP_QUEUE_TYPE": "classic"},
    ),
}


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, _interrupt)
    facts = machine.describe(options.directory)
    facts["peers"] = _versions()
    for name, text in facts.items():
        print(f"{name:<12} {text}")
    print(flush=True)
    try:
        results = run_all(options)
    except KeyboardInterrupt:
        print("interrupted: nothing is left running", file=sys.stderr)
        return 130
    for name in options.names:
        show(name, results, options)
    if options.json is not None:
        options.json.write_text(json.dumps(as_document(facts, results, options), indent=2) + "\n")
    pairs = ((name, system) for name in options.names for system in options.systems)
    return int(any(_rounds(results, *pair) < options.rounds for pair in pairs))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="Measure aiotq and other task queues in turn. Exits with 1 if one of them failed.",
        epilog="workloads: " + ", ".join(_WORKLOADS),
    )
    parser.add_argument("names", nargs="*", metavar="WORKLOAD", help="what to measure (default: everything)")
    parser.add_argument("--systems", nargs="+", default=_SYSTEMS, choices=_SYSTEMS, help="whom (default: all)")
    parser.add_argument("--rounds", type=int, metavar="N", help="times that each is run (default: 3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the machine and all samples to FILE")
    parser.add_argument("--directory", type=Path, default=default_directory(), help="where servers' files are made")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in _WORKLOADS]:
        parser.error(f"unknown workload {unknown[0]!r} (there are {', '.join(_WORKLOADS)})")
    if not _THEIRS.exists() and set(options.systems) != {_OURS}:
        parser.error("the other task queues are not installed: `make bench-peers` does that")
    if options.rounds is None:
        options.rounds = 1 if options.quick else 3
    options.names = options.names or [*_WORKLOADS]
    return options


def run_all(options: argparse.Namespace) -> Results:
    """Run each workload with each system once a round; what failed is left out of that round."""
    results: Results = {}
    pairs = [(name, system) for name in options.names for system in options.systems]
    for number_of_round in range(1, options.rounds + 1):
        for name, system in pairs:
            print(f"... {name}, {system}, round {number_of_round} of {options.rounds}", file=sys.stderr, flush=True)
            try:
                found = run_once(name, system, options)
            except BenchmarkError as exc:
                print(f"{name}, {system}: {exc}", file=sys.stderr, flush=True)
                continue
            for figure, sample in found.items():
                results.setdefault((name, system), {}).setdefault(figure, []).append(sample)
    return results


def run_once(name: str, system: str, options: argparse.Namespace) -> Mapping[str, float]:
    """Run a system's script, on servers that are new and empty.

    Raises:
        BenchmarkError: it failed.
    """
    workload = _WORKLOADS[name]
    with (
        tempfile.TemporaryDirectory(prefix="aiotq-", dir=options.directory, ignore_cleanup_errors=True) as place,
        broker_running(workload.broker, Path(place)) as running,
    ):
        file = Path(place, "samples.json")
        size = workload.size_for(system, options.quick)
        with Path(place, "output").open("wb") as output:
            process = subprocess.Popen(
                [
                    sys.executable if system == _OURS else str(_THEIRS),
                    *("-m", f"benchmarks.peers.{system}_peer", name, str(size), str(file)),
                ],
                cwd=_ROOT,
                env=_environment(workload, running.settings, place),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                process.wait(_DEADLINE)
            except subprocess.TimeoutExpired:
                raise BenchmarkError(f"not done within {_DEADLINE:g} s\n{_said(place)}") from None
            finally:
                if process.poll() is None:
                    usage.kill(process.pid)
                process.wait()
        if process.returncode != 0:
            raise BenchmarkError(f"failed (exit code {process.returncode})\n{_said(place)}")
        found: dict[str, float] = json.loads(file.read_text())
        return found


def _environment(workload: Workload, urls: Mapping[str, str], place: str) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("AIOTQ_", "CELERY", "dramatiq"))}
    results = urls.get("result_backend", urls["broker_url"])
    return {
        **kept,
        **workload.settings,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [kept.get("PYTHONPATH")])]),
        "TMPDIR": place,
        "PEERS_BROKER": urls["broker_url"],
        "PEERS_RESULTS": results,
        "AIOTQ_BROKER_URL": urls["broker_url"],
        "AIOTQ_RESULT_BACKEND": results,
    }


def _said(place: str) -> str:
    """Return the last lines of what the script and its worker wrote."""
    lines: list[str] = []
    for name in ("output", "samples.json.log"):
        with suppress(FileNotFoundError):
            lines += Path(place, name).read_text(errors="replace").splitlines()[-15:]
    return "\n".join(lines)


def _rounds(results: Results, name: str, system: str) -> int:
    """Return in how many rounds a system did not fail."""
    return len(results.get((name, system), {}).get("rate", ()))


def show(name: str, results: Results, options: argparse.Namespace) -> None:
    """Print a line for each system: medians, spread, and how many times aiotq's rate is its own."""
    workload = _WORKLOADS[name]
    print(f"{name}: {workload.about}")
    print(
        f"  {'':<10}{'smallest':>11}{'median':>11}{'largest':>11} {'':<9}{'client CPU':>11}{'worker CPU':>11}  aiotq is"
    )
    ours = results.get((name, _OURS))
    for system in options.systems:
        samples = results.get((name, system))
        if samples is None:
            print(f"  {system:<10} FAILED: see above")
            continue
        rates = samples["rate"]
        median = statistics.median(rates)
        cells = "".join(f"{number(value):>11}" for value in (min(rates), median, max(rates)))
        cpu = "".join(f"{number(statistics.median(samples[figure])):>11}" for figure in ("client CPU", "worker CPU"))
        times = "" if ours is None or system == _OURS else f"{statistics.median(ours['rate']) / median:.1f} x as fast"
        size = workload.size_for(system, options.quick)
        failed = options.rounds - len(rates)
        note = f" FAILED {failed} times" if failed else ""
        print(f"  {system:<10}{cells} {workload.unit:<9}{cpu}  {times:<16}({size:,}){note}")
    print("  CPU in us each\n")


def as_document(facts: Mapping[str, str], results: Results, options: argparse.Namespace) -> dict[str, Any]:
    """Return everything for `--json`."""
    found = {
        name: {
            "about": _WORKLOADS[name].about,
            "unit": _WORKLOADS[name].unit,
            "systems": {system: results.get((name, system)) for system in options.systems},
        }
        for name in options.names
    }
    return {"machine": dict(facts), "quick": options.quick, "workloads": found}


def _versions() -> str:
    if not _THEIRS.exists():
        return "(not installed)"
    program = (
        f"from importlib import metadata; print(*(f'{{n}} {{metadata.version(n)}}' for n in {_PACKAGES}), sep=', ')"
    )
    return subprocess.run([_THEIRS, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
