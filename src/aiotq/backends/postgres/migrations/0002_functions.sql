-- What is done, each as one call. Items come as JSON, bodies in base64.
-- Each function takes its locks in one order: messages (queue, rank, id), readings, joins, results.
-- Rows are found by index in a LATERAL, and changed by ctid: plans made of joins were 15 times as dear, and never ended
-- at all once, when statistics said that nothing is ready.

-- Numbers the write of a sender; one that was given up meanwhile fails, and all of it is undone.
create function aiotq.write_line(sender text, nr bigint, answers int[], now float8) returns void language plpgsql as $$
begin
    insert into aiotq.line (id, number, answer, seen) values (sender, nr, answers, now);
    delete from aiotq.line where id = sender and number = nr - 1;
end $$;

-- Returns whether a write was done, and its answer; if not, it can't be done any more.
create function aiotq.settle_line(sender text, nr bigint, out is_done boolean, out answers int[]) language plpgsql as $$
begin
    insert into aiotq.line (id, number, answer, seen)
        values (sender, nr, null, extract(epoch from clock_timestamp())) on conflict do nothing;
    is_done := not found;
    select answer into answers from aiotq.line where id = sender and number = nr;
    is_done := is_done and answers is not null;
end $$;

-- Puts messages into their queues, but those that are in the broker. Returns how many are ready in which queue, and in
-- how many seconds the first is due, if nothing was due before it.
create function aiotq.put(items jsonb, now float8, out ready jsonb, out hurry float8) language plpgsql as $$
declare
    first float8;
begin
    with added as (
        insert into aiotq.message as m (queue, rank, key, body, priority, due, since)
        select x.q, 10 - x.p, x.k, decode(x.b, 'base64'), x.p,
            case when x.d > now then x.d end, case when x.d > now then x.d else now end
        from jsonb_to_recordset(items) as x(q text, p smallint, d float8, k text, b text)
        on conflict (key) do nothing
        returning m.queue, m.due
    )
    select
        (select jsonb_object_agg(c.queue, c.n)
            from (select a.queue, count(*) n from added a where a.due is null group by a.queue) c),
        (select min(a.due) from added a)
    into ready, first;
    if first is not null and first <= (select min(m.due) from aiotq.message m where m.due > now) then
        hurry := first - now;
    end if;
end $$;

create function aiotq.send(sender text, nr bigint, items jsonb, out ready jsonb, out hurry float8) language plpgsql as $$
declare
    now float8 := extract(epoch from clock_timestamp());
begin
    select p.ready, p.hurry into ready, hurry from aiotq.put(items, now) p;
    perform aiotq.write_line(sender, nr, '{}', now);
end $$;

-- Adds up what is ready.
create function aiotq.more(one jsonb, other jsonb) returns jsonb language plpgsql immutable as $$
begin
    if one is null or other is null then
        return coalesce(one, other);
    end if;
    return (select jsonb_object_agg(k, n) from (
        select k, sum(v::int) n from (select * from jsonb_each_text(one) union all select * from jsonb_each_text(other))
        as e(k, v) group by k) s);
end $$;

-- Settles deliveries, of which `held` tells those whose lease stood.
create function aiotq.settle_held(items jsonb, now float8, out held int[], out ready jsonb, out hurry float8)
language plpgsql set enable_seqscan = off as $$
declare
    done tid[];
    others int;
    r record;
