"""Every setting is known, has the right type, and can't change under a running app."""

from __future__ import annotations

import types
from ast import literal_eval
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotq import AioTQ
from aiotq.core import celery_settings, settings, settings_reference
from aiotq.core.celery_settings import DIFFERENT, celery_setting
from aiotq.core.settings import NAMES, Settings, from_environment, from_object
from aiotq.exceptions import InvalidSetting, SettingsError, SettingsFrozen, UnknownSetting
from aiotq.wire.serializers import Serializer

from . import config_of_a_project as config
from .celery_names import CELERY_SETTINGS


@pytest.fixture
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was said in this process of any of Celery's settings."""
    monkeypatch.setattr(settings, "_said", set[str]())


def test_every_setting_has_its_default() -> None:
    settings = Settings()

    assert settings.broker_url == "sqlite:///aiotq.db"
    assert settings.as_dict().keys() == set(NAMES)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("task_serialiser", "task_serializer"),
        ("worker_concurency", "worker_concurrency"),
        ("brokerurl", "broker_url"),
        ("qwertyuiop", None),
    ],
)
def test_an_unknown_name_is_an_error_that_suggests_the_nearest(name: str, suggestion: str | None) -> None:
    settings = Settings()

    with pytest.raises(UnknownSetting, match=f"unknown setting '{name}'") as caught:
        setattr(settings, name, 1)

    assert caught.value.suggestion == suggestion
    if suggestion is not None:
        assert f"did you mean '{suggestion}'?" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("broker_url", 5, "a string"),
        ("broker_url", None, "a string"),
        ("result_backend", b"memory://", "a string or None"),
        ("include", "proj.tasks", "a list of strings"),
        ("include", ["proj.tasks", 5], "a list of strings"),
        ("accept_content", {"json": 1}, "a list of strings"),
        ("task_acks_late", 1, "true or false"),
        ("task_acks_late", "yes", "true or false"),
        ("worker_concurrency", "100", "a whole number"),
        ("worker_concurrency", 2.5, "a whole number"),
        ("worker_concurrency", True, "a whole number"),
        ("worker_concurrency", 0, "more than 0"),
        ("worker_prefetch", -1, "0 or more"),
        ("worker_processes", 0, "more than 0"),
        ("worker_lease", 0, "more than 0"),
        ("worker_grace", -0.1, "0 or more"),
        ("worker_lease", True, "a number"),
        ("worker_lease", float("nan"), "a finite number"),
        ("task_publish_timeout", float("inf"), "a finite number"),
        ("task_time_limit", "5", "a number or None"),
        ("task_time_limit", -5, "more than 0"),
        ("task_default_priority", 10, "0 to 9"),
        ("task_default_priority", -1, "0 to 9"),
        ("timezone", "Middle-earth/Shire", "a zone of the IANA database"),
        ("timezone", "", "a zone of the IANA database"),
        ("timezone", "../../etc/passwd", "a zone of the IANA database"),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error(name: str, value: object, expected: str) -> None:
    settings = Settings()
    before = settings.as_dict()

    with pytest.raises(InvalidSetting) as caught:
        setattr(settings, name, value)

    assert str(caught.value).startswith(f"setting {name!r} must be {expected}, not ")
    assert caught.value.name == name
    assert caught.value.value is value
    assert settings.as_dict() == before


def test_whole_numbers_are_numbers_and_lists_become_tuples() -> None:
    settings = Settings({"worker_lease": 5, "include": ["a", "b"], "worker_grace": 0, "worker_prefetch": 0})

    assert settings.worker_lease == 5.0
    assert isinstance(settings.worker_lease, float)
    assert settings.include == ("a", "b")


def test_a_frozen_setting_says_why_it_cannot_change() -> None:
    settings = Settings()
    settings.freeze("the app is in use")

    with pytest.raises(SettingsFrozen, match="'timezone' can't be changed: the app is in use"):
        settings.timezone = "Asia/Tokyo"
    with pytest.raises(UnknownSetting):
        settings.update(timezne="Asia/Tokyo")


