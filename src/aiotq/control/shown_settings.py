"""The settings of an app as they may be shown: without secrets."""

from __future__ import annotations

from typing import Any

from ..backends.base import mask_password
from ..core.settings import SECRETS, Settings
from ..core.values import value


@value
class SettingRow:
    """One setting as it may be shown: without secrets."""

    name: str
    value: Any
    default: Any
    is_changed: bool

    @property
    def shown(self) -> str:
        return str(self.value)


def setting_rows(conf: Settings) -> list[SettingRow]:
    """Return every setting as it may be shown."""
    defaults = Settings().as_dict()
    rows: list[SettingRow] = []
    for name, setting in conf.as_dict().items():
        shown = mask_password(setting) if isinstance(setting, str) and "://" in setting else setting
        if name in SECRETS and setting:
            shown = "**"
        rows.append(SettingRow(name, shown, defaults[name], setting != defaults[name]))
    return rows
