-- What is remembered of tasks, all of which expires. A library: every script on results includes it after `base` and `bus`.
--
-- {base}:result:{id}      string: 1 for a terminal state or 0, and the record as Python packs it
-- {base}:finished:{state}  stream of what ended so: entries as Python packs them; bounded by count and age, and expires
-- {base}:watch:{id}       set of the processes that want the records of a task whose `reply_to` is another
-- {base}:watching         string: there is anything of that kind
-- {base}:claim:{id}       hash: holder (empty: given up), ends (ms), done (packed envelopes), died (lines: holders)
-- {base}:start:{name}      string: the next free start (ms) under a rate limit
-- {base}:booked:{id}       string: the start (ms) that a message has under one
-- {base}:revoked          sorted set by the end of a revocation (ms) of ids, and of what many are called by
-- {base}:fleet            sorted set of workers by the end of their leases (ms)
-- {base}:fleet:rows       hash: what each says of itself
-- {base}:paused           hash: queues that nobody is to take from, and since when (s). Kept until somebody resumes them
-- celery-task-meta-{id}    string: the record as Celery keeps it, for those it is to see (`celery_compat`)
--
-- A record is {id, value, ends, reply_to, whether Celery is to see it, its entry in the index, if it has one}; ends in seconds since the epoch by the sender's
-- clock, which is `offset` ms behind ours.
local CLAIM_KEPT = 86400000
local CELERYS = 'celery-task-meta-'
local MOST_PUSHED = 65536

-- As Redis takes them: whole, more than none, and before the end of its clock.
local function milliseconds(ms)
    return string.format('%.0f', math.min(math.max(ms, 1), 2 ^ 52))
end

-- Process -> records on their way to it, and their bytes.
local pushes, push_bytes = {}, {}

local function push_all(process)
    tell(process, 'results', cmsgpack.pack(pushes[process]))
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

-- State -> seconds for which its entries are kept, of those that got some.
local listed = {}

-- What ended is found in an index, without which all goes on: nothing here fails a commit.
local function list_finished(state, packed, most, kept)
    redis.pcall('XADD', base .. ':finished:' .. state, 'MAXLEN', '~', most, '*', 'f', packed)
    listed[state] = kept
end

local function push_rest()
    for process in pairs(pushes) do
        push_all(process)
    end
    for state, kept in pairs(listed) do
        local key = base .. ':finished:' .. state
        redis.pcall('XTRIM', key, 'MINID', '~', milliseconds(now - kept * 1000))
        redis.call('PEXPIRE', key, milliseconds(kept * 1000))
    end
end

local is_watched = redis.call('EXISTS', base .. ':watching') == 1

-- Push a record to who asked for it and to those who watch it.
local function push_to_all(id, value, reply_to)
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

-- Store the value of a state for `life` milliseconds. False if a terminal one stands already.
local function put_value(id, value, life)
    local key = base .. ':result:' .. id
    if not redis.call('SET', key, value, 'NX', 'PX', life) then
        if redis.pcall('GETRANGE', key, 0, 0) == '1' then
            return false
        end
        redis.call('SET', key, value, 'PX', life)
    end
    return true
end

-- Store a state and push it, unless a terminal one stands already.
local function put_record(record, offset)
    local id, value, ends, reply_to, is_celerys = unpack(record)
    local entry = record[6]
    local life = milliseconds(ends * 1000 + offset - now)
    if not put_value(id, value, life) then
        return
    end
    if entry then
        list_finished(unpack(entry))
    end
    if is_celerys then
        local document = string.sub(value, string.find(value, '\n', 1, true) + 1)
        redis.call('SET', CELERYS .. id, document, 'PX', life)
        redis.call('PUBLISH', CELERYS .. id, document)
    end
    push_to_all(id, value, reply_to)
end