@given(st.sampled_from(NAMES), st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.binary(), st.booleans()))
def test_whatever_is_assigned_is_kept_or_refused_with_the_settings_name(name: str, value: object) -> None:
    settings = Settings()

    try:
        setattr(settings, name, value)
    except InvalidSetting as error:
        assert error.name == name  # noqa: PT017 (either may happen)
    else:
        kept = getattr(settings, name)
        assert kept is value or kept == value  # what is not a number equals nothing


# From the environment


def test_the_environment_is_read_by_type() -> None:
    found = from_environment(
        {
            "AIOTQ_BROKER_URL": "memory://",
            "AIOTQ_RESULT_BACKEND": "",
            "AIOTQ_INCLUDE": "proj.tasks, proj.more,",
            "AIOTQ_WORKER_CONCURRENCY": "20",
            "AIOTQ_WORKER_PROCESSES": "none",
            "AIOTQ_WORKER_LEASE": "2.5",
            "AIOTQ_TASK_ACKS_LATE": "No",
            "HOME": "/root",
        }
    )

    assert found == {
        "broker_url": "memory://",
        "result_backend": None,
        "include": ("proj.tasks", "proj.more"),
        "worker_concurrency": 20,
        "worker_processes": None,
        "worker_lease": 2.5,
        "task_acks_late": False,
    }


