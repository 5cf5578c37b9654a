"""Compression by name and content type; what comes out of a few bytes is bounded while it comes (P5).

Names and content types are kombu's; its `gzip` and `zlib` are both zlib's format under `application/x-gzip`.

Source: kombu, `kombu.compression`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from ..exceptions import ContentDisallowed, DecodeError, EncodeError, InvalidOption, MissingLibrary

#: What reading xz may take beside the output: level 9 needs 65 MiB.
_LZMA_MEMORY: Final = 80 * 1024 * 1024
#: What zstd's level 19 needs; a frame that wants a larger window is refused, as it is memory without output.
_ZSTD_WINDOW: Final = 8 * 1024 * 1024
#: zlib's and gzip's format, whichever it is.
_ZLIB_OR_GZIP: Final = 47


class OutputTooLarge(ValueError):
    """Raised by a decompressor whose output is over `max_size`."""

    def __init__(self, max_size: int) -> None:
        super().__init__(f"it is more than {max_size} bytes when decompressed")


@dataclass(frozen=True, slots=True)
class Compression:
    """One way of making bytes fewer.

    `decompress(data, max_size)` must stop when more than `max_size` bytes have come out, and not when all have. Both
    may raise any `Exception` for what they can't take.
    """

    name: str
    content_type: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes, int], bytes]
    aliases: tuple[str, ...] = ()


class CompressionRegistry:
    """The compressions an app knows, by name, alias and content type."""

    def __init__(self, compressions: Iterable[Compression] = ()) -> None:
        self._known: dict[str, Compression] = {}
        for compression in compressions:
            self.register(compression)

    def register(self, compression: Compression) -> None:
        """Make `compression` known, in place of one with its name, content type or aliases."""
        for name in (compression.name, compression.content_type, *compression.aliases):
            self._known[name] = compression

    def get(self, name: str) -> Compression:
        """Return the compression with this name, alias or content type.

        Raises:
            InvalidOption: there is none; the text has the nearest name.
        """
        found = self._known.get(name)
        if found is None:
            names = [each for each in self._known if "/" not in each]
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(names))}"
            raise InvalidOption(f"unknown compression {name!r}: {hint}")
        return found

    def compress(self, compression: Compression, body: bytes) -> bytes:
        """Return `body` compressed.

        Raises:
            MissingLibrary: the compression's library is not installed.
            EncodeError: it can't be compressed so.
        """
        try:
            return compression.compress(body)
        except MissingLibrary:
            raise
        except Exception as exc:  # whatever a compressor raises
            raise EncodeError(f"{len(body)} bytes can't be compressed as {compression.name}: {exc}") from exc

    def decompress(self, name: str, body: bytes, max_size: int) -> bytes:
        """Return what `body` is compressed from.

        Raises:
            ContentDisallowed: the compression is unknown, or its library is not installed.
            DecodeError: `body` is not of that form, or more than `max_size` bytes come out of it.
        """
        found = self._known.get(name)
        if found is None:
            raise ContentDisallowed(f"compression {name[:255]!r} is not known here")
        try:
            data = found.decompress(body, max_size)
            if len(data) > max_size:
                raise OutputTooLarge(max_size)
        except MissingLibrary as exc:
            raise ContentDisallowed(str(exc)) from exc
        except Exception as exc:  # whatever a decompressor raises
            raise DecodeError(f"body of {len(body)} bytes is not {found.name}: {exc}") from exc
        return data


def _library(name: str, extra: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise MissingLibrary(
            f"compression {extra!r} needs the package {package}: pip install 'aiotq[{extra}]'"
        ) from exc


def _zlib_compress(body: bytes) -> bytes:
    compressed: bytes = importlib.import_module("zlib").compress(body)
    return compressed


def _zlib_decompress(body: bytes, max_size: int) -> bytes:
    return _decompressed(importlib.import_module("zlib").decompressobj(_ZLIB_OR_GZIP), body, max_size)


def _bz2_compress(body: bytes) -> bytes:
    compressed: bytes = importlib.import_module("bz2").compress(body)
    return compressed


def _bz2_decompress(body: bytes, max_size: int) -> bytes:
    return _decompressed(importlib.import_module("bz2").BZ2Decompressor(), body, max_size)


def _lzma_compress(body: bytes) -> bytes:
    compressed: bytes = importlib.import_module("lzma").compress(body)
    return compressed


def _lzma_decompress(body: bytes, max_size: int) -> bytes:
    return _decompressed(importlib.import_module("lzma").LZMADecompressor(memlimit=_LZMA_MEMORY), body, max_size)


def _decompressed(stream: Any, body: bytes, max_size: int) -> bytes:
    """Return the output of one of the standard library's streams, which all take a limit."""
    data: bytes = stream.decompress(body, max_size + 1)
    if len(data) > max_size:
        raise OutputTooLarge(max_size)
    if not stream.eof:
        raise ValueError("it ends too early")
    if stream.unused_data:
        raise ValueError("more bytes follow its end")
    return data


def _brotli_compress(body: bytes) -> bytes:
    compressed: bytes = _library("brotli", "brotli", "brotli").compress(body, quality=_BROTLI_QUALITY)
    return compressed


#: The library's own default, 11, takes some hundred times as long.
_BROTLI_QUALITY: Final = 5


def _brotli_decompress(body: bytes, max_size: int) -> bytes:
    stream = _library("brotli", "brotli", "brotli").Decompressor()
    parts = [stream.process(body, output_buffer_limit=max_size + 1)]
    size = len(parts[0])
    while not stream.is_finished() and size <= max_size:
        part = stream.process(b"", output_buffer_limit=max_size + 1)
        if not part:
            raise ValueError("it ends too early")
        parts.append(part)
        size += len(part)
    if size > max_size:
        raise OutputTooLarge(max_size)
    return b"".join(parts)


def _zstd_compress(body: bytes) -> bytes:
    compressed: bytes = _library("zstandard", "zstd", "zstandard").ZstdCompressor().compress(body)
    return compressed


def _zstd_decompress(body: bytes, max_size: int) -> bytes:
    zstandard = _library("zstandard", "zstd", "zstandard")
    stream = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
    parts: list[bytes] = []
    size = 0
    # One block of a frame is at most 128 KiB of output, and a block of one repeated byte is 4 bytes of input.
    for start in range(0, len(body), _ZSTD_STEP):
        part: bytes = stream.decompress(body[start : start + _ZSTD_STEP])
        parts.append(part)
        size += len(part)
        if size > max_size:
            raise OutputTooLarge(max_size)
        if stream.eof and start + _ZSTD_STEP < len(body):
            raise ValueError("more bytes follow its end")
    if not stream.eof:
        raise ValueError("it ends too early")
    if stream.unused_data:
        raise ValueError("more bytes follow its end")
    return b"".join(parts)


_ZSTD_STEP: Final = 128


def standard_compressions() -> CompressionRegistry:
    """Return a registry with every compression; what needs a library that is missing says so when it is used."""
    return CompressionRegistry(
        [
            Compression("zlib", "application/x-gzip", _zlib_compress, _zlib_decompress, ("gzip",)),
            Compression("bzip2", "application/x-bz2", _bz2_compress, _bz2_decompress, ("bzip",)),
            Compression("lzma", "application/x-lzma", _lzma_compress, _lzma_decompress, ("xz",)),
            Compression("brotli", "application/x-brotli", _brotli_compress, _brotli_decompress),
            Compression("zstd", "application/zstd", _zstd_compress, _zstd_decompress, ("zstandard",)),
        ]
    )
