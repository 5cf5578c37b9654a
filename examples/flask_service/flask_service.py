"""Flask views that send tasks, and tasks that run in Flask's application context.

gunicorn flask_service:api
aiotq worker flask_service:tq
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from flask import Flask, Response, current_app, g, jsonify, request

from aiotq import AioTQ, Task


def create_app() -> Flask:
    """Make the Flask application."""
    api = Flask(__name__)
    api.config["DATABASE"] = os.environ.get("NOTES_DATABASE", "notes.db")
    api.teardown_appcontext(close_database)
    with api.app_context():
        database().execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)")
    return api


def database() -> sqlite3.Connection:
    """Return the connection of this application context: of a request, or of a task."""
    if "database" not in g:
        g.database = sqlite3.connect(current_app.config["DATABASE"], timeout=20, isolation_level=None)
    connection: sqlite3.Connection = g.database
    return connection


def close_database(_error: BaseException | None = None) -> None:
    """Close it with its context."""
    if (connection := g.pop("database", None)) is not None:
        connection.close()


class FlaskTask(Task[..., Any]):
    """A task that runs in an application context of its own, pushed and popped in the task's thread."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with api.app_context():
            return super().__call__(*args, **kwargs)


tq = AioTQ("flask_service", task_cls=FlaskTask)


@tq.task
def write(text: str) -> int:
    """Write a note; return how many there are."""
    database().execute("INSERT INTO notes VALUES (?)", (text,))
    return int(database().execute("SELECT count(*) FROM notes").fetchone()[0])


api = create_app()


@api.post("/notes")
def send() -> tuple[Response, int]:
    result = write.sync.delay(request.get_json()["text"])
    return jsonify(id=result.id), 202


@api.get("/tasks/<task_id>")
def look_up(task_id: str) -> Response:
    now = tq.AsyncResult(task_id).sync.look()
    return jsonify(state=now.state, value=now.info if now.state == "SUCCESS" else None)
