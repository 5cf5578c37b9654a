"""Stamps: labels on the calls of a workflow, put there by a visitor of all its parts.

Source: Celery, "Canvas: Designing Work-flows", "Stamping"; `celery.canvas.StampingVisitor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from ..core.values import replace, value
from ..exceptions import InvalidOption
from ..tasks.options import CALL_OPTIONS, stamps_of
from .composites import Chain, Chord, Group
from .signature import Canvas, Signature, as_callbacks
from .validation import check_depth

C = TypeVar("C", bound=Canvas[Any])

#: What a method of a visitor returns: stamps and, with "stamped_headers" to tell them apart, calling options.
Told = Mapping[str, Any] | None
_NAMES: Final = "stamped_headers"


class StampingVisitor:
    """Says with what the parts of a canvas are stamped.

        class Ticketed(StampingVisitor):
            def on_signature(self, sig, /, **headers):
                return {"ticket": new_ticket()}

        await workflow.stamp(Ticketed()).delay()

    Each method is called with a part and what goes onto it so far (stamps as lists of values), and returns further
    stamps: a value each, or a list of values. If there is "stamped_headers" in what it returns, only the names that are
    listed there are stamps; the others are calling options. What comes from further outside wins over what a part
    says; with `append_stamps` both stand, the former first.
    """

    def on_signature(self, sig: Signature[Any], /, **headers: Any) -> Told:
        """Return what goes onto the call of one task."""

    def on_group_start(self, group: Group[Any], /, **headers: Any) -> Told:
        """Return what goes onto all in `group`."""

    def on_group_end(self, group: Group[Any], /, **headers: Any) -> None:
        """Take note that all in `group` are stamped."""

    def on_chain_start(self, chain: Chain[Any], /, **headers: Any) -> Told:
        """Return what goes onto all steps of `chain`."""

    def on_chain_end(self, chain: Chain[Any], /, **headers: Any) -> None:
        """Take note that all steps of `chain` are stamped."""

    def on_chord_header_start(self, chord: Chord[Any], /, **headers: Any) -> Told:
        """Return what goes onto all of `chord`, its body too; here what `on_group_start` says of its header."""
        return self.on_group_start(chord.header, **headers)

    def on_chord_header_end(self, chord: Chord[Any], /, **headers: Any) -> None:
        """Take note that the header of `chord` is stamped."""
        self.on_group_end(chord.header, **headers)

    def on_chord_body(self, chord: Chord[Any], /, **headers: Any) -> Told:
        """Return what goes onto the body of `chord`."""

    def on_callback(self, callback: Canvas[Any], /, **headers: Any) -> Told:
        """Return what goes onto what is linked to a call; the methods for its parts come after."""

    def on_errback(self, errback: Canvas[Any], /, **headers: Any) -> Told:
        """Return what goes onto what is linked to a call's failure; as `on_callback`."""


@value
class _Given:
    """The stamps that one part of a canvas gets."""

    stamps: Mapping[str, Sequence[Any]]
    options: Mapping[str, Any]

    def headers(self) -> dict[str, Any]:
        return {**self.options, **self.stamps}


def stamped(canvas: C, visitor: StampingVisitor | None, stamps: Mapping[str, Any], *, append: bool) -> C:
    """Return `canvas` with `stamps`, and those of `visitor`, on all calls in it and on their callbacks.

    Raises:
        InvalidOption: a stamp has an impossible name, or a visitor returned no mapping.
        CallError: `canvas` is nested too deep.
    """
    check_depth(canvas)
    given = _Given(_checked(stamps), {})
    return cast(C, _Stamping(visitor or StampingVisitor(), append=append).put(canvas, given))


class _Stamping:
    def __init__(self, visitor: StampingVisitor, *, append: bool) -> None:
        self._visitor = visitor
        self._append = append

    def put(self, canvas: Canvas[Any], given: _Given) -> Canvas[Any]:
        visitor = self._visitor
        match canvas:
            case Signature():
                return self._on_call(cast("Signature[Any]", canvas), given)
            case Chain(tasks):
                inside = self._further(given, visitor.on_chain_start, canvas)
                chain = replace(canvas, tasks=tuple(self.put(step, inside) for step in tasks))
                visitor.on_chain_end(chain, **inside.headers())
                return chain
            case Group(tasks):
                group = cast("Group[Any]", canvas)
                inside = self._further(given, visitor.on_group_start, group)
                group = replace(group, tasks=tuple(self.put(task, inside) for task in tasks))
                visitor.on_group_end(group, **inside.headers())
                return group
            case Chord(header, body):
                inside = self._further(given, visitor.on_chord_header_start, canvas)
                header = replace(header, tasks=tuple(self.put(task, inside) for task in header.tasks))
                chord = replace(canvas, header=header)
                visitor.on_chord_header_end(chord, **inside.headers())
                return replace(chord, body=self.put(body, self._further(inside, visitor.on_chord_body, chord)))
            case _:
                raise InvalidOption(f"{canvas!r} can't be stamped")

    def _on_call(self, call: Signature[Any], given: _Given) -> Signature[Any]:
        visitor = self._visitor
        own = self._further(given, visitor.on_signature, call)
        stamps = self._merged(own.stamps, call.options.get("stamps", {}))
        options: dict[str, Any] = {**call.options, **own.options}
        if stamps:
            options["stamps"] = stamps
        for option, on_link in (("link", visitor.on_callback), ("link_error", visitor.on_errback)):
            if linked := as_callbacks(option, options.get(option)):
                options[option] = [self.put(each, self._further(given, on_link, each)) for each in linked]
        return replace(call, options=options)

    def _further(self, given: _Given, say: Callable[..., Told], part: Canvas[Any]) -> _Given:
        """Return `given` with what the visitor says of `part`."""
        told = cast(object, say(part, **given.headers()))
        if not told:
            return given
        if not isinstance(told, Mapping):
            raise InvalidOption(f"{type(self._visitor).__name__} must return a mapping of stamps, not {told!r}")
        found = cast("Mapping[str, Any]", told)
        names = found.get(_NAMES, found.keys())
        further = _checked({name: found[name] for name in names if name in found})
        options = {name: each for name, each in found.items() if name not in further and name != _NAMES}
        return _Given(self._merged(given.stamps, further), {**options, **given.options})

    def _merged(
        self, first: Mapping[str, Sequence[Any]], second: Mapping[str, Sequence[Any]]
    ) -> dict[str, Sequence[Any]]:
        merged = {**second, **first}
        if self._append:
            merged |= {name: [*first[name], *second[name]] for name in first.keys() & second.keys()}
        return merged


def _checked(stamps: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return `stamps` with a list of values each."""
    for name in stamps:
        if name in CALL_OPTIONS or name == _NAMES:
            raise InvalidOption(f"no stamp can be called {name!r}, which is a calling option: choose another name")
    try:
        return stamps_of(stamps)
    except ValueError as exc:
        raise InvalidOption(f"stamps: {exc}") from None