begin
    with f as materialized (
        select i.n, i.a, x.t
        from jsonb_to_recordset(items) as i(n int, q text, r smallint, i bigint, h bigint, l int, a text),
        lateral (
            select m.ctid t from aiotq.message m
            where m.queue = i.q and m.rank = i.r and m.id = i.i and m.due is null and m.holder = i.h and m.lease = i.l
            order by m.id limit 1 for update
        ) x
    )
    select coalesce(array_agg(f.n), '{}'), array_agg(f.t) filter (where f.a = 'a'), count(*) filter (where f.a <> 'a')
    into held, done, others from f;
    if done is not null then
        delete from aiotq.message where ctid = any (done);
    end if;
    if others > 0 then
        for r in
            select i.* from jsonb_to_recordset(items)
                as i(n int, q text, r smallint, i bigint, h bigint, l int, a text, d float8, w text, x text)
            where i.a <> 'a' and i.n = any (held) order by i.n
        loop
            if r.a = 'g' then
                perform aiotq.bury(r.q, r.r, r.i, r.w, r.x, now);
            elsif r.d > 0 then
                update aiotq.message m
                set holder = null, lease = null, id = default, returns = returns + 1, due = now + r.d, since = now + r.d
                where m.queue = r.q and m.rank = r.r and m.id = r.i and m.due is null;
                hurry := least(hurry, r.d);
            else
                update aiotq.message m
                set holder = null, lease = null, id = default, returns = returns + 1,
                    rank = case when deaths >= 2 then -1 else 0 end
                where m.queue = r.q and m.rank = r.r and m.id = r.i and m.due is null;
                ready := aiotq.more(ready, jsonb_build_object(r.q, 1));
            end if;
        end loop;
    end if;
    for r in
        select i.h, i.l, count(*) n from jsonb_to_recordset(items) as i(n int, h bigint, l int)
        where i.n = any (held) group by i.h, i.l order by i.h, i.l
    loop
        update aiotq.reading set left_over = left_over - r.n where holder = r.h and lease = r.l
            returning left_over into others;
        if found and others <= 0 then
            delete from aiotq.reading where holder = r.h and lease = r.l;
        end if;
    end loop;
end $$;

create function aiotq.bury(q text, r smallint, i bigint, why text, details text, now float8) returns void
language plpgsql set enable_seqscan = off as $$
begin
    with gone as (
        delete from aiotq.message m where m.queue = q and m.rank = r and m.id = i and m.due is null returning m.*
    )
    insert into aiotq.letter (id, queue, priority, reason, detail, died_at, deaths, body)
    select substring(g.key from '^(.*) [0-9]+$'), g.queue, g.priority, why, details, now, g.deaths, g.body from gone g;
end $$;

create function aiotq.settle(sender text, nr bigint, items jsonb, out held int[], out ready jsonb, out hurry float8)
language plpgsql as $$
declare
    now float8 := extract(epoch from clock_timestamp());
begin
    select s.held, s.ready, s.hurry into held, ready, hurry from aiotq.settle_held(items, now) s;
    perform aiotq.write_line(sender, nr, held, now);
end $$;

-- Moves what is due to the end of its queue, in the order of the due times.
create function aiotq.move_due(after float8, now float8) returns jsonb
language plpgsql set enable_seqscan = off as $$
declare
    moved jsonb;
    q text;
    r record;
begin
    for r in
        select m.ctid t from aiotq.message m where m.due <= now and m.due > after order by m.due, m.id
        limit 1000 for update skip locked
    loop
        update aiotq.message
        set due = null, id = default, rank = case when deaths >= 2 then -1 else 10 - priority end
        where ctid = r.t returning queue into q;
        if found then
            moved := jsonb_set(coalesce(moved, '{}'), array[q], to_jsonb(coalesce((moved ->> q)::int, 0) + 1));
        end if;
    end loop;
    return moved;
end $$;

