"""Draws the charts of docs/explanation/performance.md from benchmarks/results: `python scripts/charts.py`.

`RESULTS` and `PEERS` name the files: what `python -m benchmarks --json FILE` writes goes there as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
PICTURES: Final = ROOT / "docs" / "pictures"
RESULTS: Final = ROOT / "benchmarks" / "results" / "2026-11-30.json"
PEERS: Final = ROOT / "benchmarks" / "results" / "peers-2026-11-30.json"

#: A bar: what it is called, how long it is, what is written behind it, and its colour.
Bar = tuple[str, float, str, str]
COLOURS: Final = {"memory": "#90a4ae", "SQLite": "#4db6ac", "PostgreSQL": "#5c6bc0", "Redis": "#e57373"}
RABBIT: Final = "#ffb74d"
_WIDTH: Final = 760
_LEFT: Final = 210
_ROOM: Final = 430
_STEP: Final = 26


def drawings() -> dict[str, str]:
    """Return each chart by its file's name."""
    results = json.loads(RESULTS.read_text())
    peers = json.loads(PEERS.read_text())
    date = results.get("date") or RESULTS.stem
    return {
        "throughput.svg": chart(
            f"No-op tasks a second, one worker process ({date})", throughput(results["benchmarks"])
        ),
        "latency.svg": chart(f"One call and its result, ms: p50 (p99) ({date})", latency(results["benchmarks"])),
        "peers.svg": chart("How many times as fast aiotq was in the same run", beside(peers)),
    }


def median(benchmarks: Mapping[str, Any], name: str, figure: str) -> float:
    """Return the median of a figure."""
    return float(benchmarks[name]["figures"][figure]["median"])


def throughput(benchmarks: Mapping[str, Any]) -> Iterator[tuple[str, list[Bar]]]:
    """Yield the groups of the first chart."""
    whole = [("memory", "memory-throughput"), ("SQLite", "sqlite-throughput"), ("PostgreSQL", "postgres-throughput")]
    whole += [
        ("Redis", "redis-throughput"),
        ("RabbitMQ, classic", "rabbitmq-calls"),
        ("RabbitMQ, quorum", "rabbitmq-quorum-calls"),
    ]
    alone = [("SQLite", "sqlite-drain"), ("PostgreSQL", "postgres-drain"), ("Redis", "redis-drain")]
    alone += [("RabbitMQ, classic", "rabbitmq-drain"), ("RabbitMQ, quorum", "rabbitmq-quorum-drain")]
    for title, rows, figure in [
        ("sent, run, and the result awaited", whole, "end to end"),
        ("a worker draining a queue", alone, "drain"),
    ]:
        values = [(label, median(benchmarks, name, figure)) for label, name in rows]
        yield title, [(label, value, f"{value:,.0f}", COLOURS.get(label, RABBIT)) for label, value in values]


def latency(benchmarks: Mapping[str, Any]) -> Iterator[tuple[str, list[Bar]]]:
    """Yield the groups of the second chart."""
    rows = [("SQLite", "sqlite-roundtrip"), ("PostgreSQL", "postgres-roundtrip"), ("Redis", "redis-roundtrip")]
    rows += [("RabbitMQ, classic", "rabbitmq-calls"), ("RabbitMQ, quorum", "rabbitmq-quorum-calls")]
    bars: list[Bar] = []
    for label, name in rows:
        p50, p99 = (median(benchmarks, name, f"round trip, {part}") for part in ("p50", "p99"))
        bars.append((label, p50, f"{p50:g} ({p99:g})", COLOURS.get(label, RABBIT)))
    yield "nothing else to do", bars


def beside(peers: Mapping[str, Any]) -> Iterator[tuple[str, list[Bar]]]:
    """Yield the groups of the third chart."""
    colours = ["#81c784", "#64b5f6", "#ba68c8"]
    for workload, ratios in peers["ratios"].items():
        bars = zip(peers["systems"], ratios, colours, strict=True)
        yield workload, [(f"than {system}", ratio, f"{ratio:g} x", colour) for system, ratio, colour in bars]


def chart(title: str, groups: Iterable[tuple[str, Sequence[Bar]]]) -> str:
    """Return horizontal bars as SVG."""
    listed = list(groups)
    longest = max(length for _, bars in listed for _, length, _, _ in bars)
    y = 34
    parts = [f'<text x="16" y="{y - 8}" font-size="16" font-weight="700">{escape(title)}</text>']
    for name, bars in listed:
        y += _STEP
        parts.append(f'<text x="16" y="{y}" font-weight="600">{escape(name)}</text>')
        for label, length, said, colour in bars:
            y += _STEP
            width = max(2.0, length / longest * _ROOM)
            parts.append(f'<text x="{_LEFT - 10}" y="{y}" text-anchor="end">{escape(label)}</text>')
            parts.append(f'<rect x="{_LEFT}" y="{y - 14}" width="{width:.1f}" height="18" rx="3" fill="{colour}"/>')
            parts.append(f'<text x="{_LEFT + width + 8:.1f}" y="{y}">{escape(said)}</text>')
        y += 8
    y += 14
    named = escape(re.sub(r"\s+", " ", title))
    look = 'font-family="system-ui, sans-serif" font-size="13" fill="#263238"'
    size = f'viewBox="0 0 {_WIDTH} {y}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {look} role="img" aria-label="{named}">'
    paper = f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>'
    return "\n".join([head, paper, *parts, "</svg>", ""])


if __name__ == "__main__":
    for file, drawing in drawings().items():
        (PICTURES / file).write_text(drawing)
        print(f"docs/pictures/{file}")
