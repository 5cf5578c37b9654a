"""How the chunks of a task are kept and read: `Stream`, an option of tasks."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Final, Generic, Literal, TypeVar, get_args

from ..core.values import value
from ..exceptions import InvalidOption

C_co = TypeVar("C_co", covariant=True)

#: What a run that begins again makes of the chunks that are kept.
Rerun = Literal["restart", "repeat", "resume"]
_LONGEST: Final = 315_360_000  #: seconds of ten years


class Streamed(Generic[C_co]):
    """For type checkers: what a task comes to that yields chunks of this type. It has no value: awaited, it is None."""


@value
class Stream:
    """How the chunks of a task are kept and read: `@app.task(stream=Stream(rerun="repeat"))`.

    A run that begins again (after a retry, or the death of a worker) drops what is kept, and tells the readers
    (`"restart"`); yields the same again, of which they see what is new (`"repeat"`); or yields what comes after
    `self.streamed()` chunks (`"resume"`). `kept` chunks are kept, about, each for `expires` seconds. With `ahead` the
    task waits when it is so many chunks ahead of its slowest reader. Without a reader for `reader_timeout` seconds the
    call is revoked.

    Raises:
        InvalidOption: one of them has an impossible value, or `ahead` is given alone.
    """

    _: KW_ONLY
    rerun: Rerun = "restart"
    kept: int = 10_000
    expires: float = 3600.0
    ahead: int | None = None
    reader_timeout: float | None = None

    def __post_init__(self) -> None:
        if self.rerun not in get_args(Rerun):
            raise InvalidOption(f'Stream: rerun must be "restart", "repeat" or "resume", not {self.rerun!r}')
        for name in ("kept", "ahead"):
            count = getattr(self, name)
            if not (type(count) is int and count >= 1) and not (name == "ahead" and count is None):
                raise InvalidOption(f"Stream: {name} must be a whole number, 1 or more, not {count!r}")
        for name in ("expires", "reader_timeout"):
            seconds = getattr(self, name)
            fits = type(seconds) in {int, float} and 0 < seconds <= _LONGEST
            if not fits and not (name == "reader_timeout" and seconds is None):
                raise InvalidOption(f"Stream: {name} must be a number of seconds above 0, not {seconds!r}")
        if self.ahead is not None and self.reader_timeout is None:
            raise InvalidOption(
                "Stream: ahead needs reader_timeout: a task whose reader is gone would wait for it for ever"
            )
        if self.ahead is not None and self.ahead > self.kept:
            raise InvalidOption(f"Stream: ahead ({self.ahead}) must not be more than is kept ({self.kept})")


DEFAULT_STREAM: Final = Stream()
