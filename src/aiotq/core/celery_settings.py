"""What became of each of Celery's settings (5.7): the same, renamed, taken without effect, or what to do instead.

Of those which are not named here and are settings of ours, nothing is to be said: they mean the same.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, Final, Literal

from .values import value

#: renamed: ours under another name. harmless: asks for what is done anyway, if it has one of the `values`; else as
#: "elsewhere". needless: tunes what there is no need to tune here; taken, and said why. elsewhere: refused, with what
#: does it instead.
Fate = Literal["renamed", "harmless", "needless", "elsewhere"]


@value
class CelerySetting:
    """What became of one of Celery's settings. `text` says it; of a "renamed" one it is our name."""

    fate: Fate
    text: str
    values: tuple[Any, ...] = ()  #: with these it asks for nothing that is not done anyway


def _renamed(ours: str) -> CelerySetting:
    return CelerySetting("renamed", ours)


def _harmless(*values: Any, otherwise: str) -> CelerySetting:
    return CelerySetting("harmless", otherwise, values)


def _needless(why: str) -> CelerySetting:
    return CelerySetting("needless", why)


def _elsewhere(instead: str, *harmless: Any) -> CelerySetting:
    return CelerySetting("elsewhere", instead, harmless)


_SCHEDULER: Final = "a scheduler keeps periodic tasks where results are kept, and any number of them may run"
_NO_EVENTS: Final = "events come over the broker's bus, and to Celery's monitors as Celery sends them by default"
_NO_CONTROL: Final = "workers are not controlled through queues, so there are none of that kind"
_IN_BROKER_URL: Final = "part of broker_url, such as amqp://user:password@host:5672/vhost"
_IN_BACKEND_URL: Final = "part of result_backend, such as redis://user:password@host:6379/0"
_RECONNECTS: Final = "a worker reconnects for as long as it runs, and a call for as long as task_publish_timeout says"
_NO_STORE: Final = (
    "results are kept where result_backend says: SQLite, Redis, PostgreSQL, rpc://, SQL (db+…), memcached"
)
_DRIVERS_OPTIONS: Final = "options of the driver stand in the URL, as in result_backend = db+mysql://host/proj?ssl=true"
_KIND_OF_POOL: Final = (
    'each task says how it runs: coroutines on the loop, plain functions in threads, run="process" in processes'
)
_OWN_LOG: Final = "a worker writes its log to stderr, as text or JSON (ours: worker_log_format = 'text' or 'json')"