@pytest.mark.parametrize(
    ("variable", "text", "error"),
    [
        ("AIOTQ_WORKER_CONCURRENCY", "many", "setting 'worker_concurrency' must be a whole number, not 'many'"),
        ("AIOTQ_WORKER_LEASE", "15s", "setting 'worker_lease' must be a number, not '15s'"),
        ("AIOTQ_TASK_ACKS_LATE", "maybe", "setting 'task_acks_late' must be true or false, not 'maybe'"),
        ("AIOTQ_BROKER", "x", "unknown setting 'AIOTQ_BROKER': did you mean 'AIOTQ_BROKER_URL'?"),
        ("AIOTQ_QWERTYUIOP", "x", "unknown setting 'AIOTQ_QWERTYUIOP'"),
    ],
)
def test_a_variable_that_cannot_be_used_is_an_error(variable: str, text: str, error: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_environment({variable: text})

    assert str(caught.value) == error


def test_the_environment_stands_above_an_object_and_below_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOTQ_WORKER_THREADS", "3")
    monkeypatch.setenv("AIOTQ_WORKER_CONCURRENCY", "3")

    app = AioTQ("proj", worker_concurrency=4)
    app.config_from_object({"worker_threads": 2, "worker_concurrency": 2, "worker_prefetch": 2})

    assert (app.conf.worker_concurrency, app.conf.worker_threads, app.conf.worker_prefetch) == (4, 3, 2)


# From an object


def test_settings_come_from_a_mapping() -> None:
    assert from_object({"Broker_URL": "memory://"}) == {"broker_url": "memory://"}


def test_settings_come_from_a_class() -> None:
    class Config:
        broker_url = "memory://"
        _private = 1

        def method(self) -> None: ...

    assert from_object(Config) == {"broker_url": "memory://"}
    assert from_object(Config()) == {"broker_url": "memory://"}


def test_settings_come_from_a_module_whatever_it_imports() -> None:
    assert from_object(config) == {"broker_url": "memory://", "worker_concurrency": 7}


def test_settings_come_from_the_path_of_a_module_or_of_an_object_in_it() -> None:
    app = AioTQ("proj")

    app.config_from_object(config.__name__)
    assert app.conf.worker_concurrency == 7
    app.config_from_object(f"{config.__name__}:Testing")
    assert app.conf.worker_concurrency == 8
    app.config_from_object(f"{config.__name__}.Testing")
    assert app.conf.worker_concurrency == 8


def test_with_a_namespace_only_names_that_begin_with_it_count() -> None:
    django = types.SimpleNamespace(DEBUG=True, AIOTQ_BROKER_URL="memory://", BROKER_URL="x")

    assert from_object(django, "AIOTQ") == {"broker_url": "memory://"}
    assert from_object(django, "AIOTQ_") == {"broker_url": "memory://"}


def test_a_misspelt_name_in_an_object_is_an_error() -> None:
    with pytest.raises(UnknownSetting, match="did you mean 'broker_url'"):
        from_object({"broker_ur": "memory://"})
    with pytest.raises(UnknownSetting, match="did you mean 'broker_url'"):
        from_object({"AIOTQ_BROKER_UR": "memory://"}, "AIOTQ")


# Celery's


@pytest.mark.parametrize("name", CELERY_SETTINGS)
def test_every_setting_of_celerys_is_ours_or_something_is_said_of_it(name: str) -> None:
    theirs = celery_setting(name)

    assert (name in NAMES) != (theirs is not None) or name in DIFFERENT
    if theirs is not None and theirs.fate == "renamed":
        assert theirs.text in NAMES


def test_nothing_is_said_of_settings_that_celery_does_not_have() -> None:
    assert set(celery_settings.CELERY_SETTINGS) <= set(CELERY_SETTINGS)


def test_the_documentation_has_the_whole_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guides" / "from-celery.md").read_text()

    assert celery_settings.table(CELERY_SETTINGS, NAMES) in page


@pytest.mark.parametrize(
    ("name", "ours"),
    [("imports", "include"), ("CELERY_IMPORTS", "include"), ("worker_soft_shutdown_timeout", "worker_grace")],
)
def test_a_setting_that_celery_calls_otherwise_is_taken_under_its_name_with_one_line(
    name: str, ours: str, caplog: pytest.LogCaptureFixture, unsaid: None
) -> None:
    given: Any = ["proj.tasks"] if ours == "include" else 5
    namespace = "CELERY" if name.startswith("CELERY_") else ""
    first, second = (from_object({name: given}, namespace) for _ in range(2))

    assert first == second == {ours: given}
    assert [record.message.partition(" ")[2] for record in caplog.records] == [
        f"{name.removeprefix('CELERY_').lower()} is called {ours} here"
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable_utc", True),
        ("task_protocol", 2),
        ("broker_connection_retry_on_startup", True),
        ("task_default_delivery_mode", "persistent"),
        ("worker_prefetch_multiplier", 1),
        ("broker_pool_limit", None),
        ("broker_transport_options", {}),
        ("worker_lost_wait", 10.0),
    ],
)
def test_what_is_so_anyway_or_is_not_needed_is_taken_and_noted_once(
    name: str, value: object, caplog: pytest.LogCaptureFixture, unsaid: None
) -> None:
    caplog.set_level("INFO", "aiotq.settings")
    settings = Settings()
    before = settings.as_dict()

    settings.update({name: value})
    settings.update({name: value})

    assert settings.as_dict() == before
    (record,) = caplog.records
    assert record.message.startswith(f"setting {name} ")


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("enable_utc", False, "times on the wire are always UTC"),
        ("task_protocol", 1, "speaks Celery's protocol 2"),
        ("worker_prefetch_multiplier", 4, "worker_prefetch says how many"),
        ("worker_pool", "prefork", "each task says how it runs"),
        ("beat_scheduler", "django_celery_beat.schedulers:DatabaseScheduler", "app.schedules.add"),
        ("broker_transport_options", {"visibility_timeout": 3600}, "there is no visibility timeout to set"),
        ("cassandra_servers", ["a"], "results are kept where result_backend says: SQLite, Redis"),
    ],
)
def test_what_stands_elsewhere_is_refused_with_the_place_and_no_wrong_hint(
    name: str, value: object, advice: str
) -> None:
    with pytest.raises(UnknownSetting, match=advice) as caught:
        Settings().update({name: value})

    assert "did you mean" not in str(caught.value)
    assert caught.value.suggestion is None


def test_seconds_may_be_a_timedelta_as_in_celerys_own_default() -> None:
    assert Settings({"result_expires": timedelta(days=1)}).result_expires == 86_400.0
    with pytest.raises(InvalidSetting):
        Settings({"worker_concurrency": timedelta(seconds=5)})


