-- Counted barriers, all of which expire. A library: scripts on joins include it after `results`, those that most calls need late.
--
-- {base}:join:{id}        hash: size, open (1 or 0), failed (1 or 0), readers, about, patience, until, touched,
--                         guess (ms), then (packed envelopes) while it is open, ended (s by the sender's clock) after
-- {base}:join:{id}:in     hash: member -> packed {id, value} of its record
-- {base}:joins            sorted set of the open joins by `guess`
--
-- A join is overdue its patience after the last arrival (`touched`) or `until`. Before `guess` it certainly is not: who
-- arrives leaves that as it is, who looks later puts it right.
--
-- A join is {id, size, then, patience (ms), about, until}, an arrival {join, member, record or false: the finish's own,
-- failed}, a growth {join, count}, an extension {join, until}; until in seconds by the sender's clock, as ends are.
local JOINS = base .. ':joins'

local function join_key(id)
    return base .. ':join:' .. id
end

-- Remember that an open join is not overdue before `guess`. An arrival until then moves that by its patience at
-- most, and the keys live for another one.
local function note_guess(id, guess, patience)
    local key = join_key(id)
    local kept = milliseconds(guess + 2 * patience)
    redis.call('HSET', key, 'guess', milliseconds(guess))
    redis.call('PEXPIREAT', key, kept)
    redis.call('PEXPIREAT', key .. ':in', kept)
    if type(redis.pcall('ZADD', JOINS, milliseconds(guess), id)) == 'number'
        and redis.call('PTTL', JOINS) < kept - now then
        redis.call('PEXPIREAT', JOINS, kept)
    end
end

-- The named fields of an open join; nil if it is over, unknown or no join.
local function open_fields(id, ...)
    local fields = redis.pcall('HMGET', join_key(id), 'open', ...)
    if fields.err or fields[1] ~= '1' then
        return nil
    end
    return fields
end

-- Create a join; one that exists stays as it is.
local function open_join(join, offset)
    local id, size, after, patience, about, ends = unpack(join)
    local key = join_key(id)
    if redis.call('EXISTS', key) == 1 then
        return
    end
    local at = ends * 1000 + offset
    redis.call('DEL', key .. ':in')
    redis.call('HSET', key, 'size', size, 'open', 1, 'failed', 0, 'readers', #after, 'about', about,
        'patience', milliseconds(patience), 'until', milliseconds(at), 'touched', milliseconds(now),
        'then', cmsgpack.pack(after))
    note_guess(id, math.max(now, at) + patience, patience)
end

-- Note that a join is over; return what is to be sent.
local function end_join(id, patience, failed, offset)
    local key = join_key(id)
    local packed = redis.call('HGET', key, 'then')
    local ended = string.format('%.6f', (now - offset) / 1000)
    redis.call('HSET', key, 'open', 0, 'failed', failed and 1 or 0, 'ended', ended)
    redis.call('HDEL', key, 'then')
    redis.call('PEXPIRE', key, milliseconds(patience))
    redis.call('PEXPIRE', key .. ':in', milliseconds(patience))
    redis.pcall('ZREM', JOINS, id)
    local is_read, envelopes = pcall(cmsgpack.unpack, packed)
    return is_read and type(envelopes) == 'table' and envelopes or {}
end

-- Keep the record of an arrival; return the envelopes that are to be sent because of it.
local function arrive(arrival, record, offset)
    local id, member, own, failed = unpack(arrival)
    local fields = open_fields(id, 'size', 'patience', 'until', 'guess')
    if not fields then
        return {}
    end
    local key = join_key(id) .. ':in'
    local is_there = redis.pcall('HEXISTS', key, member)
    if is_there == 1 or is_there ~= 0 and not failed then -- the key of the members may hold something else
        return {}
    end
    if failed then
        redis.call('DEL', key)
    end
    local kept = own or record
    redis.call('HSET', key, member, cmsgpack.pack({kept[1], kept[2]}))
    local patience = tonumber(fields[3]) or 0
    local count = redis.call('HLEN', key)
    if failed or count >= (tonumber(fields[2]) or 0) then
        return end_join(id, patience, failed, offset)
    end
    redis.call('HSET', join_key(id), 'touched', milliseconds(now))
    if count == 1 or now > (tonumber(fields[5]) or 0) then
        note_guess(id, math.max(now, tonumber(fields[4]) or 0) + patience, patience)
    end
    return {}
end

-- Begin the patience of a join later.
local function extend(extension, offset)
    local id, ends = unpack(extension)
    local at = ends * 1000 + offset
    local fields = open_fields(id, 'patience', 'until', 'touched')
    if fields and at > (tonumber(fields[3]) or 0) then
        local patience = tonumber(fields[2]) or 0
        redis.call('HSET', join_key(id), 'until', milliseconds(at))
        note_guess(id, math.max(at, tonumber(fields[4]) or 0) + patience, patience)
    end
end

-- Delete a join that is over when its last reader lets go of it.
local function release(id)
    local key = join_key(id)
    if redis.pcall('HGET', key, 'open') == '0' then
        local left = redis.pcall('HINCRBY', key, 'readers', -1)
        if type(left) ~= 'number' or left <= 0 then
            redis.call('DEL', key, key .. ':in')
        end
    end
end

-- Do what a finish does at joins and to keys, and add what is to be sent to `envelopes`.
local function write_joining(joining, record, envelopes, offset)
    local opened, grown, arrivals, extended, released, changes = unpack(joining)
    for _, join in ipairs(opened) do
        open_join(join, offset)
    end
    for _, growth in ipairs(grown) do
        if open_fields(growth[1]) then
            redis.pcall('HINCRBY', join_key(growth[1]), 'size', growth[2])
        end
    end
    for _, arrival in ipairs(arrivals) do
        for _, envelope in ipairs(arrive(arrival, record, offset)) do
            envelopes[#envelopes + 1] = envelope
        end
    end
    for _, extension in ipairs(extended) do
        extend(extension, offset)
    end
    for _, id in ipairs(released) do
        release(id)
    end
    for _, change in ipairs(changes) do
        keys().change_key(change)
    end
end