-- Takes up to `most` messages for a holder. Each row is a message, in no order; the last one tells, in `about`, in how many
-- seconds something is due next, whether anything is revoked, and what was moved.
-- `pairs`: queues and ranks in the order in which they are read, each from an id on; `doubtful`: queues for one suspect.
create function aiotq.fetch(
    h bigint, l int, title text, lasts float8, place text, most int, doubtful text[],
    queues text[], ranks smallint[], floors bigint[], all_queues text[], waits boolean, due_after float8
) returns table (
    queue text, rank smallint, id bigint, body bytea, priority smallint, deaths int, charges int, returns int,
    about jsonb
) language plpgsql set enable_seqscan = off as $$
#variable_conflict use_column
declare
    now float8 := extract(epoch from clock_timestamp());
    ends float8;
    too_late int;
    picked tid[] := '{}';
    moved jsonb;
    took int := 0;
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
    picked := picked || array(
        select x.t from unnest(queues, ranks, floors) as p(queue, rank, floor), lateral (
            select m.ctid t from aiotq.message m
            where m.queue = p.queue and m.rank = p.rank and m.id >= p.floor and m.due is null and m.holder is null
            order by m.id limit most for update skip locked
        ) x limit most - cardinality(picked)
    );
    if cardinality(picked) > 0 then
        return query
            with taken as (
                update aiotq.message m set holder = h, lease = l where m.ctid = any (picked)
                returning m.queue, m.rank, m.id, m.body, m.priority, m.deaths, m.charges, m.returns
            ), noted as (
                insert into aiotq.reading (holder, lease, left_over, queues, ranks, ids)
                select h, l, count(*), array_agg(k.queue), array_agg(k.rank), array_agg(k.id) from taken k
                having count(*) > 0
            )
            select k.*, null::jsonb from taken k;
        get diagnostics took = row_count;
    end if;
    if took > 0 then
        delete from aiotq.idle i where i.holder = h;
    elsif waits then
        insert into aiotq.idle (queue, holder, address)
            select q, h, place from unnest(all_queues) as q order by q on conflict do nothing;
    end if;
    about := jsonb_build_object(
        'due', (select min(m.due) from aiotq.message m where m.due > now) - now,
        'moved', moved,
        'revoked', exists (select from aiotq.revocation v where v.expires > now)
    );
    queue := null;
    return next;
end $$;

-- Returns what a holder has to its queues: of one read, which is refused from now on, or all.
create function aiotq.give_back(h bigint, l int, is_return boolean, now float8) returns jsonb
language plpgsql set enable_seqscan = off as $$
declare
    ready jsonb;
    r record;
begin
    for r in
        with had as materialized (
            select x.* from aiotq.reading g, unnest(g.queues, g.ranks, g.ids) as u(queue, rank, id), lateral (
                select m.key, m.queue, m.id from aiotq.message m
                where m.queue = u.queue and m.rank = u.rank and m.id = u.id and m.due is null
                and m.holder = h and m.lease = g.lease limit 1
            ) x where g.holder = h and (l is null or g.lease = l)
        )
        select had.key, had.queue from had order by had.id
    loop
        update aiotq.message
        set holder = null, lease = null, id = default, returns = returns + is_return::int,
            rank = case when deaths >= 2 then -1 else 0 end
        where key = r.key and holder = h and (l is null or lease = l);
        ready := aiotq.more(ready, jsonb_build_object(r.queue, 1));
    end loop;
    delete from aiotq.reading where holder = h and (l is null or lease = l);
    return ready;
end $$;

create function aiotq.cancel_read(h bigint, l int, title text, lasts float8) returns jsonb language plpgsql as $$
declare
    now float8 := extract(epoch from clock_timestamp());
begin
    insert into aiotq.holder as o (id, name, until, refused) values (h, title, now + lasts, l)
        on conflict (id) do update set refused = greatest(o.refused, l);
    delete from aiotq.idle where holder = h;
    return aiotq.give_back(h, l, false, now);
end $$;

create function aiotq.leave(h bigint) returns jsonb language plpgsql as $$
declare
    now float8 := extract(epoch from clock_timestamp());
begin
    delete from aiotq.holder where id = h;
    delete from aiotq.idle where holder = h;
    return aiotq.give_back(h, null, true, now);
end $$;

create function aiotq.register(h bigint, title text, lasts float8) returns void language plpgsql as $$
declare
    now float8 := extract(epoch from clock_timestamp());
begin
    insert into aiotq.holder as o (id, name, until) values (h, title, now + lasts)
        on conflict (id) do update set until = excluded.until;
end $$;

-- Renews a lease. Returns which of `items` are held, and what is ready again: deaths that it was blamed for are undone.
create function aiotq.renew(h bigint, title text, lasts float8, items jsonb, out held int[], out ready jsonb)
language plpgsql set enable_seqscan = off as $$
declare
    r record;
    q text;
