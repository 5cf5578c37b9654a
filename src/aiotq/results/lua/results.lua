-- What is remembered of tasks, all of which expires. A library: every script on results includes it after `base`.
--
-- {base}:result:{id}      string: 1 for a terminal state or 0, and the record as Python packs it
-- {base}:watch:{id}       set of the processes that want the records of a task whose `reply_to` is another
-- {base}:watching         string: there is anything of that kind
-- {base}:join:{id}        hash: size, count, open, then, otherwise (packed envelopes)
-- {base}:join:{id}:in     bitmap of the indexes that arrived
-- {base}:claim:{id}       hash: holder, ends (ms), done (packed envelopes)
-- {base}:start:{name}      string: the next free start (ms) under a rate limit
-- {base}:booked:{id}       string: the start (ms) that a message has under one
-- {base}:revoked          sorted set of ids by the end of their revocation (ms)
--
-- A record is {id, value, ends, reply_to}, a join {id, size, then, otherwise, ends}, an arrival {join, index, failed};
-- ends in seconds since the epoch by the sender's clock, which is `offset` ms behind ours.
local CLAIM_KEPT = 86400000
local MOST_PUSHED = 65536

-- As Redis takes them: whole, in the future, and before the end of its clock.
local function milliseconds(ms)
    return string.format('%.0f', math.min(math.max(ms, 1), 2 ^ 53))
end

-- Process -> records on their way to it, and their bytes.
local pushes, push_bytes = {}, {}

local function push_all(process)
    redis.call('PUBLISH', base .. ':to:' .. process, 'r' .. cmsgpack.pack(pushes[process]))
    pushes[process], push_bytes[process] = nil, nil
end

local function push(process, id, value)
    local list = pushes[process]
    if not list then
        list, push_bytes[process] = {}, 0
        pushes[process] = list
    end
    list[#list + 1] = id
    list[#list + 1] = #value <= MOST_PUSHED and value or '' -- too large for a push: to be read
    push_bytes[process] = push_bytes[process] + #list[#list]
    if push_bytes[process] > MOST_PUSHED then
        push_all(process)
    end
end

local function push_rest()
    for process in pairs(pushes) do
        push_all(process)
    end
end

local is_watched = redis.call('EXISTS', base .. ':watching') == 1

-- Store a state and push it, unless a terminal one stands already.
local function put_record(record, offset)
    local id, value, ends, reply_to = unpack(record)
    local key = base .. ':result:' .. id
    local at = milliseconds(ends * 1000 + offset)
    if not redis.call('SET', key, value, 'NX', 'PXAT', at) then
        if redis.pcall('GETRANGE', key, 0, 0) == '1' then
            return
        end
        redis.call('SET', key, value, 'PXAT', at)
    end
    if reply_to then
        push(reply_to, id, value)
    end
    if is_watched then
        for _, process in ipairs(redis.pcall('SMEMBERS', base .. ':watch:' .. id)) do
            if process ~= reply_to then
                push(process, id, value)
            end
        end
    end
end

-- Create a join; one that exists stays as it is.
local function open_join(join, offset)
    local id, size, after, otherwise, ends = unpack(join)
    local key = base .. ':join:' .. id
    if redis.call('EXISTS', key) == 0 then
        redis.call('HSET', key, 'size', size, 'count', 0, 'open', 1)
        redis.call('HSET', key, 'then', cmsgpack.pack(after), 'otherwise', cmsgpack.pack(otherwise))
        redis.call('PEXPIREAT', key, milliseconds(ends * 1000 + offset))
    end
end

-- Count an arrival; return the envelopes that are to be sent because of it.
local function arrive(arrival)
    local id, index, failed = unpack(arrival)
    local key = base .. ':join:' .. id
    local state = redis.pcall('HMGET', key, 'open', 'size')
    if state.err or state[1] ~= '1' then
        return {}
    end
    local what = 'otherwise'
    if not failed then
        if redis.pcall('SETBIT', key .. ':in', index, 1) ~= 0 then
            return {}
        end
        local count = redis.call('HINCRBY', key, 'count', 1)
        if count == 1 then
            redis.call('PEXPIRE', key .. ':in', milliseconds(redis.call('PTTL', key)))
        end
        if count < tonumber(state[2]) then
            return {}
        end
        what = 'then'
    end
    local envelopes = cmsgpack.unpack(redis.call('HGET', key, what))
    redis.call('HSET', key, 'open', 0)
    redis.call('HDEL', key, 'then', 'otherwise')
    redis.call('DEL', key .. ':in')
    return envelopes
end

-- Write what came of one run; return all that is to be sent now.
local function write_outcome(record, arrivals, joins, envelopes, offset)
    for _, join in ipairs(joins) do
        open_join(join, offset)
    end
    if record then
        put_record(record, offset)
    end
    for _, arrival in ipairs(arrivals) do
        for _, envelope in ipairs(arrive(arrival)) do
            envelopes[#envelopes + 1] = envelope
        end
    end
    return envelopes
end
