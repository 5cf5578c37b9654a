-- Rows of keys, which expire: who has the key of a unique call.
create table aiotq.key (
    name text collate "C" primary key, mark text not null, body bytea not null, unsent jsonb not null,
    expires float8 not null
);
create index aiotq_key_expires on aiotq.key (expires);

-- Changes the row of a key if its mark is the one that was seen; returns what was done, as `decisions.schedule_fate`
-- names it. A row that has expired is none.
create function aiotq.change_key(change jsonb, now float8) returns text language plpgsql as $$
declare
    title text := change ->> 'name';
    before text := change ->> 'seen';
    after text := change ->> 'mark';
    there text;
begin
    if before = '' and after <> '' then
        insert into aiotq.key as k (name, mark, body, unsent, expires)
            values (title, after, decode(change ->> 'body', 'base64'), change -> 'unsent', now + (change ->> 'lasts')::float8)
            on conflict (name) do update
            set mark = excluded.mark, body = excluded.body, unsent = excluded.unsent, expires = excluded.expires
            where k.expires <= now;
    elsif after = '' then
        delete from aiotq.key where name = title and mark = before and expires > now;
    else
        update aiotq.key
            set mark = after, body = decode(change ->> 'body', 'base64'), unsent = change -> 'unsent',
                expires = now + (change ->> 'lasts')::float8
            where name = title and mark = before and expires > now;
    end if;
    if found then
        return 'write';
    end if;
    select mark into there from aiotq.key where name = title and expires > now;
    return case when coalesce(there, '') = after then 'done' else 'refused' end;
end $$;

-- Changes the row of a periodic task or of a key; returns what was done, as `decisions.schedule_fate` names it.
create or replace function aiotq.change_schedule(change jsonb) returns text language plpgsql as $$
declare
    app text := change ->> 'scope';
    title text := change ->> 'name';
    before text := change ->> 'seen';
    after text := change ->> 'mark';
    there text;
    is_done boolean;
begin
    if change ? 'lasts' then
        return aiotq.change_key(change, extract(epoch from clock_timestamp()));
    end if;
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

-- What finishes do: to keys, and then to joins and records as before.
alter function aiotq.effects(jsonb, float8) rename to aiotq_effects_on_joins;
create function aiotq.effects(given jsonb, now float8, out following jsonb, out kept text[], out watched jsonb)
language plpgsql as $$
begin
    if given ? 'keys' then
        perform aiotq.change_key(x, now) from (
            select e.x from jsonb_array_elements(given -> 'keys') as e(x) order by e.x ->> 'name') as changes;
    end if;
    select e.following, e.kept, e.watched into following, kept, watched from aiotq.effects_on_joins(given, now) e;
end $$;

-- A group of finishes. Returns which were lost; the rest is for whoever tells others.
create or replace function aiotq.commit(
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
        foreach part in array array['envelopes', 'records', 'opened', 'grown', 'arrivals', 'extended', 'released', 'keys'] loop
            if given ? part then
                given := jsonb_set(given, array[part], aiotq.without(given -> part, lost || done));
            end if;
        end loop;
    end if;
    if given ?| array['records', 'opened', 'joins', 'keys'] then
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

alter function aiotq.purge(int, float8, float8, float8) rename to aiotq_purge_all_but_keys;
create function aiotq.purge(batch int, letters_kept float8, fleet_kept float8, lines_kept float8) returns boolean
language plpgsql set enable_seqscan = off as $$
declare
    count int;
begin
    delete from aiotq.key where ctid = any (array(
        select ctid from aiotq.key where expires <= extract(epoch from clock_timestamp())
        limit batch for update skip locked));
    get diagnostics count = row_count;
    return aiotq.purge_all_but_keys(batch, letters_kept, fleet_kept, lines_kept) or count = batch;
end $$;