# The reference


def test_the_page_of_all_settings_is_as_their_declarations_say() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "settings.md").read_text()

    assert page == settings_reference.page(), (
        "run: python -m aiotq.core.settings_reference > docs/reference/settings.md"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_meaning_and_an_example_that_it_can_have(name: str) -> None:
    found = settings_reference.described(name)

    assert found.meaning.endswith((".", ".`"))
    example = found.example.removeprefix(f"{name} = ")
    AioTQ("proj").conf.update({name: literal_eval(example)})


# In an app


@pytest.mark.parametrize("arguments", [{"worker_concurency": 5}, {"worker_concurrency": "5"}])
def test_an_app_is_not_made_with_settings_that_cannot_be_used(arguments: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        AioTQ("proj", **arguments)


async def test_an_apps_settings_are_frozen_when_it_is_used() -> None:
    app = AioTQ("proj", broker="memory://")

    async with app:
        with pytest.raises(SettingsFrozen, match="settings are made before the first call"):
            app.conf.worker_concurrency = 5


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (
            {"task_serializer": "jsn"},
            r"setting 'task_serializer' must be one that can be used .*did you mean 'json'\?\), not 'jsn'",
        ),
        ({"task_serializer": "pickle"}, "'task_serializer' .* add 'pickle' to the setting accept_content"),
        ({"result_serializer": "cbor"}, "'result_serializer' .*known are json, msgpack, pickle, yaml"),
        ({"task_compression": "gzp"}, r"'task_compression' .*did you mean 'gzip'\?"),
        ({"result_compression": "x"}, "'result_compression' .*unknown compression 'x'"),
        ({"accept_content": ["json", "application/x-nothing"]}, "'accept_content' .*unknown serializer 'application/"),
        ({"result_exception_types": ["nowhere.Gone"]}, "'result_exception_types' must be importable"),
        (
            {"task_soft_time_limit": 5, "task_time_limit": 4},
            "'task_soft_time_limit' must be at most the task_time_limit",
        ),
    ],
)
async def test_settings_that_no_call_could_be_made_with_are_refused_at_the_start(
    settings: dict[str, Any], error: str
) -> None:
    app = AioTQ("proj", broker="memory://", **settings)

    with pytest.raises(InvalidSetting, match=error):
        async with app:
            pass


async def test_what_was_registered_before_the_start_may_be_named_in_settings() -> None:
    app = AioTQ("proj", broker="memory://", task_serializer="plain", accept_content=["plain", "json"])
    app.register_serializer(Serializer("plain", "text/plain", "utf-8", lambda value: repr(value).encode(), eval))

    async with app:
        assert app.conf.task_serializer == "plain"


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256])
def test_a_default_queue_that_no_queue_can_be_called_is_refused(name: str) -> None:
    with pytest.raises(InvalidSetting, match="1 to 255 printable characters"):
        AioTQ("proj", broker="memory://", task_default_queue=name)


@pytest.mark.parametrize(
    ("urls", "error"),
    [
        ({"broker": "redish://localhost"}, "setting 'broker_url' must be a URL of a kind there is"),
        ({"broker": "aiotq.db"}, "setting 'broker_url' must be a URL of a kind there is"),
        ({"broker": "disabled://"}, "setting 'broker_url' must be a URL of a kind there is"),
        ({"broker": "memory://", "backend": "x://u:secret@h"}, "not 'x://u:**@h'"),
    ],
)
async def test_a_url_of_no_kind_there_is_is_an_error_that_hides_passwords(urls: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        async with AioTQ("proj", **urls):
            pass

    assert error in str(caught.value)
    assert "secret" not in str(caught.value)


def test_what_a_module_of_settings_can_not_import_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proj_that_wants_more").mkdir()
    (tmp_path / "proj_that_wants_more" / "__init__.py").touch()
    (tmp_path / "proj_that_wants_more" / "config.py").write_text("import a_library_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_missing"):
        AioTQ("proj").config_from_object("proj_that_wants_more.config")
