-- Take messages for a consumer, at most as many as it can start.
-- ARGV: consumer, number, its place among those who wait, limit, whether a suspect may come, whether the lowest
-- priority is first, whether it will wait, lease (ms), queues in the order of their turns, whether a queue comes only
-- when those before it have nothing more.
-- RETURNS: {reads, ms until something is due or false, whether there are revocations, keys that are no queues}. A read is
-- {queue, level, entries as XREADGROUP returns them, {deaths, charges} of each entry or false}.
-- Keeps: a number that was given up (see `untake`) takes nothing; what was taken is remembered under its number.
local consumer, number, waiter, limit, suspect, upwards, waits, lease, queues, strict = unpack(args)
if number <= line_state(consumer) then
    return redis.error_reply('ERR aiotq: this read was given up by its consumer')
end
-- Entries of one read from a stream: few at first, then as many as their size allows.
local at_once = 8
local MOST_BYTES = 8 * 1024 * 1024
local reads, taken, strange = {}, {}, {}
local bytes, left = 0, limit

local function read(queue, level, count)
    local key = queue_key(queue, level)
    local reply = redis.pcall('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count, 'STREAMS', key, '>')
    if type(reply) == 'table' and reply.err then
        if string.find(reply.err, 'NOGROUP') then
            messages().begin_anew(queue, level, key)
            return read(queue, level, count)
        end
        if not string.find(reply.err, 'WRONGTYPE') then
            redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', count, 'STREAMS', key, '>')
        end
        strange[#strange + 1] = key
        return 0
    end
    if not reply then
        return 0
    end
    local found = reply[1][2]
    local deaths = (level == 'a' or level == 's') and {}
    for i, each in ipairs(found) do
        for _, text in ipairs(each[2]) do
            bytes = bytes + #text
        end
        if deaths then
            deaths[i] = {messages().deaths_of(messages().fields_of(each[2]).k or '')}
        end
    end
    reads[#reads + 1] = {queue, level, found, deaths}
    taken[#taken + 1] = {queue, level, found[1][1], found[#found][1]}
    left = left - #found
    return #found
end

local function take(queue, level, most)
    if redis.call('EXISTS', queue_key(queue, level)) == 0 then
        return
    end
    while left > 0 and bytes < MOST_BYTES do
        local count = math.min(left, most or at_once)
        if read(queue, level, count) < count or most then
            return
        end
        local average = bytes / (limit - left)
        at_once = math.max(1, math.min(256, math.floor((MOST_BYTES - bytes) / (average + 1))))
    end
end

-- Take of a priority with a lane: what waits by key and what is plain in equal parts, while both are there.
local function take_by_turns(queue, level)
    local is_plain, more = redis.call('EXISTS', queue_key(queue, level)) == 1 and type_of(queue_key(queue, level)) == 'stream', true
    local function take_fair(most)
        while more and most > 0 and left > 0 and bytes < MOST_BYTES do
            local moved
            moved, more = lanes().move_out_of_lane(queue, level, math.min(most, left, 64))
            most = most - moved
            if moved == 0 or read(queue, 'f', moved) == 0 then
                return
            end
        end
    end
    take_fair(is_plain and math.floor((left + number % 2) / 2) or left)
    if is_plain then
        take(queue, level)
        take_fair(left)
    end
end

local next_due = false
for _, queue in ipairs(queues) do
    local kind = type_of(queue_key(queue, 'delayed'))
    if kind == 'zset' then
        local is_moved = messages().move_due(queue)
        local first = is_moved and redis.call('ZRANGE', queue_key(queue, 'delayed'), 0, 0, 'WITHSCORES')[2]
        if first and (not next_due or tonumber(first) < next_due) then
            next_due = tonumber(first)
        end
    elseif kind ~= 'none' then
        strange[#strange + 1] = queue_key(queue, 'delayed')
    end
end
if suspect then
    for _, queue in ipairs(queues) do
        if #reads == 0 then
            take(queue, 's', 1)
        end
    end
end
-- Queues that have lanes -> priority -> true.
local laned = {}
for _, queue in ipairs(queues) do
    if redis.call('EXISTS', queue_key(queue, 'lanes')) == 1 and ready_to_add(queue, 'f') then
        laned[queue] = {}
        for _, priority in ipairs(lanes().lanes_of(queue)) do
            laned[queue][tonumber(priority)] = type_of(queue_key(queue, 'fair:' .. priority)) == 'zset' or nil
        end
    end
end
local function take_all(together)
    for _, queue in ipairs(together) do
        take(queue, 'a')
        if laned[queue] then
            take(queue, 'f') -- nothing, unless somebody destroyed the group
        end
    end
    for n = 0, 9 do
        for _, queue in ipairs(together) do
            if left > 0 then
                local level = upwards and n or 9 - n
                if laned[queue] and laned[queue][level] then
                    take_by_turns(queue, level)
                else
                    take(queue, level)
                end
            end
        end
    end
end

if strict then
    for _, queue in ipairs(queues) do
        take_all({queue})
    end
else
    take_all(queues)
end
if #reads > 0 then
    redis.call('SET', line_key(consumer), cmsgpack.pack({number, cmsgpack.pack(taken)}), 'PX', math.max(lease * 4, 60000))
    for _, queue in ipairs(queues) do -- it may have no room for what comes next, and whoever has is to be told of that
        redis.pcall('SREM', queue_key(queue, 'waiting'), waiter)
    end
    for queue, count in pairs(news) do
        news[queue] = count > limit and count - limit or nil
    end
    wake()
elseif waits then
    for _, queue in ipairs(queues) do
        redis.pcall('SADD', queue_key(queue, 'waiting'), waiter)
        redis.call('PEXPIRE', queue_key(queue, 'waiting'), 60000)
    end
end
return {
    reads,
    next_due and string.format('%.3f', math.max(next_due - now, 0)),
    redis.call('EXISTS', base .. ':revoked'),
    strange
}
