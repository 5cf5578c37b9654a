-- What follows a write is done in the same trip: procedures, which commit in between.
-- Functions of former versions stay, for processes that are not of this one yet.

-- Plans that are made while a table is empty use bitmaps, which read all of an index's entries, the dead ones too.
alter function aiotq.settle_held(jsonb, float8) set enable_bitmapscan = off;
alter function aiotq.move_due(float8, float8) set enable_bitmapscan = off;
-- A small table that is read as a whole seems dear where that is not wanted: its plan was compiled, for 0.3 s.
alter function aiotq.effects set jit = off;
alter function aiotq.list_finished set jit = off;
alter function aiotq.purge set jit = off;
alter function aiotq.reclaim set jit = off;
alter function aiotq.renew set jit = off;
alter function aiotq.give_back set jit = off;
alter function aiotq.close set jit = off;
alter function aiotq.overdue set jit = off;

-- Takes up to `most` messages for a holder, each by its place in the columns, in no order. `due`: seconds until
-- something is due next. `revoked`: whether anything is; null if this read was given up.
-- `pairs`: queues and ranks in the order in which they are read, each from an id on; `doubtful`: queues for one suspect.
create function aiotq.take(
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
    picked := picked || array(
        select x.t from unnest(queues, ranks, floors) as p(queue, rank, floor), lateral (
            select m.ctid t from aiotq.message m
            where m.queue = p.queue and m.rank = p.rank and m.id >= p.floor and m.due is null and m.holder is null
            order by m.id limit most for update skip locked
        ) x limit most - cardinality(picked)
    );
    if cardinality(picked) > 0 then
        with taken as (
            update aiotq.message m set holder = h, lease = l where m.ctid = any (picked)
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

-- Takes messages; with `all_queues` the holder stands among the idle before that, where those who send later see it: it
-- need not look again. Who got as many as it can have does not stand there any more.
create procedure aiotq.read(
    h bigint, l int, title text, lasts float8, place text, most int, doubtful text[],
    queues text[], ranks smallint[], floors bigint[], all_queues text[], is_idle boolean, due_after float8,
    inout t_queues text[], inout t_ranks smallint[], inout t_ids bigint[], inout t_bodies bytea[],
    inout t_priorities smallint[], inout t_deaths int[], inout t_charges int[], inout t_returns int[],
    inout next_due float8, inout moved jsonb, inout revoked boolean
) language plpgsql as $$
begin
    if all_queues is not null then
        insert into aiotq.idle (queue, holder, address)
            select q, h, place from unnest(all_queues) as q order by q on conflict do nothing;
        commit;
    end if;
    select t.* into t_queues, t_ranks, t_ids, t_bodies, t_priorities, t_deaths, t_charges, t_returns,
        next_due, moved, revoked
    from aiotq.take(h, l, title, lasts, most, doubtful, queues, ranks, floors, is_idle, due_after) t;
end $$;

-- Tells, and returns whether that was done: what was committed before stands, whatever becomes of this.
create function aiotq.try_tell(ready jsonb, base text, woken text, channels text[], payloads text[]) returns boolean
language plpgsql as $$
begin
    perform aiotq.tell(ready, base, woken, channels, payloads);
    return true;
exception when others or query_canceled then
    return false;
end $$;

-- Sends, and wakes consumers. Returns what `send` does, of `ready` only what nobody was told of.
create procedure aiotq.send_and_wake(
    sender text, nr bigint, items jsonb, base text, woken text, inout ready jsonb, inout hurry float8
) language plpgsql as $$
begin
    select s.ready, s.hurry into ready, hurry from aiotq.send(sender, nr, items) s;
    if ready is not null then
        commit;
        if aiotq.try_tell(ready, base, woken, null, null) then
            ready := null;
        end if;
    end if;
end $$;

-- Commits a group of finishes, wakes consumers, and tells others of the results. `is_told`: they were told. That is left
-- to the caller when not all was written, or when others watch.
create procedure aiotq.commit_and_tell(
    sender text, nr bigint, given jsonb, base text, woken text, channels text[], payloads text[],
    inout lost int[], inout ready jsonb, inout hurry float8, inout kept text[], inout watched jsonb,
    inout is_told boolean
) language plpgsql as $$
begin
    select c.lost, c.ready, c.hurry, c.kept, c.watched into lost, ready, hurry, kept, watched
        from aiotq.commit(sender, nr, given) c;
    is_told := channels is not null and cardinality(lost) = 0 and kept is null and watched is null;
    if not is_told then
        channels := null;
    end if;
    if is_told or ready is not null then
        commit;
        if aiotq.try_tell(ready, base, woken, channels, payloads) then
            ready := null;
        else
            is_told := false;
        end if;
    end if;
end $$;
