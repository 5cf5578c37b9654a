-- What is ready in a queue, or due there, and nobody has taken; of a priority first what waits by key.
-- ARGV: queue, most.
-- RETURNS: {{priority, blob}, …}.
-- Keeps: it writes nothing.
local queue, most = unpack(args)
local LEVELS = {'s', 'a', 'f', 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}
local found = {}
for _, level in ipairs(LEVELS) do
    local key = queue_key(queue, level)
    local lane = type(level) == 'number' and queue_key(queue, 'fair:' .. level)
    if lane and #found < most and type_of(lane) == 'zset' then
        for _, member in ipairs(redis.call('ZRANGE', lane, 0, most - #found - 1)) do
            found[#found + 1] = {level, cmsgpack.unpack(member)[3]}
        end
    end
    if #found < most and type_of(key) == 'stream' then
        local from = '-'
        for _, group in ipairs(redis.call('XINFO', 'GROUPS', key)) do
            local about = fields_of(group)
            if about.name == GROUP then from = '(' .. about['last-delivered-id'] end
        end
        for _, each in ipairs(redis.call('XRANGE', key, from, '+', 'COUNT', most - #found)) do
            local fields = fields_of(each[2])
            if fields.m then found[#found + 1] = {priority_of(tonumber(level) or fields.p), fields.m} end
        end
    end
end
local set = queue_key(queue, 'delayed')
if #found < most and type_of(set) == 'zset' then
    local due = redis.call('ZRANGEBYSCORE', set, '-inf', string.format('%.3f', now), 'LIMIT', 0, most - #found)
    for _, member in ipairs(due) do
        local fields = delayed_fields(member)
        found[#found + 1] = {fields[2], fields[4]}
    end
end
return found
