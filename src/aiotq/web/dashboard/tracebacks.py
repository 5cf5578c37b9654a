"""A traceback as frames: those of the user stand open, those of aiotq and of libraries are folded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from ...core.values import value

_FRAME: Final = re.compile(r'^  File "(?P<file>[^"\n]+)", line (?P<line>\d+)(?:, in (?P<name>.*))?$')
#: Frames and letters of code that are shown.
_MOST_FRAMES: Final = 100
_MOST_CODE: Final = 400


@value
class Frame:
    """One call in a traceback."""

    file: str
    line: int
    name: str
    code: str
    is_own: bool  #: the user's, not aiotq's or a library's

    @property
    def short(self) -> str:
        """The end of its path: what tells files apart."""
        return "/".join(self.file.split("/")[-3:])


@value
class Part:
    """Frames that stand together: the user's, each open, or others, folded."""

    is_own: bool
    frames: Sequence[Frame]


@value
class Traceback:
    """A traceback that was read; `rest` is what stands in it beside frames, such as the causes of causes."""

    parts: Sequence[Part]
    error: str
    whole: str


def read_traceback(text: str) -> Traceback:
    """Return the frames of a traceback: the last one, where there are several."""
    lines = text.rstrip().split("\n")
    starts = [at for at, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    last = lines[starts[-1] + 1 :] if starts else lines
    frames: list[Frame] = []
    error: list[str] = []
    at = 0
    while at < len(last):
        found = _FRAME.match(last[at])
        if found is None:
            if not last[at].startswith("    "):
                error.append(last[at])
            at += 1
            continue
        code = ""
        if at + 1 < len(last) and last[at + 1].startswith("    "):
            code = last[at + 1].strip()[:_MOST_CODE]
        file = found["file"]
        frames.append(Frame(file, int(found["line"]), found["name"] or "", code, _is_own(file)))
        at += 1
    return Traceback(_parts(frames[-_MOST_FRAMES:]), "\n".join(error).strip(), text)


def _is_own(file: str) -> bool:
    return not any(mark in file for mark in ("/site-packages/", "/dist-packages/", "/lib/python", "/aiotq/", "<frozen"))


def _parts(frames: Sequence[Frame]) -> list[Part]:
    parts: list[Part] = []
    for each in frames:
        if parts and parts[-1].is_own == each.is_own:
            parts[-1] = Part(each.is_own, [*parts[-1].frames, each])
        else:
            parts.append(Part(each.is_own, [each]))
    return parts
