"""Where an app's settings come from: objects that it names, the environment over them, its own arguments over both."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

from ..exceptions import SettingsError
from . import settings
from .settings import Settings


class Sources:
    """The sources of one app's settings, each over the one before."""

    def __init__(self, conf: Settings, arguments: Mapping[str, Any]) -> None:
        self._conf = conf
        self._arguments = arguments
        self._take_own()

    def config_from_object(self, source: object, *, namespace: str = "") -> None:
        """Take settings from a mapping, a module, class or object, or the import path of one (`"proj.config"`).

        The environment and the arguments given to `AioTQ` stay above them. With `namespace="AIOTQ"` only names
        that begin with `AIOTQ_` count.

        Raises:
            SettingsError: one of them is unknown or has a value it can't have.
        """
        if isinstance(source, str):
            source = _import_object(source)
        self._conf.update(settings.from_object(source, namespace))
        self._take_own()

    def config_from_envvar(self, variable_name: str, silent: bool = False, *, namespace: str = "") -> bool:
        """Take settings from the module that an environment variable names; return whether it is set.

        Otherwise as `config_from_object`. One that is not set is an error, unless `silent`.

        Raises:
            SettingsError: it is not set, names no module, or a setting in that can't be used.
        """
        path = os.environ.get(variable_name, "").strip()
        if not path:
            if silent:
                return False
            raise SettingsError(f"environment variable {variable_name} is not set: it is to name a module of settings")
        try:
            found = _import_object(path)
        except (ImportError, AttributeError) as exc:
            raise SettingsError(f"environment variable {variable_name}: {path!r} can't be imported: {exc}") from exc
        self.config_from_object(found, namespace=namespace)
        return True

    def _take_own(self) -> None:
        self._conf.update(settings.from_environment(os.environ))
        self._conf.update(self._arguments)


def _import_object(path: str) -> object:
    module, colon, attribute = path.partition(":")
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as exc:
        parent, dot, attribute = module.rpartition(".")
        if colon or not dot or exc.name != module:  # else the module is there, and what it imports is not
            raise
        found = importlib.import_module(parent)
        colon = ":"
    return getattr(found, attribute) if colon else found
