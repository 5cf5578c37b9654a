"""Compression: what was compressed comes back, and nothing that comes in gets larger than it may."""

from __future__ import annotations

import builtins
import bz2
import gzip
import importlib
import lzma
import os
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq.exceptions import ContentDisallowed, DecodeError, EncodeError, InvalidOption, MissingLibrary
from aiotq.wire.compression import Compression, standard_compressions

NAMES = {
    "zlib": "application/x-gzip",
    "gzip": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "bzip": "application/x-bz2",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
    "brotli": "application/x-brotli",
    "zstd": "application/zstd",
    "zstandard": "application/zstd",
}
five = pytest.mark.parametrize("name", ["zlib", "bzip2", "lzma", "brotli", "zstd"])
LIMIT = 1_000_000


@pytest.mark.parametrize(("name", "content_type"), NAMES.items())
def test_names_and_content_types_are_kombus(name: str, content_type: str) -> None:
    registry = standard_compressions()

    assert registry.get(name).content_type == content_type
    assert registry.get(content_type) is registry.get(name)


@five
@given(data=st.binary(max_size=5000))
def test_bytes_come_back(name: str, data: bytes) -> None:
    registry = standard_compressions()

    assert registry.decompress(name, registry.get(name).compress(data), len(data)) == data


@five
def test_the_limit_is_exact(name: str) -> None:
    registry = standard_compressions()
    data = os.urandom(1000) * 300
    compressed = registry.get(name).compress(data)

    assert registry.decompress(name, compressed, len(data)) == data
    with pytest.raises(DecodeError, match="it is more than 299999 bytes when decompressed"):
        registry.decompress(name, compressed, len(data) - 1)


def bombs() -> dict[str, Callable[[int], bytes]]:
    return {
        "zlib": lambda size: streamed(zlib.compressobj(9), size),
        "bzip2": lambda size: streamed(bz2.BZ2Compressor(9), size),
        "lzma": lambda size: streamed(lzma.LZMACompressor(preset=0), size),
        "brotli": lambda size: streamed(importlib.import_module("brotli").Compressor(quality=5), size),
        "zstd": lambda size: streamed(importlib.import_module("zstandard").ZstdCompressor().compressobj(), size),
    }


def streamed(compressor: Any, size: int) -> bytes:
    step = getattr(compressor, "compress", None) or compressor.process
    finish = getattr(compressor, "finish", None) or compressor.flush
    zeros = bytes(1024 * 1024)
    return b"".join([*(step(zeros) for _ in range(size // len(zeros))), finish()])


@five
def test_a_bomb_costs_no_more_than_the_limit(name: str) -> None:
    bomb = bombs()[name](64 * 1024 * 1024)
    registry = standard_compressions()
    registry.decompress(name, registry.get(name).compress(b"x"), 1)  # what is imported is no cost of the bomb
    before = peak_memory()

    tracemalloc.start()
    with pytest.raises(DecodeError, match="more than"):
        registry.decompress(name, bomb, LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 8 * LIMIT
    assert peak_memory() - before < 40 * 1024 * 1024


def peak_memory() -> int:
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@five
@pytest.mark.parametrize("spoil", ["empty", "other", "cut", "longer"])
def test_what_is_not_what_it_says_is_a_decode_error(name: str, spoil: str) -> None:
    registry = standard_compressions()
    whole = registry.get(name).compress(os.urandom(5000))
    body = {"empty": b"", "other": b"[[1], {}, {}]", "cut": whole[:-3], "longer": whole + b"more"}[spoil]

    with pytest.raises(DecodeError, match=f"body of {len(body)} bytes is not {name}"):
        registry.decompress(name, body, LIMIT)


@five
@given(body=st.binary(max_size=100))
def test_bytes_are_decompressed_or_a_decode_error(name: str, body: bytes) -> None:
    registry = standard_compressions()
    with suppress(DecodeError):
        registry.decompress(name, body, LIMIT)


def test_real_gzip_is_read_too() -> None:
    assert standard_compressions().decompress("application/x-gzip", gzip.compress(b"hi"), 10) == b"hi"


def test_memory_that_a_header_asks_for_is_not_given() -> None:
    zstandard = importlib.import_module("zstandard")
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    frame = streamed(zstandard.ZstdCompressor(compression_params=parameters).compressobj(), 2 * 1024 * 1024)

    with pytest.raises(DecodeError):
        standard_compressions().decompress("zstd", frame, 4 * LIMIT)
    xz = lzma.compress(b"x", preset=0, filters=None)
    huge = lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 512 * 1024 * 1024}])
    assert standard_compressions().decompress("xz", xz, 1) == b"x"
    with pytest.raises(DecodeError, match="Memory usage limit"):
        standard_compressions().decompress("xz", huge, 1)


def test_an_unknown_compression_is_refused_with_the_nearest_name() -> None:
    registry = standard_compressions()

    with pytest.raises(InvalidOption, match=r"unknown compression 'gzp': did you mean 'gzip'\?"):
        registry.get("gzp")
    with pytest.raises(InvalidOption, match="known are brotli, bzip, bzip2, gzip, lzma, xz, zlib, zstandard, zstd"):
        registry.get("?")
    with pytest.raises(ContentDisallowed, match="compression 'application/x-new' is not known here"):
        registry.decompress("application/x-new", b"", LIMIT)


@pytest.mark.parametrize(("name", "module"), [("brotli", "brotli"), ("zstd", "zstandard")])
def test_a_missing_library_is_named_with_its_extra(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = standard_compressions()
    real_import = importlib.import_module

    def missing(wanted: str, package: str | None = None) -> Any:
        if wanted == module:
            raise builtins.ImportError(wanted)
        return real_import(wanted, package)

    monkeypatch.setattr(importlib, "import_module", missing)

    with pytest.raises(MissingLibrary, match=rf"pip install 'aiotq\[{name}\]'"):
        registry.get(name).compress(b"")
    with pytest.raises(ContentDisallowed, match=module):
        registry.decompress(name, b"", LIMIT)


def test_one_of_your_own_is_held_to_the_limit_as_well() -> None:
    registry = standard_compressions()
    registry.register(Compression("twice", "application/x-twice", lambda b: b[::2], lambda b, most: b * 1000))

    assert registry.get("twice").compress(b"abcd") == b"ac"
    assert len(registry.decompress("application/x-twice", b"a", 1000)) == 1000
    with pytest.raises(DecodeError, match="more than 999 bytes"):
        registry.decompress("application/x-twice", b"a", 999)


def test_what_cannot_be_compressed_is_an_encode_error() -> None:
    registry = standard_compressions()

    with pytest.raises(EncodeError, match=r"5 bytes can't be compressed as broken: .* by zero"):
        registry.compress(Compression("broken", "x/broken", lambda b: bytes(1 // 0), lambda b, most: b), b"12345")
