-- What waits by key (see `transport/shares.py`). It is ready, with a rank of its own, which no read asks for: 110 - priority.

-- Of a message: its key, the cost of a call, and while it waits by its key, its tag.
alter table aiotq.message add column share text collate "C", add column cost float8, add column tag float8;
create index aiotq_message_lane on aiotq.message (queue, rank, tag, id) where tag is not null;
-- The last tag of each key. Those up to the tag of the first that waits say nothing.
create table aiotq.share (
    queue text collate "C", rank smallint, key text collate "C", last float8 not null, primary key (queue, rank, key)
) with (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);
create index aiotq_share_last on aiotq.share (queue, rank, last);

-- Returns the tag of one more call of a key.
create function aiotq.next_tag(q text, r smallint, k text, c float8) returns float8 language plpgsql
set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    first float8;
    tag float8;
begin
    select m.tag into first from aiotq.message m
        where m.queue = q and m.rank = r and m.tag is not null order by m.tag limit 1;
    delete from aiotq.share where ctid = any (array(
        select s.ctid from aiotq.share s
        where s.queue = q and s.rank = r and s.last <= coalesce(first, 'infinity') for update skip locked
    ));
    insert into aiotq.share as s (queue, rank, key, last) values (q, r, k, coalesce(first, 0) + c)
        on conflict (queue, rank, key) do update set last = greatest(s.last, coalesce(first, 0)) + c
        returning s.last into tag;
    return tag;
end $$;

-- Puts messages that have keys into their lanes, or among what is delayed; returns as `put`.
create function aiotq.put_by_key(items jsonb, now float8, out ready jsonb, out first float8) language plpgsql as $$
declare
    r record;
begin
    for r in
        select x.* from rows from (
            jsonb_to_recordset(items) as (q text, p smallint, d float8, k text, b text, s text, c float8)
        ) with ordinality as x(q, p, d, k, b, s, c, n)
        where x.s is not null order by x.q, x.p, x.s, x.n
    loop
        continue when exists (select from aiotq.message m where m.key = r.k);
        insert into aiotq.message (queue, rank, key, body, priority, due, since, share, cost, tag)
        values (
            r.q, case when r.d > now then 10 else 110 end - r.p, r.k, decode(r.b, 'base64'), r.p,
            case when r.d > now then r.d end, case when r.d > now then r.d else now end, r.s, r.c,
            case when r.d > now then null else aiotq.next_tag(r.q, (110 - r.p)::smallint, r.s, r.c) end
        ) on conflict (key) do nothing;
        if not found then
            continue;
        elsif r.d > now then
            first := least(first, r.d);
        else
            ready := jsonb_set(coalesce(ready, '{}'), array[r.q], to_jsonb(coalesce((ready ->> r.q)::int, 0) + 1));
        end if;
    end loop;
end $$;

create or replace function aiotq.put(items jsonb, now float8, out ready jsonb, out hurry float8) language plpgsql as $$
declare
    first float8;
    by_key record;
begin
    with added as (
        insert into aiotq.message as m (queue, rank, key, body, priority, due, since)
        select x.q, 10 - x.p, x.k, decode(x.b, 'base64'), x.p,
            case when x.d > now then x.d end, case when x.d > now then x.d else now end
        from jsonb_to_recordset(items) as x(q text, p smallint, d float8, k text, b text, s text)
        where x.s is null
        on conflict (key) do nothing
        returning m.queue, m.due
    )
    select
        (select jsonb_object_agg(c.queue, c.n)
            from (select a.queue, count(*) n from added a where a.due is null group by a.queue) c),
        (select min(a.due) from added a)
    into ready, first;
    if jsonb_path_exists(items, '$[*].s') then
        select p.ready, p.first into by_key from aiotq.put_by_key(items, now) p;
        ready := aiotq.more(ready, by_key.ready);
        first := least(first, by_key.first);
    end if;
    if first is not null and first <= (select min(m.due) from aiotq.message m where m.due > now) then
        hurry := first - now;
    end if;
end $$;

-- Has a message that was delayed be ready: by its key, unless it was taken before. Returns its queue.
create function aiotq.become_ready(t tid, now float8) returns text language plpgsql as $$
declare
    q text;
