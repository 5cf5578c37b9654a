"""Finding an app by name, and what is said when there is none."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiotq import find_app
from aiotq.exceptions import AppNotFound

_numbers = itertools.count()

APP = "from aiotq import AioTQ\n{name} = AioTQ({main!r}, broker='memory://')\n"


def app(name: str = "app", main: str = "main") -> str:
    return APP.format(name=name, main=main)


Project = Callable[[dict[str, str]], str]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """Makes a project in the working directory; PROJ in file names stands for its name, which is returned."""
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    name = f"proj{next(_numbers)}"

    def make(files: dict[str, str]) -> str:
        for file, source in files.items():
            where = tmp_path / file.replace("PROJ", name)
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_text(source.replace("PROJ", name))
        return name

    yield make
    sys.path[:] = path
    for module in set(sys.modules) - modules:
        del sys.modules[module]


@pytest.mark.parametrize(
    ("files", "spec", "main"),
    [
        ({"PROJ.py": app("app", "here")}, "PROJ:app", "here"),
        ({"PROJ.py": app("queue", "here")}, "PROJ:queue", "here"),
        ({"PROJ.py": app("app", "here")}, "PROJ:", "here"),
        ({"PROJ.py": app("app", "here")}, "PROJ", "here"),
        ({"PROJ/__init__.py": "", "PROJ/sub.py": app("app", "sub")}, "PROJ.sub:app", "sub"),
        ({"PROJ/__init__.py": "", "PROJ/sub.py": app("app", "sub")}, "PROJ.sub", "sub"),
        (
            {"PROJ.py": "class Config:\n    " + app("app", "nested").replace("\n", "\n    ")},
            "PROJ:Config.app",
            "nested",
        ),
        ({"PROJ.py": app("aiotq", "second") + app("app", "first")}, "PROJ", "first"),
        ({"PROJ.py": app("other", "any") + app("aiotq", "named")}, "PROJ", "named"),
        ({"PROJ.py": app("anything", "any")}, "PROJ", "any"),
        ({"PROJ.py": "app = 5\n" + app("anything", "any")}, "PROJ", "any"),
        (
            {"PROJ/__init__.py": "", "PROJ/aiotq.py": app("app", "sub"), "PROJ/tasks.py": app("app", "no")},
            "PROJ",
            "sub",
        ),
        ({"PROJ/__init__.py": "", "PROJ/tasks.py": app("queue", "tasks")}, "PROJ", "tasks"),
        ({"PROJ/__init__.py": "", "PROJ/aiotq.py": "", "PROJ/tasks.py": app("app", "tasks")}, "PROJ", "tasks"),
        ({"PROJ/__init__.py": app("app", "top"), "PROJ/aiotq.py": app("app", "sub")}, "PROJ", "top"),
    ],
)
def test_an_app_is_found(project: Project, files: dict[str, str], spec: str, main: str) -> None:
    name = project(files)

    assert find_app(spec.replace("PROJ", name)).main == main


@pytest.mark.parametrize(
    ("files", "spec", "said"),
    [
        ({}, "nowhere:app", ["no module 'nowhere' for app 'nowhere:app'", "looked in ", "on the Python path"]),
        ({"PROJ.py": ""}, "PROJx:app", ["no module 'PROJx'", "did you mean 'PROJ'?"]),
        ({"PROJ/__init__.py": ""}, "PROJx", ["did you mean 'PROJ'?"]),
        ({"PROJ/__init__.py": ""}, "PROJ.sub:app", ["no module 'PROJ.sub' for app 'PROJ.sub:app'"]),
        ({"PROJ.py": ""}, "PROJ.py", ["no module 'PROJ.py'"]),
        ({"PROJ.py": app("queue")}, "PROJ:app", ["PROJ.app does not exist", "did you mean PROJ:queue?"]),
        ({"PROJ.py": app("app") + app("application")}, "PROJ:aplication", ["did you mean PROJ:application?"]),
        ({"PROJ.py": "app = 5"}, "PROJ:app", ["PROJ.app is not an AioTQ", "there is no AioTQ in it"]),
        ({"PROJ.py": ""}, "PROJ:app", ["PROJ.app does not exist; there is no AioTQ in it"]),
        ({"PROJ.py": ""}, "PROJ:app.sub.more", ["PROJ.app.sub.more does not exist"]),
        ({"PROJ.py": ""}, "PROJ", ["no app in 'PROJ': looked for PROJ.app, PROJ.aiotq, any AioTQ in PROJ"]),
        (
            {"PROJ/__init__.py": "", "PROJ/tasks.py": ""},
            "PROJ",
            ["any AioTQ in PROJ, module PROJ.aiotq, PROJ.tasks.app, PROJ.tasks.aiotq, any AioTQ in PROJ.tasks"],
        ),
        ({}, "", ["'' names no module", "e.g. proj:app"]),
        ({}, ":app", ["':app' names no module"]),
        ({}, ".proj:app", ["'.proj:app' names no module"]),
        ({}, "..", ["'..' names no module"]),
    ],
)
def test_what_was_looked_for_is_said_when_there_is_none(
    project: Project, files: dict[str, str], spec: str, said: list[str]
) -> None:
    name = project(files)

    with pytest.raises(AppNotFound) as caught:
        find_app(spec.replace("PROJ", name))

    for each in said:
        assert each.replace("PROJ", name) in str(caught.value)


@pytest.mark.parametrize("spec", ["PROJ", "PROJ:app"])
def test_what_goes_wrong_inside_the_module_is_shown_as_it_is(project: Project, spec: str) -> None:
    name = project({"PROJ.py": "import a_module_that_is_not_installed"})
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_installed"):
        find_app(spec.replace("PROJ", name))

    name = project({"PROJ.py": "1 / 0"})
    with pytest.raises(ZeroDivisionError):
        find_app(spec.replace("PROJ", name))


def test_an_import_that_fails_in_a_submodule_is_shown_too(project: Project) -> None:
    name = project({"PROJ/__init__.py": "", "PROJ/tasks.py": "import PROJ.missing"})

    with pytest.raises(ModuleNotFoundError, match=f"{name}.missing"):
        find_app(name)


def test_of_several_apps_in_a_module_one_is_to_be_named(project: Project) -> None:
    two = app("first", "first") + "second = AioTQ('second', broker='memory://')\n"
    name = project({"PROJ.py": two})

    with pytest.raises(AppNotFound, match=f"several apps in {name}: name one of {name}:first, {name}:second"):
        find_app(name)
