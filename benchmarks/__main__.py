"""`python -m benchmarks [NAME…]`: runs benchmarks, each round of each in fresh processes, and judges the figures."""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from . import machine
from .figures import Benchmark, BenchmarkError, Figure
from .run import BENCHMARKS
from .servers import Running, broker_running
from .tasks import app
from .usage import SERVERS

#: File systems in memory: syncing is free there, which no durable figure should profit from.
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
#: The first would have every process compile all modules anew, the second keep our sockets elsewhere than in `TMPDIR`.
_DROPPED = frozenset({"PYTHONDONTWRITEBYTECODE", "XDG_RUNTIME_DIR"})

#: By benchmark and figure, the values of all rounds; None for a benchmark that failed.
Results = dict[str, dict[str, list[float]] | None]


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, _interrupt)
    chosen = [BENCHMARKS[name] for name in options.names or BENCHMARKS]
    facts = machine.describe(options.directory)
    settings = describe_settings(options)
    for title, entries in (("machine", facts), ("settings", settings)):
        print(f"{title}:")
        for name, text in entries.items():
            print(f"  {name:<12} {text}")
    print(flush=True)
    try:
        # Their own place for compiled modules: there are some whatever the environment says, and none are left behind.
        with tempfile.TemporaryDirectory(prefix="aiotq-", ignore_cleanup_errors=True) as compiled:
            results = run_all(chosen, options, compiled)
    except KeyboardInterrupt:
        print("interrupted: nothing is left running", file=sys.stderr)
        return 130
    missed = show(chosen, results, options)
    if options.json is not None:
        options.json.write_text(json.dumps(as_document(facts, settings, chosen, results, options), indent=2) + "\n")
    return 1 if missed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure aiotq. Exits with 1 if the median of a figure misses its target.",
        epilog="benchmarks: " + ", ".join(BENCHMARKS),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure (default: everything)")
    parser.add_argument("--rounds", type=int, metavar="N", help="times that each is run (default: 3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all works: no verdict")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, settings and all samples to FILE")
    parser.add_argument(
        "--directory",
        type=Path,
        default=default_directory(),
        help="where brokers' files are made and removed, on the disk to be measured (default: %(default)s)",
    )
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"unknown benchmark {unknown[0]!r} (there are {', '.join(BENCHMARKS)})")
    if not options.directory.is_dir():
        parser.error(f"{options.directory} is not a directory")
    if options.rounds is None:
        options.rounds = 1 if options.quick else 3
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    if sys.platform != "linux":
        parser.error("the benchmarks read /proc, so they need Linux")
    return options


def default_directory() -> Path:
    """Return the directory for temporary files, or the working directory where that one is kept in memory."""
    usual = Path(tempfile.gettempdir())
    return Path.cwd() if machine.file_system(usual) in _IN_MEMORY else usual


def describe_settings(options: argparse.Namespace) -> dict[str, str]:
    conf = app.conf
    return {
        "worker": f"concurrency {conf.worker_concurrency}, threads {conf.worker_threads}, processes one a core, "
        f"prefetch {conf.worker_prefetch}, lease {conf.worker_lease:g} s: the defaults",
        "durability": "SQLite: write-ahead log, synchronous=FULL (fsync for every commit), late acknowledgement",
        "redis": "a server of its own on the same machine, save '' and appendonly no (redis-aof: appendfsync everysec)",
        "rabbitmq": "a server of its own, all defaults; claims and results in such a Redis; every message is confirmed",
        "postgres": "a server of its own with fsync, shared_buffers 512 MB, max_wal_size 4 GB, all else its defaults",
        "results": "stored and awaited, JSON; nothing is left out but the log (level warning)",
        "start": "each round has fresh processes and a new, empty broker; modules are compiled and in the disk cache",
        "rounds": f"{options.rounds}, interleaved; judged by their median{'; quick: small sizes' * options.quick}",
    }


def run_all(chosen: Iterable[Benchmark], options: argparse.Namespace, compiled: str) -> Results:
    """Run each benchmark once a round; those that make their samples at once come last."""
    results: Results = {}
    rounds = [[each for each in chosen if not each.once]] * options.rounds + [[each for each in chosen if each.once]]
    for number, benchmarks in enumerate(rounds, 1):
        for benchmark in benchmarks:
            label = "once" if benchmark.once else f"round {number} of {options.rounds}"
            print(f"... {benchmark.name}, {label}", file=sys.stderr, flush=True)
            samples = run_once(benchmark, options.quick, options.directory, compiled)
            collected = results.setdefault(benchmark.name, {})
            if samples is None or collected is None:
                results[benchmark.name] = None
                continue
            for figure, values in samples.items():
                collected.setdefault(figure, []).extend(values)
    return results


