"""The key of a call that is always sent, since others wait for its value: its runs are never two at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..exceptions import InvalidOption
from ..results.keys import Key
from ..tasks import keys
from ..wire.message import Step


class Callee(keys.Callee, Protocol):
    """A task, as the key of a step needs it."""

    def parameter(self, index: int) -> str: ...


def step_key(
    unique: keys.Unique, task: Callee | str, args: Sequence[Any], kwargs: Mapping[str, Any], step: Step | None
) -> Key:
    """Return the key of a call that is always sent.

    Raises:
        InvalidOption: it is made of an argument that the step before gives, as no one knows yet.
    """
    name = task if isinstance(task, str) else task.name
    if step is not None and step.awaits is not None and not step.immutable:
        first = None if isinstance(task, str) else task.parameter(0)
        if unique.by is None or callable(unique.by) or first in keys.names_of(unique.by):
            raise InvalidOption(
                f"{name}: its key is made of what the calls before it give, which is not known when it is sent: name "
                "other parameters in Unique(by=…), or call a task that calls it"
            )
        args = (None, *args)
    made_of = keys.key_value(task, unique.by, args, kwargs)
    return Key(f"unique:{name}:{keys.digest(name, 'unique', made_of)}", "step", 0.0)
