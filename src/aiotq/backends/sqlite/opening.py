"""Opening the file: which one a URL names, what is refused, and how an empty one becomes ours."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from ...exceptions import InvalidSetting, StorageError
from .file import File, roll_back
from .schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION

#: What the SQL here needs: row values, upserts, JSON-free partial indexes. Older ones were never tried.
OLDEST_SQLITE: Final = (3, 34)

#: File systems of several machines: shared memory or locks don't work on them as SQLite needs, which damages the file.
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"}
    | {"nfs4", "ocfs2", "orangefs", "pvfs2", "smb2", "smb3", "smbfs"}
    | {"fuse.beegfs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.goofys", "fuse.juicefs", "fuse.mfs"}
    | {"fuse.moosefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"}
)


def path_from_url(url: str) -> Path:
    """Return the file that `url` names: `sqlite:///relative.db` or `sqlite:////absolute/path.db`.

    Raises:
        InvalidSetting: it names none, or a host.
    """
    parts = urlsplit(url)
    expected = "sqlite:///relative.db or sqlite:////absolute/path.db"
    if parts.scheme != "sqlite":
        raise InvalidSetting("broker_url", url, expected)
    if parts.netloc:
        hint = f"{expected} (three slashes before a relative path: sqlite:///{parts.netloc}{parts.path})"
        raise InvalidSetting("broker_url", url, hint)
    if parts.query or parts.fragment:
        raise InvalidSetting("broker_url", url, f"{expected}, with nothing behind the path")
    try:
        path = unquote(parts.path.removeprefix("/"), errors="strict")
    except UnicodeDecodeError:
        raise InvalidSetting("broker_url", url, f"{expected}, with %25 for a percent sign") from None
    if not path or path.endswith("/") or "\0" in path:
        raise InvalidSetting("broker_url", url, f"{expected}, with the name of a file")
    return Path(path)


def open_or_create(file: File) -> sqlite3.Connection:
    """Return a connection to `file`, which is made first if need be.

    Raises:
        StorageError: it is not a file of ours, or none that could be; the text says why.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        raise StorageError(f"SQLite {sqlite3.sqlite_version} is too old: {wanted} or later is needed")
    _create(file)
    connection = file.connect()
    try:
        _prepare(file, connection)
    except sqlite3.Error as exc:
        connection.close()
        raise file.translated(exc) from exc
    except BaseException:
        connection.close()
        raise
    return connection


def _create(file: File) -> None:
    """Make the file unless it is there, and note which one it is."""
    path = file.path = Path(os.path.realpath(file.path))
    if not path.parent.is_dir():
        raise StorageError(f"{path}: the directory {path.parent} does not exist; make it first")
    if path.is_dir():
        raise StorageError(f"{path} is a directory: name a file in it")
    try:
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        mountinfo = ""
    kind = network_file_system(str(path), mountinfo)
    if kind is not None:
        raise StorageError(
            f"{path} lies on a network file system ({kind}), where SQLite loses data when several processes write: "
            "use a local disk, or a broker with a server (redis://, amqp://)"
        )
    try:
        # 0600 from the first moment; SQLite gives its log and shared memory the mode of the database.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    except OSError as exc:
        raise StorageError(f"{path} can't be opened for writing: {exc.strerror}") from exc
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path} is not a regular file")
    file.identity = (status.st_dev, status.st_ino)


def network_file_system(path: str, mountinfo: str) -> str | None:
    """Return the type of the network file system on which the absolute `path` lies, None when it is local.

    Source: Linux, proc_pid_mountinfo(5).
    """
    found, longest = "", -1
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5 or not after:
            continue
        mount_point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        inside = mount_point.rstrip("/") + "/"
        # What is mounted later over the same place hides what was there.
        if (path + "/").startswith(inside) and len(inside) >= longest:
            found, longest = after.split(" ")[0], len(inside)
    return found if found in _NETWORK_FILE_SYSTEMS else None


def _prepare(file: File, connection: sqlite3.Connection) -> None:
    """Put our tables into an empty file, and see to its write-ahead log."""
    if not _is_ours(file, connection):
        # Before our tables are in it: this writes the file's first page.
        if _journal_mode(file, connection) != "wal":
            raise StorageError(f"{file.path}: its file system does not support SQLite's write-ahead log")
        deadline = file.soon()
        file.begin(connection, lambda: 0.0 if file.is_given_up else deadline, durable=lambda: True)
        try:
            if not _is_ours(file, connection):  # nobody else made it in the meantime
                for statement in SCHEMA.split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            roll_back(connection)
            raise
    mode = _journal_mode(file, connection)
    if mode != "wal":
        raise StorageError(f"{file.path}: its journal mode is {mode!r} and can't be made 'wal'")


def _journal_mode(file: File, connection: sqlite3.Connection) -> str:
    """Ask for a write-ahead log and return what there is."""
    (mode,) = file.patiently(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
    return str(mode)


def _identity(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Return the application id, the version and the number of tables, as they are at one moment."""
    is_alone = not connection.in_transaction
    if is_alone:
        connection.execute("BEGIN")  # or another process makes the file between two of the questions
    try:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    finally:
        if is_alone:
            roll_back(connection)
    return application, version, tables


def _is_ours(file: File, connection: sqlite3.Connection) -> bool:
    """Return whether our tables are in it; False for an empty file.

    Raises:
        StorageError: somebody else's are, or those of another version.
    """
    application, version, tables = file.patiently(partial(_identity, connection))
    if application != APPLICATION_ID and (application or version or tables):
        raise StorageError(f"{file.path} is a database of another program: name another file")
    if application == APPLICATION_ID and version != SCHEMA_VERSION:
        older_or_newer = "newer" if version > SCHEMA_VERSION else "older"
        raise StorageError(
            f"{file.path} was made by a {older_or_newer} aiotq (its schema is {version}, ours {SCHEMA_VERSION}): "
            f"use that one to empty it, or name another file"
        )
    return bool(application)