begin
    update aiotq.message m
    set due = null, id = default, since = least(m.since, now),
        rank = case when m.deaths >= 2 then -1 when m.share is not null and m.returns = 0 then 110 - m.priority
            else 10 - m.priority end,
        tag = case when m.share is not null and m.returns = 0 and m.deaths < 2
            then aiotq.next_tag(m.queue, (110 - m.priority)::smallint, m.share, m.cost) end
    where m.ctid = t returning m.queue into q;
    return q;
end $$;

-- Moves what is due to the end of its queue or into its lane, in the order of the due times; what has keys in the order in
-- which everybody locks these.
create or replace function aiotq.move_due(after float8, now float8) returns jsonb
language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    moved jsonb;
    q text;
    r record;
begin
    for r in
        with found as materialized (
            select m.ctid t, m.queue, m.priority, m.share, m.due, m.id from aiotq.message m
            where m.due <= now and m.due > after order by m.due, m.id limit 1000 for update skip locked
        )
        select f.t from found f
        order by f.share is not null, case when f.share is not null then f.queue end,
            case when f.share is not null then f.priority end, f.share, f.due, f.id
    loop
        q := aiotq.become_ready(r.t, now);
        if q is not null then
            moved := jsonb_set(coalesce(moved, '{}'), array[q], to_jsonb(coalesce((moved ->> q)::int, 0) + 1));
        end if;
    end loop;
    return moved;
end $$;

create or replace function aiotq.make_due_now(keys text[], out made text[], out ready jsonb)
language plpgsql set enable_seqscan = off as $$
declare
    now float8 := extract(epoch from clock_timestamp());
    k text;
    t tid;
begin
    made := '{}';
    foreach k in array keys loop
        select m.ctid into t from aiotq.message m where m.key = k and m.due is not null for update;
        if found then
            made := made || k;
            ready := aiotq.more(ready, jsonb_build_object(aiotq.become_ready(t, now), 1));
        end if;
    end loop;
end $$;

-- Returns where the next `n` of a lane stand, none of them among `picked`.
create function aiotq.first_of_lane(q text, r smallint, n int, picked tid[]) returns tid[] language plpgsql
set enable_seqscan = off set enable_bitmapscan = off as $$
begin
    return array(
        select m.ctid from aiotq.message m
        where m.queue = q and m.rank = r and m.tag is not null and m.holder is null and not m.ctid = any (picked)
        order by m.tag, m.id limit n for update skip locked
    );
end $$;

-- Returns where the messages stand that a read takes whose queues have lanes: of a queue and a rank what waits by key and
-- what is plain in equal parts, while both are there. `l` is the number of the read: half a message goes by turns.
create function aiotq.pick_by_turns(
    l int, most int, queues text[], ranks smallint[], floors bigint[], picked tid[]
) returns tid[] language plpgsql set enable_seqscan = off set enable_bitmapscan = off as $$
declare
    p record;
    room int;
    lane smallint;
    is_laned boolean;
begin
    for p in select u.* from unnest(queues, ranks, floors) with ordinality as u(queue, rank, floor, n) order by u.n loop
        room := most - cardinality(picked);
        exit when room <= 0;
        lane := p.rank + 100;
        is_laned := p.rank > 0 and exists (
            select from aiotq.message m where m.queue = p.queue and m.rank = lane and m.tag is not null);
        if is_laned then
            if exists (
                select from aiotq.message m where m.queue = p.queue and m.rank = p.rank and m.id >= p.floor
                and m.due is null and m.holder is null
            ) then
                room := (room + l % 2) / 2;
            end if;
            picked := picked || aiotq.first_of_lane(p.queue, lane, room, picked);
        end if;
        picked := picked || array(
            select m.ctid from aiotq.message m
            where m.queue = p.queue and m.rank = p.rank and m.id >= p.floor and m.due is null and m.holder is null
            order by m.id limit most - cardinality(picked) for update skip locked
        );
        if is_laned and cardinality(picked) < most then
            picked := picked || aiotq.first_of_lane(p.queue, lane, most - cardinality(picked), picked);
        end if;
    end loop;
    return picked;
end $$;