#: By name, with those of Celery's families of settings for one store at the end.
CELERY_SETTINGS: Final[Mapping[str, CelerySetting]] = {
    "result_accept_content": _elsewhere("accept_content counts for results too", None),
    "enable_utc": _harmless(True, otherwise="times on the wire are always UTC; timezone is that of an eta without one"),
    "imports": _renamed("include"),
    "beat_enable_remote_control": _elsewhere("aiotq schedule pauses, resumes and fires periodic tasks", False),
    "beat_remote_control_max_tick_age": _needless(_SCHEDULER),
    "beat_max_loop_interval": _needless("a scheduler wakes up when something is due"),
    "beat_scheduler": _elsewhere(
        f"{_SCHEDULER}; those that are not in code are added by app.schedules.add or aiotq schedule add",
        "celery.beat:PersistentScheduler",
        None,
    ),
    "beat_schedule_filename": _needless(_SCHEDULER),
    "beat_sync_every": _needless(_SCHEDULER),
    "beat_cron_starting_deadline": _elsewhere("each periodic task has its own: misfire=seconds", None),
    "broker_read_url": _elsewhere("one broker_url is for reading and writing", None),
    "broker_write_url": _elsewhere("one broker_url is for reading and writing", None),
    "broker_transport": _elsewhere("the scheme of broker_url says it", None),
    "broker_transport_options": _elsewhere(
        "options stand in broker_url, such as redis://host/0?prefix=proj; there is no visibility timeout to set", {}
    ),
    "broker_connection_timeout": _needless("task_publish_timeout bounds connecting as well"),
    "broker_connection_retry": _harmless(True, otherwise=_RECONNECTS),
    "broker_connection_retry_on_startup": _harmless(True, None, otherwise=_RECONNECTS),
    "broker_connection_max_retries": _needless(_RECONNECTS),
    "broker_channel_error_retry": _needless(_RECONNECTS),
    "broker_failover_strategy": _needless("the hosts in broker_url are tried in turn"),
    "broker_heartbeat": _elsewhere("an option of broker_url: amqp://host/?heartbeat=10", None, 120),
    "broker_heartbeat_checkrate": _needless("heartbeats are checked as the protocol asks"),
    "broker_login_method": _elsewhere("a worker logs in with the user and password of broker_url", None, "PLAIN"),
    "broker_native_delayed_delivery_queue_type": _needless(
        "delays need no plugin and no queues of a type of their own"
    ),
    "broker_pool_limit": _needless("one connection a process carries all calls"),
    "broker_pool_acquire_timeout": _needless("one connection a process carries all calls"),
    "broker_use_ssl": _elsewhere("the URL says it: rediss:// or amqps://, with the files as its options", False, None),
    "broker_host": _elsewhere(_IN_BROKER_URL, None),
    "broker_port": _elsewhere(_IN_BROKER_URL, None),
    "broker_user": _elsewhere(_IN_BROKER_URL, None),
    "broker_password": _elsewhere(_IN_BROKER_URL, None),
    "broker_vhost": _elsewhere(_IN_BROKER_URL, None),
    "control_queue_ttl": _needless(_NO_CONTROL),
    "control_queue_expires": _needless(_NO_CONTROL),
    "control_queue_exclusive": _needless(_NO_CONTROL),
    "control_queue_durable": _needless(_NO_CONTROL),
    "control_exchange": _needless(_NO_CONTROL),
    "event_queue_expires": _needless(_NO_EVENTS),
    "event_queue_ttl": _needless(_NO_EVENTS),
    "event_queue_prefix": _needless(_NO_EVENTS),
    "event_queue_exclusive": _needless(_NO_EVENTS),
    "event_queue_durable": _needless(_NO_EVENTS),
    "event_serializer": _needless(_NO_EVENTS),
    "event_exchange": _needless(_NO_EVENTS),
    "redis_backend_use_ssl": _elsewhere("rediss:// in result_backend, with the files as its options", None, False),
    "redis_db": _elsewhere(_IN_BACKEND_URL, None),
    "redis_host": _elsewhere(_IN_BACKEND_URL, None),
    "redis_username": _elsewhere(_IN_BACKEND_URL, None),
    "redis_password": _elsewhere(_IN_BACKEND_URL, None),
    "redis_port": _elsewhere(_IN_BACKEND_URL, None),
    "redis_max_connections": _needless("one connection a process carries everything"),
    "redis_socket_timeout": _needless("every wait on Redis has a limit"),
    "redis_socket_connect_timeout": _needless("every wait on Redis has a limit"),
    "redis_retry_on_timeout": _needless("what got no answer is tried again, and nothing happens twice"),
    "redis_socket_keepalive": _needless("a connection that is dead is noticed"),
    "result_cache_max": _needless("a handle keeps its own result, and nothing else is cached"),
    "result_exchange": _needless("results through RabbitMQ (rpc://) go straight to who waits"),
    "result_exchange_type": _needless("results through RabbitMQ (rpc://) go straight to who waits"),
    "result_chord_expires": _elsewhere("result_expires counts for chords, and join_timeout ends those that wait", None),
    "result_failure_expires": _elsewhere("result_expires counts for failures too", None),
    "result_persistent": _needless(
        "results in SQLite and Redis last; those through RabbitMQ (rpc://) are for who waits"
    ),
    "result_backend_transport_options": _elsewhere("options stand in result_backend, such as ?prefix=proj", {}),
    "result_chord_retry_interval": _needless("chords are not polled: the last member's commit sends the body"),
    "result_chord_join_timeout": _needless("the body is sent with its values; nobody waits for them"),
    "result_backend_always_retry": _needless(_RECONNECTS),
    "result_backend_max_retries": _needless(_RECONNECTS),
    "result_backend_max_sleep_between_retries_ms": _needless(_RECONNECTS),
    "result_backend_base_sleep_between_retries_ms": _needless(_RECONNECTS),
    "security_certificate": _elsewhere("app.setup_security(key, cert, store) names the files", None),
    "security_cert_store": _elsewhere("app.setup_security(key, cert, store) names the files", None),
    "security_key_password": _elsewhere("app.setup_security takes a key without a password", None),
    "security_key": _elsewhere("here the secret itself that signs messages; app.setup_security takes files"),
    "security_digest": _needless("signatures are made with SHA-256"),
    "task_acks_on_failure_or_timeout": _harmless(
        True, otherwise="a task that fails is acknowledged with its failure; raise Reject for a dead letter, or retry"
    ),
    "task_acks_on_failure": _harmless(
        True,
        None,
        otherwise="a task that fails is acknowledged with its failure; raise Reject for a dead letter, or retry",
    ),
    "task_acks_on_timeout": _harmless(
        True,
        None,
        otherwise="a task that runs out of time is acknowledged with that failure; autoretry_for can retry it",
    ),
    "task_create_missing_queue_type": _renamed("amqp_queue_type"),
    "task_create_missing_queue_exchange_type": _elsewhere("exchanges are declared with task_queues", None),
    "task_inherit_parent_priority": _elsewhere("a call says its priority itself", False),
    "task_default_delivery_mode": _harmless(
        2, "persistent", otherwise="messages are always persistent: an accepted call is not lost"
    ),
    "task_default_queue_type": _renamed("amqp_queue_type"),
    "task_protocol": _harmless(2, otherwise="celery_compat speaks Celery's protocol 2, and no other"),
    "task_queue_max_priority": _needless("priorities 0 to 9 count on every broker"),
    "task_retry_on_worker_lost": _elsewhere("task_reject_on_worker_lost = True hands such a task back", False),
    "task_remote_tracebacks": _needless("a failure carries the worker's traceback"),
    "task_repr_maxlevels": _needless("what logs show is short"),
    "worker_agent": _elsewhere(
        "workers have no agents; signals and app.worker_lifespan stand at their start and end", None
    ),
    "worker_autoscaler": _needless("idle places cost nothing; aiotq worker --autoscale scales how many there are"),
    "worker_cancel_long_running_tasks_on_connection_loss": _needless(
        "a run goes on while its lease is renewed, and is cancelled when that is lost"
    ),
    "worker_soft_shutdown_timeout": _renamed("worker_grace"),
    "worker_enable_soft_shutdown_on_idle": _needless("an idle worker stops at once, and loses nothing"),
    "worker_consumer": _elsewhere("the consumer can't be replaced; middleware stands round each run"),
    "worker_direct": _elsewhere("name a queue of its own with -Q", False),
    "worker_disable_rate_limits": _elsewhere("leave rate_limit out of the tasks, or annotate them away", False),
    "worker_deduplicate_successful_tasks": _needless("a task that was committed is not run again"),
    "worker_enable_remote_control": _elsewhere(_NO_CONTROL, False, True),
    "worker_hijack_root_logger": _elsewhere("connect to the signal setup_logging, and logging is yours", True),
    "worker_log_color": _elsewhere("a terminal has colours, unless NO_COLOR is set", None),
    "worker_log_datefmt": _elsewhere(_OWN_LOG, None),
    "worker_log_format": _elsewhere(_OWN_LOG),
    "worker_task_log_datefmt": _elsewhere(_OWN_LOG, None),
    "worker_task_log_format": _elsewhere(_OWN_LOG),
    "worker_lost_wait": _needless("a child process that dies is noticed at once"),
    "worker_pool": _elsewhere(_KIND_OF_POOL),
    "worker_pool_putlocks": _needless(_KIND_OF_POOL),
    "worker_pool_restarts": _elsewhere("aiotq worker --reload starts anew when code changes", False),
    "worker_pool_start_method": _elsewhere("worker_process_start is spawn or forkserver", "fork"),
    "worker_proc_alive_timeout": _needless("a child process that does not start is noticed"),
    "worker_prefetch_multiplier": _elsewhere(
        "worker_prefetch says how many messages are held beyond what can start; 0, the default, is what a multiplier "
        "of 1 is meant for",
        1,
    ),
    "worker_eta_task_limit": _needless("delayed calls wait in the broker, and take no memory of a worker"),
    "worker_enable_prefetch_count_reduction": _needless("a worker takes what it can start"),
    "worker_disable_prefetch": _harmless(True, False, otherwise="worker_prefetch"),
    "worker_redirect_stdouts": _elsewhere("what tasks print goes to stdout", False),
    "worker_redirect_stdouts_level": _needless("what tasks print goes to stdout"),
    "worker_state_db": _needless("revocations are kept with the results"),
    "worker_timer": _needless("time is the event loop's"),
    "worker_timer_precision": _needless("time is the event loop's"),
    "worker_detect_quorum_queues": _needless("quorum queues are the default"),
    "cache_backend": _elsewhere("result_backend = cache+memcached://one;two", None),
    "cache_backend_options": _elsewhere(
        "options stand in the URL: result_backend = cache+memcached://one?timeout=1", {}
    ),
    "database_url": _elsewhere("result_backend = db+postgresql://…, db+mysql://… or db+sqlite:///file.db", None),
    "database_engine_options": _elsewhere(_DRIVERS_OPTIONS, {}),
    "database_engine_callback": _elsewhere(_DRIVERS_OPTIONS, None),
    "database_short_lived_sessions": _elsewhere(
        "a process keeps a few connections to the database of its results", False
    ),
    "database_table_schemas": _elsewhere(
        "results stand in the table celery_taskmeta of the schema that the database's user has", None
    ),
    "database_table_names": _elsewhere("results stand in the table celery_taskmeta", None),
    "database_create_tables_at_setup": _elsewhere("postgres_migrate says whether a start makes the table", True),
    "mongodb_backend_settings": _elsewhere(_NO_STORE, None),
    "couchbase_backend_settings": _elsewhere(_NO_STORE, None),
    "arangodb_backend_settings": _elsewhere(_NO_STORE, None),
}
#: What the settings of stores that are not here begin with.
STORES: Final = ("azureblockblob_", "cassandra_", "cosmosdbsql_", "elasticsearch_", "gcs_", "s3_")
_OF_STORES: Final = _elsewhere(_NO_STORE, None)


