"""What code that comes from Celery does with signatures: as dicts, as values, in parts, bare tasks among them."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any, Final

import pytest

from aiotq import AioTQ, AsyncResult, Canvas, GroupResult, chain, chord, group, signature
from aiotq.canvas import Chain, as_form
from aiotq.core.inside import core_of
from aiotq.exceptions import CallError, DecodeError, InvalidOption

app: Final = AioTQ("as-in-celery", broker="memory://")


@app.task(name="add")
async def add(x: int, y: int = 0) -> int:
    return x + y


@app.task(name="total")
async def total(numbers: list[int]) -> int:
    return sum(numbers)


CANVASES: Final[dict[str, Callable[[], Canvas[Any]]]] = {
    "a signature": lambda: add.s(1, y=2).set(queue="q", task_id="one").link(add.s(1)).link_error(total.si([])),
    "a map": lambda: add.starmap([[1, 2]]),
    "chunks": lambda: add.chunks([[1, 2], [3, 4]], 1),
    "a chain": lambda: add.s(1, 2) | add.s(3),
    "a chain of one": lambda: chain([add.s(1, 2)]),
    "a group": lambda: group(add.s(1, 2), add.s(3, 4) | add.s(5)),
    "a chord": lambda: chord([add.s(1, 2), group(add.s(3, 4))], total.s() | add.s(1)),
    "one that may fail": lambda: group(add.s(1, 2).allow_failure("skip")) | total.s(),
}


@pytest.mark.parametrize("name", CANVASES)
def test_the_dict_of_a_canvas_makes_its_like(name: str) -> None:
    canvas = CANVASES[name]()

    form = json.loads(json.dumps(dict(canvas)))

    assert dict(canvas) == as_form(canvas)
    assert as_form(signature(form)) == as_form(Canvas.from_dict(form)) == as_form(canvas)
    assert signature(form, app=app).app is app
    assert canvas["options"] == as_form(canvas)["options"]


@pytest.mark.parametrize("name", CANVASES)
def test_canvases_are_copied_and_pickled_as_values(name: str) -> None:
    canvas = CANVASES[name]()

    assert copy.deepcopy(canvas) == copy.copy(canvas) == pickle.loads(pickle.dumps(canvas)) == canvas
    assert copy.deepcopy(canvas).app is app


def test_a_deep_copy_shares_no_arguments() -> None:
    items = [1]
    copied = copy.deepcopy(total.s(items))

    items.append(2)

    assert copied.args == ([1],)


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml"])
@pytest.mark.parametrize("name", CANVASES)
def test_canvases_travel_as_what_they_are(name: str, serializer: str) -> None:
    canvas = CANVASES[name]()

    body = core_of(app).serializers.encode(
        core_of(app).serializers.get(serializer), [[canvas], {"by": {"name": canvas}}, {}], "it"
    )
    content_type = core_of(app).serializers.get(serializer).content_type
    args, kwargs, _ = core_of(app).serializers.decode(content_type, body, frozenset({serializer}))

    assert as_form(args[0]) == as_form(kwargs["by"]["name"]) == as_form(canvas)
    assert type(args[0]) is type(signature(as_form(canvas)))
    assert args[0].app is app


def test_handles_travel_as_what_they_are() -> None:
    parent = app.AsyncResult("p")
    result: Any = AsyncResult("r", app, task_name="add", parent=parent)
    whole: Any = GroupResult("g", [result, AsyncResult("s", app)], app)

    for serializer in ("json", "msgpack"):
        used = core_of(app).serializers.get(serializer)
        body = core_of(app).serializers.encode(used, [result, whole], "it")
        one, several = core_of(app).serializers.decode(used.content_type, body, frozenset({serializer}))

        assert (one, one.parent, one.task_name) == (result, parent, "add")
        assert several == whole
        assert several.as_tuple() == (("g", None), [(("r", (("p", None), None)), None), (("s", None), None)])


def test_handles_are_copied_and_pickled() -> None:
    result: Any = AsyncResult("r", app, task_name="add")
    whole: Any = GroupResult("g", [result], app)

    assert copy.deepcopy(result) == pickle.loads(pickle.dumps(result)) == result
    assert copy.deepcopy(whole) == pickle.loads(pickle.dumps(whole)) == whole


@pytest.mark.parametrize("plain", [5, [], {"task": 5}, {"subtask_type": "unheard"}])
def test_garbage_for_a_signature_is_refused(plain: Any) -> None:
    body = json.dumps([{"__type__": "signature", "__value__": plain}]).encode()

    with pytest.raises(DecodeError):
        core_of(app).serializers.decode("application/json", body, frozenset({"json"}))


def test_celerys_workers_read_a_signature_as_the_dict_it_is_there() -> None:
    theirs = AioTQ("theirs", broker="memory://", celery_compat=True)
    body = core_of(theirs).serializers.encode(core_of(theirs).serializers.get("json"), [add.s(1, 2)], "it")

    assert json.loads(body) == [as_form(add.s(1, 2))]


def test_bare_tasks_and_dicts_are_parts() -> None:
    bare: Any = add

    assert add.s(1, 1) | bare == chain(add.s(1, 1), bare) == add.s(1, 1) | add.s()
    assert group(bare, dict(add.s(1))) == group(add.s(), add.s(1))
    assert chord([bare], total) == chord([add.s()], total.s())
    assert add.s(1).link(bare).set(link_error=dict(total.si([]))) == add.s(1).link(add.s()).link_error(total.si([]))


def test_a_chain_of_one_that_may_fail_is_its_step_in_others() -> None:
    one = chain(add.s(1).allow_failure("skip")).allow_failure("continue")

    assert one | add.s(2) == add.s(1).allow_failure("continue") | add.s(2)
    assert group(one) == group(add.s(1).allow_failure("continue"))


def test_isinstance_knows_what_made_a_canvas() -> None:
    known: Any = (chain, group, chord)
    flows = (add.s(1, 1) | add.s(1), group(add.s(1)), chord([add.s(1)], total.s()))

    assert [[isinstance(flow, kind) for kind in known] for flow in flows] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]
    assert chain.from_dict(dict(flows[0])) == flows[0]


def test_ids_can_be_had_before_it_is_sent() -> None:
    flow = (group(add.s(1, 1), add.s(2, 2)) | total.s() | add.s(1)).freeze()

    ids = [part.id for part in flow.parts]
    assert None not in ids
    assert flow.id == ids[-1]
    assert flow.freeze() == flow


def test_options_that_are_none_say_nothing() -> None:
    assert add.s(1).set(queue=None, link=None, countdown=None) == add.s(1)
    assert add.s(1).set(queue="q").set(queue=None) == add.s(1).set(queue="q")
    assert group(add.s(1)).set(task_id=None) == group(add.s(1))


def test_set_makes_a_step_immutable() -> None:
    assert add.s(1).set(immutable=True) == add.si(1)
    assert add.si(1).set(immutable=False, queue="q") == add.s(1).set(queue="q")
    assert group(add.s(1), add.s(2)).set(immutable=True) == group(add.si(1), add.si(2))
    assert chord([add.s(1)], total.s([])).set(immutable=True) == chord([add.s(1)], total.si([]))
    assert chain(add.s(1), add.s(2)).set(immutable=True) == chain(add.si(1), add.s(2))


def options_of(option: str, callback: Canvas[Any]) -> dict[str, Any]:
    return {option: callback}


@pytest.mark.parametrize("option", ["link", "link_error"])
def test_callbacks_of_a_whole_are_added_to_those_of_its_parts(option: str) -> None:
    own, more = total.si([1]), total.si([2])
    step = add.s(1).set(**options_of(option, own))

    def callbacks(canvas: Canvas[Any]) -> Any:
        last: Any = canvas.parts[-1] if canvas.parts else canvas
        return last.options[option]

    both = [own, more]
    assert callbacks(step.set(**options_of(option, more))) == both
    assert callbacks((add.s(1) | step).set(**options_of(option, more))) == both
    assert callbacks(chord([add.s(1)], step).set(**options_of(option, more))) == both
    if option == "link_error":
        assert callbacks(group(step).set(**options_of(option, more))) == both


def test_a_group_is_skewed() -> None:
    starts = [task["options"]["countdown"] for task in group(add.s(i) for i in range(4)).skew(1, 4, 2).tasks]

    assert starts == [1, 3, 3, 3]
    assert [task["options"]["countdown"] for task in group(add.s(i) for i in range(3)).skew().tasks] == [1, 2, 3]


def test_a_chain_gives_its_steps() -> None:
    flow = add.s(1) | add.s(2)

    assert isinstance(flow, Chain)
    assert flow.unchain_tasks() == [add.s(1), add.s(2)]


# What is nested deeply.


def nested(depth: int) -> Canvas[Any]:
    flow: Canvas[Any] = add.s(1)
    for _ in range(depth):
        flow = group(flow, add.si(1)) | total.s()
    return flow


def test_what_is_nested_too_deep_is_shown_compared_linked_and_refused() -> None:
    flow = nested(400)

    assert "..." in repr(flow)
    assert flow == nested(400) != nested(399)
    assert flow.link_error(total.si([])) != flow
    with pytest.raises(CallError, match="a workflow nested more than 200 deep can't be sent"):
        flow.freeze()


def test_callbacks_of_callbacks_nested_too_deep_are_refused() -> None:
    flow: Canvas[Any] = add.s(1)
    for _ in range(3000):
        flow = add.s(1).link(flow)

    with pytest.raises(CallError, match="a workflow nested more than 200 deep can't be sent"):
        flow.freeze()


@pytest.mark.parametrize("wrong", [5, "add", object()])
def test_what_is_no_callback_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidOption, match="must be a signature"):
        add.s(1).link(wrong)