begin
    perform aiotq.register(h, title, lasts);
    for r in delete from aiotq.blame b where b.holder = h returning b.key, b.charges loop
        update aiotq.message m
        set deaths = greatest(m.deaths - 1, 0), charges = greatest(m.charges - r.charges, 0),
            -- Of one that is held, the rank is part of its lease.
            rank = case when m.holder is null and m.rank = -1 and m.deaths <= 2 then 0 else m.rank end
        where m.key = r.key returning m.queue into q;
        if found then
            ready := aiotq.more(ready, jsonb_build_object(q, 1));
        end if;
    end loop;
    held := array(
        select i.n from jsonb_to_recordset(items) as i(n int, q text, r smallint, i bigint, l int) where exists (
            select from aiotq.message m
            where m.queue = i.q and m.rank = i.r and m.id = i.i and m.due is null and m.holder = h and m.lease = i.l
        )
    );
end $$;

-- Returns what the dead held to its queues, with one death more; remembers whom that was put down to.
create function aiotq.reclaim(blamed_for float8, out count int, out ready jsonb)
language plpgsql set enable_seqscan = off as $$
declare
    now float8 := extract(epoch from clock_timestamp());
    dead record;
    r record;
    suspects int;
begin
    count := 0;
    for dead in select o.id from aiotq.holder o where o.until <= now order by o.id limit 20 for update skip locked loop
        for r in
            with had as materialized (
                select x.* from aiotq.reading g, unnest(g.queues, g.ranks, g.ids) as u(queue, rank, id), lateral (
                    select m.key, m.queue, m.id, m.deaths, m.lease from aiotq.message m
                    where m.queue = u.queue and m.rank = u.rank and m.id = u.id and m.due is null
                    and m.holder = dead.id and m.lease = g.lease limit 1
                ) x where g.holder = dead.id
            )
            select had.*, (had.deaths >= 2 and (select sum((d.deaths >= 2)::int) from had d) = 1)::int as charge
            from had order by had.id
        loop
            update aiotq.message
            set holder = null, lease = null, id = default, deaths = deaths + 1, charges = charges + r.charge,
                rank = case when deaths >= 1 then -1 else 0 end
            where key = r.key and holder = dead.id and lease = r.lease;
            if found then
                insert into aiotq.blame (holder, key, charges, expires)
                    values (dead.id, r.key, r.charge, now + blamed_for) on conflict do nothing;
                count := count + 1;
                ready := aiotq.more(ready, jsonb_build_object(r.queue, 1));
            end if;
        end loop;
        delete from aiotq.reading where holder = dead.id;
        delete from aiotq.idle where holder = dead.id;
        delete from aiotq.holder where id = dead.id;
    end loop;
end $$;

-- Makes delayed messages due; returns which were, and how many in each queue.
create function aiotq.make_due_now(keys text[], out made text[], out ready jsonb)
language plpgsql set enable_seqscan = off as $$
declare
    now float8 := extract(epoch from clock_timestamp());
    k text;
    q text;
begin
    made := '{}';
    foreach k in array keys loop
        update aiotq.message
        set due = null, id = default, since = least(since, now),
            rank = case when deaths >= 2 then -1 else 10 - priority end
        where key = k and due is not null returning queue into q;
        if found then
            made := made || k;
            ready := aiotq.more(ready, jsonb_build_object(q, 1));
        end if;
    end loop;
end $$;

-- Wakes as many idle consumers as there are messages for them, and tells others what is for them. A transaction of its
-- own after the commit: who looks for idle ones earlier and who becomes idle meanwhile could miss each other, and
-- NOTIFY inside a commit lets the whole cluster make one commit a fsync.
create function aiotq.tell(ready jsonb, base text, woken text, channels text[], payloads text[]) returns void
language plpgsql set enable_seqscan = off as $$
declare
    r record;
begin
    if ready is not null then
        for r in
            with told as (
                delete from aiotq.idle where ctid = any (array(
                    select x.t from jsonb_each_text(ready) as w(queue, n), lateral (
                        select i.ctid t from aiotq.idle i where i.queue = w.queue limit w.n::int for update skip locked
                    ) x
                )) returning address
            )
            select distinct address from told
        loop
            perform pg_notify(base || r.address, woken);
        end loop;
    end if;
    if channels is not null then
        perform pg_notify(c, p) from unnest(channels, payloads) as n(c, p);
    end if;
end $$;

