"""The page about Amazon SQS: its module works on a server that speaks as SQS does."""

from __future__ import annotations

from pathlib import Path

from ..sqs_server import shared_sqs
from .pages import Reader


async def test_the_example_prints_what_it_says(tmp_path: Path) -> None:
    reader = Reader(tmp_path, env={"AWS_ENDPOINT_URL": shared_sqs().endpoint})

    await reader.follow("guides/sqs.md")

    assert len(reader.done) == 4
