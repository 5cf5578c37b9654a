"""Canvases as plain dicts: ours there and back through every serializer, and Celery's own."""

from __future__ import annotations

import json
from typing import Any, Final

import orjson
import pytest

from aiotq import AioTQ, Canvas, Chain, Chord, Group, chain, chord, group, signature
from aiotq.canvas import as_canvas, as_form
from aiotq.canvas.links import Links, embedded, links_of
from aiotq.core.inside import core_of
from aiotq.exceptions import CallError, MalformedMessage

app = AioTQ("proj", broker="memory://")


@app.task(name="add")
async def add(x: int, y: int) -> int:
    return x + y


@app.task(name="xsum")
async def xsum(numbers: list[int]) -> int:
    return sum(numbers)


CANVASES: Final[dict[str, Canvas[Any]]] = {
    "signature": add.s(2, y=2).set(queue="hi", countdown=1.5),
    "immutable": add.si(2, 2),
    "with callbacks": add.s(1).link(add.s(2), xsum.s() | add.s(1)).link_error(add.si(0, 0)),
    "map": xsum.map([[1, 2], [3]]),
    "starmap": add.starmap([[1, 2], [3, 4]]).set(priority=3),
    "chain": add.s(1, 1) | add.s(2) | add.si(3, 3),
    "group": group(add.s(1, 1), add.s(2, 2)),
    "group with an id": group(add.s(1, 1)).set(task_id="mine"),
    "empty group": group([]),
    "empty chain": chain(),
    "chunks": add.chunks([[1, 2], [3, 4], [5, 6]], 2).group(),
    "chord": chord([add.s(1, 1)], xsum.s()),
    "chord with a chain": group(add.s(1, 1), add.s(2, 2)) | xsum.s() | add.s(1),
    "chord with a group": group(add.s(1, 1)) | group(xsum.s(), xsum.s()),
    "policies": chain(
        add.s(1, 1).allow_failure("skip"),
        chain(add.s(1), add.s(2)).allow_failure("continue"),
        chord([add.s(1).allow_failure("continue")], xsum.s()).allow_failure("continue"),
        add.s(3),
    ),
    "nested": group(group(add.s(1, 1), group([])), chord([chord([add.s(1, 1)], xsum.s())], xsum.s() | add.s(1))),
}


@pytest.mark.parametrize("name", CANVASES)
def test_a_canvas_is_its_form_read_again(name: str) -> None:
    canvas = CANVASES[name]

    assert as_canvas(as_form(canvas)) == canvas
    assert as_canvas(orjson.loads(orjson.dumps(as_form(canvas)))) == canvas
    assert as_canvas(json.loads(json.dumps(as_form(canvas)))) == canvas
    assert signature(as_form(canvas)) == app.signature(as_form(canvas)) == canvas
    assert repr(as_canvas(as_form(canvas))) == repr(canvas)


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
@pytest.mark.parametrize("name", CANVASES)
def test_a_form_goes_through_every_serializer(name: str, serializer: str) -> None:
    registry = core_of(app).serializers
    content_type = registry.get(serializer).content_type
    body = registry.encode(registry.get(serializer), as_form(CANVASES[name]), "a form")

    assert as_canvas(registry.decode(content_type, body, frozenset({content_type}))) == CANVASES[name]


def test_a_form_has_the_sender_it_is_read_for() -> None:
    assert as_canvas(as_form(add.s(1) | add.s(2)), app).app is app
    assert as_canvas(as_form(add.s(1))).app is None