-- The items of a list that don't belong to the finishes `skipped`.
create function aiotq.without(list jsonb, skipped int[]) returns jsonb language plpgsql immutable as $$
begin
    return (select coalesce(jsonb_agg(e.x order by e.place), '[]')
        from jsonb_array_elements(list) with ordinality as e(x, place)
        where not (e.x ->> 'n')::int = any (skipped));
end $$;

-- Lets members arrive at a join; returns what is to be sent if it is over by that.
create function aiotq.arrive(name text, list jsonb, now float8) returns jsonb
language plpgsql set enable_seqscan = off as $$
declare
    j record;
    a record;
    failing text;
    reached int;
begin
    select o.size, o.arrived, o.following into j from aiotq.joins o where o.id = name and not o.is_over for update;
    if not found then
        return null;
    end if;
    reached := j.arrived;
    for a in
        select x.* from jsonb_to_recordset(list)
            as x(m text, f boolean, id text, s text, c text, e float8, r text, b text)
    loop
        insert into aiotq.arrival (join_id, member, id, state, content_type, expires, reply_to, body)
            values (name, a.m, a.id, a.s, a.c, a.e, a.r, decode(a.b, 'base64')) on conflict do nothing;
        if found then
            reached := reached + 1;
            if a.f then
                failing := a.m;
            end if;
            exit when a.f or reached >= j.size;
        end if;
    end loop;
    if failing is not null or reached >= j.size then
        update aiotq.joins set is_over = true, is_failed = failing is not null, arrived = reached, touched = now,
            due = now + patience, following = null where id = name;
        if failing is not null then
            delete from aiotq.arrival where join_id = name and member <> failing;
        end if;
        return j.following;
    elsif reached > j.arrived then
        update aiotq.joins set arrived = reached, touched = now where id = name;
    end if;
    return null;
end $$;

create function aiotq.open_joins(list jsonb, now float8) returns void language plpgsql as $$
begin
    insert into aiotq.joins (id, size, readers, patience, touched, until, due, about, following)
    select x.j, x.size, x.readers, x.patience, now, x.until, greatest(now, x.until) + x.patience, x.about, x.following
    from jsonb_to_recordset(list)
        as x(j text, size int, readers int, patience float8, until float8, about text, following jsonb)
    order by x.j on conflict do nothing;
end $$;

-- What finishes do to joins and records. Returns what joins send, the ids of records that stand and stay, and who
-- watches those that were written.
create function aiotq.effects(given jsonb, now float8, out following jsonb, out kept text[], out watched jsonb)
language plpgsql set enable_seqscan = off as $$
declare
    r record;
    name text;
begin
    if given ? 'opened' then
        perform aiotq.open_joins(given -> 'opened', now);
    end if;
    if given ? 'joins' then
        perform from aiotq.joins j
            where j.id = any (array(select jsonb_array_elements_text(given -> 'joins'))) order by j.id for update;
    end if;
    if given ? 'grown' then
        for r in select x.j, x.c from jsonb_to_recordset(given -> 'grown') as x(j text, c int) loop
            update aiotq.joins set size = size + r.c where id = r.j and not is_over;
        end loop;
    end if;
    if given ? 'arrivals' then
        for r in
            select e.x ->> 'j' as j, jsonb_agg(e.x order by e.place) as list
            from jsonb_array_elements(given -> 'arrivals') with ordinality as e(x, place)
            group by 1 order by min(e.place)
        loop
            following := coalesce(following, '[]') || coalesce(aiotq.arrive(r.j, r.list, now), '[]');
        end loop;
    end if;
    if given ? 'extended' then
        for r in select x.j, x.u from jsonb_to_recordset(given -> 'extended') as x(j text, u float8) loop
            update aiotq.joins set until = greatest(until, r.u) where id = r.j and not is_over;
        end loop;
    end if;
    if given ? 'released' then
        for name in select x.j from jsonb_to_recordset(given -> 'released') as x(j text) loop
            update aiotq.joins set readers = readers - 1 where id = name and is_over and readers > 1;
            if not found then
                delete from aiotq.joins where id = name and is_over;
                if found then
                    delete from aiotq.arrival where join_id = name;
                end if;
            end if;
        end loop;
    end if;
    if given ? 'records' then
        with fresh as materialized (
            -- Of several of one task: the first that ends it, or else the last.
            select distinct on (x.id) x.* from jsonb_to_recordset(given -> 'records')
                as x(o int, id text, s text, t boolean, c text, e float8, r text, b text)
            order by x.id, x.t desc, case when x.t then x.o else -x.o end
        ), w as (
            insert into aiotq.result as o (id, state, is_ready, content_type, expires, reply_to, body)
            select f.id, f.s, f.t, f.c, f.e, f.r, decode(f.b, 'base64') from fresh f order by f.id
            on conflict (id) do update set state = excluded.state, is_ready = excluded.is_ready,
                content_type = excluded.content_type, expires = excluded.expires, reply_to = excluded.reply_to,
                body = excluded.body
            where not (o.is_ready and o.expires > now)
            returning o.id
        )
        select array_agg(f.id) into kept from fresh f left join w on w.id = f.id where w.id is null;
        if exists (select from aiotq.watcher) then
            select jsonb_agg(jsonb_build_array(v.id, v.address)) into watched from aiotq.watcher v
            where v.id = any (array(select x ->> 'id' from jsonb_array_elements(given -> 'records') x));
        end if;
    end if;