def run_once(benchmark: Benchmark, quick: bool, directory: Path, compiled: str) -> Mapping[str, Sequence[float]] | None:
    """Run `benchmark` in a process of its own with a new broker; None if that failed (it has said why)."""
    with ExitStack() as stack:
        place = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="aiotq-", dir=directory, ignore_cleanup_errors=True)
        )
        try:
            running = stack.enter_context(broker_running(benchmark.broker, Path(place)))
        except BenchmarkError as exc:
            print(f"{benchmark.name}: {exc}", file=sys.stderr)
            return None
        file = Path(place, "samples.json")
        size = benchmark.quick_size if quick else benchmark.size
        # A session of its own: Ctrl-C is ours, and one signal ends whatever it started.
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.run", benchmark.name, str(size), str(file)],
            env=environment(benchmark, running, Path(place), compiled),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = process.wait()
        finally:
            if code != 0:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code != 0:
            print(f"{benchmark.name} failed (exit code {code})", file=sys.stderr)
            return None
        samples: dict[str, list[float]] = json.loads(file.read_text())
        return samples


def environment(benchmark: Benchmark, running: Running, place: Path, compiled: str) -> dict[str, str]:
    """Return the environment of a benchmark: no settings but the defaults and its own, and all it makes in `place`."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("AIOTQ_") and name not in _DROPPED}
    paths = [str(Path(__file__).resolve().parent.parent), *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONPYCACHEPREFIX": compiled,
        "TMPDIR": str(place),
        SERVERS: " ".join(map(str, running.pids)),
        **{f"AIOTQ_{name.upper()}": str(value) for name, value in {**running.settings, **benchmark.settings}.items()},
    }


def show(chosen: Iterable[Benchmark], results: Results, options: argparse.Namespace) -> bool:
    """Print a line for each figure; return whether a target was missed, or a benchmark failed, and that counts."""
    missed = False
    for benchmark in chosen:
        size = benchmark.quick_size if options.quick else benchmark.size
        print(f"{benchmark.name}: {size:,} {benchmark.about}")
        samples = results[benchmark.name]
        if samples is None:
            print("  FAILED: see above")
            missed = True
            continue
        for figure in benchmark.figures:
            values = samples[figure.name]
            verdict = "" if options.quick else figure.judge(values)
            missed = missed or verdict == "MISSED"
            print(f"  {figure.name:<27}{spread(values)} {figure.unit:<8} {figure.target:<11} {verdict}".rstrip())
    if not options.quick:
        print("\nA target was missed." if missed else "\nAll targets are met.")
    return missed


def spread(values: Sequence[float]) -> str:
    """Return smallest, median and largest of `values`."""
    return "".join(f"{number(value):>11}" for value in (min(values), statistics.median(values), max(values)))


def number(value: float) -> str:
    """Return `value` with about three digits that mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"


def as_document(
    facts: Mapping[str, str],
    settings: Mapping[str, str],
    chosen: Iterable[Benchmark],
    results: Results,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return everything for `--json`."""

    def entry(figure: Figure, values: Sequence[float]) -> dict[str, Any]:
        verdict = None if options.quick else figure.judge(values) or None
        return {
            "unit": figure.unit,
            "at_least": figure.at_least,
            "at_most": figure.at_most,
            "min": min(values),
            "median": statistics.median(values),
            "max": max(values),
            "samples": values,
            "verdict": verdict,
        }

    benchmarks: dict[str, Any] = {}
    for benchmark in chosen:
        samples = results[benchmark.name]
        figures = (
            None if samples is None else {each.name: entry(each, samples[each.name]) for each in benchmark.figures}
        )
        size = benchmark.quick_size if options.quick else benchmark.size
        benchmarks[benchmark.name] = {"size": size, "about": benchmark.about, "figures": figures}
    return {"machine": facts, "settings": settings, "quick": options.quick, "benchmarks": benchmarks}


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