_IN_WORDS: Final[Mapping[Fate, str]] = {
    "harmless": "harmless",
    "needless": "not needed (taken, and noted in the log)",
    "elsewhere": "not here",
}
#: Celery's own names that are ours too, and mean something else: said in the documentation, and by the checks of ours.
DIFFERENT: Final = ("security_key", "worker_log_format")


def table(names: Iterable[str], ours: Container[str]) -> str:
    """Return what became of Celery's settings called `names`, as a table in Markdown; `ours` are our own settings."""
    rows = ["| Celery's setting | here | |", "|---|---|---|"]
    for name in names:
        theirs = celery_setting(name)
        if theirs is None or (name in ours and name not in DIFFERENT):
            rows.append(f"| `{name}` | {'the same' if name in ours else 'unknown'} | |")
        elif theirs.fate == "renamed":
            rows.append(f"| `{name}` | renamed | `{theirs.text}`; the old name is taken, with a warning |")
        else:
            values = " or ".join(f"`{each!r}`" for each in theirs.values if each is not None)
            taken = f"{values} asks for nothing that is not so anyway; else: " if values else ""
            rows.append(f"| `{name}` | {_IN_WORDS[theirs.fate]} | {taken}{theirs.text} |")
    return "\n".join(rows) + "\n"


def celery_setting(name: str) -> CelerySetting | None:
    """Return what became of Celery's setting `name`, unless it is the same here or none of Celery's."""
    return CELERY_SETTINGS.get(name) or (_OF_STORES if name.startswith(STORES) else None)