end $$;

-- Changes the row of a periodic task; returns what was done, as `decisions.schedule_fate` names it.
create function aiotq.change_schedule(change jsonb) returns text language plpgsql as $$
declare
    app text := change ->> 'scope';
    title text := change ->> 'name';
    before text := change ->> 'seen';
    after text := change ->> 'mark';
    there text;
    is_done boolean;
begin
    if before = '' then
        if after = '' then
            is_done := not exists (select from aiotq.schedule where scope = app and name = title);
        else
            insert into aiotq.schedule (scope, name, mark, body, unsent)
                values (app, title, after, decode(change ->> 'body', 'base64'), change -> 'unsent')
                on conflict do nothing;
            is_done := found;
        end if;
    elsif after = '' then
        delete from aiotq.schedule where scope = app and name = title and mark = before;
        is_done := found;
    else
        update aiotq.schedule
            set mark = after, body = decode(change ->> 'body', 'base64'), unsent = change -> 'unsent'
            where scope = app and name = title and mark = before;
        is_done := found;
    end if;
    if not is_done then
        select mark into there from aiotq.schedule where scope = app and name = title;
        return case when coalesce(there, '') = after then 'done' else 'refused' end;
    end if;
    if (change ->> 'tells')::boolean then
        insert into aiotq.counter as c (name, value) values ('schedules ' || app, 1)
            on conflict (name) do update set value = c.value + 1;
    end if;
    return 'write';
end $$;

-- A group of finishes. Returns which were lost; the rest is for whoever tells others.
create function aiotq.commit(
    sender text, nr bigint, given jsonb,
    out lost int[], out ready jsonb, out hurry float8, out kept text[], out watched jsonb
) language plpgsql as $$
declare
    now float8 := extract(epoch from clock_timestamp());
    held int[];
    done int[] := '{}';
    following jsonb;
    fate text;
    sent record;
    r record;
    part text;
begin
    lost := array(select x::int from jsonb_array_elements_text(given -> 'twice') as x);
    if given ? 'schedules' then
        for r in select x from jsonb_array_elements(given -> 'schedules') as x
            order by x ->> 'scope', x ->> 'name', (x ->> 'n')::int
        loop
            fate := aiotq.change_schedule(r.x);
            if fate = 'refused' then
                lost := lost || (r.x ->> 'n')::int;
            elsif fate = 'done' then
                done := done || (r.x ->> 'n')::int;
            end if;
        end loop;
    end if;
    if given ? 'held' then
        select s.held, s.ready, s.hurry into held, ready, hurry from aiotq.settle_held(given -> 'held', now) s;
        if cardinality(held) < jsonb_array_length(given -> 'held') then
            lost := lost || array(
                select i.n from jsonb_to_recordset(given -> 'held') as i(n int) where not i.n = any (held));
        end if;
    end if;
    if cardinality(lost) + cardinality(done) > 0 then
        foreach part in array array['envelopes', 'records', 'opened', 'grown', 'arrivals', 'extended', 'released'] loop
            if given ? part then
                given := jsonb_set(given, array[part], aiotq.without(given -> part, lost || done));
            end if;
        end loop;
    end if;
    if given ?| array['records', 'opened', 'joins'] then
        select e.following, e.kept, e.watched into following, kept, watched from aiotq.effects(given, now) e;
    end if;
    if given ? 'envelopes' then
        following := (given -> 'envelopes') || coalesce(following, '[]');
    end if;
    if following is not null then
        select p.ready, p.hurry into sent from aiotq.put(following, now) p;
        ready := aiotq.more(ready, sent.ready);
        hurry := least(hurry, sent.hurry);
    end if;
    perform aiotq.write_line(sender, nr, lost, now);
