"""What the words of `aiotq multi` mean, as in Celery's."""

from __future__ import annotations

import socket

import pytest

from aiotq.commands.app_option import UsageError
from aiotq.commands.daemon import expanded, per_worker
from aiotq.commands.node_words import nodes

HOST = socket.gethostname()


def options_of(words: str) -> dict[str, dict[str, str | None]]:
    return {node.name.partition("@")[0]: dict(node.options) for node in nodes(words.split())}


def test_workers_are_named_or_counted() -> None:
    assert [node.name for node in nodes(["w1", "w2@example.org", "w3@%h"])] == [
        f"w1@{HOST}",
        "w2@example.org",
        f"w3@{HOST}",
    ]
    assert [node.name for node in nodes(["2"])] == [f"celery1@{HOST}", f"celery2@{HOST}"]
    assert [node.name for node in nodes(["2", "--range-prefix=x", "--hostname=h.org"])] == ["x1@h.org", "x2@h.org"]


def test_options_may_be_for_ranges_lists_and_names() -> None:
    found = options_of("10 -l INFO -Q:1-3 images,video -Q:4,5 data -Q default -L:4,5 DEBUG -E")

    assert [each["-Q"] for each in found.values()] == ["images,video"] * 3 + ["data"] * 2 + ["default"] * 5
    assert [each.get("-L") for each in found.values()] == [None] * 3 + ["DEBUG"] * 2 + [None] * 5
    assert all("-E" in each and each["-l"] == "INFO" for each in found.values())
    named = options_of("image video -c 3 -c:image 10 --pidfile=/run/%n.pid --max-tasks:2 5")
    assert [each["-c"] for each in named.values()] == ["10", "3"]
    assert [each.get("--max-tasks") for each in named.values()] == [None, "5"]


def test_a_worker_is_started_with_its_own_words() -> None:
    (node,) = nodes(["w1", "-A", "proj", "-c4", "--pidfile=/run/", "--", "--grace", "5"])

    assert node.file("--pidfile") == "/run/w1.pid"
    assert node.file("--logfile") == "w1.log"
    assert node.words == [
        *("--pidfile", "/run/w1.pid", "--logfile", "%n%I.log", "-A", "proj", "-c", "4"),
        *("-n", f"w1@{HOST}", "--detach", "--grace", "5"),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "which workers"),
        ("a a", "named twice"),
        ("2 -c:3 4", "workers 1 to 2, not 3"),
        ("2 -c:0-1 4", "workers 1 to 2, not 0-1"),
        ("a -c:b 4", "no worker 'b'"),
        ("a -c", "-c: its value is missing"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        nodes(words.split())


def test_names_of_files_are_expanded() -> None:
    assert expanded("/log/%n-%d-%h%I.%i.100%%%", "w1@host") == "/log/w1-host-w1@host.0.100%%"
    assert expanded("%n%I.log", "w1@host", 2) == "w1-2.log"
    assert per_worker("%n.log", "w1@host") is None
    assert per_worker("%n%I.log", "w1@host") == "w1%I.log"