def celerys(task: str, *args: Any, **more: Any) -> dict[str, Any]:
    """Return a signature as Celery writes it."""
    return {"task": task, "args": args, "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False, **more}


def celerys_form(kind: str, immutable: bool = False, **kwargs: Any) -> dict[str, Any]:
    return celerys(f"celery.{kind}", subtask_type=kind, kwargs=kwargs, immutable=immutable)


CELERYS: Final[list[tuple[dict[str, Any], Canvas[Any]]]] = [
    (celerys("add", 2, 2), add.s(2, 2)),
    (celerys("add", 2, 2, chord_size=None), add.s(2, 2)),
    (celerys("add", 1, kwargs={"y": 2}, immutable=True, options={"queue": "hi"}), add.si(1, y=2).set(queue="hi")),
    (celerys("add", 1, options={"link": [celerys("add", 2)]}), add.s(1).link(add.s(2))),
    (celerys("add", 1, options={"link": celerys("add", 2)}), add.s(1).link(add.s(2))),
    (celerys("add", 1, options={"link_error": [celerys("xsum")]}), add.s(1).link_error(xsum.s())),
    (celerys_form("chain", tasks=[celerys("add", 1, 1), celerys("add", 2)]), add.s(1, 1) | add.s(2)),
    (celerys_form("group", tasks=(celerys("add", 1, 1), celerys("add", 2, 2))), group(add.s(1, 1), add.s(2, 2))),
    (
        celerys_form(
            "chord", kwargs={}, header=celerys_form("group", tasks=[celerys("add", 1, 1)]), body=celerys("xsum")
        ),
        chord([add.s(1, 1)], xsum.s()),
    ),
    (celerys_form("chord", header=[celerys("add", 1, 1)], body=celerys("xsum")), chord([add.s(1, 1)], xsum.s())),
    (
        celerys_form(
            "chain",
            tasks=[celerys_form("group", tasks=[celerys("add", 1, 1)]), celerys("xsum"), celerys("add", 1)],
        ),
        chord([add.s(1, 1)], xsum.s() | add.s(1)),
    ),
    (celerys_form("map", True, task=celerys("xsum"), it=[[1], [2]]), xsum.map([[1], [2]])),
    (celerys_form("starmap", True, task=celerys("add"), it=[[1, 2]]), add.starmap([[1, 2]])),
    (celerys_form("chunks", True, task=celerys("add"), it=[[1, 2], [3, 4]], n=1), add.chunks([[1, 2], [3, 4]], 1)),
]


@pytest.mark.parametrize(("form", "canvas"), CELERYS)
def test_what_celery_writes_is_read(form: dict[str, Any], canvas: Canvas[Any]) -> None:
    assert as_canvas(form) == canvas
    assert as_canvas(json.loads(json.dumps(form))) == canvas


def test_what_we_write_has_celerys_names() -> None:
    assert as_form(add.s(1, y=2)) == {
        "task": "add",
        "args": [1],
        "kwargs": {"y": 2},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    found = as_form(chain(add.s(1, 1), chord([add.s(1)], xsum.s())))
    assert (found["task"], found["subtask_type"]) == ("celery.chain", "chain")
    of_chord = found["kwargs"]["tasks"][1]
    assert (of_chord["task"], of_chord["kwargs"]["header"]["task"]) == ("celery.chord", "celery.group")
    assert of_chord["kwargs"]["body"]["task"] == "xsum"


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({}, "a signature's task is a name, not None"),
        ({"task": 5}, "a signature's task is a name, not 5"),
        (5, "a signature's form is a mapping, not a int"),
        (celerys("add", args="12"), "a signature's args are a list, not a str"),
        (celerys("add", kwargs=[1]), "a signature's kwargs are a mapping, not a list"),
        (celerys("add", options=5), "a signature's options are a mapping, not a int"),
        (celerys("add", options={"link": 5}), "a signature's form is a mapping, not a int"),
        (celerys_form("chain"), "a signature's tasks are a list, not a NoneType"),
        (celerys_form("chain", tasks=[5]), "a signature's form is a mapping, not a int"),
        (celerys_form("chord", header=[celerys("add")]), "a signature's form is a mapping, not a NoneType"),
        (celerys_form("chord", header=5, body=celerys("add")), "a signature's form is a mapping, not a int"),
        (celerys_form("map", task=celerys_form("group", tasks=[]), it=[]), "map is of one task, not of group"),
        (celerys_form("map", task=celerys("add"), it=5), "a signature's it are a list, not a int"),
        (celerys_form("chunks", task=celerys("add"), it=[], n=None), "chunks hold a whole number of items"),
        (celerys_form("spiral"), "a signature of kind 'spiral' is not known"),
        ({**as_form(add.s(1)), "allow_failure": "explode"}, "allow_failure must be one of"),
    ],
)
def test_what_describes_no_canvas_is_refused(form: Any, words: str) -> None:
    with pytest.raises(CallError) as refused:
        as_canvas(form)

    assert words in str(refused.value)


def test_forms_without_end_are_refused() -> None:
    form: dict[str, Any] = celerys("add")
    for _ in range(300):
        form = celerys_form("group", tasks=[form])

    with pytest.raises(CallError, match="signatures in signatures, more than 200 deep"):
        as_canvas(form)


# In messages


def test_what_follows_a_task_is_read_from_its_message() -> None:
    links = links_of(
        json.loads(
            json.dumps(
                {
                    "callbacks": [as_form(add.s(1))],
                    "errbacks": [as_form(xsum.s())],
                    "chain": [as_form(xsum.s()), as_form(add.s(2))],
                }
            )
        )
    )

    assert (links.callbacks, links.errbacks, links.rest) == ((add.s(1),), (xsum.s(),), (add.s(2), xsum.s()))
    assert links_of(embedded(links)) == links
    assert links_of(None) == links_of({}) == Links()


def test_options_that_only_celery_has_are_left_out() -> None:
    frozen = celerys(
        "add", 1, options={"task_id": "x", "reply_to": "y", "root_id": "z", "parent_id": None, "queue": "q"}
    )

    (step,) = links_of({"chain": [frozen]}).rest

    assert step == add.s(1).set(task_id="x", reply_to="y", queue="q")
    (step,) = links_of({"chain": [celerys_form("group", tasks=[frozen])]}).rest
    assert step == group(add.s(1).set(task_id="x", reply_to="y", queue="q"))


@pytest.mark.parametrize(
    ("embed", "words"),
    [
        (5, "is no mapping"),
        ({"chord": celerys("xsum")}, "in the header of a chord of Celery's own"),
        ({"chain": [celerys("add", options={"chord": celerys("xsum")})]}, "in the header of a chord of Celery's own"),
        ({"chain": 5}, "its chain are no list"),
        ({"callbacks": [5]}, "a signature's form is a mapping"),
        ({"mode": "sideways"}, "its task can't be called as 'sideways'"),
        ({"broken": [1]}, "can't be read"),
        ({"chain": [{"task": "aiotq.resume", "args": ["never"]}]}, "a chain can't resume with 'never'"),
    ],
)
def test_what_cannot_be_read_of_a_workflow_is_a_malformed_message(embed: Any, words: str) -> None:
    with pytest.raises(MalformedMessage) as refused:
        links_of(embed)

    assert words in str(refused.value)


def test_the_classes_are_what_forms_are_read_as() -> None:
    kinds = {name: type(as_canvas(as_form(canvas))) for name, canvas in CANVASES.items()}

    assert kinds["chain"] is Chain
    assert kinds["group"] is kinds["chunks"] is Group
    assert kinds["chord"] is kinds["chord with a chain"] is Chord
