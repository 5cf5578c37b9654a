"""Finding an app by name: `proj:app`, `proj.sub:app`, `proj`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
from types import ModuleType

from .app import AioTQ
from .exceptions import AppNotFound

_NAMES = ("app", "aiotq")
_SUBMODULES = ("aiotq", "tasks")


def find_app(spec: str) -> AioTQ:
    """Return the app that `spec` names.

    `module:attribute` is exactly that. For `module` alone these are tried in turn: its attributes `app` and
    `aiotq`, the only AioTQ in it, then the same in `module.aiotq` and `module.tasks`. The working directory can be
    imported from.

    Raises:
        AppNotFound: nothing of that kind; the text says what was looked for and what is near.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    name, colon, attribute = spec.partition(":")
    if not name or name.startswith("."):
        raise AppNotFound(f"{spec!r} names no module: write it as module:attribute, e.g. proj:app")
    if colon:
        return _attribute(_load(name, spec), attribute or "app", spec)
    looked: list[str] = []
    module = _load(name, spec)
    found = _search(module, looked)
    if found is None and hasattr(module, "__path__"):
        for submodule in _SUBMODULES:
            full = f"{name}.{submodule}"
            if importlib.util.find_spec(full) is None:
                looked.append(f"module {full}")
            elif (found := _search(_load(full, spec), looked)) is not None:
                break
    if found is None:
        raise AppNotFound(f"no app in {spec!r}: looked for {', '.join(looked)}")
    return found


def _load(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not (name == exc.name or name.startswith(exc.name + ".")):
            raise  # the module is there: something it imports is not
        near = difflib.get_close_matches(name, _modules_here(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AppNotFound(
            f"no module {exc.name!r} for app {spec!r}: looked in {os.getcwd()} and on the Python path{hint}"
        ) from None


def _modules_here() -> list[str]:
    names: list[str] = []
    for entry in os.scandir(os.getcwd()):
        if entry.name.endswith(".py"):
            names.append(entry.name.removesuffix(".py"))
        elif entry.is_dir() and os.path.exists(os.path.join(entry.path, "__init__.py")):
            names.append(entry.name)
    return names


def _attribute(module: ModuleType, attribute: str, spec: str) -> AioTQ:
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, AioTQ):
        return found
    apps = [name for name, value in vars(module).items() if isinstance(value, AioTQ)]
    near = difflib.get_close_matches(attribute, apps, n=1) or apps[:1]
    hint = f"; did you mean {module.__name__}:{near[0]}?" if near else "; there is no AioTQ in it"
    what = "is not an AioTQ" if found is not None else "does not exist"
    raise AppNotFound(f"app {spec!r}: {module.__name__}.{attribute} {what}{hint}")


def _search(module: ModuleType, looked: list[str]) -> AioTQ | None:
    for name in _NAMES:
        if isinstance(found := getattr(module, name, None), AioTQ):
            return found
        looked.append(f"{module.__name__}.{name}")
    looked.append(f"any AioTQ in {module.__name__}")
    apps = {name: each for name, each in vars(module).items() if isinstance(each, AioTQ)}
    if len({id(each) for each in apps.values()}) > 1:
        names = ", ".join(f"{module.__name__}:{name}" for name in apps)
        raise AppNotFound(f"several apps in {module.__name__}: name one of {names}")
    return next(iter(apps.values()), None)
