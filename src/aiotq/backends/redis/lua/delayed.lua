-- What waits in a queue for its due time, the first to be due in front.
-- ARGV: queue, most.
-- RETURNS: {{priority, blob, due (ms, as text)}, …}.
-- Keeps: it writes nothing.
local queue, most = unpack(args)
local found = {}
local key = queue_key(queue, 'delayed')
if type_of(key) == 'zset' then
    local from = string.format('(%.3f', now)
    local all = redis.call('ZRANGEBYSCORE', key, from, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
    for at = 1, #all, 2 do
        local fields = delayed_fields(all[at])
        found[#found + 1] = {fields[2], fields[4], all[at + 1]}
    end
end
return found
