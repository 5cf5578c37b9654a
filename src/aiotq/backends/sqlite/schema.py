"""The tables of the file, the numbers by which it is known as ours, and the meaning of its special numbers."""

from __future__ import annotations

from typing import Final

#: "aitq" in the file's header: this file is ours.
APPLICATION_ID: Final = 0x61697471
SCHEMA_VERSION: Final = 10

#: `messages.holder` of what is ready, and of what waits for its due time. Any consumer's number is larger, and takes as
#: many bytes in a row: so SQLite leases a message of a megabyte by overwriting four bytes of it (measured: 4 kB of log
#: and 0.7 ms instead of 2 MB and 5.8 ms).
FREE: Final = 1 << 24
DELAYED: Final = FREE + 1
#: `messages.holder` of what is ready and waits by its key (see `lanes`).
LANED: Final = FREE - 1

SCHEMA: Final = f"""
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('listeners', 1);
CREATE TABLE listeners (address TEXT PRIMARY KEY, path TEXT NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE listens (
    holder INTEGER, queue TEXT, address TEXT NOT NULL, PRIMARY KEY (holder, queue)
) WITHOUT ROWID;

CREATE TABLE holders (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    era TEXT NOT NULL,
    until REAL NOT NULL
);
INSERT INTO sqlite_sequence (name, seq) VALUES ('holders', {DELAYED});
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    holder INTEGER NOT NULL DEFAULT {FREE},
    queue TEXT NOT NULL,
    rank INTEGER NOT NULL DEFAULT 4,
    priority INTEGER NOT NULL DEFAULT 4,
    is_suspect INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    charges INTEGER NOT NULL DEFAULT 0,
    returns INTEGER NOT NULL DEFAULT 0,
    since REAL NOT NULL DEFAULT 0,
    id TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    data BLOB NOT NULL,
    share TEXT,
    cost REAL,
    tag REAL,
    UNIQUE (id, attempt)
);
CREATE INDEX fair ON messages (queue, rank, tag, seq) WHERE holder = {LANED};
CREATE TABLE shares (
    queue TEXT, rank INTEGER, key TEXT, last REAL NOT NULL, PRIMARY KEY (queue, rank, key)
) WITHOUT ROWID;
CREATE INDEX shares_last ON shares (queue, rank, last);
CREATE INDEX ready ON messages (queue, rank DESC, seq) WHERE holder = {FREE} AND is_suspect = 0;
CREATE INDEX suspects ON messages (queue, seq) WHERE holder = {FREE} AND is_suspect <> 0;
CREATE INDEX delayed ON messages (queue, since) WHERE holder = {DELAYED};
CREATE INDEX held ON messages (holder) WHERE holder > {DELAYED};
CREATE TABLE blames (
    holder INTEGER, id TEXT, attempt INTEGER, charges INTEGER NOT NULL, expires REAL NOT NULL,
    PRIMARY KEY (holder, id, attempt)
) WITHOUT ROWID;
CREATE TABLE dead (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT,
    queue TEXT NOT NULL,
    priority INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    died_at REAL NOT NULL,
    deaths INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX dead_queue ON dead (queue);
CREATE INDEX dead_id ON dead (id);
CREATE INDEX dead_age ON dead (died_at);

CREATE TABLE results (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    is_ready INTEGER NOT NULL,
    reply_to TEXT,
    content_type TEXT NOT NULL,
    expires REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX results_expire ON results (expires);
CREATE TABLE finished (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL,
    expires REAL NOT NULL,
    entry BLOB NOT NULL
);
CREATE INDEX finished_state ON finished (state);
CREATE TABLE updates (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    gone REAL NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    reply_to TEXT,
    content_type TEXT NOT NULL,
    expires REAL NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE watchers (
    id TEXT, address TEXT, expires REAL NOT NULL, PRIMARY KEY (id, address)
) WITHOUT ROWID;
CREATE INDEX watchers_address ON watchers (address);
CREATE TABLE joins (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    arrived INTEGER NOT NULL DEFAULT 0,
    is_over INTEGER NOT NULL DEFAULT 0,
    is_failed INTEGER NOT NULL DEFAULT 0,
    readers INTEGER NOT NULL,
    patience REAL NOT NULL,
    touched REAL NOT NULL,
    until REAL NOT NULL,
    due REAL NOT NULL,
    about TEXT NOT NULL,
    following BLOB
);
CREATE INDEX joins_open ON joins (due) WHERE is_over = 0;
CREATE INDEX joins_over ON joins (due) WHERE is_over <> 0;
CREATE TABLE arrivals (
    join_number INTEGER NOT NULL,
    member TEXT NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    reply_to TEXT,
    content_type TEXT NOT NULL,
    expires REAL NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (join_number, member)
);
CREATE TABLE claims (
    id TEXT,
    attempt INTEGER,
    holder TEXT NOT NULL,
    ends REAL NOT NULL,
    expires REAL NOT NULL,
    is_done INTEGER NOT NULL DEFAULT 0,
    following BLOB,
    died TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (id, attempt)
);
CREATE INDEX claims_expire ON claims (expires);
CREATE TABLE revocations (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    is_terminating INTEGER NOT NULL,
    expires REAL NOT NULL
);
CREATE INDEX revocations_expire ON revocations (expires);
CREATE TABLE starts (name TEXT PRIMARY KEY, at REAL NOT NULL, expires REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX starts_expire ON starts (expires);
CREATE TABLE permits (
    name TEXT, id TEXT, attempt INTEGER, holder TEXT, ends REAL NOT NULL, PRIMARY KEY (name, id, attempt, holder)
) WITHOUT ROWID;
CREATE TABLE waiting (
    name TEXT, id TEXT, attempt INTEGER, since REAL NOT NULL, expires REAL NOT NULL, PRIMARY KEY (name, id, attempt)
) WITHOUT ROWID;
CREATE INDEX waiting_line ON waiting (name, since);
CREATE INDEX waiting_expire ON waiting (expires);
CREATE TABLE schedules (
    scope TEXT, name TEXT, mark TEXT NOT NULL, body BLOB NOT NULL, unsent BLOB NOT NULL, PRIMARY KEY (scope, name)
) WITHOUT ROWID;
CREATE TABLE keys (
    name TEXT PRIMARY KEY, mark TEXT NOT NULL, body BLOB NOT NULL, unsent BLOB NOT NULL, expires REAL NOT NULL
);
CREATE INDEX keys_expire ON keys (expires);
CREATE TABLE fleet (key TEXT PRIMARY KEY, ends REAL NOT NULL, row BLOB NOT NULL);
CREATE TABLE paused (queue TEXT PRIMARY KEY, since REAL NOT NULL) WITHOUT ROWID
"""
