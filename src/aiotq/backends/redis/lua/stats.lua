-- What stands in queues.
-- ARGV: queues (all that are known if empty), retention of dead letters (ms).
-- RETURNS: for each {name, ready, leased, delayed, dead, age of the oldest that is ready (ms) or false}.
local wanted, retention = unpack(args)
if #wanted == 0 then
    wanted = redis.call('SMEMBERS', base .. ':queues')
end
local LEVELS = {'s', 'a', 'f', 9, 8, 7, 6, 5, 4, 3, 2, 1, 0}
local answers = {}
for i, queue in ipairs(wanted) do
    local ready, leased, delayed, dead, oldest = 0, 0, 0, 0, false
    for _, level in ipairs(LEVELS) do
        local key = queue_key(queue, level)
        if type_of(key) == 'stream' then
            local pending = redis.pcall('XPENDING', key, GROUP)
            local held = pending.err and 0 or pending[1]
            local waiting = redis.call('XLEN', key) - held
            ready, leased = ready + waiting, leased + held
            if waiting > 0 then
                local groups = redis.call('XINFO', 'GROUPS', key)
                local last = '-'
                for _, group in ipairs(groups) do
                    local fields = fields_of(group)
                    if fields.name == GROUP then
                        last = '(' .. fields['last-delivered-id']
                    end
                end
                local first = redis.call('XRANGE', key, last, '+', 'COUNT', 1)[1]
                local since = first and (tonumber(fields_of(first[2]).t or '') or tonumber(string.match(first[1], '^%d+')))
                if since and (not oldest or since < oldest) then
                    oldest = since
                end
            end
        end
    end
    for _, priority in ipairs(lanes().lanes_of(queue)) do
        local lane = queue_key(queue, 'fair:' .. priority)
        if type_of(lane) == 'zset' then
            ready = ready + redis.call('ZCARD', lane)
            local first = redis.call('ZRANGE', lane, 0, 0)[1]
            local since = first and cmsgpack.unpack(first)[2]
            oldest = since and (oldest and math.min(oldest, since) or since) or oldest
        end
    end
    local set = queue_key(queue, 'delayed')
    if type_of(set) == 'zset' then
        local due = redis.call('ZCOUNT', set, '-inf', string.format('%.3f', now))
        delayed, ready = redis.call('ZCARD', set) - due, ready + due
        if due > 0 then
            local since = tonumber(redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2])
            oldest = oldest and math.min(oldest, since) or since
        end
    end
    local letters = queue_key(queue, 'dead')
    if type_of(letters) == 'stream' then
        redis.call('XTRIM', letters, 'MINID', string.format('%.0f', math.max(now - retention, 0)))
        dead = redis.call('XLEN', letters)
    end
    answers[i] = {queue, ready, leased, delayed, dead, oldest and string.format('%.0f', math.max(now - oldest, 0))}
end
return answers
