-- What is kept. `aiotq.` stands for the schema with the prefix, `aiotq_` for the prefix alone (see `migrating.py`).

-- A message. Ready: neither due nor held. What is returned to its queue takes a new id, so low ids never come back.
-- No index may name what a read writes (holder, lease): HOT updates halve the server's work.
create table aiotq.message (
    queue text collate "C" not null,
    rank smallint not null,  -- -1: a suspect; 0: given back; else 10 - priority
    id bigint generated always as identity,
    key text collate "C" not null,  -- the message's id, a space, its attempt
    body bytea not null,
    priority smallint not null,
    due float8,
    since float8 not null,  -- when it became, or becomes, ready
    holder bigint,
    lease int,
    deaths int not null default 0,
    charges int not null default 0,
    returns int not null default 0
) with (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_cost_delay = 0
);
create unique index aiotq_message_key on aiotq.message (key);
create unique index aiotq_message_ready on aiotq.message (queue, rank, id) where due is null;
create index aiotq_message_due on aiotq.message (due, id) where due is not null;

-- A consumer: its row is the lease of all that it holds. Reads up to number `refused` come too late.
create table aiotq.holder (
    id bigint primary key,
    name text not null,
    until float8 not null,
    refused int not null default 0
) with (fillfactor = 50);
-- A read, while something of it is held: what a dead holder, or a lost reply, had.
create table aiotq.reading (
    holder bigint,
    lease int,
    left_over int not null,
    queues text[] not null,
    ranks smallint[] not null,
    ids bigint[] not null,
    primary key (holder, lease)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
-- Whom a death was put down to; taken back if it turns out to be alive.
create table aiotq.blame (
    holder bigint, key text collate "C", charges int not null, expires float8 not null, primary key (holder, key)
);
-- Consumers that found nothing and wait to be told.
create unlogged table aiotq.idle (
    queue text collate "C", holder bigint, address text not null, primary key (queue, holder)
);
create index aiotq_idle_holder on aiotq.idle (holder);
create table aiotq.letter (
    number bigint generated always as identity primary key,
    id text collate "C",
    queue text collate "C" not null,
    priority smallint not null,
    reason text not null,
    detail text not null,
    died_at float8 not null,
    deaths int not null,
    body bytea not null
);
create index aiotq_letter_queue on aiotq.letter (queue, number);
create index aiotq_letter_id on aiotq.letter (id);
create index aiotq_letter_age on aiotq.letter (died_at);
-- The last numbered write of each sender, with its answer: what became of one whose reply was lost.
create table aiotq.line (
    id text collate "C", number bigint, answer int[], seen float8 not null, primary key (id, number)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);
create index aiotq_line_seen on aiotq.line (seen);

create table aiotq.result (
    id text collate "C" primary key,
    state text not null,
    is_ready boolean not null,
    content_type text not null,
    expires float8 not null,
    reply_to text,
    body bytea not null
);
create index aiotq_result_expires on aiotq.result (expires);
create table aiotq.watcher (
    id text collate "C", address text, expires float8 not null, primary key (id, address)
);

-- `due` of an open join is a guess, before which it is not overdue; of one that is over it is when it is forgotten.
create table aiotq.joins (
    id text collate "C" primary key,
    size int not null,
    arrived int not null default 0,
    is_over boolean not null default false,
    is_failed boolean not null default false,
    readers int not null,
    patience float8 not null,
    touched float8 not null,
    until float8 not null,
    due float8 not null,
    about text not null,
    following jsonb
) with (fillfactor = 70);
create index aiotq_joins_open on aiotq.joins (due) where not is_over;
create index aiotq_joins_over on aiotq.joins (due) where is_over;
create table aiotq.arrival (
    join_id text collate "C",
    member text collate "C",
    id text not null,
    state text not null,
    content_type text not null,
    expires float8 not null,
    reply_to text,
    body bytea not null,
    primary key (join_id, member)
);
create table aiotq.claim (
    key text collate "C" primary key,
    holder text not null default '',
    ends float8 not null default 0,
    expires float8 not null,
    died text[] not null default '{}',
    is_done boolean not null default false,
    following jsonb
) with (fillfactor = 70);
create index aiotq_claim_expires on aiotq.claim (expires);
create table aiotq.revocation (
    id text collate "C" primary key, is_terminating boolean not null, expires float8 not null
);
create index aiotq_revocation_expires on aiotq.revocation (expires);
create table aiotq.start (name text collate "C" primary key, at float8 not null, expires float8 not null);
create index aiotq_start_expires on aiotq.start (expires);
create table aiotq.permit (
    name text collate "C", key text collate "C", holder text, ends float8 not null, primary key (name, key, holder)
);
create table aiotq.waiting (
    name text collate "C", key text collate "C", since float8 not null, expires float8 not null, primary key (name, key)
);
create index aiotq_waiting_line on aiotq.waiting (name, since);
create table aiotq.schedule (
    scope text collate "C", name text collate "C", mark text not null, body bytea not null, unsent jsonb not null,
    primary key (scope, name)
);
create table aiotq.counter (name text collate "C" primary key, value bigint not null);
create table aiotq.paused (queue text collate "C" primary key, since float8 not null);
create table aiotq.fleet (key text collate "C" primary key, ends float8 not null, body bytea not null);
