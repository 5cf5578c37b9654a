"""`config_from_envvar`: the module of settings that an environment variable names."""

from __future__ import annotations

import pytest

from aiotq import AioTQ
from aiotq.exceptions import SettingsError

NAME = "PROJ_CONFIG"


def test_the_module_that_the_variable_names_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "tests.unit.config_of_a_project")
    app, other = AioTQ("proj"), AioTQ("proj")

    assert app.config_from_envvar(NAME) is True

    other.config_from_object("tests.unit.config_of_a_project")
    assert app.conf.as_dict() == other.conf.as_dict() != AioTQ("proj").conf.as_dict()


@pytest.mark.parametrize("text", [None, "", " "])
def test_a_variable_that_is_not_set_is_an_error_unless_silent(
    text: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is None:
        monkeypatch.delenv(NAME, raising=False)
    else:
        monkeypatch.setenv(NAME, text)
    app = AioTQ("proj")

    assert app.config_from_envvar(NAME, silent=True) is False
    with pytest.raises(SettingsError, match="PROJ_CONFIG is not set"):
        app.config_from_envvar(NAME)


@pytest.mark.parametrize("path", ["no.such.module", "tests.unit.config_of_a_project:nothing", "tests.unit.nothing"])
def test_what_names_nothing_is_an_error_even_if_silent(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, path)

    with pytest.raises(SettingsError, match=rf"PROJ_CONFIG: '{path}' can't be imported"):
        AioTQ("proj").config_from_envvar(NAME, silent=True)
