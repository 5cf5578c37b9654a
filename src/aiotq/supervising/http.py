"""One port for all workers: `/live`, `/ready` and `/metrics` that speak for all of them.

HTTP as probes and Prometheus speak it: one request a connection, GET or HEAD. A server that can more takes more memory
than all the rest of this process.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

from ..core.values import value
from .reports import Reports
from .sums import Family

#: Seconds that a client has to say what it wants, and to take the answer.
_PATIENCE: Final = 10.0
#: Bytes of a request.
_MOST: Final = 16_384


@value
class _Answer:
    status: HTTPStatus
    content_type: str
    body: bytes


@asynccontextmanager
async def serving(reports: Reports, listener: socket.socket) -> AsyncGenerator[None, None]:
    """Answer at `listener` while entered."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await _serve_one(reports, reader, writer)
        except (OSError, EOFError, TimeoutError):
            pass  # it went away, or is too slow
        finally:
            writer.close()

    server = await asyncio.start_server(serve, sock=listener, limit=_MOST)
    try:
        yield
    finally:
        server.close()


async def _serve_one(reports: Reports, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    method, path, headers = "", "", dict[str, str]()
    try:
        method, path, headers = _read(await reader.readuntil(b"\r\n\r\n"))
        answer = await _answer(reports, method, path, headers)
    except (asyncio.LimitOverrunError, ValueError):
        answer = _said(HTTPStatus.BAD_REQUEST)
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"content-type: {answer.content_type}\r\ncontent-length: {len(answer.body)}\r\nconnection: close\r\n\r\n"
    )
    writer.write(head.encode() + (b"" if method == "HEAD" else answer.body))
    await writer.drain()


def _read(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Return method, path and headers of a request.

    Raises:
        ValueError: it is none.
    """
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not HTTP/1: {version}")
    headers = {name.strip().lower(): text.strip() for name, _, text in (line.partition(":") for line in lines)}
    return method, target.partition("?")[0], headers


async def _answer(reports: Reports, method: str, path: str, headers: Mapping[str, str]) -> _Answer:
    if path not in ("/live", "/ready", "/metrics"):
        return _said(HTTPStatus.NOT_FOUND)
    if method not in ("GET", "HEAD"):
        return _said(HTTPStatus.METHOD_NOT_ALLOWED)
    if path == "/metrics":
        return _metrics(await reports.families(), headers.get("accept", ""))
    checks = await (reports.live() if path == "/live" else reports.ready())
    is_well = all(each["ok"] for each in checks)
    body = json.dumps({"ok": is_well, "checks": checks}).encode()
    return _Answer(HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", body)


def _metrics(families: list[Family], accept: str) -> _Answer:
    from prometheus_client.exposition import choose_encoder  # noqa: PLC0415  # not installed everywhere
    from prometheus_client.metrics_core import Metric  # noqa: PLC0415
    from prometheus_client.registry import Collector, CollectorRegistry  # noqa: PLC0415

    class Collected(Collector):
        def collect(self) -> Any:
            for family in families:
                metric = Metric(family.name, family.meaning, family.kind)
                for (name, labels), amount in family.samples.items():
                    metric.add_sample(name, dict(labels), amount)
                yield metric

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    encode, content_type = choose_encoder(accept)
    return _Answer(HTTPStatus.OK, content_type, encode(registry))


def _said(status: HTTPStatus) -> _Answer:
    return _Answer(status, "text/plain", status.phrase.encode())