end $$;

-- The ends of claimed runs, one after another. `is_lost`: the claim was, nothing was written; `is_new`: it was written
-- now, and not before.
create function aiotq.close(items jsonb, who text, kept_for float8)
returns table (is_lost boolean, is_new boolean, following jsonb, kept text[], watched jsonb)
language plpgsql set enable_seqscan = off as $$
#variable_conflict use_column
declare
    now float8 := extract(epoch from clock_timestamp());
    item jsonb;
    before record;
    part record;
begin
    perform from aiotq.claim c
        where c.key = any (array(select x ->> 'k' from jsonb_array_elements(items) x)) order by c.key for update;
    for item in select e.x from jsonb_array_elements(items) with ordinality as e(x, place) order by e.place loop
        following := null;
        kept := null;
        watched := null;
        select c.is_done, c.following into before from aiotq.claim c where c.key = item ->> 'k' and c.holder = who;
        is_lost := not found;
        is_new := found and not before.is_done;
        if is_new then
            following := item -> 'envelopes';
            if item ? 'effects' then
                select e.following, e.kept, e.watched into part from aiotq.effects(item -> 'effects', now) e;
                following := following || coalesce(part.following, '[]');
                kept := part.kept;
                watched := part.watched;
            end if;
            if (item ->> 'is_done')::boolean then
                update aiotq.claim c set is_done = true, following = close.following, expires = now + kept_for
                    where c.key = item ->> 'k';
            else
                update aiotq.claim c set holder = '', ends = 0 where c.key = item ->> 'k';
            end if;
        elsif not is_lost then
            following := before.following;
        end if;
        return next;
    end loop;
end $$;

create function aiotq.overdue(most int) returns setof text language plpgsql set enable_seqscan = off as $$
declare
    now float8 := extract(epoch from clock_timestamp());
begin
    update aiotq.joins set due = greatest(touched, until) + patience
        where not is_over and due <= now and greatest(touched, until) + patience > now;
    return query select j.id from aiotq.joins j where not j.is_over and j.due <= now order by j.due limit most;
end $$;

-- Takes permits; returns 0 for each, or how many wait with it.
create function aiotq.acquire_permits(items jsonb, who text, lasts float8, most_counted int) returns int[]
language plpgsql as $$
declare
    now float8 := extract(epoch from clock_timestamp());
    answers int[] := '{}';
    taken int;
    r record;
begin
    perform aiotq.lock_names(array(select x ->> 'name' from jsonb_array_elements(items) x));
    delete from aiotq.permit
        where ends <= now and name = any (array(select x ->> 'name' from jsonb_array_elements(items) x));
    for r in select x.* from jsonb_to_recordset(items) as x(name text, k text, most int) loop
        delete from aiotq.permit where name = r.name and key = r.k and holder in ('', who);
        if not found then
            select count(*) into taken from aiotq.permit where name = r.name;
            if taken >= r.most then
                select count(*) into taken
                    from (select from aiotq.waiting w where w.name = r.name and w.key <> r.k limit most_counted) c;
                answers := answers || taken + 1;
                continue;
            end if;
        end if;
        insert into aiotq.permit (name, key, holder, ends) values (r.name, r.k, who, now + lasts);
        delete from aiotq.waiting where name = r.name and key = r.k;
        answers := answers || 0;
    end loop;
    return answers;
