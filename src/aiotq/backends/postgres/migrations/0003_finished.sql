-- The index of what finished: an entry stays when its result goes.
create table aiotq.finished (
    nr bigint generated always as identity primary key,
    state text collate "C" not null,
    expires float8 not null,
    entry bytea not null
);
create index aiotq_finished_state on aiotq.finished (state, nr);
create index aiotq_finished_expires on aiotq.finished (expires);

-- Adds the entries of those records that were written. Now and then the oldest of their states go, if they are too many.
create function aiotq.list_finished(items jsonb, kept text[], now float8) returns void
language plpgsql set enable_seqscan = off as $$
declare
    first bigint;
    last bigint;
    r record;
begin
    with new as (
        insert into aiotq.finished (state, expires, entry)
        select x.s, now + (x.i ->> 'kept')::float8, decode(x.i ->> 'b', 'base64')
        from jsonb_to_recordset(items) as x(o int, id text, s text, i jsonb)
        where x.i is not null and not x.id = any (coalesce(kept, '{}')) order by x.o
        returning nr
    )
    select min(nr), max(nr) into first, last from new;
    if (first - 1) / 500 <> last / 500 then
        for r in
            select x.s as state, max((x.i ->> 'most')::int) as most
            from jsonb_to_recordset(items) as x(s text, i jsonb) where x.i is not null group by 1
        loop
            delete from aiotq.finished where ctid = any (array(
                select f.ctid from aiotq.finished f
                where f.state = r.state and f.nr <= (
                    select b.nr from aiotq.finished b where b.state = r.state order by b.nr desc limit 1 offset r.most)
                order by f.nr limit 2000 for update skip locked));
        end loop;
    end if;
end $$;

-- What finishes do to joins and records. Returns what joins send, the ids of records that stand and stay, and who
-- watches those that were written.
create or replace function aiotq.effects(given jsonb, now float8, out following jsonb, out kept text[], out watched jsonb)
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
        if given ? 'listed' then
            perform aiotq.list_finished(given -> 'records', kept, now);
        end if;
        if exists (select from aiotq.watcher) then
            select jsonb_agg(jsonb_build_array(v.id, v.address)) into watched from aiotq.watcher v
            where v.id = any (array(select x ->> 'id' from jsonb_array_elements(given -> 'records') x));
        end if;
    end if;
end $$;

-- Deletes what has expired, a batch of each; returns whether there may be more.
create or replace function aiotq.purge(batch int, letters_kept float8, fleet_kept float8, lines_kept float8) returns boolean
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
    delete from aiotq.finished where ctid = any (array(
        select ctid from aiotq.finished where expires <= now limit batch for update skip locked));
    get diagnostics count = row_count;
    is_more := is_more or count = batch;
    delete from aiotq.revocation where expires <= now;
    delete from aiotq.start where expires <= now;
    delete from aiotq.line where ctid = any (array(
        select ctid from aiotq.line where seen <= now - lines_kept limit batch for update skip locked));
    get diagnostics count = row_count;
    return is_more or count = batch;
end $$;