-- Takes up to `most` messages for a holder, each by its place in the columns, in no order. `due`: seconds until
-- something is due next. `revoked`: whether anything is; null if this read was given up.
-- `pairs`: queues and ranks in the order in which they are read, each from an id on; `doubtful`: queues for one suspect.
create or replace function aiotq.take(
    h bigint, l int, title text, lasts float8, most int, doubtful text[],
    queues text[], ranks smallint[], floors bigint[], is_idle boolean, due_after float8,
    out t_queues text[], out t_ranks smallint[], out t_ids bigint[], out t_bodies bytea[], out t_priorities smallint[],
    out t_deaths int[], out t_charges int[], out t_returns int[],
    out next_due float8, out moved jsonb, out revoked boolean
) language plpgsql
set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
    now float8 := extract(epoch from clock_timestamp());
    ends float8;
    too_late int;
    picked tid[] := '{}';
begin
    -- The lock holds off the end of our lease, and whoever gives this read up.
    select o.until, o.refused into ends, too_late from aiotq.holder o where o.id = h
        for no key update;
    if not found then
        insert into aiotq.holder (id, name, until) values (h, title, now + lasts) on conflict do nothing;
    elsif too_late >= l then
        return;
    elsif ends <= now then
        update aiotq.holder o set until = now + lasts where o.id = h;
    end if;
    if exists (select from aiotq.message m where m.due <= now and m.due > due_after) then
        moved := aiotq.move_due(due_after, now);
    end if;
    if doubtful is not null then
        picked := array(
            select x.t from unnest(doubtful) as s(queue), lateral (
                select m.ctid t from aiotq.message m
                where m.queue = s.queue and m.rank = -1 and m.due is null and m.holder is null
                order by m.id limit 1 for update skip locked
            ) x limit 1
        );
    end if;
    if exists (select from aiotq.message m where m.tag is not null and m.queue = any (queues)) then
        picked := aiotq.pick_by_turns(l, most, queues, ranks, floors, picked);
    else
        picked := picked || array(
            select x.t from unnest(queues, ranks, floors) as p(queue, rank, floor), lateral (
                select m.ctid t from aiotq.message m
                where m.queue = p.queue and m.rank = p.rank and m.id >= p.floor and m.due is null and m.holder is null
                order by m.id limit most for update skip locked
            ) x limit most - cardinality(picked)
        );
    end if;
    if cardinality(picked) > 0 then
        with taken as (
            update aiotq.message m set holder = h, lease = l, tag = null where m.ctid = any (picked)
            returning m.queue, m.rank, m.id, m.body, m.priority, m.deaths, m.charges, m.returns
        ), columns as (
            select count(*) as number, array_agg(k.queue) as queues, array_agg(k.rank) as ranks, array_agg(k.id) as ids,
                array_agg(k.body) as bodies, array_agg(k.priority) as priorities, array_agg(k.deaths) as deaths,
                array_agg(k.charges) as charges, array_agg(k.returns) as returns
            from taken k
        ), noted as (
            insert into aiotq.reading (holder, lease, left_over, queues, ranks, ids)
            select h, l, c.number, c.queues, c.ranks, c.ids from columns c where c.number > 0
        )
        select c.queues, c.ranks, c.ids, c.bodies, c.priorities, c.deaths, c.charges, c.returns
        into t_queues, t_ranks, t_ids, t_bodies, t_priorities, t_deaths, t_charges, t_returns from columns c;
        if is_idle and cardinality(t_ids) >= most then
            delete from aiotq.idle i where i.holder = h;
        end if;
    elsif moved is null then
        -- Nothing happened that a crash could undo to anybody's harm: nobody waits for the disk.
        perform set_config('synchronous_commit', 'off', true);
    end if;
    next_due := (select min(m.due) from aiotq.message m where m.due > now) - now;
    revoked := exists (select from aiotq.revocation v where v.expires > now);
end $$;

alter function aiotq.purge(int, float8, float8, float8) rename to aiotq_purge_all_but_shares;
create function aiotq.purge(batch int, letters_kept float8, fleet_kept float8, lines_kept float8) returns boolean
language plpgsql set enable_seqscan = off as $$
declare
    count int;
begin
    delete from aiotq.share where ctid = any (array(
        select s.ctid from aiotq.share s where not exists (
            select from aiotq.message m where m.queue = s.queue and m.rank = s.rank and m.tag is not null
        ) limit batch for update skip locked));
    get diagnostics count = row_count;
    return aiotq.purge_all_but_shares(batch, letters_kept, fleet_kept, lines_kept) or count = batch;
end $$;