end $$;

-- Releases permits, notes who waits, and returns those for whom one is reserved now.
create function aiotq.hand_over_permits(
    released jsonb, waits jsonb, who text, limits jsonb, kept_for float8, reserved_for float8
) returns table (name text, key text, since float8) language plpgsql as $$
#variable_conflict use_column
declare
    now float8 := extract(epoch from clock_timestamp());
    taken int;
    r record;
begin
    perform aiotq.lock_names(array(
        select x ->> 'name' from jsonb_array_elements(released || waits) x union select jsonb_object_keys(limits)));
    for r in select x.* from jsonb_to_recordset(released) as x(name text, k text) loop
        delete from aiotq.permit p where p.name = r.name and p.key = r.k and p.holder = who;
        if who = '' then
            delete from aiotq.waiting w where w.name = r.name and w.key = r.k;
        end if;
    end loop;
    for r in select x.* from jsonb_to_recordset(waits) as x(name text, k text, since float8) loop
        insert into aiotq.waiting (name, key, since, expires) values (r.name, r.k, r.since, now + kept_for)
            on conflict (name, key) do update set since = excluded.since, expires = excluded.expires;
    end loop;
    for r in select e.name, e.value::int as most from jsonb_each_text(limits) as e(name, value) loop
        delete from aiotq.permit p where p.name = r.name and p.ends <= now;
        select count(*) into taken from aiotq.permit p where p.name = r.name;
        if taken < r.most then
            return query
                with chosen as (
                    select w.name, w.key, w.since from aiotq.waiting w
                    where w.name = r.name and w.expires > now and not exists (
                        select from aiotq.permit p where p.name = w.name and p.key = w.key and p.holder = '')
                    order by w.since limit r.most - taken
                ), noted as (
                    insert into aiotq.permit (name, key, holder, ends)
                    select c.name, c.key, '', now + reserved_for from chosen c
                )
                select c.name, c.key, c.since from chosen c order by c.since;
        end if;
    end loop;
end $$;

-- Lets one transaction at a time decide about each name.
create function aiotq.lock_names(names text[]) returns void language plpgsql as $$
begin
    perform pg_advisory_xact_lock(number) from (
        select distinct hashtextextended('aiotq.' || n, 0) as number from unnest(names) n order by 1) s;
end $$;

-- Deletes what has expired, a batch of each; returns whether there may be more.
create function aiotq.purge(batch int, letters_kept float8, fleet_kept float8, lines_kept float8) returns boolean
language plpgsql set enable_seqscan = off as $$
declare
    now float8 := extract(epoch from clock_timestamp());
    is_more boolean := false;
    count int;
    r record;
begin
    delete from aiotq.permit where ends <= now;
    delete from aiotq.waiting where expires <= now;
    delete from aiotq.fleet where ends <= now - fleet_kept;
    delete from aiotq.watcher where expires <= now;
    delete from aiotq.blame where expires <= now;
    for r in select j.id from aiotq.joins j where j.is_over and j.due <= now limit batch for update skip locked loop
        delete from aiotq.arrival where join_id = r.id;
        delete from aiotq.joins where id = r.id;
    end loop;
    delete from aiotq.result where ctid = any (array(
        select ctid from aiotq.result where expires <= now limit batch for update skip locked));
    get diagnostics count = row_count;
    is_more := is_more or count = batch;
    delete from aiotq.claim where ctid = any (array(
        select ctid from aiotq.claim where expires <= now limit batch for update skip locked));
    get diagnostics count = row_count;
    is_more := is_more or count = batch;
    delete from aiotq.letter where ctid = any (array(
        select ctid from aiotq.letter where died_at <= now - letters_kept limit batch for update skip locked));
    get diagnostics count = row_count;
    is_more := is_more or count = batch;
    delete from aiotq.revocation where expires <= now;
    delete from aiotq.start where expires <= now;
    delete from aiotq.line where ctid = any (array(
        select ctid from aiotq.line where seen <= now - lines_kept limit batch for update skip locked));
    get diagnostics count = row_count;
    return is_more or count = batch;
end $$;
