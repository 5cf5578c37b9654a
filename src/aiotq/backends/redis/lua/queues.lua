-- Where messages are, and what is done with every one of them. A library: every script on queues includes it after `base`.
--
-- {base}:queues                 set of the names of queues
-- {base}:ids                    hash: id of a message -> where it is, "level entry queue", "delayed due queue" or
--                               "fair priority queue"
-- {base}:q:{queue}:{level}      stream, one for each priority 0 to 9: field m is the packed message
-- {base}:q:{queue}:a, :s        streams of what was given back and of suspects: m, k id, p priority, n returns, t since
-- {base}:q:{queue}:f            stream of what was taken out of lanes (see `lanes`)
-- {base}:q:{queue}:delayed      sorted set by due time (ms) of packed {k, p, n, m}
-- {base}:q:{queue}:waiting      set of the consumers that wait for news, process/mark
-- {base}:q:{queue}:dead         stream of dead letters
-- {base}:deaths:{id}            hash: deaths and charges of a message whose holder died
-- {base}:blames:{consumer}      hash: id -> 1 if it was charged, for what a consumer was thought to have died with
--
-- An entry's number is its lease: an entry that is pending is held, by whoever got it. Given back, a message becomes
-- another entry, so an old holder finds nothing.
local GROUP = 'aiotq'
local IDS = base .. ':ids'

local function queue_key(queue, what)
    return base .. ':q:' .. queue .. ':' .. what
end

-- Streams that are known to be there, for the life of one script; false for a key that is no stream.
local checked = {}

local function type_of(key)
    return redis.call('TYPE', key).ok
end

-- Whether the stream can be written to: it is there, or is made now.
local function ready_to_add(queue, level)
    local key = queue_key(queue, level)
    if checked[key] == nil then
        local kind = type_of(key)
        if kind == 'none' then
            redis.call('XGROUP', 'CREATE', key, GROUP, '0', 'MKSTREAM')
            redis.call('SADD', base .. ':queues', queue)
        end
        checked[key] = kind == 'none' or kind == 'stream'
    end
    return checked[key]
end

-- News for those who wait: queue -> number of messages that came.
local news = {}

-- The process of one that waits: its news go there.
local function process_of(waiter)
    return string.match(waiter, '^[^/]*')
end

-- Wake a waiting consumer for each message that came, first those whose connection is there.
local function wake()
    for queue, count in pairs(news) do
        local waiting = queue_key(queue, 'waiting')
        while count > 0 do
            local waiter = redis.pcall('SPOP', waiting)
            if not waiter or waiter.err then
                break
            end
            if tell(process_of(waiter), 'woken', '') > 0 then
                count = count - 1
            end
        end
    end
    news = {}
end

-- What was acknowledged and is still to be deleted: stream -> entries, and the ids of messages. Many at once take a
-- fraction of the time of one after the other.
local acknowledged, forgotten = {}, {}

local function acknowledge(key, id, message_id)
    local entries = acknowledged[key]
    if not entries then
        entries = {}
        acknowledged[key] = entries
    end
    entries[#entries + 1] = id
    if message_id ~= '' then
        forgotten[#forgotten + 1] = message_id
    end
end

local function delete_acknowledged()
    for key, entries in pairs(acknowledged) do
        in_chunks('XDEL', key, entries)
    end
    in_chunks('HDEL', IDS, forgotten)
    acknowledged, forgotten = {}, {}
end

-- Whether an entry was held until now. What is not pending can't be acknowledged: this is the fence, and the first write.
local function was_held(key, id)
    local answer = redis.pcall('XACK', key, GROUP, id)
    if type(answer) == 'table' and not string.find(answer.err, 'WRONGTYPE') then
        redis.call('XACK', key, GROUP, id) -- the reason is none of the lease's: the caller is to hear it
    end
    return answer == 1
end
